"""PIE-Bench (Ju et al., PnP Inversion, arXiv 2310.01506): 700 images, each with one edit and its region.

``mapping_file.json`` holds, for every image, prompts whose changed words stand in brackets, the pair of words
that the edit blends, and the region as flat run lengths: starts and lengths over the 512x512 pixels row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from pycocotools import mask as mask_utils
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from locinv_pl.datamodules.base import EditDataModule
from locinv_pl.datamodules.entries import Entry, Mention, Problems, Rle, Shape, adjectives_of, check_id
from locinv_pl.errors import InputError
from locinv_pl.io.images import image_size
from locinv_pl.io.reading import expanded, read_dataset_json, validated
from locinv_pl.types import Edit, overlap
from locinv_pl.words import WordFinder, find_word, load_words

SIDE = 512  # pixels, of the masks and their images
KINDS = {
    "0": "random",
    "1": "change_object",
    "2": "add_object",
    "3": "delete_object",
    "4": "change_content",
    "5": "change_pose",
    "6": "change_color",
    "7": "change_material",
    "8": "change_background",
    "9": "change_style",
}


class MappingRow(TypedDict):
    """An image of the mapping; its mask is read by :func:`region_mask`."""

    image_path: str
    original_prompt: str
    editing_prompt: str
    editing_type_id: str | int
    blended_word: str
    mask: Any


ROW = TypeAdapter(MappingRow)


class PieBenchDataModule(EditDataModule):
    """PIE-Bench as it is distributed.

    The mask is the edit region; it is also the prior of the noun that the first blended word names.

    Args:
        root: the folder that holds the mapping and the images.
        mapping: the mapping file, relative to ``root``.
        images: the folder of the images, relative to ``root``.
        kinds: numbers of editing types to take, "0" to "9"; null for all.
        num_images: takes this many images from the start of the mapping, 1 or more; null (the default) takes all.
        kwargs: what every source of images takes.
    """

    name = "pie_bench"

    def __init__(
        self,
        root: str,
        mapping: str = "mapping_file.json",
        images: str = "annotation_images",
        kinds: list[str] | None = None,
        num_images: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if num_images is not None and num_images < 1:
            raise InputError(f"data.num_images={num_images}: must be 1 or more")
        self.root, self.mapping, self.images = root, mapping, images
        self.kinds, self.num_images = kinds, num_images

    @property
    def settings(self) -> dict[str, Any]:
        """What the samples depend on."""
        return {**super().settings, "root": str(self.root), "mapping": self.mapping, "kinds": self.kinds}

    def entries(self, side: int, problems: Problems) -> Sequence[Entry]:
        """Read the mapping."""
        root = expanded(self.root)
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; give the folder of PIE-Bench in data.root=")
        path, words = root / self.mapping, load_words(self.words)
        rows = read_dataset_json(path)
        if not isinstance(rows, dict):
            raise InputError(f"{path}: is no mapping of images; use PIE-Bench's mapping_file.json")
        problems.num_images = len(rows)
        entries: list[Entry] = []
        for id, row in rows.items():
            with problems.of(id):
                check_id(id, f"{path}: an image")
                _check_row(row, f"{path}: image {id}")
                if self.kinds is None or str(row["editing_type_id"]) in map(str, self.kinds):
                    entries.append(_entry(id, row, root / self.images, words, f"{path}: image {id}"))
        if not entries and not problems.found:
            raise InputError(f"{path}: has no image of data.kinds={self.kinds}; choose others")
        return entries[: self.num_images]


def plain_prompt(prompt: str) -> str:
    """A prompt without the brackets round its changed words."""
    return normalize("NFC", prompt.replace("[", "").replace("]", "").strip())


def region_mask(runs: Any, where: str) -> Rle:
    """PIE-Bench's flat run lengths, [start, length, start, length, ...], as COCO's; its authors cut them at the end.

    Raises:
        InputError: they are no such numbers, or begin outside 512x512 pixels.
    """
    numbers = isinstance(runs, list) and len(runs) % 2 == 0 and all(type(n) is int and n >= 0 for n in runs)
    if not numbers or any(start > SIDE * SIDE for start in runs[::2]):
        raise InputError(
            f"{where}: its mask is not pairs of start and length within {SIDE}x{SIDE} pixels; get the mapping again"
        )
    flat = np.zeros(SIDE * SIDE, dtype=np.uint8)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] = 1
    return mask_utils.encode(np.asfortranarray(flat.reshape(SIDE, SIDE)))


def _check_row(row: Any, where: str) -> None:
    def problem(place: tuple[int | str, ...], _: Any) -> str:
        key = str(place[0]) if place else "image_path"
        lacks = not isinstance(row, dict) or key not in row
        return f"{where}: {f'has no {key}' if lacks else f'its {key} is no text'}; get the mapping again"

    validated(ROW, row, problem)
    if not plain_prompt(row["original_prompt"]):
        raise InputError(f"{where}: its original_prompt is empty; get the mapping again")


def _entry(id: str, row: dict[str, Any], images: Path, words: WordFinder, where: str) -> Entry:
    path, prompt = images / row["image_path"], plain_prompt(row["original_prompt"])
    size, rle = image_size(path), region_mask(row["mask"], where)
    if size != (SIDE, SIDE):
        raise InputError(f"{path}: is {size[0]}x{size[1]}, its mask {SIDE}x{SIDE}; use PIE-Bench's own images")
    region = Shape(rle) if mask_utils.area(rle) > 0 else None
    blended = row["blended_word"].split()
    blend = (blended[0], blended[1]) if len(blended) == 2 else None
    edit = Edit(plain_prompt(row["editing_prompt"]), KINDS.get(str(row["editing_type_id"]), "random"), blend)
    mentions = _mentions(prompt, blended[0], region, words) if blended and region is not None else ()
    return Entry(id, path, *size, prompt, mentions, (edit,), region)


def _mentions(prompt: str, word: str, region: Shape, words: WordFinder) -> tuple[Mention, ...]:
    """The first place of the blended word, if it is a noun there."""
    try:
        spans = find_word(prompt, word)
    except InputError:
        return ()
    nouns = [noun.span for noun in words.nouns(prompt)]
    described = [(adjective.span, noun.span) for adjective, noun in words.pairs(prompt)]
    for span in spans:
        if any(overlap(noun, span) for noun in nouns):
            return (Mention(prompt[slice(*span)], span, (region,), adjectives_of(span, described)),)
    return ()
