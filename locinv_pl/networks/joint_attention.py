"""Reading and changing the joint attention of MM-DiT transformers, in which text and image look at each other.

Attention itself stays fused. The maps are its image-to-text block, renormalised: A = softmax over the text's keys of
q_image · k_textᵀ / √d, which sums to 1 over the text as cross-attention does. An edit takes over queries and keys of
the image, and no probabilities.

FLUX has an attention of its own: queries and keys are rotated by their places, and in its single blocks text and image
are projected as one row of tokens, the text first.

Source: Esser et al., Scaling Rectified Flow Transformers, arXiv 2403.03206, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from locinv_pl.networks.attention import AttentionHook, ImageHook, Layer, attention_layers
from locinv_pl.networks.forwards import Forward, own_forwards, use_forwards


@contextmanager
def control_joint_attention(
    transformer: nn.Module, text_keys: int, hook: AttentionHook | None = None
) -> Iterator[None]:
    """Run ``transformer`` with ``hook`` on its attention; restores the forward passes whatever happens.

    Args:
        transformer: any module with diffusers' joint attention layers.
        text_keys: L, the text's first tokens, which maps are of.
        hook: reads the image-to-text maps of the layers that it wants, and, where it can ``take``, gives other queries
            and keys of the image. None leaves all layers as they are.
    """
    if hook is None:
        yield
        return
    layers = attention_layers(transformer).items()
    with use_forwards({layer: _JointAttention(name, layer, hook, text_keys) for name, layer in layers}):
        yield


def text_values(transformer: nn.Module) -> tuple[nn.Module, ...]:
    """The modules that make the text's values, one of every joint layer.

    Args:
        transformer: with diffusers' joint attention layers.
    """
    layers = attention_layers(transformer).values()
    return tuple(layer.add_v_proj for layer in layers if getattr(layer, "add_v_proj", None) is not None)


def flux_layers(transformer: nn.Module) -> dict[str, Any]:
    """The attention layers of FLUX's transformer by name, those of its double blocks first.

    Args:
        transformer: diffusers' FluxTransformer2DModel.
    """
    kinds = ("transformer_blocks", "single_transformer_blocks")
    blocks = {f"{kind}.{n}": block for kind in kinds for n, block in enumerate(getattr(transformer, kind))}
    return {f"{name}.attn": block.attn for name, block in blocks.items()}


class TextValues(nn.Module):
    """What makes the text's values of one of FLUX's layers, so that they can be kept while the image's go on.

    Args:
        attn: the layer, of a double or of a single block.
    """

    def __init__(self, attn: Any):
        super().__init__()
        self.project = attn.to_v if attn.added_kv_proj_dim is None else attn.add_v_proj

    def forward(self, text: Tensor) -> Tensor:
        """V of the text's states (B, L, D)."""
        return self.project(text)


@contextmanager
def control_flux_attention(
    layers: Mapping[str, Any], values: Mapping[str, TextValues], text_keys: int, hook: AttentionHook | None = None
) -> Iterator[None]:
    """As :func:`control_joint_attention`, for FLUX.

    Args:
        layers: as :func:`flux_layers` finds them.
        values: what makes the text's values of each; where another function stands in the place of their forward
            passes, it is asked.
        text_keys: L, the text's tokens.
        hook: reads maps and changes queries and keys of the image. None leaves all layers as they are, but for the
            text's values.
    """
    if hook is None and not own_forwards(values.values()):
        yield
        return
    with use_forwards(
        {layer: _FluxAttention(name, layer, hook, text_keys, values[name].forward) for name, layer in layers.items()}
    ):
        yield


