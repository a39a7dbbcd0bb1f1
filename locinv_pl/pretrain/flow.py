"""A flow transformer in Stable Diffusion 3's layout and its two text towers: training by rectified flow."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from locinv_pl.pretrain.optimization import Optimization, PretrainModule

NUM_TRAIN_TIMESTEPS = 1000


def flow_scheduler() -> Any:
    """Euler steps along straight paths; σ = t / 1000."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=1.0)


def build_transformer(
    latent_channels: int = 16,
    latent_size: int = 32,
    text_width: int = 256,
    width: int = 192,
    layers: int = 8,
    heads: int = 6,
) -> Any:
    """An MM-DiT: image and text tokens with weights of their own attend to each other in every block."""
    return SD3Transformer2DModel(
        sample_size=latent_size,
        patch_size=2,
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=layers,
        attention_head_dim=width // heads,
        num_attention_heads=heads,
        joint_attention_dim=text_width,
        caption_projection_dim=width,
        pooled_projection_dim=text_width,
        pos_embed_max_size=latent_size // 2,
        qk_norm="rms_norm",
    )


def build_towers(config: CLIPTextConfig) -> tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection]:
    """Two CLIP text towers with projections, alike but for their first weights."""
    return CLIPTextModelWithProjection(config), CLIPTextModelWithProjection(config)


class FlowModule(PretrainModule):
    """Trains a transformer to predict the velocity u = ε - z_0 on straight paths z_σ = (1 - σ) z_0 + σ ε.

    Rectified flow (Liu et al., arXiv 2209.03003) as Stable Diffusion 3 trains it (Esser et al., arXiv 2403.03206,
    section 3.1): σ is the logistic function of a normal number, so that the middle of the path, which is hardest,
    comes most often. A batch is (z_0, ids): latents (B, C, h, w) of zero mean and unit variance and token ids
    (B, L). With probability ``null_probability`` the empty prompt stands in for a caption.

    Args:
        transformer: diffusers' SD3Transformer2DModel, which predicts the velocity.
        towers: two CLIP text towers with projections, which learn along.
        null_ids: (L,) the ids of the empty prompt.
        optimization: steps, batch size, learning rate and the other settings of AdamW.
        null_probability: share of the captions that the empty prompt replaces, in [0, 1].
    """

    networks = ("transformer",)
    null_ids: Tensor

    def __init__(
        self,
        transformer: Any,
        towers: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection],
        null_ids: Tensor,
        optimization: Optimization,
        null_probability: float = 0.1,
    ):
        super().__init__(optimization)
        self.transformer, self.null_probability = transformer, null_probability
        self.text_encoder, self.text_encoder_2 = towers
        self.register_buffer("null_ids", null_ids, persistent=False)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch."""
        z_0, ids = batch
        dropped = torch.rand(len(ids), 1, device=self.device) < self.null_probability
        sigma = torch.randn(len(z_0), device=self.device).sigmoid()
        loss = self.loss(z_0, torch.where(dropped, self.null_ids, ids), sigma, torch.randn_like(z_0))
        self.log("loss", loss)
        return loss

    def loss(self, z_0: Tensor, ids: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
        """|u - u_θ|² at σ (B,) and noise ε (B, C, h, w), mean over the batch."""
        s = sigma.view(-1, 1, 1, 1)
        context, pooled = self.encode(ids)
        z = (1 - s) * z_0 + s * eps
        u = self.transformer(z, context, pooled, sigma * NUM_TRAIN_TIMESTEPS, return_dict=False)[0]
        return F.mse_loss(u.float(), eps - z_0)

    def encode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, 2 L, D) and pooled state (B, D) of token ids (B, L), as diffusers' pipeline makes them.

        The towers' last but one layers side by side, then as many zeros in the place of a third encoder's states.
        """
        both = [tower(ids, output_hidden_states=True) for tower in (self.text_encoder, self.text_encoder_2)]
        words = torch.cat([out.hidden_states[-2] for out in both], -1)
        pooled = torch.cat([out.text_embeds for out in both], -1)
        return torch.cat([words, torch.zeros_like(words)], 1), pooled
