"""One TensorBoard run per picture, so that pictures can be picked and compared."""

from __future__ import annotations

from torch.utils.tensorboard import SummaryWriter

from locinv_pl.store import RunFolder


def image_writer(run: RunFolder, id: str) -> SummaryWriter:
    """A writer for picture ``id``, under the run's folder ``tensorboard/``."""
    return SummaryWriter(str(run.image_path("tensorboard", id).with_suffix("")))
