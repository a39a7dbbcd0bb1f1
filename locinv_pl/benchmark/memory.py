"""What an inversion keeps in memory, by count: weights of every part, activations of every stage, and its results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from locinv_pl.benchmark.counting import GIB, Cost, count
from locinv_pl.benchmark.modes import Mode
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.offload import LARGE, QUANTIZERS

STAGES = {
    "text": ("prompts to states", ("text encoders",)),
    "encode": ("images to latents", ("VAE",)),
    "ddim": ("DDIM inversion", ("denoiser",)),
    "token": ("gradient steps on V_t", ("denoiser", "text encoders")),
    "null": ("gradient steps on ∅_t", ("denoiser",)),
    "step": ("steps of the reconstruction", ("denoiser",)),
    "decode": ("latents to images", ("VAE",)),
}
"""By name a stage's title, and the parts that it needs."""


def weights_of(backbone: Backbone, quantize: str | None = None) -> dict[str, float]:
    """Bytes of every part's weights, by the names of ``STAGES``.

    Args:
        backbone: its VAE, text encoders and denoiser count.
        quantize: how T5's matrices would be quantised, their scales left out.
    """
    parts = {"denoiser": [backbone.denoiser], "text encoders": backbone.text.networks, "VAE": [backbone.vae]}
    sizes: dict[str, float] = {}
    for part, nets in parts.items():
        sizes[part] = sum(weight.nbytes for net in nets for weight in net.parameters())
    if quantize is not None:
        large = [net for net in backbone.text.networks if type(net).__name__ == LARGE]
        weights = [layer.weight for net in large for layer in net.modules() if isinstance(layer, nn.Linear)]
        saved = [weight.numel() * (weight.itemsize - QUANTIZERS[quantize][1] / 8) for weight in weights]
        sizes["text encoders"] -= sum(saved)
    return sizes


def kept_of(mode: Mode, num_steps: int) -> dict[str, int]:
    """Bytes of what an inversion keeps until it is written, by its symbol.

    Args:
        mode: with a task, of any number of timesteps.
        num_steps: T of the whole inversion.
    """
    task, T = mode.task, num_steps
    null = task.empty.keys.expand(len(task.samples), -1, -1)
    fits = task.method.null_text.policy == "optimize" and mode.backbone.needs_null(task.method.guidance_scale)
    half = null.numel() * mode.backbone.dtype.itemsize
    return {
        "trajectory": (T + 1) * task.trajectory[0].nbytes,
        "V_t": T * task.embeddings.nbytes if task.method.tokens.policy == "optimize" else task.embeddings.nbytes,
        "∅_t": T * half if fits else null.nbytes // len(null),
        "maps": 2 * T * task.initial_maps[0].nbytes,
    }


def peaks_of(mode: Mode, costs: Mapping[str, Cost]) -> dict[str, int]:
    """Bytes of the activations of every stage that the method has, by its name.

    Args:
        mode: on any device.
        costs: of its phases.
    """
    backbone, task = mode.backbone, mode.task
    images = torch.stack([sample.image for sample in task.samples])

    @torch.no_grad()
    def read() -> None:
        backbone.encode_text(task.prompts.ids)
        backbone.encode_null()

    peaks = {name: costs[name].peak for name in ("ddim", "token", "null")}
    peaks["step"] = max(costs["conditional"].peak, costs["guided"].peak)
    works = {
        "text": read,
        "encode": lambda: backbone.encode(images),
        "decode": lambda: backbone.decode(task.trajectory[0]),
    }
    peaks |= {name: count(work).peak for name, work in works.items()}
    return {name: peaks[name] for name in STAGES if peaks[name]}


def memory_of(mode: Mode, costs: Mapping[str, Cost], num_steps: int, quantize: str | None = None) -> dict[str, Any]:
    """What an inversion takes, with everything on the device and with the parts there that a stage needs.

    Args:
        mode: counted.
        costs: of its phases.
        num_steps: T of the whole inversion.
        quantize: how T5's matrices would be quantised.

    Returns:
        plain values in GiB: weights, what is kept, and the stages with their sums.
    """
    weights, kept = weights_of(mode.backbone, quantize), kept_of(mode, num_steps)
    stages = {}
    for name, peak in peaks_of(mode, costs).items():
        title, parts = STAGES[name]
        others = peak + sum(kept.values())
        stages[title] = {
            "needs": list(parts),
            "activations_gib": peak / GIB,
            "whole_gib": (sum(weights.values()) + others) / GIB,
            "offload_gib": (sum(weights[part] for part in parts) + others) / GIB,
        }
    return {
        "weights_gib": {name: size / GIB for name, size in weights.items()},
        "kept_gib": {name: size / GIB for name, size in kept.items()},
        "stages": stages,
    }
