"""The authors' way on the same engine: every saving can be turned off, alone or all together.

The published code of LocInv and of DPL, for Stable Diffusion 1.4, runs the whole UNet in fp32 for every gradient step,
with gradients for all weights but the attention projections', both halves of the guidance, and explicit softmax
attention. Here a :class:`Reference` backbone does the same under the engine's own functions; results stay the same to
rounding. Joint attention is always fused: its maps are a product of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from locinv_pl.networks.attention import AttentionHook, AttentionHooks, Context, CrossAttentionMaps, Grid, Layer
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.prefix import Prefix

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")


@dataclass(frozen=True)
class Savings:
    """What passes leave out; none changes the results.

    Args:
        frozen_weights: no gradients for weights.
        stop_at_maps: token steps leave the UNet after the last map.
        prefix: what doesn't depend on the text is computed once for all steps at a timestep.
        conditional_once: null-text steps compute the unconditional half alone.
        fused_attention: probabilities are explicit only where maps are read.
    """

    frozen_weights: bool = True
    stop_at_maps: bool = True
    prefix: bool = True
    conditional_once: bool = True
    fused_attention: bool = True


SAVINGS = tuple(f.name for f in fields(Savings))
NONE = Savings(**dict.fromkeys(SAVINGS, False))
"""The authors' way."""


class _Explicit:
    """Has every attention layer compute its probabilities."""

    def wants(self, layer: Layer) -> bool:
        return True

    def __call__(self, probs: Tensor, layer: Layer) -> Tensor:
        return probs


class Reference(Backbone):
    """A backbone that does without some savings; :meth:`of` makes one of any architecture."""

    savings: Savings
    _conditional: Context | None

    @staticmethod
    def of(backbone: Backbone, savings: Savings) -> Backbone:
        """A backbone of the same architecture.

        Args:
            backbone: whose networks it shares.
            savings: those that it makes.
        """
        kind: Any = type("Reference", (Reference, type(backbone)), {})
        limited: Reference = kind.__new__(kind)
        limited._limit(backbone, savings)
        return limited

    def _limit(self, backbone: Backbone, savings: Savings) -> None:
        vars(self).update(vars(backbone))
        self.savings = savings
        self._graphs = self._graphs if savings == Savings() else None
        self._conditional = None
        self._guided = {}

    def _run(
        self, z: Tensor, t: Tensor, context: Context, hook: AttentionHook | None = None, prefix: Prefix | None = None
    ) -> Tensor:
        if hook is not None:
            self._conditional = Context(*(states.detach() for states in context.tensors))
        explicit: Any = _Explicit() if hook is None else AttentionHooks(hook, _Explicit())
        is_fused = self.savings.fused_attention or self.is_joint
        return super()._run(z, t, context, hook if is_fused else explicit, prefix)

    def prefix(self, z: Tensor, t: Tensor) -> Prefix:
        """Empty without that saving."""
        return super().prefix(z, t) if self.savings.prefix else Prefix(())

    def attention_maps(
        self, z: Tensor, t: Tensor, context: Context, grid: Grid, prefix: Prefix | None = None
    ) -> Tensor:
        """A_t; without ``stop_at_maps`` the UNet runs to its end."""
        if self.savings.stop_at_maps:
            return super().attention_maps(z, t, context, grid, prefix)
        maps = CrossAttentionMaps(grid, names=self.map_layers)
        self._run(z, t, context, maps, prefix)
        return maps.A

    def predict(
        self,
        z: Tensor,
        t: Tensor,
        context: Context,
        hook: AttentionHook | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """f(z_t, t, context); a pass without a hook is one of the null text.

        Without ``conditional_once`` it carries the conditional half along, with the context of the last pass that
        read maps. That half has its own graph and changes neither the value nor ∂/∂∅.
        """
        cond = self._conditional
        if hook is not None or self.savings.conditional_once or cond is None:
            return super().predict(z, t, context, hook, prefix)
        both = Context.cat([context, cond])
        twice = None if prefix is None else prefix.pick(torch.arange(len(z)).repeat(2))
        null, conditional = super().predict(torch.cat([z, z]), t, both, None, twice).chunk(2)
        return null + (conditional - conditional.detach())


@contextmanager
def with_savings(backbone: Backbone, savings: Savings) -> Iterator[Backbone]:
    """The backbone with some savings only; weights are frozen again, and their gradients dropped, afterwards.

    Early stops that shrink a batch need ``conditional_once``: the conditional half is that of the whole batch.

    Args:
        backbone: with all savings.
        savings: those to keep.
    """
    weights = [] if savings.frozen_weights else list(trainable(backbone))
    for weight in weights:
        weight.requires_grad_()
    try:
        yield Reference.of(backbone, savings)
    finally:
        for weight in weights:
            weight.requires_grad_(False).grad = None


def trainable(backbone: Backbone) -> Iterator[nn.Parameter]:
    """What the authors' code leaves trainable: UNet and text encoder but for the UNet's attention projections.

    Args:
        backbone: whose weights.
    """
    for network in backbone.text.networks:
        yield from network.parameters()
    for name, weight in backbone.denoiser.named_parameters():
        if not any(f".{projection}." in name for projection in PROJECTIONS):
            yield weight


TITLES = {
    "frozen_weights": "no gradients for weights",
    "stop_at_maps": "token steps end after the last map",
    "conditional_once": "the conditional half once",
    "prefix": "what needs no text once",
    "fused_attention": "fused attention",
}


def ladder() -> dict[str, Savings]:
    """From the authors' way to ours, a saving more in every row."""
    rows, made = {}, NONE
    for key, title in TITLES.items():
        made = replace(made, **{key: True})
        rows[f"+ {title}"] = made
    return rows


def without() -> dict[str, Savings]:
    """Ours with one saving less."""
    return {f"without: {title}": replace(Savings(), **{key: False}) for key, title in TITLES.items()}
