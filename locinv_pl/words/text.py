"""Words of a prompt and their places in it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from locinv_pl.errors import InputError, quoted
from locinv_pl.types import Span

LETTER = r"[\w\u0300-\u036f]"  # combining accents belong to their letter


@dataclass(frozen=True)
class Word:
    """A word or compound of a prompt, as the prompt spells it: ``prompt[start:stop] == text``."""

    text: str
    span: Span


def tidy(text: str) -> str:
    """A prompt in the form that the whole package uses: on one line, single spaces, in NFC as the tokenizers have it.

    >>> tidy("  a cat  on grass ")
    'a cat on grass'
    """
    return unicodedata.normalize("NFC", " ".join(text.split()))


def whole_word(pattern: str) -> str:
    """A regular expression that finds ``pattern`` as whole words only.

    >>> bool(re.search(whole_word("cat"), "a cat")), bool(re.search(whole_word("cat"), "cats"))
    (True, False)
    """
    return rf"(?<!{LETTER})(?:{pattern})(?!{LETTER})"


def find_word(prompt: str, word: str) -> list[Span]:
    """The places of a word in a prompt: whole words, in any case, with accents in any form.

    Args:
        prompt: the text to search.
        word: a word, or several that stand together ("wine glass").

    Returns:
        The word's spans (start, stop) in characters, in the prompt's order; at least one.

    Raises:
        InputError: the prompt doesn't have the word.

    >>> find_word("a cat and a Cat", "cat")
    [(2, 5), (12, 15)]
    """
    forms = {unicodedata.normalize(form, word.strip()) for form in ("NFC", "NFD")}
    pattern = whole_word("|".join(re.escape(form) for form in sorted(forms)))
    spans = [match.span() for match in re.finditer(pattern, prompt, re.IGNORECASE)] if word.strip() else []
    if not spans:
        raise InputError(f"word {word!r} is not in the prompt {quoted(prompt)}; name a word of the prompt")
    return spans
