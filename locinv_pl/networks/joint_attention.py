"""Reading and changing the joint attention of MM-DiT transformers, in which text and image look at each other.

Attention itself stays fused. The maps are its image-to-text block, renormalised: A = softmax over the text's keys of
q_image · k_textᵀ / √d, which sums to 1 over the text as cross-attention does. An edit takes over queries and keys of
the image, and no probabilities.

Source: Esser et al., Scaling Rectified Flow Transformers, arXiv 2403.03206, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from locinv_pl.networks.attention import AttentionHook, Layer, attention_layers
from locinv_pl.networks.forwards import use_forwards


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
    layers = {} if hook is None else attention_layers(transformer)
    with use_forwards({layer: _JointAttention(name, layer, hook, text_keys) for name, layer in layers.items()}):
        yield


def text_values(transformer: nn.Module) -> tuple[nn.Module, ...]:
    """The modules that make the text's values, one of every joint layer.

    Args:
        transformer: with diffusers' joint attention layers.
    """
    layers = attention_layers(transformer).values()
    return tuple(layer.add_v_proj for layer in layers if getattr(layer, "add_v_proj", None) is not None)


class _JointAttention:
    """A layer's forward pass; a layer without text is the image's self-attention alone.

    Args:
        name: the layer's.
        attn: the layer.
        hook: sees its maps.
        text_keys: L.
    """

    def __init__(self, name: str, attn: Any, hook: Any, text_keys: int):
        self.name, self.attn, self.hook, self.text_keys = name, attn, hook, text_keys

    def __call__(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Any:
        attn, N = self.attn, hidden_states.shape[1]
        q, k, v = self._split(hidden_states, attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k)
        inside = Layer(self.name, False, N, N)
        if hasattr(self.hook, "take"):
            q, k = self.hook.take(q, k, inside)
        elif self.hook.wants(inside):
            self.hook((q @ k.transpose(-1, -2) * attn.scale).float().softmax(-1), inside)
        if encoder_hidden_states is not None:
            norms = attn.norm_added_q, attn.norm_added_k
            text = self._split(encoder_hidden_states, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, *norms)
            across = Layer(self.name, True, N, self.text_keys)
            if self.hook.wants(across):
                keys = text[1][:, :, : self.text_keys]
                self.hook((q @ keys.transpose(-1, -2) * attn.scale).float().softmax(-1), across)
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
