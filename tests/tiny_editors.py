"""Tiny random pipelines of today's editors, of diffusers' own classes; their tokenizers know bytes alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from conftest import make_tokenizer
from tiny_pipelines import clip, t5, vae

MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
IN_TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}


def bytes_tokenizer() -> Any:
    """Qwen's tokenizer without merges, so that a byte is a token."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocab = {letter: n for n, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], additional_special_tokens=MARKS)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def flow() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler()


def write_tiny_kontext(folder: Path) -> Path:
    """FLUX.1 Kontext: latents at half an image's size, and patches of 2x2 of them."""
    from diffusers import FluxKontextPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    second, pieces = t5(32)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    FluxKontextPipeline(
        scheduler=flow(),
        vae=vae(1, shift_factor=0.1),
        text_encoder=clip(32, 2),
        tokenizer=make_tokenizer(),
        text_encoder_2=second,
        tokenizer_2=pieces,
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


def write_tiny_klein(folder: Path) -> Path:
    """FLUX.2 klein, which reads three layers of its language model side by side."""
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    tokenizer = bytes_tokenizer()
    text = Qwen3Config(vocab_size=len(tokenizer), num_hidden_layers=28, head_dim=8, **IN_TEXT)
    transformer = Flux2Transformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    network = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=4,
    )
    Flux2KleinPipeline(
        scheduler=flow(),
        vae=network,
        text_encoder=Qwen3ForCausalLM(text),
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


def write_tiny_z_image(folder: Path) -> Path:
    """Z-Image: one stream of tokens of text and image."""
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    tokenizer = bytes_tokenizer()
    text = Qwen3Config(vocab_size=len(tokenizer), num_hidden_layers=2, head_dim=8, **IN_TEXT)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 64, 64],
    )
    with torch.no_grad():  # torch.empty in diffusers
        transformer.x_pad_token.zero_()
        transformer.cap_pad_token.zero_()
    ZImagePipeline(
        scheduler=flow(),
        vae=vae(4, shift_factor=0.1),
        text_encoder=Qwen3Model(text),
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


def qwen_processor() -> Any:
    """Qwen's processor without its part for videos, which alone needs torchvision."""
    from transformers import Qwen2VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = object.__new__(Qwen2VLProcessor)
    processor.tokenizer, processor.chat_template = bytes_tokenizer(), None
    processor.image_processor = Qwen2VLImageProcessorPil(
        patch_size=4, temporal_patch_size=2, merge_size=2, min_pixels=64, max_pixels=1024
    )
    for kind in ("image", "video"):
        mark = f"<|{kind}_pad|>"
        setattr(processor, f"{kind}_token", mark)
        setattr(processor, f"{kind}_token_id", processor.tokenizer.convert_tokens_to_ids(mark))
    return processor


def write_tiny_qwen(folder: Path, pipeline: str = "QwenImageEditPipeline") -> Path:
    """Qwen-Image-Edit: a language model that sees the image, and a video's autoencoder; without its processor."""
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = bytes_tokenizer()
    ids = dict(zip(MARKS, tokenizer.convert_tokens_to_ids(MARKS), strict=True))
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default", "rope_theta": 1e6}
    text = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={**IN_TEXT, "num_hidden_layers": 2, "rope_scaling": rope, "vocab_size": len(tokenizer)},
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 16,
                "patch_size": 4,
                "window_size": 16,
                "fullatt_block_indexes": [0],
            },
            image_token_id=ids["<|image_pad|>"],
            video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
        )
    )
    network = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    parts = {"text_encoder": text, "tokenizer": tokenizer, "vae": network, "transformer": transformer}
    index: dict[str, Any] = {"_class_name": pipeline, "processor": ["transformers", "Qwen2VLProcessor"]}
    for name, part in {**parts, "scheduler": flow()}.items():
        part.save_pretrained(folder / name)
        library = "transformers" if name.startswith("t") and name != "transformer" else "diffusers"
        index[name] = [library, type(part).__name__]
    (folder / "processor").mkdir()
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
