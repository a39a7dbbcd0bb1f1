"""How an inversion's time and memory grow with images, timesteps and gradient steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from locinv_pl.benchmark.counting import GIB, count, seconds_of
from locinv_pl.benchmark.modes import weight_bytes, with_steps
from locinv_pl.method.policies import Method
from locinv_pl.method.task import prepare
from locinv_pl.method.timestep import collect, invert_step
from locinv_pl.networks.backbone import Backbone
from locinv_pl.types import EditSample

BASE = {"images": 1, "timesteps": 2, "gradient steps": 2}
SWEEPS = {"images": (1, 2, 3, 4), "timesteps": (2, 4, 6, 8), "gradient steps": (2, 4, 6, 8)}


def measure_growth(
    backbone: Backbone, method: Method, samples: Sequence[EditSample], resolution: int, repeats: int = 1
) -> dict[str, dict[str, Any]]:
    """Invert images one after the other, with one of the numbers in ``SWEEPS`` varied and the others as in ``BASE``.

    Args:
        backbone: where.
        method: early stops are turned off.
        samples: as many as the most images.
        resolution: R.
        repeats: of every timing, the sweep over and over; the shortest counts.

    Returns:
        for each sweep "x", "seconds", "memory_gib" and "r2", that of a straight line through the seconds.
    """
    found = {}
    for key, values in SWEEPS.items():
        works = [
            _inversions(backbone, method, samples, resolution, **_arguments(BASE | {key: value})) for value in values
        ]
        works[0]()  # warms up
        rounds = [[seconds_of(work, backbone.device) for work in works] for _ in range(repeats)]
        seconds = [min(times) for times in zip(*rounds, strict=True)]
        memory = [(count(work).peak + weight_bytes(backbone)) / GIB for work in works]
        found[key] = {"x": list(values), "seconds": seconds, "memory_gib": memory, "r2": r_squared(values, seconds)}
    return found


def _arguments(numbers: Mapping[str, int]) -> dict[str, int]:
    return {key.replace(" ", "_"): value for key, value in numbers.items()}


def _inversions(
    backbone: Backbone,
    method: Method,
    samples: Sequence[EditSample],
    resolution: int,
    images: int,
    timesteps: int,
    gradient_steps: int,
) -> Callable[[], None]:
    fixed = with_steps(method, gradient_steps, gradient_steps)

    def run() -> None:
        for sample in samples[:images]:
            task = prepare(backbone, [sample], fixed, timesteps, resolution)
            records = [task.start()]
            for i in range(timesteps):
                records.append(invert_step(backbone, task, i, records[-1]))
            collect(task, records[1:])

    return run


def r_squared(x: Sequence[float], y: Sequence[float]) -> float:
    """The share of y's variance that a straight line over x explains."""
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def draw_growth(growth: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Seconds above, memory below, a column for each sweep."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    for column, (above, below) in enumerate(figure.subplots(2, len(growth), sharex="col").T):
        name, found = list(growth.items())[column]
        x, seconds = np.array(found["x"]), found["seconds"]
        above.plot(x, np.polyval(np.polyfit(x, seconds, 1), x), color="0.7")
        above.plot(x, seconds, "o")
        above.set_title(f"R² = {found['r2']:.4f}", fontsize=10)
        below.plot(x, found["memory_gib"], "o-", color="tab:orange")
        below.set_xlabel(name)
        below.set_xticks(x)
        above.set_ylim(0)
        below.set_ylim(0, 1.2 * max(found["memory_gib"]))
        if column == 0:
            above.set_ylabel("seconds")
            below.set_ylabel("memory [GiB]")
    return figure
