"""The arithmetic of benchmarks/spread.py, and small runs of the stub that it and scaling.py measure."""

import random
import sys
from itertools import product
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import scaling  # noqa: E402
import shards  # noqa: E402
import spread  # noqa: E402
from stub import Job, in_processes, invert_all  # noqa: E402

from locinv_pl.run.store import RunFolder  # noqa: E402


def test_the_next_image_goes_to_the_first_free_process():
    assert spread.makespan([3, 1, 1, 1, 2], 2) == 5  # 3 + 2 and 1 + 1 + 1
    assert spread.makespan([4], 3) == 4
    assert spread.makespan([1, 1, 15], 2) == 16


@pytest.mark.parametrize("seed", range(30))
def test_the_best_split_is_that_of_all_splits(seed):
    rng = random.Random(seed)
    processes = rng.choice([2, 3])
    costs = rng.choices([spread.LIGHT, spread.HEAVY], k=rng.randint(1, 8))
    splits = product(range(processes), repeat=len(costs))
    best = min(max(sum(c for c, o in zip(costs, of, strict=True) if o == p) for p in range(processes)) for of in splits)
    assert spread.best_split(costs, processes) == best


@pytest.mark.parametrize("processes, images", spread.CASES)
def test_no_order_exceeds_the_bound_and_the_bar_is_within_it(processes, images):
    costs = spread.mixed(images, 0)
    assert sum(costs) == images * (spread.LIGHT + spread.HEAVY) / 2
    best, bound = spread.best_split(costs, processes), spread.worst_order(costs, processes)
    orders = [spread.makespan(spread.mixed(images, seed), processes) for seed in range(20)]
    last = spread.makespan(sorted(costs), processes)
    assert best <= min(orders) and max(*orders, last) <= bound <= 1.1 * best


def test_the_stub_makes_a_whole_run(tmp_path):
    job = Job(tmp_path, images=7, num_steps=2, batch_size=2, seconds=[0.001] * 7)
    marks = in_processes(2, invert_all, job)
    assert sum(one[-1].images for one in marks) == 7
    assert [score["id"] for score in RunFolder(tmp_path).scores()] == [f"{n:09d}" for n in range(7)]
    again = in_processes(2, invert_all, job)
    assert sum(one[-1].images for one in again) == 0


def test_the_figures_of_a_simulated_run(tmp_path):
    figures, marks = scaling.measure(tmp_path, images=50, processes=2, num_steps=3, batch_size=4)
    assert figures["pictures"] == 50
    assert figures["files_per_picture"] == pytest.approx(2 + 2 / 50)  # settings.json, summary.json
    assert 0 < figures["rerun_cpu_ms_per_picture"] < figures["cpu_ms_per_picture"]
    assert len(scaling.draw(marks).axes) == 2


@pytest.mark.slow
def test_a_killed_run_into_shards_goes_on(tmp_path):
    figures = shards.measure(tmp_path, 400, 2, 4, "shards")
    assert (figures["images"], figures["done"], figures["never_computed"]) == (400, 400, 0)
    assert figures["finished_and_computed_twice"] == 0 and figures["lost_by_the_kill"] <= 8
    assert figures["damaged_of_a_thousand"] == 0 and figures["files"] < 20
