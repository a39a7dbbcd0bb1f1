"""Gradient descent of a batch in which every image stops for itself: the others go on without it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from locinv_pl.networks.prefix import Prefix


class Descent:
    """The images of a batch that are still optimised, and what is optimised of them.

    An image that stops leaves: it costs no further passes, and its momentum no longer moves it. ``rows`` (n,) numbers
    the images that go on, ``prefix`` is theirs, and ``steps`` (B,) counts the gradient steps of every image.

    Args:
        start: the embeddings that the descent begins from, (B, L, D).
        optimizer: made for the parameters; it treats every number for itself.
        prefix: of the latents of all images; None computes everything.
        rows: the images to optimise, (n,); all by default.
        where: the embeddings to optimise, bool, (B, L); all by default.
        units: how far an optimizer's step moves each number, (L, E), times its learning rate; 1 by default.
    """

    def __init__(
        self,
        start: Tensor,
        optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
        prefix: Prefix | None = None,
        rows: Tensor | None = None,
        where: Tensor | None = None,
        units: Tensor | None = None,
    ):
        self.rows = torch.arange(len(start), device=start.device) if rows is None else rows
        self.prefix = prefix if prefix is None or len(self.rows) == len(start) else prefix.pick(self.rows)
        self.steps = torch.zeros(len(start), dtype=torch.int32, device=start.device)
        self._all = start.clone()
        self._where = None if where is None else where[self.rows, :, None]  # (n, L, 1)
        moved = start[self.rows]
        self._units = None if units is None else units.to(moved.device).expand_as(moved)
        self._parameters = self._optimized(moved if units is None else moved / units).requires_grad_()
        self._optimizer = optimizer([self._parameters])

    def of(self, x: Tensor) -> Tensor:
        """What belongs to the images that go on: (B, ...) to (n, ...)."""
        return x[self.rows]

    def _optimized(self, x: Tensor) -> Tensor:
        """What is optimised of (n, L, D)."""
        return x if self._where is None else x[self._where[..., 0]]

    @property
    def embeddings(self) -> Tensor:
        """Those of the images that go on, (n, L, D); differentiable."""
        moved = self._parameters if self._units is None else self._parameters * self._optimized(self._units)
        return moved if self._where is None else self._all[self.rows].masked_scatter(self._where, moved)

    @property
    def result(self) -> Tensor:
        """The embeddings of all images as far as they came, (B, L, D)."""
        return self._all

    def step(self, objective: Tensor, going: Tensor, scale: int = 1) -> None:
        """Let the images that have reached their aim leave, and take a gradient step with the others.

        Args:
            objective: what to lower, a scalar, of the images that are ``going``.
            going: which of the n images go on, bool, (n,); at least one.
            scale: the factor in ``objective`` that gradients don't keep: small ones vanish in half precision.
        """
        self._optimizer.zero_grad()
        objective.backward()
        if not going.all():
            each = going if self._where is None else going.repeat_interleave(self._where.sum((1, 2)))
            self._parameters = keep_rows(self._optimizer, each)
            self.rows, self.prefix = self.rows[going], self.prefix and self.prefix.pick(going)
            self._where = None if self._where is None else self._where[going]
            self._units = None if self._units is None else self._units[going]
        if scale != 1:
            self._parameters.grad.div_(scale)  # type: ignore[union-attr]
        self._optimizer.step()
        self.steps[self.rows] += 1
        self._all[self.rows] = self.embeddings.detach()


def keep_rows(optimizer: torch.optim.Optimizer, some: Tensor) -> Tensor:
    """Let an optimizer of one tensor go on with some of its rows, with their gradients and their part of its state.

    Args:
        optimizer: it treats every number for itself.
        some: a mask of the rows, or their indices.

    Returns:
        the tensor in the other's place.
    """
    (group,) = optimizer.param_groups
    (before,) = group["params"]
    after = before.detach()[some].requires_grad_()
    after.grad = None if before.grad is None else before.grad[some]
    state = optimizer.state.pop(before, {})
    optimizer.state[after] = {key: x[some] if x.shape == before.shape else x for key, x in state.items()}
    group["params"] = [after]
    return after
