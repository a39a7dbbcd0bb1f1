"""What an inversion takes, and how that compares with the authors' way."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import torch

from locinv_pl.benchmark.counting import GIB, Cost, matmul_rate
from locinv_pl.benchmark.growth import SWEEPS, measure_growth
from locinv_pl.benchmark.memory import memory_of
from locinv_pl.benchmark.modes import Mode, Timing, time_modes, weight_bytes, with_steps
from locinv_pl.benchmark.phases import drawn_samples, passes_of_step
from locinv_pl.benchmark.published import PUBLISHED, random_model
from locinv_pl.benchmark.reference import NONE, Savings, ladder, without
from locinv_pl.errors import InputError
from locinv_pl.method.policies import load_method
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import load_backbone
from locinv_pl.networks.offload import check_quantizer
from locinv_pl.networks.tuning import Tuning
from locinv_pl.types import EditSample

REFERENCE, REFERENCE_PRESET = "reference", "reference, the preset's steps"
OURS, OURS_PRESET, SHIPPED = "ours", "ours, the preset's steps", "ours, as shipped"
COUNTED_ON = "meta"
"""Where operations are counted: as many as anywhere, and no weights are needed."""
NOMINAL = {"token": 3, "null": 6}
"""Passes of the reference's gradient steps, if a backward pass cost two forward ones and visited every layer."""


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Args:
        backbone: "embedded", "sd15-random", "sdxl-random", "sd35-random" or "flux-random" (a published architecture
            with random weights), a folder or a hub id.
        method: a preset's name or a method's YAML file.
        size: side of the images in pixels; the backbone's own by default.
        resolution: R, cells of the attention maps along their shorter side; 16 by default, or the backbone's coarsest
            grid where that is finer.
        batch_size: images that are inverted together, as many as in runs; the reference inverts one at a time.
        device: the device to compute on: cpu, cuda, …; on "meta" nothing is timed, and everything counted.
        dtype: of our weights: float32, bfloat16 or float16; the reference has float32.
        tuning: how our networks are run; the reference's as they were loaded.
        num_steps: T, timesteps of an inversion.
        timesteps: how many of the T are timed where all cost the same.
        token_steps: the authors' K1, gradient steps on tokens at a timestep.
        null_steps: the authors' J, gradient steps on the null text at a timestep.
        repeats: how often everything is timed; the median counts.
        ablation: measure every saving by itself, too.
        offload: keep on the device the networks that are needed, and the others on the CPU.
        quantize: how T5's weights are quantised, as ``model.quantize``; with random weights it is counted alone.
        reference: time the authors' way, too, and not only count it; it keeps a second model in fp32 on the device.

    Raises:
        InputError: a number or dtype that can't be, or no such device.
    """

    backbone: str = "embedded"
    method: str = "locinv"
    size: int | None = None
    resolution: int | None = None
    batch_size: int = 4
    device: str = "cpu"
    dtype: str = "float32"
    tuning: Tuning = Tuning()
    num_steps: int = 50
    timesteps: int = 5
    token_steps: int = 31
    null_steps: int = 31
    repeats: int = 1
    ablation: bool = False
    reference: bool = True
    offload: bool = False
    quantize: str | None = None

    def __post_init__(self) -> None:
        for key in ("batch_size", "num_steps", "timesteps", "token_steps", "null_steps", "repeats"):
            if getattr(self, key) < 1:
                raise InputError(f"benchmark: {key}={getattr(self, key)}; give 1 or more")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise InputError(f"benchmark: dtype={self.dtype}; use float32, bfloat16 or float16")
        if self.quantize is not None:
            check_quantizer(self.quantize)
            if self.backbone in PUBLISHED and self.device != "meta":
                raise InputError(f"benchmark: quantize={self.quantize}: random weights aren't; use device=meta")
        try:
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device={self.device}: can't be used: {str(error).splitlines()[0]}") from None

    def run(self) -> dict[str, Any]:
        """Count, and time where there is a device to time on.

        Returns:
            the content of the JSON file; None is what wasn't timed. Early stops aren't, with random weights: what
            these draw fits no prior.
        """
        counted = self._modes(COUNTED_ON, num_steps=1)
        ours = counted[OURS]
        costs = {name: mode.costs() for name, mode in counted.items() if name not in SAME_COSTS}
        costs |= {name: costs[other] for name, other in SAME_COSTS.items()}
        timings: dict[str, Timing] = {}
        seconds: dict[str, dict[str, float]] = {}
        ceiling = None
        if self.device != "meta":
            modes = self._modes(self.device, self.num_steps, self.reference)
            ceiling = matmul_rate(torch.device(self.device), getattr(torch, self.dtype))
            seconds = {name: modes[name].phase_seconds(self.repeats) for name in (REFERENCE, OURS) if name in modes}
            timed = {name: mode for name, mode in modes.items() if not self._is_meaningless(mode)}
            timings = time_modes(timed, self.timesteps, self.repeats)
        rows = {name: _row(mode, self.num_steps, costs[name], timings.get(name)) for name, mode in counted.items()}
        phases = {name: _phases(counted[name], costs[name], seconds.get(name)) for name in (REFERENCE, OURS)}
        peaks = {name: _peak(counted[name], costs[name], timings.get(name)) / GIB for name in (REFERENCE, OURS)}
        memory = memory_of(ours, costs[OURS], self.num_steps, self.quantize)
        if self.offload and not (timings and timings[OURS].peak):
            peaks[OURS] = max(stage["offload_gib"] for stage in memory["stages"].values())
        flops, took = ({name: row[key] for name, row in rows.items()} for key in ("tflop", "seconds"))
        once = costs[REFERENCE]["ddim"].flops // passes_of_step(counted[REFERENCE].task)
        passes = {name: Cost(number * once, 0) for name, number in NOMINAL.items()}
        nominal = _row(counted[REFERENCE], self.num_steps, costs[REFERENCE] | passes, None)["tflop"]
        return {
            **asdict(self),
            "device_name": device_name(self.device),
            "size": self.size or ours.backbone.image_size,
            "resolution": min(ours.task.grid),
            "reference_seconds": took[REFERENCE],
            "reference_preset_seconds": took[REFERENCE_PRESET],
            "equal_steps_seconds": took[OURS],
            "default_seconds": took[SHIPPED],
            "speedup_equal_steps": _ratio(took[REFERENCE], took[OURS]),
            "speedup_default": _ratio(took[REFERENCE], took[SHIPPED]),
            "speedup_default_preset": _ratio(took[REFERENCE_PRESET], took[SHIPPED]),
            "flops_ratio": flops[REFERENCE] / flops[OURS],
            "flops_ratio_nominal": nominal / flops[OURS],
            "weights_gib": sum(memory["weights_gib"].values()),
            "peak_memory_gib": peaks[OURS],
            "reference_peak_memory_gib": peaks[REFERENCE],
            "matmul_tflops": ceiling and ceiling / 1e12,
            "memory": memory,
            "share_of_matmul_ceiling": ceiling and flops[OURS] / took[OURS] / (ceiling / 1e12),
            "phases": phases,
            "inversions": rows,
        }

    def _is_meaningless(self, mode: Mode) -> bool:
        """Early stops of random weights, whose maps and latents fit nothing."""
        return mode.stops_early and self.backbone in PUBLISHED

    def growth(self) -> dict[str, dict[str, Any]]:
        """How time and memory grow, as :func:`measure_growth` says."""
        backbone = self._load(self.dtype, self.device, self.tuning)
        samples = drawn_samples(max(SWEEPS["images"]), self.size or backbone.image_size)
        return measure_growth(backbone, load_method(self.method), samples, self._cells(backbone), self.repeats)

    def _cells(self, backbone: Backbone) -> int:
        """R, cells of the maps' grid along its shorter side."""
        return self.resolution or max(16, backbone.coarsest((backbone.latent_size,) * 2))

    def _modes(self, device: str, num_steps: int, reference: bool = True) -> dict[str, Mode]:
        """All that is compared, by name, on a device: the authors' way, its savings one by one, and ours."""
        shipped = load_method(self.method)
        equal = with_steps(shipped, self.token_steps, self.null_steps)
        preset = with_steps(shipped, shipped.tokens.max_steps, shipped.null_text.max_steps)
        tuning = replace(self.tuning, compile=self.tuning.compile and device != "meta")
        fast = self._load(self.dtype, device, tuning, self.offload and device != "meta")
        samples = drawn_samples(self.batch_size, self.size or fast.image_size)

        def mode(backbone: Backbone, savings: Savings, samples: Sequence[EditSample]) -> Mode:
            return Mode.prepare(backbone, savings, equal, samples, num_steps, self._cells(backbone))

        modes: dict[str, Mode] = {}
        if reference:
            plain = self._load("float32", device, Tuning(channels_last=False, fuse_projections=False))
            theirs = mode(plain, NONE, samples[:1])
            modes = {REFERENCE: theirs, REFERENCE_PRESET: theirs.with_method(preset)}
            if self.ablation:
                fused = mode(plain, Savings(), samples[:1])
                for name, savings in {**ladder(), **without()}.items():
                    modes[name] = replace(fused if savings.fused_attention else theirs, savings=savings)
        ours = mode(fast, Savings(), samples)
        return modes | {OURS: ours, OURS_PRESET: ours.with_method(preset), SHIPPED: ours.with_method(shipped)}

    def _load(self, dtype: str, device: str, tuning: Tuning, offload: bool = False) -> Backbone:
        if self.backbone not in PUBLISHED:
            quantize = None if device == "meta" else self.quantize
            return load_backbone(self.backbone, dtype, device, tuning=tuning, offload=offload, quantize=quantize)
        made = random_model(self.backbone, getattr(torch, dtype), "cpu" if offload else device, tuning)
        made.offload = offload
        return made.to(device)


