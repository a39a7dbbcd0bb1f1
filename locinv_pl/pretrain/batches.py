"""Random batches of rows, gathered where the rows lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from numpy.typing import NDArray
from torch import Tensor

Column = Callable[[Tensor], Tensor]
"""Rows (B, ...) of the numbers (B,)."""


class Batches:
    """Endless random batches: of every column, the rows of the same random numbers.

    Args:
        length: N, the number of rows of every column.
        columns: each gives one tensor of the batch.
        batch_size: B, the rows of a batch, drawn with replacement.
        seed: any integer; each seed draws other batches. 0 by default.
        device: where the numbers are drawn; where the rows lie, no step waits for them.
    """

    def __init__(
        self,
        length: int,
        columns: tuple[Column, ...],
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        self.length, self.columns, self.batch_size = length, columns, batch_size
        self.draws = torch.Generator(device).manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        while True:
            numbers = torch.randint(self.length, (self.batch_size,), generator=self.draws, device=self.draws.device)
            yield tuple(column(numbers) for column in self.columns)


def rows(array: Tensor | NDArray, device: torch.device | str = "cpu") -> Column:
    """The rows of an array (N, ...), kept on ``device``; one that is mapped from a file stays there on a CPU."""
    tensor = torch.as_tensor(array).to(device)
    return lambda numbers: tensor[numbers.to(tensor.device)]


def images(array: NDArray, device: torch.device | str = "cpu") -> Column:
    """Images (B, 3, H, W) in [0, 1], channels last, of an array (N, H, W, 3) of bytes."""
    of_bytes = rows(array, device)
    return lambda numbers: of_bytes(numbers).movedim(-1, 1).float() / 255
