"""LocInv's algorithm: DDIM inversion, then one timestep after the other.

Every function takes its state and gives it back. A :class:`Task` is what stays the same for a
batch of pictures; a :class:`~locinv_pl.types.StepRecord` is what a timestep adds, and the last one
is all that the next timestep needs. Symbols: z_t latent, V_t dynamic tokens, ∅_t null text, A_t
attention maps, S priors, w guidance scale; step i = 0 is the noisiest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from locinv_pl.attention import (
    AttentionHook,
    AttentionHooks,
    Context,
    CrossAttentionMaps,
    Grid,
    SelfAttentionMaps,
    maps_of,
)
from locinv_pl.backbone import Backbone
from locinv_pl.background import estimate_background
from locinv_pl.losses import (
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
from locinv_pl.memory import halving, young_garbage_only
from locinv_pl.methods import LOSSES, Method, TokenPolicy
from locinv_pl.prefix import Prefix
from locinv_pl.priors import prior_on_grid
from locinv_pl.prompts import PromptBatch, prompt_batch
from locinv_pl.schedule import Schedule, ddim_step, guided_noise
from locinv_pl.types import EditSample, Inversion, StepRecord, stack


@dataclass(frozen=True, eq=False)
class Task:
    """A batch of pictures to invert: everything that no timestep changes.

    ``prompts`` holds the batch's token tensors; ``embeddings`` (B, L, D) the words' own input
    embeddings; ``plain`` (B, L, D) the text encoder's output for the unchanged prompt; ``empty``
    (1, L, D) that for ""; ``priors`` (B, K, r, c) is S; ``background`` (B, r, c) DPL's M, where its loss counts;
    ``trajectory`` (T+1, B, C, h, w) z̄_0..z̄_T; ``initial_maps`` (T, B, K, r, c) the A_t^k along it, noisiest first;
    ``proposals`` what :func:`propose_tokens` found, by step.
    """

    samples: tuple[EditSample, ...]
    method: Method
    schedule: Schedule
    grid: Grid
    prompts: PromptBatch
    embeddings: Tensor
    plain: Tensor
    empty: Tensor
    priors: Tensor
    background: Tensor | None
    trajectory: Tensor
    initial_maps: Tensor
    settings: Mapping[str, Any]
    seconds: float
    proposals: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def start(self) -> StepRecord:
        """The state before step 0: z_T, the words' own embeddings, ∅ of the empty prompt."""
        B = len(self.samples)
        zeros = torch.zeros(B, device=self.plain.device)
        return StepRecord(
            latent=self.trajectory[-1],
            tokens=self.embeddings,
            null=self.empty.expand(B, -1, -1),
            maps=self.initial_maps[0],
            losses=zeros[:, None].expand(B, len(LOSSES)),
            thresholds=zeros.new_zeros(len(LOSSES)),
            null_loss=zeros,
            token_steps=zeros.int(),
            null_steps=zeros.int(),
        )


def settings_of(backbone: Backbone, method: Method, num_steps: int, resolution: int) -> dict[str, Any]:
    """What makes two inversions of a picture comparable; goes into every result file."""
    return {
        "backbone": backbone.name,
        "method": method.to_dict(),
        "num_steps": num_steps,
        "resolution": resolution,
    }


def prepare(backbone: Backbone, samples: Sequence[EditSample], method: Method, num_steps: int, resolution: int) -> Task:
    """Encode a batch's pictures and prompts and invert them by DDIM under the plain prompt."""
    began = time.perf_counter()
    device = backbone.device
    moves = method.tokens.policy == "optimize"
    binding = moves and method.tokens.adjective.weight > 0
    prompts = prompt_batch(backbone.tokenizer, samples, binding).to(device)
    embeddings = backbone.embed(prompts.ids)
    with torch.no_grad():
        plain, empty = backbone.encode_text(prompts.ids), backbone.encode_null()
    z_0 = backbone.encode(torch.stack([s.image for s in samples]))
    grid = backbone.map_grid(z_0.shape, resolution)
    schedule = backbone.schedule(num_steps)
    parts = SelfAttentionMaps(backbone.finest_grid(z_0.shape, 2 * resolution))
    estimates = moves and method.tokens.background.weight > 0
    trajectory, A = ddim_invert(backbone, z_0, Context.of(plain), schedule, grid, parts if estimates else None)
    initial_maps = torch.stack([maps_of(A_t, prompts.nouns) for A_t in A])
    priors = torch.zeros(*prompts.has_noun.shape, *grid)
    for b, sample in enumerate(samples):
        for k, noun in enumerate(sample.nouns):
            priors[b, k] = prior_on_grid(noun.prior.float(), grid, method.tokens.rasterize)
    return Task(
        samples=tuple(samples),
        method=method,
        schedule=schedule,
        grid=grid,
        prompts=prompts,
        embeddings=embeddings,
        plain=plain,
        empty=empty,
        priors=priors.to(device),
        background=_background(parts, initial_maps.mean(0), prompts) if estimates else None,
        trajectory=trajectory,
        initial_maps=initial_maps,
        settings=settings_of(backbone, method, num_steps, resolution),
        seconds=time.perf_counter() - began,
    )


