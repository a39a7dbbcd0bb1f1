"""The command for one photograph: from a file and a few words to edited images."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from locinv_pl.api import Prior, nouns
from locinv_pl.assets import EXAMPLE
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError, check_choice, tell
from locinv_pl.grounding import PointSegmenter
from locinv_pl.grounding import caption as caption_of
from locinv_pl.grounding.models import FoundationModels
from locinv_pl.grounding.nouns import GroundedSam
from locinv_pl.io.files import read_json
from locinv_pl.io.frames import Fit, frame_mask
from locinv_pl.io.images import open_image
from locinv_pl.io.reading import expanded
from locinv_pl.measures.edits import MeasureSettings
from locinv_pl.method.policies import Method, load_method
from locinv_pl.method.progress import Progress
from locinv_pl.networks.loading import load_backbone
from locinv_pl.networks.options import LoadOptions
from locinv_pl.photo import PhotoEdit, PhotoRun, command_of, open_photo, save_photo
from locinv_pl.run.edit_files import beside
from locinv_pl.run.names import file_name
from locinv_pl.types import Inversion
from locinv_pl.words import tidy

Finder = Literal["grounded_sam", "sam3"]
Captioner = Literal["blip"]
DIRECT = load_method("locinv_direct")
MAP_STEPS = 10  # timesteps whose maps the report shows


def photo(
    image: str = "",
    prompt: str = "",
    edits: list[str] = [],  # noqa: B006 (jsonargparse shows it as the default)
    box: dict[str, str] = {},  # noqa: B006
    mask: dict[str, str] = {},  # noqa: B006
    point: dict[str, str] = {},  # noqa: B006
    output: Path = Path("outputs/photo"),
    backbone: str = "embedded",
    method: Method = DIRECT,
    num_steps: int | None = None,
    resolution: int = 16,
    fit: Fit = "crop",
    find: Finder | None = None,
    caption: Captioner | None = None,
    models: FoundationModels = FoundationModels(),
    edit: EditSettings = EditSettings(),
    region: Path | None = None,
    measures: MeasureSettings = MeasureSettings(),
    model: LoadOptions = LoadOptions(),
    dtype: str = "float32",
    device: str = "auto",
    open: bool = False,
) -> None:
    """Edit one photograph: invert it, or find its inversion again, and make the edits.

    A noun's place is a box, box.cat=30,40,200,220 (x, y, width, height in pixels), a mask, mask.dog=dog.png, or points,
    point.cat=120,80. Where a noun stands several times in the prompt, its places are given in order, with semicolons.
    Without image= it runs a worked example, and shows its command.

    Args:
        image: the photograph's file.
        prompt: what is on it.
        edits: edit="TARGET PROMPT", as often as there are edits; all of them are made as one batch.
        box: box.NOUN=x,y,w,h in pixels of the photograph.
        mask: mask.NOUN=FILE, white where the noun is, of the photograph's size.
        point: point.NOUN=x,y;x,y on the noun, !x,y beside it; models.segmenter finds its mask.
        output: the folder of everything that is made; photographs that share it share method and model.
        backbone: "embedded", a folder in diffusers' layout, a checkpoint in one file, or a hub id.
        method: method=NAME takes configs/method/NAME.yaml, method.KEY=VALUE overrides.
        num_steps: T, denoising timesteps; the method's own by default.
        resolution: side of the attention grid in cells.
        fit: crop shows the centred square, pad all of the photograph between black bars, native keeps its shape.
        find: finds the nouns that are given no place: grounded_sam or sam3.
        caption: blip writes the prompt where none is given.
        models: the models behind find, caption and point; models.segmenter=NAME and so on.
        edit: edit.KEY=VALUE changes how edits are made.
        region: a mask of the photograph's size, white where the edits may change it.
        measures: the networks that choose among the strengths of an edit, with edit.candidates above 1.
        model: what the model is loaded with, as in train.py: model.lora=FILE, model.layout=FOLDER.
        dtype: of the weights: float32, bfloat16 or float16.
        device: the device to compute on: auto, cpu, cuda, mps.
        open: whether the browser shows the report.

    Raises:
        InputError: something is missing, can't be read, or doesn't fit together.
    """
    if not image:
        image, prompt, box, mask, edits = _example(prompt, edits, box, mask, point)
    opened = open_image(expanded(image))
    if not prompt:
        if caption is None:
            raise InputError("photo: has no prompt; say what is on the image in prompt=, or give caption=blip")
        prompt = caption_of(opened, models)
        print(f"prompt={prompt}")
    priors: dict[str, list[Prior]] = {
        **{noun: list(_boxes(text, noun)) for noun, text in box.items()},
        **{noun: list(text.split(";")) for noun, text in mask.items()},
    }
    if points := {noun: _points(text, noun) for noun, text in point.items()}:
        seen = PointSegmenter(models).at(opened)
        priors |= {noun: [seen.mask(*each)] for noun, each in points.items()}
    if twice := sorted((box.keys() & mask.keys()) | (point.keys() & (box.keys() | mask.keys()))):
        raise InputError(f"photo: {twice[0]!r} has two kinds of places; give box.{twice[0]}, mask or point alone")
    missing = [noun for noun in nouns(prompt) if noun.lower() not in {given.lower() for given in priors}]
    if find is not None and missing:
        check_choice("find", find, Finder)
        asked = models.without_detector() if find == "sam3" else models
        found = GroundedSam(asked).find(opened, missing)
        priors |= {noun: [place.mask] for noun, place in found.items()}
        if lost := [noun for noun in missing if noun not in found]:
            tell(f"photo: not found on the image: {', '.join(lost)}; give a box or a mask where it matters")
    if not priors:
        named = missing[0] if missing else "NOUN"
        raise InputError(
            f"photo: no noun has a place; give box.{named}=x,y,width,height or mask.{named}=FILE "
            f"(nouns of the prompt: {', '.join(missing) or 'none found'}), or find=grounded_sam"
        )
    networks = load_backbone(backbone, dtype, device_of(device), **model.given)
    each: Mapping[str, Prior | list[Prior]] = {k: v if len(v) > 1 else v[0] for k, v in priors.items()}
    shot = open_photo(opened, prompt, each, networks, fit, name=Path(image).stem)
    allowed = None
    if region is not None:
        assert shot.sample.frame is not None
        allowed = frame_mask(expanded(region), shot.sample.frame)
    run = PhotoRun(output, networks, method, num_steps, resolution)
    for progress in run.iter_invert(shot):
        _show(progress)
        inversion = progress.result
    save_photo(shot, run.folder.place("data", file_name(shot.sample.id)), edits)
    assert inversion is not None
    print(run.folder.inversion_path(shot.sample.id))
    if edits:
        result, paths = run.edit(shot, [tidy(prompt) for prompt in edits], edit, allowed, measures)
        pages = import_module("locinv_pl.callbacks.edits")  # known by name alone, as in the configs
        pages.save_maps(run.folder, result, MAP_STEPS)
        report = pages.sum_up(run.folder)
        print(*paths, *(path.with_name(beside(path.name, "photo")) for path in paths), report, sep="\n")
        if open:
            webbrowser.open(report.resolve().as_uri())


def _example(
    prompt: str, edits: Sequence[str], *places: Mapping[str, str]
) -> tuple[str, str, dict[str, str], dict[str, str], list[str]]:
    """The picture of the package with what is known of it; shows the command that this is."""
    if prompt or edits or any(places):
        raise InputError("photo: has no image; name the photograph's file in image=")
    known = read_json(EXAMPLE / "example.json")
    image, mask = str(EXAMPLE / known["image"]), {noun: str(EXAMPLE / file) for noun, file in known["mask"].items()}
    shot = open_photo(image, known["prompt"], {**_priors(known["box"]), **mask}, 128)
    masks = {noun: [file] for noun, file in mask.items()}
    print(f"A worked example:\n\n    {command_of(PhotoEdit(shot, known['edits'], image, masks))}\n")
    return image, known["prompt"], known["box"], mask, known["edits"]


def _priors(box: Mapping[str, str]) -> dict[str, Prior]:
    return {noun: _boxes(text, noun)[0] for noun, text in box.items()}


def _boxes(text: str, noun: str) -> list[list[float]]:
    """Boxes as a command line has them."""
    boxes = [_numbers(each) for each in text.strip("[]() ").split(";")]
    if not all(len(each) == 4 for each in boxes):
        raise InputError(f"box.{noun}={text}: is no box; give x,y,width,height in pixels")
    return boxes


def _points(text: str, noun: str) -> tuple[list[list[float]], list[int]]:
    """Points as a command line has them, with their labels."""
    each = [point.strip() for point in text.split(";")]
    points = [_numbers(point.removeprefix("!")) for point in each]
    if not all(len(point) == 2 for point in points):
        raise InputError(f"point.{noun}={text}: is no point; give x,y in pixels, or x,y;!x,y")
    return points, [0 if point.startswith("!") else 1 for point in each]


def _numbers(text: str) -> list[float]:
    """Numbers with commas; none where one of them isn't a finite number."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return []
    return numbers if np.isfinite(numbers).all() else []


def device_of(name: str) -> str:
    """The device that a command is to compute on; "auto" is a GPU where there is one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _show(progress: Progress[Inversion]) -> None:
    """How far it has come, on one line of a terminal."""
    if not sys.stderr.isatty():
        return
    end = "\n" if progress.result is not None else ""
    print(
        f"\r{progress.phase:9} {progress.step:3}/{progress.total} {progress.seconds:6.1f} s", end=end, file=sys.stderr
    )
