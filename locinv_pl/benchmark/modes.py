"""Ways to invert the same images, counted by themselves and timed side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from locinv_pl.benchmark.counting import Cost, count, seconds_of
from locinv_pl.benchmark.phases import phases_of
from locinv_pl.benchmark.reference import Savings, with_savings
from locinv_pl.method.policies import Method, ParallelPolicy
from locinv_pl.method.task import Task, prepare
from locinv_pl.method.timestep import invert_step
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.memory import freeze_gc
from locinv_pl.types import EditSample, StepRecord


@dataclass(frozen=True, eq=False)
class Mode:
    """A way to invert some images.

    Args:
        backbone: with all savings.
        savings: those that this mode makes.
        task: the batch and its method.
        seconds: of :func:`~locinv_pl.method.task.prepare`, the DDIM inversion.
    """

    backbone: Backbone
    savings: Savings
    task: Task
    seconds: float

    @classmethod
    def prepare(
        cls,
        backbone: Backbone,
        savings: Savings,
        method: Method,
        samples: Sequence[EditSample],
        num_steps: int,
        resolution: int,
    ) -> Mode:
        """A mode, ready to run: all that happens once has happened, but on the meta device, where no step can run.

        Args:
            backbone: with all savings.
            savings: those that the mode makes.
            method: what is done to the images.
            samples: the batch.
            num_steps: T.
            resolution: R, cells of the attention grid along its shorter side.
        """
        frozen = replace(savings, frozen_weights=True)  # no gradients outside of steps anyway
        if backbone.device.type != "meta":
            with with_savings(backbone, frozen) as limited:
                task = prepare(limited, samples, with_steps(method, 2, 2), 1, resolution)
            with with_savings(backbone, savings) as limited:
                invert_step(limited, task, 0, task.start())
        found: list[Task] = []
        with with_savings(backbone, frozen) as limited:
            seconds = seconds_of(
                lambda: found.append(prepare(limited, samples, method, num_steps, resolution)), backbone.device
            )
        z_t, t = found[0].trajectory[-1], found[0].schedule.timesteps[0]
        backbone.attention_maps(z_t, t, found[0].plain, found[0].grid, backbone.prefix(z_t, t))
        return cls(backbone, savings, found[0], seconds)

    def with_method(self, method: Method) -> Mode:
        """The same images under a method that differs by numbers of steps alone."""
        return replace(self, task=replace(self.task, method=method))

    @property
    def stops_early(self) -> bool:
        """Whether the numbers of gradient steps depend on the image and the timestep."""
        tokens, null = self.task.method.tokens, self.task.method.null_text
        return null.early_stop or any(term.beta for term in tokens.losses.values() if term.weight)

    @property
    def fixed_steps(self) -> tuple[int, int]:
        """Gradient steps at a timestep, on V_t and on ∅_t, unless one stops early."""
        tokens, null = self.task.method.tokens, self.task.method.null_text
        return (
            tokens.max_steps if tokens.policy == "optimize" else 0,
            null.max_steps if null.policy == "optimize" else 0,
        )

    def flops(self, costs: Mapping[str, Cost], steps: Sequence[tuple[int, int]]) -> float:
        """Operations of a whole inversion of one image.

        Args:
            costs: of the phases, for the whole batch.
            steps: gradient steps at every timestep, on V_t and on ∅_t.
        """
        cost = {name: each.flops / len(self.task.samples) for name, each in costs.items()}
        total = cost["encode"]
        for tokens, nulls in steps:
            stopped = tokens < self.fixed_steps[0]  # its last pass had no gradient step
            total += cost["ddim"] + tokens * cost["token"] + stopped * cost["maps"]
            total += cost["conditional"] + nulls * cost["null"] + cost["guided"]
        return total

    def costs(self) -> dict[str, Cost]:
        """What every phase costs, for the whole batch, by the names of ``PHASES``."""
        with with_savings(self.backbone, self.savings) as limited:
            return {name: count(work) for name, work in phases_of(limited, self.task, 0).items()}

    @freeze_gc()
    def phase_seconds(self, repeats: int) -> dict[str, float]:
        """How many seconds every phase takes, for the whole batch, by the names of ``PHASES``.

        Args:
            repeats: at least 1, after one that warms up; the median counts.
        """
        with with_savings(self.backbone, self.savings) as limited:
            works = phases_of(limited, self.task, 0)
            times = [[seconds_of(work, self.backbone.device) for work in works.values()] for _ in range(repeats + 1)]
        return {name: median(each) for name, each in zip(works, zip(*times[1:], strict=True), strict=True)}


@dataclass(frozen=True, eq=False)
class Timing:
    """What a mode took.

    Args:
        seconds: an image, for a whole inversion.
        records: of the timesteps that were run.
        peak: bytes on a CUDA device, weights included; 0 on others.
    """

    seconds: float
    records: Sequence[StepRecord]
    peak: int

    def steps(self, b: int) -> list[tuple[int, int]]:
        """Gradient steps of image b, on V_t and on ∅_t, at every timestep."""
        return [(int(record.token_steps[b]), int(record.null_steps[b])) for record in self.records]


def with_steps(method: Method, token_steps: int, null_steps: int) -> Method:
    """The method with fixed numbers of gradient steps, one timestep after the other: no early stops.

    Args:
        method: to change.
        token_steps: K1.
        null_steps: J.
    """
    terms: dict[str, Any] = {name: replace(term, beta=0.0) for name, term in method.tokens.losses.items()}
    tokens = replace(method.tokens, max_steps=token_steps, **terms)
    null_text = replace(method.null_text, max_steps=null_steps, early_stop=False)
    return replace(method, tokens=tokens, null_text=null_text, parallel=ParallelPolicy())


def spread(T: int, count: int) -> list[int]:
    """``count`` of T steps, evenly.

    >>> spread(50, 5)
    [0, 12, 24, 37, 49]

    Args:
        T: steps there are.
        count: how many to choose; T at most.
    """
    return torch.linspace(0, T - 1, min(count, T)).round().int().tolist()


def time_modes(modes: Mapping[str, Mode], timesteps: int, repeats: int) -> dict[str, Timing]:
    """Run several modes, taking turns at every timestep, so that a drift of the machine's speed meets all.

    A mode that stops early runs at every timestep, the others at some of them, since all cost the same there.

    Args:
        modes: by name, of equal T.
        timesteps: how many of T are run where all cost the same, at least 1.
        repeats: of the whole, at least 1; of each timestep's times the median counts.
    """
    T = len(next(iter(modes.values())).task.schedule)
    some = spread(T, timesteps)
    seconds: dict[str, dict[int, list[float]]] = {name: {} for name in modes}
    records: dict[str, dict[int, StepRecord]] = {}
    peaks = dict.fromkeys(modes, 0)
    for _ in range(repeats):
        records = {name: {} for name in modes}
        for i in range(T):
            for name, mode in modes.items():
                if not mode.stops_early and i not in some:
                    continue
                took, record, peak = _step(mode, i, records[name])
                seconds[name].setdefault(i, []).append(took)
                records[name][i] = record
                peaks[name] = max(peaks[name], peak)
    timings = {}
    for name, mode in modes.items():
        steps = [median(times) for times in seconds[name].values()]
        whole = mode.seconds + sum(steps) * T / len(steps)
        timings[name] = Timing(whole / len(mode.task.samples), list(records[name].values()), peaks[name])
    return timings


def _step(mode: Mode, i: int, records: Mapping[int, StepRecord]) -> tuple[float, StepRecord, int]:
    """Seconds, record and peak memory of step i; from the DDIM trajectory where the step before wasn't run."""
    task, device = mode.task, mode.backbone.device
    before = records[max(records)] if records else task.start()
    if i and i - 1 not in records:
        before = replace(before, latent=task.ddim_latent(i))
    done: list[StepRecord] = []
    with with_savings(mode.backbone, mode.savings) as limited:
        others = _restart_peak(device) - weight_bytes(mode.backbone, device.type)
        took = seconds_of(lambda: done.append(invert_step(limited, task, i, before)), device)
        peak = torch.cuda.max_memory_allocated(device) - others if device.type == "cuda" else 0
    return took, done[0], peak


def weight_bytes(backbone: Backbone, device: str | None = None) -> int:
    """Bytes that the networks' weights take.

    Args:
        backbone: its VAE, text encoders and denoiser count.
        device: "cpu" or "cuda" for what is there now; None for all.
    """
    networks = (backbone.vae, *backbone.text.networks, backbone.denoiser)
    weights = [weight for net in networks for weight in net.parameters()]
    return sum(weight.nbytes for weight in weights if device in (None, weight.device.type))


def _restart_peak(device: torch.device) -> int:
    """Forget the most memory that a CUDA device gave; bytes that are taken now."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)
