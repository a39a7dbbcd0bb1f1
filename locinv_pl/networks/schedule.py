"""The DDIM schedule, its one step, used in both directions, and guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Schedule:
    """T timesteps, noisiest first, and the noise level at each and after the last.

    Args:
        timesteps: t_0 > t_1 > ... > t_{T-1}, shape (T,); what the UNet is told.
        alphas: ᾱ at those timesteps, then ᾱ of the clean latent, shape (T+1,), in (0, 1], rising. Step i goes from
            ``alphas[i]`` to ``alphas[i + 1]``.

    >>> import torch
    >>> len(Schedule(torch.tensor([981, 961]), torch.tensor([0.1, 0.2, 1.0])))
    2
    """

    timesteps: Tensor
    alphas: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)


def guided_noise(eps_cond: Tensor, eps_null: Tensor, w: float) -> Tensor:
    """Classifier-free guidance: ε = ε(∅) + w (ε(c) - ε(∅)).

    >>> import torch
    >>> guided_noise(torch.tensor([1.0]), torch.tensor([0.5]), w=7.5)  # 0.5 + 7.5 * 0.5
    tensor([4.2500])

    Source: Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv 2207.12598.

    Args:
        eps_cond: ε(c), noise predicted under the prompt, of any shape.
        eps_null: ε(∅), noise predicted under the null text, of the same shape.
        w: guidance scale; 1 gives ``eps_cond``, 0 gives ``eps_null``.

    Returns:
        ε, of the same shape.
    """
    return eps_null + w * (eps_cond - eps_null)


def guidance_embedding(w: float, width: int) -> Tensor:
    """What a UNet that has learned guidance is told of its scale: sines and cosines of 1000 (w - 1) f_k.

        f_k = 10000^(-k / (width/2 - 1)),  k = 0, ..., width/2 - 1

    >>> guidance_embedding(1.0, 4)
    tensor([[0., 0., 1., 1.]])

    Source: Luo et al., Latent Consistency Models, arXiv 2310.04378, section 4.2, as in its public code.

    Args:
        w: guidance scale.
        width: of the embedding, even, 4 or more; a UNet's ``time_cond_proj_dim``.

    Returns:
        (1, width).
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10000.0) / (half - 1)))
    angles = 1000.0 * (w - 1) * frequencies
    return torch.cat([angles.sin(), angles.cos()])[None]


def ddim_step(z_t: Tensor, eps: Tensor, abar_t: Tensor, abar_s: Tensor) -> Tensor:
    """Deterministic DDIM step from noise level ᾱ_t to ᾱ_s; denoising if s < t, inversion if s > t.

        z_s = √ᾱ_s · (z_t - √(1-ᾱ_t) ε) / √ᾱ_t + √(1-ᾱ_s) ε

    >>> import torch
    >>> z_t, eps = torch.tensor([1.0]), torch.tensor([0.6])
    >>> ddim_step(z_t, eps, torch.tensor(0.64), torch.tensor(1.0))  # (1 - 0.6 * 0.6) / 0.8
    tensor([0.8000])
    >>> ddim_step(z_t, eps, torch.tensor(0.64), torch.tensor(0.36))  # 0.6 * 0.8 + 0.8 * 0.6
    tensor([0.9600])

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, eq. 12 with σ = 0.

    Args:
        z_t: latent, of any shape.
        eps: predicted noise ε, shape of z_t.
        abar_t: ᾱ_t at z_t, the cumulative product of the schedule's α, a scalar in (0, 1].
        abar_s: ᾱ_s at z_s, likewise.

    Returns:
        z_s, shape of z_t.
    """
    z_0 = (z_t - (1 - abar_t).sqrt() * eps) / abar_t.sqrt()
    return abar_s.sqrt() * z_0 + (1 - abar_s).sqrt() * eps
