"""Samples before their images are opened, and the sequence that opens them.

Every source of data makes entries; from there on all are alike: an image and the shapes on it go
through one frame and become an :class:`~locinv_pl.types.EditSample`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal, overload

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as mask_utils
from torch import Tensor

from locinv_pl.errors import InputError, check_choices
from locinv_pl.io.frames import Fit, Frame, inside
from locinv_pl.io.images import open_image, open_mask
from locinv_pl.priors import Box
from locinv_pl.types import Adjective, Edit, EditSample, Noun, Span, overlap

Rle = dict[str, Any]  # COCO's compressed run lengths: {"size": [H, W], "counts": ...}
PriorKind = Literal["segment", "box", "grounded_sam", "sam3"]
OnError = Literal["raise", "skip"]
BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # turn the direction of what follows


@dataclass(frozen=True)
class MaskFile:
    """A mask in an image's file: the pixels of one value, or what :func:`locinv_pl.io.images.cut` takes."""

    path: Path
    value: int | None = None

    def read(self, width: int, height: int) -> np.ndarray:
        """The mask, (H, W) bool.

        Raises:
            InputError: missing, unreadable, of another size, no mask, or empty.
        """
        return open_mask(self.path, (width, height), self.value)


@dataclass(frozen=True)
class Shape:
    """An object's place on its image: a mask, a box, or both.

    Args:
        mask: run lengths, or a file of the image's size.
        box: (x, y, w, h) in pixels.
        id: the annotation's id in the data set, where it has one.
    """

    mask: Rle | MaskFile | None = None
    box: Box | None = None
    id: int | str | None = None


@dataclass(frozen=True)
class Mention:
    """A noun of a prompt.

    Args:
        word: the noun as the prompt spells it.
        span: its characters in the prompt, ``prompt[start:stop] == word``.
        shapes: the objects that the data says it means; their union is its mask, and its prior.
        adjectives: spans of the adjectives that describe it; none by default.
        prior: shapes that replace ``shapes`` as its prior; none by default.
    """

    word: str
    span: Span
    shapes: tuple[Shape, ...]
    adjectives: tuple[Span, ...] = ()
    prior: tuple[Shape, ...] = ()


def name_of(file_name: str) -> str:
    """An image's id from its file's name: the name without its suffix, or whole where only dots would be left.

    >>> name_of("pets/tom.jpg"), name_of("...png")
    ('tom', '...png')
    """
    path = PurePath(file_name)
    return path.stem if path.stem.strip(". ") else path.name


def check_id(id: str, where: str) -> None:
    """Refuse an id that names nothing.

    Args:
        id: an image's id; all printable characters are allowed, since file names encode the others.
        where: the start of the error, which names the file and the image.

    Raises:
        InputError: it is blank or nothing but dots, or has characters that steer a terminal.
    """
    steering = [c for c in id if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in BIDI]
    if steering or not id.strip(". "):
        problem = f"has the character {ascii(steering[0])}" if steering else "names nothing"
        raise InputError(f"{where}: its id {ascii(id)} {problem}; write id: TEXT, in letters")


def adjectives_of(noun: Span, described: Iterable[tuple[Span, Span]]) -> tuple[Span, ...]:
    """The adjectives of a noun that aren't part of the noun itself.

    Args:
        noun: the noun's span.
        described: pairs (span of an adjective, span of the noun that it describes).
    """
    return tuple(adjective for adjective, of in described if overlap(of, noun) and not overlap(adjective, noun))


@dataclass(frozen=True)
class Entry:
    """All that is known of a sample before its image is opened.

    Args:
        id: the name of the image in files and reports.
        path: the image's file.
        width: the image's width in pixels.
        height: the image's height in pixels.
        prompt: the source prompt; "" where it is still to be found.
        mentions: nouns with the shapes that they mean.
        edits: edits that the data names.
        region: the part of the image that edits are to change, where the data names one.
        image_id: the data set's own number of the image.
    """

    id: str
    path: Path
    width: int
    height: int
    prompt: str
    mentions: tuple[Mention, ...]
    edits: tuple[Edit, ...] = ()
    region: Shape | None = None
    image_id: int | str | None = None


Complete = Callable[[Entry, Image.Image], Entry]


@dataclass(frozen=True)
class Problem:
    """What is wrong with one image of a data set."""

    id: str
    problem: str


