"""Phase 1 of a timestep: dynamic tokens V_t, optimised until each noun's maps fit its prior."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial

import torch
from torch import Tensor

from locinv_pl.method.early_stopping import Descent
from locinv_pl.method.losses import (
    adjective_binding_loss,
    attention_balancing_loss,
    background_leakage_loss,
    contrast_tokens,
    disjoint_object_loss,
    joint_marginal_loss,
    leakage_loss,
    loss_threshold,
    marginal_loss,
    overlap_loss,
    similarity_loss,
)
from locinv_pl.method.policies import LOSSES, TokenPolicy
from locinv_pl.method.task import Task
from locinv_pl.networks.attention import Context, maps_of
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.memory import halving
from locinv_pl.networks.prefix import Prefix

OF_PRIORS = ("similarity", "overlap", "leakage")  # that of an even map depends on the prior's area


def dynamic_context(backbone: Backbone, policy: TokenPolicy, ids: Tensor, V: Tensor, plain: Context) -> Context:
    """What cross-attention sees of prompts with dynamic tokens.

    Args:
        backbone: the frozen networks.
        policy: says whether tokens move at all, and whether they feed the values too.
        ids: token ids (B, L).
        V: input embeddings with V_t in the dynamic tokens' rows, (B, L, D).
        plain: what the text encoders make of the words' own embeddings, (B, L, D). Its pooled states stay.
    """
    if policy.policy == "fixed":
        return plain
    keys = backbone.encode_text(ids, V).keys
    return plain.with_states(keys, plain.values if policy.values == "prompt" else keys)


def token_context(backbone: Backbone, task: Task, V: Tensor, images: Tensor | slice = slice(None)) -> Context:
    """The context of some of the task's images with dynamic tokens.

    Args:
        backbone: the frozen networks.
        task: the batch.
        V: their input embeddings with V_t in the dynamic tokens' rows, (b, L, D).
        images: which of the task's images, numbers (b,); all by default.
    """
    return dynamic_context(backbone, task.method.tokens, task.prompts.ids[images], V, task.plain.pick(images))


def applicable(task: Task, images: Tensor | slice = slice(None)) -> Tensor:
    """Which losses have something to apply to in each of the task's images, bool, (b, n) in the order of ``LOSSES``.

    Most need a noun, disjoint objects two of them, adjective binding an adjective, background leakage a background.

    Args:
        task: the batch.
        images: which of its images, numbers (b,); all by default.
    """
    p = task.prompts
    nouns = p.has_noun[images].sum(-1)  # (b,)
    applies = dict.fromkeys(LOSSES, nouns > 0)
    applies["adjective"] = p.has_pair[images].any(-1)
    applies["disjoint"] = nouns > 1
    if task.background is None:
        applies["background"] = torch.zeros_like(applies["background"])
    return torch.stack([applies[name] for name in LOSSES], dim=-1)


def token_losses(A: Tensor, task: Task, images: Tensor | slice = slice(None), only: Collection[str] = LOSSES) -> Tensor:
    """The losses of each image; with the policy's ``relative``, each in units of what an even map would have.

    Args:
        A: maps of some of the task's images, (b, r, c, L).
        task: the batch.
        images: which of its images, numbers (b,); all by default.
        only: names of the losses to compute, of ``LOSSES``.

    Returns:
        (b, n) in the order of ``LOSSES``; NaN where one isn't asked for, or isn't :func:`applicable`.
    """
    losses = _losses(A, task, images, only)
    if task.method.tokens.relative:
        even = _losses(torch.ones_like(A), task, images, [name for name in only if name in OF_PRIORS])
        losses = losses / even.nan_to_num(1.0).clamp_min(torch.finfo(A.dtype).eps)
    return losses


def _losses(A: Tensor, task: Task, images: Tensor | slice, only: Collection[str]) -> Tensor:
    """The losses as they are, (b, n)."""
    p, S, M = task.prompts, task.priors[images], None if task.background is None else task.background[images]
    has_noun, A_noun = p.has_noun[images], maps_of(A, p.nouns[images])  # (b, K), (b, K, r, c)
    published = task.method.tokens.formulas == "published"

    def loss(name: str) -> Tensor:
        match name:
            case "similarity":
                return similarity_loss(A_noun, S, has_noun)
            case "overlap":
                return overlap_loss(A_noun, S, has_noun)
            case "adjective":
                A_adjective, A_described = maps_of(A, p.adjectives[images]), maps_of(A, p.described[images])
                return adjective_binding_loss(A_adjective, A_described, p.has_pair[images])
            case "leakage":
                return leakage_loss(A_noun, S, has_noun)
            case "marginals" if published:
                return joint_marginal_loss(A_noun, S, has_noun)
            case "marginals":
                return marginal_loss(A_noun, S, has_noun)
            case "balance" if published:
                A_contrast = maps_of(contrast_tokens(A), p.nouns[images])
                return attention_balancing_loss(A_contrast, has_noun, sigma=0.5 * math.sqrt(2))
            case "balance":
                return attention_balancing_loss(A_noun, has_noun)
            case "disjoint":
                return disjoint_object_loss(A_noun, has_noun)
            case "background" if M is not None:
                return background_leakage_loss(A_noun, M, has_noun)
        return absent

    absent = A.new_full((len(A),), torch.nan)
    losses = [loss(name) if name in only else absent for name in LOSSES]
    return torch.stack(losses, dim=-1).where(applicable(task, images), torch.nan)


def step_thresholds(policy: TokenPolicy, i: int) -> Tensor:
    """TH_i of all losses, (n,) in the order of ``LOSSES``; infinite where one has no β.

    Args:
        policy: holds every loss's α and β.
        i: step, 0 the noisiest.
    """
    terms = policy.losses.values()
    return torch.tensor([math.inf if t.beta is None else loss_threshold(i, t.alpha, t.beta) for t in terms])


def optimize_tokens(
    backbone: Backbone,
    task: Task,
    z_t: Tensor,
    i: int | Tensor,
    V: Tensor,
    prefix: Prefix | None = None,
    images: Tensor | None = None,
    max_steps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Phase 1 of a timestep: move V_t until the maps fit the priors.

        L = λ_sim L_sim + λ_ovl L_ovl + λ_adj L_adj + …,  V ← AdamW(∇_V L)

    An image stops as soon as all its active losses are below TH_i, and leaves the batch.

    Source: Tang et al., LocInv, arXiv 2405.01496, section 3.2.

    Args:
        backbone: the frozen networks.
        task: the batch.
        z_t: latents of b rows, (b, C, h, w).
        i: step, one for all rows or (b,); 0 is the noisiest.
        V: V_{t+1}, (b, L, D), to start from.
        prefix: of z_t; None computes everything.
        images: which of the task's images the rows are of, (b,); all in turn by default.
        max_steps: K1, gradient steps at most; the policy's by default.

    Returns:
        V_t (b, L, D), gradient steps taken (b,).
    """
    policy = task.method.tokens
    at = torch.as_tensor(i).expand(len(z_t))
    t = task.schedule.timesteps[at]
    images = torch.arange(len(z_t), device=z_t.device) if images is None else images
    λ = torch.tensor([term.weight for term in policy.losses.values()], device=z_t.device)  # (n,)
    TH = torch.stack([step_thresholds(policy, j) for j in at.tolist()]).to(z_t.device)  # (b, n)

    adamw = partial(torch.optim.AdamW, lr=policy.lr, weight_decay=policy.weight_decay)
    has_noun = torch.nonzero(task.prompts.has_noun[images].any(-1)).flatten()
    descent = Descent(V, adamw, prefix, has_noun, task.prompts.dynamic[images], backbone.text.units)
    of = descent.of
    for _ in range(policy.max_steps if max_steps is None else max_steps):
        if not len(has_noun):
            break
        with torch.enable_grad():
            context = token_context(backbone, task, descent.embeddings, of(images))  # of V_t, (b', L, D)
            A = backbone.attention_maps(of(z_t), of(t), context, task.grid, descent.prefix)  # (b', r, c, L)
            losses = token_losses(A, task, of(images), policy.active)  # (b', n)
            going = (losses >= of(TH)).any(-1)  # (b',); no NaN is
            if not going.any():
                break
            total = (λ * losses[going].nan_to_num(0)).sum()
        descent.step(total, going)
    return descent.result, descent.steps


