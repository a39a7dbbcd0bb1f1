"""``locinv benchmark``: what an inversion takes, printed, written and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from locinv_pl.benchmark.bench import Benchmark
from locinv_pl.benchmark.growth import draw_growth
from locinv_pl.benchmark.report import to_markdown
from locinv_pl.io.files import write_json
from locinv_pl.networks.tuning import use_one_thread


def benchmark(json: Path | None = None, plot: Path | None = None, **settings: Any) -> None:
    """Time and count an inversion against the authors' way, and print tables.

    A CPU computes with one thread, as in runs.

    Args:
        json: where to write all figures.
        plot: where to draw how time and memory grow with images and steps, a PNG; measured only if asked for.
        settings: as :class:`~locinv_pl.benchmark.bench.Benchmark` takes them.

    Raises:
        InputError: a number is below 1, or there is no such model, method, dtype or device.
    """
    measured = Benchmark(**settings)
    if measured.device == "cpu":
        use_one_thread()
    result = measured.run() | ({"growth": measured.growth()} if plot is not None else {})
    print(to_markdown(result))
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        draw_growth(result["growth"]).savefig(plot, dpi=120)
    if json is not None:
        write_json(json, result)
