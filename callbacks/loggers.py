"""Images of a run, in TensorBoard and in whatever loggers the Trainer has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from locinv_pl.callbacks.tensorboard import image_writer
from locinv_pl.drawing import to_array, to_png
from locinv_pl.io.files import write_atomically, writing
from locinv_pl.run.names import file_name
from locinv_pl.run.store import RunFolder


@contextmanager
def image_writers(trainer: Trainer, run: RunFolder, id: str) -> Iterator[ImageWriters]:
    """What writes drawings of image ``id``; to loggers the first process alone writes, as it does with curves.

    Args:
        trainer: its loggers are written to.
        run: its folder ``tensorboard/`` has a TensorBoard run for each image.
        id: the image's.
    """
    loggers = trainer.loggers if trainer.is_global_zero else []
    with writing(run.place("tensorboard")), image_writer(run, id) as tensorboard:
        yield ImageWriters(tensorboard, loggers, file_name(id))


class ImageWriters:
    """Writes drawings of one image to several places.

    Args:
        tensorboard: the image's own TensorBoard run.
        loggers: of Lightning; their tags start with the image's name.
        name: the image's.
    """

    def __init__(self, tensorboard: SummaryWriter, loggers: Sequence[Logger], name: str):
        self.tensorboard, self.loggers, self.name = tensorboard, loggers, name

    def add_image(self, tag: str, image: Tensor | np.ndarray, step: int | None = None) -> None:
        """Write a drawing.

        Args:
            tag: its name, with "/" after its group.
            image: (3, H, W) in [0, 1], or (H, W, 3) uint8.
            step: the timestep that it shows; None for drawings that there is one of.
        """
        self.tensorboard.add_image(tag, image, step, dataformats="CHW" if isinstance(image, Tensor) else "HWC")
        if self.loggers:
            pixels = to_array(image) if isinstance(image, Tensor) else image
            for logger in self.loggers:
                log_image(logger, f"{self.name}/{tag}", pixels, step)

    def add_text(self, tag: str, text: str) -> None:
        """Write a text to TensorBoard."""
        self.tensorboard.add_text(tag, text)


def log_image(logger: Logger, tag: str, pixels: np.ndarray, step: int | None = None) -> None:
    """Write an image to a logger, each in its own way; a logger without images is left alone.

    TensorBoard and W&B keep it by its tag; MLflow as an artifact and CSV as a file beside its metrics, both named
    ``images/TAG.png`` or ``images/TAG/STEP.png``.

    Args:
        logger: of Lightning.
        tag: the image's name.
        pixels: (H, W, 3) uint8.
        step: the timestep that it shows.
    """
    parts = [*map(file_name, tag.split("/")), *([] if step is None else [f"{step:03d}"])]
    file = f"images/{'/'.join(parts)}.png"
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(tag, pixels, step, dataformats="HWC")
    elif isinstance(logger, CSVLogger):
        write_atomically(Path(logger.log_dir) / file, to_png(Image.fromarray(pixels)))
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, pixels, artifact_file=file)
    elif hasattr(logger, "log_image"):  # W&B, and others that have its method
        logger.log_image(key=tag, images=[pixels], caption=[tag if step is None else f"timestep {step}"])
