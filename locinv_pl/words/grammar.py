"""Nouns and their adjectives by the dictionary and the grammar of the noun phrase."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from locinv_pl.types import Span
from locinv_pl.words.dictionary import Can, can_be, singulars
from locinv_pl.words.lexicon import (
    BEFORE_VERBS,
    CLOSED,
    COLOURS,
    COMPOUNDS,
    DIRECTIONS,
    ING_PURPOSES,
    ING_THINGS,
    MEASURES,
    PLACES,
    PLURAL,
    SINGULAR,
)
from locinv_pl.words.text import LETTER, Word

CLITIC = rf"['’](?:d|ll|m|re|s|t|ve)(?!{LETTER})"
TOKEN = re.compile(rf"{CLITIC}|{LETTER}+(?:[-‐‑]{LETTER}+|(?!{CLITIC})['’]{LETTER}+)*|\S", re.IGNORECASE)
PHRASE = re.compile("(?P<governor>p?)[drM]*(?P<adjectives>(?:A[rc]*)*)(?P<noun>Nn*)")
PREDICATE = re.compile("(?P<relative>(?:c?t)?)br*(?P<adjectives>P(?:[rc]*P)*)")


@dataclass(frozen=True)
class _Token:
    """A word or sign of a prompt; ``kind`` is its closed class, "w" where it has none."""

    text: str
    span: Span
    word: str
    kind: str
    can: Can


def _tokens(prompt: str) -> list[_Token]:
    return [_token(match[0], match.span()) for match in TOKEN.finditer(prompt)]


def _token(text: str, span: Span) -> _Token:
    word = text.lower()
    if text[0] in "'’" and len(text) > 1:
        return _Token(text, span, word, "g" if word[1:] == "s" else "o", Can.NOTHING)
    kind = CLOSED.get(word) or ("d" if word.isdecimal() else "w" if re.match(LETTER, word) else ".")
    if kind != "w":
        return _Token(text, span, word, kind, Can.NOTHING)
    can = can_be(word)
    return _Token(text, span, word, "r" if can == Can.ADVERB else kind, can)


class _Tagger:
    """Gives every token of a prompt one tag, from left to right.

    A tag is the token's closed class (d determiner, r filler or adverb, c coordinator, p preposition,
    b copula, t relative, s subject, g possessive, o other) or what an open word is: A adjective before
    its noun, N noun, n the next noun of a compound, M noun within an adjective ("snow covered"),
    P adjective with no noun after it, V verb.

    The dictionary lets most words be several of these. What stands around a word decides: a noun
    phrase agrees with its article in number ("a man rides"), a plural ends it ("horses graze"), two
    phrases do not touch ("the man rides a horse"), an adjective has a noun after it ("an orange cat").
    """

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self.tokens = tokens
        self.tags = ""
        self.predicate = False  # after a copula
        self.joined = False  # the phrase is the second of "a cat and a dog"
        self._begin(None)

    def _begin(self, number: int | None) -> None:
        """Begin a noun phrase; its number is 1, 2, 0 if either, None if nothing announced the phrase."""
        self.number = number
        self.head: Can | None = None
        self.described = self.ended = False

    def run(self) -> str:
        """The tags, one letter each."""
        for i, token in enumerate(self.tokens):
            tag = self._open(i) if token.kind == "w" else self._closed(i)
            self.tags += tag
        return self.tags

    def _closed(self, i: int) -> str:
        word, kind = self.tokens[i].word, self.tokens[i].kind
        self.predicate = kind == "b" or self.predicate and kind in "rc"
        self.joined = self.joined and kind in "cdr" or kind == "c" and self.head is not None
        if kind == "r":
            self.ended = self.head is not None
        elif kind == "c":
            if not self.described:
                self._begin(None)
        elif kind == "d":
            if word == "that" and self.head is not None:
                kind = "t"
            number = 1 if word in SINGULAR else 2 if word in PLURAL or word.isdecimal() else 0
            self._begin(None if kind == "t" else number)
        elif word == "of":
            self._begin(2 if i and self.tokens[i - 1].word in MEASURES else 0)
        else:
            self._begin(0 if kind == "g" or kind == "p" and word not in BEFORE_VERBS else None)
        return kind

    def _open(self, i: int) -> str:
        can = self.tokens[i].can
        if (self.tokens[i].word, singulars(self._word(i + 1))[0]) in COMPOUNDS:
            tag = "N"
        elif Can.ING in can:
            tag = self._ing(i)
        elif Can.PAST in can:
            tag = self._past(i)
        else:
            tag = self._before_noun(i) if self.head is None or self.ended else self._after_noun(i, self.head)
        if tag in "VP" or tag in "AN" and self.head is not None:
            self._begin(None)
        self.described = tag == "A"
        self.head = can if tag in "Nn" else None
        self.predicate &= tag == "P"
        self.joined &= tag in "ANn"
        return tag

    def _before_noun(self, i: int) -> str:
        can = self.tokens[i].can
        if Can.VERB in can and (self.ended or self._wants_verb(i)):
            return "V"
        if Can.ADJECTIVE in can:
            if self._leads(i):
                return "A"
            if self.predicate and self.number is None:
                return "P"
        if self._is_thing(i) and not (Can.GRADED in can and self.number is None):
            return "N"
        return "P" if Can.ADJECTIVE in can and self.tokens[i].word not in PLACES else "V"

    def _after_noun(self, i: int, head: Can) -> str:
        can = self.tokens[i].can
        if not self._is_thing(i):
            return "V" if Can.ADJECTIVE not in can else "A" if self._leads(i) else "P"
        plural = Can.PLURAL in can
        if Can.PLURAL in head and self.number != 1:
            return "V" if Can.VERB in can else "N"
        if Can.VERB not in can:
            return "n"
        agrees = Can.INVARIANT in head if not plural else Can.PLURAL not in head
        if agrees and self.number == (1 if plural else 2):
            return "V"
        return "V" if self._kind(i + 1) == "d" or (plural or self.joined) and self._goes_on(i + 1) else "n"

    def _ing(self, i: int) -> str:
        word = self.tokens[i].word
        thing = word in ING_THINGS and self._kind(i + 1) != "d"
        if self.head is not None and not self.ended:
            return "n" if thing and Can.PLURAL not in self.head else "V"
        if (self.number is not None or self.described) and self._leads(i):
            return "N" if word in ING_PURPOSES else "A"
        return "N" if thing else "V"

    def _past(self, i: int) -> str:
        if self.head is None or self.ended:
            if self._leads(i) and not self._wants_verb(i):
                return "A"
        elif Can.PLURAL not in self.head and self._leads(i, past_ing=False):
            # "a snow covered hill": what seemed the noun belongs to the adjective
            self.tags = re.sub("Nn*$", lambda nouns: "M" * len(nouns[0]), self.tags)
            self.head = None
            return "A"
        passive = self._kind(i + 1) in ("p", "r")  # "is parked near", but "is closed"
        return "P" if Can.ADJECTIVE in self.tokens[i].can and not passive else "V"

    def _wants_verb(self, i: int) -> bool:
        """Whether a subject or an infinitive's "to" stands before word i."""
        if self.tags[-1:] in ("s", "t"):
            return True
        infinitive = self._word(i - 1) == "to" and self._word(i - 2) not in ("next", "close", "up")
        return infinitive and Can.PLURAL not in self.tokens[i].can

    def _leads(self, i: int, past_ing: bool = True) -> bool:
        """Whether only describing words, joined by commas and "and", stand between word i and a noun.

        Verbs in -ing describe where ``past_ing`` and word i is no thing itself ("a human eating pizza").
        """
        past_ing = past_ing and (not self._is_thing(i) or Can.GRADED in self.tokens[i].can)
        joined = False
        for j in range(i + 1, len(self.tokens)):
            token = self.tokens[j]
            if token.kind in "rc":
                joined |= token.kind == "c"
                continue
            describes = Can.ADJECTIVE in token.can or Can.PAST in token.can
            if token.kind != "w" or joined and not describes:
                return False
            if self._is_noun_ahead(j):
                return True
            if not describes and not (past_ing and Can.ING in token.can):
                return False
            joined = False
        return False

    def _is_thing(self, i: int) -> bool:
        """Whether word i can be a noun that names a thing."""
        token = self.tokens[i]
        return Can.NOUN in token.can and token.word not in COLOURS | PLACES

    def _is_noun_ahead(self, i: int) -> bool:
        token = self.tokens[i]
        if Can.ING in token.can:
            return token.word in ING_THINGS
        predicate = self.predicate and Can.GRADED in token.can  # "is orange and old"
        return self._is_thing(i) and not predicate and not (Can.VERB in token.can and self._kind(i + 1) == "d")

    def _goes_on(self, i: int) -> bool:
        """Whether at word i stands a direction or an adverb, what follows verbs."""
        return self._word(i) in DIRECTIONS or i < len(self.tokens) and self.tokens[i].can == Can.ADVERB

    def _word(self, i: int) -> str:
        return self.tokens[i].word if 0 <= i < len(self.tokens) else ""

    def _kind(self, i: int) -> str:
        return self.tokens[i].kind if i < len(self.tokens) else ""


