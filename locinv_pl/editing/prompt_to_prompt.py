"""Images from inversions: reconstructed, or edited by Prompt-to-Prompt (Hertz et al., arXiv 2208.01626).

One loop, :func:`denoise`, denoises any number of rows together: for every inversion its source prompt and, below it,
the target prompts of its edits. All rows of an inversion have its noise and its ∅_t, and words that a target shares
with the source keep their dynamic tokens V_t. At every step an :class:`~locinv_pl.editing.attention.AttentionEdit`
carries attention from the source row to the targets, and a :class:`~locinv_pl.editing.blending.Blend` puts the targets
back on the source where they are not to change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from locinv_pl.editing.attention import AttentionEdit
from locinv_pl.editing.blending import Blend
from locinv_pl.editing.rows import Rows
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError
from locinv_pl.method.dynamic_tokens import dynamic_context
from locinv_pl.method.policies import Method
from locinv_pl.method.progress import Progress, finish, last_result, nothing
from locinv_pl.networks.attention import Context, attention_layers
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.memory import freeze_gc
from locinv_pl.networks.schedule import Schedule, guided
from locinv_pl.types import Edit, Inversion


@dataclass(frozen=True, eq=False)
class Edited:
    """What n edits of an image have made.

    Args:
        edits: the target prompts, n of them.
        settings: how each was made, n of them.
        images: (n, 3, H, W) in [0, 1], on the CPU.
        reconstruction: of the source prompt, (3, H, W) in [0, 1]: what an edit leaves as it is.
        masks: m of the last timestep, where an edit may differ from the reconstruction, (n, h, w) in [0, 1].
        maps: for each edit the attention to every noun of its target prompt, (r, c) by the noun: the mean over the
            timesteps in which attention was taken over, and over layers; nothing where none was.
        changed: for each edit the stretches of words that differ, as (the source's, the target's).
    """

    edits: tuple[Edit, ...]
    settings: tuple[EditSettings, ...]
    images: Tensor
    reconstruction: Tensor
    masks: Tensor
    maps: tuple[Mapping[str, Tensor], ...]
    changed: tuple[tuple[tuple[str, str], ...], ...]


@torch.no_grad()
def reconstruct(
    backbone: Backbone, inversions: Sequence[Inversion], after_each: Callable[[], None] = nothing
) -> Tensor:
    """Make the images again, from their inversions alone.

        f = f(z_t, ∅_t) + w (f(z_t, V_t) - f(z_t, ∅_t)),  z_{t-1} = DDIM step

    Args:
        backbone: the one that made the inversions.
        inversions: B of them, of one configuration and image size.
        after_each: called after every timestep.

    Returns:
        (B, 3, H, W) in [0, 1], on the CPU.

    Raises:
        InputError: the inversions come from another backbone, or from different configurations.
    """
    rows = Rows.of(backbone, inversions, [[] for _ in inversions])
    return backbone.decode(finish(denoise(backbone, rows), after_each)).cpu()


def edit(
    backbone: Backbone,
    inversion: Inversion,
    prompts: str | Edit | Sequence[str | Edit],
    settings: EditSettings | Sequence[EditSettings] = EditSettings(),
    region: Tensor | None = None,
    with_source: bool = False,
    after_each: Callable[[], None] = nothing,
) -> Tensor:
    """Edit an inverted image; several edits run as one batch over one source row.

    Args:
        backbone: as for :func:`iter_edit`.
        inversion: as for :func:`iter_edit`.
        prompts: as for :func:`iter_edit`.
        settings: as for :func:`iter_edit`.
        region: as for :func:`iter_edit`.
        with_source: whether the reconstruction comes before the edits.
        after_each: called after every timestep.

    Returns:
        (n, 3, H, W), or (1 + n, 3, H, W) with the source, in [0, 1], on the CPU.

    Raises:
        InputError: as :func:`iter_edit` does.
    """
    made = last_result(iter_edit(backbone, inversion, prompts, settings, region), after_each)
    return torch.cat([made.reconstruction[None], made.images]) if with_source else made.images


@torch.no_grad()
def iter_edit(
    backbone: Backbone,
    inversion: Inversion,
    prompts: str | Edit | Sequence[str | Edit],
    settings: EditSettings | Sequence[EditSettings] = EditSettings(),
    region: Tensor | None = None,
) -> Iterator[Progress[Edited]]:
    """Edit an inverted image, telling how far it has come; closing the generator cancels the edit.

    Args:
        backbone: the one that made the inversion.
        inversion: the image's inversion.
        prompts: n target prompts; their words may have weights, "a (red:1.5) cat".
        settings: how Prompt-to-Prompt edits; all prompts alike, or each by its own of n settings.
        region: where edits may change the image, (H, W), above 0 inside. The edits are then made with
            ``blend="prior"``, and the region takes the place of the priors.

    Yields:
        the progress after every timestep; the last one has the result.

    Raises:
        InputError: the inversion comes from another backbone, a target prompt is too long or has no word, the
            settings name a word that it hasn't, the region is empty or of another size, or, for ``blend="prior"``,
            what the prompt changes has no place.
    """
    began = time.perf_counter()
    targets = [prompts] if isinstance(prompts, (str, Edit)) else list(prompts)
    each = [settings] * len(targets) if isinstance(settings, EditSettings) else list(settings)
    if region is not None:
        each = [replace(one, blend="prior") for one in each]
    rows = Rows.of(backbone, [inversion], [targets], [each])
    control, blend = plan(backbone, rows, region)
    steps, T = denoise(backbone, rows, region, (control, blend)), inversion.num_steps
    edited = [target.row for target in rows.targets]
    for i in range(T - 1):
        z = next(steps)
        yield Progress("edit", i + 1, T, time.perf_counter() - began, latents=z[edited])
    z = finish(steps)
    images = backbone.decode(z).cpu()
    h, w = inversion.noise.shape[-2:]
    result = Edited(
        edits=tuple(target.edit for target in rows.targets),
        settings=tuple(target.settings for target in rows.targets),
        images=images[1:],
        reconstruction=images[0],
        masks=torch.stack([blend.last(target.row) for target in rows.targets]) if blend else torch.zeros(0, h, w),
        maps=tuple(control.noun_maps(target) if control else {} for target in rows.targets),
        changed=tuple(target.changed_words for target in rows.targets),
    )
    yield Progress("edit", T, T, time.perf_counter() - began, latents=z[edited], result=result)


def check_edit(
    backbone: Backbone, inversion: Inversion, prompt: str | Edit, settings: EditSettings, region: Tensor | None = None
) -> None:
    """Refuse what :func:`edit` would refuse, without running the networks.

    Args:
        backbone: as for :func:`edit`.
        inversion: as for :func:`edit`.
        prompt: one target prompt.
        settings: as for :func:`edit`.
        region: as for :func:`edit`.

    Raises:
        InputError: as :func:`edit` does.
    """
    plan(backbone, Rows.of(backbone, [inversion], [[prompt]], settings), region)


@torch.no_grad()
def denoise(
    backbone: Backbone,
    rows: Rows,
    region: Tensor | None = None,
    planned: tuple[AttentionEdit | None, Blend | None] | None = None,
) -> Generator[Tensor, None, Tensor]:
    """Denoise a batch of rows from their inversions' noise.

    Args:
        backbone: the one that made the inversions.
        rows: R rows.
        region: where the targets among them may change the image, (H, W).
        planned: what :func:`plan` answers for these rows, where the caller wants to look at it afterwards.

    Yields:
        z of the rows after every timestep, (R, C, h, w).

    Returns:
        z_0 of the rows, (R, C, h, w).

    Raises:
        InputError: as :func:`edit` does.
    """
    engine, device = rows.inversions[0].settings, backbone.device
    method, schedule = Method.from_dict(engine["method"]), backbone.schedule(engine["num_steps"])
    backbone = backbone.guided_by(method.guidance_scale)
    ids = torch.stack([tokens.ids for tokens in rows.tokens])  # (R, L)
    own, plain = backbone.embed(ids), backbone.encode_text(ids)  # (R, L, D) each
    z = torch.stack([inversion.noise for inversion in rows.inversions]).to(device)  # (R, C, h, w)
    control, blend = planned or plan(backbone, rows, region)
    # Direct inversion: the sources stay on the DDIM trajectory, and are predicted for their attention alone.
    is_direct = method.is_direct or any(target.settings.direct for target in rows.targets)
    is_virtual, every = method.inversion.policy == "virtual", list(range(len(ids)))
    alone = is_direct and not is_virtual and all(target.settings.mutual_start == 1 for target in rows.targets)
    moved = [target.row for target in rows.targets] if alone else every
    is_guided = backbone.needs_null(method.guidance_scale)
    empty = plain.pick(rows.source_of) if method.null_text.policy == "npi" else backbone.encode_null().expand(len(ids))
    for i in range(len(schedule)):
        with freeze_gc():
            t = schedule.timesteps[i]
            if control is not None:
                control.step = i
            acts = control is not None and blend is not None and (control.acts() or blend.runs)
            some = every if acts else moved
            if some:
                # 1. The text: V_t for shared nouns, and the source's context at the tokens that the settings keep.
                context = dynamic_context(backbone, method.tokens, ids, rows.embeddings(i, own), plain)
                values = None if context.values is context.keys else rows.keep(context.values)
                context = context.with_states(rows.keep(context.keys), values).pick(some)
                # 2. The guided DDIM step, both halves in one pass; attention goes from the source rows to the targets.
                halves = some + (moved if is_guided else [])
                if is_guided:
                    null = torch.stack([rows.inversions[n].null_at(i) for n in moved]).to(device)  # ∅_t, (g, L, D)
                    context = Context.cat([context, empty.pick(moved).with_states(null)])
                predicted = backbone.predict(z[halves], t, context, control if acts else None)
                cond = predicted[: len(some)][[some.index(n) for n in moved]]  # (g, C, h, w)
                prediction = guided(cond, predicted[len(some) :], method.guidance_scale) if is_guided else cond
                if is_virtual:
                    z = _consistent_step(schedule, z, prediction, i, rows)
                else:
                    z[moved] = schedule.step(z[moved], prediction, i)
            if is_direct:
                for n in rows.sources:
                    z[n] = rows.inversions[n].trajectory[len(schedule) - 1 - i].to(device)
            # 3. The targets return to their sources where they are not to change.
            if control is not None and blend is not None:
                z = blend(z, control)
        yield z
    return z


def _consistent_step(schedule: Schedule, z: Tensor, prediction: Tensor, i: int, rows: Rows) -> Tensor:
    """InfEdit's step: the target goes to the clean latent that its prediction, corrected by its source's, amounts to.

    With ε_cons = (z_t - signal_t z_0) / noise_t, the noise that the source was given, the clean target is

        z*_0 = (z*_t - noise_t (ε* - ε + ε_cons)) / signal_t,

    and z*_{t-1} = signal_{t-1} z*_0 + noise_{t-1} ε_{t-1} has the noise of the source's z̄_{t-1}. Since z_0 is
    known, this is z̄_{t-1} + signal_{t-1} (x* - x), where x* and x are the clean latents of both predictions.

    Source: Xu et al., Inversion-Free Image Editing, arXiv 2312.04965, algorithm 2 (DDCM with virtual inversion).

    Args:
        schedule: T steps.
        z: all rows' z_t, (R, C, h, w).
        prediction: theirs, guided, of the same shape.
        i: step, 0 the noisiest.
        rows: the R rows.

    Returns:
        z_{t-1}, (R, C, h, w); after the last step z*_0.
    """
    left = len(schedule) - 1 - i
    z_bar = torch.stack([inversion.trajectory[left] for inversion in rows.inversions]).to(z)  # z̄_{t-1}
    clean = schedule.clean(z, prediction, i)
    return z_bar + (schedule.signal[i + 1] if left else 1.0) * (clean - clean[rows.source_of])


def plan(backbone: Backbone, rows: Rows, region: Tensor | None) -> tuple[AttentionEdit | None, Blend | None]:
    """What acts on the targets, made before anything is computed: all that is wrong with an edit shows here.

    Args:
        backbone: the one that made the inversions.
        rows: R rows.
        region: where the targets among them may change the image, (H, W).

    Returns:
        both None where no row is a target.

    Raises:
        InputError: as :func:`edit` does.
    """
    if not rows.targets:
        return None, None
    h, w = rows.inversions[0].noise.shape[-2:]
    size = (h * backbone.downsampling, w * backbone.downsampling)
    if region is not None and tuple(region.shape) != size:
        raise InputError(f"region: its shape is {tuple(region.shape)}, the image's {size}; give one of that size")
    if region is not None and not region.any():
        raise InputError("region: is empty; say where the edit may change the image")
    if backbone.is_joint and any(t.settings.word_steps or t.settings.reweight or t.edit.weights for t in rows.targets):
        raise InputError(
            f"edit: word_steps, reweight and weights in brackets act on cross-attention, which backbone "
            f"{backbone.name!r} hasn't; leave them out"
        )
    if backbone.is_joint and any(t.settings.mutual_start < 1 or t.settings.smooths for t in rows.targets):
        raise InputError(
            f"edit: mutual_start and smooth act on the self-attention of a UNet, which backbone {backbone.name!r} "
            f"hasn't; leave them out"
        )
    num_steps = rows.inversions[0].settings["num_steps"]
    layers = sum(not layer.is_cross_attention for layer in attention_layers(backbone.denoiser).values())
    control = AttentionEdit(rows, num_steps, backbone.device, backbone.coarsest((h, w)), layers)
    return control, Blend(rows, (h, w), region)