def propose_tokens(backbone: Backbone, task: Task, i: int) -> tuple[Tensor, Tensor]:
    """V̂_t, tokens fitted on the DDIM trajectory's own z̄_t from the words' embeddings, several timesteps at once.

    Args:
        backbone: the frozen networks.
        task: the batch; ``task.proposals`` remembers what was fitted.
        i: step, 0 the noisiest.

    Returns:
        V̂_t of step i (B, L, D), gradient steps taken (B,).

    Raises:
        torch.OutOfMemoryError: one timestep of one image alone is too much.
    """
    return task.proposals.at(i, partial(_fit_proposals, backbone, task))


def _fit_proposals(backbone: Backbone, task: Task, i: int) -> dict[int, tuple[Tensor, Tensor]]:
    """V̂_t (B, L, D) and gradient steps (B,) of step i and of those that are fitted together with it, by step."""
    T, B, together = len(task.schedule), len(task.samples), task.method.parallel.timesteps
    first = i - i % together
    steps = torch.arange(first, min(first + together, T), device=backbone.device)
    at, images = steps.repeat_interleave(B), torch.arange(B, device=backbone.device).repeat(len(steps))

    def fit(some: range) -> tuple[Tensor, Tensor]:
        rows = slice(some.start, some.stop)
        z_t = task.trajectory[T - at[rows], images[rows]]  # (b, C, h, w)
        prefix = backbone.prefix(z_t, task.schedule.timesteps[at[rows]])
        V = task.embeddings[images[rows]]  # (b, L, D)
        return optimize_tokens(backbone, task, z_t, at[rows], V, prefix, images[rows])

    found = [done for _, done in halving(fit, range(len(at)))]
    if None in found:
        raise torch.OutOfMemoryError("one timestep of one image alone is too much")
    V, taken = (torch.cat(parts) for parts in zip(*found, strict=True))
    return dict(zip(steps.tolist(), zip(V.split(B), taken.split(B), strict=True), strict=True))


def correct_tokens(
    backbone: Backbone, task: Task, z_t: Tensor, i: int, V: Tensor, prefix: Prefix | None = None
) -> tuple[Tensor, Tensor]:
    """V_t from V̂_t and the correction of the step before: V̂_t + (V_{t+1} - V̂_{t+1}), then a few steps on z_t.

    Args:
        backbone: the frozen networks.
        task: the batch.
        z_t: latents, (B, C, h, w).
        i: step, 0 the noisiest.
        V: V_{t+1}, (B, L, D).
        prefix: of z_t; None computes everything.

    Returns:
        V_t (B, L, D), gradient steps taken (B,), those for V̂_t among them.
    """
    proposal, taken = propose_tokens(backbone, task, i)
    start = proposal if i == 0 else proposal + (V - propose_tokens(backbone, task, i - 1)[0])
    most = task.method.parallel.correction_steps
    corrected, steps = optimize_tokens(backbone, task, z_t, i, start, prefix, max_steps=most)
    return corrected, taken + steps
