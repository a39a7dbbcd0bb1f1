"""Reading and changing a UNet's attention, and leaving it as it was.

One mechanism: :func:`control_attention` gives every attention layer another forward pass for the length of
a ``with`` block. A hook sees the probabilities of the layers that it asks for and may replace them;
:class:`CrossAttentionMaps` is the hook that reads A_t. All other layers run fused attention.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from locinv_pl.networks.forwards import use_forwards

Grid = tuple[int, int]
FUSED = ("to_qkv", "to_keys", "to_values")
"""Buffers that hold several layers' weights."""


class Context(NamedTuple):
    """The text that a denoiser is given.

    Keys and values are one tensor in Stable Diffusion; LocInv may let dynamic tokens move the keys alone.

    Args:
        keys: states that every layer's K is projected from, (B, L, D).
        values: states that its V is projected from, (B, L, D).
        pooled: what else the denoiser is told of the whole prompt, (B, P): pooled states, which enter beside the
            timestep, or the mask of its tokens; None where a model takes nothing.
    """

    keys: Tensor
    values: Tensor
    pooled: Tensor | None = None

    @classmethod
    def of(cls, states: Tensor, pooled: Tensor | None = None) -> Context:
        """The same states for keys and values."""
        return cls(states, states, pooled)

    @classmethod
    def cat(cls, contexts: Sequence[Context]) -> Context:
        """Those of several batches as one."""
        pooled = [context.pooled for context in contexts if context.pooled is not None]
        keys = torch.cat([context.keys for context in contexts])
        is_one = all(context.values is context.keys for context in contexts)
        values = keys if is_one else torch.cat([context.values for context in contexts])
        return cls(keys, values, torch.cat(pooled) if pooled else None)

    def with_states(self, keys: Tensor, values: Tensor | None = None) -> Context:
        """Other states beside the same pooled ones; the values are the keys by default."""
        return Context(keys, keys if values is None else values, self.pooled)

    def expand(self, B: int) -> Context:
        """The context of one prompt, for B images."""
        return self._each(lambda states: states.expand(B, *states.shape[1:]))

    def pick(self, images: Any) -> Context:
        """The context of some images of the batch.

        Args:
            images: a slice, numbers (b,) or a mask (B,).
        """
        return self._each(lambda states: states[images])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Context:
        """All states changed; one tensor stays one tensor."""
        keys, pooled = change(self.keys), None if self.pooled is None else change(self.pooled)
        return Context(keys, keys if self.values is self.keys else change(self.values), pooled)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The states that there are."""
        return tuple(states for states in self if states is not None)

    def to(self, dtype: torch.dtype) -> Context:
        """In another type."""
        return self._each(lambda states: states.to(dtype))


@dataclass(frozen=True)
class Layer:
    """One call of an attention layer.

    Args:
        name: in the UNet, such as "mid_block.attentions.0.transformer_blocks.0.attn2".
        is_cross: whether it looks at the text, not at the image itself.
        queries: their number, r c.
        keys: their number, L or r c.
    """

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


@runtime_checkable
class ImageHook(AttentionHook, Protocol):
    """A hook that, where text and image attend to each other in one layer, gives other queries and keys of the image.

    There, what it answers when it is called is not used.
    """

    def take(self, q: Tensor, k: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
        """Take queries and keys (B, heads, queries, d), give those to use."""


@runtime_checkable
class SharingHook(AttentionHook, Protocol):
    """A hook that gives some rows of the batch the keys and values of others, in self-attention of a UNet."""

    def share(self, k: Tensor, v: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Tensor | None]:
        """Take keys and values (B, heads, keys, d), give those to use; called for every layer, in the pass's order.

        The third answer is added to the scores before their softmax, (B, 1, queries, keys); None adds nothing.
        """


class MapsComplete(Exception):
    """Leaves a UNet's forward pass: every map that was asked for is there."""


