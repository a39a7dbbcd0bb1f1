"""Nouns and adjectives of prompts, categories that captions name, and edits of a prompt's words.

Words are found by lemminflect's dictionary, offline, or by a spaCy pipeline where one is installed.
All spans index the prompt as it is given: ``prompt[start:stop]`` is the word.

- Nouns and their adjectives: :func:`load_words` gives a :class:`WordFinder`, which is
  :class:`DictionaryWords` or :class:`SpacyWords`; it finds each :class:`Word`.
- A prompt as all compare it: :func:`tidy`; one of its words: :func:`find_word`; in a regular expression:
  :func:`whole_word`.
- Categories: :class:`Vocabulary` finds each :class:`Named` category of a caption, with the words of
  :func:`load_synonyms` (``SYNONYMS`` is COCO's file).
- Edits: :func:`replace_word`, :func:`insert_adjective`, :func:`inflect`.
- Word lists: ``COLOURS``, ``MATERIALS``.
"""

from __future__ import annotations

from typing import Protocol

from locinv_pl.errors import InputError
from locinv_pl.words.dictionary import inflect
from locinv_pl.words.grammar import DictionaryWords
from locinv_pl.words.lexicon import COLOURS, MATERIALS
from locinv_pl.words.pipeline import SpacyWords
from locinv_pl.words.rewording import insert_adjective, replace_word
from locinv_pl.words.text import Word, find_word, tidy, whole_word
from locinv_pl.words.vocabulary import SYNONYMS, Named, Vocabulary, load_synonyms

__all__ = [
    "COLOURS",
    "MATERIALS",
    "SYNONYMS",
    "DictionaryWords",
    "Named",
    "SpacyWords",
    "Vocabulary",
    "Word",
    "WordFinder",
    "find_word",
    "inflect",
    "insert_adjective",
    "load_synonyms",
    "load_words",
    "replace_word",
    "tidy",
    "whole_word",
]


class WordFinder(Protocol):
    """Finds the words of a prompt that name things and describe them."""

    def nouns(self, prompt: str) -> list[Word]:
        """The nouns in the prompt's order; a compound ("wine glass") is one."""

    def pairs(self, prompt: str) -> list[tuple[Word, Word]]:
        """Each adjective with the noun that it describes, in the order of the adjectives."""


def load_words(name: str = "dictionary") -> WordFinder:
    """The word finder of this name.

    Args:
        name: "dictionary"; "spacy" for the best English spaCy pipeline installed; or "spacy:" and a
            pipeline's name or folder.

    Raises:
        InputError: there is no such finder, or it is not installed.

    >>> words = load_words()
    >>> [noun.text for noun in words.nouns("a red cat on a wine glass")]
    ['cat', 'wine glass']
    >>> [(adjective.text, noun.text) for adjective, noun in words.pairs("a red cat on a wine glass")]
    [('red', 'cat')]
    """
    kind, _, pipeline = name.partition(":")
    if name == "dictionary":
        return DictionaryWords()
    if kind == "spacy":
        return SpacyWords(pipeline)
    raise InputError(f"words {name!r}: no such word finder; use dictionary, spacy or spacy:PIPELINE")
