"""Losses, thresholds and attention IoU of every image over its timesteps, in TensorBoard."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.tensorboard import SummaryWriter

from locinv_pl.callbacks.tensorboard import image_writer, noun_tag
from locinv_pl.io.files import writing
from locinv_pl.measures.metrics import attention_iou
from locinv_pl.method.policies import LOSSES
from locinv_pl.method.task import Task
from locinv_pl.run.module import LocInvModule
from locinv_pl.types import StepRecord


class AttentionIoUCurves(Callback):
    """Logs a scalar per loss, threshold and noun at every timestep; the x axis is the step i."""

    def __init__(self) -> None:
        self._writers: dict[str, SummaryWriter] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log one timestep of every image of the batch."""
        assert isinstance(pl_module, LocInvModule)
        with writing(pl_module.run.place("tensorboard")):
            if outputs["i"] == 0:
                self._close()
            for part in outputs["micro_batches"]:
                for b, id in enumerate(part.ids):
                    if id not in self._writers:
                        self._writers[id] = image_writer(pl_module.run, id)
                    for tag, value in self._scalars(part.task, part.records[outputs["i"]], outputs["i"], b).items():
                        self._writers[id].add_scalar(tag, value, outputs["i"])
            if outputs["finished"]:
                self._close()

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _scalars(self, task: Task, record: StepRecord, i: int, b: int) -> dict[str, float]:
        scalars = {
            "null_text/loss": record.null_loss[b].item(),
            "null_text/gradient_steps": record.null_steps[b].item(),
            "tokens/gradient_steps": record.token_steps[b].item(),
        }
        for n, name in enumerate(LOSSES):
            if name in task.method.tokens.active and not record.losses[b, n].isnan():
                scalars[f"{name}/loss"] = record.losses[b, n].item()
                if record.thresholds[n].isfinite():
                    scalars[f"{name}/threshold"] = record.thresholds[n].item()
        nouns, masks = task.samples[b].nouns, task.samples[b].masks
        ious = attention_iou(record.maps[b, : len(nouns)].cpu(), masks)
        before = attention_iou(task.initial_maps[i, b, : len(nouns)].cpu(), masks)
        for k, noun in enumerate(nouns):
            tag = noun_tag(k, noun)
            scalars[f"iou/{tag}"], scalars[f"iou_ddim/{tag}"] = ious[k].item(), before[k].item()
        return scalars
