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
        backbone: the frozen networks, on the device to time.
        method: what is done; its early stops are turned off.
        samples: at least as many as the largest number of images in ``SWEEPS``.
        resolution: R, cells of the attention grid along its shorter side.
        repeats: of the whole sweep, at least 1; of each timing the shortest counts.

    Returns:
        for each sweep "x", "seconds", "memory_gib" and "r2", that of a straight line through the seconds.
    """
    found = {}
    for key, values in SWEEPS.items():
        works = [
            _inversions(backbone, method, samples, resolution, *(BASE | {key: value}).values()) for value in values
        ]
        works[0]()  # warms up
        rounds = [[seconds_of(work, backbone.device) for work in works] for _ in range(repeats)]
        seconds = [min(times) for times in zip(*rounds, strict=True)]
        memory = [(count(work).peak + weight_bytes(backbone)) / GIB for work in works]
        found[key] = {"x": list(values), "seconds": seconds, "memory_gib": memory, "r2": r_squared(values, seconds)}
    return found


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
    """R², the share of y's variance that a straight line over x explains.

    >>> r_squared([1, 2, 3], [1, 3, 2])  # the correlation is 1/2
    0.25

    Args:
        x: at least two different numbers.
        y: as many.
    """
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def draw_growth(growth: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Seconds above, memory below, a column for each sweep.

    Args:
        growth: as :func:`measure_growth` answers it.
    """
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
