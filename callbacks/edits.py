"""Every edited image as a page, in TensorBoard and other loggers, on the run's contact sheet and in its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from locinv_pl.callbacks.figures import edit_sheet, iou_curves, mean_ious, shown_steps, tile_row
from locinv_pl.callbacks.loggers import image_writers
from locinv_pl.callbacks.report import MAPS, open_image, write_report
from locinv_pl.drawing import difference, heat_strip, stack_strips, to_array, to_jpeg, to_png
from locinv_pl.io.files import write_atomically, write_json
from locinv_pl.run.edit_files import EditedImage, edited_images
from locinv_pl.run.edits import EditResult
from locinv_pl.run.module import LocInvModule
from locinv_pl.run.store import RunFolder


class EditSheets(Callback):
    """Draws ``edit_sheets/<id>.png``, ``edits_contact_sheet.png`` and ``report.html``; writes ``edits.json``.

    Args:
        map_steps: the number of timesteps whose maps the report shows; 10 by default.
        tensorboard: whether the images go to TensorBoard and to the Trainer's loggers; True by default.
        contact_images: the most images on the contact sheet; 100 by default.
    """

    def __init__(self, map_steps: int = 10, tensorboard: bool = True, contact_images: int = 100):
        self.map_steps = map_steps
        self.tensorboard = tensorboard
        self.contact_images = contact_images

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the images that this batch edited."""
        assert isinstance(pl_module, LocInvModule)
        result: EditResult
        for result in outputs:
            about = {"source_prompt": result.sample.prompt, "settings": json.dumps(result.settings)}
            about |= {f"prompt {n}": edit.prompt for n, edit in enumerate(result.edits, start=1)}
            path = pl_module.run.image_path("edit_sheets", result.sample.id)
            write_atomically(path, to_png(edit_sheet(result), about))
            save_maps(pl_module.run, result, self.map_steps)
            if self.tensorboard:
                _log(trainer, pl_module.run, result)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Once every process has ended, the first one sums up what all of them have written."""
        assert isinstance(pl_module, LocInvModule)
        if stage != "predict" or not trainer.is_global_zero:
            return
        print(f"\nEdits: {sum_up(pl_module.run, self.contact_images)}")


def sum_up(run: RunFolder, contact_images: int = 100) -> Path:
    """Write edits.json, report.html and edits_contact_sheet.png from the images' files; returns the report.

    Raises:
        InputError: some of them are damaged; names all.
    """
    edited = edited_images(run)
    write_json(run.place("edits.json"), edited)
    report = write_report(run)
    if edited:
        rows = [_contact_row(run, image) for image in edited[:contact_images]]
        write_atomically(run.place("edits_contact_sheet.png"), to_png(stack_strips(rows)))
    return report


def save_maps(run: RunFolder, result: EditResult, count: int) -> None:
    """Write the folder ``maps`` of an image's edits: what the report shows of the nouns' attention.

    ``N-ddim.jpg`` and ``N-inversion.jpg`` hold the maps of noun N under each other, the mean over all steps first,
    then ``count`` steps. ``maps.json`` names the steps and has the attention IoU of every map, in the same order.
    """
    inversion, nouns = result.inversion, result.sample.nouns
    if inversion is None:
        return
    folder = run.edits_path(inversion.id, MAPS)
    steps = shown_steps(inversion.num_steps, count)
    rows: list[dict[str, Any]] = [{"word": noun.word} for noun in nouns]
    if nouns:
        means, curves = mean_ious(result.sample, inversion), iou_curves(result.sample, inversion)
        for m, (name, maps) in enumerate((("ddim", inversion.initial_maps), ("inversion", inversion.maps))):
            for k, row in enumerate(rows):
                planes = [maps[:, k].mean(0), *maps[steps, k]]
                row[name] = [round(iou, 4) for iou in (means[k][m], *curves[m][steps, k].tolist())]
                write_atomically(folder / f"{k + 1}-{name}.jpg", to_jpeg(heat_strip(planes)))
    content = {"num_steps": inversion.num_steps, "steps": steps, "nouns": rows}
    write_json(folder / "maps.json", content, sealed=True)


def _contact_row(run: RunFolder, edited: EditedImage) -> Image.Image:
    """An image's row of the contact sheet, from its files."""
    tiles = [("source", "source.png", edited["prompt"]), ("reconstruction", "reconstruction.png", "")]
    tiles += [(edit["kind"], edit["file"], edit["prompt"]) for edit in edited["edits"]]
    drawn = [(title, np.asarray(open_image(run.edits_path(edited["id"], file))), text) for title, file, text in tiles]
    return tile_row(edited["id"], drawn, height=160)


def _log(trainer: Trainer, run: RunFolder, result: EditResult) -> None:
    back = to_array(result.reconstruction)
    with image_writers(trainer, run, result.sample.id) as writers:
        writers.add_image("edit/0_source", result.sample.image)
        writers.add_image("edit/0_reconstruction", result.reconstruction)
        for n, (edit, image) in enumerate(zip(result.edits, result.images, strict=True), start=1):
            tag = f"{n}_{edit.kind.replace(' ', '_')}"
            writers.add_image(f"edit/{tag}", image)
            writers.add_image(f"edit_difference/{tag}", difference(to_array(image), back))
            writers.add_text(f"edit/{tag}", edit.prompt)
