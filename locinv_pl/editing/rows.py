"""The batch that an edit denoises: for every inversion a source row and, below it, the rows of its targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.options import ORIGIN
from locinv_pl.types import Edit, Inversion, Span, overlap
from locinv_pl.words import Word, find_word, load_words
from locinv_pl.words.alignment import Alignment, align, edit_kind
from locinv_pl.words.tokens import Tokens, tokenize


@dataclass(frozen=True, eq=False)
class Target:
    """A target prompt's row of the batch, seen beside the source row of its inversion.

    Args:
        row: the target's row.
        source_row: the row of the source prompt, from which this one takes over attention.
        inversion: the inversion of both rows.
        source: the source prompt's tokens.
        tokens: the target prompt's tokens.
        alignment: which tokens of the target stand for which of the source.
        edit: what was asked for, with its weights.
        settings: how it is made.
    """

    row: int
    source_row: int
    inversion: Inversion
    source: Tokens
    tokens: Tokens
    alignment: Alignment
    edit: Edit
    settings: EditSettings

    @cached_property
    def change(self) -> str:
        """What the prompts make of each other, as :func:`~locinv_pl.words.alignment.edit_kind` says."""
        return edit_kind(self.source.prompt, self.tokens.prompt)

    @property
    def keeps_shape(self) -> bool:
        """Whether the prompts differ in adjectives only."""
        return self.change == "attribute"

    @property
    def changed_words(self) -> tuple[tuple[str, str], ...]:
        """The stretches of words that differ, as (the source's, the target's); "" where one has no words there."""
        prompts = self.source.prompt, self.tokens.prompt
        return tuple(
            (_stretch(prompts[0], change.source), _stretch(prompts[1], change.target))
            for change in self.alignment.changed
        )

    def positions(self, word: str) -> list[int]:
        """The target's tokens of every occurrence of a word.

        Raises:
            InputError: the target prompt hasn't the word.
        """
        return [p for span in find_word(self.tokens.prompt, word) for p in self.tokens.positions(span)]

    def changed_nouns(self, noun_positions: Sequence[Sequence[int]]) -> list[int]:
        """Which nouns of the source prompt the target changes, by its words and by their weights.

        Args:
            noun_positions: every noun's tokens in the source prompt.

        Returns:
            indices of ``noun_positions``.
        """
        weighted = [span for span, _ in self.edit.weights]
        weighted += [span for word in self.settings.reweight for span in find_word(self.tokens.prompt, word)]
        return changed_nouns(noun_positions, self.source, self.tokens, self.alignment, weighted)

    def blended_words(self) -> tuple[Sequence[Span], Sequence[Span]] | None:
        """Where the words that the data says are blended stand in the source and in the target prompt.

        None where the data names none, or a prompt hasn't its own.
        """
        if self.edit.blend is None:
            return None
        mine, yours = self.edit.blend
        with suppress(InputError):
            return find_word(self.source.prompt, mine), find_word(self.tokens.prompt, yours)
        return None


@dataclass(frozen=True, eq=False)
class Rows:
    """R rows that are denoised together.

    Args:
        inversions: every row's inversion, R of them.
        tokens: every row's prompt, R of them.
        sources: the numbers of the source rows, one for each inversion.
        targets: the other rows.
    """

    inversions: list[Inversion]
    tokens: list[Tokens]
    sources: list[int]
    targets: list[Target]

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        inversions: Sequence[Inversion],
        targets: Sequence[Sequence[str | Edit]],
        settings: EditSettings | Sequence[Sequence[EditSettings]] = EditSettings(),
    ) -> Rows:
        """The rows of several inversions.

        Args:
            backbone: the one that made the inversions.
            inversions: B of them.
            targets: B lists of target prompts, each of them empty where an inversion is only reconstructed.
            settings: how the targets are edited, all alike, or every target by its own.

        Raises:
            InputError: the inversions come from another backbone or from different configurations, a target
                prompt is too long, or some edits of an image are to be direct and others aren't.
        """
        rows = cls([], [], [], [])
        if isinstance(settings, EditSettings):
            settings = [[settings] * len(asked) for asked in targets]
        if len({each.direct for how in settings for each in how}) > 1:
            raise InputError("edit.direct: is true for some edits only; give all that run together the same value")
        for inversion, asked, how in zip(inversions, targets, settings, strict=True):
            _check(inversion, inversions[0], backbone)
            source_row, source = len(rows.tokens), tokenize(backbone.tokenizer, inversion.prompt, inversion.id)
            rows.sources.append(source_row)
            rows.tokens.append(source)
            for prompt, each in zip(asked, how, strict=True):
                edit = as_edit(inversion.prompt, prompt)
                tokens, row = tokenize(backbone.tokenizer, edit.prompt, inversion.id), len(rows.tokens)
                aligned = align(source, tokens)
                rows.targets.append(Target(row, source_row, inversion, source, tokens, aligned, edit, each))
                rows.tokens.append(tokens)
            rows.inversions.extend([inversion] * (1 + len(asked)))
        return rows

    @property
    def source_of(self) -> list[int]:
        """Every row's source row, which of a source is itself."""
        found = {target.row: target.source_row for target in self.targets}
        return [found.get(n, n) for n in range(len(self.tokens))]

    def keep(self, states: Tensor) -> Tensor:
        """The rows' context with the source's at the shared tokens that the settings of a target keep.

        A noun with another adjective keeps its own: the context of "cat" in "a red cat" is red.

        Args:
            states: the rows' own context, (R, L, D).

        Returns:
            (R, L, D).
        """
        kept = states.clone()
        for target in self.targets:
            if target.settings.keep == "nothing":
                continue
            here = target.alignment.kept >= 0
            if target.settings.keep == "words":
                here = here & torch.tensor([stop > start for start, stop in target.tokens.offsets])
            here[described_anew(target.tokens, target.alignment)] = False
            kept[target.row, here] = states[target.source_row, target.alignment.kept[here]]
        return kept

    def embeddings(self, i: int, own: Tensor) -> Tensor:
        """The rows' input embeddings at a step, with V_t where a row has a dynamic token.

        A noun with another adjective has its own embeddings: V_t has learned the "cat" of "a red cat", and its colour.

        Args:
            i: the step, 0 to T - 1.
            own: the words' own embeddings, (R, L, D).

        Returns:
            (R, L, D).
        """
        V = own.clone()
        kept = {n: list(range(V.shape[1])) for n in self.sources}
        for target in self.targets:
            shared = target.alignment.kept.clone()
            shared[described_anew(target.tokens, target.alignment)] = -1
            kept[target.row] = shared.tolist()
        for n, positions in kept.items():
            inversion = self.inversions[n]
            place = {position: k for k, position in enumerate(inversion.dynamic)}
            for position, source in enumerate(positions):
                if source in place:
                    V[n, position] = inversion.tokens[i, place[source]].to(V)
        return V


