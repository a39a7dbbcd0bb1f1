"""A batch of images on its way, and what becomes of it when something goes wrong.

State goes in and comes out: a batch is a tuple of micro-batches, whose images take their timesteps together. It begins
as one. Where memory runs out a micro-batch becomes its halves; an image whose numbers stop being finite leaves it, to
be inverted again alone in fp32, or to fail.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from itertools import takewhile
from typing import Any

import torch

from locinv_pl.errors import InputError
from locinv_pl.measures.metrics import fp32
from locinv_pl.method.dynamic_tokens import applicable
from locinv_pl.method.policies import Method
from locinv_pl.method.task import Task, prepare
from locinv_pl.method.timestep import collect, invert_step
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import load_backbone
from locinv_pl.networks.memory import halving
from locinv_pl.networks.tuning import Tuning
from locinv_pl.run.results import Result, score
from locinv_pl.types import EditSample, StepRecord

MEND = "data.on_error=skip leaves it out"


@dataclass(frozen=True, eq=False)
class Engine:
    """What inverts images.

    Args:
        backbone: the frozen networks.
        method: the policies of tokens and null text.
        num_steps: T, DDIM steps.
        resolution: R, side of the attention grid that is read.
        exact: makes the same engine in fp32; None where there is no half precision to fall back from.
        precision: opens the block in which it works.
    """

    backbone: Backbone
    method: Method
    num_steps: int
    resolution: int
    exact: Callable[[], Engine] | None = None
    precision: Callable[[], AbstractContextManager[None]] = nullcontext

    def prepare(self, samples: Sequence[EditSample]) -> Task:
        """Invert the images by DDIM."""
        with self.precision():
            return prepare(self.backbone, samples, self.method, self.num_steps, self.resolution)

    def step(self, images: MicroBatch, i: int) -> MicroBatch:
        """The images with their record of timestep i, or, for i = T, with their results."""
        task, records = images.task, images.records
        with self.precision():
            if i == self.num_steps:
                return replace(images, results=tuple(self._finish(task, records)))
            if i < len(records):
                return images
            record = invert_step(self.backbone, task, i, records[-1] if records else task.start())
            return replace(images, records=(*records, record))

    def _finish(self, task: Task, records: Sequence[StepRecord]) -> list[Result]:
        inversions = collect(task, records)
        images = self.backbone.decode(torch.stack([inversion.latent for inversion in inversions])).cpu()
        seconds = (task.seconds + sum(r.seconds for r in records)) / len(inversions)
        return score(self.backbone, task.samples, inversions, images, seconds)


def make_engine(
    backbone: Backbone,
    method: Method,
    num_steps: int,
    resolution: int,
    is_half: bool,
    tuning: Tuning = Tuning(),
) -> Engine:
    """An engine that, in half precision, has one in fp32 to fall back to.

    Args:
        backbone: the frozen networks.
        method: the policies of tokens and null text.
        num_steps: T, DDIM steps.
        resolution: R, side of the attention grid that is read.
        is_half: whether it works in half precision, be it that of the weights or the Trainer's.
        tuning: how the weights in fp32 are run, where they have to be loaded.
    """
    like, device = (method, num_steps, resolution), backbone.device

    @cache
    def exact() -> Engine:
        is_whole = backbone.dtype == torch.float32
        origin: dict[str, Any] = {**backbone.origin, "offload": backbone.offload}
        whole = backbone if is_whole else load_backbone(backbone.name, device=device, tuning=tuning, **origin)
        return Engine(whole, *like, precision=partial(fp32, device.type))

    return Engine(backbone, *like, exact if is_half else None)


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Images that take their timesteps together.

    Args:
        engine: what inverts them, in its own precision.
        task: their prompts, priors and DDIM trajectories, which no timestep changes.
        records: those of the timesteps that are done, 0 to T of them.
        results: one for each image once all timesteps are done; empty before.
    """

    engine: Engine
    task: Task
    records: tuple[StepRecord, ...] = ()
    results: tuple[Result, ...] = ()

    @property
    def ids(self) -> list[str]:
        """The images' names."""
        return [sample.id for sample in self.task.samples]

    def __len__(self) -> int:
        return len(self.task.samples)

    def __getitem__(self, some: slice) -> MicroBatch:
        return self.pick(range(len(self))[some])

    def pick(self, images: Sequence[int]) -> MicroBatch:
        """Some of the images.

        Args:
            images: their numbers, 0 to B - 1.
        """
        if len(images) == len(self):
            return self
        records = tuple(record.pick(images) for record in self.records)
        results = tuple(self.results[b] for b in images) if self.results else ()
        return replace(self, task=self.task.pick(images), records=records, results=results)


