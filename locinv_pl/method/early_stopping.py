"""Images that leave a batch: what is optimised for all of them together goes on for the others."""

from __future__ import annotations

import torch
from torch import Tensor


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
