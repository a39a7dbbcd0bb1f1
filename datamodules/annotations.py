"""Reading and checking COCO's annotation files, through pycocotools."""

from __future__ import annotations

import contextlib
import io
import reprlib
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from datamodules.entries import Rle, Shape
from locinv_pl.errors import InputError, one_line
from locinv_pl.priors import Box, check_box
from locinv_pl.reading import read_json
from locinv_pl.types import Edit

Row = dict[str, Any]
ImageId = int | str


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
        are several; captions and edits stand beside them under the same suffix, and the pictures in the folder of
        that suffix (``val2017/``), or in ``images/``.

        Raises:
            InputError: a folder isn't there, or it is not clear which file is meant.
        """
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; give the folder of a COCO-format data set")
        found = root / instances if instances is not None else _instances(root)
        split = found.stem.removeprefix("instances")
        beside = {name: found.with_name(f"{name}{split}.json") for name in ("captions", "edits")}
        name = split.strip("_")
        folders = [root / name, root / "images" / name] if name else []
        folders.append(root / "images")
        pictures = root / images if images is not None else next((f for f in folders if f.is_dir()), folders[-1])
        if not pictures.is_dir():
            raise InputError(f"{pictures}: no such folder; say in data.images= where the pictures are")
        return cls(
            root,
            found,
            root / captions if captions is not None else beside["captions"],
            root / edits if edits is not None else beside["edits"],
            pictures,
        )

    def picture(self, file_name: str) -> Path:
        """Where a picture is; its name may be relative to the root, too."""
        path = self.images / file_name
        return path if path.exists() or not (self.root / file_name).exists() else self.root / file_name


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
    """Reads the annotation files; what they say of a picture is checked when it is asked for.

    Raises:
        InputError: a file is missing, is no JSON, or a table has not COCO's columns.
    """

    def __init__(self, files: CocoFiles) -> None:
        self.path = files.instances
        tables = read_json(files.instances)
        self.pictures = rows(files.instances, tables, "images", id=(int, str), file_name=str, width=int, height=int)
        self.categories = rows(files.instances, tables, "categories", id=int, name=str)
        rows(files.instances, tables, "annotations", id=int, image_id=(int, str), category_id=int)
        self.names: dict[int, str] = {row["id"]: row["name"] for row in self.categories}
        self.coco = COCO()
        self.coco.dataset = tables
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco.createIndex()
        self.captions = self._captions(files.captions)
        self.edits = self._edits(files.edits)

    def instances(self, picture: Row) -> list[tuple[str, Row]]:
        """The picture's annotations with their categories' names, by id, unchecked.

        Raises:
            InputError: a category is not in the file.
        """
        annotations = sorted(self.coco.imgToAnns[picture["id"]], key=lambda a: a["id"])
        for annotation in annotations:
            if annotation["category_id"] not in self.names:
                raise InputError(
                    f"{self._where(annotation, picture)}: its category_id {annotation['category_id']} "
                    f"is not in the file; correct it"
                )
        return [(self.names[annotation["category_id"]], annotation) for annotation in annotations]

    def instance(self, name: str, annotation: Row, picture: Row) -> Instance:
        """One annotation, checked.

        Raises:
            InputError: its box or segmentation can't be used, or it has neither.
        """
        where = self._where(annotation, picture)
        width, height = picture["width"], picture["height"]
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

    def _where(self, annotation: Row, picture: Row) -> str:
        return f"{self.path}: annotation {annotation['id']} of image {picture['file_name']}"

    def _captions(self, path: Path) -> dict[ImageId, list[str]]:
        captions: dict[ImageId, list[str]] = defaultdict(list)
        found = rows(path, read_json(path), "annotations", id=int, image_id=(int, str), caption=str)
        for row in sorted(found, key=lambda row: row["id"]):
            captions[row["image_id"]].append(one_line(row["caption"]))
        return captions

    def _edits(self, path: Path) -> dict[ImageId, list[Edit]]:
        edits: dict[ImageId, list[Edit]] = defaultdict(list)
        listed = {"edits": read_json(path)} if path.exists() else {"edits": []}
        for row in rows(path, listed, "edits", image_id=(int, str), kind=str, prompt=str):
            if row["image_id"] not in self.coco.imgs:
                raise InputError(f"{path}: image {row['image_id']} is not in {self.path.name}; correct its image_id")
            edits[row["image_id"]].append(Edit(row["prompt"], row["kind"]))
        return edits

    def _rle(self, annotation: Row, width: int, height: int, where: str) -> Rle | None:
        """The mask as compressed RLE, whichever way it is written; None where there is none."""
        segmentation = annotation.get("segmentation")
        return None if not segmentation else compress(segmentation, width, height, where)


def compress(segmentation: Any, width: int, height: int, where: str) -> Rle:
    """Polygons, or run lengths, as compressed run lengths.

    Args:
        segmentation: as COCO writes it: a list of polygons, or {"size", "counts"} with a list or a string.
        width, height: of the picture.
        where: begins the error.

    Raises:
        InputError: it is malformed, of another size, or empty.
    """
    if isinstance(segmentation, dict) and segmentation.get("size") != [height, width]:
        raise InputError(
            f"{where}: its segmentation has size {reprlib.repr(segmentation.get('size'))} but the picture "
            f"[{height}, {width}] (height, width); make the mask again at the picture's size"
        )
    try:
        _check_segmentation(segmentation, width, height)
        rle = segmentation
        if not isinstance(segmentation, dict):
            rle = mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
        elif not isinstance(segmentation["counts"], (str, bytes)):
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


def rows(path: Path, tables: Any, table: str, **columns: type | tuple[type, ...]) -> list[Row]:
    """A table of a JSON file, every row of which has these columns of these types.

    Raises:
        InputError: it does not.
    """
    found = tables.get(table) if isinstance(tables, dict) else None
    if not isinstance(found, list):
        raise InputError(f"{path}: has no list of {table}; see the format's description")
    for number, row in enumerate(found):
        for column, kind in columns.items():
            if not isinstance(row, dict) or not isinstance(row.get(column), kind):
                name = row.get("id", number) if isinstance(row, dict) else number
                raise InputError(f"{path}: entry {name} of {table} has no valid {column!r}; add it")
    return found


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


def _check_segmentation(segmentation: Any, width: int, height: int) -> None:
    """Raise ValueError on what pycocotools would crash on, or read as uninitialised memory."""
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
        lengths = run_lengths(counts) if isinstance(counts, str) else counts
        if not all(isinstance(length, int) and length >= 0 for length in lengths) or sum(lengths) != width * height:
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
        if shift > 30:
            raise ValueError("a run is longer than any picture")
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
