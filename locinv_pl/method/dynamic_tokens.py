"""Phase 1 of a timestep: dynamic tokens V_t, optimised until each noun's maps fit its prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from locinv_pl.method.early_stopping import keep_rows
from locinv_pl.method.losses import (
    adjective_binding_loss,
    attention_balancing_loss,
    background_leakage_loss,
    disjoint_object_loss,
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


def dynamic_context(backbone: Backbone, policy: TokenPolicy, ids: Tensor, V: Tensor, plain: Tensor) -> Context:
    """What cross-attention sees of prompts with dynamic tokens.

    Args:
        policy: says whether tokens move at all, and whether they feed the values too.
        ids: token ids (B, L).
        V: input embeddings with V_t in the dynamic tokens' rows, (B, L, D).
        plain: the text encoder's output for the words' own embeddings, (B, L, D).
    """
    if policy.policy == "fixed":
        return Context.of(plain)
    keys = backbone.encode_text(ids, V)
    return Context(keys, plain if policy.values == "prompt" else keys)


def token_context(backbone: Backbone, task: Task, V: Tensor, images: Tensor | slice = slice(None)) -> Context:
    """The context of some of the task's images under input embeddings V (b, L, D) given for them."""
    return dynamic_context(backbone, task.method.tokens, task.prompts.ids[images], V, task.plain[images])


def token_losses(A: Tensor, task: Task, images: Tensor | slice = slice(None), only: Collection[str] = LOSSES) -> Tensor:
    """The losses of each image, (b, 8) in the order of ``LOSSES``, from its maps A (b, r, c, L).

    NaN where one isn't asked for, or has nothing to apply to: no noun, one noun alone, no adjective, no background.
    """
    p, S, M = task.prompts, task.priors[images], None if task.background is None else task.background[images]
    has_noun, has_pair, A_noun = p.has_noun[images], p.has_pair[images], maps_of(A, p.nouns[images])
    one, two, pair = has_noun.any(-1), has_noun.sum(-1) > 1, has_pair.any(-1)

    def binding() -> Tensor:
        return adjective_binding_loss(maps_of(A, p.adjectives[images]), maps_of(A, p.described[images]), has_pair)

    losses: dict[str, tuple[Callable[[], Tensor], Tensor]] = {
        "similarity": (lambda: similarity_loss(A_noun, S, has_noun), one),
        "overlap": (lambda: overlap_loss(A_noun, S, has_noun), one),
        "adjective": (binding, pair),
        "leakage": (lambda: leakage_loss(A_noun, S, has_noun), one),
        "marginals": (lambda: marginal_loss(A_noun, S, has_noun), one),
        "balance": (lambda: attention_balancing_loss(A_noun, has_noun), one),
        "disjoint": (lambda: disjoint_object_loss(A_noun, has_noun), two),
    }
    if M is not None:
        losses["background"] = (lambda: background_leakage_loss(A_noun, M, has_noun), one)
    absent = A.new_full((len(A),), torch.nan)
    chosen = [losses[name] if name in losses and name in only else None for name in LOSSES]
    return torch.stack([absent if c is None else c[0]().where(c[1], torch.nan) for c in chosen], dim=-1)