Outcome = tuple[tuple[MicroBatch, ...], dict[str, InputError]]
"""The micro-batches that go on, and the images that can't, by id, with the reason."""


def begin(
    engine: Engine,
    samples: Sequence[EditSample],
    kept: Callable[[Sequence[str]], Sequence[StepRecord]] = lambda ids: (),
) -> Outcome:
    """Prepare a batch: as one micro-batch, or as several where its memory would not do.

    Args:
        engine: what inverts the images.
        samples: the images with their prompts and priors, all of one size.
        kept: answers the records that an earlier run has left of images, by their ids.

    Returns:
        the micro-batches, with those records, and the images that are too large alone.
    """
    going, failed = [], {}
    for some, task in halving(engine.prepare, tuple(samples)):
        if task is None:
            failed[some[0].id] = _too_large(some[0].id)
        else:
            start = task.start()
            records = takewhile(partial(_goes_on, start), kept([sample.id for sample in some]))
            going.append(MicroBatch(engine, task, tuple(records)))
    return tuple(going), failed


def _goes_on(start: StepRecord, record: StepRecord) -> bool:
    """Whether a record can be one of the batch that has this start."""
    named = (field.name for field in fields(StepRecord) if field.name != "seconds")
    return all(getattr(record, name).shape == getattr(start, name).shape for name in named)


def advance(micro_batches: Sequence[MicroBatch], i: int) -> Outcome:
    """Take timestep i with every micro-batch; i = T decodes and scores the images.

    Args:
        micro_batches: what :func:`begin` or the timestep before has answered.
        i: step, 0 the noisiest.

    Returns:
        the micro-batches after that step, and the images that can't go on, with the reason.
    """
    going: list[MicroBatch] = []
    failed: dict[str, InputError] = {}
    for each in micro_batches:
        for some, done in halving(lambda some: some.engine.step(some, i), each):
            if done is None:
                failed[some.ids[0]] = _too_large(some.ids[0])
                continue
            good = finite(done, i)
            if any(good):
                going.append(done.pick([b for b, fine in enumerate(good) if fine]))
            for sample, fine in zip(done.task.samples, good, strict=True):
                if not fine:
                    again, lost = _again(each.engine, sample, i)
                    going += again
                    failed |= lost
    return tuple(going), failed


def _again(engine: Engine, sample: EditSample, i: int) -> Outcome:
    """An image that wasn't finite after timestep i, once more from its beginning to there, in fp32."""
    where = f"timestep {i + 1} of {engine.num_steps}" if i < engine.num_steps else "its reconstruction"
    if engine.exact is None:
        problem = f"image {sample.id!r}: its losses or latents aren't finite at {where}; {MEND}"
        return (), {sample.id: InputError(problem)}
    warnings.warn(
        f"image {sample.id!r} isn't finite in half precision at {where}; it is inverted again in fp32", stacklevel=2
    )
    going, failed = begin(engine.exact(), (sample,))
    for j in range(i + 1):
        going, lost = advance(going, j)
        failed |= lost
    return going, failed


def finite(part: MicroBatch, i: int) -> list[bool]:
    """Of every image, whether timestep i has left it in finite numbers; NaN is one loss that doesn't apply to it."""
    if i == part.engine.num_steps:
        return [bool(r.reconstruction.isfinite().all() and r.vae.isfinite().all()) for r in part.results]
    record, task = part.records[i], part.task
    losses = record.losses.where(applicable(task).to(record.losses.device), 0)
    values = (record.latent, record.tokens, record.null, record.maps, losses, record.null_loss)
    return torch.stack([value.isfinite().reshape(len(part), -1).all(1).cpu() for value in values]).all(0).tolist()


def _too_large(id: str) -> InputError:
    return InputError(f"image {id!r}: out of memory with this image alone; take a smaller data.size, or {MEND}")
