"""Tiny random models of every architecture, and their parts, made with diffusers' own classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from conftest import LENGTH, WORDS, make_tokenizer


def clip(width: int, layers: int, projection: int = 0, length: int = LENGTH, **values: Any) -> Any:
    """A CLIP text encoder, with a projection of its pooled output where that has a width."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = make_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=length,
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


def ddim(**values: Any) -> Any:
    """Stable Diffusion's scheduler."""
    from diffusers import DDIMScheduler

    noise = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**noise, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **values)


def t5(width: int, length: int = 12) -> tuple[Any, Any]:
    """A T5 encoder and its tokenizer; words that it doesn't know are letters."""
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    words = [f"▁{word}" for word in WORDS]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -1.0) for word in words)]
    pieces += [("▁", -3.0), *((letter, -4.0) for letter in letters)]
    tokenizer = T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=length)
    config = T5Config(vocab_size=len(pieces), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return T5EncoderModel(config), tokenizer


def louder(network: torch.nn.Module, names: tuple[str, ...], factor: float) -> None:
    """Random attention is almost even; make it tell tokens apart."""
    for name, weight in network.named_parameters():
        if any(each in name for each in names):
            weight.data *= factor


def write_tiny_xl(folder: Path) -> Path:
    """Stable Diffusion XL: 32x32 images, 16x16 latents, maps at 8x8, the coarsest grid."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

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
        scheduler=ddim(),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def write_tiny_sd3(folder: Path) -> Path:
    """Stable Diffusion 3 with three text encoders: 32x32 images, 16x16 latents, maps at 8x8; a dual block."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    second = make_tokenizer()
    second.pad_token = "!"
    third, pieces = t5(56)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=56,
        caption_projection_dim=16,
        pooled_projection_dim=40,
        pos_embed_max_size=8,
        dual_attention_layers=(1,),
        qk_norm="rms_norm",
    )
    louder(transformer, ("context_embedder.weight", "add_k_proj.weight", "norm_added_k", "norm_q"), 3)
    StableDiffusion3Pipeline(
        vae=vae(4, shift_factor=0.1),
        text_encoder=clip(32, 2, 24),
        text_encoder_2=clip(16, 2, 16),
        text_encoder_3=third,
        tokenizer=make_tokenizer(),
        tokenizer_2=second,
        tokenizer_3=pieces,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)
    return folder


def write_tiny_flux(folder: Path, guidance: bool = True) -> Path:
    """FLUX.1: 32x32 images, 16x16 latents, maps at 8x8; two double blocks and a single one, with guidance or without.

    Args:
        folder: where to.
        guidance: whether it is dev's kind, or schnell's.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    second, pieces = t5(24, length=24)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=32,
        guidance_embeds=guidance,
        axes_dims_rope=(2, 2, 4),
    )
    louder(transformer, ("context_embedder.weight", "add_k_proj.weight", "norm_added_k", "norm_q"), 3)
    shift = {"use_dynamic_shifting": True, "shift": 3.0} if guidance else {"shift": 1.0}
    FluxPipeline(
        vae=vae(4, shift_factor=0.1),
        text_encoder=clip(32, 2),
        text_encoder_2=second,
        tokenizer=make_tokenizer(),
        tokenizer_2=pieces,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**shift),
    ).save_pretrained(folder)
    return folder


def write_tiny_pixart(folder: Path) -> Path:
    """PixArt-Σ: 32x32 images, 16x16 latents, maps at 8x8; T5 alone, and a variance in half of the output."""
    from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel

    torch.manual_seed(0)
    encoder, pieces = t5(24, length=24)
    transformer = PixArtTransformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        cross_attention_dim=16,
        caption_channels=24,
        use_additional_conditions=False,
    )
    louder(transformer, ("caption_projection.linear_2.weight", "attn2.to_q.weight", "attn2.to_k.weight"), 3)
    louder(transformer, ("proj_out",), 0.2)
    PixArtSigmaPipeline(
        vae=vae(4),
        text_encoder=encoder,
        tokenizer=pieces,
        transformer=transformer,
        scheduler=ddim(),
    ).save_pretrained(folder)
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "xl": write_tiny_xl,
    "sd3": write_tiny_sd3,
    "flux": write_tiny_flux,
    "schnell": partial(write_tiny_flux, guidance=False),
    "pixart": write_tiny_pixart,
}
"""By name, what writes an architecture's tiny model into a folder; Stable Diffusion 1.x's is conftest's."""
