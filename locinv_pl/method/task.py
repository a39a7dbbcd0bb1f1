"""What stays the same for a batch of images while it is inverted: prompts, priors, the DDIM inversion's trajectory."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from locinv_pl.errors import InputError
from locinv_pl.io.files import digest
from locinv_pl.method.background import estimate_background
from locinv_pl.method.policies import LOSSES, InversionPolicy, Method
from locinv_pl.method.progress import finish
from locinv_pl.networks.attention import (
    AttentionHook,
    Context,
    Grid,
    SelfAttentionMaps,
    maps_of,
)
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.memory import freeze_gc
from locinv_pl.networks.schedule import Schedule, Solver
from locinv_pl.priors import prior_on_grid
from locinv_pl.types import EditSample, StepRecord
from locinv_pl.words.tokens import PromptBatch, prompt_batch, unmarked_ids


class Proposals:
    """V̂_t by step, each with the gradient steps that it took: fitted when first asked for, remembered from then on.

    Args:
        known: by step V̂_t (B, L, D) and the gradient steps (B,); none in the beginning.
    """

    def __init__(self, known: Mapping[int, tuple[Tensor, Tensor]] | None = None):
        self._known = dict(known or {})

    def at(self, i: int, fit: Callable[[int], Mapping[int, tuple[Tensor, Tensor]]]) -> tuple[Tensor, Tensor]:
        """V̂_t of step i (B, L, D), and the gradient steps (B,).

        Args:
            i: step, 0 the noisiest.
            fit: answers those of step i, and maybe of others, by step; a function of the task alone.
        """
        if i not in self._known:
            self._known |= fit(i)
        return self._known[i]

    def pick(self, images: Sequence[int]) -> Proposals:
        """Those of some of the images, by number."""
        some = list(images)
        return Proposals({i: (V[some], steps[some]) for i, (V, steps) in self._known.items()})


@dataclass(frozen=True, eq=False)
class Task:
    """A batch of images to invert: everything that no timestep changes.

    Args:
        samples: the B images.
        method: what is done to them.
        schedule: T timesteps.
        grid: (r, c), on which maps and priors are compared.
        prompts: the batch's token tensors.
        embeddings: the input embeddings to start from, (B, L, D): the words' own, or those of their tokens without the
            end-of-word mark.
        plain: what the text encoders make of the unchanged prompts, (B, L, D).
        empty: that of "", (1, L, D).
        priors: S, (B, K, r, c), in [0, 1].
        fine_priors: S on the latents' grid, (B, K, h, w), in [0, 1].
        background: DPL's M, (B, r, c), 0 or 1; None where its loss doesn't count.
        trajectory: z̄_0..z̄_T, (T+1, B, C, h, w).
        initial_maps: the A_t^k along it, noisiest first, (T, B, K, r, c).
        settings: what makes inversions comparable, as :func:`settings_of` answers it.
        seconds: that preparing the batch took.
        proposals: V̂_t, the tokens that the trajectory alone determines. They are fitted when a timestep first asks
            for them, which changes how long that timestep takes and nothing else.
    """

    samples: tuple[EditSample, ...]
    method: Method
    schedule: Schedule
    grid: Grid
    prompts: PromptBatch
    embeddings: Tensor
    plain: Context
    empty: Context
    priors: Tensor
    fine_priors: Tensor
    background: Tensor | None
    trajectory: Tensor
    initial_maps: Tensor
    settings: Mapping[str, Any]
    seconds: float
    proposals: Proposals = field(default_factory=Proposals)

    def pick(self, images: Sequence[int]) -> Task:
        """The task of some of the images, by number; each has an equal share of the time."""
        some = list(images)
        return replace(
            self,
            samples=tuple(self.samples[b] for b in some),
            prompts=self.prompts.pick(some),
            embeddings=self.embeddings[some],
            plain=self.plain.pick(some),
            priors=self.priors[some],
            fine_priors=self.fine_priors[some],
            background=None if self.background is None else self.background[some],
            trajectory=self.trajectory[:, some].contiguous(),
            initial_maps=self.initial_maps[:, some].contiguous(),
            seconds=self.seconds * len(some) / len(self.samples),
            proposals=self.proposals.pick(some),
        )

    def ddim_latent(self, i: int) -> Tensor:
        """z̄_t at which step i begins, (B, C, h, w); step i - 1 should end there, and the last at z̄_0, i = T."""
        return self.trajectory[len(self.schedule) - i]

    def start(self) -> StepRecord:
        """The state before step 0: z_T, the embeddings to start from, ∅ of the empty prompt."""
        B = len(self.samples)
        zeros = torch.zeros(B, device=self.plain.keys.device)
        return StepRecord(
            latent=self.ddim_latent(0),
            tokens=self.embeddings,
            null=self.empty.keys.expand(B, -1, -1),
            maps=self.initial_maps[0],
            losses=zeros[:, None].expand(B, len(LOSSES)),
            thresholds=zeros.new_zeros(len(LOSSES)),
            null_loss=zeros,
            token_steps=zeros.int(),
            null_steps=zeros.int(),
        )


def settings_of(backbone: Backbone, method: Method, num_steps: int, resolution: int) -> dict[str, Any]:
    """What makes two inversions of an image comparable; goes into every result file.

    Args:
        backbone: the frozen networks.
        method: of the inversion.
        num_steps: T.
        resolution: cells of the attention grid along its shorter side.
    """
    return {
        "backbone": backbone.name,
        **backbone.origin,
        "method": {key: value for key, value in method.to_dict().items() if key != "num_steps"},
        "num_steps": num_steps,
        "resolution": resolution,
    }


def check_null_text(backbone: Backbone, method: Method) -> None:
    """Refuse a method that needs ∅ where the backbone has none.

    Args:
        backbone: the frozen networks.
        method: of an inversion.

    Raises:
        InputError: it fits or replaces ∅, and there is none.
    """
    if not backbone.has_null and method.null_text.policy in ("optimize", "npi"):
        raise InputError(
            f"method={method.name}: null_text.policy={method.null_text.policy} needs a null text, which backbone "
            f"{backbone.name!r} hasn't; take method=locinv_direct, or method=direct"
        )


def prepare(backbone: Backbone, samples: Sequence[EditSample], method: Method, num_steps: int, resolution: int) -> Task:
    """What :func:`iter_prepare` returns in the end, of the same arguments."""
    return finish(iter_prepare(backbone, samples, method, num_steps, resolution))


def iter_prepare(
    backbone: Backbone, samples: Sequence[EditSample], method: Method, num_steps: int, resolution: int
) -> Generator[Tensor, None, Task]:
    """Encode a batch's images and prompts and invert them under the plain prompt, by the method's inversion policy.

    Args:
        backbone: the frozen networks.
        samples: B images of one size, with prompts and priors.
        method: says which tokens move and where they start, how priors come onto the grid, which z_0 is taken, and
            where its trajectory comes from.
        num_steps: T.
        resolution: cells of the attention grid along its shorter side; 16 in the paper.

    Yields:
        A_t^k of the nouns after every step, (B, K, r, c), from the clean latent to noise.

    Returns:
        the task, from which the timesteps go on.

    Raises:
        InputError: a prompt is too long, there is no such resolution, no such number of steps, or no null text, which
            the method needs.
    """
    began = time.perf_counter()
    check_null_text(backbone, method)
    device, backbone = backbone.device, backbone.guided_by(method.guidance_scale)
    moves = method.tokens.policy == "optimize"
    binding = moves and method.tokens.adjective.weight > 0
    prompts = prompt_batch(backbone.tokenizer, samples, binding).to(device)
    embeddings = backbone.embed(prompts.ids)
    if moves and method.tokens.start == "piece":
        pieces = backbone.embed(unmarked_ids(backbone.tokenizer, prompts.ids))
        embeddings = pieces.where(prompts.dynamic[..., None], embeddings)
    with torch.no_grad():
        plain, empty = backbone.encode_text(prompts.ids), backbone.encode_null()
    samples_latent, is_virtual = method.latent == "sample", method.inversion.policy == "virtual"
    generators = [_generator(s) for s in samples] if samples_latent or is_virtual else []
    images = torch.stack([s.image for s in samples])
    z_0 = backbone.encode(images, generators if samples_latent else None)
    grid = backbone.map_grid(z_0.shape, resolution)
    schedule = backbone.schedule(num_steps)
    parts = SelfAttentionMaps(backbone.finest_grid(z_0.shape, 2 * resolution))
    estimates = moves and method.tokens.background.weight > 0
    trajectory, maps, also = [z_0], [], parts if estimates else None
    if is_virtual:
        inverted = virtual_invert(backbone, z_0, plain, schedule, grid, generators, also)
    else:
        inverts = backbone.inverting(method.guidance_scale)
        inverted = ddim_invert(inverts, z_0, plain, schedule, grid, also, method.inversion)
    for z_t, A_t in inverted:
        trajectory.append(z_t)
        maps.append(maps_of(A_t, prompts.nouns))
        yield maps[-1]
    initial_maps = torch.stack(maps[::-1])
    priors = torch.zeros(*prompts.has_noun.shape, *grid)
    h, w = z_0.shape[-2:]
    fine_priors = torch.zeros(*prompts.has_noun.shape, h, w)
    for b, sample in enumerate(samples):
        for k, noun in enumerate(sample.nouns):
            priors[b, k] = prior_on_grid(noun.prior.float(), grid, method.tokens.rasterize)
            fine_priors[b, k] = prior_on_grid(noun.prior.float(), (h, w))
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
        fine_priors=fine_priors,
        background=_background(parts, initial_maps.mean(0), prompts) if estimates else None,
        trajectory=torch.stack(trajectory),
        initial_maps=initial_maps,
        settings=settings_of(backbone, method, num_steps, resolution),
        seconds=time.perf_counter() - began,
    )


def _generator(sample: EditSample) -> torch.Generator:
    """Seeded by the pixels alone: an image has the same z_0 in any batch, with any prompt and priors."""
    return torch.Generator().manual_seed(int(digest("", {"image": sample.image})[:15], 16))


def _background(parts: SelfAttentionMaps, A: Tensor, prompts: PromptBatch) -> Tensor:
    """DPL's background of every image, (B, r, c), from its mean maps A (B, K, r, c)."""
    each = zip(parts.mean, A, prompts.has_noun, strict=True)
    return torch.stack([estimate_background(rows, maps[real], parts.grid) for rows, maps, real in each]).to(A.device)


