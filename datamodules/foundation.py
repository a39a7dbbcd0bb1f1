"""Localization priors and captions from foundation models, for images that have none.

Grounding DINO (Liu et al., arXiv 2303.05499) finds the boxes of nouns, SAM (Kirillov et al., arXiv 2304.02643)
turns boxes into masks, BLIP (Li et al., arXiv 2201.12086) captions. What they answer is kept on disk, under the
image's content and all that the answer depends on; the networks load only when an answer isn't there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as mask_utils
from torch import Tensor

from locinv_pl.errors import InputError
from locinv_pl.io.files import write_json
from locinv_pl.networks.hub import Loaded, load_pretrained, reason

FORMAT = 1  # of the cache's files; a new one when their content or its making changes
BOXES_AT_ONCE = 16  # that SAM sees; bounds the memory for masks at its full resolution
DECODING = {"do_sample": False, "num_beams": 3, "max_length": 20, "min_length": 5}  # BLIP's own for COCO captions


@dataclass(frozen=True)
class FoundationModels:
    """Which foundation models to ask, and how.

    Args:
        detector: Grounding DINO, a hub id or a local folder in transformers' layout.
        segmenter: SAM, a hub id or a local folder in transformers' layout.
        captioner: BLIP for captions, a hub id or a local folder in transformers' layout.
        box_threshold: a box counts when some token of the text scores above it; in [0, 1].
        text_threshold: a box belongs to a noun only when a token of that noun scores above it; in [0, 1].
        cache: the folder for what the models answered; it may be shared by any number of processes.
        device: torch's name of the device that runs them: "cpu" (the default), "cuda", "cuda:1" or "mps".

    Raises:
        InputError: a threshold lies outside [0, 1], or there is no such device.
    """

    detector: str = "IDEA-Research/grounding-dino-tiny"
    segmenter: str = "facebook/sam-vit-base"
    captioner: str = "Salesforce/blip-image-captioning-base"
    box_threshold: float = 0.3
    text_threshold: float = 0.25
    cache: str = "data/foundation_cache"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("box_threshold", "text_threshold"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"data.models.{name}={value}: must lie between 0 and 1")
        try:
            torch.device(self.device)
        except RuntimeError:
            raise InputError(f"data.models.device={self.device}: no such device; use cpu or cuda") from None


@dataclass(frozen=True, eq=False)
class Found:
    """A noun's place on an image, as the foundation models see it.

    Args:
        mask: the union of its detections' masks, bool, shape (H, W); never empty.
        boxes: its detections, the surest first: (x, y, width, height) in pixels, inside the image, float32 (n, 4).
        scores: of the detections, in [0, 1], float32, shape (n,).
    """

    mask: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


class GroundedSam:
    """Finds nouns on images: Grounding DINO for boxes, SAM for the mask in each box.

    All nouns of an image go into one text, "cat. dog.", as the detector was trained: its attention keeps the
    phrases apart, and every box goes to the one noun that fits it best. Asked noun by noun, nothing would keep
    two nouns from claiming the same box.

    Args:
        models: the hub ids, thresholds, cache and device.
    """

    def __init__(self, models: FoundationModels):
        self.models = models
        self._cache = _Cache(models.cache, "masks")

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
            "picture": _fingerprint(image),
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
        from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

        return _load(self.models, "detector", GroundingDinoForObjectDetection, GroundingDinoProcessor)

    @cached_property
    def _segmenter(self) -> Loaded:
        from transformers import SamModel, SamProcessor

        return _load(self.models, "segmenter", SamModel, SamProcessor)

    def _locate(self, image: Image.Image, phrases: Sequence[str]) -> dict[str, Any]:
        """What the cache keeps of each phrase that is found; a box in which SAM sees nothing doesn't count."""
        boxes, scores, owners = self._detect(image, phrases)
        masks = self._segment(image, boxes)
        found = {}
        for index, phrase in enumerate(phrases):
            its = (owners == index) & masks.any(-1).any(-1)
            if its.any():
                found[phrase] = _pack(masks[its].any(0), boxes[its], scores[its])
        return found

    @torch.no_grad()
    def _detect(self, image: Image.Image, phrases: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Corners (n, 4) in pixels, scores (n,) and phrases' indices (n,) of the boxes that count, surest first."""
        network, processor = self._detector
        text = ". ".join(phrases) + "."
        offsets = processor.tokenizer(text, return_offsets_mapping=True).offset_mapping
        if len(offsets) > network.config.max_text_len:
            raise InputError(
                f"{len(phrases)} nouns for one image: their text has {len(offsets)} tokens, "
                f"data.models.detector={self.models.detector} reads {network.config.max_text_len}; give fewer"
            )
        inputs = processor(images=image, text=text, return_tensors="pt").to(network.device)
        out = network(**inputs)
        logits = out.logits[0, :, : len(offsets)].cpu()
        scores, owners = assign_boxes(
            logits, phrase_tokens(phrases, offsets), self.models.box_threshold, self.models.text_threshold
        )
        order = scores.argsort(descending=True, stable=True)
        order = order[owners[order] >= 0]
        return _corners(out.pred_boxes[0].cpu()[order], image.size), scores[order], owners[order]

    @torch.no_grad()
    def _segment(self, image: Image.Image, boxes: Tensor) -> Tensor:
        """SAM's mask in each of the boxes (n, 4): of its three the one with the best predicted IoU; bool (n, H, W)."""
        if not len(boxes):
            return torch.zeros(0, image.height, image.width, dtype=torch.bool)
        network, processor = self._segmenter
        inputs = processor(images=image, input_boxes=[boxes.tolist()], return_tensors="pt")
        inputs = inputs.to(network.device, torch.float32)
        features = network.get_image_embeddings(inputs.pixel_values)
        masks = []
        for some in inputs.input_boxes.split(BOXES_AT_ONCE, dim=1):
            out = network(image_embeddings=features, input_boxes=some)
            best = out.iou_scores[0].argmax(-1)
            coarse = out.pred_masks[0, torch.arange(len(best)), best][:, None].cpu()
            masks += processor.post_process_masks([coarse], inputs.original_sizes, inputs.reshaped_input_sizes)
        return torch.cat(masks)[:, 0]


class Blip:
    """Captions images with BLIP, by beam search: the same image, the same caption.

    Args:
        models: the hub ids, thresholds, cache and device.
    """

    def __init__(self, models: FoundationModels):
        self.models = models
        self._cache = _Cache(models.cache, "captions")

    def caption(self, image: Image.Image) -> str:
        """What the image shows, in one short phrase without a full stop.

        Args:
            image: of any size and mode.

        Raises:
            InputError: the model can't be loaded, or the cache can't be written.
        """
        image = image.convert("RGB")
        asked = {"picture": _fingerprint(image), "captioner": self.models.captioner, "decoding": DECODING}
        return self._cache.recall(asked, lambda: self._describe(image))

    @cached_property
    def _captioner(self) -> Loaded:
        from transformers import BlipForConditionalGeneration, BlipProcessor

        return _load(self.models, "captioner", BlipForConditionalGeneration, BlipProcessor)

    @torch.no_grad()
    def _describe(self, image: Image.Image) -> str:
        network, processor = self._captioner
        inputs = processor(images=image, return_tensors="pt").to(network.device)
        tokens = network.generate(**inputs, **DECODING)
        return processor.decode(tokens[0], skip_special_tokens=True).strip()


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


def _phrase(noun: str) -> str:
    """A noun as the detector's text has it: lower case, without the marks that end a phrase there."""
    return " ".join(noun.lower().replace(".", " ").replace("?", " ").split())


def _corners(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (n, 4) as (x, y, x, y) inside an image of ``size`` (W, H), from relative centres and extents."""
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    return corners.clamp(0, 1) * torch.tensor(size * 2)


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


def _fingerprint(image: Image.Image) -> str:
    """SHA-256 of an RGB image's size and pixels."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class _Cache:
    """Answers on disk, one JSON file for each question, named by the question's hash; written whole or not at all.

    A file that is damaged, down to a single digit, counts as absent: it holds its answer's hash.
    """

    def __init__(self, root: str, kind: str):
        self._root, self._folder = root, Path(root).expanduser() / kind

    def recall(self, asked: Mapping[str, Any], answer: Callable[[], Any]) -> Any:
        """The answer to ``asked``: from its file, or else from ``answer``, which must give what JSON keeps as it is."""
        question = {"format": FORMAT, **asked}
        path = self._folder / f"{_digest(question)}.json"
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_bytes())
            if _digest(kept["answer"]) == kept["sha256"]:
                return kept["answer"]
        new = answer()
        try:
            write_json(path, {"asked": question, "answer": new, "sha256": _digest(new)})
        except InputError:
            raise InputError(f"data.models.cache={self._root}: can't be written; give a folder that can") from None
        return new


def _load(models: FoundationModels, part: str, network: Any, processor: Any) -> Loaded:
    """One of the models; ``part`` is "detector", "segmenter" or "captioner"; otherwise as :func:`load_pretrained`."""
    name = getattr(models, part)
    loaded = load_pretrained(f"data.models.{part}={name}", name, network, processor)
    try:
        return loaded._replace(network=loaded.network.to(models.device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"data.models.device={models.device}: can't be used ({reason(error)}); use cpu") from error
