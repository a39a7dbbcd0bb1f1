"""The VAE: four image pixels to a latent pixel along each side, trained on crops of drawn scenes."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from locinv_pl.pretrain.optimization import Optimization, PretrainModule

SOFT = 1e-3  # of Charbonnier's root; pixels lie in [-1, 1]


def build_vae(channels: tuple[int, ...] = (16, 32, 64), size: int = 128, latent_channels: int = 4) -> Any:
    """KL autoencoder without attention; each further entry of ``channels`` halves the resolution."""
    vae: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=size,
        mid_block_add_attention=False,
    )
    return vae.to(memory_format=torch.channels_last)


class VaeModule(PretrainModule):
    """Trains the VAE on random crops by :func:`reconstruction_loss` + kl_weight KL.

    A batch is (images,): (B, 3, H, W) in [0, 1].

    Args:
        vae: diffusers' AutoencoderKL, see :func:`build_vae`.
        optimization: steps, batch size, learning rate and the other settings of AdamW.
        crop: side of the crops in pixels.
        kl_weight: of the posterior's divergence from a normal distribution, per latent number.
        train_encoder: False keeps the latents as they are and trains the decoder alone.
    """

    networks = ("_encoder", "_decoder")

    def __init__(
        self,
        vae: Any,
        optimization: Optimization,
        crop: int = 64,
        kl_weight: float = 2e-6,
        train_encoder: bool = True,
    ):
        super().__init__(optimization)
        self.vae, self.crop, self.kl_weight, self.train_encoder = vae, crop, kl_weight, train_encoder
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(train_encoder)

    @property
    def _encoder(self) -> Any:
        return self.vae.encoder

    @property
    def _decoder(self) -> Any:
        return self.vae.decoder

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch, every image cropped at the same random place."""
        x = batch[0] * 2 - 1
        top, left = (int(torch.randint(0, side - self.crop + 1, ())) for side in x.shape[-2:])
        x = x[..., top : top + self.crop, left : left + self.crop]
        with torch.set_grad_enabled(self.train_encoder):
            posterior = self.vae.encode(x).latent_dist
            z = posterior.sample()
        r = self.vae.decode(z).sample.float()
        loss = reconstruction_loss(r, x)
        if self.train_encoder:
            loss = loss + self.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()
        self.log_dict({"loss": loss, "psnr": -10 * torch.log10((r.detach() - x).square().mean() / 4)})
        return loss


def reconstruction_loss(r: Tensor, x: Tensor) -> Tensor:
    """What a reconstruction r (B, 3, H, W) of images x in [-1, 1] misses, mean over pixels.

    |r - x| by Charbonnier's root √(d² + 10⁻⁶), which looks at every channel alike however small the error; 2 d²
    for single pixels far off; half of it for differences between neighbours, so that edges stay sharp; and |d| of
    means over 8x8 pixels, so that no colour drifts.
    """
    d = r - x
    edges = charbonnier(_differences(r) - _differences(x))
    return charbonnier(d) + 2 * d.square().mean() + 0.5 * edges + F.avg_pool2d(d, 8).abs().mean()


def charbonnier(d: Tensor) -> Tensor:
    """Mean of √(d² + 10⁻⁶): |d|, smooth at 0 (Charbonnier et al., ICIP 1994)."""
    return (d.square() + SOFT**2).sqrt().mean()


def _differences(x: Tensor) -> Tensor:
    """Differences between neighbouring pixels, across and down, flattened to (B, n)."""
    across, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
    return torch.cat([across.flatten(1), down.flatten(1)], 1)
