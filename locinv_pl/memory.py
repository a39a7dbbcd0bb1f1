"""Work in parts that fit the device's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Part = TypeVar("Part")


def fitting(work: Callable[[slice], Part], rows: int) -> list[Part]:
    """The results of ``work`` on all rows: of all at once, or in order of as many at a time as memory holds.

    Raises:
        torch.OutOfMemoryError: one row alone is too much.
    """
    parts: list[Part] = []
    done, size = 0, rows
    while done < rows:
        try:
            parts.append(work(slice(done, min(done + size, rows))))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = (size + 1) // 2
        else:
            done += size
            continue
        torch.cuda.empty_cache()  # here, where the exception no longer holds what was computed
    return parts
