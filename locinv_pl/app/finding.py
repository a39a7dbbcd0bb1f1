"""Places and captions that foundation models find for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from PIL import Image

from locinv_pl.grounding import FoundationModels, PointSegmenter, caption
from locinv_pl.grounding.nouns import GroundedSam
from locinv_pl.grounding.segmentation import EmbeddedImage


class Finder:
    """Asks the models; each is loaded when it is first needed, in the worker's thread.

    Args:
        models: which, and where they run. Without a detector the segmenter is SAM 3, which takes no points.
    """

    def __init__(self, models: FoundationModels):
        self.models, self.takes_points = models, bool(models.detector)
        self._last: tuple[str, EmbeddedImage] | None = None

    @cached_property
    def _nouns(self) -> GroundedSam:
        return GroundedSam(self.models)

    @cached_property
    def _points(self) -> PointSegmenter:
        return PointSegmenter(self.models)

    def nouns(self, image: Image.Image, nouns: Sequence[str]) -> dict[str, np.ndarray]:
        """Masks (H, W) of those nouns that are found."""
        return {noun: place.mask for noun, place in self._nouns.find(image, nouns).items()}

    def points(
        self, key: str, image: Image.Image, points: Mapping[str, Sequence[tuple[float, float, bool]]]
    ) -> dict[str, np.ndarray]:
        """Masks (H, W) of the nouns that have points; the image is encoded once.

        Args:
            key: of the image.
            image: in RGB.
            points: by noun (x, y, whether it is inside), in pixels.
        """
        if self._last is None or self._last[0] != key:
            self._last = key, self._points.at(image)
        each = {
            noun: ([[x, y] for x, y, _ in some], [int(inside) for *_, inside in some]) for noun, some in points.items()
        }
        return {noun: self._last[1].mask(*given).numpy() for noun, given in each.items()}

    def caption(self, image: Image.Image) -> str:
        """What is on the image."""
        return caption(image, self.models)
