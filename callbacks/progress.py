"""A progress bar that says which picture, which timestep, and how it goes."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from locinv_pl.methods import LOSSES
from locinv_pl.metrics import attention_iou


class InversionProgress(TQDMProgressBar):
    """Lightning's bar over timesteps, with pictures, losses and attention IoU of the running batch."""

    def __init__(self, refresh_rate: int = 1):
        super().__init__(refresh_rate=refresh_rate)
        self._now: dict[str, int | str | float] = {}

    def init_train_tqdm(self) -> Tqdm:
        """Pictures times timesteps; the total isn't known, since processes share a queue."""
        bar = super().init_train_tqdm()
        bar.unit = "step"
        return bar

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Name the bar."""
        super().on_train_epoch_start(trainer, *_)
        self.train_progress_bar.set_description("Inverting")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the timestep's figures over."""
        i, parts = outputs["i"], outputs["parts"]
        if parts:
            ids = [id for part in parts for id in part.ids]
            records = [part.records[i] for part in parts]
            task = parts[0].task
            self._now = {
                "image": ids[0] if len(ids) == 1 else f"{ids[0]}..{ids[-1]}",
                "timestep": f"{i + 1}/{len(task.schedule)}",
            }
            means = torch.cat([record.losses for record in records]).nanmean(0).tolist()
            shown = task.method.tokens.active
            self._now |= {n[:3]: f"{v:.3f}" for n, v in zip(LOSSES, means, strict=True) if n in shown and v == v}
            ious = [
                attention_iou(record.maps[b, : len(s.nouns)].cpu(), s.masks)
                for part, record in zip(parts, records, strict=True)
                for b, s in enumerate(part.task.samples)
                if s.nouns
            ]
            if ious:
                self._now["IoU"] = f"{torch.cat(ious).mean():.2f}"
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, int | str | float | dict]:
        """What stands behind the bar."""
        return dict(self._now)
