"""Lemminflect's dictionary: lemmas, the number of nouns and what a word can be."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from enum import Flag, auto
from functools import cache, lru_cache
from importlib.abc import MetaPathFinder
from os.path import commonprefix
from typing import Any

from locinv_pl.words.lexicon import (
    ADJUNCTS,
    COLOURS,
    COMMON_PLURALS,
    INVARIANT_PASTS,
    MATERIALS,
    MISSING_NOUNS,
    ONLY_PLURAL,
    PLACES,
)
from locinv_pl.words.text import LETTER


@cache
def _lemminflect() -> Any:
    """The library, without spaCy, for which it has hooks: to import that takes seconds."""
    without = _WithoutSpacy()
    sys.meta_path.insert(0, without)
    try:
        import lemminflect
    finally:
        sys.meta_path.remove(without)
    return lemminflect


class _WithoutSpacy(MetaPathFinder):
    """Finds no spaCy."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        """Say that there is none."""
        if fullname == "spacy":
            raise ImportError(fullname)


@lru_cache(maxsize=1 << 16)
def lemmas(word: str) -> Mapping[str, tuple[str, ...]]:
    """The lemmas of a lower-case word by part of speech; nothing for a word that no dictionary has."""
    found: dict[str, tuple[str, ...]] = _lemminflect().getAllLemmas(word)
    missing = MISSING_NOUNS & {word, word.removesuffix("s"), *found.get("VERB", ())}
    return {**found, "NOUN": tuple(missing)} if missing else found


@lru_cache(maxsize=1 << 16)
def _plurals(noun: str) -> tuple[str, ...]:
    """The dictionary's plurals of a lower-case singular noun, the most common first."""
    if noun in COMMON_PLURALS:
        return (COMMON_PLURALS[noun],)
    return tuple(_lemminflect().getInflection(noun, "NNS", inflect_oov=False))


@lru_cache(maxsize=1 << 16)
def singulars(word: str) -> tuple[str, ...]:
    """What a lower-case word may be the plural of, itself included where it may be a singular."""
    if word == COMMON_PLURALS["person"]:
        return ("person", word)
    found = lemmas(word)
    if found or not word.endswith("s") or word.endswith("ss"):
        return found.get("NOUN") or (word,)
    endings = (("s", ""), ("es", ""), ("ies", "y"))  # of a word that the dictionary lacks: "tvs"
    return tuple(word.removesuffix(plural) + singular for plural, singular in endings if word.endswith(plural))


def is_plural(word: str) -> bool:
    """Whether a lower-case noun can be a plural only."""
    return word in ONLY_PLURAL or word not in singulars(word)[:1]


def _is_graded(word: str) -> bool:
    """Whether a lower-case adjective has a comparative."""
    from lemminflect import getAllInflections

    return "JJR" in getAllInflections(word, "ADJ")


def is_invariant(word: str) -> bool:
    """Whether a lower-case noun is its own plural, as "sheep"."""
    return word not in ONLY_PLURAL and word in _plurals(word)[:1]


def inflect(noun: str, plural: bool) -> str:
    """A noun in the plural or the singular; of a compound the last word changes.

    Args:
        noun: "dog", "dining table", in either number.
        plural: True for "dogs", "dining tables"; False for "dog", "dining table".

    >>> inflect("dining table", plural=True), inflect("mice", plural=False)
    ('dining tables', 'mouse')
    """
    last = re.search(rf"{LETTER}+(?=\W*$)", noun)
    if last is None:
        return noun
    word = last[0].lower()
    singular = singulars(word)[0] if is_plural(word) else word
    wanted = (_plurals(singular) or (_regular_plural(singular),))[0] if plural else singular
    return noun if wanted == word else noun[: last.start()] + _cased_like(last[0], wanted) + noun[last.end() :]


def _regular_plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s")


def _cased_like(model: str, word: str) -> str:
    """``word`` in the case of ``model``: "Mice" for "Mouse", "DOGS" for "DOG", "TVs" for "TV"."""
    if model.isupper() and lemmas(model.lower()):
        return word.upper()
    shared = len(commonprefix([model.lower(), word]))
    return model[:shared] + word[shared:]


class Can(Flag):
    """What a word can be."""

    NOTHING = 0
    NOUN = auto()
    PLURAL = auto()  # a noun in the plural only
    INVARIANT = auto()  # a noun in either number
    ADJECTIVE = auto()
    GRADED = auto()  # an adjective with a comparative, which hardly ever names a thing
    VERB = auto()  # finite, or an infinitive
    ING = auto()
    PAST = auto()  # or a past participle
    ADVERB = auto()


@lru_cache(maxsize=1 << 16)
def can_be(word: str) -> Can:
    """What the dictionary says that a lower-case word can be; a word that it lacks is a noun, or as it ends."""
    found = lemmas(word)
    if not found:
        return _guess(word)
    can = Can.ADVERB if "ADV" in found else Can.NOTHING
    if "ADJ" in found and word not in ADJUNCTS or word in COLOURS | MATERIALS or word.endswith("ible"):
        can |= Can.ADJECTIVE | (Can.GRADED if _is_graded(word) else Can.NOTHING)
    base = word in found.get("VERB", ())
    if "VERB" in found and not base and word.endswith("ing"):
        return can | Can.ING
    if word in INVARIANT_PASTS or "VERB" in found and not base and word.endswith("ed"):
        return can | Can.PAST
    if "NOUN" in found:
        can |= _number(word)
    if base:
        return can | Can.VERB
    if "VERB" in found and word.endswith("s"):
        return can | Can.VERB | (Can.PLURAL if Can.NOUN in can else Can.NOTHING)
    return can | Can.PAST if "VERB" in found and Can.NOUN not in can else can


def _guess(word: str) -> Can:
    *first, last = re.split("[-‐‑]", word)
    if first and last:
        can = (can_be(last) | Can.ADJECTIVE) & ~Can.VERB
        return can & ~Can.NOUN if last in COLOURS | PLACES else can
    for ending, can in {"ing": Can.ING, "ed": Can.PAST, "ly": Can.ADVERB}.items():
        if word.endswith(ending):
            return can
    return _number(word)


def _number(noun: str) -> Can:
    if is_plural(noun):
        return Can.NOUN | Can.PLURAL
    return Can.NOUN | Can.INVARIANT if is_invariant(noun) else Can.NOUN
