"""What all trainings share: AdamW, and how its learning rate goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class Optimization:
    """AdamW with a learning rate that warms up, stays, and decays to 0 at the last step.

    Args:
        max_steps: optimiser steps in all.
        batch_size: of one process.
        learning_rate: of the constant stretch.
        warmup_steps, decay_steps: lengths of the first and the last stretch.
        weight_decay, beta2: AdamW's.
        ema_decay: of the average of the weights, which is what counts in the end; 0 for none.
    """

    max_steps: int
    batch_size: int
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    decay_steps: int = 2000
    weight_decay: float = 0.01
    beta2: float = 0.99
    ema_decay: float = 0.999


class PretrainModule(LightningModule):
    """A network in training, with its optimiser."""

    def __init__(self, optimization: Optimization):
        super().__init__()
        self.optimization = optimization

    def configure_optimizers(self) -> Any:
        """AdamW over whatever is trained, its rate set anew at every step."""
        o = self.optimization
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = AdamW(parameters, o.learning_rate, betas=(0.9, o.beta2), weight_decay=o.weight_decay)
        schedule = warmup_stable_decay(optimizer, o.warmup_steps, o.decay_steps, o.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def warmup_stable_decay(optimizer: Optimizer, warmup_steps: int, decay_steps: int, max_steps: int) -> LambdaLR:
    """Linear to the full rate, constant, and in the last ``decay_steps`` linear to 0 (WSD, arXiv 2404.06395).

    Nothing but the end depends on ``max_steps``: a run that goes on for longer, or is cut short, from a
    checkpoint before its decay is as good as one planned so.
    """

    def factor(step: int) -> float:
        up = (step + 1) / max(warmup_steps, 1)
        down = (max_steps - step) / max(decay_steps, 1)
        return max(0.0, min(1.0, up, down))

    return LambdaLR(optimizer, factor)
