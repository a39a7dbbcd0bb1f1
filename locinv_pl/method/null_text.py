"""Phase 2 of a timestep: the null text ∅_t, optimised until guided steps follow the DDIM trajectory."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from locinv_pl.method.early_stopping import Descent
from locinv_pl.method.task import Task
from locinv_pl.networks.attention import Context
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.prefix import Prefix


def optimize_null_text(
    backbone: Backbone,
    task: Task,
    z_t: Tensor,
    i: int,
    cond: Tensor,
    null: Tensor,
    prefix: Prefix | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Phase 2: fit ∅_t so that the guided step from z_t lands on z̄_{t-1}.

        min_∅ mean( (z_{t-1}(z_t, ∅, V_t, w) - z̄_{t-1})² )

    An image stops as soon as its loss is below the policy's tolerance, with ``step_first`` a gradient step later, and
    leaves the batch. The conditional prediction doesn't depend on ∅ and comes from outside. Nothing is fitted where
    guidance takes no f(∅), as for w = 1.

    Source: Mokady et al., Null-text Inversion, arXiv 2211.09794, eq. 3.

    Args:
        backbone: the frozen networks.
        task: the batch.
        z_t: latents, (B, C, h, w).
        i: step, 0 the noisiest.
        cond: f(z_t, t, V_t), (B, C, h, w).
        null: ∅ to start from, (B, L, D).
        prefix: of z_t; None computes everything.

    Returns:
        ∅_t (B, L, D), z_{t-1} (B, C, h, w), the loss (B,), gradient steps taken (B,).
    """
    policy, w = task.method.null_text, task.method.guidance_scale
    t = task.schedule.timesteps[i]
    target, numel = task.ddim_latent(i + 1), z_t[0].numel()  # z̄_{t-1}, (B, C, h, w)
    tolerance = 1e-5 + i * 2e-5 if policy.early_stop else 0.0
    J = policy.max_steps if policy.policy == "optimize" and backbone.needs_null(w) else 0

    pooled = (task.plain if policy.policy == "npi" else task.empty.expand(len(z_t))).pooled
    if pooled is not None:  # the prompt's prefix depends on the prompt's own
        prefix = backbone.prefix(z_t, t)
    descent = Descent(null, partial(torch.optim.Adam, lr=policy.lr * max(1 - i / 100, 0.01)), prefix)
    of, z_s, loss_of = descent.of, torch.empty_like(z_t), z_t.new_zeros(len(z_t))
    was_above = torch.ones(len(z_t), dtype=torch.bool, device=z_t.device)  # before the first step nothing is tested
    for j in range(J + 1):
        with torch.set_grad_enabled(j < J):  # the last pass is for z_{t-1} alone
            context = Context.of(descent.embeddings, None if pooled is None else of(pooled))  # ∅, (b, L, D)
            prediction = backbone.guide(of(cond), of(z_t), t, context, w, descent.prefix)  # (b, C, h, w)
            z = task.schedule.step(of(z_t), prediction, i)  # (b, C, h, w)
            loss = (z - of(target)).square().mean((1, 2, 3))  # (b,)
            z_s[descent.rows], loss_of[descent.rows] = z.detach(), loss.detach()
            above = loss >= tolerance  # (b,)
            going = was_above if policy.step_first else above  # (b,)
            if j == J or not going.any():
                break
            total = (loss[going] * numel).sum()
        was_above = above[going]
        descent.step(total, going, scale=numel)  # of the sum: the mean's gradients are too small for fp16
    return descent.result, z_s, loss_of, descent.steps


def null_text_step(
    backbone: Backbone,
    task: Task,
    z_t: Tensor,
    i: int,
    cond: Tensor | None,
    null: Tensor,
    prefix: Prefix | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Phase 2 by the method's null-text policy: ∅_t and z_{t-1}, which a virtual inversion draws, whatever ∅_t.

    ``optimize`` fits ∅_t, ``none`` keeps that of "", ``npi`` takes the source prompt's embedding for it
    (negative-prompt inversion, Miyake et al., arXiv 2305.16807), and ``direct`` keeps that of "" and puts the latent
    back on the DDIM trajectory (direct inversion, Ju et al., arXiv 2310.01506).

    Args:
        backbone: the frozen networks.
        task: the batch.
        z_t: latents, (B, C, h, w).
        i: step, 0 the noisiest.
        cond: f(z_t, t, V_t), (B, C, h, w); what is put back on its trajectory needs none.
        null: ∅_{t+1}, (B, L, D).
        prefix: of z_t; None computes everything.

    Returns:
        ∅_t (B, L, D), z_{t-1} (B, C, h, w), the loss (B,), gradient steps taken (B,).
    """
    policy = task.method.null_text
    if policy.policy == "npi":
        null = task.plain.keys
    elif not (policy.policy == "optimize" and policy.carry_over):
        null = task.empty.keys.expand(len(z_t), -1, -1)
    if task.method.is_direct or cond is None:
        zeros = z_t.new_zeros(len(z_t))
        return null, task.ddim_latent(i + 1), zeros, zeros.int()
    return optimize_null_text(backbone, task, z_t, i, cond, null.to(backbone.device, torch.float32), prefix)
