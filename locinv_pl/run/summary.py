"""A run in numbers: from the images' scores to summary.json and a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import fsum
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


class Mean:
    """A mean whose numbers pass by once, in any number: that of :func:`statistics.fmean`, to the last bit.

    Shewchuk, "Adaptive precision floating-point arithmetic" (1997): a sum is kept without error as a few numbers that
    don't overlap, and rounded once, at its end.

    >>> mean = Mean()
    >>> for value in (1e100, 1.0, None, -1e100):
    ...     mean.add(value)
    >>> mean.count, mean.value
    (3, 0.3333333333333333)
    """

    def __init__(self) -> None:
        self.count, self._parts = 0, [0.0]

    def add(self, value: float | None) -> None:
        """Take a number; None, what isn't known, is left out."""
        if value is None:
            return
        self.count += 1
        sum, kept = float(value), []
        for part in self._parts:
            large, small = (sum, part) if abs(sum) >= abs(part) else (part, sum)
            sum = large + small
            if rest := small - (sum - large):
                kept.append(rest)
        self._parts = [*kept, sum]

    @property
    def value(self) -> float | None:
        """The mean of what has been taken; None of nothing."""
        return fsum(self._parts) / self.count if self.count else None


class Means(defaultdict[str, Mean]):
    """Means by name."""

    def __init__(self) -> None:
        super().__init__(Mean)

    def of(self, name: str) -> float | None:
        """A mean's value; None where nothing has been taken."""
        return self[name].value


def summarize(scores: Iterable[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json, all but the images.

    Attention IoU is the mean over all nouns of all images, PSNR, SSIM and seconds over images; None
    where there is nothing to take a mean of. The scores pass by once, and none is kept.

    Args:
        scores: one entry per finished image.
        settings: of the run.
    """
    means, num_images = Means(), 0
    for score in scores:
        num_images += 1
        for key in ("psnr", "ssim", "psnr_vae", "seconds"):
            means[key].add(score[key])
        for key in ("iou_initial", "iou"):
            for value in score[key]:
                means[key].add(value)
    return {
        **_about(settings, num_images),
        "attention_iou_initial": means.of("iou_initial"),
        "attention_iou": means.of("iou"),
        "psnr": means.of("psnr"),
        "ssim": means.of("ssim"),
        "psnr_vae": means.of("psnr_vae"),
        "seconds_per_image": means.of("seconds"),
    }


def summarize_edits(
    scores: Iterable[Mapping[str, Any]],
    inversion: Callable[[str], Mapping[str, Any] | None],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of test.json, all but the images.

    Means of measures are over edits, all together and kind by kind, and leave out edits that have none;
    attention IoU is as in summary.json, of the same images. The scores pass by once, and none is kept.

    Args:
        scores: one entry per image, with its "reconstruction" and its "edits".
        inversion: answers the scores of an image's inversion, by id; None where it has none.
        settings: of the run, with those of editing and measuring in "edit" and "measures".
    """
    iou, back = Mean(), Means()
    every, kinds = EditMeans(), defaultdict[str, EditMeans](EditMeans)
    measures: list[str] = []
    num_images = 0
    for score in scores:
        measures = measures if num_images else [*score["reconstruction"]]
        num_images += 1
        for name in measures:
            back[name].add(score["reconstruction"].get(name))
        for value in (inversion(score["id"]) or {"iou": ()})["iou"]:
            iou.add(value)
        for edit in score["edits"]:
            every.add(edit)
            kinds[edit["kind"]].add(edit)
    return {
        **_about(settings, num_images),
        "attention_iou": iou.value,
        "reconstruction": {name: back.of(name) for name in measures},
        "edit": settings["edit"],
        "measures": settings["measures"],
        "mean": every.to_dict(),
        "kinds": {kind: means.to_dict() for kind, means in sorted(kinds.items())},
    }


def _about(settings: Mapping[str, Any], num_images: int) -> dict[str, Any]:
    """What a summary begins with: how the run is made, and of how many images."""
    return {
        "method": settings["method"]["name"],
        "prior": settings["data"].get("prior"),
        "backbone": settings["backbone"],
        "num_images": num_images,
        "num_steps": settings["num_steps"],
    }


class EditMeans:
    """How many edits there are, and the means of the measures that the first of them has."""

    def __init__(self) -> None:
        self.count, self._names, self._means = 0, list[str](), Means()

    def add(self, edit: Mapping[str, Any]) -> None:
        """Take an edit's scores."""
        self._names = self._names if self.count else [name for name in edit if name not in ("kind", "prompt", "file")]
        self.count += 1
        for name in self._names:
            self._means[name].add(edit.get(name))

    def to_dict(self) -> dict[str, Any]:
        """The number and the means as plain values."""
        return {"num_edits": self.count, **{name: self._means.of(name) for name in self._names}}


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
