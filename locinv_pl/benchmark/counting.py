"""What a piece of work costs: operations and memory, counted; and what the device can do at best, measured."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

GIB = 2**30
FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Cost:
    """What some work takes.

    Args:
        flops: operations of its matrix products and convolutions, a multiplication and an addition each, as executed:
            fused attention has two products forward and five backward, where it makes the scores again.
        peak: the most bytes that tensors made by it take at one time: activations, what a backward pass needs,
            gradients. Weights, and what an operation needs inside itself, don't count.
    """

    flops: int
    peak: int


def count(work: Callable[[], Any]) -> Cost:
    """Do some work, on any device, and count; PyTorch's own formulas for operations.

    >>> count(lambda: torch.ones(2, 3) @ torch.ones(3, 5)).flops
    60

    Args:
        work: is called once.
    """
    with _Counter() as counter, _fused_on_meta():
        work()
    return Cost(counter.flops, counter.peak)


class _Counter(TorchDispatchMode):
    """Sees every operation, those of backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.peak = self._live = 0
        self._seen: set[int] = set()
        self._formulas: dict[Any, Callable[..., int]] = {
            **flop_registry,
            FUSED: _fused,
            FUSED_BACKWARD: _fused_backward,
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func._overloadpacket in self._formulas:
            self.flops += self._formulas[func._overloadpacket](*args, **kwargs, out_val=out)
        made = [x.untyped_storage() for x in tree_leaves(out) if isinstance(x, Tensor)]
        for storage in (x for x in made if x._cdata not in self._seen and not _is_among(x, args)):
            self._seen.add(storage._cdata)
            self._live += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self._live)
        return out

    def _forget(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self._live -= size


def _is_among(storage: torch.UntypedStorage, args: Any) -> bool:
    """Whether it belongs to a tensor of some arguments: the result is a view, or was written in place."""
    return any(x.untyped_storage() is storage for x in tree_leaves(args) if isinstance(x, Tensor))


def _fused(q: Tensor, k: Tensor, *others: Any, **named: Any) -> int:
    return 2 * _product(q, k)


def _fused_backward(grad: Tensor, q: Tensor, k: Tensor, *others: Any, **named: Any) -> int:
    return 5 * _product(q, k)


def _product(q: Tensor, k: Tensor) -> int:
    """Of Q Kᵀ."""
    return 2 * q.numel() * k.shape[-2]


@contextmanager
def _fused_on_meta() -> Iterator[None]:
    """Keep attention in one piece on the meta device, as it is on all others; PyTorch would split it there.

    Takes the function's place by name, so that what a backward pass computes again goes the same way.
    """
    split = F.scaled_dot_product_attention

    def attention(query: Tensor, *others: Any, **named: Any) -> Tensor:
        return (_attention if query.is_meta else split)(query, *others, **named)

    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = split


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    return FUSED(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """How long some work takes, to the end of what it gave the device to do.

    Args:
        work: is called once.
        device: that is waited for.

    Returns:
        seconds.
    """
    _wait_for(device)
    began = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Operations a second in the product of two large matrices: the device's ceiling.

    Args:
        device: to measure.
        dtype: of the matrices.
        repeats: at least 1, after one that warms up; the best counts.
    """
    n = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / min(seconds_of(lambda: a @ b, device) for _ in range(repeats + 1))
