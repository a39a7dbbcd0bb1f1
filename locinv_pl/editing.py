"""Pictures from inversions: denoising with the tokens and the null text that an inversion found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from locinv_pl.backbone import Backbone, Context
from locinv_pl.errors import InputError
from locinv_pl.inversion import dynamic_context
from locinv_pl.methods import Method
from locinv_pl.prompts import tokenize
from locinv_pl.schedule import ddim_step, guided_noise
from locinv_pl.types import Inversion


@torch.no_grad()
def reconstruct(backbone: Backbone, inversions: Sequence[Inversion]) -> Tensor:
    """The pictures again, from their inversions alone.

        ε = ε(z_t, ∅_t) + w (ε(z_t, V_t) - ε(z_t, ∅_t)),  z_{t-1} = DDIM step

    Args:
        backbone: the one that made them.
        inversions: B of them, of one configuration and size.

    Returns:
        (B, 3, H, W) in [0, 1], on the CPU.

    Raises:
        InputError: they come from another backbone, or from different configurations.
    """
    settings = inversions[0].settings
    for inversion in inversions:
        if inversion.settings != settings:
            raise InputError(f"inversion {inversion.id!r}: made with another configuration than its batch")
        if inversion.settings["backbone"] != backbone.name:
            made_with = inversion.settings["backbone"]
            raise InputError(f"inversion {inversion.id!r}: made with backbone {made_with!r}, not {backbone.name!r}")
    method, device = Method.from_dict(settings["method"]), backbone.device
    schedule = backbone.schedule(settings["num_steps"])
    ids = torch.stack([tokenize(backbone.tokenizer, inv.prompt, inv.id).ids for inv in inversions])
    V, plain = backbone.embed(ids).clone(), backbone.encode_text(ids)
    z = torch.stack([inv.noise for inv in inversions]).to(device)
    for i in range(len(schedule)):
        t, (abar_t, abar_s) = schedule.timesteps[i], schedule.alphas[i : i + 2]
        for b, inversion in enumerate(inversions):
            V[b, list(inversion.dynamic)] = inversion.tokens[i].to(device)
        context = dynamic_context(backbone, method.tokens, ids, V, plain)
        null = torch.stack([inv.null[i] for inv in inversions]).to(device)
        eps_cond = backbone.predict_noise(z, t, abar_t, context)
        eps_null = backbone.predict_noise(z, t, abar_t, Context.of(null))
        z = ddim_step(z, guided_noise(eps_cond, eps_null, method.guidance_scale), abar_t, abar_s)
    return backbone.decode(z).cpu()
