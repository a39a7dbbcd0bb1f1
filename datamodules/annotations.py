"""Reading and checking COCO's annotation files, through pycocotools."""

from __future__ import annotations

import contextlib
import io
import os
import reprlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from locinv_pl.datamodules.entries import Rle, Shape
from locinv_pl.errors import InputError, one_line
from locinv_pl.io.reading import expanded, read_dataset_json, validated
from locinv_pl.priors import Box, check_box, is_number
from locinv_pl.types import Edit
from locinv_pl.words import tidy

Row = dict[str, Any]
ImageId = int | str
WIDEST = 100_000  # pixels of a side: pycocotools takes memory by it


class ImageRow(TypedDict):
    """An image in COCO's table."""

    file_name: str
    id: int | str
    width: int
    height: int


class CategoryRow(TypedDict):
    """A category in COCO's table."""

    id: int
    name: str


class AnnotationRow(TypedDict):
    """An object; its box and its segmentation are read when they are needed."""

    id: int
    image_id: int | str
    category_id: int


class CaptionRow(TypedDict):
    """A caption in COCO's table."""

    id: int
    image_id: int | str
    caption: str


class EditRow(TypedDict):
    """An edit in the table ``edits``, which this project adds to COCO's."""

    image_id: int | str
    kind: str
    prompt: str


@dataclass(frozen=True)
class CocoFiles:
    """The files of a COCO-format folder; ``edits`` may be missing."""

    root: Path
    instances: Path
    captions: Path
    edits: Path
    images: Path

    @classmethod
    def find(
        cls,
        root: Path,
        instances: str | None = None,
        captions: str | None = None,
        edits: str | None = None,
        images: str | None = None,
    ) -> CocoFiles:
        """The named files, relative to ``root``; what isn't named is looked for where COCO has it.

        Instances are ``instances*.json`` in ``annotations/`` or the folder itself, the validation set's where there
        are several; captions and edits stand beside them under the same suffix, and the images in the folder of
        that suffix (``val2017/``), or in ``images/``.

        Raises:
            InputError: a folder isn't there, or it is not clear which file is meant.
        """
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; give the folder of a COCO-format data set")
        found = root / expanded(instances) if instances is not None else _instances(root)
        split = found.stem.removeprefix("instances")
        beside = {name: found.with_name(f"{name}{split}.json") for name in ("captions", "edits")}
        name = split.strip("_")
        folders = [root / name, root / "images" / name] if name else []
        folders.append(root / "images")
        folder = next((f for f in folders if f.is_dir()), folders[-1]) if images is None else root / expanded(images)
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; say in data.images= where the images are")
        return cls(
            root,
            found,
            root / expanded(captions) if captions is not None else beside["captions"],
            root / expanded(edits) if edits is not None else beside["edits"],
            folder,
        )

    def image(self, file_name: str) -> Path:
        """The path of an image, whose name is relative to the images' folder or to the root."""
        path, other = self.images / file_name, self.root / file_name
        return other if os.path.exists(other) and not os.path.exists(path) else path  # any name will do


@dataclass(frozen=True)
class Instance:
    """An annotated object: its category's name, its shape, the words that describe it.

    ``is_crowd`` says that its mask is a region of many, as COCO writes them: iscrowd, and run lengths.
    """

    name: str
    shape: Shape
    attributes: frozenset[str]
    is_crowd: bool


