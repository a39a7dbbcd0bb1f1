"""A run in numbers: from the pictures' scores to summary.json and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any


def summarize(scores: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json.

    Attention IoU is the mean over all nouns of all pictures, PSNR and seconds over pictures; None
    where there is nothing to take a mean of.

    Args:
        scores: one entry per finished picture.
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
        "psnr_vae": over_images("psnr_vae"),
        "seconds_per_image": over_images("seconds"),
        "images": list(scores),
    }


def table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Summaries as a Markdown table, one row each."""
    columns = {
        "method": ("method", "{}"),
        "prior": ("prior", "{}"),
        "images": ("num_images", "{}"),
        "IoU, plain DDIM": ("attention_iou_initial", "{:.3f}"),
        "IoU": ("attention_iou", "{:.3f}"),
        "PSNR [dB]": ("psnr", "{:.2f}"),
        "VAE ceiling [dB]": ("psnr_vae", "{:.2f}"),
        "s / image": ("seconds_per_image", "{:.1f}"),
    }
    rows = [list(columns)] + [
        ["-" if s[key] is None else form.format(s[key]) for key, form in columns.values()] for s in summaries
    ]
    widths = [max(len(row[c]) for row in rows) for c in range(len(columns))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
