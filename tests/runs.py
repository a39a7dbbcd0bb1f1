"""Runs through the Trainer over samples in memory, of the tiny model, for tests of several files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import make_two_objects
from lightning.pytorch import Trainer

from locinv_pl.datamodules.base import EditDataModule
from locinv_pl.datamodules.entries import Entry, Problems
from locinv_pl.io.frames import Frame
from locinv_pl.method.policies import Method, NullTextPolicy, TokenPolicy
from locinv_pl.run.module import LocInvModule
from locinv_pl.types import EditSample

T = 3
METHOD = Method(tokens=TokenPolicy(max_steps=1), null_text=NullTextPolicy(max_steps=1))


class Made(list):
    """Samples in memory."""

    @property
    def ids(self) -> list[str]:
        """Their names."""
        return [sample.id for sample in self]

    def frame(self, index: int) -> Frame:
        """All of one size."""
        return Frame.fitting(32, 32, 32)


class Toy(EditDataModule):
    """Samples in memory, two a batch."""

    name = "toy"

    def __init__(self, samples: list[EditSample], **options: Any):
        super().__init__(**{"batch_size": 2, **options})
        self.made = samples

    def entries(self, side: int, problems: Problems) -> list[Entry]:
        """None: the samples are there already."""
        return []

    def read(self, side: int, problems: Problems) -> Any:
        """All of them."""
        assert side == 32
        return Made(self.made)


def make_samples(count: int) -> list[EditSample]:
    """Images p0, p1, …"""
    return [make_two_objects(f"p{n}", seed=n) for n in range(count)]


def make_trainer(root: Path, **options: Any) -> Trainer:
    """The Trainer of a run into ``root`` in this process, with no more than it needs but for ``options``."""
    plain: dict[str, Any] = {
        "strategy": "image_parallel",
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    return Trainer(default_root_dir=root, **(plain | options))


def run_stage(
    model: Path,
    root: Path,
    count: int = 3,
    stage: str = "fit",
    method: Method = METHOD,
    samples: list[EditSample] | None = None,
    data: dict[str, Any] | None = None,
    dtype: str = "float32",
    **options: Any,
) -> tuple[Trainer, LocInvModule]:
    """Run a stage into the folder ``root``; ``data`` are options of the data, others the Trainer's."""
    trainer = make_trainer(root, **options)
    module = LocInvModule(str(model), method, num_steps=T, resolution=8, dtype=dtype)
    getattr(trainer, stage)(module, datamodule=Toy(samples or make_samples(count), **(data or {})))
    return trainer, module


def inversions(root: Path) -> dict[str, bytes]:
    """The run's inversion files."""
    return {p.name: p.read_bytes() for p in sorted((root / "inversions").glob("*.safetensors"))}
