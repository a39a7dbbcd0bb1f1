"""Phase 2 of a timestep: the null text ∅_t, optimised until guided steps follow the DDIM trajectory."""

from __future__ import annotations

import torch
from torch import Tensor

from locinv_pl.method.early_stopping import keep_rows
from locinv_pl.method.task import Task
from locinv_pl.networks.attention import Context
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.prefix import Prefix
from locinv_pl.networks.schedule import ddim_step, guided_noise


def optimize_null_text(
    backbone: Backbone,
    task: Task,
    z_t: Tensor,
    i: int,
    eps_cond: Tensor,
    null: Tensor,
    prefix: Prefix | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Phase 2: fit ∅_t so that the guided step from z_t lands on z̄_{t-1}.

        min_∅ mean( (z_{t-1}(z_t, ∅, V_t, w) - z̄_{t-1})² )

    Source: Mokady et al., Null-text Inversion, arXiv 2211.09794, eq. 3. The conditional prediction
    does not depend on ∅ and comes from outside.

    Args:
        z_t: (B, C, h, w).
        i: step.
        eps_cond: ε(z_t, t, V_t), (B, C, h, w).
        null: ∅ to start from, (B, L, D).
        prefix: of z_t, where it is there.

    Returns:
        ∅_t (B, L, D), z_{t-1} (B, C, h, w), the loss (B,), gradient steps taken (B,).
    """
    policy, w = task.method.null_text, task.method.guidance_scale
    t, (abar_t, abar_s) = task.schedule.timesteps[i], task.schedule.alphas[i : i + 2]
    target = task.ddim_latent(i + 1)
    tolerance = 1e-5 + i * 2e-5 if policy.early_stop else 0.0

    fitted, rows = null.clone(), null.clone().requires_grad_()  # all images, those that run
    optimizer = torch.optim.Adam([rows], lr=policy.lr * max(1 - i / 100, 0.01))
    z_s, loss_of = torch.empty_like(z_t), z_t.new_zeros(len(z_t))
    steps = torch.zeros(len(z_t), dtype=torch.int32, device=z_t.device)
    running, known, numel = torch.arange(len(z_t), device=z_t.device), prefix, z_t[0].numel()
    max_steps = policy.max_steps if policy.policy == "optimize" else 0
    for step in range(max_steps + 1):
        fits = step < max_steps
        with torch.set_grad_enabled(fits):
            eps_null = backbone.predict_noise(z_t[running], t, abar_t, Context.of(rows), prefix=known)
            z = ddim_step(z_t[running], guided_noise(eps_cond[running], eps_null, w), abar_t, abar_s)
            loss = (z - target[running]).square().mean((1, 2, 3))
            fitted[running], z_s[running], loss_of[running] = rows.detach(), z.detach(), loss.detach()
            going = loss >= tolerance
            if not going.any() or not fits:
                break
            optimizer.zero_grad()
            (loss[going] * numel).sum().backward()  # of the sum: the mean's gradients are too small for fp16
        if not going.all():
            rows = keep_rows(optimizer, going)
            running, known = running[going], known and known.pick(going)
        rows.grad.div_(numel)  # type: ignore[union-attr]
        optimizer.step()
        steps[running] += 1
    return fitted, z_s, loss_of, steps


def null_text_step(
    backbone: Backbone,
    task: Task,
    z_t: Tensor,
    i: int,
    eps_cond: Tensor,
    null: Tensor,
    prefix: Prefix | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """∅_t and z_{t-1} by the method's null-text policy; arguments and result as in :func:`optimize_null_text`.

    Sources: negative-prompt inversion, Miyake et al., arXiv 2305.16807; direct inversion, Ju et al., arXiv 2310.01506.
    """
    policy = task.method.null_text
    empty = task.empty.expand(len(z_t), -1, -1)
    if policy.policy == "direct":
        zeros = z_t.new_zeros(len(z_t))
        return empty, task.ddim_latent(i + 1), zeros, zeros.int()
    if policy.policy == "npi":
        null = task.plain
    elif not (policy.policy == "optimize" and policy.carry_over):
        null = empty
    return optimize_null_text(backbone, task, z_t, i, eps_cond, null.to(backbone.device), prefix)
