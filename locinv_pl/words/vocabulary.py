"""Categories that captions name, and the words that mean them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from locinv_pl.configs import CONFIGS
from locinv_pl.errors import InputError
from locinv_pl.io.reading import read_yaml
from locinv_pl.types import Span
from locinv_pl.words.dictionary import Can, can_be, inflect, is_invariant, is_plural, lemmas, singulars
from locinv_pl.words.grammar import DictionaryWords
from locinv_pl.words.lexicon import DETERMINERS, FILLERS, PLURAL
from locinv_pl.words.text import LETTER, Word

SYNONYMS = CONFIGS / "words" / "coco.yaml"

Phrase = tuple[str, ...]  # lower-case words

CATEGORY_WORD = re.compile(f"(?:(?!_){LETTER})+")
JOINERS = " \t\r\n_-‐‑'’"  # between the words of one phrase


@dataclass(frozen=True)
class Named:
    """A category that a prompt names.

    Args:
        name: the category, as the data set spells it.
        word: the prompt's word for it.
        plural: the prompt says it in the plural.
    """

    name: str
    word: Word
    plural: bool


class Vocabulary:
    """The categories of a data set and the words that mean them in captions.

    A caption names a category by its name, in either number and any case, or by a synonym. Of the
    expressions at one place the longest counts: "hot dog" is no dog. The expressions of ``synonyms``
    whose category the data set lacks count as well, so that without a category "teddy bear", "a teddy
    bear" is no bear. A word that describes another names nothing: "an orange cat".

    Annotation files made by hand misspell their categories ("Banan", "Bycicle", "Girafe"), while the
    captions come from others, who do not. A name that neither the dictionary nor ``synonyms`` has is
    therefore taken for the closest name of ``synonyms``, or else for any noun of the dictionary that is
    close to it: one edit away (a letter more, less or wrong, or two swapped), two from seven letters
    on, and with the same first letter. Names of fewer than five letters are taken as they are.

    Args:
        names: the categories as the data set spells them; "Traffic_Light" and "traffic light" are one.
        synonyms: for the names of categories the words that mean them, see :func:`load_synonyms`; none by default.

    >>> found = Vocabulary(["dog", "hot dog"], load_synonyms()).find("two puppies and a hot dog")
    >>> [(named.name, named.word.text, named.plural) for named in found]
    [('dog', 'puppies', True), ('hot dog', 'hot dog', False)]
    """

    def __init__(self, names: Iterable[str], synonyms: Mapping[str, Sequence[str]] | None = None) -> None:
        table = {_singular(_phrase(key)): [*map(_phrase, words)] for key, words in (synonyms or {}).items()}
        own = {phrase: name for name in reversed(list(names)) if (phrase := _phrase(name))}  # the first of a name
        strange = _strange(own, table)
        keys = {form: own[phrase] for phrase in own for form in _forms(phrase) if form in table}
        spelled = {" ".join(key): key for key in table if key not in keys}
        for phrase in strange:
            if close := _closest(" ".join(phrase), spelled):
                keys[spelled[close]] = own[phrase]

        self._meant: dict[Phrase, str | None] = {}  # None hides what the phrase contains
        for key in sorted(table, key=keys.__contains__):  # a word of two keys means the one with a category
            self._meant |= {_singular(phrase): keys.get(key) for phrase in (key, *table[key])}
        self._meant |= {(*phrase[:-1], inflect(phrase[-1], True)): name for phrase, name in own.items()}
        self._meant |= {_singular(phrase): name for phrase, name in own.items()}
        self._misspelled = {phrase[0]: own[phrase] for phrase in strange if len(phrase) == 1}
        self._longest: dict[str, int] = {}
        for phrase in self._meant:
            self._longest[phrase[0]] = max(len(phrase), self._longest.get(phrase[0], 0))
        self._singles: dict[str, str | None] = {}

    def find(self, prompt: str) -> list[Named]:
        """The categories that a prompt names, in its order.

        Adjacent words that name the same category are one mention: "a pug dog".
        """
        spans = [match.span() for match in CATEGORY_WORD.finditer(prompt)]
        words = [prompt[start:stop].lower() for start, stop in spans]
        found: list[Named] = []
        i = 0
        while i < len(words):
            name, stop = self._match(prompt, words, spans, i)
            if name is not None:
                first = spans[i][0]
                if found and found[-1].name == name and not prompt[found[-1].word.span[1] : first].strip(JOINERS):
                    first = found.pop().word.span[0]  # "a pug dog" is one
                span = first, spans[stop - 1][1]
                found.append(Named(name, Word(prompt[slice(*span)], span), _says_plural(words[:stop])))
            i = stop
        return found

    def _match(self, prompt: str, words: list[str], spans: list[Span], i: int) -> tuple[str | None, int]:
        """What the longest expression that begins at word i means, and where it stops."""
        for stop in range(min(i + self._longest.get(words[i], 1), len(words)), i + 1, -1):
            form = self._known(tuple(words[i:stop]))
            gaps = (prompt[spans[j][1] : spans[j + 1][0]] for j in range(i, stop - 1))
            if form is not None and not any(gap.strip(JOINERS) for gap in gaps):
                return self._meant[form], stop
        if words[i] not in self._singles:
            self._singles[words[i]] = self._single(words[i])
        name = self._singles[words[i]]
        return (None if name is not None and _describes(prompt, words[i], spans[i]) else name), i + 1

    def _known(self, phrase: Phrase) -> Phrase | None:
        return next((form for form in _forms(phrase) if form in self._meant), None)

    def _single(self, word: str) -> str | None:
        """The category that one word names."""
        form = self._known((word,))
        name = None if form is None else self._meant[form]
        nouns = [noun for (noun,) in _forms((word,)) if "NOUN" in lemmas(noun)]
        close = ((_edits(wrong, noun), wrong) for wrong in self._misspelled for noun in nouns if _is_close(wrong, noun))
        return name or self._misspelled.get(min(close, default=(0, ""))[1])


def load_synonyms(path: Path | None = None) -> dict[str, tuple[str, ...]]:
    """Words that mean the categories of a data set, and the fixed expressions that mean none.

    Args:
        path: a YAML file of lists of words, each under the name of its category; None (the default) for COCO's.

    Raises:
        InputError: the file is missing or malformed.

    >>> load_synonyms()["dog"][:3]
    ('puppy', 'puppy dog', 'pup')
    """
    path = path or SYNONYMS
    table = read_yaml(path, "name a file of synonyms")
    if not isinstance(table, dict):
        raise InputError(f"{path}: holds no categories; write lines as 'dog: [puppy, pug]'")
    for name, words in table.items():
        texts = [name, *words] if isinstance(words, list) else []
        if not texts or not all(isinstance(text, str) and _phrase(text) for text in texts):
            raise InputError(f"{path}: {name!r} has no list of words; write it as 'dog: [puppy, pug]'")
    return {name: tuple(words) for name, words in table.items()}


def _phrase(text: str) -> Phrase:
    return tuple(CATEGORY_WORD.findall(text.lower()))


def _forms(phrase: Phrase) -> list[Phrase]:
    """A phrase as it is, then with its last word in the singular where that is another word."""
    *first, last = phrase
    return [(*first, form) for form in dict.fromkeys((last, *reversed(singulars(last))))]


def _singular(phrase: Phrase) -> Phrase:
    """A phrase in the singular, unless it is a name as it is: "glasses"."""
    return phrase if phrase[-1] in singulars(phrase[-1]) else _forms(phrase)[-1]


def _strange(own: Iterable[Phrase], table: Mapping[Phrase, Iterable[Phrase]]) -> list[Phrase]:
    """The names of categories with a long word that is neither in the table nor a noun or adjective."""
    known = {word for key, words in table.items() for phrase in (key, *words) for word in (*phrase, *_forms(phrase))}

    def is_strange(word: str) -> bool:
        return len(word) >= 5 and word not in known and not {"NOUN", "ADJ"} & lemmas(word).keys()

    return [phrase for phrase in own if known.isdisjoint(_forms(phrase)) and any(map(is_strange, phrase))]


def _closest(wrong: str, words: Iterable[str]) -> str | None:
    """The word that a misspelled one means, if one is close."""
    return min((word for word in words if _is_close(wrong, word)), key=lambda word: _edits(wrong, word), default=None)


def _is_close(wrong: str, word: str) -> bool:
    allowed = 0 if len(wrong) < 5 else 1 if len(wrong) < 7 else 2
    return wrong[0] == word[0] and abs(len(wrong) - len(word)) <= allowed and _edits(wrong, word) <= allowed


def _edits(one: str, other: str) -> int:
    """Letters to insert, delete, replace or swap with their neighbour to make one word of the other."""
    before, row = [0] * (len(other) + 1), list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        older, before, row = before, row, [i]
        for j, wanted in enumerate(other, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return row[-1]


def _describes(prompt: str, word: str, span: Span) -> bool:
    """Whether a word that can be both, as "orange", is an adjective here and no noun."""
    if Can.ADJECTIVE | Can.NOUN not in can_be(word):
        return False
    return not any(noun.span[0] <= span[0] and span[1] <= noun.span[1] for noun in DictionaryWords().nouns(prompt))


def _says_plural(words: Sequence[str]) -> bool:
    """Whether the last of some lower-case words is a plural; a bare "sheep" is, "a sheep" is not."""
    *before, noun = words
    if is_plural(noun) or not is_invariant(noun):
        return is_plural(noun)
    skipped = Can.ADJECTIVE | Can.PAST
    word = next((word for word in reversed(before) if word not in FILLERS and not can_be(word) & skipped), "")
    return word in PLURAL or word.isdecimal() or word not in DETERMINERS