SAME_COSTS = {REFERENCE_PRESET: REFERENCE, OURS_PRESET: OURS, SHIPPED: OURS}
"""Modes that differ by their numbers of steps alone."""


def _row(mode: Mode, T: int, costs: Mapping[str, Cost], timing: Timing | None) -> dict[str, Any]:
    """A whole inversion of one image; how often an image stops early is known only where it was run."""
    images = range(len(mode.task.samples))
    steps = [timing.steps(b) for b in images] if mode.stops_early and timing else [[mode.fixed_steps] * T]
    known = timing is not None or not mode.stops_early
    return {
        "token_steps": fmean(tokens for each in steps for tokens, _ in each) if known else None,
        "null_steps": fmean(nulls for each in steps for _, nulls in each) if known else None,
        "tflop": fmean(mode.flops(costs, each) for each in steps) / 1e12 if known else None,
        "seconds": timing and timing.seconds,
    }


def _phases(mode: Mode, costs: Mapping[str, Cost], seconds: Mapping[str, float] | None) -> dict[str, Any]:
    """Every part of an inversion, for one image; memory is that of the batch. A step may have two passes."""
    B, once = len(mode.task.samples), costs["ddim"].flops / passes_of_step(mode.task)
    return {
        name: {
            "gflop": cost.flops / B / 1e9,
            "passes": cost.flops / once,
            "activations_gib": cost.peak / GIB,
            "seconds": seconds and seconds[name] / B,
        }
        for name, cost in costs.items()
    }


def _peak(mode: Mode, costs: Mapping[str, Cost], timing: Timing | None) -> int:
    """Bytes: measured on a CUDA device, else counted."""
    return (timing.peak if timing else 0) or weight_bytes(mode.backbone) + max(cost.peak for cost in costs.values())


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b is not None else None


def device_name(device: str) -> str:
    """What a device is: a GPU's name, a CPU with its threads, "meta".

    Args:
        device: such as "cpu" or "cuda".
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
        if device == "cpu"
        else device
    )
