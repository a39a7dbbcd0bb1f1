"""Masks of nouns on an image: a detector's boxes made masks, or SAM 3; kept on disk.

What the models answer is kept under the image's content and all that the answer depends on; the networks load only
when an answer isn't there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as mask_utils
from torch import Tensor

from locinv_pl.errors import InputError
from locinv_pl.grounding.cache import Cache, as_rgb, fingerprint
from locinv_pl.grounding.detection import detect
from locinv_pl.grounding.models import FoundationModels, kind_of, load
from locinv_pl.grounding.segmentation import EmbeddedImage, segment_nouns
from locinv_pl.io.images import AnyImage
from locinv_pl.networks.hub import Loaded


@dataclass(frozen=True, eq=False)
class Found:
    """A noun's place on an image, as the models see it.

    Args:
        mask: the union of its detections' masks, bool, shape (H, W); never empty.
        boxes: its detections, the surest first: (x, y, width, height) in pixels, inside the image, float32 (n, 4).
        scores: of the detections, in [0, 1], float32, shape (n,).
    """

    mask: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


class GroundedSam:
    """Finds nouns on images: Grounding DINO for boxes and SAM or SAM 2 for the mask in each box, or SAM 3 for both.

    Args:
        models: the hub ids, thresholds, cache and device.
    """

    def __init__(self, models: FoundationModels):
        self.models = models
        self._cache = Cache(models, "masks")

    def find(self, image: Image.Image, nouns: Sequence[str]) -> dict[str, Found]:
        """Find nouns on an image.

        Args:
            image: of any size and mode; taken as it is stored, without regard to EXIF orientation.
            nouns: words or phrases, in any order; case doesn't matter.

        Returns:
            By noun, as it was given and in the given order; a noun that isn't found is absent.

        Raises:
            InputError: a model can't be loaded, the cache can't be written, or the nouns are too many for one text.
        """
        image, phrases = image.convert("RGB"), {noun: _phrase(noun) for noun in nouns}
        wanted = sorted(set(phrases.values()) - {""})
        if not wanted:
            return {}
        asked = {
            "picture": fingerprint(image),
            "phrases": wanted,
            "detector": self.models.detector,
            "segmenter": self.models.segmenter,
            "box_threshold": float(self.models.box_threshold),
            "text_threshold": float(self.models.text_threshold),
        }
        answer = self._cache.recall(asked, lambda: self._locate(image, wanted))
        found = {phrase: _unpack(packed) for phrase, packed in answer.items()}
        return {noun: found[phrase] for noun, phrase in phrases.items() if phrase in found}

    @cached_property
    def _detector(self) -> Loaded:
        return load(self.models, "detector")

    @cached_property
    def _segmenter(self) -> Loaded:
        return load(self.models, "segmenter")

    @cached_property
    def _kind(self) -> str:
        return kind_of(self.models, "segmenter")

    def _locate(self, image: Image.Image, phrases: Sequence[str]) -> dict[str, Any]:
        """What the cache keeps of each phrase that is found; a box in which nothing is seen doesn't count."""
        if self._kind == "sam3":
            each = segment_nouns(self._segmenter, image, phrases, self.models.box_threshold)
        elif not self.models.detector:
            raise InputError(
                f"{self.models.KEY}.segmenter={self.models.segmenter}: is a model of kind {self._kind}, which finds no "
                f"nouns without a detector; give one of kind sam3, or use prior=grounded_sam"
            )
        else:
            boxes, scores, owners = self._detect(image, phrases)
            masks = self._segment(image, boxes)
            own = [owners == index for index in range(len(phrases))]
            each = [(masks[its], boxes[its], scores[its]) for its in own]
        found = {}
        for phrase, (its_masks, corners, its_scores) in zip(phrases, each, strict=True):
            seen = its_masks.any(-1).any(-1)
            if seen.any():
                found[phrase] = _pack(its_masks[seen].any(0), corners[seen], its_scores[seen])
        return found

    def _detect(self, image: Image.Image, phrases: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        return detect(self._detector, image, phrases, self.models)

    def _segment(self, image: Image.Image, boxes: Tensor) -> Tensor:
        if not len(boxes):
            return torch.zeros(0, image.height, image.width, dtype=torch.bool)
        return EmbeddedImage(self._segmenter, image).masks(boxes)


def find_priors(
    image: AnyImage, nouns: Sequence[str], models: FoundationModels = FoundationModels()
) -> dict[str, Tensor]:
    """Masks of nouns on an image, for ``locinv_pl.invert``; found by Grounding DINO and SAM or SAM 2, or by SAM 3.

    Args:
        image: a file, a PIL image, a (3, H, W) tensor or an (H, W, 3) array.
        nouns: words or phrases, in any order; case doesn't matter.
        models: the models' names, thresholds, cache and device. The networks of the last ``models`` stay in memory.

    Returns:
        By noun, as it was given and in the given order, the union of its instances' masks, bool, (H, W).

    Raises:
        InputError: a noun isn't found, the image can't be read, a model can't be loaded, the cache can't be written,
            or the nouns are too many for one text.
    """
    found = _finder(models).find(as_rgb(image), nouns)
    if missing := [repr(noun) for noun in nouns if noun not in found]:
        raise InputError(
            f"{'noun' if len(missing) == 1 else 'nouns'} {', '.join(missing)}: not found on the image; "
            f"give a box or a mask, or lower {models.KEY}.box_threshold"
        )
    return {noun: torch.from_numpy(place.mask) for noun, place in found.items()}


_finder = lru_cache(maxsize=1)(GroundedSam)


def _phrase(noun: str) -> str:
    """A noun as the detector's text has it: lower case, without the marks that end a phrase there."""
    return " ".join(noun.lower().replace(".", " ").replace("?", " ").split())


def _pack(mask: Tensor, corners: Tensor, scores: Tensor) -> dict[str, Any]:
    """A noun's detections for a JSON file; the mask in COCO's run lengths."""
    runs = mask_utils.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    return {
        "mask": {"size": runs["size"], "counts": runs["counts"].decode("ascii")},
        "boxes": boxes.tolist(),
        "scores": scores.tolist(),
    }


def _unpack(packed: Mapping[str, Any]) -> Found:
    return Found(
        mask=mask_utils.decode(packed["mask"]).astype(bool),
        boxes=np.array(packed["boxes"], dtype=np.float32),
        scores=np.array(packed["scores"], dtype=np.float32),
    )
