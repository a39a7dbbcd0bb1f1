"""A text-to-image model in Stable Diffusion 3's layout, run by diffusers' own pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class FlowModel:
    """Images from text, and the VAE's round trip.

    Args:
        pipeline: diffusers' StableDiffusion3Pipeline; its third text encoder may be missing.
    """

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.pipeline.transformer.device

    @property
    def image_size(self) -> int:
        """Side of the square images that the model was trained on, in pixels."""
        return self.pipeline.transformer.config.sample_size * self.pipeline.vae_scale_factor

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """z_0 of images (B, 3, H, W) in [0, 1]: the mean of the posterior, shifted and scaled; (B, C, h, w)."""
        config = self.pipeline.vae.config
        mean = self.pipeline.vae.encode((images * 2 - 1).to(self.device)).latent_dist.mean
        return (mean - config.shift_factor) * config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of latents (B, C, h, w)."""
        config = self.pipeline.vae.config
        return (self.pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor).sample / 2 + 0.5).clamp(
            0, 1
        )

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], noise: Tensor, guidance_scale: float, num_steps: int) -> Tensor:
        """An image for every prompt.

        Args:
            prompts: B of them.
            noise: (B, C, h, w), standard normal.
            guidance_scale: w; 1 leaves guidance out.
            num_steps: T, at least 1.

        Returns:
            (B, 3, H, W) in [0, 1], on the networks' device.
        """
        length = self.pipeline.tokenizer.model_max_length
        return self.pipeline(
            list(prompts),
            guidance_scale=guidance_scale,
            num_inference_steps=num_steps,
            latents=noise.to(self.device),
            height=self.image_size,
            width=self.image_size,
            max_sequence_length=length,
            output_type="pt",
        ).images


def load_flow_model(folder: Path | str, device: torch.device | str = "cpu") -> FlowModel:
    """A model from a local folder in diffusers' layout.

    Args:
        folder: Stable Diffusion 3's; a third text encoder in it isn't loaded.
        device: where to put the networks.
    """
    from diffusers import StableDiffusion3Pipeline

    none = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))
    pipeline: Any = StableDiffusion3Pipeline.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True, **none
    )
    return FlowModel(pipeline.to(device))