def step_thresholds(policy: TokenPolicy, i: int) -> Tensor:
    """TH_i of all losses, (8,); infinite where one has no β."""
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

    A row stops as soon as all its active losses are below TH_i, and leaves the batch.

    Args:
        z_t: (B, C, h, w).
        i: step, one for all rows or (B,).
        V: V_{t+1}, (B, L, D), to start from.
        prefix: of z_t, where it is there.
        images: which of the task's images the rows are of, (B,); all in turn by default.
        max_steps: in place of the policy's.

    Returns:
        V_t (B, L, D), gradient steps taken (B,).
    """
    policy = task.method.tokens
    at = torch.as_tensor(i).expand(len(z_t))
    t, abar_t = task.schedule.timesteps[at], task.schedule.alphas[at]
    images = torch.arange(len(z_t), device=z_t.device) if images is None else images
    weights = torch.tensor([term.weight for term in policy.losses.values()], device=z_t.device)
    thresholds = torch.stack([step_thresholds(policy, j) for j in at.tolist()]).to(z_t.device)

    steps = torch.zeros(len(z_t), dtype=torch.int32, device=z_t.device)
    running = torch.nonzero(task.prompts.has_noun[images].any(-1)).flatten()
    known = prefix if prefix is None or len(running) == len(z_t) else prefix.pick(running)
    V, where = V.clone(), task.prompts.dynamic[images[running], :, None]
    rows = V[running][where[..., 0]].requires_grad_()  # all dynamic tokens of the running images
    optimizer = torch.optim.AdamW([rows], lr=policy.lr, weight_decay=policy.weight_decay)
    for _ in range(policy.max_steps if max_steps is None else max_steps):
        if not len(running):
            break
        with torch.enable_grad():
            context = token_context(backbone, task, V[running].masked_scatter(where, rows), images[running])
            A = backbone.attention_maps(z_t[running], t[running], abar_t[running], context, task.grid, known)
            loss = token_losses(A, task, images[running], policy.active)
            going = (loss >= thresholds[running]).any(-1)  # no NaN is
            if not going.any():
                break
            optimizer.zero_grad()
            (loss[going].nan_to_num(0) * weights).sum().backward()
        if not going.all():
            rows = keep_rows(optimizer, going.repeat_interleave(where.sum((1, 2))))
            running, known, where = running[going], known and known.pick(going), where[going]
        optimizer.step()
        steps[running] += 1
        V[running] = V[running].masked_scatter(where, rows.detach())
    return V, steps


def propose_tokens(backbone: Backbone, task: Task, i: int) -> tuple[Tensor, Tensor]:
    """V̂_t, tokens fitted on the DDIM trajectory's own z̄_t from the words' embeddings, several timesteps at once.

    Returns:
        V̂_t of step i (B, L, D), gradient steps taken (B,); kept on the task, with those of the steps beside it.
    """
    if i not in task.proposals:
        T, B, together = len(task.schedule), len(task.samples), task.method.parallel.timesteps
        first = i - i % together
        steps = torch.arange(first, min(first + together, T), device=backbone.device)
        at, images = steps.repeat_interleave(B), torch.arange(B, device=backbone.device).repeat(len(steps))

        def fit(some: range) -> tuple[Tensor, Tensor]:
            rows = slice(some.start, some.stop)
            z_t = task.trajectory[T - at[rows], images[rows]]
            prefix = backbone.prefix(z_t, task.schedule.timesteps[at[rows]])
            V = task.embeddings[images[rows]]
            return optimize_tokens(backbone, task, z_t, at[rows], V, prefix, images[rows])

        found = [done for _, done in halving(fit, range(len(at)))]
        if None in found:
            raise torch.OutOfMemoryError("one timestep of one image alone is too much")
        V, taken = (torch.cat(parts) for parts in zip(*found, strict=True))
        task.proposals.update(zip(steps.tolist(), zip(V.split(B), taken.split(B), strict=True), strict=True))
    return task.proposals[i]


def correct_tokens(
    backbone: Backbone, task: Task, z_t: Tensor, i: int, V: Tensor, prefix: Prefix | None = None
) -> tuple[Tensor, Tensor]:
    """V_t from V̂_t and the correction of the step before: V̂_t + (V_{t+1} - V̂_{t+1}), then a few steps on z_t.

    Arguments and result as in :func:`optimize_tokens`.
    """
    proposal, taken = propose_tokens(backbone, task, i)
    start = proposal if i == 0 else proposal + (V - propose_tokens(backbone, task, i - 1)[0])
    most = task.method.parallel.correction_steps
    corrected, steps = optimize_tokens(backbone, task, z_t, i, start, prefix, max_steps=most)
    return corrected, taken + steps