def _background(parts: SelfAttentionMaps, A: Tensor, prompts: PromptBatch) -> Tensor:
    """DPL's background of every picture, (B, r, c), from its mean maps A (B, K, r, c)."""
    each = zip(parts.mean, A, prompts.has_noun, strict=True)
    return torch.stack([estimate_background(rows, maps[real], parts.grid) for rows, maps, real in each]).to(A.device)


@young_garbage_only()
@torch.no_grad()
def ddim_invert(
    backbone: Backbone,
    z_0: Tensor,
    context: Context,
    schedule: Schedule,
    grid: Grid,
    also: AttentionHook | None = None,
) -> tuple[Tensor, Tensor]:
    """DDIM inversion with guidance 1: from the clean latent to noise.

    Args:
        z_0: (B, C, h, w).
        context: of the source prompt.
        schedule: T steps.
        grid: attention grid to read.
        also: sees the attention, too.

    Returns:
        the trajectory z̄_0..z̄_T (T+1, B, C, h, w) and the plain maps A_t (T, B, r, c, L), noisiest first.
    """
    trajectory, A = [z_0], []
    for i in reversed(range(len(schedule))):
        maps = CrossAttentionMaps(grid)
        hook = maps if also is None else AttentionHooks(maps, also)
        eps = backbone.predict_noise(trajectory[-1], schedule.timesteps[i], schedule.alphas[i], context, hook)
        trajectory.append(ddim_step(trajectory[-1], eps, schedule.alphas[i + 1], schedule.alphas[i]))
        A.append(maps.A)
    return torch.stack(trajectory), torch.stack(A[::-1])


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
        images: which of the task's pictures the rows are of, (B,); all in turn by default.
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
            raise torch.OutOfMemoryError("one timestep of one picture alone is too much")
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


def keep_rows(optimizer: torch.optim.Optimizer, some: Tensor) -> Tensor:
    """Let an optimizer of one tensor go on with some of its rows, with their gradients and their part of its state.

    Args:
        optimizer: it treats every number for itself.
        some: a mask of the rows, or their indices.

    Returns:
        the tensor in the other's place.
    """
    (group,) = optimizer.param_groups
    (before,) = group["params"]
    after = before.detach()[some].requires_grad_()
    after.grad = None if before.grad is None else before.grad[some]
    state = optimizer.state.pop(before, {})
    optimizer.state[after] = {key: x[some] if x.shape == before.shape else x for key, x in state.items()}
    group["params"] = [after]
    return after


def step_thresholds(policy: TokenPolicy, i: int) -> Tensor:
    """TH_i of all losses, (8,); infinite where one has no β."""
    terms = policy.losses.values()
    return torch.tensor([math.inf if t.beta is None else loss_threshold(i, t.alpha, t.beta) for t in terms])


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
    target = task.trajectory[len(task.schedule) - 1 - i]
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
        return empty, task.trajectory[len(task.schedule) - 1 - i], zeros, zeros.int()
    if policy.policy == "npi":
        null = task.plain
    elif not (policy.policy == "optimize" and policy.carry_over):
        null = empty
    return optimize_null_text(backbone, task, z_t, i, eps_cond, null.to(backbone.device), prefix)


@young_garbage_only()
def invert_step(backbone: Backbone, task: Task, i: int, before: StepRecord) -> StepRecord:
    """One timestep: tokens, then null text, then the guided DDIM step.

    Args:
        task: the batch.
        i: step, 0 the noisiest.
        before: the record of step i-1, or ``task.start()``.
    """
    began = time.perf_counter()
    method, z_t = task.method, before.latent.to(backbone.device)
    t, abar_t = task.schedule.timesteps[i], task.schedule.alphas[i]
    V, token_steps = before.tokens.to(backbone.device), torch.zeros(len(z_t), dtype=torch.int32)
    prefix = backbone.prefix(z_t, t)
    if method.tokens.policy == "optimize":
        move = correct_tokens if method.parallel.timesteps else optimize_tokens
        V, token_steps = move(backbone, task, z_t, i, V, prefix)
    with torch.no_grad():
        maps = CrossAttentionMaps(task.grid)
        eps_cond = backbone.predict_noise(z_t, t, abar_t, token_context(backbone, task, V), maps, prefix)
        losses = token_losses(maps.A, task)
    null, z_s, null_loss, null_steps = null_text_step(backbone, task, z_t, i, eps_cond, before.null, prefix)
    return StepRecord(
        latent=z_s,
        tokens=V,
        null=null,
        maps=maps_of(maps.A, task.prompts.nouns),
        losses=losses,
        thresholds=step_thresholds(method.tokens, i),
        null_loss=null_loss,
        token_steps=token_steps,
        null_steps=null_steps,
        seconds=time.perf_counter() - began,
    )


def collect(task: Task, records: Sequence[StepRecord]) -> list[Inversion]:
    """The finished inversions of a batch, one for each picture, from its T records."""
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
                null=stack([r.null[b] for r in records]),
                maps=stack([r.maps[b, :K] for r in records]),
                initial_maps=task.initial_maps[:, b, :K].cpu(),
                priors=task.priors[b, :K].cpu(),
                latent=records[-1].latent[b].cpu(),
                losses=stack([r.losses[b] for r in records]),
                thresholds=stack([r.thresholds for r in records]),
                null_loss=stack([r.null_loss[b] for r in records]),
                token_steps=stack([r.token_steps[b] for r in records]),
                null_steps=stack([r.null_steps[b] for r in records]),
            )
        )
    return inversions
