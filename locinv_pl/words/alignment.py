"""Which token of the target prompt takes over which token of the source prompt.

Prompt-to-Prompt (Hertz et al., arXiv 2208.01626) injects the source's cross-attention maps into the target.
Word swaps and refinements are one alignment here: words that both prompts have in common take over their own
map, a word that stands in another's place takes over that one's, and a new word keeps the map that it gets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from locinv_pl.types import Span, overlap
from locinv_pl.words import load_words
from locinv_pl.words.tokens import Tokens

Kind = Literal["word_swap", "attribute", "add", "remove", "same"]
PREPOSITIONS = {"with", "without", "of", "on", "in", "at", "by", "near", "under", "over", "behind", "beside", "from"}
GAP = 1e-3  # what a break between common words costs, of a word


@dataclass(frozen=True)
class Change:
    """A stretch of the prompts: words of the source and the words that the target has in their place.

    Args:
        source: spans of the source's words; empty where the target has words more.
        target: spans of the target's words; empty where the target has words less.
        is_equal: whether both prompts have the same word here.
    """

    source: tuple[Span, ...]
    target: tuple[Span, ...]
    is_equal: bool


@dataclass(frozen=True, eq=False)
class Alignment:
    """How L token positions of the target relate to those of the source.

    Args:
        mapper: M, shape (L, L): A_target = A_source M. The tokens of a word that takes another's place share
            its attention; columns of new tokens are 0.
        taken: shape (L,), bool: which tokens of the target take over a map.
        kept: shape (L,), long: the source position of a token that both prompts have in common, else -1.
        changes: the prompts' words, in order.
    """

    mapper: Tensor
    taken: Tensor
    kept: Tensor
    changes: tuple[Change, ...]

    @property
    def changed(self) -> tuple[Change, ...]:
        """The stretches in which the prompts differ."""
        return tuple(change for change in self.changes if not change.is_equal)


def align(source: Tokens, target: Tokens) -> Alignment:
    """Align two tokenized prompts, word by word.

    Words are compared without regard to case, see :func:`common_words`. In a stretch of words that differ, the
    last stand for each other, then those before, since English ends its phrases with the noun: of "cat" and
    "big dog on a mat", "dog" takes the cat's place and "big" and all from the preposition on is new.
    """
    length = len(source.ids)
    mapper, taken = torch.zeros(length, length), torch.zeros(length, dtype=torch.bool)
    kept = torch.full((length,), -1)
    changes = tuple(word_changes(source.prompt, target.prompt))
    pairs = [
        (source.positions(mine), target.positions(yours), change.is_equal)
        for change in changes
        for mine, yours in zip(
            _phrase(source.prompt, change.source)[::-1], _phrase(target.prompt, change.target)[::-1], strict=False
        )
    ]
    if not any(stop > start for start, stop in (source.offsets[0], target.offsets[0])):
        pairs.append(((0,), (0,), True))  # the start mark, which draws most of the attention; T5 has none
    pairs += [((a,), (b,), True) for a, b in zip(_rest(source), _rest(target), strict=False)]
    for mine, yours, is_equal in pairs:
        same = is_equal and len(mine) == len(yours)
        for n, position in enumerate(yours):
            taken[position] = True
            if same:
                mapper[mine[n], position], kept[position] = 1, mine[n]
            else:
                mapper[list(mine), position] = 1 / len(yours)
    return Alignment(mapper, taken, kept, changes)


def edit_kind(source: str, target: str) -> Kind:
    """What kind of edit two prompts ask for.

    "attribute": only adjectives differ; "add": the target has words more; "remove": it has words less;
    "word_swap": words stand in the place of others; "same": nothing differs.

    >>> edit_kind("a red cat", "a red dog"), edit_kind("a red cat", "a blue cat"), edit_kind("a cat", "a cat on grass")
    ('word_swap', 'attribute', 'add')
    """
    changes = [change for change in word_changes(source, target) if not change.is_equal]
    if not changes:
        return "same"
    mine = _described(source, [span for change in changes for span in change.source])
    yours = _described(target, [span for change in changes for span in change.target])
    if all([*mine, *yours]):
        return "attribute"
    return "word_swap" if mine and yours else "remove" if mine else "add"


def _described(prompt: str, spans: Sequence[Span]) -> list[bool]:
    """Whether each of some words is an adjective; "a" and "an" are left out, since they follow from the next word."""
    adjectives = [adjective.span for adjective, _ in load_words().pairs(prompt)]
    return [
        any(overlap(adjective, span) for adjective in adjectives)
        for span in spans
        if prompt[slice(*span)].lower() not in ("a", "an")
    ]


def word_changes(source: str, target: str) -> Iterator[Change]:
    """Divide two prompts into the words that both have and the stretches between these, in order.

    >>> [(change.source, change.target) for change in word_changes("a cat", "a dog") if not change.is_equal]
    [(((2, 5),), ((2, 5),))]
    """
    mine, yours = _words(source), _words(target)
    said = [[prompt[slice(*span)].lower() for span in spans] for prompt, spans in ((source, mine), (target, yours))]
    i = j = 0
    for m, n in [*common_words(*said), (len(mine), len(yours))]:
        if i < m or j < n:
            yield Change(tuple(mine[i:m]), tuple(yours[j:n]), is_equal=False)
        if m < len(mine):
            yield Change((mine[m],), (yours[n],), is_equal=True)
        i, j = m + 1, n + 1


def common_words(source: Sequence[str], target: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (i, j) of equal words, in order: the longest common subsequence, of these one in few pieces.

    Needleman and Wunsch's recursion, as in Prompt-to-Prompt, with a gap that costs next to nothing.

    >>> common_words(["a", "red", "cat"], ["a", "cat"])
    [(0, 0), (2, 1)]
    """
    best: dict[tuple[int, int], tuple[float, list[tuple[int, int]]]] = {}
    for i in range(len(source) - 1, -1, -1):
        for j in range(len(target) - 1, -1, -1):
            options = [best.get((i + 1, j), (0.0, [])), best.get((i, j + 1), (0.0, []))]
            if source[i] == target[j]:
                score, rest = best.get((i + 1, j + 1), (0.0, []))
                is_piece = bool(rest) and rest[0] != (i + 1, j + 1)
                options.insert(0, (score + 1 - GAP * is_piece, [(i, j), *rest]))  # of equals, the first
            best[i, j] = max(options, key=lambda option: option[0])
    return best.get((0, 0), (0.0, []))[1]


def _phrase(prompt: str, spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """The words before the first preposition; all where they begin with it."""
    cut = next((n for n, span in enumerate(spans) if prompt[slice(*span)].lower() in PREPOSITIONS), 0)
    return spans[:cut] if cut else spans


def _words(prompt: str) -> list[Span]:
    """The spans of a prompt's words and punctuation marks."""
    return [match.span() for match in re.finditer(r"\w+|[^\w\s]", prompt)]


def _rest(tokens: Tokens) -> list[int]:
    """The end mark and the padding, which carry no character."""
    last = max((p for p, (a, b) in enumerate(tokens.offsets) if b > a), default=0)
    return list(range(last + 1, len(tokens.ids)))
