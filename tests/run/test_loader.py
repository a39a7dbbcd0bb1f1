"""The loader that turns a queue of batches into timesteps."""

import pytest

from locinv_pl.errors import InputError
from locinv_pl.run.loader import TimestepLoader, local_queue

IDS = [f"p{n}" for n in range(7)]


def loader(claim, num_steps=3, pending=list, ids=IDS, samples=None, **options) -> TimestepLoader:
    """Batches of two, over strings in the place of samples: the loader never looks into them."""
    batches = [range(n, min(n + 2, len(ids))) for n in range(0, len(ids), 2)]
    samples = [id.upper() for id in ids] if samples is None else samples
    return TimestepLoader(samples, ids, batches, num_steps, claim, pending, **options)


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


def test_finished_images_are_left_out():
    finished = {"p0", "p2", "p3"}
    found = loader(local_queue(), num_steps=1, pending=lambda ids: [id for id in ids if id not in finished])
    assert [samples for samples, _ in steps(found)] == [("P1",), ("P4", "P5"), ("P6",)]


def test_images_are_opened_once_and_at_first_use():
    opened = []

    class Samples(list):
        def __getitem__(self, j):
            opened.append(j)
            return f"P{j}"

    pending = lambda ids: [id for id in ids if id != "p1"]  # noqa: E731
    found = loader(local_queue(), 2, pending, samples=Samples())
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


class Damaged(list):
    """Samples of which number 2 and 3 can't be opened."""

    def __getitem__(self, j):
        if j in (2, 3):
            raise InputError(f"p{j}: truncated; get it again")
        return f"P{j}"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_cannot_be_opened_raises_at_first_use(num_workers):
    items = list(loader(local_queue(), num_steps=1, samples=Damaged(), num_workers=num_workers))
    assert items[0].samples == ("P0", "P1") and items[2].samples == ("P4", "P5")
    with pytest.raises(InputError, match="p2: truncated"):
        _ = items[1].samples


@pytest.mark.parametrize("num_workers", [0, 2])
def test_with_a_report_it_is_left_out(num_workers):
    told = []
    found = loader(
        local_queue(),
        num_steps=1,
        samples=Damaged(),
        ids=IDS[:5],
        report=lambda id, error: told.append((id, str(error))),
        num_workers=num_workers,
    )
    assert steps(found) == [(("P0", "P1"), 0), (("P4",), 0)]
    assert told == [("p2", "p2: truncated; get it again"), ("p3", "p3: truncated; get it again")]


def test_workers_give_the_same_batches():
    alone, ahead = (steps(loader(local_queue(), num_workers=n)) for n in (0, 2))
    assert alone == ahead and len(ahead) == 4 * 3


def test_batches_need_not_be_neighbours():
    found = TimestepLoader([id.upper() for id in IDS], IDS, [[0, 3], [1, 6, 2]], 1, local_queue(), list)
    assert [item.samples for item in found] == [("P0", "P3"), ("P1", "P6", "P2")]
