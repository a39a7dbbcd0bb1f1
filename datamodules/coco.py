"""Any COCO-format folder as a sequence of edit samples.

The annotations are read and checked at once, through pycocotools; pictures are opened one by one,
when they are asked for.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from torch import Tensor

from locinv_pl.errors import InputError
from locinv_pl.priors import Box, box_mask, prior_on_grid
from locinv_pl.types import Adjective, Edit, EditSample, Noun, Span

Row = dict[str, Any]
PriorKind = Literal["segment", "box"]
BOX_TOLERANCE = 1.0  # pixels; annotators' boxes may stick out by rounding


class CocoSamples(Sequence[EditSample]):
    """The pictures of a COCO-format folder that have a caption naming an annotated object.

    The prompt is a picture's first caption that names a category annotated on it; every mention of
    such a category is a noun. Where a prompt mentions a category as often as the picture shows it,
    mention j belongs to instance j (by annotation id), else every mention to all its instances.

    Args:
        root: the folder.
        prior: "segment" for segmentation maps, "box" for filled boxes.
        size: pictures are cropped to their centre square and resized to size x size.
        instances, captions: COCO's annotation files, relative to ``root``.
        edits: a list of {"image_id", "kind", "prompt"}; may be missing.
        images: the folder of the pictures, relative to ``root``.

    Attributes:
        ids: the names of the pictures' files without suffix, in order.

    Raises:
        InputError: a file or annotation is missing or wrong. Pictures are opened, and their
            problems found, by indexing.
    """

    def __init__(
        self,
        root: str | Path,
        prior: PriorKind = "segment",
        size: int = 512,
        instances: str = "annotations/instances.json",
        captions: str = "annotations/captions.json",
        edits: str = "annotations/edits.json",
        images: str = "images",
    ) -> None:
        root = Path(root)
        if prior not in ("segment", "box"):
            raise InputError(f"prior={prior}: no such prior; choose segment or box")
        if size < 1:
            raise InputError(f"size={size}: not a picture's side; give a number of pixels")
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; give the folder of a COCO-format dataset")
        if not (root / images).is_dir():
            raise InputError(f"{root / images}: no such folder; say in images= where the pictures are")
        self.prior = prior
        self.size = size
        self._entries = _Reader(root / instances, root / captions, root / edits, prior).entries(root / images)
        self.ids: list[str] = [entry.id for entry in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> EditSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[EditSample]: ...
    def __getitem__(self, index: int | slice) -> EditSample | list[EditSample]:
        if isinstance(index, slice):
            return [self._load(entry) for entry in self._entries[index]]
        return self._load(self._entries[index])

    def _load(self, entry: _Entry) -> EditSample:
        crop = SquareCrop.centre(entry.width, entry.height)
        image = crop.picture(read_picture(entry.path, entry.width, entry.height), self.size)
        nouns = tuple(self._noun(mention, crop) for mention in entry.mentions)
        adjectives = tuple(
            Adjective(entry.prompt[slice(*mention.adjective)], mention.adjective, noun=k)
            for k, mention in enumerate(entry.mentions)
            if mention.adjective is not None
        )
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return EditSample(entry.id, pixels, entry.prompt, nouns, adjectives, entry.edits)

    def _noun(self, mention: _Mention, crop: SquareCrop) -> Noun:
        segments = [instance.rle for instance in mention.instances if instance.rle is not None]
        unsegmented = [instance for instance in mention.instances if instance.rle is None]
        planes = [self._box_plane(instance, crop) for instance in unsegmented]
        if segments:
            union = torch.from_numpy(mask_utils.decode(mask_utils.merge(segments)))
            planes.append(crop.plane(union, self.size))
        shape = torch.stack(planes).amax(0)
        prior = shape
        if self.prior == "box":
            prior = torch.stack([self._box_plane(i, crop) for i in mention.instances]).amax(0)
        return Noun(mention.word, mention.span, prior, mask=shape >= 0.5)

    def _box_plane(self, instance: _Instance, crop: SquareCrop) -> Tensor:
        assert instance.box is not None  # the reader asks for a box where no segmentation can do
        return box_mask(crop.box(instance.box, self.size), (self.size, self.size))


@dataclass(frozen=True)
class SquareCrop:
    """The centre square of a picture, and how pictures, planes and boxes follow it to a new size."""

    left: int
    top: int
    side: int

    @classmethod
    def centre(cls, width: int, height: int) -> SquareCrop:
        """The largest centred square of a picture."""
        side = min(width, height)
        return cls((width - side) // 2, (height - side) // 2, side)

    def picture(self, picture: Image.Image, size: int) -> Image.Image:
        """Crop and resize, bicubic with antialiasing; untouched where it has that size already."""
        square = picture.crop((self.left, self.top, self.left + self.side, self.top + self.side))
        return square.resize((size, size), Image.Resampling.BICUBIC)

    def plane(self, plane: Tensor, size: int) -> Tensor:
        """The same for a mask, shape (H, W): area averages, shape (size, size)."""
        rows, columns = slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)
        return prior_on_grid(plane[rows, columns].double(), (size, size)).float()

    def box(self, box: Box, size: int) -> Box:
        """The same for a box (x, y, w, h)."""
        x, y, w, h = box
        scale = size / self.side
        return (x - self.left) * scale, (y - self.top) * scale, w * scale, h * scale

    def shows_box(self, box: Box) -> bool:
        """Whether any of the box is inside."""
        x, y, w, h = self.box(box, self.side)
        return x < self.side and y < self.side and x + w > 0 and y + h > 0

    def shows_mask(self, rle: Row) -> bool:
        """Whether any of the mask, a compressed RLE, is inside."""
        square = np.array([[self.left, self.top, self.side, self.side]], dtype=float)
        mine = mask_utils.frPyObjects(square, *rle["size"])
        return bool(mask_utils.area(mask_utils.merge([rle, *mine], intersect=True)) > 0)


def read_picture(path: Path, width: int, height: int) -> Image.Image:
    """Open a picture, upright and RGB, that the annotations say is width x height.

    Raises:
        InputError: missing, unreadable, truncated, or of another size.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{path}: no such picture; put it there or remove it from the JSON") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if path.is_file() and path.stat().st_size == 0:
            problem = "the file is empty"
        elif isinstance(error, UnidentifiedImageError):
            problem = "is no picture, or of a format that PIL does not know"
        else:
            problem = f"cannot be read as a picture ({_one_line(str(error))})"
        raise InputError(f"{path}: {problem}; get it again or remove it from the JSON") from None
    if picture.size != (width, height):
        raise InputError(
            f"{path}: is {picture.width}x{picture.height} but the JSON says {width}x{height}; "
            f"use the picture that was annotated or correct the JSON"
        )
    return picture


