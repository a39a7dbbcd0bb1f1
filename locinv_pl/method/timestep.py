"""LocInv's algorithm, one timestep after the other.

Every function takes its state and gives it back. A :class:`~locinv_pl.method.task.Task` is what stays the same for a
batch of images; a :class:`~locinv_pl.types.StepRecord` is what a timestep adds, and the last one
is all that the next timestep needs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from locinv_pl.method.dynamic_tokens import (
    correct_tokens,
    optimize_tokens,
    step_thresholds,
    token_context,
    token_losses,
)
from locinv_pl.method.null_text import null_text_step
from locinv_pl.method.task import Task
from locinv_pl.networks.attention import maps_of
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.memory import freeze_gc
from locinv_pl.types import Inversion, StepRecord, stack


@freeze_gc()
def invert_step(backbone: Backbone, task: Task, i: int, before: StepRecord) -> StepRecord:
    """One timestep: tokens, then null text, then the guided DDIM step.

    Source: Tang et al., LocInv, arXiv 2405.01496, section 3.

    Args:
        backbone: the frozen networks.
        task: the batch.
        i: step, 0 the noisiest.
        before: the record of step i-1, or ``task.start()``.

    Returns:
        the record of step i: all that step i+1 needs.
    """
    began = time.perf_counter()
    method, z_t = task.method, before.latent.to(backbone.device)
    backbone = backbone.guided_by(method.guidance_scale)
    t = task.schedule.timesteps[i]
    V, token_steps = before.tokens.to(backbone.device), torch.zeros(len(z_t), dtype=torch.int32)
    prefix = backbone.prefix(z_t, t)
    if method.tokens.policy == "optimize" and i % method.tokens.every == 0:
        move = correct_tokens if method.parallel.timesteps else optimize_tokens
        V, token_steps = move(backbone, task, z_t, i, V, prefix)
    with torch.no_grad():
        context = token_context(backbone, task, V)
        if method.is_direct:  # z̄_{t-1} is known: no noise is to be predicted
            cond, A = None, backbone.attention_maps(z_t, t.expand(len(z_t)), context, task.grid, prefix)  # (B, r, c, L)
        else:
            cond, A = backbone.predict_with_maps(z_t, t, context, task.grid, prefix)  # and (B, C, h, w)
        losses = token_losses(A, task)  # (B, n)
    null, z_s, null_loss, null_steps = null_text_step(backbone, task, z_t, i, cond, before.null, prefix)
    null = null.to(backbone.dtype)  # as it is used
    last = before.null.to(null)
    null = last if torch.equal(last, null) else null  # one that stays the same is held once
    return StepRecord(
        latent=z_s,
        tokens=V,
        null=null,
        maps=maps_of(A, task.prompts.nouns),
        losses=losses,
        thresholds=step_thresholds(method.tokens, i),
        null_loss=null_loss,
        token_steps=token_steps,
        null_steps=null_steps,
        seconds=time.perf_counter() - began,
    )


def collect(task: Task, records: Sequence[StepRecord]) -> list[Inversion]:
    """The finished inversions of a batch.

    Args:
        task: the batch.
        records: of its T steps, the noisiest first.

    Returns:
        one inversion for each image, on the CPU.
    """
    inversions = []
    for b, sample in enumerate(task.samples):
        K = len(sample.nouns)
        nouns = task.prompts.nouns[b, :K]
        dynamic = torch.nonzero(task.prompts.dynamic[b]).flatten().tolist()
        inversions.append(
            Inversion(
                id=sample.id,
                prompt=sample.prompt,
                nouns=tuple(n.word for n in sample.nouns),
                noun_positions=tuple(tuple(torch.nonzero(row).flatten().tolist()) for row in nouns),
                dynamic=tuple(dynamic),
                settings=task.settings,
                trajectory=task.trajectory[:, b].cpu(),
                tokens=stack([r.tokens[b, dynamic] for r in records]),
                null=_null([r.null[b] for r in records]),
                maps=stack([r.maps[b, :K] for r in records]),
                initial_maps=task.initial_maps[:, b, :K].cpu(),
                priors=task.priors[b, :K].cpu(),
                fine_priors=task.fine_priors[b, :K],
                latent=records[-1].latent[b].cpu(),
                losses=stack([r.losses[b] for r in records]),
                thresholds=stack([r.thresholds for r in records]),
                null_loss=stack([r.null_loss[b] for r in records]),
                token_steps=stack([r.token_steps[b] for r in records]),
                null_steps=stack([r.null_steps[b] for r in records]),
                fingerprint=sample.fingerprint,
            )
        )
    return inversions


def _null(rows: list[Tensor]) -> Tensor:
    """∅_t of all timesteps, or that of one where it stays the same: (T, L, D) or (1, L, D), on the CPU."""
    rows = [row.detach().to("cpu", rows[-1].dtype) for row in rows]  # those of an earlier run were in a file
    is_constant = all(torch.equal(row, rows[0]) for row in rows)
    return torch.stack(rows[:1] if is_constant else rows)
