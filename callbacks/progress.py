"""A progress bar that says which image, which timestep, and how it goes."""

from __future__ import annotations

import time
from math import isnan
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from locinv_pl.errors import printable
from locinv_pl.measures.display import MEASURES
from locinv_pl.run.logging import step_metrics
from locinv_pl.run.module import LocInvModule
from locinv_pl.run.status import duration
from locinv_pl.run.store import RunFolder

LOOK = 5.0  # seconds from one look at the run's folder to the next, at least


class InversionProgress(TQDMProgressBar):
    """Lightning's bar over timesteps, with figures of the running batch and of the run, all processes together."""

    def __init__(self, refresh_rate: int = 1):
        super().__init__(refresh_rate=refresh_rate)
        self._now: dict[str, int | str | float] = {}
        self._run: dict[str, int | str | float] = {}
        self._began, self._done_before, self._next_look = 0.0, 0, 0.0

    def init_train_tqdm(self) -> Tqdm:
        """Images times timesteps; the total isn't known, since processes share a queue."""
        bar = super().init_train_tqdm()
        bar.unit = "step"
        return bar

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the bar, and count what is there already."""
        self._began, self._done_before, self._next_look = time.monotonic(), _run_of(pl_module).count("inversions"), 0.0
        super().on_train_epoch_start(trainer, pl_module)
        self.train_progress_bar.set_description("Inverting")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the timestep's figures over."""
        i, parts = outputs["i"], outputs["micro_batches"]
        if parts:
            ids = [id for part in parts for id in part.ids]
            task, figures = parts[0].task, step_metrics(parts, i)
            self._now = {
                "image": printable(ids[0] if len(ids) == 1 else f"{ids[0]}..{ids[-1]}"),
                "timestep": f"{i + 1}/{len(task.schedule)}",
            }
            losses = {name: figures[f"loss/{name}"] for name in task.method.tokens.active}
            self._now |= {name[:3]: f"{value:.3f}" for name, value in losses.items() if not isnan(value)}
            if not isnan(figures["iou/mean"]):
                self._now["IoU"] = MEASURES["attention_iou"].caption(figures["iou/mean"])
        if trainer.is_global_zero:
            self._look(_run_of(pl_module))
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _look(self, run: RunFolder) -> None:
        """Count the images of all processes; seldom enough that it costs little, however many there are."""
        now = time.monotonic()
        if now < self._next_look:
            return
        done, failed, total = run.count("inversions"), run.count("skipped"), run.total
        self._run = {"done": str(done) if total is None else f"{done}/{total}"}
        if failed:
            self._run["failed"] = failed
        per_hour = 3600 * (done - self._done_before) / (now - self._began)
        if per_hour > 0 and total is not None:
            self._run |= {"per_hour": f"{per_hour:.0f}", "left": duration(max(total - done - failed, 0) / per_hour)}
        self._next_look = now + max(LOOK, 100 * (time.monotonic() - now))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, int | str | float | dict]:
        """What stands behind the bar."""
        return {**self._now, **self._run}


def _run_of(pl_module: LightningModule) -> RunFolder:
    assert isinstance(pl_module, LocInvModule)
    return pl_module.run
