"""Masks from boxes, points and nouns: SAM, SAM 2, SAM 3.

SAM (Kirillov et al., arXiv 2304.02643) and SAM 2 (Ravi et al., arXiv 2408.00714) segment what a box or points show;
SAM 3 (Carion et al., arXiv 2511.16719) segments all instances of a noun.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from locinv_pl.errors import InputError
from locinv_pl.grounding.cache import as_rgb
from locinv_pl.grounding.models import FoundationModels, kind_of, load
from locinv_pl.io.images import AnyImage
from locinv_pl.networks.hub import Loaded

AT_ONCE = 16  # masks at the image's full resolution, whose memory it bounds


class EmbeddedImage:
    """An image as the encoder of SAM or SAM 2 has seen it: each prompt costs the mask decoder alone.

    Args:
        segmenter: SAM or SAM 2.
        image: in RGB, W x H pixels.
    """

    @torch.no_grad()
    def __init__(self, segmenter: Loaded, image: Image.Image):
        self._network, self._processor = segmenter
        self.size = image.size
        inputs = self._processor(images=image, return_tensors="pt")
        self._sizes = inputs.original_sizes, inputs.reshaped_input_sizes
        pixels = inputs.pixel_values.to(self._network.device, torch.float32)
        self._features = self._network.get_image_embeddings(pixels)

    def mask(self, points: Any, labels: Any = None) -> Tensor:
        """The object that points show.

        Args:
            points: (n, 2), x from 0 to W and y from 0 to H, in pixels.
            labels: (n,), 1 for a point inside the object, 0 for one outside; all inside by default.

        Returns:
            Bool, (H, W): of SAM's three masks the one with the best predicted IoU.

        Raises:
            InputError: a point lies outside the image, none is inside the object, labels are of another number or
                other than 0 and 1, or SAM sees nothing at the points.
        """
        where, inside = self._checked(points, labels)
        mask = self._decode(input_points=self._scaled(where)[None, None], input_labels=inside[None, None])[0]
        if not mask.any():
            raise InputError("points: no object is seen there; move them, or give a box or a mask")
        return mask

    def masks(self, boxes: Tensor) -> Tensor:
        """The object in each box.

        Args:
            boxes: (n, 4), corners x, y, x, y in pixels.

        Returns:
            Bool, (n, H, W): of SAM's three masks the one with the best predicted IoU; it may be empty.
        """
        corners = self._scaled(boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        return torch.cat([self._decode(input_boxes=some[None]) for some in _parts(corners)])

    def _scaled(self, places: Tensor) -> Tensor:
        """Pixels (…, 2) of the image as pixels of what the encoder has seen; in double precision, as transformers."""
        original, reshaped = (torch.as_tensor(size)[0].flip(0).double() for size in self._sizes)
        return (places.double() * (reshaped / original)).float()

    @torch.no_grad()
    def _decode(self, **prompts: Tensor) -> Tensor:
        """The best mask of each of n prompts, (n, H, W)."""
        there = {name: prompt.to(self._network.device) for name, prompt in prompts.items()}
        out = self._network(image_embeddings=self._features, **there)
        best = out.iou_scores[0].argmax(-1)
        coarse = out.pred_masks[0, torch.arange(len(best)), best][:, None].cpu()
        return self._processor.post_process_masks([coarse], *self._sizes)[0][:, 0]

    def _checked(self, points: Any, labels: Any) -> tuple[Tensor, Tensor]:
        try:
            where = torch.as_tensor(points, dtype=torch.float64)
            inside = torch.ones(len(where)) if labels is None else torch.as_tensor(labels, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise InputError("points: are no numbers; give [[x, y], ...] in pixels, and labels [0 or 1, ...]") from None
        if where.ndim != 2 or where.shape[1] != 2 or inside.shape != where.shape[:1]:
            raise InputError(
                f"points: shape {tuple(where.shape)} with labels {tuple(inside.shape)}; give (n, 2) and (n,)"
            )
        width, height = self.size
        for x, y in where.tolist():
            if not (0 <= x <= width and 0 <= y <= height):
                raise InputError(f"points: ({x:g}, {y:g}) lies outside the image of {width}x{height}; move it inside")
        if not ((inside == 0) | (inside == 1)).all():
            raise InputError(f"points: labels {inside.tolist()}; give 1 for a point inside the object, 0 for outside")
        if not inside.any():
            raise InputError("points: none is inside the object; give one with label 1")
        return where, inside.long()


class PointSegmenter:
    """Segments what points show, on any number of images; the network is loaded once.

    Args:
        models: the segmenter's name, SAM or SAM 2, and the device.

    Raises:
        InputError: the segmenter can't be loaded, or takes no points.
    """

    def __init__(self, models: FoundationModels):
        if kind_of(models, "segmenter") == "sam3":
            name = f"{models.KEY}.segmenter={models.segmenter}"
            raise InputError(f"{name}: SAM 3 takes nouns, no points; give SAM or SAM 2")
        self._segmenter = load(models, "segmenter")

    def at(self, image: AnyImage) -> EmbeddedImage:
        """An image, encoded once for all its points: keep it as long as points are set on it.

        Args:
            image: a file, a PIL image, a (3, H, W) tensor or an (H, W, 3) array.

        Raises:
            InputError: the image can't be read.
        """
        return EmbeddedImage(self._segmenter, as_rgb(image))


def segment_points(
    image: AnyImage, points: Any, labels: Any = None, models: FoundationModels = FoundationModels()
) -> Tensor:
    """The object that points on an image show. :class:`PointSegmenter` keeps what it computes for further points.

    Args:
        image: a file, a PIL image, a (3, H, W) tensor or an (H, W, 3) array.
        points: (n, 2), x from 0 to W and y from 0 to H, in pixels.
        labels: (n,), 1 for a point inside the object, 0 for one outside; all inside by default.
        models: the segmenter's name, SAM or SAM 2, and the device. The network of the last ``models`` stays in memory.

    Returns:
        The object's mask, bool, (H, W).

    Raises:
        InputError: as :class:`PointSegmenter` and :meth:`EmbeddedImage.mask`, or the image can't be read.
    """
    return _segmenter(models).at(image).mask(points, labels)


_segmenter = lru_cache(maxsize=1)(PointSegmenter)


@torch.no_grad()
def segment_nouns(
    segmenter: Loaded, image: Image.Image, phrases: Sequence[str], threshold: float
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """All instances of each noun, by SAM 3, which encodes the image once.

    Args:
        segmenter: SAM 3.
        image: in RGB, W x H pixels.
        phrases: nouns or short phrases.
        threshold: an instance counts when its score exceeds it: the probability that the noun is on the image at all,
            times that of the instance; in [0, 1].

    Returns:
        By phrase the masks, bool, (n, H, W), the corners (n, 4) of their boxes, x, y, x, y in pixels inside the image,
        and the scores (n,), of the instances that count, the surest first.

    Raises:
        InputError: a phrase is longer than the text encoder reads.
    """
    network, processor = segmenter
    length = network.config.text_config.max_position_embeddings
    seen = network.get_vision_features(processor(images=image).pixel_values.to(network.device))
    found = []
    for phrase in phrases:
        text = processor.tokenizer(phrase, return_tensors="pt", padding="max_length", max_length=length)
        if text.input_ids.shape[1] > length:
            raise InputError(f"noun {phrase!r}: has {text.input_ids.shape[1]} tokens, SAM 3 reads {length}; shorten it")
        out = network(vision_embeds=seen, **text.to(network.device))
        scores = (out.pred_logits.sigmoid() * out.presence_logits.sigmoid())[0].cpu()
        order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] > threshold]
        soft = out.pred_masks[0].cpu()[order].sigmoid()
        full = [F.interpolate(some[None], image.size[::-1], mode="bilinear")[0] > 0.5 for some in _parts(soft)]
        masks = torch.cat([torch.zeros(0, *image.size[::-1], dtype=torch.bool), *full])
        corners = out.pred_boxes[0].cpu()[order].clamp(0, 1) * torch.tensor(image.size * 2)
        found.append((masks, corners, scores[order]))
    return found


def _parts(values: Tensor) -> Iterable[Tensor]:
    """The rows of a tensor, :data:`AT_ONCE` at a time; no part where there is no row."""
    return values.split(AT_ONCE) if len(values) else ()
