"""COCO-edit: images of a COCO-format folder chosen by search prompts, with edits to make of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from locinv_pl.datamodules.annotations import AnnotationReader, CocoFiles, ImageId, Row
from locinv_pl.datamodules.base import EditDataModule
from locinv_pl.datamodules.coco import CocoReader, Reading
from locinv_pl.datamodules.entries import Entry, Problems, check_id, name_of
from locinv_pl.datamodules.manifest import read_manifest, write_manifest
from locinv_pl.datamodules.selection import EditTable, Limits, RoundRobin, Searches, richest
from locinv_pl.errors import InputError
from locinv_pl.io.reading import expanded
from locinv_pl.types import Edit
from locinv_pl.words import Vocabulary, load_synonyms, load_words

Chosen = tuple[Row, Reading]


class CocoEditDataModule(EditDataModule):
    """Images of a COCO-format folder, a caption of each, and the annotated objects that it names.

    Args:
        root: the COCO-format folder; annotations and images are looked for in it.
        categories: search prompts, such as "cat" or "cat and dog": an image is taken where a caption names just
            these categories and they are annotated; every search gets the same number of images, as far as there
            are. "all" takes every image with a caption that names an annotated object, without limits.
        num_images: the most images to take, 1 or more; null (the default) takes all.
        limits: bounds on the area and the number of a search's objects.
        swaps, attributes: target nouns and adjectives by category, for the edits of images that the data has
            none for; see :class:`locinv_pl.datamodules.selection.EditTable`.
        manifest: a file that ``locinv data build-coco-edit`` wrote; then nothing is searched.
        synonyms: a YAML file of words that mean a category; COCO's by default.
        instances, captions, edits: annotation files, relative to ``root``; found by COCO's own names where none is
            given. ``edits``, a list of {"image_id", "kind", "prompt"}, may be missing.
        images: the folder of the images, relative to ``root``.
        kwargs: what every source of images takes.
    """

    name = "coco_edit"

    def __init__(
        self,
        root: str,
        categories: str | list[str] = "all",
        num_images: int | None = None,
        limits: Limits = Limits(),
        swaps: dict[str, list[str]] | None = None,
        attributes: dict[str, list[str]] | None = None,
        manifest: str | None = None,
        synonyms: str | None = None,
        instances: str | None = None,
        captions: str | None = None,
        edits: str | None = None,
        images: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if num_images is not None and num_images < 1:
            raise InputError(f"data.num_images={num_images}: must be 1 or more")
        self.root, self.categories, self.num_images, self.limits = root, categories, num_images, limits
        self.table = EditTable(swaps or {}, attributes or {})
        self.manifest, self.synonyms = manifest, synonyms
        self.files = {"instances": instances, "captions": captions, "edits": edits, "images": images}

    @property
    def settings(self) -> dict[str, Any]:
        """What the samples depend on."""
        named = {key: value for key, value in self.files.items() if value is not None}
        rules = {"categories": self.categories, "manifest": self.manifest}
        return {**super().settings, "root": str(self.root), **rules, **named}

    def entries(self, side: int, problems: Problems) -> Sequence[Entry]:
        """Choose the images, or take those of the manifest."""
        root = expanded(self.root)
        if self.manifest is not None:
            return read_manifest(expanded(self.manifest), root, problems)[: self.num_images]
        files = CocoFiles.find(root, **self.files)
        annotations = AnnotationReader(files)
        vocabulary = Vocabulary(
            annotations.names.values(), load_synonyms(expanded(self.synonyms) if self.synonyms else None)
        )
        reader = CocoReader(annotations, vocabulary, load_words(self.words), self.prior, self.fit)
        problems.num_images = len(annotations.images)
        paths = {row["id"]: files.image(row["file_name"]) for row in annotations.images}
        ids = _ids(annotations.images)
        entries: list[Entry] = []
        for row, reading in self._choose(reader, ids, problems):
            edits = annotations.edits[row["id"]] or self._edits(reader, row, reading)
            entries.append(reader.entry(ids[row["id"]], row, paths[row["id"]], reading, edits))
        if not entries and not problems.found:
            raise InputError(
                f"{files.instances}: no image has a caption that names an annotated object"
                + ("; add some" if self.categories == "all" else " of data.categories within data.limits; widen them")
            )
        _refuse_namesakes(entries)
        return entries

    def build_manifest(self, path: Path, problems: Problems) -> Sequence[Entry]:
        """Freeze the selection into a file; returns what is in it."""
        entries = self.entries(0, problems)
        rules = {**self.settings, "num_images": self.num_images, "limits": vars(self.limits)}
        write_manifest(path, expanded(self.root), entries, rules)
        return entries

    def _choose(self, reader: CocoReader, ids: Mapping[ImageId, str], problems: Problems) -> list[Chosen]:
        """The images and their captions: in the file's order, or search by search in turn."""
        searches = None
        if self.categories != "all":
            prompts = [self.categories] if isinstance(self.categories, str) else self.categories
            searches = Searches.parse(prompts, self.limits, [*reader.annotations.names.values()])
        wanted = (frozenset[str](),) if searches is None else searches.searches
        piles: Mapping[int, list[Chosen]] = defaultdict(list)
        for row in reader.annotations.images:
            with problems.of(ids[row["id"]]):
                check_id(ids[row["id"]], f"{reader.annotations.path}: image {row['id']}")
                readings = reader.readings(row, wanted)
                for note in reader.annotations.notes.pop(row["id"], ()):
                    problems.note(ids[row["id"]], note)
                if searches is None:
                    found = (0, reading) if (reading := richest(readings)) else None
                else:
                    found = searches.answer(readings, row["width"], row["height"])
                if found is not None:
                    piles[found[0]].append((row, found[1]))
        return RoundRobin([piles[n] for n in sorted(piles)]).take(self.num_images)

    def _edits(self, reader: CocoReader, row: Row, reading: Reading) -> tuple[Edit, ...]:
        families = reader.annotations.supercategories.values()
        siblings = {name: [other for other in family if other != name] for family in families for name in family}
        return self.table.edits(row["id"], reading, reader.mentions(reading), siblings)


def _ids(images: Sequence[Row]) -> dict[ImageId, str]:
    """The ids of images: their files' names, with folders where two files have the same name."""
    names = {row["id"]: name_of(row["file_name"]) for row in images}
    count = Counter(names.values())
    whole = {
        row["id"]: str(PurePath(row["file_name"]).with_suffix("")) for row in images if count[names[row["id"]]] > 1
    }
    return names | whole


def _refuse_namesakes(entries: Sequence[Entry]) -> None:
    paths: dict[str, Path] = {}
    for entry in entries:
        if entry.id in paths:
            raise InputError(f"{entry.path}: has the same name as {paths[entry.id]}; rename one of the two")
        paths[entry.id] = entry.path
