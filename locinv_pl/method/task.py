"""What stays the same for a batch of images while it is inverted: prompts, priors, the DDIM trajectory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from locinv_pl.method.background import estimate_background
from locinv_pl.method.policies import LOSSES, Method
from locinv_pl.networks.attention import (
    AttentionHook,
    AttentionHooks,
    Context,
    CrossAttentionMaps,
    Grid,
    SelfAttentionMaps,
    maps_of,
)
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.memory import young_garbage_only
from locinv_pl.networks.schedule import Schedule, ddim_step
from locinv_pl.priors import prior_on_grid
from locinv_pl.types import EditSample, StepRecord
from locinv_pl.words.tokens import PromptBatch, prompt_batch


@dataclass(frozen=True, eq=False)
class Task:
    """A batch of images to invert: everything that no timestep changes.

    ``prompts`` holds the batch's token tensors; ``embeddings`` (B, L, D) the words' own input
    embeddings; ``plain`` (B, L, D) the text encoder's output for the unchanged prompt; ``empty``
    (1, L, D) that for ""; ``priors`` (B, K, r, c) is S; ``background`` (B, r, c) DPL's M, where its loss counts;
    ``trajectory`` (T+1, B, C, h, w) z̄_0..z̄_T; ``initial_maps`` (T, B, K, r, c) the A_t^k along it, noisiest first;
    ``proposals`` what :func:`~locinv_pl.method.dynamic_tokens.propose_tokens` found, by step.
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

    def pick(self, images: Sequence[int]) -> Task:
        """The task of some of the images, by number; each has an equal share of the time."""
        some = list(images)
        return replace(
            self,
            samples=tuple(self.samples[b] for b in some),
            prompts=self.prompts.pick(some),
            embeddings=self.embeddings[some],
            plain=self.plain[some],
            priors=self.priors[some],
            background=None if self.background is None else self.background[some],
            trajectory=self.trajectory[:, some].contiguous(),
            initial_maps=self.initial_maps[:, some].contiguous(),
            seconds=self.seconds * len(some) / len(self.samples),
            proposals={i: (V[some], steps[some]) for i, (V, steps) in self.proposals.items()},
        )

    def ddim_latent(self, i: int) -> Tensor:
        """z̄_t at which step i begins, (B, C, h, w); step i - 1 should end there, and the last at z̄_0, i = T."""
        return self.trajectory[len(self.schedule) - i]

    def start(self) -> StepRecord:
        """The state before step 0: z_T, the words' own embeddings, ∅ of the empty prompt."""
        B = len(self.samples)
        zeros = torch.zeros(B, device=self.plain.device)
        return StepRecord(
            latent=self.ddim_latent(0),
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
    """What makes two inversions of an image comparable; goes into every result file."""
    return {
        "backbone": backbone.name,
        "method": method.to_dict(),
        "num_steps": num_steps,
        "resolution": resolution,
    }


def prepare(backbone: Backbone, samples: Sequence[EditSample], method: Method, num_steps: int, resolution: int) -> Task:
    """Encode a batch's images and prompts and invert them by DDIM under the plain prompt."""
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
    """DPL's background of every image, (B, r, c), from its mean maps A (B, K, r, c)."""
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
