"""One TensorBoard run per picture, so that pictures can be picked and compared."""

from __future__ import annotations

from torch.utils.tensorboard import SummaryWriter

from locinv_pl.store import RunFolder
from locinv_pl.types import Noun


def noun_tag(k: int, noun: Noun) -> str:
    """A tag for noun k of a picture; numbered, since a word may stand twice in a prompt."""
    return f"{k + 1}_{noun.word.replace(' ', '_')}"


def image_writer(run: RunFolder, id: str) -> SummaryWriter:
    """A writer for picture ``id``, under the run's folder ``tensorboard/``."""
    return SummaryWriter(str(run.curves_path(id)))
