"""A LoRA, added to the weights of a model for good: W ← W + α/r · B A (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from locinv_pl.errors import InputError

FACTOR = re.compile(
    r"(?P<part>unet|text_encoder|text_encoder_2|transformer)\.(?P<module>.+?)"
    r"(?:\.lora_linear_layer|\.lora|_lora)?\.(?P<factor>down|up|lora_A|lora_B)(?:\.default)?\.weight"
)
PROJECTIONS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""CLIP's names for what some files call as a UNet's layers are called."""


@torch.no_grad()
def add_lora(networks: Mapping[str, Any], path: Path, key: str) -> None:
    """Add a LoRA to networks.

    Args:
        networks: by component, such as "unet" and "text_encoder"; changed in place.
        path: a safetensors file, with the names of diffusers, of its older versions, or of kohya's trainer.
        key: names the file in errors, as in "model.lora=FILE".

    Raises:
        InputError: the file is missing, damaged or no LoRA, or is of another model.
    """
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    weights, scales = _read(path, key, networks)
    for name, weight in weights.items():
        match = FACTOR.fullmatch(name.replace(".processor.", "."))
        if match is None:
            raise InputError(f"{key}: {name} is no part of a LoRA that is known here; give another file")
        factor = "A" if match["factor"] in ("down", "lora_A") else "B"
        found.setdefault((match["part"], match["module"]), {})[factor] = weight
    if not found:
        raise InputError(f"{key}: holds no LoRA; give a file with lora_A and lora_B, or lora_down and lora_up")
    for (part, module), pair in found.items():
        layer = _layer(networks[part], module) if part in networks else None
        if layer is None or len(pair) < 2:
            raise InputError(f"{key}: is of another model: this one has no layer {part}.{module}, or half of it lacks")
        A, B = (pair[factor].to(layer.weight.device, torch.float32) for factor in "AB")
        change = scales.get(part, 1.0) * (B.flatten(1) @ A.flatten(1))
        if change.numel() != layer.weight.numel():
            raise InputError(f"{key}: is of another model: {part}.{module} has {tuple(layer.weight.shape)} weights")
        layer.weight.data = (layer.weight.float() + change.view_as(layer.weight)).to(layer.weight.dtype)


def _layer(network: nn.Module, name: str) -> Any:
    """A layer by the names that there are for it; None where there is none."""
    text = re.sub(r"(?<=self_attn\.)to_\w+", lambda match: PROJECTIONS.get(match[0], match[0]), name)
    for path in (name, f"{name}.0", text, text.removeprefix("text_model.")):
        try:
            layer = network.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(getattr(layer, "weight", None), Tensor):
            return layer
    return None


def _read(path: Path, key: str, networks: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The factors by diffusers' names, with their α/r in them where each has its own, and α/r of whole components."""
    from diffusers.loaders import FluxLoraLoaderMixin, StableDiffusionLoraLoaderMixin

    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            about = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except (SafetensorError, OSError, ValueError):
        raise InputError(f"{key}: no such file, or no safetensors file; give a LoRA's .safetensors") from None
    for name in [name for name in weights if name.endswith(".alpha")]:
        alpha, module = weights.pop(name).item(), name.removesuffix(".alpha")
        for up, down in ((".lora_up.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_A.weight")):
            if module + up in weights and module + down in weights:
                weights[module + up] = weights[module + up] * (alpha / len(weights[module + down]))
    unet, transformer = networks.get("unet"), type(networks.get("transformer")).__name__
    try:
        if transformer.startswith("Flux"):
            named = FluxLoraLoaderMixin.lora_state_dict(weights)
        else:
            named = StableDiffusionLoraLoaderMixin.lora_state_dict(weights, unet_config=unet and unet.config)[0]
    except (ValueError, KeyError) as error:
        raise InputError(f"{key}: can't be read as a LoRA ({error}); give another file") from None
    scales = {name.removesuffix(".r"): about[name.removesuffix("r") + "lora_alpha"] / r for name, r in about.items()
              if name.endswith(".r") and name.removesuffix("r") + "lora_alpha" in about}  # fmt: skip
    return named, scales
