"""Boxes of nouns, by Grounding DINO (Liu et al., arXiv 2303.05499).

All nouns of an image go into one text, "cat. dog.", as the detector was trained: its attention keeps the phrases
apart, and every box goes to the one noun that fits it best. Asked noun by noun, nothing would keep two nouns from
claiming the same box.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from locinv_pl.errors import InputError
from locinv_pl.grounding.models import FoundationModels
from locinv_pl.networks.hub import Loaded


@torch.no_grad()
def detect(
    detector: Loaded, image: Image.Image, phrases: Sequence[str], models: FoundationModels
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the boxes of phrases.

    Args:
        detector: Grounding DINO.
        image: in RGB.
        phrases: in lower case, without "." and "?".
        models: the thresholds, and the detector's name for the error.

    Returns:
        Corners (n, 4), x, y, x, y in pixels; scores (n,); the phrases' indices (n,): of the boxes that count, the
        surest first.

    Raises:
        InputError: the phrases are too many for one text.
    """
    network, processor = detector
    text = ". ".join(phrases) + "."
    offsets = processor.tokenizer(text, return_offsets_mapping=True).offset_mapping
    if len(offsets) > network.config.max_text_len:
        raise InputError(
            f"{len(phrases)} nouns for one image: their text has {len(offsets)} tokens, "
            f"{models.KEY}.detector={models.detector} reads {network.config.max_text_len}; give fewer"
        )
    inputs = processor(images=image, text=text, return_tensors="pt").to(network.device)
    out = network(**inputs)
    logits = out.logits[0, :, : len(offsets)].cpu()
    scores, owners = assign_boxes(logits, phrase_tokens(phrases, offsets), models.box_threshold, models.text_threshold)
    order = scores.argsort(descending=True, stable=True)
    order = order[owners[order] >= 0]
    return _corners(out.pred_boxes[0].cpu()[order], image.size), scores[order], owners[order]


def phrase_tokens(phrases: Sequence[str], offsets: Sequence[tuple[int, int]]) -> Tensor:
    """Tell which tokens of the text "cat. dog." belong to which phrase.

    Args:
        phrases: K of them, in the text's order.
        offsets: for each of L tokens its characters ``text[start:stop]``; empty for the tokenizer's own marks.

    Returns:
        Bool, shape (K, L).
    """
    own, start = torch.zeros(len(phrases), len(offsets), dtype=torch.bool), 0
    for k, phrase in enumerate(phrases):
        stop = start + len(phrase)
        for n, (first, end) in enumerate(offsets):
            own[k, n] = first < end and first < stop and end > start
        start = stop + len(". ")
    return own


def assign_boxes(logits: Tensor, own: Tensor, box_threshold: float, text_threshold: float) -> tuple[Tensor, Tensor]:
    """Give every box to the phrase that holds the highest-scoring token, by position rather than by spelling.

    The decoded words of a box's tokens need not spell a noun: pieces of words fall below the threshold, and
    tokens of two nouns pass it together.

    Args:
        logits: the detector's logits of Q boxes for L tokens, shape (Q, L).
        own: the phrases' tokens, bool, shape (K, L).
        box_threshold: a box counts only where the sigmoid of its best token exceeds it, as in the paper's own code;
            in [0, 1].
        text_threshold: and only where the sigmoid of the best token of its phrase exceeds this one; in [0, 1].

    Returns:
        Scores (Q,), the sigmoid of the best token; indices of the phrases (Q,), -1 for boxes that don't count.
    """
    fits = logits[:, None].masked_fill(~own, -torch.inf).amax(-1)
    best, owners = fits.max(-1)
    scores = logits.amax(-1).sigmoid()
    counts = (scores > box_threshold) & (best.sigmoid() > text_threshold)
    return scores, owners.where(counts, torch.tensor(-1))


def _corners(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (n, 4) as (x, y, x, y) inside an image of ``size`` (W, H), from relative centres and extents."""
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    return corners.clamp(0, 1) * torch.tensor(size * 2)