class CrossAttentionMaps:
    """Reads A_t: cross-attention at one resolution, averaged over heads and layers.

    Args:
        grid: (r, c), the query grid of the layers to read.
        stop_after: leave the forward pass (:class:`MapsComplete`) once this many layers were read;
            never by default. Nothing after the last r x c layer can change A_t.
        names: the layers to read, of those with that grid; all by default.
    """

    def __init__(self, grid: Grid, stop_after: int | None = None, names: Collection[str] | None = None):
        self.grid, self.names = grid, names
        self.stop_after = stop_after
        self.layers = 0
        self._sum: Tensor | None = None

    def wants(self, layer: Layer) -> bool:
        """Cross-attention of this grid."""
        is_meant = self.names is None or layer.name in self.names
        return layer.is_cross and layer.queries == self.grid[0] * self.grid[1] and is_meant

    def __call__(self, probs: Tensor, layer: Layer) -> Tensor:
        """Add a layer's maps and leave them as they are."""
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
        grid: (r, c), of the layers to read; n = r c cells.
    """

    def __init__(self, grid: Grid):
        self.grid, self._calls = grid, 0
        self._sum: Tensor | None = None

    def wants(self, layer: Layer) -> bool:
        """Self-attention of this grid."""
        return not layer.is_cross and layer.queries == self.grid[0] * self.grid[1]

    def __call__(self, probs: Tensor, layer: Layer) -> Tensor:
        """Add a layer's maps and leave them as they are."""
        mean = probs.float().mean(1)
        self._sum = mean if self._sum is None else self._sum + mean
        self._calls += 1
        return probs

    @property
    def mean(self) -> Tensor:
        """The mean, (B, n, n), fp32; rows sum to 1."""
        if self._sum is None:
            raise RuntimeError(f"no self-attention layer with a {self.grid[0]}x{self.grid[1]} grid has run")
        return self._sum / self._calls


class AttentionHooks:
    """Several hooks, one after the other.

    Args:
        hooks: in their order; each sees what the one before it answers.
    """

    def __init__(self, *hooks: AttentionHook):
        self.hooks = hooks

    def wants(self, layer: Layer) -> bool:
        """What one of the hooks wants."""
        return any(hook.wants(layer) for hook in self.hooks)

    def __call__(self, probs: Tensor, layer: Layer) -> Tensor:
        """Give the probabilities from hook to hook, in order."""
        for hook in self.hooks:
            if hook.wants(layer):
                probs = hook(probs, layer)
        return probs


@contextmanager
def control_attention(unet: nn.Module, context: Context, hook: AttentionHook | None = None) -> Iterator[None]:
    """Run ``unet`` with ``hook`` on its attention; restores the forward passes whatever happens.

    Inside, cross-attention looks at ``context``. The UNet's own argument ``encoder_hidden_states`` must be given, but
    isn't read.

    Args:
        unet: the UNet, or any module with diffusers' attention layers.
        context: keys and values, (B, L, D) each, in the UNet's type.
        hook: reads or changes probabilities; None leaves all layers to fused attention.
    """
    layers = attention_layers(unet)
    cross = [layer for layer in layers.values() if layer.is_cross_attention]
    K = _project(unet, "to_keys", [layer.to_k for layer in cross], context.keys)
    V = _project(unet, "to_values", [layer.to_v for layer in cross], context.values)
    text = dict(zip(cross, zip(K, V, strict=True), strict=True))
    with use_forwards({layer: _Attention(name, layer, hook, text.get(layer)) for name, layer in layers.items()}):
        yield


_LAYERS: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()


def attention_layers(module: nn.Module) -> dict[str, Any]:
    """The attention layers of a module by name, looked for once.

    Args:
        module: a UNet or a block of one.
    """
    if module not in _LAYERS:
        _LAYERS[module] = {name: layer for name, layer in module.named_modules() if isinstance(layer, Attention)}
    return _LAYERS[module]


