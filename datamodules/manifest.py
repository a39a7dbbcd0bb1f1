"""A selection frozen in one file: entries as JSON, masks and all, so that nothing is searched again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from locinv_pl.datamodules.annotations import WIDEST, compress, require_own, rows
from locinv_pl.datamodules.entries import Entry, Mention, Problems, Shape, check_id
from locinv_pl.errors import InputError
from locinv_pl.io.files import write_json
from locinv_pl.io.reading import read_dataset_json, validated
from locinv_pl.priors import check_box
from locinv_pl.types import Edit

FORMAT = 1


class NounRow(TypedDict):
    """A noun of a prompt, and the annotations that it means."""

    word: str
    span: tuple[int, int]
    adjectives: list[tuple[int, int]]
    annotation_ids: list[Any]
    boxes: list[Any]
    segmentations: list[Any]


class PromptRow(TypedDict):
    """An edit."""

    kind: str
    prompt: str


class ManifestRow(TypedDict):
    """An image of the selection."""

    id: str
    image_id: int | str | None
    file_name: str
    width: int
    height: int
    prompt: str
    nouns: list[Any]
    edits: list[Any]


NOUNS, EDITS = TypeAdapter(list[NounRow]), TypeAdapter(list[PromptRow])


def write_manifest(path: Path, root: Path, entries: Sequence[Entry], rules: Mapping[str, Any]) -> None:
    """Write entries whose masks are run lengths, with the rules that chose them.

    Args:
        path: the manifest to write, a JSON file.
        root: images' paths are kept relative to it.
        entries: the chosen entries; their masks are run lengths, since no other kind fits into the file.
        rules: the settings that chose the entries; kept for people, never read again.
    """
    write_json(path, {"format": FORMAT, "rules": dict(rules), "images": [_row(entry, root) for entry in entries]})


def read_manifest(path: Path, root: Path, problems: Problems) -> list[Entry]:
    """Read what :func:`write_manifest` wrote.

    Raises:
        InputError: it is missing, damaged or of another format.
    """
    content = read_dataset_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: no manifest of this version; build it again with locinv data build-coco-edit")
    entries: list[Entry] = []
    found = rows(path, content, "images", ManifestRow)
    require_own(path, "images", found, "file_name")
    problems.num_images = len(found)
    for row in found:
        with problems.of(row["id"]):
            entries.append(_entry(cast(ManifestRow, row), root, path))
    return entries


def _row(entry: Entry, root: Path) -> dict[str, Any]:
    return {
        "id": entry.id,
        "image_id": entry.image_id,
        "file_name": str(entry.path.relative_to(root)),
        "width": entry.width,
        "height": entry.height,
        "prompt": entry.prompt,
        "nouns": [_noun_row(mention) for mention in entry.mentions],
        "edits": [{"kind": edit.kind, "prompt": edit.prompt} for edit in entry.edits],
    }


def _noun_row(mention: Mention) -> dict[str, Any]:
    return {
        "word": mention.word,
        "span": mention.span,
        "adjectives": mention.adjectives,
        "annotation_ids": [shape.id for shape in mention.shapes],
        "boxes": [shape.box for shape in mention.shapes],
        "segmentations": [_as_text(shape.mask) for shape in mention.shapes],
    }


def _as_text(mask: Any) -> dict[str, Any] | None:
    """Pycocotools gives run lengths as bytes."""
    if mask is None:
        return None
    counts = mask["counts"]
    return {"size": mask["size"], "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def _entry(row: ManifestRow, root: Path, path: Path) -> Entry:
    where = f"{path}: image {row['id']}"
    check_id(row["id"], where)
    damaged = f"{where}: its nouns or edits are damaged; build the manifest again"
    nouns = validated(NOUNS, row["nouns"], lambda *_: damaged, strict=False)
    edits = validated(EDITS, row["edits"], lambda *_: damaged)
    if not (1 <= row["width"] <= WIDEST and 1 <= row["height"] <= WIDEST and row["prompt"].strip()):
        raise InputError(f"{where}: its size or its prompt is none; build the manifest again")
    mentions = tuple(_mention(noun, row, where) for noun in nouns)
    targets = tuple(Edit(edit["prompt"], edit["kind"]) for edit in edits)
    size = row["width"], row["height"]
    return Entry(row["id"], root / row["file_name"], *size, row["prompt"], mentions, targets, image_id=row["image_id"])


def _mention(noun: NounRow, row: ManifestRow, where: str) -> Mention:
    width, height, prompt = row["width"], row["height"], row["prompt"]
    if prompt[slice(*noun["span"])] != noun["word"] or not noun["word"]:
        said = prompt[slice(*noun["span"])]
        raise InputError(f"{where}: its prompt has {said!r} where {noun['word']!r} should be; mend it")
    found = list(zip_longest(noun["annotation_ids"], noun["boxes"], noun["segmentations"]))
    if not found or any(box is None and mask is None for _, box, mask in found):
        raise InputError(f"{where}: its noun {noun['word']!r} has no shape; build the manifest again")
    shapes = tuple(
        Shape(
            None if mask is None else compress(mask, width, height, where),
            None if box is None else check_box(box, width, height, where),
            id,
        )
        for id, box, mask in found
    )
    return Mention(noun["word"], noun["span"], shapes, tuple(noun["adjectives"]))
