"""COCO-edit's rules: which images, which caption, and which edits.

The paper's list of images is not public; these rules are this project's, and stand in
``configs/data/coco_edit.yaml``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Generic, TypeVar

from pycocotools import mask as mask_utils

from locinv_pl.datamodules.annotations import ImageId, Instance
from locinv_pl.datamodules.coco import Reading
from locinv_pl.datamodules.entries import Mention
from locinv_pl.errors import InputError
from locinv_pl.types import Edit
from locinv_pl.words import COLOURS, MATERIALS, inflect, insert_adjective, replace_word

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Bounds on the objects of a search prompt.

    Args:
        min_area, max_area: the least and the largest share of the image that a category's instances cover together,
            0 <= min_area <= max_area <= 1.
        max_instances: the most instances of a category on an image, 1 or more.
    """

    min_area: float = 0.02
    max_area: float = 0.7
    max_instances: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.min_area <= self.max_area <= 1:
            raise InputError(
                f"data.limits: min_area={self.min_area}, max_area={self.max_area}: give 0 <= min_area <= max_area <= 1"
            )
        if self.max_instances < 1:
            raise InputError(f"data.limits.max_instances={self.max_instances}: must be 1 or more")

    def hold(self, instances: Sequence[Instance], width: int, height: int) -> bool:
        """Whether the instances of one category are few enough, not all crowds, and of the right area."""
        if len(instances) > self.max_instances or all(instance.is_crowd for instance in instances):
            return False
        return self.min_area <= _area(instances) / (width * height) <= self.max_area


@dataclass(frozen=True)
class Searches:
    """Search prompts, such as "cat", "cat and dog" or "person, dog and frisbee".

    An image answers the search whose categories are just those that one of its captions names.
    """

    searches: tuple[frozenset[str], ...]
    limits: Limits

    @classmethod
    def parse(cls, prompts: Sequence[str], limits: Limits, categories: Sequence[str]) -> Searches:
        """Read the prompts; ``categories`` are those of the data set.

        Raises:
            InputError: a prompt names a category that the data set lacks.
        """
        known = {name.strip().lower(): name for name in categories}
        parts = [[part.strip().lower() for part in re.split(r",|\band\b", prompt)] for prompt in prompts]
        searches = [frozenset(known[part] for part in names) for names in parts if set(names) <= known.keys()]
        if not searches:
            raise InputError(
                f"data.categories: the data set has no category of {', '.join(prompts)}; "
                f"name some of {', '.join(sorted(known))}, or all"
            )
        return cls(tuple(dict.fromkeys(searches)), limits)

    def answer(self, readings: Sequence[Reading], width: int, height: int) -> tuple[int, Reading] | None:
        """The search that an image answers, and by which of its captions: most categories, then fewest words."""
        found = [
            (self.searches.index(reading.names), reading)
            for reading in readings
            if reading.names in self.searches
            and all(self.limits.hold(reading.instances[name], width, height) for name in reading.names)
        ]
        return min(found, key=lambda answer: _rank(answer[1]), default=None)


def richest(readings: Sequence[Reading]) -> Reading | None:
    """The caption that names most categories, of these the one with fewest words, of these the first."""
    return min(readings, key=_rank, default=None)


class RoundRobin(Generic[T]):
    """Takes items from several piles in turn, so that each gives the same number as long as it lasts."""

    def __init__(self, piles: Sequence[Sequence[T]]) -> None:
        self.piles = piles

    def take(self, count: int | None) -> list[T]:
        """The first ``count``, all by default: one of every pile, then the next of every pile."""
        turns = zip_longest(*self.piles)
        return [one for turn in turns for one in turn if one is not None][:count]


@dataclass(frozen=True)
class EditTable:
    """Target words by category, in lower case.

    Args:
        swaps: nouns that may take a category's place; "supercategory" there, or nothing, means the other categories
            of its supercategory.
        attributes: adjectives that a category may be given; those of "any" where it has none of its own.
    """

    swaps: Mapping[str, Sequence[str]] = field(default_factory=dict)
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def edits(
        self, image: ImageId, reading: Reading, mentions: Sequence[Mention], siblings: Mapping[str, Sequence[str]]
    ) -> tuple[Edit, ...]:
        """A word swap and an attribute edit of one noun of the caption, chosen by the image's id.

        ``siblings`` are the categories of each category's supercategory.
        """
        rng = random.Random(str(image))
        k = rng.randrange(len(mentions))
        named, mention = reading.named[k], mentions[k]
        said = {n.name.lower() for n in reading.named}
        name = named.name.strip().lower()
        listed = self.swaps.get(name) or [sibling.lower() for sibling in siblings.get(named.name, ())]
        nouns = [noun for noun in listed if noun not in said]
        edits = []
        if nouns:
            noun = inflect(rng.choice(nouns), named.plural)
            edits.append(Edit(replace_word(reading.caption, mention.span, noun), "word_swap"))
        adjectives = self.attributes.get(name, self.attributes.get("any", ()))
        spoken = [reading.caption[slice(*span)].lower() for span in mention.adjectives]
        fresh = [adjective for adjective in adjectives if adjective not in spoken]
        if fresh:
            edits.append(Edit(self._describe(reading.caption, mention, rng.choice(fresh)), "attribute"))
        return tuple(edits)

    def _describe(self, caption: str, mention: Mention, adjective: str) -> str:
        """Put the adjective in the place of a colour, a material or another of the table, else before the noun."""
        known = COLOURS | MATERIALS | {word for words in self.attributes.values() for word in words}
        for span in mention.adjectives:
            if caption[slice(*span)].lower() in known:
                return replace_word(caption, span, adjective)
        return insert_adjective(caption, mention.span, adjective)


def _rank(reading: Reading) -> tuple[int, int]:
    return -len(reading.names), len(reading.caption.split())


def _area(instances: Sequence[Instance]) -> float:
    """Pixels that the instances cover together; of a box where there is no mask."""
    masks = [i.shape.mask for i in instances if isinstance(i.shape.mask, dict)]
    boxes = [i.shape.box for i in instances if i.shape.mask is None and i.shape.box is not None]
    union = float(mask_utils.area(mask_utils.merge(masks))) if masks else 0.0
    return union + sum(w * h for _, _, w, h in boxes)
