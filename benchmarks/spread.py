"""How well images spread over processes.

    OMP_NUM_THREADS=1 python benchmarks/spread.py [--images 12] [--unit 0.05] [--json FILE]

1. Two processes of one thread each against one, inverting the same drawn scenes with the embedded model: the ratio of
   their images per hour. Needs two idle cores.
2. The makespan of a queue of sleeping images (stub.py), half of which take 15 times as long as the others, in mixed
   order, against the best possible split; beside it the same queue on paper, over many orders.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from stub import Job, in_processes, invert_all

ROOT = Path(__file__).resolve().parent.parent
CASES = ((2, 24), (4, 120), (8, 360))  # processes, images
LIGHT, HEAVY = 1, 15
ORDERS = 1000


def mixed(images: int, seed: int) -> list[int]:
    """Costs of images, half of them light and half heavy, in an order of chance."""
    costs = [LIGHT, HEAVY] * (images // 2)
    random.Random(seed).shuffle(costs)
    return costs


def makespan(costs: Sequence[float], processes: int) -> float:
    """When the last process ends if each takes the next image as soon as it is free."""
    busy = [0.0] * processes
    for cost in costs:
        busy[busy.index(min(busy))] += cost
    return max(busy)


def best_split(costs: Sequence[float], processes: int) -> float:
    """The makespan of the best possible split.

    Dealing the heaviest first is best where there are two costs and one divides the other, as here; for other costs
    it is an upper bound.
    """
    return makespan(sorted(costs, reverse=True), processes)


def worst_order(costs: Sequence[float], processes: int) -> float:
    """What no order's makespan exceeds: when a process takes its last image, all the others are busy.

        makespan <= sum(c) / P + (1 - 1/P) max(c)

    Source: Graham, Bounds on Multiprocessing Timing Anomalies, 1969.
    """
    return sum(costs) / processes + (1 - 1 / processes) * max(costs)


def measure_queue(processes: int, images: int, unit: float) -> dict[str, float]:
    """Makespans relative to the best split: measured, and on paper over many orders."""
    costs = mixed(images, seed=0)
    best = best_split(costs, processes)
    with tempfile.TemporaryDirectory() as folder:
        seconds = [unit * cost for cost in costs]
        marks = in_processes(processes, invert_all, Job(Path(folder), images, seconds=seconds))
    measured = max(one[-1].clock for one in marks) - min(one[0].clock for one in marks)
    orders = [makespan(mixed(images, seed), processes) / best for seed in range(ORDERS)]
    return {
        "processes": processes,
        "pictures": images,
        "measured": measured / (unit * best),
        "on_paper": makespan(costs, processes) / best,
        "mean_of_orders": fmean(orders),
        "worst_of_orders": max(orders),
        "bound": worst_order(costs, processes) / best,
    }


def images_per_hour(processes: int, images: int) -> float:
    """Of a real run; from the first image's begin to the last one's end, without the programs' starts."""
    with tempfile.TemporaryDirectory() as folder:
        words = f"data=scenes data.num_images={images} data.batch_size=1 model.num_steps=8 callbacks=plain".split()
        where = [f"trainer.devices={processes}", "trainer.accelerator=cpu", f"output={folder}/run"]
        command = [sys.executable, str(ROOT / "train.py"), *words, *where]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        records = [json.loads(p.read_text()) for p in Path(folder).glob("run/inversions/*.json")]
        ends = [p.stat().st_mtime for p in Path(folder).glob("run/inversions/*.json")]
        began = (Path(folder) / "run/config.yaml").stat().st_mtime
        assert len(records) == images
        return 3600 * images / (max(ends) - began)


def main() -> None:
    """Measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12, help="of the run with the embedded model; 0 leaves it out")
    parser.add_argument("--unit", type=float, default=0.05, help="seconds of a light image")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    asked = parser.parse_args()
    figures: dict[str, object] = {}
    if asked.images:
        one, two = (images_per_hour(processes, asked.images) for processes in (1, 2))
        figures["speed"] = {"one": one, "two": two, "ratio": two / one}
        print(f"images per hour: {one:.0f} with one process, {two:.0f} with two: {two / one:.2f} times as many")
    figures["queue"] = rows = [measure_queue(*case, asked.unit) for case in CASES]
    for row in rows:
        print(
            "  ".join(
                f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
    if asked.json is not None:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
