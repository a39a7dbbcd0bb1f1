"""The training curves of all stages on one page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Curve = dict[int, float]


def read_curves(folder: Path) -> dict[str, Curve]:
    """Scalars by name and step from TensorBoard's files; where runs overlap, the later one counts."""
    curves: dict[str, Curve] = {}
    for file in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for name in events.Tags()["scalars"]:
            curve = curves.setdefault(name, {})
            points = events.Scalars(name)
            for step in [step for step in curve if points and step >= points[0].step]:
                del curve[step]
            curve.update({point.step: point.value for point in points})
    return curves


def draw_curves(output: Path, stages: Iterable[str]) -> Figure:
    """A row for each stage that has curves, a plot for each scalar: values, and their running mean."""
    rows = {stage: read_curves(output / stage / "curves") for stage in stages}
    rows = {
        stage: {name: curve for name, curve in curves.items() if name != "epoch" and curve}
        for stage, curves in rows.items()
        if curves
    }
    columns = max(map(len, rows.values()), default=1)
    figure = Figure(figsize=(4.5 * columns, 2.6 * max(len(rows), 1)), layout="constrained")
    axes = figure.subplots(max(len(rows), 1), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    for row, (stage, curves) in enumerate(rows.items()):
        for axis, (name, curve) in zip(axes[row], sorted(curves.items()), strict=False):
            steps = sorted(curve)
            values = np.array([curve[step] for step in steps])
            window = max(1, len(values) // 40)
            kernel = np.ones(window) / window
            axis.set_visible(True)
            axis.plot(steps, values, color="0.8", linewidth=0.6)
            axis.plot(steps[window - 1 :], np.convolve(values, kernel, "valid"), color="tab:blue")
            axis.set_title(f"{stage}: {name}", fontsize=10)
            axis.set_xlabel("step", fontsize=8)
            if "loss" in name and (values > 0).all():
                axis.set_yscale("log")
    return figure