@dataclass(frozen=True)
class _Instance:
    """An annotated object: its mask as compressed RLE, its box, the words that describe it."""

    name: str
    rle: Row | None
    box: Box | None
    attributes: frozenset[str]


@dataclass(frozen=True)
class _Mention:
    """A noun of a prompt, the instances that it means and the adjective before it."""

    word: str
    span: Span
    instances: tuple[_Instance, ...]
    adjective: Span | None


@dataclass(frozen=True)
class _Entry:
    """All that is known of a sample before its picture is opened."""

    id: str
    path: Path
    width: int
    height: int
    prompt: str
    mentions: tuple[_Mention, ...]
    edits: tuple[Edit, ...]


class _Reader:
    """Reads and checks the annotation files."""

    def __init__(self, instances: Path, captions: Path, edits: Path, prior: PriorKind) -> None:
        self.path = instances
        self.prior = prior
        tables = read_json(instances)
        self.pictures = rows(instances, tables, "images", id=(int, str), file_name=str, width=int, height=int)
        categories = rows(instances, tables, "categories", id=int, name=str)
        rows(instances, tables, "annotations", id=int, image_id=(int, str), category_id=int)
        self.names = {row["id"]: _one_line(row["name"]).lower() for row in categories}
        self.find_names = _word_finder(self.names.values())
        self.coco = COCO()
        self.coco.dataset = tables
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco.createIndex()

        self.captions: dict[int | str, list[str]] = defaultdict(list)
        found = rows(captions, read_json(captions), "annotations", id=int, image_id=(int, str), caption=str)
        for row in sorted(found, key=lambda row: row["id"]):
            self.captions[row["image_id"]].append(_one_line(row["caption"]))

        self.edits: dict[int | str, list[Edit]] = defaultdict(list)
        listed = {"edits": read_json(edits)} if edits.exists() else {"edits": []}
        for row in rows(edits, listed, "edits", image_id=(int, str), kind=str, prompt=str):
            if row["image_id"] not in self.coco.imgs:
                raise InputError(f"{edits}: image {row['image_id']} is not in {instances.name}; correct its image_id")
            self.edits[row["image_id"]].append(Edit(row["prompt"], row["kind"]))

    def entries(self, folder: Path) -> list[_Entry]:
        """The usable pictures, in the file's order."""
        entries = [entry for row in self.pictures if (entry := self._entry(row, folder)) is not None]
        if not entries:
            raise InputError(f"{self.path}: no image has a caption that names an object annotated on it; add some")
        paths: dict[str, Path] = {}
        for entry in entries:
            if entry.id in paths:
                raise InputError(f"{entry.path}: has the same name as {paths[entry.id]}; rename one of the two")
            paths[entry.id] = entry.path
        return entries

    def _entry(self, row: Row, folder: Path) -> _Entry | None:
        width, height = row["width"], row["height"]
        if width < 1 or height < 1:
            raise InputError(f"{self.path}: image {row['file_name']} is {width}x{height}; correct its size")
        captions = self.captions[row["id"]]
        named = {match[0].lower() for caption in captions for match in self.find_names(caption)}
        found: dict[str, list[_Instance]] = defaultdict(list)
        for annotation in sorted(self.coco.imgToAnns[row["id"]], key=lambda a: a["id"]):
            instance = self._instance(annotation, row, named)
            if instance is not None:
                found[instance.name].append(instance)
        for prompt in captions:
            mentions = self._mentions(prompt, found)
            if mentions:
                edits = tuple(self.edits[row["id"]])
                path = folder / row["file_name"]
                return _Entry(path.stem, path, width, height, prompt, mentions, edits)
        return None

    def _mentions(self, prompt: str, found: dict[str, list[_Instance]]) -> tuple[_Mention, ...]:
        matches = [match for match in self.find_names(prompt) if match[0].lower() in found]
        words = [match[0].lower() for match in matches]
        mentions = []
        for k, (match, word) in enumerate(zip(matches, words, strict=True)):
            instances = found[word]
            if words.count(word) == len(instances):
                instances = [instances[words[:k].count(word)]]
            adjective = _adjective(prompt, match.start(), instances)
            mentions.append(_Mention(match[0], match.span(), tuple(instances), adjective))
        return tuple(mentions)

    def _instance(self, annotation: Row, picture: Row, named: set[str]) -> _Instance | None:
        """The checked instance, if a caption names it and the picture's centre square shows it."""
        where = f"{self.path}: annotation {annotation['id']} of image {picture['file_name']}"
        name = self.names.get(annotation["category_id"])
        if name is None:
            raise InputError(f"{where}: its category_id {annotation['category_id']} is not in the file; correct it")
        if name not in named:
            return None
        width, height = picture["width"], picture["height"]
        box = _box(annotation, width, height, where)
        rle = self._rle(annotation, width, height, where)
        if rle is None and self.prior == "segment":
            raise InputError(f"{where}: has no segmentation; use prior=box")
        if box is None and self.prior == "box":
            raise InputError(f"{where}: has no bbox; use prior=segment")
        crop = SquareCrop.centre(width, height)
        seen = rle is None or crop.shows_mask(rle)
        if box is not None and self.prior == "box":
            seen = seen and crop.shows_box(box)
        return _Instance(name, rle, box, _attributes(annotation)) if seen else None

    def _rle(self, annotation: Row, width: int, height: int, where: str) -> Row | None:
        """The mask as compressed RLE, whichever way it is written; None where there is none."""
        segmentation = annotation.get("segmentation")
        if not segmentation:
            return None
        if isinstance(segmentation, dict) and segmentation.get("size") != [height, width]:
            raise InputError(
                f"{where}: its segmentation has size {segmentation.get('size')} but the picture "
                f"[{height}, {width}] (height, width); make the mask again at the picture's size"
            )
        try:
            _check_segmentation(segmentation, width, height)
            rle = self.coco.annToRLE(annotation)
            area = mask_utils.area(rle)
        except Exception as error:  # pycocotools raises bare Exceptions, among others
            problem = _one_line(str(error)) or type(error).__name__
            raise InputError(
                f"{where}: its segmentation is malformed ({problem}); mend it or delete the annotation"
            ) from None
        if area == 0:
            raise InputError(f"{where}: its mask is empty; draw it again or delete the annotation")
        return rle


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        InputError: it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a COCO-format dataset needs it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); mend its permissions") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({_one_line(str(error))}); write it again") from None


