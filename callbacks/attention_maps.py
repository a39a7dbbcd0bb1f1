"""Every finished image as a sheet, in TensorBoard and other loggers, and on the run's contact sheet."""

from __future__ import annotations

from itertools import islice
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from PIL import Image

from locinv_pl.callbacks.figures import sheet, shown_steps, strip
from locinv_pl.callbacks.loggers import image_writers
from locinv_pl.callbacks.tensorboard import noun_tag
from locinv_pl.drawing import outline, overlay, stack_strips, to_array, to_png
from locinv_pl.io.files import read_image, write_atomically
from locinv_pl.run.module import LocInvModule
from locinv_pl.run.results import Result


class AttentionMapSheets(Callback):
    """Draws ``sheets/<id>.png``, ``reconstructions/<id>.png`` and ``contact_sheet.png``.

    Args:
        map_columns: the number of timesteps whose maps a sheet shows; 6 by default.
        tensorboard_steps: the number of timesteps whose maps go to TensorBoard and to the Trainer's loggers; 10 by
            default, 0 for no drawing at all.
        contact_images: the most images on the contact sheet; 100 by default.
    """

    def __init__(self, map_columns: int = 6, tensorboard_steps: int = 10, contact_images: int = 100):
        self.map_columns = map_columns
        self.tensorboard_steps = tensorboard_steps
        self.contact_images = contact_images

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw the images that this timestep finished."""
        assert isinstance(pl_module, LocInvModule)
        for result in outputs["finished"]:
            drawings: dict[str, Figure | Image.Image] = {
                "sheets": sheet(result, self.map_columns),
                "reconstructions": Image.fromarray(to_array(result.reconstruction)),
                "strips": strip(result),
            }
            for kind, drawing in drawings.items():
                write_atomically(pl_module.run.image_path(kind, result.sample.id), to_png(drawing))
            if self.tensorboard_steps:
                self._log(trainer, pl_module, result)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Once every process has ended, the first one makes the contact sheet."""
        assert isinstance(pl_module, LocInvModule)
        if stage != "fit" or not trainer.is_global_zero:
            return
        run = pl_module.run
        paths = [run.image_path("strips", score["id"]) for score in islice(run.each_score(), self.contact_images)]
        strips = [read_image(path) for path in paths if path.exists()]
        if strips:
            write_atomically(run.place("contact_sheet.png"), to_png(stack_strips(strips)))

    def _log(self, trainer: Trainer, pl_module: LocInvModule, result: Result) -> None:
        sample, inversion = result.sample, result.inversion
        with image_writers(trainer, pl_module.run, sample.id) as writers:
            writers.add_image("picture/1_original_and_priors", outline(sample.image, [n.prior for n in sample.nouns]))
            writers.add_image("picture/2_reconstruction", result.reconstruction)
            for k, noun in enumerate(sample.nouns):
                tag = noun_tag(k, noun)
                writers.add_image(f"prior/{tag}", overlay(sample.image, inversion.priors[k]))
                for i in shown_steps(inversion.num_steps, self.tensorboard_steps):
                    for name, maps in (("ddim", inversion.initial_maps), ("maps", inversion.maps)):
                        writers.add_image(f"{name}/{tag}", overlay(sample.image, maps[i, k]), i)
