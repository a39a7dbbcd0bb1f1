"""Text encoders of a model: one, or several on one axis of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BatchEncoding

BITS = 24  # of a token's id, next to which another one's stands


class Encoder(NamedTuple):
    """A text encoder and its tokenizer.

    Args:
        network: of transformers: CLIPTextModel, CLIPTextModelWithProjection or T5EncoderModel.
        tokenizer: of transformers.
    """

    network: Any
    tokenizer: Any


class TextEncoders:
    """Several encoders of one prompt, seen as one.

    The axis of tokens has stretches. The encoders of a stretch read the same tokens, and their input embeddings stand
    side by side in one row, so that a dynamic token moves all of them.

    Args:
        stretches: the encoders of every stretch, as many tokens as the first one's tokenizer takes.
        pooling: an encoder whose pooled output alone is used: its tokens have no place on the axis. The axis has to be
            as long as its own.
    """

    def __init__(self, *stretches: Sequence[Encoder], pooling: Encoder | None = None):
        self.stretches, self.pooling = stretches, pooling

    @property
    def networks(self) -> list[Any]:
        """All encoders' networks, in order."""
        on_axis = [encoder.network for encoders in self.stretches for encoder in encoders]
        return on_axis if self.pooling is None else [*on_axis, self.pooling.network]

    @cached_property
    def tokenizer(self) -> Any:
        """What makes the token ids, (L,), and says how many there are (``model_max_length``)."""
        each = [encoders[0].tokenizer for encoders in self.stretches]
        own = each[0] if len(each) == 1 else Tokenizers(each)
        return own if self.pooling is None else PairedTokenizer(own, self.pooling.tokenizer)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of every stretch; L is their sum."""
        return [encoders[0].tokenizer.model_max_length for encoders in self.stretches]

    def embed(self, ids: Tensor) -> Tensor:
        """The input embeddings of token ids (B, L): (B, L, E), fp32; narrower stretches end in zeros."""
        parts = self._own(ids).split(self.lengths, dim=-1)
        rows = [
            torch.cat([_table(e.network)(_ids_of(e, encoders, part)).float() for e in encoders], dim=-1)
            for encoders, part in zip(self.stretches, parts, strict=True)
        ]
        widest = max(row.shape[-1] for row in rows)
        return torch.cat([F.pad(row, (0, widest - row.shape[-1])) for row in rows], dim=1)

    @property
    def units(self) -> Tensor | None:
        """How far an optimizer's step is to move each number of an embedding, (L, E), times the learning rate.

        None for CLIP alone: 1. Other encoders move by a tenth of the root mean square of their tables at the default
        learning rate of 0.01.
        """
        if [network.config.model_type for network in self.networks] == ["clip_text_model"]:
            return None
        return self._units

    @cached_property
    def _units(self) -> Tensor:
        rows = []
        for encoders in self.stretches:
            tables = [_table(encoder.network).weight for encoder in encoders]
            rows.append(torch.cat([10 * w.float().square().mean().sqrt().expand(w.shape[-1]) for w in tables]))
        widest = max(len(row) for row in rows)
        padded = [F.pad(row, (0, widest - len(row)), value=1.0) for row in rows]
        return torch.cat([row.expand(n, -1) for row, n in zip(padded, self.lengths, strict=True)])

    def __call__(self, ids: Tensor, embeddings: Tensor | None = None, **options: Any) -> list[list[Any]]:
        """Run every encoder.

        Args:
            ids: token ids, (B, L).
            embeddings: input embeddings, (B, L, E), to use in place of the tables' own; None uses these.
            options: of the networks' calls.

        Returns:
            what they answer, by stretch.
        """
        answers = []
        texts = [None] * len(self.lengths) if embeddings is None else embeddings.split(self.lengths, dim=1)
        for encoders, part, rows in zip(self.stretches, self._own(ids).split(self.lengths, dim=-1), texts, strict=True):
            widths = [_table(encoder.network).embedding_dim for encoder in encoders]
            each = [None] * len(encoders) if rows is None else rows[..., : sum(widths)].split(widths, dim=-1)
            with ExitStack() as stack:
                for encoder, own in zip(encoders, each, strict=True):
                    stack.enter_context(_input_embeddings(encoder.network, own))
                answers.append([e.network(_ids_of(e, encoders, part), **options) for e in encoders])
        return answers

    def pool(self, ids: Tensor) -> Tensor:
        """The pooled output of the encoder that has nothing else to say, (B, P), of token ids (B, L)."""
        assert self.pooling is not None
        length = self.pooling.tokenizer.model_max_length
        return self.pooling.network(ids[:, :length] >> BITS).pooler_output

    def _own(self, ids: Tensor) -> Tensor:
        """The ids of the axis's own tokens."""
        return ids if self.pooling is None else ids & (1 << BITS) - 1


