"""Anyone's own images: a folder with images and one file that says what is on them.

.. code-block:: yaml

    # my_images/samples.yaml: a list; or samples.json; or samples.jsonl, one of these a line
    - image: pets.jpg                       # relative to the folder
      prompt: a red cat, a dog and a bird on a sofa
      priors:                               # for every noun one of
        cat: masks/pets_cat.png             #   a mask of the image's size: from half of its largest value on
        dog: [310, 120, 200, 260]           #   a box: x, y, width, height in pixels
        bird: {index: labels.png, value: 3} #   the pixels of one value in an index image
        sofa: {size: [480, 640], counts: …} #   COCO's run lengths, compressed or not
      edits:
        - a red tiger, a dog and a bird on a sofa
        - {prompt: a black cat, a dog and a bird on a sofa, kind: attribute}

With ``index: labels.png`` beside ``priors`` a bare number means its pixels of that value. A list of priors is
one for each time that the noun stands in the prompt, or, where it stands once, their union. Optional keys: ``id``
(the file's name without suffix), ``adjectives`` (pairs [adjective, noun]; found in the prompt by default) and
``region`` (a prior of what edits may change). ``priors: {}`` says that an image has none.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from locinv_pl.datamodules.annotations import compress
from locinv_pl.datamodules.base import EditDataModule
from locinv_pl.datamodules.entries import Entry, MaskFile, Mention, Problems, Shape, adjectives_of, check_id, name_of
from locinv_pl.errors import InputError
from locinv_pl.io.images import image_size
from locinv_pl.io.reading import expanded, read_list, regular_file, validated
from locinv_pl.priors import check_box
from locinv_pl.types import Edit, Span, overlap
from locinv_pl.words import WordFinder, find_word, load_words, tidy

LISTS = (".yaml", ".yml", ".jsonl")  # and samples.json; other JSON files may be anything
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif")


class FolderDataModule(EditDataModule):
    """A folder with images and one YAML or JSONL file of prompts, priors and edits.

    Without such a file every image of the folder is taken, with ``caption=blip`` and a prior that is found on it.

    Args:
        root: the folder that holds the images; paths of the list are relative to it.
        samples: the list of images, relative to ``root``; by default the one list that the folder has.
        num_images: takes this many images from the start of the list, 1 or more; null (the default) takes all.
        kwargs: what every source of images takes.
    """

    name = "folder"

    def __init__(self, root: str, samples: str | None = None, num_images: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if num_images is not None and num_images < 1:
            raise InputError(f"data.num_images={num_images}: must be 1 or more")
        self.root, self.list, self.num_images = root, samples, num_images

    @property
    def settings(self) -> dict[str, Any]:
        """What the samples depend on."""
        return {**super().settings, "root": str(self.root), "samples": self.list}

    def entries(self, side: int, problems: Problems) -> Sequence[Entry]:
        """Read the list and the images' headers."""
        root = expanded(self.root)
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; give the folder of your images in data.root=")
        path = self._find_list(root)
        found = _images(root) if path is None else read_list(path)
        problems.num_images = len(found)
        reader = RowReader(root, path or root, load_words(self.words), self._needs_models)
        entries: dict[str, Entry] = {}
        for number, row in enumerate(found, start=1):
            with problems.of(_id(row, number)):
                entry = reader.entry(row, number)
                if entry.id in entries:
                    raise InputError(f"{path or root}: two images have the id {entry.id!r}; give one another id")
                entries[entry.id] = entry
        if not entries and not problems.found:
            raise InputError(f"{path or root}: names no image; add some")
        return list(entries.values())[: self.num_images]

    def _find_list(self, root: Path) -> Path | None:
        if self.list is not None:
            return root / expanded(self.list)
        found = sorted(path for path in root.iterdir() if path.suffix.lower() in LISTS or path.name == "samples.json")
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise InputError(f"{root}: has several lists of images ({names}); name one in data.samples=")
        if not found and not (self.caption == "blip" and self._finds_priors):
            raise InputError(f"{root}: has no list of images; write samples.yaml, see datamodules/folder.py")
        return found[0] if found else None


