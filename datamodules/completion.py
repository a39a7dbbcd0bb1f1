"""What the data doesn't give, found on the image by foundation models: captions and priors."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import cached_property
from typing import Literal

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

from locinv_pl.datamodules.entries import Entry, Mention, Shape
from locinv_pl.errors import InputError, quoted
from locinv_pl.grounding.captions import Blip
from locinv_pl.grounding.models import FoundationModels
from locinv_pl.grounding.nouns import Found, GroundedSam
from locinv_pl.types import Span
from locinv_pl.words import load_words

Captions = Literal["given", "blip"]


class Completion:
    """Completes entries whose image is open.

    Args:
        grounds: whether nouns get their priors from the models; masks of the data stay what attention IoU is
            measured against.
        captions: "blip" captions images that have no prompt; "given" refuses them.
        models: the hub ids, thresholds, cache and device of detector, segmenter and captioner.
        words: finds the nouns of prompts whose nouns the data doesn't name.
    """

    def __init__(self, grounds: bool, captions: Captions, models: FoundationModels, words: str) -> None:
        self.grounds, self.captions, self.models, self.words = grounds, captions, models, words

    def __call__(self, entry: Entry, image: Image.Image) -> Entry:
        """The entry with prompt and priors.

        Raises:
            InputError: there is no prompt, or none of its nouns is found.
        """
        if not entry.prompt:
            if self.captions != "blip":
                raise InputError(f"{entry.path}: has no prompt; write one, or use data.caption=blip")
            entry = replace(entry, prompt=self._blip.caption(image))
        if not self.grounds:
            return entry
        mentions = entry.mentions or self._mentions(entry.prompt)
        found = self._sam.find(image, [mention.word for mention in mentions])
        if not found:
            raise InputError(
                f"{entry.path}: no noun of {quoted(entry.prompt)} is found on it; "
                f"lower {self.models.KEY}.box_threshold, or give a mask"
            )
        known = [m for m in mentions if m.word in found]
        return replace(entry, mentions=tuple(replace(m, prior=_shapes(found[m.word])) for m in known))

    def _mentions(self, prompt: str) -> tuple[Mention, ...]:
        """The nouns of a prompt and their adjectives, without shapes as yet."""
        finder = load_words(self.words)
        adjectives: dict[Span, list[Span]] = defaultdict(list)
        for adjective, noun in finder.pairs(prompt):
            adjectives[noun.span].append(adjective.span)
        return tuple(Mention(noun.text, noun.span, (), tuple(adjectives[noun.span])) for noun in finder.nouns(prompt))

    @cached_property
    def _sam(self) -> GroundedSam:
        return GroundedSam(self.models)

    @cached_property
    def _blip(self) -> Blip:
        return Blip(self.models)


def _shapes(found: Found) -> tuple[Shape, ...]:
    rle = mask_utils.encode(np.asfortranarray(found.mask, dtype=np.uint8))
    return (Shape(rle),)
