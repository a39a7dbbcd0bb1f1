"""One TensorBoard run per image, so that images can be picked and compared."""

from __future__ import annotations

import threading

from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch.utils.tensorboard import SummaryWriter

from locinv_pl.run.store import RunFolder
from locinv_pl.types import Noun


def noun_tag(k: int, noun: Noun) -> str:
    """A tag for noun k of an image; numbered, since a word may stand twice in a prompt."""
    return f"{k + 1}_{noun.word.replace(' ', '_')}"


def image_writer(run: RunFolder, id: str) -> SummaryWriter:
    """A writer for image ``id``, under the run's folder ``tensorboard/``; what its disk refuses is an OSError."""
    threading.excepthook = _end_of_thread
    return SummaryWriter(str(run.curves_path(id)))


def _end_of_thread(end: threading.ExceptHookArgs) -> None:
    """Say what ended a thread; TensorBoard's, which write the files, give their errors to whoever writes next."""
    if not (isinstance(end.thread, _AsyncWriterThread) and isinstance(end.exc_value, OSError)):
        threading.__excepthook__(end)