class Row(BaseModel):
    """An image of a list, its types checked; what its priors mean is found out with its image's size."""

    model_config = ConfigDict(extra="forbid")

    id: str | int | None = None
    image: str
    prompt: str | None = None
    priors: dict[str, Any] | None = None
    index: Any = None
    adjectives: Any = None
    edits: Any = None
    region: Any = None


ROW = TypeAdapter(Row)
NO_PRIORS = "has no priors; write priors: with one for every noun, or {} for none"
MENDS = {
    "id": "its id is no text; write id: TEXT",
    "image": "has no image; write image: FILE",
    "prompt": "has no prompt; write prompt: TEXT",
    "priors": NO_PRIORS,
}


class RowReader:
    """Makes entries of rows.

    Args:
        root: what paths are relative to.
        path: the list, for errors.
        words: finds the adjectives of prompts whose row doesn't name them.
        completes: whether prompts and priors may be missing.
    """

    def __init__(self, root: Path, path: Path, words: WordFinder, completes: bool) -> None:
        self.root, self.path, self.words, self.completes = root, path, words, completes

    def entry(self, found: Any, number: int) -> Entry:
        """An entry of a row, as the list has it, and of its number, which names it where it says no name.

        Raises:
            InputError: the row isn't one of an image, or its image or a mask can't be used.
        """
        id = _id(found, number)
        where = f"{self.path}: image {id}"
        row = validated(ROW, found, lambda place, _: f"{where}: {_mend(place)}")
        check_id(id, where)
        prompt, path = tidy(row.prompt or ""), self.root / row.image
        if not (prompt or self.completes):
            raise InputError(f"{where}: {MENDS['prompt']}")
        size = image_size(path)
        region = None if row.region is None else self._shape(row.region, row, size, f"{where}, region")
        mentions, edits = self._mentions(row, prompt, size, where), _edits(row, where)
        return Entry(id, path, *size, prompt, mentions, edits, region)

    def _mentions(self, row: Row, prompt: str, size: tuple[int, int], where: str) -> tuple[Mention, ...]:
        priors = row.priors
        if priors is None:
            if self.completes:
                return ()
            raise InputError(f"{where}: {NO_PRIORS}")
        described = self._described(row, prompt, where)
        mentions = []
        for noun, spans in _places(priors, prompt, where).items():
            shapes = self._shapes(priors[noun], len(spans), row, size, f"{where}, {noun}")
            for span, meant in zip(spans, shapes, strict=True):
                mentions.append(Mention(prompt[slice(*span)], span, meant, adjectives_of(span, described)))
        return tuple(sorted(mentions, key=lambda mention: mention.span))

    def _described(self, row: Row, prompt: str, where: str) -> list[tuple[Span, Span]]:
        """Spans of adjectives and of the nouns that they describe."""
        given = row.adjectives
        if given is None:
            return [(adjective.span, noun.span) for adjective, noun in self.words.pairs(prompt)]
        pairs = []
        for pair in given if isinstance(given, list) else [given]:
            if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(word, str) for word in pair)):
                raise InputError(f"{where}: {reprlib.repr(pair)} is no pair of words; write adjectives: [[red, cat]]")
            try:
                adjectives, nouns = (find_word(prompt, word) for word in pair)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
            pairs.append(min(product(adjectives, nouns), key=lambda ends: abs(ends[0][0] - ends[1][0])))
        return pairs

    def _shapes(self, prior: Any, count: int, row: Row, size: tuple[int, int], where: str) -> list[tuple[Shape, ...]]:
        """For each of the noun's ``count`` places the shapes that it means."""
        if not isinstance(prior, list) or _is_box(prior):
            return [(self._shape(prior, row, size, where),)] * count
        shapes = [self._shape(one, row, size, where) for one in prior]
        if count == 1 and shapes:
            return [tuple(shapes)]
        if len(shapes) != count:
            raise InputError(
                f"{where}: stands {count} times in the prompt and has {len(shapes)} priors; "
                f"give one for each, or one for all"
            )
        return [(shape,) for shape in shapes]

    def _shape(self, prior: Any, row: Row, size: tuple[int, int], where: str) -> Shape:
        width, height = size
        if isinstance(prior, str):
            return Shape(MaskFile(self._existing(prior, where)))
        if isinstance(prior, list):
            return Shape(box=check_box(prior, width, height, where))
        index, value = row.index, prior
        if isinstance(prior, dict) and "counts" in prior:
            return Shape(compress(prior, width, height, where))
        if isinstance(prior, dict):
            index, value = prior.get("index", index), prior.get("value")
        if isinstance(value, int) and not isinstance(value, bool) and isinstance(index, str):
            return Shape(MaskFile(self._existing(index, where), value))
        raise InputError(
            f"{where}: {reprlib.repr(prior)} is no prior; "
            f"give a mask's file, a box [x, y, width, height], {{index: FILE, value: N}} or {{size, counts}}"
        )

    def _existing(self, name: str, where: str) -> Path:
        path = self.root / name
        try:
            return regular_file(path)
        except OSError as error:
            why = "" if isinstance(error, FileNotFoundError) else f" ({error.strerror})"
            raise InputError(f"{where}: {path}: no such mask{why}; put it there or correct its name") from None


