"""Images from text alone, by the same DDIM step that reconstructs and edits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from locinv_pl.networks.attention import Context
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.schedule import guided
from locinv_pl.words.tokens import tokenize


@torch.no_grad()
def generate(
    backbone: Backbone,
    prompts: Sequence[str],
    guidance_scale: float = 7.5,
    num_steps: int = 50,
    seed: int = 0,
    batch_size: int = 16,
) -> Tensor:
    """An image for every prompt.

    The batch size changes rounding at most.

    Args:
        backbone: the model.
        prompts: B of them.
        guidance_scale: w; 1 leaves guidance out.
        num_steps: T, at least 1.
        seed: of the noise, at least 0; image n has that of ``seed + n``.
        batch_size: images that are denoised together, at least 1.

    Returns:
        (B, 3, H, W) in [0, 1], on the CPU.

    Raises:
        InputError: a prompt is too long.
    """
    images, shape = [], (backbone.widths[1], backbone.latent_size, backbone.latent_size)
    for start in range(0, len(prompts), batch_size):
        some = range(start, min(start + batch_size, len(prompts)))
        noise = torch.stack([torch.randn(shape, generator=_seeded(seed + n)) for n in some])
        texts = [prompts[n] for n in some]
        images.append(_denoise(backbone, texts, noise, guidance_scale, num_steps))
    return torch.cat(images)


def _denoise(backbone: Backbone, prompts: Sequence[str], z: Tensor, guidance_scale: float, num_steps: int) -> Tensor:
    """The DDIM step, from noise (B, C, h, w) to images (B, 3, H, W)."""
    schedule, backbone = backbone.schedule(num_steps), backbone.guided_by(guidance_scale)
    is_guided = backbone.needs_null(guidance_scale)
    ids = torch.stack([tokenize(backbone.tokenizer, prompt, f"prompt {prompt!r}").ids for prompt in prompts])
    null = [backbone.encode_null().expand(len(ids))] if is_guided else []
    context = Context.cat([backbone.encode_text(ids), *null])
    z = z.to(backbone.device)
    for i, t in enumerate(schedule.timesteps):
        prediction = backbone.predict(torch.cat([z, z]) if is_guided else z, t, context)
        if is_guided:
            of_prompt, of_null = prediction.chunk(2)
            prediction = guided(of_prompt, of_null, guidance_scale)
        z = schedule.step(z, prediction, i)
    return backbone.decode(z).cpu()


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
