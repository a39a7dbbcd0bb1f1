"""The parts of a timestep, one by one: what is timed, counted, and added up to a whole inversion."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from locinv_pl.measures.backbones import to_sample
from locinv_pl.method.dynamic_tokens import token_context, token_losses
from locinv_pl.method.task import Task
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.prefix import Prefix
from locinv_pl.networks.schedule import guided
from locinv_pl.scenes.drawing import draw_scene
from locinv_pl.types import Adjective, EditSample

Work = Callable[[], Any]

PHASES = {
    "encode": "image and prompt to latent and context",
    "ddim": "a step of the DDIM inversion",
    "token": "a gradient step on V_t",
    "maps": "the pass that stops an image's token steps early",
    "conditional": "the pass with the final V_t, and what needs no text, once a timestep",
    "null": "a gradient step on ∅_t",
    "guided": "the pass with the final ∅_t",
}


def drawn_samples(count: int, size: int) -> list[EditSample]:
    """Drawn images of two objects, with exact masks and their adjectives.

    Args:
        count: of images; the same count, the same images.
        size: side of the images, in pixels.
    """
    samples = []
    for n in range(count):
        scene = draw_scene(random.Random(f"benchmark/{n}"), size, 2)
        sample = to_sample(scene, str(n))
        noun_at = {noun.span: k for k, noun in enumerate(sample.nouns)}
        bound = sorted({(span, noun_at[said.noun]) for said in scene.said for span in said.adjectives})
        adjectives = tuple(Adjective(sample.prompt[slice(*span)], span, k) for span, k in bound)
        samples.append(replace(sample, adjectives=adjectives))
    return samples


def passes_of_step(task: Task) -> int:
    """Forward passes of a step of the inversion, where the method refines none.

    Args:
        task: the batch and its method.
    """
    return 2 if task.schedule.kind == "flow" and task.method.inversion.solver == "midpoint" else 1


def phases_of(backbone: Backbone, task: Task, i: int) -> dict[str, Work]:
    """The parts of step i for the whole batch, by the names of ``PHASES``; they leave no trace.

    They run on the meta device, too, where the engine's loops can't know when to stop.

    Args:
        backbone: the frozen networks.
        task: the batch.
        i: step, 0 the noisiest.
    """
    z_t, target = task.ddim_latent(i), task.ddim_latent(i + 1)
    schedule, t, w = task.schedule, task.schedule.timesteps[i], task.method.guidance_scale
    plain, empty, backbone = task.plain, task.empty.expand(len(z_t)), backbone.guided_by(w)
    moves, policy = task.method.tokens.policy == "optimize", task.method.null_text.policy
    is_guided = not task.method.is_direct and backbone.needs_null(w)

    @torch.no_grad()
    def conditional(prefix: Prefix | None = None) -> Tensor:
        context = token_context(backbone, task, task.embeddings)
        prefix = backbone.prefix(z_t, t) if prefix is None else prefix
        if task.method.is_direct:
            return backbone.attention_maps(z_t, t.expand(len(z_t)), context, task.grid, prefix)
        return backbone.predict_with_maps(z_t, t, context, task.grid, prefix)[0]

    def null(prefix: Prefix, fits: bool = True) -> Tensor:
        null = empty.keys.clone().requires_grad_(fits)
        predicted = backbone.predict(z_t, t, empty.with_states(null), prefix=prefix)
        z_s = schedule.step(z_t, guided(z_t, predicted, w), i)
        return (z_s - target).square().mean()

    prefix = backbone.prefix(z_t, t)
    conditional(prefix)  # fills it
    of_null = prefix if empty.pooled is None else backbone.prefix(z_t, t)
    if is_guided:
        with torch.no_grad():
            null(of_null, fits=False)

    @torch.no_grad()
    def ddim() -> Tensor:
        prediction, _ = backbone.predict_with_maps(z_t, t, plain, task.grid)
        if passes_of_step(task) == 2:
            prediction = backbone.predict(*schedule.halfway(z_t, prediction, i), plain)
        return schedule.step(z_t, prediction, i)

    def maps() -> Tensor:
        V = task.embeddings.clone().requires_grad_()
        A = backbone.attention_maps(z_t, t, token_context(backbone, task, V), task.grid, prefix)
        return token_losses(A, task, only=task.method.tokens.active).nan_to_num(0).sum()

    @torch.no_grad()
    def guided_pass() -> Tensor:  # pooled states of its own: what depends on them is computed once more
        return null(of_null if empty.pooled is None else backbone.prefix(z_t, t), fits=False)

    @torch.no_grad()
    def encode() -> None:
        backbone.encode(torch.stack([sample.image for sample in task.samples]))
        backbone.encode_text(task.prompts.ids)
        backbone.encode_null()

    return {
        "encode": encode,
        "ddim": ddim,
        "token": (lambda: maps().backward()) if moves else _nothing,
        "maps": maps if moves else _nothing,
        "conditional": conditional,
        "null": (lambda: null(of_null).backward()) if is_guided and policy == "optimize" else _nothing,
        "guided": guided_pass if is_guided else _nothing,
    }


def _nothing() -> None:
    """A step that the method doesn't make."""
