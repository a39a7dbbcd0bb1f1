"""What a model is loaded with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class LoadOptions:
    """What a model is loaded with, besides its name, the type of its weights and the device.

    Args:
        lora: a LoRA, which is added to the weights: its .safetensors file, a folder or a hub id with one by diffusers'
            name, or "embedded_lcm", by which this package's first model was distilled to few steps.
        scheduler: what is to be otherwise in the configuration of the model's scheduler, by diffusers' names, with
            ``_class_name`` for another class, such as LCMScheduler; what a LoRA for few steps asks for.
        layout: of a checkpoint in one file, the folder of a model of its kind in diffusers' layout, for its
            configurations and its tokenizer, and for all but the transformer of Stable Diffusion 3 or FLUX; by default
            the hub's or its cache's.
        offload: keep on the device the networks that are needed, and the others on the CPU.
        quantize: how T5's weights are quantised, a name of :data:`~locinv_pl.networks.offload.QUANTIZERS`; None leaves
            them as they are.
    """

    lora: str | None = None
    scheduler: Mapping[str, Any] | None = None
    layout: str | None = None
    offload: bool = False
    quantize: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that aren't the default, as keyword arguments of :func:`locinv_pl.load_backbone`.

        >>> LoadOptions(lora="style.safetensors").given
        {'lora': 'style.safetensors'}
        """
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}


OPTIONS = tuple(field.name for field in fields(LoadOptions))
"""Their names."""
ORIGIN = ("lora", "scheduler", "layout", "quantize")
"""Those that change the weights or the schedule, and with them results."""