@dataclass(frozen=True)
class _Phrase:
    """A noun with the adjectives before it; ``governed`` by a preposition; its tokens end at ``stop``."""

    noun: Word
    adjectives: tuple[Word, ...]
    governed: bool
    stop: int


class DictionaryWords:
    """Finds nouns and adjectives by lemminflect's dictionary and the grammar of the noun phrase.

    It needs no model and gives the same answer everywhere. It knows no meanings and errs where only the
    meaning decides: without an article, a noun and a verb in -s look like a compound ("Cat sleeps on a
    bed"), as do a noun and the verb of "a boy and a girl hold hands"; and a past tense before a bare
    noun looks like a participle ("a boy kicked balls", as "a snow covered hill"). Adjectives are found
    directly before their noun and after "is", not after it otherwise ("a bus full of people").
    """

    def nouns(self, prompt: str) -> list[Word]:
        """The nouns in the prompt's order; a compound ("wine glass") is one.

        Words that count or frame ("a group of people"), places ("the side of") and colours are none.
        """
        return list(_analyse(prompt)[0])

    def pairs(self, prompt: str) -> list[tuple[Word, Word]]:
        """Each adjective with the noun that it describes, in the order of the adjectives."""
        return list(_analyse(prompt)[1])


@lru_cache(maxsize=1 << 10)
def _analyse(prompt: str) -> tuple[tuple[Word, ...], tuple[tuple[Word, Word], ...]]:
    """The nouns and the (adjective, noun) pairs of a prompt."""
    tokens = _tokens(prompt)
    tags = _Tagger(tokens).run()
    phrases = list(_phrases(prompt, tokens, tags))
    pairs = [(adjective, phrase.noun) for phrase in phrases for adjective in phrase.adjectives]
    pairs += _predicates(phrases, tokens, tags)
    return tuple(phrase.noun for phrase in phrases), tuple(sorted(pairs, key=lambda pair: pair[0].span))


