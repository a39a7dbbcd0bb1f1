"""Stable Diffusion 1.5's architecture with random weights, made on the spot: for speed, sizes and counts."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from locinv_pl.assets import EMBEDDED
from locinv_pl.networks.architectures.stable_diffusion import StableDiffusion
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.tuning import Tuning

NAME = "sd15-random"


def random_sd15(
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    tuning: Tuning = Tuning(),
    seed: int = 0,
) -> Backbone:
    """All networks of Stable Diffusion 1.5 at their real sizes, 1.07 billion random weights.

    The tokenizer is the embedded model's at CLIP's length: it knows fewer words and gives as many tokens.

    Args:
        dtype: of the weights.
        device: "meta" makes shapes without numbers.
        tuning: how the networks are run.
        seed: of the weights.
    """
    with torch.device(device), torch.random.fork_rng():
        torch.manual_seed(seed)
        unet: Any = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        vae: Any = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )
        text_encoder: Any = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", model_max_length=77)
    for net in (vae, text_encoder, unet):
        nn.Module.to(net, dtype)  # diffusers' own talks about it
    return StableDiffusion(NAME, vae, text_encoder, tokenizer, unet, scheduler, tuning)
