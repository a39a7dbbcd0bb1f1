"""Target prompts that are a click away: other colours, other things, things more or less."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from locinv_pl.types import Span
from locinv_pl.words import COLOURS, Word, insert_adjective, load_words, replace_word
from locinv_pl.words.alignment import word_changes

PALETTE = {
    "red": "#d63031",
    "orange": "#f0821e",
    "yellow": "#f5c828",
    "green": "#27a050",
    "blue": "#2962d6",
    "purple": "#8c46be",
    "white": "#f4f4f4",
    "black": "#2d2d32",
}
BACKDROPS = ("grass", "sand", "snow", "water", "road", "sky")
THINGS = ("cat", "dog", "bird", "boat", "car", "ball", "flower", "chair")
LINK = r"(?:\s*,|\s*\b(?:and|with|on|in|at|by|near|beside|behind|under|over))\s+"
BEFORE = re.compile(rf"(?P<links>(?:{LINK})*)(?:\b(?:an?|the|one)\s+)?$", re.IGNORECASE)
AFTER = re.compile(r"^\s*(?:,|and\b|with\b)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Suggestion:
    """A target prompt, and what it says in a word.

    Args:
        kind: "colour", "swap", "remove" or "add".
        noun: the noun of the prompt that it changes; "" for what is added.
        label: the word on its button.
        prompt: the target prompt.
    """

    kind: str
    noun: str
    label: str
    prompt: str


def suggest(prompt: str) -> Iterator[Suggestion]:
    """Edits of a prompt's words, noun by noun.

    Args:
        prompt: the source prompt, or a target prompt to go on from.

    >>> [s.prompt for s in suggest("a red cat and a dog") if s.label in ("blue", "bird", "remove")][:3]
    ['a blue cat and a dog', 'a red bird and a dog', 'a dog']
    """
    words = load_words()
    found, pairs = words.nouns(prompt), words.pairs(prompt)
    present = {noun.text.lower() for noun in found}
    for noun in found[:6]:
        mine = [adjective for adjective, described in pairs if described.span == noun.span]
        worn = next((word for word in mine if word.text.lower() in COLOURS), None)
        is_backdrop = noun.text.lower() in BACKDROPS
        for colour in () if is_backdrop else PALETTE:
            if worn is None:
                yield Suggestion("colour", noun.text, colour, insert_adjective(prompt, noun.span, colour))
            elif worn.text.lower() != colour:
                yield Suggestion("colour", noun.text, colour, replace_word(prompt, worn.span, colour))
        for thing in [thing for thing in (BACKDROPS if is_backdrop else THINGS) if thing not in present][:4]:
            yield Suggestion("swap", noun.text, thing, replace_word(prompt, noun.span, thing))
        if len(found) > 1 and (shorter := without(prompt, noun, mine)) != prompt:
            yield Suggestion("remove", noun.text, "remove", shorter)
    for thing in [thing for thing in THINGS if thing not in present][:4] if found else []:
        yield Suggestion("add", "", thing, f"{prompt.rstrip(' .,')} and a {thing}")


def without(prompt: str, noun: Word, adjectives: list[Word] | tuple[Word, ...] = ()) -> str:
    """A prompt without a noun, its adjectives, its article and what links it to the rest; as it is where nothing does.

    >>> without("a blue boat and a yellow ball", Word("ball", (25, 29)), [Word("yellow", (18, 24))])
    'a blue boat'
    """
    start = min([noun.span[0], *(word.span[0] for word in adjectives if word.span[0] < noun.span[0])])
    before, after = prompt[:start], prompt[noun.span[1] :]
    match = BEFORE.search(before)
    head = before[: match.start()] if match else before
    if not head.strip():  # it begins the prompt
        return AFTER.sub("", after, count=1)
    return (head.rstrip() + after).strip() if match and match["links"] else prompt


def changes(source: str, target: str) -> list[tuple[str, str]]:
    """The target prompt in pieces, each with what became of it: "same", "new", or "gone" for the source's words.

    >>> changes("a red cat", "a blue cat")
    [('same', 'a'), ('gone', 'red'), ('new', 'blue'), ('same', 'cat')]
    """
    pieces: list[tuple[str, str]] = []
    for change in word_changes(source, target):
        kinds = ["same"] if change.is_equal else ["gone", "new"]
        for kind in kinds:
            prompt, spans = (source, change.source) if kind == "gone" else (target, change.target)
            if spans:
                pieces.append((kind, _stretch(prompt, spans)))
    return pieces


def _stretch(prompt: str, spans: tuple[Span, ...]) -> str:
    return prompt[spans[0][0] : spans[-1][1]]
