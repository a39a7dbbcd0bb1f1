"""Nouns and their adjectives by a spaCy pipeline, where one is installed."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

from locinv_pl.errors import InputError, one_line
from locinv_pl.words.lexicon import COLOURS, MEASURES, PLACES
from locinv_pl.words.text import Word

SPACY_PIPELINES = ("en_core_web_trf", "en_core_web_lg", "en_core_web_md", "en_core_web_sm")


class SpacyWords:
    """Finds nouns and adjectives by the tags and dependencies of a spaCy pipeline.

    Args:
        pipeline: its name or folder; "" for the best English one that is installed.

    Raises:
        InputError: spaCy or the pipeline is missing, or cannot be loaded.
    """

    def __init__(self, pipeline: str = "") -> None:
        try:
            spacy = importlib.import_module("spacy")
        except ImportError:
            raise InputError("words spacy: spaCy is not installed; pip install spacy, or use dictionary") from None
        self.name = pipeline or next(filter(spacy.util.is_package, SPACY_PIPELINES), "")
        if not self.name:
            raise InputError(
                "words spacy: no English pipeline is installed; python -m spacy download en_core_web_sm, "
                "or use dictionary"
            )
        try:
            self._read = lru_cache(maxsize=1 << 10)(spacy.load(self.name))
        except (OSError, ValueError, ImportError) as error:
            raise InputError(
                f"words spacy:{self.name}: no such pipeline, or it does not load ({one_line(str(error))}); "
                f"name an installed pipeline or its folder"
            ) from None

    def nouns(self, prompt: str) -> list[Word]:
        """The nouns in the prompt's order; a compound ("wine glass") is one.

        Raises:
            InputError: the pipeline does not tag or parse.
        """
        return sorted(set(self._nouns(prompt).values()), key=lambda word: word.span)

    def pairs(self, prompt: str) -> list[tuple[Word, Word]]:
        """Each adjective with the noun that it describes, in the order of the adjectives.

        Raises:
            InputError: the pipeline does not tag or parse.
        """
        nouns = self._nouns(prompt)
        described = ((_spacy_word(prompt, token, token), _described(token)) for token in self._parse(prompt))
        return [(word, nouns[noun.i]) for word, noun in described if noun is not None and noun.i in nouns]

    def _nouns(self, prompt: str) -> dict[int, Word]:
        """The nouns by the positions of their tokens, one noun for all parts of a compound."""
        found: dict[int, Word] = {}
        for last in reversed(self._parse(prompt)):
            if last.i in found or not _names_thing(last):
                continue
            first = last
            while first.i and first.nbor(-1).dep_ == "compound" and first.i <= first.nbor(-1).head.i <= last.i:
                first = first.nbor(-1)
            word = _spacy_word(prompt, first, last)
            found |= {i: word for i in range(first.i, last.i + 1)}
        return found

    def _parse(self, prompt: str) -> Any:
        doc = self._read(prompt)
        if len(doc) and not (doc.has_annotation("POS") and doc.has_annotation("DEP")):
            raise InputError(f"words spacy:{self.name}: it has no tagger or no parser; name a pipeline with both")
        return doc


def _spacy_word(prompt: str, first: Any, last: Any) -> Word:
    span = first.idx, last.idx + len(last)
    return Word(prompt[slice(*span)], span)


def _names_thing(token: Any) -> bool:
    """Whether a spaCy token is a noun that names a thing: not a place, a colour or a count ("a group of")."""
    if token.pos_ not in ("NOUN", "PROPN") or token.lower_ in COLOURS | PLACES:
        return False
    followed = token.i + 1 < len(token.doc) and token.nbor().lower_ == "of"
    return not (followed and token.lower_ in MEASURES)


def _described(token: Any) -> Any:
    """The spaCy token of the noun that an adjective's token describes; None where it describes none."""
    head = token.head
    if token.dep_ == "amod":
        return head
    if token.dep_ == "conj" and token.pos_ in ("ADJ", "VERB") and head.i != token.i:
        return _described(head)
    if token.dep_ not in ("acomp", "attr") or token.pos_ != "ADJ" or head.pos_ != "AUX":
        return None
    subject = next((child for child in head.children if child.dep_ == "nsubj"), None)
    relative = subject is not None and subject.pos_ == "PRON" and head.dep_ == "relcl"
    return head.head if relative else subject
