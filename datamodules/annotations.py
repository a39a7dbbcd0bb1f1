"""Reading and checking COCO's annotation files, through pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from datamodules.pictures import SquareCrop
from locinv_pl.errors import InputError, one_line
from locinv_pl.priors import Box
from locinv_pl.types import Edit, Span

Row = dict[str, Any]
PriorKind = Literal["segment", "box"]
IRREGULAR_PLURALS = {"person": "people", "mouse": "mice", "knife": "knives"}
BOX_TOLERANCE = 1.0  # pixels; annotators' boxes may stick out by rounding


@dataclass(frozen=True)
class Instance:
    """An annotated object: its mask as compressed RLE, its box, the words that describe it."""

    name: str
    rle: Row | None
    box: Box | None
    attributes: frozenset[str]


@dataclass(frozen=True)
class Mention:
    """A noun of a prompt, the instances that it means and the adjective before it."""

    word: str
    span: Span
    instances: tuple[Instance, ...]
    adjective: Span | None


@dataclass(frozen=True)
class Entry:
    """All that is known of a sample before its picture is opened."""

    id: str
    path: Path
    width: int
    height: int
    prompt: str
    mentions: tuple[Mention, ...]
    edits: tuple[Edit, ...]


class AnnotationReader:
    """Reads and checks the annotation files."""

    def __init__(self, instances: Path, captions: Path, edits: Path, prior: PriorKind) -> None:
        self.path = instances
        self.prior = prior
        tables = read_json(instances)
        self.pictures = rows(instances, tables, "images", id=(int, str), file_name=str, width=int, height=int)
        categories = rows(instances, tables, "categories", id=int, name=str)
        rows(instances, tables, "annotations", id=int, image_id=(int, str), category_id=int)
        self.names = {row["id"]: one_line(row["name"]).lower() for row in categories}
        singulars = {name: name for name in self.names.values()}
        self.forms = {**{plural(name): name for name in singulars}, **singulars}
        self.find_names = _word_finder(self.forms)
        self.coco = COCO()
        self.coco.dataset = tables
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco.createIndex()

        self.captions: dict[int | str, list[str]] = defaultdict(list)
        found = rows(captions, read_json(captions), "annotations", id=int, image_id=(int, str), caption=str)
        for row in sorted(found, key=lambda row: row["id"]):
            self.captions[row["image_id"]].append(one_line(row["caption"]))

        self.edits: dict[int | str, list[Edit]] = defaultdict(list)
        listed = {"edits": read_json(edits)} if edits.exists() else {"edits": []}
        for row in rows(edits, listed, "edits", image_id=(int, str), kind=str, prompt=str):
            if row["image_id"] not in self.coco.imgs:
                raise InputError(f"{edits}: image {row['image_id']} is not in {instances.name}; correct its image_id")
            self.edits[row["image_id"]].append(Edit(row["prompt"], row["kind"]))

    def entries(self, folder: Path) -> list[Entry]:
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

    def _entry(self, row: Row, folder: Path) -> Entry | None:
        width, height = row["width"], row["height"]
        if width < 1 or height < 1:
            raise InputError(f"{self.path}: image {row['file_name']} is {width}x{height}; correct its size")
        captions = self.captions[row["id"]]
        named = {self._name(match) for caption in captions for match in self.find_names(caption)}
        found: dict[str, list[Instance]] = defaultdict(list)
        for annotation in sorted(self.coco.imgToAnns[row["id"]], key=lambda a: a["id"]):
            instance = self._instance(annotation, row, named)
            if instance is not None:
                found[instance.name].append(instance)
        for prompt in captions:
            mentions = self._mentions(prompt, found)
            if mentions:
                edits = tuple(self.edits[row["id"]])
                path = folder / row["file_name"]
                return Entry(path.stem, path, width, height, prompt, mentions, edits)
        return None

    def _name(self, match: re.Match[str]) -> str:
        """The category that a word of a caption names, in the singular or plural."""
        return self.forms.get(match[0].lower(), "")

    def _mentions(self, prompt: str, found: dict[str, list[Instance]]) -> tuple[Mention, ...]:
        matches = [match for match in self.find_names(prompt) if self._name(match) in found]
        names = [self._name(match) for match in matches]
        mentions = []
        for k, (match, name) in enumerate(zip(matches, names, strict=True)):
            instances = found[name]
            if names.count(name) == len(instances):
                instances = [instances[names[:k].count(name)]]
            adjectives = _adjectives(prompt, match.start(), instances)
            said = {prompt[slice(*span)].lower() for span in adjectives}
            meant = [i for i in instances if said <= {one_line(word).lower() for word in i.attributes}] or instances
            mentions.append(Mention(match[0], match.span(), tuple(meant), adjectives[0] if adjectives else None))
        return tuple(mentions)

    def _instance(self, annotation: Row, picture: Row, named: set[str]) -> Instance | None:
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
        return Instance(name, rle, box, _attributes(annotation)) if seen else None

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
            problem = one_line(str(error)) or type(error).__name__
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
        raise InputError(f"{path}: not valid JSON ({one_line(str(error))}); write it again") from None


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


def plural(name: str) -> str:
    """The plural of a category's name: "bus" to "buses", "dining table" to "dining tables"."""
    *first, noun = name.split(" ")
    ending = "es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s"
    return " ".join([*first, IRREGULAR_PLURALS.get(noun, noun + ending)])


def _adjectives(prompt: str, start: int, instances: Iterable[Instance]) -> list[Span]:
    """Where the words directly before a noun are attributes of its instances, the last one first."""
    attributes = {value for instance in instances for value in instance.attributes}
    spans: list[Span] = []
    for match in reversed(_word_finder(attributes)(prompt[:start])):
        if match.end() == start - 1:
            spans.append(match.span())
            start = match.start()
    return spans


def _word_finder(names: Iterable[str]) -> Callable[[str], list[re.Match[str]]]:
    """A function that finds these words: whole, any case, "hot dog" before "dog"."""
    longest_first = sorted({one_line(name) for name in names} - {""}, key=len, reverse=True)
    if not longest_first:
        return lambda text: []
    pattern = "|".join(re.escape(name) for name in longest_first)
    whole_words = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE)
    return lambda text: list(whole_words.finditer(text))
