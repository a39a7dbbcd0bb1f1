"""What a comparison computes: means over images, their intervals, and differences of the same images.

Runs are compared on the same images, and images differ more than methods do. So every mean has its 95% interval from
the bootstrap over images, and a method's gain over the reference is the mean of paired differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from locinv_pl.measures.display import MEASURES

OF_INVERSIONS = {"attention_iou": "iou", "psnr": "psnr", "ssim": "ssim", "seconds_per_image": "seconds"}
"""Measures of inversions, by their keys in a comparison, with their keys in an inversion's scores."""
OF_EDITS = (
    "background_psnr",
    "background_ssim",
    "background_mse",
    "background_lpips",
    "structure_distance",
    "dino_similarity",
    "clip_target",
    "clip_edited",
    "success",
    "seconds_per_edit",
)
"""Measures of edits; images from nothing have the last few alone."""
COMPARED = ("attention_iou", "psnr", "ssim", "lpips", *OF_EDITS, "seconds_per_image")
"""The measures of a comparison, in the order of its files; "lpips" is that of the reconstruction."""

Values = dict[str, list[float]]
"""Of every image what was measured on it: on its nouns, its reconstruction, or its edits."""


def compare(scores: Sequence[Mapping[str, Any]], reference: str = "nti", resamples: int = 2000) -> dict[str, Any]:
    """Means, intervals and paired differences of several runs over the same images.

    Every mean is over nouns, reconstructions or edits; its 95% interval is the bootstrap's over images (percentiles).
    A paired difference is that of the same noun or edit to the reference's; ``better`` and ``worse`` count the
    images on which its mean is on the good side or on the bad one.

    Args:
        scores: the scores of each run, with "inversions" and "tests", one entry per image.
        reference: the label of the run that others are compared with; no differences where there is none.
        resamples: how often the bootstrap draws the images again.

    Returns:
        the content of comparison.json.
    """
    values = {run["label"]: {key: _values_of(run, key) for key in COMPARED} for run in scores}
    rows = []
    for run in scores:
        row: dict[str, Any] = {"method": run["label"], **{k: run[k] for k in ("name", "prior", "edit", "vary")}}
        row |= {"num_images": len(run["inversions"] or run["tests"])}
        row |= {"num_edits": sum(len(test["edits"]) for test in run["tests"])}
        mine, theirs = values[run["label"]], values.get(reference)
        for key in COMPARED:
            row[key], row[f"{key}_ci95"] = _mean_and_interval(mine[key], resamples)
        row["paired"] = {}
        if theirs is not None and run["label"] != reference:
            paired = {key: _paired(key, mine[key], theirs[key], resamples) for key in COMPARED}
            row["paired"] = {key: found for key, found in paired.items() if found}
        row["kinds"] = _kinds(run, resamples)
        row["iou_curve"] = _curve(run)
        rows.append(row)
    return {"reference": reference if reference in values else None, "rows": rows}


def _values_of(run: Mapping[str, Any], key: str, kind: str | None = None) -> Values:
    """What a run has of one measure; of edits all, or those of one kind."""
    if key in OF_EDITS:
        chosen = {t["id"]: [e for e in t["edits"] if kind in (None, e["kind"])] for t in run["tests"]}
        found = {id: [edit.get(key) for edit in edits] for id, edits in chosen.items()}
    elif key in OF_INVERSIONS:
        each = {score["id"]: score[OF_INVERSIONS[key]] for score in run["inversions"]}
        found = {id: value if isinstance(value, list) else [value] for id, value in each.items()}
    else:
        found = {test["id"]: [test.get("reconstruction", {}).get(key)] for test in run["tests"]}
    known = {id: [value for value in some if value is not None] for id, some in found.items()}
    return {id: some for id, some in known.items() if some}


def _mean_and_interval(values: Values, resamples: int) -> tuple[float | None, list[float] | None]:
    """The mean over all values, and the percentiles 2.5 and 97.5 of the bootstrap over images."""
    mean = fmean(value for each in values.values() for value in each) if values else None
    if len(values) < 2:
        return mean, None
    sums, counts = (np.array([f(v) for v in values.values()], dtype=float) for f in (sum, len))

    def ratio(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums.sum(axis) / counts.sum(axis)

    found = bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        method="percentile",
        random_state=np.random.default_rng(0),
    )
    return mean, [float(found.confidence_interval.low), float(found.confidence_interval.high)]


def _paired(key: str, mine: Values, theirs: Values, resamples: int) -> dict[str, Any] | None:
    """How a run differs from the reference on the images that both have; None where they share none."""
    both = [id for id in mine if id in theirs and len(mine[id]) == len(theirs[id])]
    differences = {id: [a - b for a, b in zip(mine[id], theirs[id], strict=True)] for id in both}
    mean, interval = _mean_and_interval(differences, resamples)
    if mean is None:
        return None
    sign = 1 if MEASURES[key].higher_is_better else -1
    gains = [sign * sum(values) for values in differences.values()]
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return {"difference": mean, "ci95": interval, "better": better, "worse": worse, "num_images": len(both)}


def _kinds(run: Mapping[str, Any], resamples: int) -> dict[str, dict[str, Any]]:
    """The means of every kind of edit, with their intervals."""
    kinds = sorted({edit["kind"] for test in run["tests"] for edit in test["edits"]})
    means: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        means[kind] = {"num_edits": sum(edit["kind"] == kind for test in run["tests"] for edit in test["edits"])}
        for key in OF_EDITS:
            mean, interval = _mean_and_interval(_values_of(run, key, kind), resamples)
            means[kind] |= {key: mean, f"{key}_ci95": interval}
    return means


def _curve(run: Mapping[str, Any]) -> list[float] | None:
    """Mean attention IoU over all nouns at every step."""
    curves = [curve for score in run["inversions"] for curve in score["iou_curve"]]
    return np.mean(np.array(curves, dtype=float), axis=0).round(4).tolist() if curves else None