@torch.no_grad()
def ddim_invert(
    backbone: Backbone,
    z_0: Tensor,
    context: Context,
    schedule: Schedule,
    grid: Grid,
    also: AttentionHook | None = None,
    how: InversionPolicy = InversionPolicy(),
) -> Iterator[tuple[Tensor, Tensor]]:
    """DDIM inversion with guidance 1: from the clean latent to noise.

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, eq. 12, run backwards. A flow's
    steps are as :class:`~locinv_pl.networks.schedule.Solver` says. Maps are those of a step's first pass: at its
    beginning, or halfway where FireFlow has no other.

    Args:
        backbone: the frozen networks.
        z_0: clean latents, (B, C, h, w).
        context: of the source prompts, (B, L, D).
        schedule: T steps.
        grid: (r, c), the attention grid to read.
        also: a further hook on the attention; None reads A_t alone.
        how: the solver, and whether each step is refined by :func:`renoise`.

    Yields:
        z̄_t (B, C, h, w) and the plain maps A_t (B, r, c, L) of the T steps, the noisiest last.
    """
    found: list[Tensor] = []  # A_t of a step's first pass

    def predict(z: Tensor, t: Tensor) -> Tensor:
        if found:
            return backbone.predict(z, t, context)  # (B, C, h, w)
        prediction, A_t = backbone.predict_with_maps(z, t, context, grid, also=also)  # and (B, r, c, L)
        found.append(A_t)
        return prediction

    z_s, solver = z_0, Solver(schedule, how.solver)
    for i in reversed(range(len(schedule))):
        found.clear()
        with freeze_gc():
            z_s = renoise(schedule, z_s, i, predict, how) if how.renoise else solver.step(z_s, i, predict, inverse=True)
        yield z_s, found[0]


