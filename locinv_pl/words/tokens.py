"""Words and tokens: character spans to token positions, and the tensors of a batch of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from locinv_pl.errors import InputError, quoted
from locinv_pl.types import EditSample, Span, overlap


@dataclass(frozen=True, eq=False)
class Tokens:
    """A tokenized prompt: ids (L,) padded to the tokenizer's length, and each token's characters."""

    prompt: str
    ids: Tensor
    offsets: tuple[Span, ...]

    def positions(self, span: Span) -> tuple[int, ...]:
        """Positions of the tokens that share a character with ``span``."""
        found = tuple(p for p, own in enumerate(self.offsets) if overlap(own, span))
        if not found:
            raise InputError(f"characters {span} of the prompt {self.prompt!r} have no token")
        return found


def tokenize(tokenizer: Any, prompt: str, name: str = "") -> Tokens:
    """Tokenize one prompt with its start and end marks.

    Args:
        tokenizer: a transformers CLIP tokenizer that knows offsets.
        prompt: the prompt, without marks; it is padded to the tokenizer's length.
        name: the id of the image whose prompt it is, for the error; left out of it by default.

    Raises:
        InputError: the prompt is longer than the tokenizer's limit.
    """
    limit = tokenizer.model_max_length
    needed = len(tokenizer(prompt, truncation=False, padding=False).input_ids)
    if needed > limit:
        of = f" of image {name!r}" if name else ""
        raise InputError(f"prompt{of} has {needed} tokens, the text encoder takes {limit}: shorten {quoted(prompt)}")
    coded = tokenizer(prompt, padding="max_length", max_length=limit, return_offsets_mapping=True)
    return Tokens(prompt, torch.tensor(coded.input_ids), tuple(map(tuple, coded.offset_mapping)))


def unmarked_ids(tokenizer: Any, ids: Tensor) -> Tensor:
    """The tokens without CLIP's end-of-word mark: "cat" for "cat</w>"; one that has no mark stays as it is.

    Args:
        tokenizer: a transformers CLIP tokenizer.
        ids: token ids, any shape.

    Returns:
        ids of the same shape; that of the unknown token, ``<|endoftext|>``, where the vocabulary lacks such a token.
    """
    tokens = tokenizer.convert_ids_to_tokens(ids.flatten().tolist())
    unmarked = tokenizer.convert_tokens_to_ids([token.removesuffix("</w>") for token in tokens])
    return torch.tensor(unmarked).reshape(ids.shape)


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """The prompts of a batch as tensors; images with fewer nouns or pairs have empty rows.

    Row k of a weight tensor holds 1/n at the n tokens of its word, so that A @ weights is the mean
    map of the word (:func:`locinv_pl.networks.attention.maps_of`).

    Args:
        ids: (B, L) token ids.
        nouns: (B, K, L) weights of the nouns; ``has_noun`` (B, K) marks real rows.
        adjectives, described: (B, P, L) weights of each adjective and of the noun it describes;
            ``has_pair`` (B, P) marks real rows.
        dynamic: (B, L) bool, the tokens whose embeddings are optimised.
    """

    ids: Tensor
    nouns: Tensor
    has_noun: Tensor
    adjectives: Tensor
    described: Tensor
    has_pair: Tensor
    dynamic: Tensor

    def to(self, device: torch.device) -> PromptBatch:
        """The same on a device."""
        return PromptBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def pick(self, images: Sequence[int]) -> PromptBatch:
        """The prompts of some of the images, by number."""
        return PromptBatch(**{f.name: getattr(self, f.name)[list(images)] for f in fields(self)})


def prompt_batch(tokenizer: Any, samples: Sequence[EditSample], bind_adjectives: bool) -> PromptBatch:
    """Tokenize a batch's prompts; with ``bind_adjectives`` the adjectives' tokens are dynamic too."""
    tokens = [tokenize(tokenizer, s.prompt, s.id) for s in samples]
    length = len(tokens[0].ids)
    nouns = [[t.positions(n.span) for n in s.nouns] for t, s in zip(tokens, samples, strict=True)]
    pairs = [
        [(t.positions(a.span), of[a.noun]) for a in s.adjectives]
        for t, s, of in zip(tokens, samples, nouns, strict=True)
    ]
    noun_rows, has_noun = _weights(nouns, length)
    adjective_rows, has_pair = _weights([[a for a, _ in p] for p in pairs], length)
    described_rows, _ = _weights([[n for _, n in p] for p in pairs], length)
    dynamic = (noun_rows.sum(1) + (adjective_rows.sum(1) if bind_adjectives else 0)) > 0
    ids = torch.stack([t.ids for t in tokens])
    return PromptBatch(ids, noun_rows, has_noun, adjective_rows, described_rows, has_pair, dynamic)


def check_prompt(tokenizer: Any, sample: EditSample) -> None:
    """Refuse a sample whose prompt :func:`prompt_batch` can't tokenize.

    Raises:
        InputError: its prompt is too long, or a word of it has no token.
    """
    prompt_batch(tokenizer, [sample], bind_adjectives=True)


def _weights(words: list[list[tuple[int, ...]]], length: int) -> tuple[Tensor, Tensor]:
    rows = torch.zeros(len(words), max(map(len, words)), length)
    for b, positions in enumerate(words):
        for k, where in enumerate(positions):
            rows[b, k, list(where)] = 1 / len(where)
    return rows, rows.sum(-1) > 0