class AnnotationReader:
    """Reads the annotation files; what they say of an image is checked when it is asked for.

    Raises:
        InputError: a file is missing or isn't JSON, or a table lacks one of COCO's columns.
    """

    def __init__(self, files: CocoFiles) -> None:
        self.path = files.instances
        tables = read_dataset_json(files.instances)
        self.images = rows(files.instances, tables, "images", ImageRow)
        self.categories = rows(files.instances, tables, "categories", CategoryRow)
        rows(files.instances, tables, "annotations", AnnotationRow)
        require_own(files.instances, "images", self.images, "file_name")
        require_own(files.instances, "categories", self.categories, "name")
        self.notes: dict[ImageId, list[str]] = defaultdict(list)
        self.names: dict[int, str] = {row["id"]: row["name"] for row in self.categories}
        self.coco = COCO()
        self.coco.dataset = tables
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco.createIndex()
        self.captions = self._captions(files.captions)
        self.edits = self._edits(files.edits)

    def instances(self, image: Row) -> list[tuple[str, Row]]:
        """The image's annotations with their categories' names, by id, unchecked.

        Raises:
            InputError: a category is not in the file.
        """
        annotations = sorted(self.coco.imgToAnns[image["id"]], key=lambda a: a["id"])
        for annotation in annotations:
            if annotation["category_id"] not in self.names:
                raise InputError(
                    f"{self._where(annotation, image)}: its category_id {annotation['category_id']} "
                    f"is not in the file; correct it"
                )
        return [(self.names[annotation["category_id"]], annotation) for annotation in annotations]

    def instance(self, name: str, annotation: Row, image: Row) -> Instance:
        """One annotation, checked.

        Raises:
            InputError: the annotation's box or segmentation can't be used, or it has neither.
        """
        where = self._where(annotation, image)
        width, height = image["width"], image["height"]
        box, rle = _box(annotation, width, height, where), self._rle(annotation, width, height, where)
        if box is None and rle is None:
            raise InputError(f"{where}: has neither segmentation nor bbox; add one or delete the annotation")
        is_crowd = bool(annotation.get("iscrowd")) and isinstance(annotation.get("segmentation"), dict)
        return Instance(name, Shape(rle, box, annotation["id"]), _attributes(annotation), is_crowd)

    @cached_property
    def supercategories(self) -> dict[str, list[str]]:
        """The categories' names by their supercategory."""
        found: dict[str, list[str]] = defaultdict(list)
        for row in self.categories:
            found[str(row.get("supercategory", ""))].append(row["name"])
        return found

    def _where(self, annotation: Row, image: Row) -> str:
        return f"{self.path}: annotation {annotation['id']} of image {image['file_name']}"

    def _captions(self, path: Path) -> dict[ImageId, list[str]]:
        captions: dict[ImageId, list[str]] = defaultdict(list)
        found = rows(path, read_dataset_json(path), "annotations", CaptionRow)
        for row in sorted(found, key=lambda row: row["id"]):
            captions[row["image_id"]].append(tidy(row["caption"]))
        return captions

    def _edits(self, path: Path) -> dict[ImageId, list[Edit]]:
        edits: dict[ImageId, list[Edit]] = defaultdict(list)
        listed = {"edits": read_dataset_json(path)} if path.exists() else {"edits": []}
        for row in rows(path, listed, "edits", EditRow):
            prompt = tidy(row["prompt"])
            if not prompt:
                raise InputError(f"{path}: an edit of image {row['image_id']} has an empty prompt; write one")
            if row["image_id"] not in self.coco.imgs:
                raise InputError(f"{path}: image {row['image_id']} is not in {self.path.name}; correct its image_id")
            edits[row["image_id"]].append(Edit(prompt, row["kind"]))
        return edits

    def _rle(self, annotation: Row, width: int, height: int, where: str) -> Rle | None:
        """The mask as compressed RLE, whichever way it is written; None where there is none."""
        segmentation = annotation.get("segmentation")
        if not segmentation:
            return None
        return compress(segmentation, width, height, where, self.notes[annotation["image_id"]].append)


def compress(
    segmentation: Any, width: int, height: int, where: str, note: Callable[[str], object] = lambda text: None
) -> Rle:
    """Convert a segmentation, polygons or run lengths, to compressed run lengths.

    Args:
        segmentation: as COCO writes it: a list of polygons, or {"size", "counts"} with a list or a string.
        width: the image's width in pixels.
        height: the image's height in pixels.
        where: the start of the error, which names the file and the annotation.
        note: called with a line about malformed polygons, which are left out where others are well formed; ignores
            the line by default.

    Returns:
        COCO's compressed run lengths, {"size": [height, width], "counts": ...}.

    Raises:
        InputError: every polygon or the run lengths are malformed, of another size than the image, or empty.
    """
    if isinstance(segmentation, dict) and segmentation.get("size") != [height, width]:
        raise InputError(
            f"{where}: its segmentation has size {reprlib.repr(segmentation.get('size'))} but the image "
            f"[{height}, {width}] (height, width); make the mask again at the image's size"
        )
    try:
        rle = segmentation
        if isinstance(segmentation, dict):
            _check_runs(segmentation, width, height)
        else:
            segmentation, problem = _polygons(segmentation, width, height)
            if problem:
                note(f"{where}: {problem}; that polygon is left out")
        if not isinstance(rle, dict):
            rle = mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
        elif not isinstance(rle["counts"], (str, bytes)):
            rle = mask_utils.frPyObjects(segmentation, height, width)
        area = mask_utils.area(rle)
    except Exception as error:  # pycocotools raises bare Exceptions, among others
        problem = one_line(str(error)) or type(error).__name__
        raise InputError(
            f"{where}: its segmentation is malformed ({problem}); mend it or delete the annotation"
        ) from None
    if area == 0:
        raise InputError(f"{where}: its mask is empty; draw it again or delete the annotation")
    return rle


