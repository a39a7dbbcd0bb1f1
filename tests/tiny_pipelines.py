"""Tiny random models of other layouts than Stable Diffusion 1.x's, written with diffusers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import LENGTH, WORDS, make_tokenizer


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


def t5(width: int) -> tuple[Any, Any]:
    """A T5 encoder and its tokenizer; words that it doesn't know are letters."""
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    words = [f"▁{word}" for word in WORDS]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -1.0) for word in words)]
    pieces += [("▁", -3.0), *((letter, -4.0) for letter in letters)]
    tokenizer = T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=12)
    config = T5Config(vocab_size=len(pieces), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return T5EncoderModel(config), tokenizer


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
