"""Captions, and where in them every object is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from locinv_pl.scenes.words import COUNTS, PLURALS, PREPOSITIONS
from locinv_pl.types import Span


@dataclass(frozen=True)
class Group:
    """Objects that a caption names together: "a red cat", "two cats".

    Attributes:
        noun: the objects' noun in the singular, also where the caption says the plural.
        adjectives: those that are said, in order.
        members: the objects' positions in the scene's list of objects.
    """

    noun: str
    adjectives: tuple[str, ...]
    members: tuple[int, ...]

    @property
    def words(self) -> list[str]:
        """The article or the number, the adjectives, and the noun as said."""
        count = len(self.members)
        described = [*self.adjectives, PLURALS[self.noun] if count > 1 else self.noun]
        return [COUNTS[count] if count > 1 else article(described[0]), *described]


@dataclass(frozen=True)
class Said:
    """Where a caption names an object, in characters: its noun, and its adjectives if they are said."""

    noun: Span
    adjectives: tuple[Span, ...]


@dataclass(frozen=True)
class Caption:
    """A caption in parts: "there is a red cat next to two dogs on the grass".

    Attributes:
        groups: all that is named, in order.
        lead: what comes before them, "there is" as well where it should be "are".
        relation: what stands between the first group and the others; between these it is "and".
        background: where they are; "" where the caption doesn't say it.
    """

    groups: tuple[Group, ...]
    lead: str = ""
    relation: str = "and"
    background: str = ""

    @property
    def text(self) -> str:
        """The caption as one sentence without a full stop: "a red cat and a blue car on the grass"."""
        return self._written[0]

    @property
    def said(self) -> dict[int, Said]:
        """Where every object is named, by its number; those of one group share their place."""
        places = zip(self.groups, self._written[1], strict=True)
        return {member: place for group, place in places for member in group.members}

    @cached_property
    def _written(self) -> tuple[str, list[Said]]:
        text, places = "", []
        for part in self._parts():
            text += " " * bool(text)
            if isinstance(part, str):
                text += part
                continue
            spans = []
            for word in part.words:
                spans.append((len(text), len(text) + len(word)))
                text += f"{word} "
            text = text.rstrip()
            places.append(Said(spans[-1], tuple(spans[1:-1])))
        return text, places

    def _parts(self) -> Iterator[str | Group]:
        if self.lead:
            yield "there are" if self.lead == "there is" and len(self.groups[0].members) > 1 else self.lead
        for k, group in enumerate(self.groups):
            if k:
                yield self.relation if k == 1 else "and"
            yield group
        if self.background:
            yield f"{PREPOSITIONS[self.background]} the {self.background}"


def article(word: str) -> str:
    """The indefinite article before a word."""
    return "an" if word[0] in "aeiou" else "a"


def with_article(words: str) -> str:
    """Words with their indefinite article: "an orange cat" for "orange cat"."""
    return f"{article(words)} {words}"
