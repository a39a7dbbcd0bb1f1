"""Work in pieces that fit the device's memory, and the garbage collector kept to what is new."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch


class Divisible(Protocol):
    """Anything of a length that slices: images, a part of a batch, a range of rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, some: slice, /) -> Any: ...


Pieces = TypeVar("Pieces", bound=Divisible)
Done = TypeVar("Done")
_limited = False  # whether freeze_gc holds the collector now


def halving(work: Callable[[Pieces], Done], whole: Pieces) -> Iterator[tuple[Pieces, Done | None]]:
    """Work on all at once, or, where memory runs out, on one half after the other.

    >>> [done for _, done in halving(sum, [1, 2, 3])]
    [6]

    Args:
        work: is given ``whole`` or a slice of it, and may answer anything but None.
        whole: what to work on, of at least one element.

    Yields:
        the pieces in order, each with what came of it; None for a single one that is too large.

    Raises:
        RuntimeError: ``work`` failed by something else than memory.
    """
    done = None
    try:
        done = work(whole)
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
    if done is None:  # the error, and with it the frames that hold tensors, is gone
        _free_memory()
    if done is not None or len(whole) == 1:
        yield whole, done
        return
    middle = (len(whole) + 1) // 2
    for half in (whole[:middle], whole[middle:]):
        yield from halving(work, half)


@contextmanager
def freeze_gc() -> Iterator[None]:
    """Freeze every object that exists for the garbage collector, until the block or the decorated function ends.

    A pass of a UNet makes thousands of small objects, and so often sets off a search through all modules of all
    libraries: 3 to 8% of the time of a small model on a CPU. Inside, the collector looks at new objects alone. Where
    something is frozen already, nothing changes.
    """
    global _limited
    if _limited or gc.get_freeze_count():  # someone else has seen to it; counting takes a while where there is much
        yield
        return
    _limited = True
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        _limited = False


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
