"""What a run of many images costs beside the arithmetic: CPU time, memory, files, the queue.

    python benchmarks/scaling.py [--images 100000] [--processes 8] [--json FILE] [--plot FILE]

Runs a stub engine (stub.py) through the real queue, loader and files in a temporary folder, then sums the run up and
runs it again, finished as it is. Reads /proc, so Linux only. Figures of 100,000 images stand in docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from stub import SETTINGS, Job, Mark, count, in_processes, invert_all

from locinv_pl.run.status import status
from locinv_pl.run.store import RunFolder
from locinv_pl.run.summary import summarize

LONG = 50  # timesteps of a real run
BINS = 40  # of the plot


def measure(root: Path, images: int, processes: int, num_steps: int, batch_size: int) -> tuple[dict[str, Any], Any]:
    """Figures of one run, and the marks of its processes."""
    job = Job(root / "run", images, num_steps, batch_size)
    marks = in_processes(processes, invert_all, job)
    run = RunFolder(job.root)
    began = time.perf_counter()
    summary = run.sum_up("summary.json", "inversions", partial(summarize, settings=SETTINGS))
    summed_up = time.perf_counter()
    status(job.root)
    looked_at = time.perf_counter()
    sizes = [path.stat().st_size for path in job.root.rglob("*") if path.is_file()]
    again = in_processes(processes, invert_all, job)
    memory = [[mark.memory for mark in one] for one in marks]
    figures = {
        "pictures": summary["num_images"],
        "processes": processes,
        "timesteps": num_steps,
        "batch_size": batch_size,
        "cpu_ms_per_picture": _cpu_ms(marks, images),
        "pictures_per_second": images / _seconds(marks),
        "memory_mib_first": max(one[len(one) // 10] for one in memory),
        "memory_mib_last": max(one[-1] for one in memory),
        "files_per_picture": len(sizes) / images,
        "bytes_per_picture": sum(sizes) / images,
        "summary_seconds": summed_up - began,
        "status_seconds": looked_at - summed_up,
        "rerun_seconds": _seconds(again),
        "rerun_cpu_ms_per_picture": _cpu_ms(again, images),
    }
    return figures, marks


def more_steps(root: Path, processes: int, num_steps: int, batch_size: int, images: int = 400) -> float:
    """CPU time of one more timestep, in ms for each image."""
    few, many = (
        _cpu_ms(in_processes(processes, invert_all, Job(root / str(T), images, T, batch_size)), images)
        for T in (num_steps, LONG)
    )
    return (many - few) / (LONG - num_steps)


def _cpu_ms(marks: list[list[Mark]], images: int) -> float:
    return 1000 * sum(one[-1].cpu - one[0].cpu for one in marks) / images


def _seconds(marks: list[list[Mark]]) -> float:
    return max(one[-1].clock for one in marks) - min(one[0].clock for one in marks)


def draw(marks: list[list[Mark]]) -> Figure:
    """Memory of every process, and images per second of all together, over the images that are done."""
    clocks = np.linspace(min(one[0].clock for one in marks), max(one[-1].clock for one in marks), BINS + 1)
    states = [np.array([(mark.clock, mark.images, mark.memory) for mark in one]).T for one in marks]
    done = sum(np.interp(clocks, clock, images) for clock, images, _ in states) / 1000
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for clock, _, memory in states:
        left.plot(done, np.interp(clocks, clock, memory), linewidth=1)
    left.set(xlabel="thousand images", ylabel="MiB of each process")
    left.set_ylim(0, 1.2 * left.get_ylim()[1])
    right.stairs(1000 * np.diff(done) / np.diff(clocks), done)
    right.set(xlabel="thousand images", ylabel="images per second")
    return figure


def main() -> None:
    """Measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1, help="timesteps, T")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where to put the temporary folder")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--plot", type=Path, help="where to draw memory and rate")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as temporary:
        root = Path(temporary)
        figures: dict[str, Any] = {"queue_per_second": sum(in_processes(asked.processes, count, 2.0))}
        more, marks = measure(root, asked.images, asked.processes, asked.steps, asked.batch_size)
        figures |= more
        figures["cpu_ms_per_further_timestep"] = more_steps(root, asked.processes, asked.steps, asked.batch_size)
    for key, value in figures.items():
        print(f"{key:28} {value:.3f}" if isinstance(value, float) else f"{key:28} {value}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n")
    if asked.plot is not None:
        draw(marks).savefig(asked.plot, dpi=120)


if __name__ == "__main__":
    main()
