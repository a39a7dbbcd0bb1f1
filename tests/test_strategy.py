"""The strategy's queues, and how processes agree on a start."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from lightning.pytorch import Trainer
from torch.distributed import HashStore

from locinv_pl import strategy as strategy_file
from locinv_pl.strategy import ImageParallelStrategy, agree_on_start


def test_one_process_has_queues_of_its_own():
    trainer = Trainer(accelerator="cpu", devices=1, strategy="image_parallel", logger=False)
    strategy = trainer.strategy
    assert isinstance(strategy, ImageParallelStrategy)
    strategy.setup_environment()
    first, second = strategy.new_queue(), strategy.new_queue()
    assert [first(), first(), second(), first(), second()] == [0, 1, 0, 2, 1]


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
