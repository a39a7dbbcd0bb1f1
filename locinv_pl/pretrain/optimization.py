"""What all trainings share: AdamW, how its learning rate goes, and when a training ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from locinv_pl.errors import InputError


@dataclass(frozen=True)
class Optimization:
    """AdamW with a learning rate that warms up, stays, and decays to 0 at the end.

    Args:
        max_steps: the number of optimiser steps; all processes take them together.
        batch_size: the rows of a batch in each process.
        learning_rate: the rate of the constant stretch; 1e-3 by default.
        warmup_steps: length of the first stretch, in steps, over which the rate rises from 0.
        decay: share of the training, in [0, 1], over which the rate falls to 0 at the end.
        weight_decay, beta2: AdamW's parameters of these names (Loshchilov and Hutter, arXiv 1711.05101).
        ema_decay: of the average of the weights, which is what counts in the end; 0 for none.
        max_minutes: end after so many minutes of training, all goes together, where that comes before
            ``max_steps``; for one process.
        compile: compile the networks (torch.compile); pays where a training takes many minutes on a GPU.
    """

    max_steps: int
    batch_size: int
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    decay: float = 0.25
    weight_decay: float = 0.01
    beta2: float = 0.99
    ema_decay: float = 0.999
    max_minutes: float | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise InputError(f"optimization.max_minutes={self.max_minutes}: no time to train in; give more than 0")


class PretrainModule(LightningModule):
    """A network in training, with its optimiser."""

    networks: tuple[str, ...] = ()
    """The attributes that :attr:`Optimization.compile` compiles."""

    def __init__(self, optimization: Optimization):
        super().__init__()
        self.optimization = optimization
        self._minutes, self._began = 0.0, time.monotonic()  # of earlier goes; the start of this one

    @property
    def progress(self) -> float:
        """Share of the training that is done, by steps or by minutes, whichever is further."""
        o = self.optimization
        by_time = 0.0 if o.max_minutes is None else self.minutes / o.max_minutes
        return max(self.trainer.global_step / o.max_steps, by_time)

    @property
    def minutes(self) -> float:
        """Minutes of training so far."""
        return self._minutes + (time.monotonic() - self._began) / 60

    def configure_optimizers(self) -> Any:
        """AdamW over whatever is trained, its rate set anew at every step."""
        o = self.optimization
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = AdamW(parameters, o.learning_rate, betas=(0.9, o.beta2), weight_decay=o.weight_decay)
        schedule = warmup_stable_decay(optimizer, o.warmup_steps, o.decay, lambda step: self.progress)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """The clock starts; networks are compiled where that is asked for."""
        self._began = time.monotonic()
        if self.optimization.compile:
            for name in self.networks:
                getattr(self, name).compile()

    def on_train_batch_end(self, *args: Any) -> None:
        """Stop where the time is up."""
        if self.progress >= 1:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the minutes of training so far, which count over all resumed trainings."""
        checkpoint["minutes"] = self.minutes

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the minutes of training so far, which count over all resumed trainings."""
        self._minutes = checkpoint.get("minutes", 0.0)


def warmup_stable_decay(
    optimizer: Optimizer, warmup_steps: int, decay: float, progress: Callable[[int], float]
) -> LambdaLR:
    """Linear to the full rate, constant, and in the last share ``decay`` linear to 0 (WSD, arXiv 2404.06395).

    Nothing but the end depends on how long the training is: one that goes on for longer, or is cut short,
    from a checkpoint before its decay is as good as one planned so.

    Args:
        optimizer: whose rate it is.
        warmup_steps: length of the first stretch, in steps, over which the rate rises from 0.
        decay: the last stretch, as a share of the training.
        progress: the share that is done before a step; 1 at the end.
    """

    def factor(step: int) -> float:
        up = (step + 1) / max(warmup_steps, 1)
        down = (1 - progress(step)) / decay if decay else 1.0
        return max(0.0, min(1.0, up, down))

    return LambdaLR(optimizer, factor)
