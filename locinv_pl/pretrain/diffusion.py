"""The latent UNet and its text encoder: training by noise prediction."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel

from locinv_pl.pretrain.optimization import Optimization, PretrainModule


def noise_scheduler() -> Any:
    """Stable Diffusion's: 1000 steps, betas linear in their square roots, noise (epsilon) prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build_unet(
    channels: tuple[int, ...] = (32, 64, 128),
    latent_size: int = 32,
    text_width: int = 128,
    heads: int = 4,
    latent_channels: int = 4,
) -> Any:
    """A UNet with cross-attention at every level but the finest."""
    coarse = len(channels) - 1
    unet: Any = UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * coarse),
        up_block_types=(*["CrossAttnUpBlock2D"] * coarse, "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=heads,  # diffusers' name for the number of heads
        norm_num_groups=8,
    )
    return unet.to(memory_format=torch.channels_last)


class DiffusionModule(PretrainModule):
    """Trains ``unet`` to predict the noise ε in z_t = √ᾱ_t z_0 + √(1-ᾱ_t) ε.

    The loss at t is ω_t / SNR_t · |ε - ε_θ|² with ω_t = SNR_t = ᾱ_t / (1-ᾱ_t), held between two bounds: the
    upper one is Min-SNR's γ (Hang et al., arXiv 2303.09556, section 3.4), the lower one lets the noisiest
    steps, which settle backgrounds and layout, count as much (truncated SNR, Salimans and Ho, arXiv 2202.00512,
    section 4, there with bound 1). A batch is (z_0, ids): latents (B, C, h, w) of unit variance and token
    ids (B, L). With probability ``null_probability`` the empty prompt stands in for a caption, so that
    classifier-free guidance (arXiv 2207.12598) has both branches.

    Args:
        unet: diffusers' UNet2DConditionModel, see :func:`build_unet`.
        text_encoder: transformers' CLIPTextModel, of the width that the UNet attends to.
        null_ids: (L,) the ids of the empty prompt.
        optimization: steps, batch size, learning rate and the other settings of AdamW.
        train_text_encoder: True trains the text encoder as well; False keeps its weights.
        null_probability: share of the captions that the empty prompt replaces, in [0, 1].
        snr_bounds: the lower and the upper bound of the weight ω_t.
        noise_offset: standard deviation of a constant added to every channel's noise. The schedule's last
            step still shows the latent's mean; without the offset the model reads a background's colour there
            instead of in the caption.
    """

    networks = ("unet",)
    null_ids: Tensor
    alphas: Tensor

    def __init__(
        self,
        unet: Any,
        text_encoder: CLIPTextModel,
        null_ids: Tensor,
        optimization: Optimization,
        train_text_encoder: bool = True,
        null_probability: float = 0.1,
        snr_bounds: tuple[float, float] = (0.25, 5.0),
        noise_offset: float = 0.1,
    ):
        super().__init__(optimization)
        self.unet, self.text_encoder = unet, text_encoder
        self.text_encoder.requires_grad_(train_text_encoder)
        self.null_probability, self.snr_bounds = null_probability, snr_bounds
        self.noise_offset = noise_offset
        self.register_buffer("null_ids", null_ids, persistent=False)
        self.register_buffer("alphas", noise_scheduler().alphas_cumprod, persistent=False)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch."""
        z_0, ids = batch
        dropped = torch.rand(len(ids), 1, device=self.device) < self.null_probability
        t = torch.randint(0, len(self.alphas), (len(z_0),), device=self.device)
        eps = torch.randn_like(z_0) + self.noise_offset * torch.randn_like(z_0[..., :1, :1])
        loss = self.loss(z_0, torch.where(dropped, self.null_ids, ids), t, eps)
        self.log("loss", loss)
        return loss

    def loss(self, z_0: Tensor, ids: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The weighted error at timesteps t (B,) and noise ε (B, C, h, w), mean over the batch."""
        abar = self.alphas[t].view(-1, 1, 1, 1)
        z_t = abar.sqrt() * z_0 + (1 - abar).sqrt() * eps
        predicted = self.unet(z_t, t, self.text_encoder(ids).last_hidden_state).sample.float()
        snr = (abar / (1 - abar)).flatten()
        weight = snr.clamp(*self.snr_bounds) / snr
        return (weight * F.mse_loss(predicted, eps, reduction="none").mean((1, 2, 3))).mean()