class _JointAttention:
    """A layer's forward pass; a layer without text is the image's self-attention alone.

    Args:
        name: the layer's.
        attn: the layer.
        hook: sees its maps.
        text_keys: L.
    """

    def __init__(self, name: str, attn: Any, hook: AttentionHook | None, text_keys: int):
        self.name, self.attn, self.hook, self.text_keys = name, attn, hook, text_keys

    def __call__(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Any:
        attn, N = self.attn, hidden_states.shape[1]
        q, k, v = self._split(hidden_states, attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k)
        if encoder_hidden_states is None:
            q, k = self._look(q, k)
        else:
            norms = attn.norm_added_q, attn.norm_added_k
            text = self._split(encoder_hidden_states, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, *norms)
            q, k = self._look(q, k, text[1][:, :, : self.text_keys])
            q, k, v = (torch.cat(both, dim=2) for both in zip((q, k, v), text, strict=True))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).to(q.dtype)
        image = attn.to_out[1](attn.to_out[0](out[:, :N]))
        if encoder_hidden_states is None:
            return image
        return image, out[:, N:] if attn.context_pre_only else attn.to_add_out(out[:, N:])

    def _split(self, states: Tensor, *layers: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Q, K and V of some states, (B, heads, tokens, d) each."""
        q, k, v = (layer(states).unflatten(-1, (self.attn.heads, -1)).transpose(1, 2) for layer in layers[:3])
        norm_q, norm_k = layers[3:]
        return q if norm_q is None else norm_q(q), k if norm_k is None else norm_k(k), v

    def _look(self, q: Tensor, k: Tensor, text: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Show the hook what it wants.

        Args:
            q: the image's queries, (B, heads, N, d).
            k: its keys, of the same shape.
            text: the text's keys, (B, heads, L, d); None where the layer has none.

        Returns:
            queries and keys of the image to use.
        """
        if self.hook is None:
            return q, k
        scale, N = q.shape[-1] ** -0.5, q.shape[2]
        inside = Layer(self.name, False, N, N)
        if isinstance(self.hook, ImageHook):
            q, k = self.hook.take(q, k, inside)
        elif self.hook.wants(inside):
            self.hook((q @ k.transpose(-1, -2) * scale).float().softmax(-1), inside)
        across = Layer(self.name, True, N, self.text_keys)
        if text is not None and self.hook.wants(across):
            self.hook((q @ text.transpose(-1, -2) * scale).float().softmax(-1), across)
        return q, k


class _FluxAttention(_JointAttention):
    """A layer's forward pass.

    Args:
        name: the layer's.
        attn: the layer.
        hook: sees its maps; None only asks for the text's values.
        text_keys: L.
        text_values: makes the text's values of its states.
    """

    def __init__(self, name: str, attn: Any, hook: AttentionHook | None, text_keys: int, text_values: Forward):
        super().__init__(name, attn, hook, text_keys)
        self.text_values = text_values

    def __call__(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        image_rotary_emb: Any = None,
        **_: Any,
    ) -> Any:
        attn, L = self.attn, self.text_keys
        q, k = self._normed(hidden_states, attn.to_q, attn.norm_q), self._normed(hidden_states, attn.to_k, attn.norm_k)
        if encoder_hidden_states is None:
            text, image = hidden_states.split((L, hidden_states.shape[1] - L), dim=1)
        else:
            text, image = encoder_hidden_states, hidden_states
            q = torch.cat([self._normed(text, attn.add_q_proj, attn.norm_added_q), q], dim=1)
            k = torch.cat([self._normed(text, attn.add_k_proj, attn.norm_added_k), k], dim=1)
        v = torch.cat([self.text_values(text), attn.to_v(image)], dim=1)
        rotated: list[Any] = [apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (q, k)]
        q, k = (x.transpose(1, 2) for x in rotated)
        own = self._look(q[:, :, L:], k[:, :, L:], k[:, :, :L])
        if isinstance(self.hook, ImageHook):
            q, k = (torch.cat([x[:, :, :L], new], dim=2) for x, new in zip((q, k), own, strict=True))
        v = v.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).to(q.dtype)
        if encoder_hidden_states is None:
            return out
        text, image = out.split((L, out.shape[1] - L), dim=1)
        return attn.to_out[1](attn.to_out[0](image.contiguous())), attn.to_add_out(text.contiguous())

    def _normed(self, states: Tensor, layer: Any, norm: Any) -> Tensor:
        """Queries or keys, (B, tokens, heads, d): a prefix keeps them as FLUX's own forward pass has them."""
        return norm(layer(states).unflatten(-1, (self.attn.heads, -1)))
