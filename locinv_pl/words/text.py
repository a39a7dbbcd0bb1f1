"""Words of a prompt and their places in it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from locinv_pl.errors import InputError
from locinv_pl.types import Span

LETTER = r"[\w\u0300-\u036f]"  # combining accents belong to their letter


@dataclass(frozen=True)
class Word:
    """A word or compound of a prompt, as the prompt spells it: ``prompt[start:stop] == text``."""

    text: str
    span: Span


def tidy(text: str) -> str:
    """A prompt as all of the package has it: on one line, accents with their letters (NFC) as the tokenizers do."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def whole_word(pattern: str) -> str:
    """A regular expression that finds ``pattern`` as whole words only."""
    return rf"(?<!{LETTER})(?:{pattern})(?!{LETTER})"


def find_word(prompt: str, word: str) -> list[Span]:
    """Character spans of a word (or several) in a prompt: whole words, any case, accents in any form.

    Raises:
        InputError: it is not there.
    """
    forms = {unicodedata.normalize(form, word.strip()) for form in ("NFC", "NFD")}
    pattern = whole_word("|".join(re.escape(form) for form in sorted(forms)))
    spans = [match.span() for match in re.finditer(pattern, prompt, re.IGNORECASE)] if word.strip() else []
    if not spans:
        raise InputError(f"word {word!r} is not in the prompt {prompt!r}; name a word of the prompt")
    return spans
