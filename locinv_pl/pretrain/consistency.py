"""Few steps for a trained UNet: a LoRA, distilled from it to be consistent along the paths of its guided samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from locinv_pl.errors import InputError
from locinv_pl.networks.schedule import guided
from locinv_pl.pretrain.diffusion import noise_scheduler
from locinv_pl.pretrain.optimization import Optimization, PretrainModule

HUBER = 0.001
"""c of the pseudo-Huber distance √(d² + c²) - c."""


class ConsistencyModule(PretrainModule):
    """Trains a LoRA under which z_0 predicted at t agrees with z_0 predicted a step of the teacher closer to the image.

    Latent consistency distillation (Luo et al., arXiv 2310.04378, algorithm 1) as LCM-LoRA has it (arXiv
    2311.05556): the teacher is the UNet without the LoRA, ẑ_s is its DDIM step from z_t under guidance w, and

        L = d(f(z_t, t), stopgrad f(ẑ_s, s)),   f(z, t) = c_skip(t) z + c_out(t) (z - √(1-ᾱ_t) ε_θ(z, t)) / √ᾱ_t

    with c_skip(0) = 1 and c_out(0) = 0, so that the last prediction is the image itself. What is learned has
    guidance w in it: it takes no pass of the null text. A batch is (z_0, ids): latents (B, C, h, w) of unit
    variance and token ids (B, L).

    Args:
        unet: diffusers' UNet2DConditionModel, the teacher; it gets the LoRA.
        text_encoder: its transformers' CLIPTextModel, whose weights stay.
        null_ids: (L,) the ids of the empty prompt.
        optimization: steps, batch size, learning rate and the other settings of AdamW.
        rank: r of the LoRA, 1 or more; 16 by default.
        guidance_scale: the bounds that w is drawn between; 4 and 8 by default.
        num_steps: the steps of the teacher's DDIM, 1 to 1000, LCMScheduler's ``original_inference_steps``; 50 by
            default, as there.
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
        rank: int = 16,
        guidance_scale: tuple[float, float] = (4.0, 8.0),
        num_steps: int = 50,
    ):
        try:
            from peft import LoraConfig
        except ModuleNotFoundError:
            raise InputError(
                'stages=consistency: pip install "locinv_pl[distill]" brings peft, which it needs'
            ) from None
        super().__init__(optimization)
        self.unet, self.text_encoder = unet, text_encoder.requires_grad_(False)
        layers = [name for name, layer in unet.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        unet.requires_grad_(False)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers))
        self.guidance_scale, self.num_steps = guidance_scale, num_steps
        self.register_buffer("null_ids", null_ids, persistent=False)
        self.register_buffer("alphas", noise_scheduler().alphas_cumprod, persistent=False)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch."""
        z_0, ids = batch
        stride = len(self.alphas) // self.num_steps
        t = stride * torch.randint(1, self.num_steps + 1, (len(z_0),), device=self.device) - 1
        low, high = self.guidance_scale
        w = low + (high - low) * torch.rand(len(z_0), device=self.device)
        loss = self.loss(z_0, ids, t, (t - stride).clamp(min=0), w, torch.randn_like(z_0))
        self.log("loss", loss)
        return loss

    def loss(self, z_0: Tensor, ids: Tensor, t: Tensor, s: Tensor, w: Tensor, eps: Tensor) -> Tensor:
        """L from timesteps t (B,) to s (B,) at guidance w (B,) and noise ε (B, C, h, w), mean over all entries."""
        signal, noise = self._levels(t)
        z_t = signal * z_0 + noise * eps
        with torch.no_grad():
            context, null = self.text_encoder(torch.stack([*ids, self.null_ids])).last_hidden_state.split([len(ids), 1])
            self.unet.disable_adapters()
            teacher = guided(
                self._eps(z_t, t, context), self._eps(z_t, t, null.expand_as(context)), w.view(-1, 1, 1, 1)
            )
            self.unet.enable_adapters()
            signal_s, noise_s = self._levels(s)
            z_s = signal_s * (z_t - noise * teacher) / signal + noise_s * teacher
            wanted = self.clean(z_s, s, context)
        distance = self.clean(z_t, t, context) - wanted
        return (distance.square() + HUBER**2).sqrt().mean() - HUBER

    def clean(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """f(z, t): z_0 as it is predicted at timesteps t (B,), shape of z (B, C, h, w)."""
        signal, noise = self._levels(t)
        far = 10.0 * t.view(-1, 1, 1, 1)  # LCMScheduler's timestep_scaling; its sigma_data is 0.5
        skip, out = 0.25 / (far**2 + 0.25), far / (far**2 + 0.25).sqrt()
        return skip * z + out * (z - noise * self._eps(z, t, context)) / signal

    def _eps(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.unet(z, t, context).sample.float()

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas[t].view(-1, 1, 1, 1)
        return abar.sqrt(), (1 - abar).sqrt()
