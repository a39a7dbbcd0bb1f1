"""Batches of images, timestep by timestep, as processes claim them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from locinv_pl.errors import InputError
from locinv_pl.types import EditSample

Report = Callable[[str, InputError], None]
Opened = list[tuple[str, EditSample | InputError]]


class TimestepBatch:
    """One item of work for the module: a batch of images and the step i to take with it.

    The images are opened at first use: Lightning asks for an item before it is through with the
    one before, and an image that can't be read must not keep the batch before from its last step.

    A plain class, which Lightning hands over as it is: dataclasses and tuples it would take apart to
    move their tensors, and the engine moves what it needs.
    """

    def __init__(self, open_samples: Callable[[], tuple[EditSample, ...]], i: int, report: Report | None = None):
        self._open, self.i, self._report = open_samples, i, report
        self.is_used = False

    @property
    def samples(self) -> tuple[EditSample, ...]:
        """The batch's images, the same objects at every step."""
        self.is_used = True
        return self._open()

    @property
    def skips(self) -> bool:
        """Whether what can't be used is left out, rather than stopped at."""
        return self._report is not None

    def leave_out(self, id: str, problem: InputError) -> None:
        """Report an image that can't go on, or, where nobody is told, stop at it.

        Args:
            id: the image's.
            problem: why it can't.

        Raises:
            InputError: the problem, where images aren't left out.
        """
        if self._report is None:
            raise problem
        self._report(id, problem)


class TimestepLoader:
    """The batches that this process claims, each ``num_steps`` times in a row, i = 0, 1, 2, ...

    It has no length: how many batches a process gets shows only as it goes.

    Args:
        samples: all images, in the same order in every process.
        ids: the images' ids, in that order.
        batches: numbers of the images that belong together, batch by batch.
        num_steps: T, how many times every batch is handed out.
        claim: answers the number of the next batch to take, over all processes.
        pending: of a batch's ids, those that are still to do.
        report: told of each image that can't be opened or inverted, which then is left out of its batch; without
            it such an image raises its InputError.
        num_workers: processes that open images ahead; every one makes this process claim a batch earlier than
            it can start on it. 0 opens them in this process.
        pin_memory: opened images lie in page-locked memory; with workers only.
        accept: what becomes of an image that is open; it may refuse it, which counts as one that can't be opened.
    """

    def __init__(
        self,
        samples: Sequence[EditSample],
        ids: Sequence[str],
        batches: Sequence[Sequence[int]],
        num_steps: int,
        claim: Callable[[], int],
        pending: Callable[[Sequence[str]], Sequence[str]],
        report: Report | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        accept: Callable[[EditSample], EditSample] = lambda sample: sample,
    ):
        self.accept = accept
        self.samples, self.ids, self.batches = samples, ids, batches
        self.num_steps, self.claim, self.pending = num_steps, claim, pending
        self.report, self.num_workers, self.pin_memory = report, num_workers, pin_memory
        self._last: TimestepBatch | None = None

    @property
    def is_through(self) -> bool:
        """Whether nothing is left in the queue, and what was handed out here has been used; once no more is asked."""
        return (self._last is None or self._last.is_used) and self.claim() >= len(self.batches)

    @property
    def ids_to_do(self) -> list[str] | None:
        """The ids of all images in the batches; None where they aren't known."""
        return [self.ids[j] for batch in self.batches for j in batch]

    def __iter__(self) -> Iterator[TimestepBatch]:
        for opened in self._opened():
            take = cache(partial(self._take, opened))
            if self.report is not None and not take():
                continue
            for i in range(self.num_steps):
                self._last = TimestepBatch(take, i, self.report)
                yield self._last

    def _claimed(self) -> Iterator[list[int]]:
        """The images that are to do of every batch that this process claims."""
        while (n := self.claim()) < len(self.batches):
            todo = set(self.pending([self.ids[j] for j in self.batches[n]]))
            mine = [j for j in self.batches[n] if self.ids[j] in todo]
            if mine:
                yield mine

    def _opened(self) -> Iterator[Callable[[], Opened]]:
        images = _Images(self.samples, self.ids)
        if not self.num_workers:
            yield from (partial(images.__getitem__, mine) for mine in self._claimed())
            return
        loader: DataLoader = DataLoader(
            images,
            batch_size=None,
            sampler=self._claimed(),
            num_workers=self.num_workers,
            prefetch_factor=1,
            collate_fn=_as_it_is,
            pin_memory=self.pin_memory,
        )
        for opened in loader:
            yield partial(_as_it_is, opened)

    def _take(self, opened: Callable[[], Opened]) -> tuple[EditSample, ...]:
        samples = []
        for id, found in opened():
            try:
                if isinstance(found, InputError):
                    raise found
                samples.append(self.accept(found))
            except InputError as problem:
                if self.report is None:
                    raise
                self.report(id, problem)
        return tuple(samples)


class _Images(Dataset):
    """Item: the images of a list of numbers, opened, or what is wrong with them."""

    def __init__(self, samples: Sequence[EditSample], ids: Sequence[str]):
        self.samples, self.ids = samples, ids

    def __getitem__(self, numbers: Sequence[int]) -> Opened:
        return [(self.ids[j], self._open(j)) for j in numbers]

    def _open(self, number: int) -> EditSample | InputError:
        try:
            return self.samples[number]
        except InputError as error:
            return error


def _as_it_is(opened: Any) -> Any:
    return opened


def local_queue() -> Callable[[], int]:
    """A queue of this process alone, for any other strategy."""
    numbers = iter(range(torch.iinfo(torch.int64).max))
    return lambda: next(numbers)
