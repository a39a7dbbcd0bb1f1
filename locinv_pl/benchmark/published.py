"""Published architectures at their real sizes with random weights, made on the spot: for speed, sizes and counts."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from locinv_pl.assets import EMBEDDED
from locinv_pl.networks.architectures import architecture_of
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.tuning import Tuning

CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_L |= {"projection_dim": 768}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
CLIP_G |= {"projection_dim": 1280}
T5_XXL: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
}
T5_XXL |= {"feed_forward_proj": "gated-gelu"}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
VAE_16 = {**VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
DDIM = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "sd15-random": {
        "pipeline": "StableDiffusionPipeline",
        "unet": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        "vae": {**VAE, "sample_size": 512},
        "text_encoder": CLIP_L,
        "scheduler": DDIM,
    },
    "sdxl-random": {
        "pipeline": "StableDiffusionXLPipeline",
        "unet": {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": {**VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        "text_encoder": CLIP_L,
        "text_encoder_2": CLIP_G,
        "scheduler": DDIM,
    },
    "sd35-random": {  # medium
        "pipeline": "StableDiffusion3Pipeline",
        "transformer": {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
        "vae": {**VAE_16, "sample_size": 1024, "scaling_factor": 1.5305, "shift_factor": 0.0609},
        "text_encoder": CLIP_L,
        "text_encoder_2": CLIP_G,
        "text_encoder_3": T5_XXL,
        "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    },
    "flux-random": {  # dev
        "pipeline": "FluxPipeline",
        "transformer": {
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
        },
        "vae": {**VAE_16, "sample_size": 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159},
        "text_encoder": CLIP_L,
        "text_encoder_2": T5_XXL,
        "scheduler": {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "shift": 3.0,
            "use_dynamic_shifting": True,
            "base_shift": 0.5,
            "max_shift": 1.15,
            "base_image_seq_len": 256,
            "max_image_seq_len": 4096,
        },
    },
}
"""By name the pipeline's class and the components' configurations: Stable Diffusion 1.5, XL 1.0, 3.5 medium, FLUX.1."""


def random_model(
    name: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    tuning: Tuning = Tuning(),
    seed: int = 0,
) -> Backbone:
    """All networks of a published model at their real sizes, with random weights.

    CLIP's tokenizer is the embedded model's at CLIP's length: it knows fewer words and gives as many tokens. T5's knows
    letters.

    Args:
        name: of :data:`PUBLISHED`.
        dtype: of the weights.
        device: "meta" makes shapes without numbers.
        tuning: how the networks are run.
        seed: of the weights.
    """
    configs, index = PUBLISHED[name], {"_class_name": PUBLISHED[name]["pipeline"]}
    architecture = architecture_of(index)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = {
            part: random_part(kind, configs.get(part, {}), dtype, device)
            for part, kind in architecture.parts(index).items()
            if part != "scheduler"
        }
    parts["scheduler"] = architecture.make_scheduler(configs["scheduler"])
    return architecture(name, **parts, **architecture.options(index), tuning=tuning)


def random_part(kind: str, config: dict[str, Any], dtype: torch.dtype, device: torch.device | str) -> Any:
    """A component with random weights, or a tokenizer.

    Args:
        kind: its class in diffusers or transformers.
        config: what the class takes; a tokenizer's is not read.
        dtype: of the weights.
        device: where they are made.
    """
    if kind.startswith("CLIPTok"):
        return transformers.CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", model_max_length=77)
    if kind.startswith("T5Tok"):
        marks = [(mark, 0.0) for mark in ("<pad>", "</s>", "<unk>")]
        letters = [(letter, -1.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
        return transformers.T5Tokenizer(vocab=[*marks, *letters], extra_ids=0, model_max_length=512)
    with torch.device(device):
        if (of_diffusers := getattr(diffusers, kind, None)) is not None:
            network = of_diffusers.from_config(config)
        else:
            of_transformers = getattr(transformers, kind)
            network = of_transformers(of_transformers.config_class(**config))
    return nn.Module.to(network, dtype)  # diffusers' own talks about it
