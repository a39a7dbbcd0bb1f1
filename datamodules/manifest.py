"""A selection frozen in one file: entries as JSON, masks and all, so that nothing is searched again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.annotations import compress, rows
from datamodules.entries import Entry, Mention, Problems, Shape
from locinv_pl.errors import InputError
from locinv_pl.priors import check_box
from locinv_pl.reading import read_json
from locinv_pl.store import write_json
from locinv_pl.types import Edit, Span

FORMAT = 1


def write_manifest(path: Path, root: Path, entries: Sequence[Entry], rules: Mapping[str, Any]) -> None:
    """Write entries whose masks are run lengths, with the rules that chose them.

    Args:
        path: the file.
        root: pictures' paths are kept relative to it.
        entries: to keep.
        rules: for the reader.
    """
    write_json(path, {"format": FORMAT, "rules": dict(rules), "images": [_row(entry, root) for entry in entries]})


def read_manifest(path: Path, root: Path, problems: Problems) -> list[Entry]:
    """Read what :func:`write_manifest` wrote.

    Raises:
        InputError: it is missing, damaged or of another format.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: no manifest of this version; build it again with locinv data build-coco-edit")
    columns: dict[str, Any] = {"id": str, "file_name": str, "width": int, "height": int, "prompt": str}
    entries: list[Entry] = []
    found = rows(path, content, "images", **columns, nouns=list, edits=list)
    problems.num_pictures = len(found)
    for row in found:
        with problems.of(row["id"]):
            entries.append(_entry(row, root, path))
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
    """pycocotools gives run lengths as bytes."""
    if mask is None:
        return None
    counts = mask["counts"]
    return {"size": mask["size"], "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def _entry(row: Mapping[str, Any], root: Path, path: Path) -> Entry:
    where = f"{path}: image {row['id']}"
    try:
        mentions = tuple(_mention(noun, row, where) for noun in row["nouns"])
        edits = tuple(Edit(edit["prompt"], edit["kind"]) for edit in row["edits"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: damaged ({type(error).__name__}); build the manifest again") from None
    size = row["width"], row["height"]
    return Entry(row["id"], root / row["file_name"], *size, row["prompt"], mentions, edits, image_id=row["image_id"])


def _mention(noun: Mapping[str, Any], row: Mapping[str, Any], where: str) -> Mention:
    width, height, prompt = row["width"], row["height"], row["prompt"]
    span = _span(noun["span"])
    if prompt[slice(*span)] != noun["word"]:
        raise InputError(f"{where}: its prompt has {prompt[slice(*span)]!r} where {noun['word']!r} should be; mend it")
    shapes = tuple(
        Shape(
            None if mask is None else compress(mask, width, height, where),
            None if box is None else check_box(box, width, height, where),
            id,
        )
        for id, box, mask in zip(noun["annotation_ids"], noun["boxes"], noun["segmentations"], strict=True)
    )
    return Mention(noun["word"], span, shapes, tuple(_span(found) for found in noun["adjectives"]))


def _span(ends: Sequence[int]) -> Span:
    start, stop = ends
    return start, stop
