"""Pictures from text alone, by the same DDIM step that reconstructs and edits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from locinv_pl.attention import Context
from locinv_pl.backbone import Backbone
from locinv_pl.prompts import tokenize
from locinv_pl.schedule import ddim_step, guided_noise


@torch.no_grad()
def generate(
    backbone: Backbone,
    prompts: Sequence[str],
    guidance_scale: float = 7.5,
    num_steps: int = 50,
    seed: int = 0,
    batch_size: int = 16,
) -> Tensor:
    """A picture for every prompt.

    Picture n starts from noise of (seed, n) alone, whatever the batch size.

    Args:
        backbone: the model.
        prompts: B of them.
        guidance_scale: w.
        num_steps: T.
        seed: another seed, other pictures.
        batch_size: pictures that are denoised together.

    Returns:
        (B, 3, H, W) in [0, 1], on the CPU.

    Raises:
        InputError: a prompt is too long.
    """
    schedule, null = backbone.schedule(num_steps), backbone.encode_null()
    config, device = backbone.unet.config, backbone.device
    shape = (config.in_channels, config.sample_size, config.sample_size)
    pictures = []
    for start in range(0, len(prompts), batch_size):
        numbers = range(start, min(start + batch_size, len(prompts)))
        ids = torch.stack([tokenize(backbone.tokenizer, prompts[n], f"prompt {n}").ids for n in numbers])
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed + n)) for n in numbers]
        context = Context.of(torch.cat([backbone.encode_text(ids), null.expand(len(numbers), -1, -1)]))
        z = torch.stack(noise).to(device)
        for i, t in enumerate(schedule.timesteps):
            abar_t, abar_s = schedule.alphas[i : i + 2]
            eps_cond, eps_null = backbone.predict_noise(torch.cat([z, z]), t, abar_t, context).chunk(2)
            z = ddim_step(z, guided_noise(eps_cond, eps_null, guidance_scale), abar_t, abar_s)
        pictures.append(backbone.decode(z).cpu())
    return torch.cat(pictures)