class _Attention:
    """softmax(Q Kᵀ / √d) V, with a seam between the softmax and the product; a layer's forward pass.

    Args:
        name: the layer's.
        attn: the layer.
        hook: sees the probabilities that it wants.
        text: K and V of the text, (B, L, heads * d) each; None where the layer looks at the hidden states themselves.
    """

    def __init__(self, name: str, attn: Any, hook: AttentionHook | None, text: tuple[Tensor, Tensor] | None):
        self.name, self.attn, self.hook, self.text = name, attn, hook, text

    def __call__(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        attn, heads = self.attn, (self.attn.heads, -1)
        if self.text is None:
            qkv = _project(attn, "to_qkv", [attn.to_q, attn.to_k, attn.to_v], hidden_states)
        else:
            qkv = attn.to_q(hidden_states), *self.text
        q, k, v = (x.unflatten(-1, heads).transpose(1, 2) for x in qkv)
        layer = Layer(self.name, self.text is not None, q.shape[-2], k.shape[-2])
        if self.text is None and isinstance(self.hook, SharingHook):
            k, v, bias = self.hook.share(k, v, layer)
            attention_mask = attention_mask if bias is None else bias
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


@torch.no_grad()
def fuse_projections(unet: nn.Module) -> None:
    """One matrix product where several layers take the same input; they keep their weights, as parts of one.

    These are Q, K and V of every self-attention, K of all cross-attention layers, and V of all of them.

    Args:
        unet: changed in place.
    """
    layers = attention_layers(unet).values()
    cross = [layer for layer in layers if layer.is_cross_attention]
    for layer in layers:
        if not layer.is_cross_attention:
            _stack(layer, "to_qkv", [layer.to_q, layer.to_k, layer.to_v])
    _stack(unet, "to_keys", [layer.to_k for layer in cross])
    _stack(unet, "to_values", [layer.to_v for layer in cross])


def release_projections(denoiser: nn.Module) -> None:
    """Undo :func:`fuse_projections`: every layer has its weights for itself again, once they move.

    Args:
        denoiser: changed in place.
    """
    for module in denoiser.modules():
        for name in FUSED:
            module._buffers.pop(name, None)


def _stack(module: nn.Module, name: str, layers: Sequence[nn.Linear]) -> None:
    """Let a module hold the weights of several layers as one matrix; not where they have biases."""
    if not layers or any(layer.bias is not None for layer in layers):
        return
    weight = torch.cat([layer.weight for layer in layers])
    for layer, part in zip(layers, weight.split([len(layer.weight) for layer in layers]), strict=True):
        layer.weight = nn.Parameter(part, requires_grad=False)
    module.register_buffer(name, weight, persistent=False)


def _project(module: nn.Module, name: str, layers: Sequence[nn.Linear], states: Tensor) -> Sequence[Tensor]:
    """What several layers make of the same states, in one product where the module has their weights as one."""
    weight = module._buffers.get(name)
    if weight is None:
        return [layer(states) for layer in layers]
    return F.linear(states, weight).split([layer.out_features for layer in layers], dim=-1)


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(Q Kᵀ / √d) V in one; through fp32 where half-precision gradients take several times as long."""
    if q.is_cpu and q.dtype != torch.float32 and (q.requires_grad or k.requires_grad or v.requires_grad):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask, scale=scale).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def maps_of(A: Tensor, weights: Tensor) -> Tensor:
    """A^k of given words: the mean over each word's tokens.

    >>> A = torch.tensor([[[[0.5, 0.3, 0.2]]]])  # one cell, three tokens
    >>> maps_of(A, torch.tensor([[[0.0, 0.5, 0.5]]]))  # of a word of two tokens
    tensor([[[[0.2500]]]])

    Args:
        A: A_t, (B, r, c, L).
        weights: (B, K, L), row k 1/n at the n tokens of word k, 0 elsewhere.

    Returns:
        A^k, (B, K, r, c).
    """
    return (A[:, None] * weights[:, :, None, None]).sum(-1)  # no matrix product: autocast would round it