def _stretch(prompt: str, spans: Sequence[Span]) -> str:
    """The part of a prompt from the first of some spans to the last."""
    return prompt[spans[0][0] : spans[-1][1]] if spans else ""


def as_edit(source: str, prompt: str | Edit) -> Edit:
    """A target prompt with its weights read, and the kind of change that it makes of the source prompt."""
    if isinstance(prompt, Edit):
        return prompt
    read = Edit(prompt, "edit")
    return replace(read, kind=edit_kind(source, read.prompt))


def described_anew(target: Tokens, alignment: Alignment, weighted: Sequence[Span] = ()) -> list[int]:
    """The target's nouns that have a word which the source hasn't there: "red cat", "toy cat".

    Args:
        target: the target prompt's tokens.
        alignment: of the source prompt with the target's.
        weighted: characters of words with another weight, which count as such words.

    Returns:
        the positions of these nouns' tokens.
    """
    fresh = [*weighted, *(span for change in alignment.changed for span in change.target)]
    return [
        position
        for word, noun in _described(target.prompt)
        if any(overlap(word, span) for span in fresh)
        for position in target.positions(noun)
    ]


def added_nouns(target: Tokens, alignment: Alignment) -> list[Word]:
    """The target's nouns that stand in the place of no words of the source."""
    added = [span for change in alignment.changed if not change.source for span in change.target]
    kept = [span for change in alignment.changes if change.source for span in change.target]
    return [
        noun
        for noun in load_words().nouns(target.prompt)
        if any(overlap(noun.span, span) for span in added) and not any(overlap(noun.span, span) for span in kept)
    ]


def changed_nouns(
    noun_positions: Sequence[Sequence[int]],
    source: Tokens,
    target: Tokens,
    alignment: Alignment,
    weighted: Sequence[Span] = (),
) -> list[int]:
    """Which nouns a target prompt replaces, removes, or describes otherwise than the source does.

    Adjectives describe a noun, and so do nouns: "a bear" isn't "a teddy bear".

    Args:
        noun_positions: every noun's tokens in the source prompt.
        source: the source prompt's tokens.
        target: the target prompt's tokens.
        alignment: of the source prompt with the target's.
        weighted: characters of the target's words with another weight; these change their noun, too.

    Returns:
        indices of ``noun_positions``.
    """
    gone = [span for change in alignment.changed for span in change.source]
    changed = {p for span in gone for p in source.positions(span)}
    for word, noun in _described(source.prompt):
        if any(overlap(word, span) for span in gone):
            changed.update(source.positions(noun))
    changed.update(alignment.kept[described_anew(target, alignment, weighted)].tolist())
    return [k for k, positions in enumerate(noun_positions) if changed & set(positions)]


def _described(prompt: str) -> Iterator[tuple[Span, Span]]:
    """Words of a prompt, each with the noun that it describes; a noun's own words describe it."""
    words = load_words()
    yield from ((adjective.span, noun.span) for adjective, noun in words.pairs(prompt))
    yield from ((noun.span, noun.span) for noun in words.nouns(prompt))


def _check(inversion: Inversion, first: Inversion, backbone: Backbone) -> None:
    """Refuse an inversion that this backbone can't denoise together with the first one."""
    settings = inversion.settings
    if settings != first.settings:
        raise InputError(f"inversion {inversion.id!r}: made with another configuration than its batch")
    if settings["backbone"] != backbone.name:
        made_with = settings["backbone"]
        raise InputError(f"inversion {inversion.id!r}: made with backbone {made_with!r}, not {backbone.name!r}")
    for key in ORIGIN:
        if (made_with := settings.get(key)) != backbone.origin.get(key):
            raise InputError(
                f"inversion {inversion.id!r}: made with model.{key}={made_with}, not {backbone.origin.get(key)}"
            )
    made = (*inversion.null.shape[1:], inversion.trajectory.shape[1])
    if made != (backbone.tokenizer.model_max_length, *backbone.widths):
        raise InputError(f"inversion {inversion.id!r}: its tensors aren't this backbone's; run it again")
