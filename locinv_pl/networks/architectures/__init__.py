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
"""By the pipeline's class that a model's model_index.json names."""


def architecture_of(index: Mapping[str, Any]) -> type[Backbone]:
    """The architecture of a model, by its pipeline's class or, where that is no architecture's own, by its networks.

    Args:
        index: the content of its model_index.json, where each component stands as [library, class]; nothing where it
            has none.

    Returns:
        the architecture; Stable Diffusion's for all that is told apart by neither.

    >>> networks = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "vae": ["", "AutoencoderKL"]}
    >>> networks |= {"text_encoder": ["", "CLIPTextModel"], "unet": ["diffusers", "UNet2DConditionModel"]}
    >>> architecture_of({"_class_name": ["pipeline", "MyPipeline"], **networks}).__name__
    'StableDiffusionXL'
    """
    return ARCHITECTURES.get(str(index.get("_class_name"))) or next(
        (kind for kind in KINDS if all(_is_there(index, part, kind.PARTS[part]) for part in kind.networks(index))),
        StableDiffusion,
    )


def _is_there(index: Mapping[str, Any], part: str, kind: str) -> bool:
    return kind == (index.get(part) or ("", ""))[1]
