"""How measures are shown: once each, on one scale everywhere."""

from __future__ import annotations

import pytest

from locinv_pl.comparison.statistics import COMPARED
from locinv_pl.comparison.tables import to_markdown
from locinv_pl.measures.display import MEASURES
from locinv_pl.run.summary import edits_table, runs_table


def cells(table: str) -> list[list[str]]:
    lines = table.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


def test_every_compared_measure_is_listed() -> None:
    assert set(COMPARED) <= set(MEASURES) and all(key == measure.key for key, measure in MEASURES.items())
    titles = [measure.title for measure in MEASURES.values()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(
    ("key", "title", "cell"),
    [
        ("background_ssim", "background SSIM × 10²", "94.58"),
        ("structure_distance", "structure × 10³", "945.80"),
        ("background_mse", "background MSE × 10⁴", "9458.00"),
        ("attention_iou", "IoU", "0.946"),
        ("background_psnr", "background PSNR [dB]", "0.95"),
        ("seconds_per_image", "s / image", "0.9"),
    ],
)
def test_titles_and_cells(key: str, title: str, cell: str) -> None:
    assert (MEASURES[key].title, MEASURES[key].cell(0.9458)) == (title, cell)


def test_a_run_and_a_comparison_show_the_same() -> None:
    """The tables of test.json and of comparison.json have equal columns for equal measures."""
    means = {"background_ssim": 0.9458, "background_psnr": 28.106, "structure_distance": 0.01165, "success": None}
    summary = {"kinds": {"word_swap": {"num_edits": 2, **means}}, "mean": {"num_edits": 3, **means}}
    head, kind, every = cells(edits_table(summary))
    assert (kind[:2], every[:2]) == (["word_swap", "2"], ["all", "3"]) and kind[2:] == every[2:]
    row = {key: means.get(key) for key in COMPARED} | {f"{key}_ci95": None for key in COMPARED}
    row |= {"method": "nti", "prior": None, "paired": {}, "kinds": {}}
    titles, values = cells(to_markdown({"rows": [row], "reference": None}))
    shown = dict(zip(head[2:], every[2:], strict=True))
    assert shown["background SSIM × 10²"] == "94.58" and shown["success"] == "-"
    assert dict(zip(titles[2:], values[2:], strict=True)).items() < shown.items()


def test_the_table_of_runs() -> None:
    summary = {"method": "locinv", "prior": None, "num_images": 2, "attention_iou_initial": None}
    summary |= {"attention_iou": 0.5104, "psnr": 30.456, "psnr_vae": 31.0, "seconds_per_image": 12.34}
    head, row = cells(runs_table([summary]))
    assert head == [
        *("method", "prior", "images", "IoU, plain DDIM", "IoU", "PSNR [dB]", "VAE ceiling [dB]", "s / image"),
    ]
    assert row == ["locinv", "-", "2", "-", "0.510", "30.46", "31.00", "12.3"]