def _places(nouns: Iterable[str], prompt: str, where: str) -> dict[str, list[Span]]:
    """Where the nouns stand in the prompt; a longer one hides the shorter one in it."""
    places: dict[str, list[Span]] = {}
    for noun in sorted(nouns, key=len, reverse=True):
        try:
            found = find_word(prompt, noun)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        taken = [span for spans in places.values() for span in spans]
        places[noun] = [span for span in found if not any(overlap(span, other) for other in taken)]
        if not places[noun]:
            raise InputError(f"{where}: {noun!r} stands in the prompt only within another of its nouns; leave it out")
    return places


def _edits(row: Row, where: str) -> tuple[Edit, ...]:
    edits = []
    given = row.edits or []
    for edit in given if isinstance(given, list) else [given]:
        known = {"prompt": edit} if isinstance(edit, str) else edit
        texts = isinstance(known, dict) and all(isinstance(text, str) and text.strip() for text in known.values())
        if not texts or known.keys() | {"kind"} != {"prompt", "kind"}:
            raise InputError(f"{where}: {reprlib.repr(edit)} is no edit; write a prompt, or {{prompt: …, kind: …}}")
        edits.append(Edit(tidy(known["prompt"]), known.get("kind", "edit")))
    return tuple(edits)


def _mend(place: tuple[int | str, ...]) -> str:
    """What is wrong with a row, by the place where it isn't what it should be."""
    key = place[0] if place else "image"
    return MENDS.get(str(key)) or f"unknown key {key!r}; use {', '.join(Row.model_fields)}"


def _id(row: Any, number: int) -> str:
    """A row's id, or the name of its image's file, or its number where it says neither."""
    row = row if isinstance(row, dict) else {}
    id, image = row.get("id"), row.get("image")
    if id not in (None, ""):
        return str(id) if isinstance(id, (str, int)) else reprlib.repr(id)
    return name_of(image) if isinstance(image, str) and image else str(number)


def _is_box(prior: Sequence[Any]) -> bool:
    """Whether a list is meant as a box; a list of bare numbers of an index image is none."""
    return len(prior) == 4 and all(isinstance(number, (int, float)) for number in prior)


def _images(root: Path) -> list[dict[str, str]]:
    return [{"image": path.name} for path in sorted(root.iterdir()) if path.suffix.lower() in IMAGES]