def rows(path: Path, tables: Any, table: str, **columns: type | tuple[type, ...]) -> list[Row]:
    """A table of a JSON file, every row of which has these columns of these types.

    Raises:
        InputError: it does not.
    """
    found = tables.get(table) if isinstance(tables, dict) else None
    if not isinstance(found, list):
        raise InputError(f"{path}: has no list of {table}; see COCO's data format")
    for number, row in enumerate(found):
        for column, kind in columns.items():
            if not isinstance(row, dict) or not isinstance(row.get(column), kind):
                name = row.get("id", number) if isinstance(row, dict) else number
                raise InputError(f"{path}: entry {name} of {table} has no valid {column!r}; add it")
    return found


def _box(annotation: Row, width: int, height: int, where: str) -> Box | None:
    box = annotation.get("bbox")
    if not box:
        return None
    mend = "correct its bbox (x, y, width, height) or delete the annotation"
    numeric = isinstance(box, list) and all(isinstance(n, (int, float)) and math.isfinite(n) for n in box)
    if not numeric or len(box) != 4:
        raise InputError(f"{where}: its box {box} is not four numbers; {mend}")
    x, y, w, h = box
    if w <= 0 or h <= 0:
        raise InputError(f"{where}: its box {box} has no area; {mend}")
    inside = x >= -BOX_TOLERANCE and y >= -BOX_TOLERANCE
    inside &= x + w <= width + BOX_TOLERANCE and y + h <= height + BOX_TOLERANCE
    if not inside or x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise InputError(f"{where}: its box {box} lies outside the picture of {width}x{height}; {mend}")
    return x, y, w, h


