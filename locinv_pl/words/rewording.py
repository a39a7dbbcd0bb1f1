"""Edits of a prompt's words."""

from __future__ import annotations

import re
import unicodedata

from locinv_pl.types import Span
from locinv_pl.words.dictionary import lemmas
from locinv_pl.words.text import LETTER, whole_word

ARTICLE = re.compile(whole_word("an?") + r"(?=\s+$)", re.IGNORECASE)
CONSONANT_SOUND = rf"eu|ewe|once|one(?!r)|u(?:ni(?![dmn])|[kst][aeiou]|r[ai]|bi|(?!{LETTER}))"  # "a unicorn"
SILENT_LETTER = rf"heir|honest|hono|hour|8|1[18](?!\d)|(?:fm|lcd|led|mri|suv|x-?ray)(?!{LETTER})"  # "an hour"
VOWEL_SOUND = re.compile(rf"(?!{CONSONANT_SOUND})[aeiou]|{SILENT_LETTER}")


def replace_word(prompt: str, span: Span, new: str) -> str:
    """The prompt with other words in a span; "a" or "an" directly before it agrees with them.

    The sound that a word begins with is told by its letters, with a few exceptions ("a unicorn",
    "an hour"). Where the span begins the prompt with a capital, so do the new words.

    Args:
        prompt: the prompt to change.
        span: the characters to replace, ``prompt[start:stop]``.
        new: the words that take their place.

    >>> replace_word("a cat on grass", (2, 5), "owl")
    'an owl on grass'
    """
    start, stop = span
    before, old = prompt[:start], prompt[start:stop]
    if old[:1].isupper() and not re.search(r"\w", before):
        new = new[:1].upper() + new[1:]
    article = ARTICLE.search(before)
    if article is not None and new.strip():
        an = article[0][0] + ("n" if _begins_with_vowel(new) else "")
        before = before[: article.start()] + an + before[article.end() :]
    return before + new + prompt[stop:]


def _begins_with_vowel(text: str) -> bool:
    letters = unicodedata.normalize("NFKD", text.casefold()).lstrip(" \t\n\"'“‘(")
    return VOWEL_SOUND.match(letters) is not None


def insert_adjective(prompt: str, noun: Span, adjective: str) -> str:
    """The prompt with an adjective directly before a noun; "a" or "an" before it agrees.

    Args:
        prompt: the prompt to change.
        noun: the noun's characters, ``prompt[start:stop]``.
        adjective: the word to insert, as "orange".

    >>> insert_adjective("a cat on grass", (2, 5), "orange")
    'an orange cat on grass'
    """
    word = prompt[slice(*noun)]
    if not re.search(r"\w", prompt[: noun[0]]) and word[1:].islower() and lemmas(word.lower()):
        word = word[0].lower() + word[1:]  # no name: a name, as "London", has no entry
    return replace_word(prompt, noun, f"{adjective} {word}")
