"""Reading and changing a UNet's attention, and leaving it as it was.

One mechanism: :func:`control_attention` puts a processor on every attention layer for the length of
a ``with`` block. A hook sees the probabilities of the layers that it asks for and may replace them;
:class:`CrossAttentionMaps` is the hook that reads A_t. All other layers run fused attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

Grid = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """One call of an attention layer: its name in the UNet, its kind, its numbers of queries and keys."""

    name: str
    is_cross: bool
    queries: int
    keys: int


class AttentionHook(Protocol):
    """Sees and may change attention probabilities."""

    def wants(self, layer: Layer) -> bool:
        """Whether to compute this layer's probabilities explicitly."""

    def __call__(self, probs: Tensor, layer: Layer) -> Tensor:
        """Take probabilities (B, heads, queries, keys), give those to use."""


class MapsComplete(Exception):
    """Leaves a UNet's forward pass: every map that was asked for is there."""


class CrossAttentionMaps:
    """A_t: cross-attention at one resolution, averaged over heads and layers.

    Args:
        grid: (r, c), the query grid of the layers to read.
        stop_after: leave the forward pass (:class:`MapsComplete`) once this many layers were read;
            never by default. Nothing after the last r x c layer can change A_t.
    """

    def __init__(self, grid: Grid, stop_after: int | None = None):
        self.grid = grid
        self.stop_after = stop_after
        self.layers = 0
        self._sum: Tensor | None = None

    def wants(self, layer: Layer) -> bool:
        return layer.is_cross and layer.queries == self.grid[0] * self.grid[1]

    def __call__(self, probs: Tensor, layer: Layer) -> Tensor:
        mean = probs.float().mean(1)
        self._sum = mean if self._sum is None else self._sum + mean
        self.layers += 1
        if self.layers == self.stop_after:
            raise MapsComplete
        return probs

    @property
    def A(self) -> Tensor:
        """The maps, shape (B, r, c, L), fp32; over L they sum to 1."""
        if self._sum is None:
            raise RuntimeError(f"no cross-attention layer with a {self.grid[0]}x{self.grid[1]} grid has run")
        return (self._sum / self.layers).unflatten(1, self.grid)


class SelfAttentionMaps:
    """Self-attention at one resolution, averaged over heads, layers and all passes.

    Args:
        grid: of the layers to read.
    """

    def __init__(self, grid: Grid):
        self.grid, self._calls = grid, 0
        self._sum: Tensor | None = None

    def wants(self, layer: Layer) -> bool:
        return not layer.is_cross and layer.queries == self.grid[0] * self.grid[1]

    def __call__(self, probs: Tensor, layer: Layer) -> Tensor:
        mean = probs.float().mean(1)
        self._sum = mean if self._sum is None else self._sum + mean
        self._calls += 1
        return probs

    @property
    def mean(self) -> Tensor:
        """(B, n, n) for n cells."""
        if self._sum is None:
            raise RuntimeError(f"no self-attention layer with a {self.grid[0]}x{self.grid[1]} grid has run")
        return self._sum / self._calls


class AttentionHooks:
    """Several hooks, one after the other."""

    def __init__(self, *hooks: AttentionHook):
        self.hooks = hooks

    def wants(self, layer: Layer) -> bool:
        return any(hook.wants(layer) for hook in self.hooks)

    def __call__(self, probs: Tensor, layer: Layer) -> Tensor:
        for hook in self.hooks:
            if hook.wants(layer):
                probs = hook(probs, layer)
        return probs


@contextmanager
def control_attention(unet: nn.Module, hook: AttentionHook | None = None) -> Iterator[None]:
    """Run ``unet`` with ``hook`` on its attention; restores the processors whatever happens.

    Inside, ``cross_attention_kwargs={"values": tensor}`` gives cross-attention a context of its own
    for the values, so that ``encoder_hidden_states`` feeds the keys alone.
    """
    with use_processors({layer: _Processor(name, hook) for name, layer in attention_layers(unet).items()}):
        yield


@contextmanager
def use_processors(processors: Mapping[Any, Any]) -> Iterator[None]:
    """Give attention layers these processors; restores theirs whatever happens."""
    before = {layer: layer.processor for layer in processors}
    try:
        for layer, processor in processors.items():
            layer.processor = processor
        yield
    finally:
        for layer, processor in before.items():
            layer.processor = processor


_LAYERS: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()


def attention_layers(module: nn.Module) -> dict[str, Any]:
    """The attention layers of a module by name, looked for once."""
    if module not in _LAYERS:
        _LAYERS[module] = {name: layer for name, layer in module.named_modules() if isinstance(layer, Attention)}
    return _LAYERS[module]


class _Processor:
    """softmax(Q Kᵀ / √d) V, with a seam between the softmax and the product."""

    def __init__(self, name: str, hook: AttentionHook | None):
        self.name = name
        self.hook = hook

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        values: Tensor | None = None,
    ) -> Tensor:
        is_cross = encoder_hidden_states is not None
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        split = (attn.heads, -1)
        q = attn.to_q(hidden_states).unflatten(-1, split).transpose(1, 2)
        k = attn.to_k(context).unflatten(-1, split).transpose(1, 2)
        v = attn.to_v(values if is_cross and values is not None else context)
        v = v.unflatten(-1, split).transpose(1, 2)
        layer = Layer(self.name, is_cross, q.shape[-2], k.shape[-2])
        if self.hook is not None and self.hook.wants(layer):
            scores = q @ k.transpose(-1, -2) * attn.scale
            if attention_mask is not None:
                scores = scores + attention_mask
            probs = self.hook(scores.float().softmax(-1), layer)
            out = probs.to(v.dtype) @ v
        else:
            out = _fused(q, k, v, attention_mask, attn.scale)
        out = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(-2)))
        return out if attn.rescale_output_factor == 1 else out / attn.rescale_output_factor

    __call__.__signature__ = signature(__call__)  # type: ignore[attr-defined] # diffusers asks at every call


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(Q Kᵀ / √d) V in one; through fp32 where half-precision gradients take several times as long."""
    if q.is_cpu and q.dtype != torch.float32 and (q.requires_grad or k.requires_grad or v.requires_grad):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask, scale=scale).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def maps_of(A: Tensor, weights: Tensor) -> Tensor:
    """A^k of given words: the mean over each word's tokens.

    Args:
        A: shape (B, r, c, L).
        weights: shape (B, K, L), row k 1/n at the n tokens of word k.

    Returns:
        shape (B, K, r, c).
    """
    return (A[:, None] * weights[:, :, None, None]).sum(-1)  # no matrix product: autocast would round it
