"""A CLIP tokenizer with a small vocabulary."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
ALPHABET = [*string.ascii_lowercase, *string.digits, *".,!?-'"]


def train_tokenizer(words: Iterable[str], max_length: int = 24, vocab_size: int = 2048) -> CLIPTokenizer:
    """Byte-pair encoding learned from words, in the form of CLIP's tokenizer.

    Every word of lower-case letters, digits and plain punctuation can be encoded; the given ones take
    one token each where the vocabulary has room.

    Args:
        words: the words that the captions use.
        max_length: positions of a prompt, start and end marks included.
        vocab_size: the most tokens that are learned; 2048 by default.
    """
    learner = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix=END_OF_WORD, continuing_subword_prefix=""))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    learner.train_from_iterator(
        words,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[],
            initial_alphabet=ALPHABET,
            end_of_word_suffix=END_OF_WORD,
            min_frequency=1,
            show_progress=False,
        ),
    )
    state = json.loads(learner.to_str())["model"]
    vocab: dict[str, int] = dict(state["vocab"])
    for letter in ALPHABET:
        for token in (letter, letter + END_OF_WORD):
            vocab.setdefault(token, len(vocab))
    for mark in (START, END):
        vocab[mark] = len(vocab)
    merges: Any = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in state["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)
