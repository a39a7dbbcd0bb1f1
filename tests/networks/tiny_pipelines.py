"""Tiny random models of other layouts than Stable Diffusion 1.x's, written with diffusers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import LENGTH, make_tokenizer


def clip(width: int, layers: int, projection: int = 0, **values: Any) -> Any:
    """A CLIP text encoder, with a projection of its pooled output where that has a width."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = make_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_factor=4.0,
        projection_dim=projection or width,
        **values,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def vae(channels: int, **values: Any) -> Any:
    """An autoencoder: 32x32 images, 16x16 latents."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=[8, 16],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=channels,
        norm_num_groups=4,
        scaling_factor=0.5,
        **values,
    )


def louder(network: torch.nn.Module, names: tuple[str, ...], factor: float) -> None:
    """Random attention is almost even; make it tell tokens apart."""
    for name, weight in network.named_parameters():
        if any(each in name for each in names):
            weight.data *= factor


def write_tiny_xl(folder: Path) -> Path:
    """Stable Diffusion XL: 32x32 images, 16x16 latents, maps at 8x8, the coarsest grid."""
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    second = make_tokenizer()
    second.pad_token = "!"
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=[16, 32],
        layers_per_block=1,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 2],
        cross_attention_dim=48,
        attention_head_dim=2,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=72,
    )
    louder(unet, ("attn2.to_q", "attn2.to_k"), 2)
    louder(unet, ("conv_out",), 0.2)  # what it predicts changes slowly, so that DDIM can be inverted
    StableDiffusionXLPipeline(
        vae=vae(4),
        text_encoder=clip(32, 2),
        text_encoder_2=clip(16, 2, 24),
        tokenizer=make_tokenizer(),
        tokenizer_2=second,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder
