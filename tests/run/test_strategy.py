"""The strategy's queues, and how processes agree on a start."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.distributed import HashStore, Store, TCPStore

from locinv_pl.errors import InputError
from locinv_pl.run import strategy as strategy_file
from locinv_pl.run.strategy import ImageParallelStrategy, agree_on_start, is_launched, num_cores


def test_one_process_has_queues_of_its_own():
    trainer = Trainer(accelerator="cpu", devices=1, strategy="image_parallel", logger=False)
    strategy = trainer.strategy
    assert isinstance(strategy, ImageParallelStrategy)
    strategy.setup_environment()
    first, second = strategy.new_queue(), strategy.new_queue()
    assert [first(), first(), second(), first(), second()] == [0, 1, 0, 2, 1]


def test_torchruns_numbers_hold(monkeypatch):
    sizes = {"LOCAL_WORLD_SIZE": 2, "GROUP_WORLD_SIZE": 3, "WORLD_SIZE": 6, "RANK": 3, "LOCAL_RANK": 1, "GROUP_RANK": 1}
    for name, value in {"TORCHELASTIC_RUN_ID": "run", **sizes}.items():
        monkeypatch.setenv(name, str(value))
    strategy = Trainer(accelerator="cpu", devices=1, strategy="image_parallel", logger=False).strategy
    assert (strategy.num_nodes, strategy.num_processes, strategy.world_size, strategy.global_rank) == (3, 2, 6, 3)
    strategy.cluster_environment.validate_settings(strategy.num_processes, strategy.num_nodes)


@pytest.mark.parametrize("quota, cores", [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("", 4)])
def test_cores_are_those_that_one_may_use(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 4, 6}, raising=False)
    monkeypatch.setattr(strategy_file, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert num_cores() == cores


@pytest.mark.parametrize("mark", ["LOCAL_RANK", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS"])
def test_a_launchers_processes_are_told_apart(monkeypatch, mark):
    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert not is_launched()
    monkeypatch.setenv(mark, "1")
    assert is_launched()


def make_strategy(store: Store | None, rank: int) -> ImageParallelStrategy:
    """One of two processes, connected."""
    strategy = ImageParallelStrategy(accelerator=CPUAccelerator(), parallel_devices=[torch.device("cpu")] * 2)
    strategy.cluster_environment = LightningEnvironment()
    strategy.cluster_environment.set_world_size(2)
    strategy.cluster_environment.set_global_rank(rank)
    strategy.store = store
    return strategy


@pytest.mark.parametrize(
    "exception, raised", [(None, None), (KeyError(), InputError), (SIGTERMException(), SIGTERMException)]
)
def test_a_process_says_how_another_one_ended(soon, exception, raised):
    store = HashStore()
    first, second = (make_strategy(store, rank) for rank in (0, 1))

    def end_second() -> None:
        if exception is not None:
            second.on_exception(exception)
        second.teardown()

    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(end_second)
        with pytest.raises(raised) if exception else nullcontext():
            first.teardown()
    assert ended.result() is None


def test_all_processes_stop_where_one_is_told_to(soon):
    first, second = (make_strategy(store, rank) for store in [HashStore()] for rank in (0, 1))
    assert first.batch_to_device("a batch") == "a batch"
    second.on_exception(SIGTERMException())
    with pytest.raises(SIGTERMException):
        first.batch_to_device("another")


def test_a_stopped_process_does_not_wait_for_a_dead_one(soon, monkeypatch):
    monkeypatch.setattr(strategy_file, "GRACE", 0.01)
    for rank in (0, 1):
        strategy = make_strategy(HashStore(), rank)
        strategy.on_exception(SIGTERMException())
        strategy.teardown()


def test_a_lost_store_is_one_line(soon):
    script = "import sys, torch.distributed as d; s = d.TCPStore('127.0.0.1', 0, None, True); print(s.port, flush=True)"
    server = subprocess.Popen([sys.executable, "-c", f"{script}; sys.stdin.read()"], stdin=-1, stdout=-1, text=True)
    strategy = make_strategy(TCPStore("127.0.0.1", int(server.stdout.readline())), rank=1)
    claim = strategy.new_queue()
    assert [claim(), claim()] == [0, 1]
    server.communicate()
    with pytest.raises(InputError, match="the process that holds the queue is gone; results so far are kept"):
        claim()
    with pytest.raises(InputError, match="is gone"):
        strategy.teardown()


@pytest.fixture
def soon(monkeypatch) -> None:
    """Waits are short."""
    monkeypatch.setattr(strategy_file, "POLL", 0.001)


def start(store: HashStore, ranks: range) -> list[str]:
    with ThreadPoolExecutor(len(ranks)) as threads:
        return list(threads.map(lambda rank: agree_on_start(store, rank, len(ranks)), ranks))


def test_every_start_has_a_name_of_its_own(soon):
    store = HashStore()
    names = [start(store, range(count)) for count in (3, 2, 1, 3)]
    assert [len(set(one)) for one in names] == [1] * 4
    assert len({one[0] for one in names}) == 4


def test_a_start_that_died_half_way_is_not_taken_for_the_next(soon):
    store = HashStore()
    store.set("word-1", "left by a process that is dead")
    store.set("word-2", "and by another")
    assert len(set(start(store, range(3)))) == 1