def _check_segmentation(segmentation: Any, width: int, height: int) -> None:
    """Raise ValueError on what pycocotools would crash on, or read as uninitialised memory."""
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        lengths = run_lengths(counts) if isinstance(counts, str) else counts
        if min(lengths, default=0) < 0 or sum(lengths) != width * height:
            raise ValueError("its runs do not add up to the picture")
        return
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon needs three points or more")
        if not all(-size <= n <= 2 * size for axis, size in enumerate((width, height)) for n in polygon[axis::2]):
            raise ValueError("a point is far outside the picture")


def run_lengths(counts: str) -> list[int]:
    """The runs of COCO's compressed RLE, which pycocotools decodes without counting its pixels.

    A run is a number in 5-bit groups, lowest first, one a character from "0" on: bit 32 says that
    another follows, bit 16 of the last is the sign. From the fourth on runs are written as the
    difference from the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no character of an RLE")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("it ends in the middle of a run")
    return runs


def _attributes(annotation: Row) -> frozenset[str]:
    attributes = annotation.get("attributes")
    values = attributes.values() if isinstance(attributes, dict) else ()
    return frozenset(value for value in values if isinstance(value, str) and value.strip())


def _adjective(prompt: str, start: int, instances: Iterable[_Instance]) -> Span | None:
    """Where the words directly before a noun are an attribute of one of its instances."""
    attributes = {value for instance in instances for value in instance.attributes}
    matches = [match for match in _word_finder(attributes)(prompt[:start]) if match.end() == start - 1]
    return matches[0].span() if matches else None


def _word_finder(names: Iterable[str]) -> Callable[[str], list[re.Match[str]]]:
    """A function that finds these words: whole, any case, "hot dog" before "dog"."""
    longest_first = sorted({_one_line(name) for name in names} - {""}, key=len, reverse=True)
    if not longest_first:
        return lambda text: []
    pattern = "|".join(re.escape(name) for name in longest_first)
    whole_words = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE)
    return lambda text: list(whole_words.finditer(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
