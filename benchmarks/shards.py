"""A run into shards that is killed in its middle and goes on: files, memory, what is lost and what is made twice.

    python benchmarks/shards.py [--images 100000] [--processes 2] [--store shards] [--json FILE]

Runs a stub engine (stub.py) through the real queue, loader, store and summary. When half of the images are done, one
process is killed with SIGKILL and the others are stopped; then as many processes go on. Every image counts in memory
that all processes share how often it was computed, and whether it was finished before the kill. Reads /proc, so Linux
only. Figures of 100,000 images stand in docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from stub import SETTINGS, Job, as_rank, invert_all

from locinv_pl.run.status import status
from locinv_pl.run.store import RunFolder
from locinv_pl.run.summary import summarize

FORK = multiprocessing.get_context("fork")
LOOK = 0.1  # seconds from one look at the processes to the next
LOOKS = (0.1, 0.5, 1.0)  # parts of the run at which memory is told


@dataclass
class Ledger:
    """What became of every image, in memory that all processes share.

    Args:
        computed: how often each was computed.
        finished: whether it was finished.
        stop: set where the processes are to end.
    """

    computed: Any
    finished: Any
    stop: Any

    @classmethod
    def of(cls, images: int) -> Ledger:
        """An empty one."""
        return cls(FORK.RawArray("B", images), FORK.RawArray("B", images), FORK.Event())

    def told(self, ids: Sequence[str], is_finished: bool) -> bool:
        """Note a batch; answers whether its process is to stop."""
        for number in map(int, ids):
            self.computed[number] += not is_finished
            self.finished[number] |= is_finished
        return is_finished and self.stop.is_set()

    @property
    def done(self) -> int:
        """How many images are finished."""
        return int(np.frombuffer(self.finished, np.uint8).sum())


def start(job: Job, processes: int) -> list[ForkProcess]:
    """The processes of a run."""
    port = find_free_network_port()
    each = [FORK.Process(target=as_rank, args=(rank, processes, port, invert_all, (job,))) for rank in range(processes)]
    for process in each:
        process.start()
    return each


def watch(running: list[ForkProcess], ledger: Ledger, until: int, peaks: dict[int, float]) -> None:
    """Wait until so many images are done, and note the processes' peak memory on the way, in MiB by images."""
    while ledger.done < until and any(process.is_alive() for process in running):
        time.sleep(LOOK)
        _note(running, ledger, peaks)


def _note(running: list[ForkProcess], ledger: Ledger, peaks: dict[int, float]) -> None:
    done, most = ledger.done, max(map(_peak, running))
    for images in peaks:
        if done < images or not peaks[images]:  # the last look at processes that lived is kept
            peaks[images] = most or peaks[images]


def _peak(process: ForkProcess) -> float:
    """The most memory that a process has had, in MiB; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0.0


def measure(root: Path, images: int, processes: int, batch_size: int, store: Any) -> dict[str, Any]:
    """Figures of a run that is killed at its half, and goes on."""
    torch.set_num_threads(1)
    ledger = Ledger.of(images)
    job = Job(root / "run", images, 1, batch_size, store=store, told=ledger.told)
    peaks = {int(part * images): 0.0 for part in LOOKS}
    began = time.monotonic()
    running = start(job, processes)
    watch(running, ledger, images // 2, peaks)
    os.kill(running[-1].pid or 0, signal.SIGKILL)
    running[-1].join()
    ledger.stop.set()
    time.sleep(1.0)  # for their batch
    for process in running[:-1]:
        process.terminate()  # it waits for the killed one
        process.join()
    first, before = time.monotonic() - began, np.frombuffer(ledger.finished, np.uint8).astype(bool).copy()
    ledger.stop.clear()
    began = time.monotonic()
    running = start(job, processes)
    _note(running, ledger, peaks)
    watch(running, ledger, images, peaks)
    for process in running:
        process.join()
    second = time.monotonic() - began
    counts = np.frombuffer(ledger.computed, np.uint8)
    run = RunFolder(job.root)
    began = time.monotonic()
    summary = run.sum_up("summary.json", "inversions", partial(summarize, settings=SETTINGS))
    summed_up = time.monotonic()
    now = status(job.root)
    looked_at = time.monotonic()
    damaged = sum(run.damage(f"{n:09d}") is not None for n in range(0, images, max(1, images // 1000)))
    files = [path for path in job.root.rglob("*") if path.is_file()]
    return {
        "images": summary["num_images"],
        "done": now.done,
        "processes": processes,
        "files": len(files),
        "files_per_image": len(files) / images,
        "bytes_per_image": sum(path.stat().st_size for path in files) / images,
        **{f"peak_mib_at_{images}": peak for images, peak in peaks.items()},
        "images_per_second": images / (first + second),
        "finished_at_the_kill": int(before.sum()),
        "lost_by_the_kill": int((counts > 1).sum()),
        "finished_and_computed_twice": int((counts[before] > 1).sum()),
        "never_computed": int((counts == 0).sum()),
        "damaged_of_a_thousand": damaged,
        "summary_seconds": summed_up - began,
        "status_seconds": looked_at - summed_up,
        "seconds": first + second,
    }


def main() -> None:
    """Measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--store", choices=("shards", "folder"), default="shards")
    parser.add_argument("--folder", type=Path, help="where to put the temporary folder")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as temporary:
        figures = measure(Path(temporary), asked.images, asked.processes, asked.batch_size, asked.store)
    for key, value in figures.items():
        print(f"{key:28} {value:.3f}" if isinstance(value, float) else f"{key:28} {value}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
