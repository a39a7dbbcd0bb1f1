"""COCO-format folders: what the captions of an image name, and which annotations that means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_utils

from locinv_pl.datamodules.annotations import WIDEST, AnnotationReader, Instance, Row
from locinv_pl.datamodules.entries import Entry, Mention, PriorKind, Rle, adjectives_of
from locinv_pl.errors import InputError
from locinv_pl.io.frames import Fit, Frame
from locinv_pl.priors import Box
from locinv_pl.types import Edit
from locinv_pl.words import Named, Vocabulary, WordFinder


@dataclass(frozen=True)
class Reading:
    """A caption of an image, the annotated categories that it names, and their instances by category."""

    caption: str
    named: tuple[Named, ...]
    instances: Mapping[str, Sequence[Instance]]

    @property
    def names(self) -> frozenset[str]:
        """The names of the categories."""
        return frozenset(named.name for named in self.named)


class CocoReader:
    """Reads images of a COCO-format folder.

    Args:
        annotations: the folder's tables, read and checked.
        vocabulary: finds categories in captions.
        words: finds the adjectives of a caption, and the nouns that they describe.
        prior: "segment" needs a mask of every object that counts, "box" a box.
        fit: how images are framed; an object outside the frame is not there.
    """

    def __init__(
        self, annotations: AnnotationReader, vocabulary: Vocabulary, words: WordFinder, prior: PriorKind, fit: Fit
    ) -> None:
        self.annotations, self.vocabulary, self.words = annotations, vocabulary, words
        self.prior, self.fit = prior, fit

    def readings(self, image: Row, searches: Sequence[frozenset[str]] = (frozenset(),)) -> list[Reading]:
        """The captions that name an annotated object, in their order.

        Args:
            image: the image's row in the file's table ``images``.
            searches: sets of categories; only captions that name all of one of them are read.

        Raises:
            InputError: the image's size, or an annotation that such a caption names, is wrong.
        """
        if not (1 <= image["width"] <= WIDEST and 1 <= image["height"] <= WIDEST):
            size = f"{image['width']}x{image['height']}"
            raise InputError(f"{self.annotations.path}: image {image['file_name']} is {size}; correct its size")
        captions = {
            caption: found
            for caption in self.annotations.captions[image["id"]]
            if (found := self.vocabulary.find(caption)) and any(s <= {n.name for n in found} for s in searches)
        }
        said = {named.name for found in captions.values() for named in found}
        instances = self._instances(image, said)
        readings = [
            Reading(caption, tuple(named for named in found if named.name in instances), instances)
            for caption, found in captions.items()
        ]
        return [reading for reading in readings if reading.named]

    def entry(self, id: str, image: Row, path: Path, reading: Reading, edits: Sequence[Edit]) -> Entry:
        """The image with this caption as its prompt."""
        mentions = self.mentions(reading)
        size = image["width"], image["height"]
        return Entry(id, path, *size, reading.caption, mentions, tuple(edits), image_id=image["id"])

    def mentions(self, reading: Reading) -> tuple[Mention, ...]:
        """The nouns of the caption, their adjectives, and the instances that each means."""
        described = [(adjective.span, noun.span) for adjective, noun in self.words.pairs(reading.caption)]
        adjectives = [adjectives_of(named.word.span, described) for named in reading.named]
        said = [{reading.caption[slice(*span)].lower() for span in spans} for spans in adjectives]
        meant: dict[int, list[Instance]] = {}
        for name in reading.names:
            places = [k for k, named in enumerate(reading.named) if named.name == name]
            is_plural = any(reading.named[k].plural for k in places)
            meant |= dict(
                zip(places, _assign([said[k] for k in places], reading.instances[name], is_plural), strict=True)
            )
        return tuple(
            Mention(named.word.text, named.word.span, tuple(i.shape for i in meant[k]), adjectives[k])
            for k, named in enumerate(reading.named)
        )

    def _instances(self, image: Row, said: set[str]) -> dict[str, list[Instance]]:
        """The instances of the categories that a caption names, where the frame shows them."""
        frame = Frame.fitting(image["width"], image["height"], 1, self.fit)
        found: dict[str, list[Instance]] = defaultdict(list)
        for name, annotation in self.annotations.instances(image):
            if name in said:
                instance = self.annotations.instance(name, annotation, image)
                self._check_prior(instance, image)
                if self._shows(frame, instance):
                    found[name].append(instance)
        return dict(found)

    def _check_prior(self, instance: Instance, image: Row) -> None:
        kinds = {
            "segment": (instance.shape.mask, "segmentation", "box"),
            "box": (instance.shape.box, "bbox", "segment"),
        }
        shape, column, other = kinds.get(self.prior, (True, "", ""))
        if shape is None:
            raise InputError(
                f"{self.annotations.path}: annotation {instance.shape.id} of image {image['file_name']}: "
                f"has no {column}; use prior={other}"
            )

    def _shows(self, frame: Frame, instance: Instance) -> bool:
        mask, box = instance.shape.mask, instance.shape.box
        seen = not isinstance(mask, dict) or _shows_mask(frame.window, mask)
        return seen and (box is None or self.prior == "segment" or _boxes_overlap(frame.window, box))


def _assign(said: Sequence[set[str]], instances: Sequence[Instance], is_plural: bool) -> list[list[Instance]]:
    """Which instances of a category its mentions mean, each described by adjectives.

    A mention means the instances that its adjectives describe, or all. Where a category is named, in the singular,
    as often as it is there, every mention has one of them to itself: the particular mentions choose first, then
    each takes the next in order.
    """
    known = frozenset[str]().union(*(instance.attributes for instance in instances))
    meant = [[i for i in instances if words & known <= i.attributes] or list(instances) for words in said]
    if len(said) != len(instances) or is_plural:
        return meant
    free = list(instances)
    for k in sorted(range(len(said)), key=lambda k: len(meant[k])):
        own = next((instance for instance in meant[k] if instance in free), free[0])
        free.remove(own)
        meant[k] = [own]
    return meant


def _shows_mask(window: Box, rle: Rle) -> bool:
    x, y, w, h = mask_utils.toBbox(rle)
    left, top, width, height = window
    if left <= x and top <= y and x + w <= left + width and y + h <= top + height:
        return True
    shown = mask_utils.frPyObjects(np.array([window], dtype=float), *rle["size"])
    return bool(mask_utils.area(mask_utils.merge([rle, *shown], intersect=True)) > 0)


def _boxes_overlap(one: Box, other: Box) -> bool:
    (x, y, w, h), (left, top, width, height) = one, other
    return x < left + width and left < x + w and y < top + height and top < y + h