@dataclass
class Problems:
    """The problems of a data set's images: the first is raised, or all are collected.

    Args:
        on_error: "raise" (the default) raises the first problem, "skip" collects them.
        found: the problems of images that are left out.
        notes: remarks on images that are used.
        num_images: the number of images in the data set, used or not.
    """

    on_error: OnError = "raise"
    found: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    num_images: int = 0

    def __post_init__(self) -> None:
        check_choices(self, "data")

    def note(self, id: str, text: str) -> None:
        """Note of image ``id`` what was mended, or looks like a mistake."""
        self.notes.append(Problem(id, text))

    @contextmanager
    def of(self, id: str) -> Iterator[None]:
        """A block about image ``id``; with "skip" an InputError ends the block alone."""
        try:
            yield
        except InputError as error:
            if self.on_error == "raise":
                raise
            self.found.append(Problem(id, str(error)))


class EntrySamples(Sequence[EditSample]):
    """Entries as samples; an image is opened, and its problems found, when it is asked for.

    Args:
        entries: one entry for each sample.
        prior: "segment" for masks (boxes where there is no mask), "box" for filled boxes; a mention's own prior
            comes before both.
        side, fit: how images are framed, see :meth:`locinv_pl.io.frames.Frame.fitting`.
        complete: adds to an entry what is found on its open image.

    Raises:
        InputError: at indexing, an image or mask file can't be used, or a prior lies outside the frame.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        prior: PriorKind,
        side: int,
        fit: Fit = "crop",
        complete: Complete | None = None,
    ) -> None:
        self.entries, self.prior, self.side, self.fit, self.complete = entries, prior, side, fit, complete

    @property
    def ids(self) -> list[str]:
        """The samples' names, in order."""
        return [entry.id for entry in self.entries]

    def frame(self, index: int) -> Frame:
        """How image ``index`` is framed; needs no file."""
        return self._frame(self.entries[index])

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> EditSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[EditSample]: ...
    def __getitem__(self, index: int | slice) -> EditSample | list[EditSample]:
        if isinstance(index, slice):
            return [self._load(entry) for entry in self.entries[index]]
        return self._load(self.entries[index])

    def _frame(self, entry: Entry) -> Frame:
        return Frame.fitting(entry.width, entry.height, self.side, self.fit)

    def _load(self, entry: Entry) -> EditSample:
        image = open_image(entry.path, (entry.width, entry.height))
        if self.complete is not None:
            entry = self.complete(entry, image)
        frame = self._frame(entry)
        pixels = torch.from_numpy(np.array(frame.apply(image))).permute(2, 0, 1).float() / 255
        nouns = tuple(self._noun(mention, entry, frame) for mention in entry.mentions)
        adjectives = tuple(
            Adjective(entry.prompt[slice(*span)], span, noun=k)
            for k, mention in enumerate(entry.mentions)
            for span in mention.adjectives
        )
        region = None if entry.region is None else inside(_union([entry.region], entry, frame))
        return EditSample(entry.id, pixels, entry.prompt, nouns, adjectives, entry.edits, region, frame)

    def _noun(self, mention: Mention, entry: Entry, frame: Frame) -> Noun:
        mask = _union(mention.shapes or mention.prior, entry, frame)
        prior = _union(mention.prior, entry, frame) if mention.prior else mask
        if self.prior == "box" and not mention.prior:
            prior = torch.stack([frame.box_plane(_box(shape, entry)) for shape in mention.shapes]).amax(0)
        if not prior.any():
            raise InputError(
                f"{entry.path}: the part of the image that is shown has nothing of noun {mention.word!r}; "
                f"use data.fit=pad or native, or leave the noun out"
            )
        return Noun(mention.word, mention.span, prior, inside(mask))


def decode(mask: Rle | MaskFile, width: int, height: int) -> np.ndarray:
    """A mask at its image's size, (H, W), non-zero inside."""
    return mask.read(width, height) if isinstance(mask, MaskFile) else mask_utils.decode(mask)


def _union(shapes: Sequence[Shape], entry: Entry, frame: Frame) -> Tensor:
    """The union of shapes in the frame, soft in [0, 1]; a box counts where there is no mask."""
    masks = [decode(shape.mask, entry.width, entry.height) for shape in shapes if shape.mask is not None]
    planes = [frame.box_plane(shape.box) for shape in shapes if shape.mask is None and shape.box is not None]
    if masks:
        planes.append(frame.plane(torch.from_numpy(np.logical_or.reduce(masks))))
    return torch.stack(planes).amax(0)


def _box(shape: Shape, entry: Entry) -> Box:
    """A shape's box; its mask's bounding box where it has none."""
    if shape.box is not None:
        return shape.box
    assert shape.mask is not None
    mask = decode(shape.mask, entry.width, entry.height)
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    x, y, w, h = mask_utils.toBbox(rle)
    return float(x), float(y), float(w), float(h)