def renoise(
    schedule: Schedule, z_s: Tensor, i: int, predict: Callable[[Tensor, Tensor], Tensor], how: InversionPolicy
) -> Tensor:
    """A step of the inversion whose prediction is made where it leads, by iterations towards the fixed point.

        z_t^(0) = z_s,  d^(k) = f(z_t^(k), t),  z_t^(k+1) = step(z_s, d^(k)),  k = 0..K,

    and z_t = step(z_s, the mean of the last n of the d^(k)), where the step goes along d, a noise ε or a flow's u, from
    z_s. A z_t that stays is one from which the DDIM step leads back to z_s exactly. Not done are the paper's changes of
    the noise for few-step models, its regularisation and its correction.

    Source: Garibi et al., ReNoise, arXiv 2403.14602, algorithm 1; d^(k) as in its public code.

    Args:
        schedule: T steps.
        z_s: latents to start from, (B, C, h, w).
        i: step, 0 the noisiest.
        predict: f(z, t), (B, C, h, w); plain DDIM inversion takes f(z_s, t).
        how: has K, ``renoise``, and n, ``average``.

    Returns:
        z_t, (B, C, h, w).
    """
    z_t, directions = z_s, []
    for _ in range(how.renoise + 1):
        directions.append(schedule.direction(predict(z_t, schedule.timesteps[i]), z_t, i))
        z_t = schedule.move(z_s, directions[-1], i, inverse=True)
    return schedule.move(z_s, torch.stack(directions[-how.average :]).mean(0), i, inverse=True)


@torch.no_grad()
def virtual_invert(
    backbone: Backbone,
    z_0: Tensor,
    context: Context,
    schedule: Schedule,
    grid: Grid,
    generators: Sequence[torch.Generator],
    also: AttentionHook | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """A trajectory without inversion: z̄_t = signal_t z_0 + noise_t ε_t, with an ε_t of its own at every timestep.

    The network is asked for the maps alone.

    Source: Xu et al., Inversion-Free Image Editing (InfEdit), arXiv 2312.04965, section 3.

    Args:
        backbone: the frozen networks.
        z_0: clean latents, (B, C, h, w).
        context: of the source prompts, (B, L, D).
        schedule: T steps.
        grid: (r, c), the attention grid to read.
        generators: of the CPU, one for each image, to draw its ε_t.
        also: a further hook on the attention; None reads A_t alone.

    Yields:
        z̄_t (B, C, h, w) and the plain maps A_t there (B, r, c, L), the noisiest last.
    """
    for i in reversed(range(len(schedule))):
        ε = torch.stack([torch.randn(z_0.shape[1:], generator=each) for each in generators]).to(z_0)
        z_t, t = schedule.signal[i] * z_0 + schedule.noise[i] * ε, schedule.timesteps[i]
        with freeze_gc():
            if also is None:
                A_t = backbone.attention_maps(z_t, t.expand(len(z_t)), context, grid)
            else:
                A_t = backbone.predict_with_maps(z_t, t, context, grid, also=also)[1]
        yield z_t, A_t