class Tokenizers:
    """Several tokenizers in a row, as one: each tokenizes the whole prompt, for a stretch of the axis of tokens.

    Args:
        each: of transformers, with offsets.
    """

    def __init__(self, each: Sequence[Any]):
        self.each = each

    @property
    def model_max_length(self) -> int:
        """Tokens of all together."""
        return sum(tokenizer.model_max_length for tokenizer in self.each)

    def __call__(self, prompt: str, padding: str | bool = False, **options: Any) -> Any:
        """Token ids, padded, and offsets as transformers answers them.

        Args:
            prompt: one prompt.
            padding: "max_length", or False, which counts what a prompt needs. A prompt that is too long for one of
                them is as long as that one says, and the rest full.
            options: of every tokenizer, but for its length.
        """
        options.pop("max_length", None)
        found = [tokenizer(prompt, **{**options, "truncation": False}) for tokenizer in self.each]
        over = [len(each.input_ids) - t.model_max_length for each, t in zip(found, self.each, strict=True)]
        if padding != "max_length":
            return BatchEncoding({"input_ids": [0] * (self.model_max_length + max(over))})
        rows = [t(prompt, padding=padding, max_length=t.model_max_length, **options) for t in self.each]
        return BatchEncoding({name: [x for row in rows for x in row[name]] for name in rows[0]})

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens of ids of whole prompts, in a row."""
        found, start = [], 0
        while start < len(ids):
            for tokenizer in self.each:
                found += tokenizer.convert_ids_to_tokens(ids[start : start + tokenizer.model_max_length])
                start += tokenizer.model_max_length
        return found

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]:
        """The inverse."""
        found, start = [], 0
        while start < len(tokens):
            for tokenizer in self.each:
                found += tokenizer.convert_tokens_to_ids(tokens[start : start + tokenizer.model_max_length])
                start += tokenizer.model_max_length
        return found


class PairedTokenizer:
    """A tokenizer whose ids carry those of a second one, which reads the same prompt: id = own + 2^24 · other.

    Lengths and offsets are the first one's; the second one leaves out what is too long for it.

    Args:
        own: what the axis of tokens is.
        other: of transformers, of at most as many tokens.
    """

    def __init__(self, own: Any, other: Any):
        self.own, self.other = own, other

    @property
    def model_max_length(self) -> int:
        """Tokens of the first."""
        return self.own.model_max_length

    def __call__(self, prompt: str, padding: str | bool = False, **options: Any) -> Any:
        """Token ids, padded, and offsets as transformers answers them.

        Args:
            prompt: one prompt.
            padding: "max_length", or False, which counts what a prompt needs.
            options: of the first tokenizer.
        """
        found = self.own(prompt, padding=padding, **options)
        if padding == "max_length":
            other = self.other(prompt, padding=padding, max_length=self.other.model_max_length, truncation=True)
            ids = zip_longest(found["input_ids"], other.input_ids, fillvalue=0)
            found["input_ids"] = [mine + (beside << BITS) for mine, beside in ids]
        return found

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The first one's tokens."""
        return self.own.convert_ids_to_tokens([n & (1 << BITS) - 1 for n in ids])

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]:
        """The first one's ids alone."""
        return self.own.convert_tokens_to_ids(tokens)


def _table(network: Any) -> Any:
    """The layer that embeds tokens; T5 doesn't call what ``get_input_embeddings`` answers."""
    return getattr(getattr(network, "encoder", None), "embed_tokens", None) or network.get_input_embeddings()


def _ids_of(encoder: Encoder, encoders: Sequence[Encoder], ids: Tensor) -> Tensor:
    """A stretch's token ids (B, L) with the padding of one of its encoders."""
    first, own = encoders[0].tokenizer, encoder.tokenizer
    if own.pad_token_id == first.pad_token_id:
        return ids
    padding = (ids == first.pad_token_id).flip(-1).cumprod(-1).flip(-1).bool()
    if first.pad_token_id == first.eos_token_id:  # the first of them is the end mark
        padding = padding & padding.roll(1, -1)
    return ids.masked_fill(padding, own.pad_token_id)


@contextmanager
def _input_embeddings(network: nn.Module, embeddings: Tensor | None) -> Iterator[None]:
    """Let the encoder's embedding layer answer ``embeddings``; its table is never written to."""
    if embeddings is None:
        yield
        return
    layer = _table(network)
    answer = embeddings.to(layer.weight.dtype)
    handle = layer.register_forward_hook(lambda module, args, output: answer)
    try:
        yield
    finally:
        handle.remove()
