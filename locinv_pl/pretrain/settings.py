"""All settings of a pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from locinv_pl.pretrain.optimization import Optimization


@dataclass(frozen=True)
class VaeStage:
    """The settings of a VAE's training; see :class:`locinv_pl.pretrain.vae.VaeModule`.

    Args:
        optimization: steps, batch size, learning rate and the other settings of AdamW.
        channels: widths of the levels; each further one halves the resolution.
        latent_channels: C of a latent.
        crop: side of the random crops in pixels.
        kl_weight: weight of the KL divergence in the loss.
        train_encoder: False trains the decoder alone, so that latents stay as they are.
        start: the folder of an earlier VAE to go on from; none by default.
    """

    optimization: Optimization
    channels: tuple[int, ...] = (16, 32, 64)
    latent_channels: int = 4
    crop: int = 64
    kl_weight: float = 1e-3
    train_encoder: bool = True
    start: str | None = None


@dataclass(frozen=True)
class ClipStage:
    """The settings of CLIP's training.

    Args:
        optimization: steps, batch size, learning rate and the other settings of AdamW.
        patch: side of the image tower's patches in pixels.
        hidden: width of both towers and of the joint space.
        layers: layers of the image tower.
    """

    optimization: Optimization
    patch: int = 16
    hidden: int = 128
    layers: int = 4


@dataclass(frozen=True)
class RecognizerStage:
    """The settings of the recogniser's training, on scenes of its own.

    Args:
        optimization: steps, batch size, learning rate and the other settings of AdamW.
        channels: widths of the U-Net's levels.
        num_scenes: the number of scenes.
        fault_rate: share of their objects, in [0, 1], that are half gone, gone or smudged.
    """

    optimization: Optimization
    channels: tuple[int, ...] = (32, 64, 128)
    num_scenes: int = 48000
    fault_rate: float = 0.3


@dataclass(frozen=True)
class DiffusionStage:
    """The settings of the UNet's training; see :class:`locinv_pl.pretrain.diffusion.DiffusionModule`.

    Args:
        optimization: steps, batch size, learning rate and the other settings of AdamW.
        channels: widths of the UNet's levels.
        heads: attention heads of a layer.
        text_encoder: "joint" trains a text encoder together with the UNet, "clip" takes CLIP's text tower as it is.
        text_layers: layers of the text encoder that "joint" trains.
        null_probability: share of the captions that the empty prompt replaces, in [0, 1].
        snr_bounds: the lower and the upper bound of the loss's weight.
        noise_offset: standard deviation of the constant added to every channel's noise.
        start: "embedded" or the folder of an earlier model, whose UNet, text encoder and tokenizer the training goes on
            from; none by default.
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
class ConsistencyStage:
    """The settings of a distillation to few steps; see :class:`locinv_pl.pretrain.consistency.ConsistencyModule`.

    Args:
        optimization: steps, batch size, learning rate and the other settings of AdamW.
        rank: r of the LoRA.
        guidance_scale: the bounds that the teacher's w is drawn between; 4 and 8 by default.
        num_steps: the steps of the teacher's DDIM, 1 to 1000; 50 by default.
        start: "embedded" or the folder of the model to distil; the UNet of this training by default.
    """

    optimization: Optimization
    rank: int = 16
    guidance_scale: tuple[float, float] = (4.0, 8.0)
    num_steps: int = 50
    start: str | None = None


@dataclass(frozen=True)
class FlowStage:
    """The settings of the flow transformer's training, together with its two text towers.

    Args:
        optimization: steps, batch size, learning rate and the other settings of AdamW.
        vae: the settings of the VAE that it has of its own.
        width: width of the transformer.
        layers: its number of blocks.
        heads: attention heads of a block.
        text_layers: layers of each text tower.
        null_probability: share of the captions that the empty prompt replaces, in [0, 1].
        start: "embedded_sd3" or the folder of an earlier model, whose transformer, towers and tokenizer the training
            goes on from; none by default.
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
        consistency: those of its distillation to few steps, where there is to be one.
        flow: the flow transformer's, where there is to be one.
        world: the world that scenes are drawn from, "core" (the default) or "full".
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
    consistency: ConsistencyStage | None = None
    flow: FlowStage | None = None
    world: str = "core"
    counts: Mapping[int, float] = field(default_factory=dict)
    num_scenes: int = 48000
    size: int = 128
    seed: int = 0
    max_length: int = 24
    trainer: Mapping[str, Any] = field(default_factory=dict)
