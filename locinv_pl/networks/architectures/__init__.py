"""What differs between text-to-image models, a file for each architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from locinv_pl.networks.architectures.stable_diffusion import StableDiffusion

ARCHITECTURES: dict[str, type[StableDiffusion]] = {}
"""By the pipeline's class that a model's model_index.json names; all others have Stable Diffusion's layout."""


def architecture_of(index: Mapping[str, Any]) -> type[StableDiffusion]:
    """The architecture of a model.

    Args:
        index: the content of its model_index.json; nothing where it has none.
    """
    return ARCHITECTURES.get(str(index.get("_class_name")), StableDiffusion)
