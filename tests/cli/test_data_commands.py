"""``locinv data check``, ``preview`` and ``build-coco-edit``, by the command line's own entrance."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from locinv_pl.cli.main import main
from locinv_pl.datamodules.scenes import write_scenes

SIZE = (90, 60)  # w x h


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images of one's own: a good one, one whose noun is not in its prompt, a truncated one."""
    root = tmp_path / "mine"
    root.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
    for name in ("good", "wrong", "cut"):
        Image.fromarray(noise).save(root / f"{name}.png")
    content = (root / "cut.png").read_bytes()
    (root / "cut.png").write_bytes(content[: len(content) // 2])
    mask = np.zeros(SIZE[::-1], dtype=np.uint8)
    mask[10:40, 20:50] = 255
    Image.fromarray(mask).save(root / "mask.png")
    rows: list[dict[str, Any]] = [
        {"image": "good.png", "prompt": "a red cat, a cat", "priors": {"cat": "mask.png"}, "edits": ["a dog, a cat"]},
        {"image": "wrong.png", "prompt": "a cat", "priors": {"dog": [1, 1, 9, 9]}},
        {"image": "cut.png", "prompt": "a cat", "priors": {"cat": [20, 20, 30, 30]}},
    ]
    (root / "samples.yaml").write_text(yaml.safe_dump(rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["locinv"])
    return root


def run(*words: str) -> int | str | None:
    """The exit code, or the line that the program ends with."""
    try:
        main(["data", *words])
    except SystemExit as end:
        return end.code
    return 0


def test_check_names_every_problem(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "data=folder", f"data.root={images}", "--json", "found.json") == 1
    found = json.loads(Path("found.json").read_text())
    assert (found["images"], found["samples"]) == (3, 1)
    problems = {row["id"]: row["problem"] for row in found["problems"]}
    assert "'dog' is not in the prompt 'a cat'" in problems["wrong"]
    assert "cut.png: cannot be read as an image" in problems["cut"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "3 images, 1 samples, 2 problems" and len(lines) == 3


def test_check_of_sound_data_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenes(Path("scenes"), num_images=3, size=64)
    assert run("check", "data=coco_edit", "data.root=scenes", "data.categories=all", "json=found.json") == 0
    assert json.loads(Path("found.json").read_text()) == {"images": 3, "samples": 3, "problems": []}


def test_check_holds_prompts_against_the_backbone(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "a cat " + "and another one " * 9
    rows = [
        {"id": "prompt", "image": "good.png", "prompt": long, "priors": {}},
        {"id": "edit", "image": "good.png", "prompt": "a cat", "priors": {}, "edits": ["a dog", long]},
    ]
    (images / "samples.yaml").write_text(yaml.safe_dump(rows))
    for words in ((), ("backbone=embedded",)):
        assert run("check", "data=folder", f"data.root={images}", *words) == 1
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(":")[0] for line in lines[:-1]] == ["prompt", "edit"]
        assert all("the text encoder takes 24" in line for line in lines[:-1])


BIG, SMALL = (0, 0, *SIZE), (10, 10, 40, 40)


@pytest.mark.parametrize(
    ("prior", "says"),
    [
        ([10, 10, 50, 50], "its box [10, 10, 50, 50] would fit better as corners"),
        ([0, 0, 90, 60], "covers all of the image"),
        ((0, 255, BIG), "has one value, 255"),
        ((255, 0, SMALL), "is it inverted"),
        ((0, 255, SMALL), None),
        ([20, 10, 15, 30], None),
    ],
)
def test_check_notes_what_is_probably_meant_otherwise(
    prior: Any, says: str | None, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if isinstance(prior, tuple):
        outside, inside, (x, y, x2, y2) = prior
        mask = np.full(SIZE[::-1], outside, dtype=np.uint8)
        mask[y:y2, x:x2] = inside
        Image.fromarray(mask).save(images / "m.png")
        prior = "m.png"
    rows = [{"image": "good.png", "prompt": "a cat", "priors": {"cat": prior}}]
    (images / "samples.yaml").write_text(yaml.safe_dump(rows))
    assert run("check", "data=folder", f"data.root={images}", "data.fit=pad", "json=found.json") == 0
    notes = [row["note"] for row in json.loads(Path("found.json").read_text()).get("notes", [])]
    assert bool(notes) == (says is not None) and (says is None or any(says in note for note in notes)), notes
    assert capsys.readouterr().out.count("note good: cat: ") == len(notes)


def test_check_notes_weights_in_brackets(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edits = ["a (red:1.5) cat", "a [red] cat"]
    rows = [{"image": "good.png", "prompt": "a cat", "priors": {}, "edits": edits}]
    (images / "samples.yaml").write_text(yaml.safe_dump(rows))
    assert run("check", "data=folder", f"data.root={images}") == 0
    told = capsys.readouterr().out
    assert "'a red cat' has a weight in brackets: attention to 'red' times 1.5" in told
    assert "'a [red] cat' has brackets, '[red]', which count as words" in told


@pytest.mark.parametrize(("fit", "size"), [("crop", (128, 128)), ("pad", (128, 128)), ("native", (192, 128))])
def test_preview_draws_samples_and_priors(fit: str, size: tuple[int, int], images: Path) -> None:
    assert run("preview", f"data.root={images}", "data=folder", f"data.fit={fit}", "output=seen") == 0
    assert sorted(path.name for path in Path("seen").iterdir()) == [
        "contact_sheet.png",
        "good.cat-2.png",
        "good.cat.png",
        "good.png",
    ]
    with Image.open("seen/good.cat.png") as prior:
        assert prior.size == size and prior.mode == "L"
        values = np.asarray(prior)
    assert values.max() == 255 and values.min() == 0
    scale = {"crop": 128 / 60, "pad": 128 / 90, "native": 128 / 60}[fit]
    assert (values / 255).sum() == pytest.approx(30 * 30 * scale**2, rel=0.01)
    with Image.open("seen/good.png") as drawing:
        assert drawing.width > 3 * size[0] and drawing.height > 128


def test_preview_of_nothing_usable(images: Path) -> None:
    (images / "samples.yaml").write_text(yaml.safe_dump([{"image": "gone.png", "prompt": "a cat", "priors": {}}]))
    code = run("preview", "data=folder", f"data.root={images}", "output=seen")
    assert "no sample to draw; locinv data check says why" in str(code)


def test_build_coco_edit_writes_what_data_manifest_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenes(Path("scenes"), num_images=8, size=64)
    words = ("data.root=scenes", "data.categories=all", "data.num_images=5")
    assert run("build-coco-edit", *words, "output=chosen.json") == 0
    assert len(json.loads(Path("chosen.json").read_text())["images"]) == 5
    assert run("check", "data=coco_edit", "data.root=scenes", "data.manifest=chosen.json", "json=found.json") == 0
    assert json.loads(Path("found.json").read_text())["samples"] == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "data : no such command; use data check or preview or build-coco-edit"),
        (("chek",), "data chek: no such command"),
        (("check", "data=nothing"), "data=nothing: no such config; use one of"),
        (("check", "data=folder", "data.root=gone"), "gone: no such folder"),
        (("check", "data=folder", "data.foo=1"), "foo"),
        (("check", "data=coco_edit", "data.root=gone"), "gone: no such folder"),
        (("check", "data=pie_bench", "data.root=gone"), "gone: no such folder"),
        (("check", "data=scenes", "prior=mask"), "prior"),
        (("check", "data=scenes", "data.fit=stretch"), "fit"),
        (("preview", "data=scenes"), "output"),
        (("build-coco-edit", "data=scenes"), "data build-coco-edit: takes data=coco_edit, not scenes"),
    ],
)
def test_refusals(words: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = run(*words)
    assert isinstance(code, str) and says in code and "\n" not in code
