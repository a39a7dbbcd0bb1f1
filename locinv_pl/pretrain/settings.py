"""All settings of a pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from locinv_pl.pretrain.optimization import Optimization


@dataclass(frozen=True)
class VaeStage:
    """A VAE's training; ``start`` is a folder of an earlier VAE to go on from."""

    optimization: Optimization
    channels: tuple[int, ...] = (16, 32, 64)
    latent_channels: int = 4
    crop: int = 64
    kl_weight: float = 1e-3
    train_encoder: bool = True
    start: str | None = None


@dataclass(frozen=True)
class ClipStage:
    """CLIP's training."""

    optimization: Optimization
    patch: int = 16
    hidden: int = 128
    layers: int = 4


@dataclass(frozen=True)
class RecognizerStage:
    """The recogniser's training, on scenes of its own: ``fault_rate`` of their objects are half gone, gone or smudged.

    ``num_scenes``: how many there are.
    """

    optimization: Optimization
    channels: tuple[int, ...] = (32, 64, 128)
    num_scenes: int = 48000
    fault_rate: float = 0.3


@dataclass(frozen=True)
class DiffusionStage:
    """The UNet's training.

    ``text_encoder``: "joint" trains one along, "clip" takes CLIP's text tower as it is. ``start``: "embedded" or
    the folder of an earlier model whose UNet, text encoder and tokenizer to go on from.
    """

    optimization: Optimization
    channels: tuple[int, ...] = (32, 64, 128)
    heads: int = 4
    text_encoder: str = "joint"
    text_layers: int = 3
    null_probability: float = 0.1
    snr_bounds: tuple[float, float] = (0.25, 5.0)
    noise_offset: float = 0.1
    start: str | None = None


@dataclass(frozen=True)
class FlowStage:
    """The flow transformer's training, with its two text towers; ``vae`` is that of its own VAE.

    ``start``: "embedded_sd3" or the folder of an earlier model whose transformer, towers and tokenizer to go on from.
    """

    optimization: Optimization
    vae: VaeStage
    width: int = 192
    layers: int = 8
    heads: int = 6
    text_layers: int = 3
    null_probability: float = 0.1
    start: str | None = None


@dataclass(frozen=True)
class Recipe:
    """All settings of a pretraining.

    Args:
        vae, clip, recognizer, diffusion: the settings of each stage, in the order in which they are trained.
        flow: the flow transformer's, where there is to be one.
        world: what is drawn, "core" or "full".
        counts: how often a scene has one object, two, and so on; as the world has it by default.
        num_scenes: the number of scenes to train on; 48000 by default.
        size: side of the images in pixels.
        seed: starts the random numbers of weights, batches and noise; 0 by default.
        max_length: token positions of a prompt, start and end marks included; 24 by default.
        trainer: arguments of Lightning's Trainer.
    """

    vae: VaeStage
    clip: ClipStage
    recognizer: RecognizerStage
    diffusion: DiffusionStage
    flow: FlowStage | None = None
    world: str = "core"
    counts: Mapping[int, float] = field(default_factory=dict)
    num_scenes: int = 48000
    size: int = 128
    seed: int = 0
    max_length: int = 24
    trainer: Mapping[str, Any] = field(default_factory=dict)
