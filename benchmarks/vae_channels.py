"""Quality of trained VAEs side by side: ``python benchmarks/vae_channels.py FOLDER...``, folders of AutoencoderKL.

Prints a row each: latent channels, PSNR in dB and CIEDE2000 of the objects' mean colours (mean and worst decile) on 200
unseen scenes of one to three objects, as ``locinv evaluate-backbone`` measures them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from locinv_pl.measures.backbones import unseen_scenes, vae_quality

COUNT = 200


class Codec:
    """A VAE as :func:`vae_quality` takes it: images in [0, 1] to latents and back."""

    device = torch.device("cpu")

    def __init__(self, folder: str):
        self.vae: Any = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The mean of the posterior, (B, C, h, w), of images (B, 3, H, W)."""
        return self.vae.encode(images * 2 - 1).latent_dist.mean

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) of latents (B, C, h, w)."""
        return (self.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)


def main(folders: Sequence[str]) -> None:
    """Print the table."""
    print("| latent channels | PSNR [dB] | CIEDE2000, mean | CIEDE2000, worst decile |\n|---|---|---|---|")
    for folder in folders:
        codec: Any = Codec(folder)
        found = vae_quality(codec, unseen_scenes(0, COUNT, codec.vae.config.sample_size))
        cells = [f"{found['vae_psnr']:.2f}", f"{found['color_delta_e']:.2f}", f"{found['color_delta_e_p90']:.2f}"]
        print(f"| {codec.vae.config.latent_channels} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
