"""The commands about data: what is wrong with it, how the model will see it, a selection frozen."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from locinv_pl.datamodules.base import EditDataModule
from locinv_pl.datamodules.coco_edit import CocoEditDataModule
from locinv_pl.datamodules.entries import EntrySamples, Problems
from locinv_pl.datamodules.notes import notes_of, notes_of_all
from locinv_pl.datamodules.preview import write_preview
from locinv_pl.drawing import stack_strips, to_png
from locinv_pl.errors import InputError, one_line
from locinv_pl.io.files import write_atomically, write_json
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import load_backbone
from locinv_pl.words.tokens import check_prompt, tokenize


def check(data: EditDataModule, json: Path | None = None, backbone: str | None = None) -> None:
    """Open every image and say what a run would refuse, image by image; the exit code is 1 where it refuses one.

    Notes tell what would be taken, but is probably meant otherwise; they don't change the exit code.

    Args:
        data: data=NAME takes configs/data/NAME.yaml, data.KEY=VALUE overrides.
        json: where to write {"images", "samples", "problems": [{"id", "problem"}], "notes": [{"id", "note"}]}.
        backbone: the model that the data is for, the run's own by default; its image size is used, and prompts are
            held against its limit.
    """
    model = load_backbone(backbone or "embedded")
    samples, problems = _read(data, model)
    usable = 0
    for index, id in enumerate(samples.ids):
        with problems.of(id):
            sample = samples[index]
            check_prompt(model.tokenizer, sample)
            for edit in sample.edits:
                tokenize(model.tokenizer, edit.prompt, sample.id)
            for note in notes_of(samples.entries[index], sample):
                problems.note(id, note)
            usable += 1
    for note in notes_of_all(samples.entries):
        problems.note("all", note)
    for kind, listed in (("", problems.found), ("note ", problems.notes)):
        for problem in listed:
            print(one_line(f"{kind}{problem.id}: {problem.problem}"))
    print(f"{problems.num_images} images, {usable} samples, {len(problems.found)} problems")
    if json is not None:
        found = [{"id": problem.id, "problem": problem.problem} for problem in problems.found]
        noted = [{"id": note.id, "note": note.problem} for note in problems.notes]
        counts = {"images": problems.num_images, "samples": usable}
        write_json(json, {**counts, "problems": found, **({"notes": noted} if noted else {})})
    if problems.found:
        sys.exit(1)


def preview(
    data: EditDataModule, output: Path, backbone: str | None = None, num_images: int | None = None, sheet: int = 50
) -> None:
    """Draw every sample as the model will see it, with its prompt and each noun's prior over it.

    Writes <id>.png, the drawing; <id>.<noun>.png, each prior in grey at the image's size; contact_sheet.png.

    Args:
        data: data=NAME takes configs/data/NAME.yaml, data.KEY=VALUE overrides.
        output: the folder to write into.
        backbone: the model that the data is for; its image size is used where data.size gives none.
        num_images: the first so many; all by default.
        sheet: drawings on the contact sheet at most.
    """
    samples, problems = _read(data, load_backbone(backbone or "embedded"))
    strips: list[Image.Image] = []
    for index, id in list(enumerate(samples.ids))[:num_images]:
        with problems.of(id):
            drawing = write_preview(samples[index], output)
            strips += [drawing] if len(strips) < sheet else []
    for problem in problems.found:
        print(one_line(f"skipped {problem.id}: {problem.problem}"), file=sys.stderr)
    if not strips:
        raise InputError(f"{output}: no sample to draw; locinv data check says why")
    write_atomically(output / "contact_sheet.png", to_png(stack_strips(strips)))
    print(f"Drawn: {output}")


def build_coco_edit(data: EditDataModule, output: Path = Path("coco_edit.json")) -> None:
    """Choose images of a COCO folder by the rules and write them into a manifest, for data.manifest=FILE.

    Args:
        data: data=NAME takes configs/data/NAME.yaml, data.KEY=VALUE overrides.
        output: the manifest to write, a JSON file; ``coco_edit.json`` in the current folder by default.
    """
    if not isinstance(data, CocoEditDataModule):
        raise InputError(f"data build-coco-edit: takes data=coco_edit, not {data.name}")
    problems = Problems(data.on_error)
    entries = data.build_manifest(output, problems)
    for problem in problems.found:
        print(one_line(f"skipped {problem.id}: {problem.problem}"), file=sys.stderr)
    print(f"{output}: {len(entries)} of {problems.num_images} images")


def _read(data: EditDataModule, backbone: Backbone) -> tuple[EntrySamples, Problems]:
    problems = Problems("skip")
    return data.read(data.size or backbone.image_size, problems), problems
