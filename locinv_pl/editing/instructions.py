"""What one prompt changes in another, in words: phrases, and an instruction as one would tell a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from locinv_pl.types import Span, overlap
from locinv_pl.words import load_words
from locinv_pl.words.alignment import word_changes

LOOSE = {"a", "an", "the", "and", "with"}  # say nothing at the ends of a phrase


class Phrases(NamedTuple):
    """One change that a target prompt makes.

    Args:
        old: the words of the source prompt that go; "" where words are only added.
        new: the words of the target prompt that come in their place; "" where words are only removed.
        noun: the noun that both describe, "" where they are more than adjectives.
    """

    old: str
    new: str
    noun: str


def changed_phrases(source: str, target: str) -> list[Phrases]:
    """What a target prompt changes, in its order, without words that say nothing by themselves.

    >>> changed_phrases("a red cat and a dog", "a blue cat and a fox")
    [Phrases(old='red', new='blue', noun='cat'), Phrases(old='dog', new='fox', noun='')]
    """
    found = []
    for change in word_changes(source, target):
        sides = [(source, _telling(source, change.source)), (target, _telling(target, change.target))]
        nouns = [_described(prompt, spans) for prompt, spans in sides if spans]
        if nouns and not change.is_equal:
            old, new = (prompt[spans[0][0] : spans[-1][1]] if spans else "" for prompt, spans in sides)
            found.append(Phrases(old, new, nouns[-1] if all(nouns) else ""))
    return found


def instruction(source: str, target: str) -> str:
    """How to get from one prompt to the other, as one would tell a person.

    Words in the place of others are replaced, new ones added, old ones removed. Where only adjectives change, the
    instruction says what becomes of their noun. Several changes are joined by "and"; none give "".

    >>> instruction("a red cat and a dog", "a blue cat and a fox")
    'make the cat blue and replace dog with fox'
    >>> instruction("a cat", "a cat with a hat")
    'add hat'
    """
    orders = []
    for old, new, noun in changed_phrases(source, target):
        if noun:
            orders.append(f"make the {noun} {new or f'not {old}'}")
        elif old and new:
            orders.append(f"replace {old} with {new}")
        else:
            orders.append(f"add {new}" if new else f"remove {old}")
    return " and ".join(orders)


def _telling(prompt: str, spans: Sequence[Span]) -> Sequence[Span]:
    """Words, without those at their ends that say nothing by themselves, such as "a" and "with"."""
    said = [n for n, (a, b) in enumerate(spans) if prompt[a:b].isalnum() and prompt[a:b].lower() not in LOOSE]
    return spans[said[0] : said[-1] + 1] if said else ()


def _described(prompt: str, spans: Sequence[Span]) -> str:
    """The noun that all of these words describe; "" if they aren't adjectives of one noun."""
    pairs = load_words().pairs(prompt)
    nouns = {next((n.text for a, n in pairs if overlap(a.span, span)), "") for span in spans}
    return nouns.pop() if len(nouns) == 1 else ""
