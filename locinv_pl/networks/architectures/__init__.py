"""What differs between text-to-image models, a file for each architecture; ``joint`` is what two of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from locinv_pl.networks.architectures.flux import Flux
from locinv_pl.networks.architectures.pixart import PixArtSigma
from locinv_pl.networks.architectures.sd3 import StableDiffusion3
from locinv_pl.networks.architectures.sdxl import StableDiffusionXL
from locinv_pl.networks.architectures.stable_diffusion import StableDiffusion
from locinv_pl.networks.backbone import Backbone

KINDS: tuple[type[Backbone], ...] = (StableDiffusionXL, StableDiffusion3, Flux, PixArtSigma)
ARCHITECTURES: dict[str, type[Backbone]] = {name: kind for kind in KINDS for name in kind.PIPELINES}
"""By the pipeline's class that a model's model_index.json names; all others are taken for Stable Diffusion's."""


def architecture_of(index: Mapping[str, Any]) -> type[Backbone]:
    """The architecture of a model.

    Args:
        index: the content of its model_index.json; nothing where it has none.
    """
    return ARCHITECTURES.get(str(index.get("_class_name")), StableDiffusion)
