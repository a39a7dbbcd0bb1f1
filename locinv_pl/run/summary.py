"""A run in numbers: from the images' scores to summary.json and a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from locinv_pl.errors import printable
from locinv_pl.measures.display import MEASURES


@with_config(ConfigDict(extra="allow"))
class Summary(TypedDict):
    """The content of summary.json, as far as :func:`runs_table` shows it."""

    method: str
    prior: str | None
    num_images: int
    attention_iou_initial: float | None
    attention_iou: float | None
    psnr: float | None
    psnr_vae: float | None
    seconds_per_image: float | None


def summarize(scores: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json.

    Attention IoU is the mean over all nouns of all images, PSNR, SSIM and seconds over images; None
    where there is nothing to take a mean of.

    Args:
        scores: one entry per finished image.
        settings: of the run.
    """

    def over_nouns(key: str) -> float | None:
        return _mean([value for score in scores for value in score[key]])

    def over_images(key: str) -> float | None:
        return _mean([score[key] for score in scores])

    return {
        "method": settings["method"]["name"],
        "prior": settings["data"].get("prior"),
        "backbone": settings["backbone"],
        "num_images": len(scores),
        "num_steps": settings["num_steps"],
        "attention_iou_initial": over_nouns("iou_initial"),
        "attention_iou": over_nouns("iou"),
        "psnr": over_images("psnr"),
        "ssim": over_images("ssim"),
        "psnr_vae": over_images("psnr_vae"),
        "seconds_per_image": over_images("seconds"),
        "images": list(scores),
    }


def summarize_edits(
    scores: Sequence[Mapping[str, Any]], inversions: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of test.json.

    Means of measures are over edits, all together and kind by kind, and leave out edits that have none;
    attention IoU is as in summary.json, of the same images.

    Args:
        scores: one entry per image, with its "reconstruction" and its "edits".
        inversions: the scores of the run's inversions.
        settings: of the run, with those of editing and measuring in "edit" and "measures".
    """
    ids, edits = {score["id"] for score in scores}, [edit for score in scores for edit in score["edits"]]
    run = summarize([score for score in inversions if score["id"] in ids], settings)
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for edit in edits:
        by_kind.setdefault(edit["kind"], []).append(edit)
    return {
        **{key: run[key] for key in ("method", "prior", "backbone")},
        "num_images": len(scores),
        **{key: run[key] for key in ("num_steps", "attention_iou")},
        "reconstruction": {
            name: _mean(score["reconstruction"].get(name) for score in scores)
            for name in (scores[0]["reconstruction"] if scores else ())
        },
        "edit": settings["edit"],
        "measures": settings["measures"],
        "mean": _mean_edit(edits),
        "kinds": {kind: _mean_edit(some) for kind, some in sorted(by_kind.items())},
        "images": list(scores),
    }


def _mean_edit(edits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = [name for edit in edits[:1] for name in edit if name not in ("kind", "prompt", "file")]
    means = {name: _mean(edit.get(name) for edit in edits) for name in names}
    return {"num_edits": len(edits), **means}


def edits_table(summary: Mapping[str, Any]) -> str:
    """The means of the edits as a Markdown table, a row for each kind of edit and one for all.

    Args:
        summary: as :func:`summarize_edits` makes it.
    """
    measures = [measure for key, measure in MEASURES.items() if key in summary["mean"]]
    rows = [["kind", "edits", *(measure.title for measure in measures)]]
    for kind, means in {**summary["kinds"], "all": summary["mean"]}.items():
        rows.append([kind, str(means["num_edits"]), *(measure.cell(means[measure.key]) for measure in measures)])
    return markdown_table(rows)


def runs_table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Runs as a Markdown table, one row each.

    Args:
        summaries: as :func:`summarize` makes them.
    """
    keys = ("attention_iou_initial", "attention_iou", "psnr", "psnr_vae", "seconds_per_image")
    measures = [MEASURES[key] for key in keys]
    rows = [["method", "prior", "images", *(measure.title for measure in measures)]]
    for summary in summaries:
        about = [summary["method"], summary["prior"] or "-", str(summary["num_images"])]
        rows.append([*about, *(measure.cell(summary[measure.key]) for measure in measures)])
    return markdown_table(rows)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table whose columns line up.

    Args:
        rows: rows of cells, the first of them the titles.

    >>> print(markdown_table([["method", "IoU"], ["ddim", "0.3"]]))
    | method | IoU |
    |--------|-----|
    | ddim   | 0.3 |
    """
    rows = [[printable(cell).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are known."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
