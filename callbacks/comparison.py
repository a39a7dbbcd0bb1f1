"""What a comparison looks like: methods side by side, their IoU over the timesteps, what a varied value does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from locinv_pl.callbacks.figures import tile_row
from locinv_pl.callbacks.report import open_image
from locinv_pl.comparison.runs import Comparison, Variant
from locinv_pl.drawing import COLORS, stack_strips, to_png
from locinv_pl.io.files import write_atomically
from locinv_pl.measures.display import MEASURES


def draw(comparison: Comparison, content: dict[str, Any], images: int = 6) -> list[Path]:
    """Draw the curves, the ablation and the sheet, each where the comparison has its numbers; returns the files.

    Args:
        comparison: a comparison whose methods have all been run.
        content: what its comparison.json holds: "rows" with a summary for each method and edit setting.
        images: the number of images on the sheet at most, 0 or more; 6 by default.
    """
    figures: dict[str, Figure | Image.Image] = {}
    curves = {row["method"]: row["iou_curve"] for row in content["rows"] if row["iou_curve"] and not row["edit"]}
    if curves and not comparison.vary:
        figures["iou_curves.png"] = iou_curves(curves)
    if comparison.vary:
        figures["ablation.png"] = ablation([row for row in content["rows"] if row["vary"]])
    if comparison.edits and (rows := sheet_rows(comparison, images)):
        figures["sheet.png"] = stack_strips(rows)
    for name, figure in figures.items():
        write_atomically(comparison.output / name, to_png(figure, dpi=130))
    return [comparison.output / name for name in figures]


def iou_curves(curves: dict[str, list[float]]) -> Figure:
    """Mean attention IoU at every step, a line for each method (LocInv's figure 3, column 4)."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    for n, (label, curve) in enumerate(curves.items()):
        line = "-" if n < len(COLORS) else "--"
        mean = MEASURES["attention_iou"].caption(float(np.mean(curve)))
        axes.plot(curve, label=f"{label} (mean {mean})", color=COLORS[n % len(COLORS)], linestyle=line)
    axes.set_xlabel("step (0 = noisiest)")
    axes.set_ylabel("attention IoU, mean over nouns")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def ablation(rows: Sequence[dict[str, Any]]) -> Figure:
    """Attention IoU and PSNR over the values of every key that varies (LocInv's figure 3, columns 1 to 3)."""
    keys = list(dict.fromkeys(row["vary"][0] for row in rows))
    names = list(dict.fromkeys((row["name"], row["prior"]) for row in rows))
    figure = Figure(figsize=(3.6 * len(keys), 3.2), layout="constrained")
    for column, axes in enumerate(np.ravel(figure.subplots(1, len(keys), squeeze=False, sharey=True))):
        right = axes.twinx()
        for n, name in enumerate(names):
            chosen = [row for row in rows if row["vary"][0] == keys[column] and (row["name"], row["prior"]) == name]
            x = [row["vary"][1] for row in chosen]
            low, high = np.array([row["attention_iou_ci95"] or [np.nan] * 2 for row in chosen]).T
            label = " ".join(filter(None, name))
            axes.plot(x, [row["attention_iou"] for row in chosen], "o-", color=COLORS[n], label=label)
            axes.fill_between(x, low, high, color=COLORS[n], alpha=0.15)
            right.plot(x, [row["psnr"] for row in chosen], "s:", color=COLORS[n], markersize=4)
        axes.set_title(keys[column].removeprefix("method.tokens."), fontsize=9)
        axes.set_ylabel("attention IoU (line)" if column == 0 else "")
        right.set_ylabel(f"{MEASURES['psnr'].title} (dotted)" if column == len(keys) - 1 else "")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="lower right")
    return figure


def sheet_rows(comparison: Comparison, images: int) -> list[Image.Image]:
    """For every edit of the first images a line: the source, and what each method made of it (LocInv's figure 4).

    Last comes what the model makes of the target prompt alone.
    """
    variants = [*comparison.variants, *comparison.references]
    scores = [comparison.scores(variant) for variant in variants]
    made = [{(test["id"], e["prompt"]): e for test in score["tests"] for e in test["edits"]} for score in scores]
    rows = []
    for test in scores[0]["tests"][:images]:
        for edit in test["edits"]:
            source = comparison.folder(variants[0]).edits_path(test["id"], "source.png")
            tiles = [("source", np.asarray(open_image(source)), test["prompt"])]
            tiles += [
                (variant.label, _image(comparison, variant, test["id"], row), _told(row))
                for variant, found in zip(variants, made, strict=True)
                if (row := found.get((test["id"], edit["prompt"])))
            ]
            rows.append(tile_row(f"{test['id']} {edit['kind']}: “{edit['prompt']}”", tiles))
    return rows


def _image(comparison: Comparison, variant: Variant, id: str, row: dict[str, Any]) -> np.ndarray:
    return np.asarray(open_image(comparison.folder(variant).edits_path(id, row["file"])))


def _told(row: dict[str, Any]) -> str:
    background, success = row.get("background_psnr"), row["success"]
    share = "" if success is None else f"success {MEASURES['success'].caption(success)}"
    seen = {1.0: "success", 0.0: "no success"}.get(success, share)
    kept = "" if background is None else MEASURES["background_psnr"].caption(background)
    return " ".join(filter(None, [kept, seen]))