def rows(path: Path, tables: Any, table: str, schema: type) -> list[Row]:
    """A table of a JSON file, every row of which has the columns of a TypedDict, and maybe others.

    Args:
        path: the file, for the error.
        tables: the file's content.
        table: the table's key in it.
        schema: a TypedDict of the columns that each row must have.

    Raises:
        InputError: there is no such table, or a row lacks a column or has a value of another type in it.
    """
    found = tables.get(table) if isinstance(tables, dict) else None
    if not isinstance(found, list):
        raise InputError(f"{path}: has no list of {table}; see the format's description")

    def problem(place: tuple[int | str, ...], _: Any) -> str:
        row = found[number] if place and isinstance(number := place[0], int) else None
        name = reprlib.repr(row["id"]).strip("'") if isinstance(row, dict) and "id" in row else number
        column = place[1] if len(place) > 1 else next(iter(schema.__annotations__))
        return f"{path}: entry {name} of {table} has no valid {column!r}; add it"

    validated(TypeAdapter(list[schema]), found, problem)  # type: ignore[valid-type]
    return found


def require_own(path: Path, table: str, rows: Sequence[Row], name: str) -> None:
    """Refuse a table in which two rows have the same id.

    Args:
        path: the file, for the error.
        table: the table's name, for the error.
        rows: the table's rows.
        name: the column by which the error names the two rows.

    Raises:
        InputError: two rows have the same id.
    """
    names: dict[ImageId, str] = {}
    for row in rows:
        if row["id"] in names:
            raise InputError(
                f"{path}: {names[row['id']]} and {row[name]} of {table} have the same id {row['id']}; "
                f"give each its own, here and where it is named"
            )
        names[row["id"]] = row[name]


def _box(annotation: Row, width: int, height: int, where: str) -> Box | None:
    box = annotation.get("bbox")
    return check_box(box, width, height, where) if box else None


def _instances(root: Path) -> Path:
    found = sorted({*(root / "annotations").glob("instances*.json"), *root.glob("instances*.json")})
    validation = [path for path in found if "val" in path.stem]
    for candidates in (found, validation):
        if len(candidates) == 1:
            return candidates[0]
    if found:
        names = ", ".join(str(path.relative_to(root)) for path in found)
        raise InputError(f"{root}: has several instance files ({names}); name one in data.instances=")
    return root / "annotations" / "instances.json"


def _check_runs(rle: dict[str, Any], width: int, height: int) -> None:
    """Raise ValueError on what pycocotools would crash on, or read as uninitialised memory."""
    counts = rle["counts"]
    counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
    lengths = run_lengths(counts) if isinstance(counts, str) else counts
    if not all(type(length) is int and length >= 0 for length in lengths) or sum(lengths) != width * height:
        raise ValueError("its runs do not add up to the image")


def _polygons(found: Any, width: int, height: int) -> tuple[list[Any], str]:
    """The well-formed polygons of a list, and what is wrong with the others.

    Raises:
        ValueError: the list has no well-formed polygon.
    """
    if not isinstance(found, list) or any(map(is_number, found)):
        raise ValueError("it is no list of polygons; write [[x, y, x, y, …], …]")
    good, problem = [], "it has no polygon"
    for polygon in found:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            problem = "a polygon needs three points or more"
        elif not all(map(is_number, polygon)):
            problem = "a point is no pair of numbers"
        elif not all(-size <= n <= 2 * size for axis, size in enumerate((width, height)) for n in polygon[axis::2]):
            problem = "a point is far outside the image"
        else:
            good.append(polygon)
    if not good:
        raise ValueError(problem)
    return good, problem if len(good) < len(found) else ""


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
        if shift > 30:
            raise ValueError("a run is longer than any image")
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
    return frozenset(one_line(v).lower() for v in values if isinstance(v, str) and v.strip())
