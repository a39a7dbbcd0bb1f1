"""The queue of work, and the loader that turns it into timesteps."""

import pytest
from lightning.pytorch import Trainer

from locinv_pl.strategy import ImageParallelStrategy, TimestepLoader, local_queue

IDS = [f"p{n}" for n in range(7)]


def loader(claim, batch_size=2, num_steps=3, pending=list, ids=IDS) -> TimestepLoader:
    """Over strings in the place of samples: the loader never looks into them."""
    return TimestepLoader([id.upper() for id in ids], ids, batch_size, num_steps, claim, pending)


def steps(items) -> list[tuple[tuple[str, ...], int]]:
    return [(item.samples, item.i) for item in items]


def test_every_batch_comes_timestep_by_timestep():
    assert steps(loader(local_queue(), ids=IDS[:3])) == [
        (("P0", "P1"), 0),
        (("P0", "P1"), 1),
        (("P0", "P1"), 2),
        (("P2",), 0),
        (("P2",), 1),
        (("P2",), 2),
    ]


def test_finished_pictures_are_left_out():
    finished = {"p0", "p2", "p3"}
    found = loader(local_queue(), num_steps=1, pending=lambda ids: [id for id in ids if id not in finished])
    assert [samples for samples, _ in steps(found)] == [("P1",), ("P4", "P5"), ("P6",)]


def test_pictures_are_opened_once_and_at_first_use():
    opened = []

    class Samples(list):
        def __getitem__(self, j):
            opened.append(j)
            return f"P{j}"

    found = TimestepLoader(Samples(), IDS, 2, 2, local_queue(), lambda ids: [id for id in ids if id != "p1"])
    items = iter(found)
    first, second = next(items), next(items)
    assert opened == []
    assert first.samples is second.samples
    assert opened == [0]


def test_there_is_no_length():
    assert not hasattr(loader(local_queue()), "__len__")


def test_nothing_to_do():
    assert steps(loader(local_queue(), ids=[])) == []


@pytest.mark.parametrize("turns", ["0101010101", "0001110101", "1000000000"])
def test_two_loaders_share_the_work(turns):
    claim = local_queue()
    loaders = [iter(loader(claim, num_steps=2)), iter(loader(claim, num_steps=2))]
    taken = [[], []]
    for turn in map(int, turns):
        taken[turn] += steps([item] if (item := next(loaders[turn], None)) else [])
    for turn in (0, 1):
        taken[turn] += steps(loaders[turn])
    batches = [("P0", "P1"), ("P2", "P3"), ("P4", "P5"), ("P6",)]
    assert sorted(taken[0] + taken[1]) == sorted((batch, i) for batch in batches for i in (0, 1))
    for mine in taken:
        assert [i for _, i in mine] == [0, 1] * (len(mine) // 2)
        assert all(a[0] == b[0] for a, b in zip(mine[::2], mine[1::2], strict=True))


def test_one_process_has_queues_of_its_own():
    trainer = Trainer(accelerator="cpu", devices=1, strategy="image_parallel", logger=False)
    strategy = trainer.strategy
    assert isinstance(strategy, ImageParallelStrategy)
    strategy.setup_environment()
    first, second = strategy.new_queue(), strategy.new_queue()
    assert [first(), first(), second(), first(), second()] == [0, 1, 0, 2, 1]