def _phrases(prompt: str, tokens: Sequence[_Token], tags: str) -> Iterator[_Phrase]:
    for match in PHRASE.finditer(tags):
        first, stop = match.span("noun")
        counts = stop - first == 1 and tokens[first].word in MEASURES
        if not (counts and stop < len(tokens) and tokens[stop].word == "of"):
            span = tokens[first].span[0], tokens[stop - 1].span[1]
            adjectives = _marked("A", tokens, tags, match.span("adjectives"))
            yield _Phrase(Word(prompt[slice(*span)], span), adjectives, bool(match["governor"]), stop)


def _predicates(phrases: Sequence[_Phrase], tokens: Sequence[_Token], tags: str) -> Iterator[tuple[Word, Word]]:
    """Adjectives after "is": they describe its subject, which no preposition governs."""
    subject: Word | None = None
    for phrase in phrases:
        subject = subject if phrase.governed else phrase.noun
        match = PREDICATE.match(tags, phrase.stop)
        described = phrase.noun if match and match["relative"] else subject
        if match and described:
            yield from ((word, described) for word in _marked("P", tokens, tags, match.span("adjectives")))


def _marked(tag: str, tokens: Sequence[_Token], tags: str, span: Span) -> tuple[Word, ...]:
    return tuple(Word(tokens[i].text, tokens[i].span) for i in range(*span) if tags[i] == tag)
