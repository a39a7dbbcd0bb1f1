"""Which foundation models are asked, and how they are loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import ClassVar, Literal

import torch

from locinv_pl.errors import InputError
from locinv_pl.networks.hub import Loaded, load_pretrained, model_kind, reason

Part = Literal["detector", "segmenter", "captioner"]
SAM3 = "facebook/sam3"
CLASSES = {
    "detector": {"grounding-dino": ("GroundingDinoForObjectDetection", "transformers.GroundingDinoProcessor")},
    "segmenter": {
        "sam": ("SamModel", "transformers.SamProcessor"),
        "sam2": ("Sam2Model", "locinv_pl.grounding.square.SquareProcessor"),
        "sam3": ("Sam3Model", "locinv_pl.grounding.square.SquareTextProcessor"),
    },
    "captioner": {"blip": ("BlipForConditionalGeneration", "transformers.BlipProcessor")},
}
"""By part and by the kind that a model's configuration names: transformers' network, and what prepares its inputs."""


@dataclass(frozen=True)
class FoundationModels:
    """Which foundation models to ask, and how.

    Args:
        detector: Grounding DINO, a hub id or a local folder in transformers' layout; "" for none, where the segmenter
            finds nouns itself.
        segmenter: SAM, SAM 2 or SAM 3, a hub id or a local folder in transformers' layout. SAM 3 finds nouns without
            the detector; its configuration tells which of them a model is.
        captioner: BLIP for captions, a hub id or a local folder in transformers' layout.
        box_threshold: a box counts when some token of the text scores above it, an instance that SAM 3 finds when
            its score does; in [0, 1].
        text_threshold: a box belongs to a noun only when a token of that noun scores above it; in [0, 1].
        cache: the folder for what the models answered; it may be shared by any number of processes.
        device: torch's name of the device that runs them: "cpu" (the default), "cuda", "cuda:1" or "mps".

    Raises:
        InputError: a threshold lies outside [0, 1], or there is no such device.
    """

    KEY: ClassVar[str] = "models"  # of these settings, in errors

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
                raise InputError(f"{self.KEY}.{name}={value}: must lie between 0 and 1")
        try:
            torch.device(self.device)
        except RuntimeError:
            raise InputError(f"{self.KEY}.device={self.device}: no such device; use cpu or cuda") from None

    def without_detector(self) -> FoundationModels:
        """The same, with SAM 3 in place of detector and segmenter: :data:`SAM3`, where the segmenter is the default.

        >>> FoundationModels(box_threshold=0.5).without_detector().segmenter
        'facebook/sam3'
        >>> FoundationModels(segmenter="my_sam3").without_detector().segmenter
        'my_sam3'
        """
        segmenter = SAM3 if self.segmenter == FoundationModels.segmenter else self.segmenter
        return replace(self, detector="", segmenter=segmenter)


class DataModels(FoundationModels):
    """Those of a data module, whose key on the command line is another; arguments as of :class:`FoundationModels`."""

    KEY: ClassVar[str] = "data.models"


def kind_of(models: FoundationModels, part: Part) -> str:
    """The kind of one of the models, a key of :data:`CLASSES`; no weights are read for it.

    Args:
        models: that name it.
        part: which one.

    Raises:
        InputError: none is named, it can't be found, or it is of a kind that can't do this.
    """
    name, kinds = getattr(models, part), CLASSES[part]
    key = f"{models.KEY}.{part}={name}"
    *others, last = kinds
    named = f"{', '.join(others)} or {last}" if others else last
    if not name:
        raise InputError(f"{models.KEY}.{part}: names no model; give a folder or a hub id of kind {named}")
    if (kind := model_kind(key, name)) not in kinds:
        raise InputError(f"{key}: is a model of kind {kind}; give one of kind {named}")
    return kind


def load(models: FoundationModels, part: Part) -> Loaded:
    """One of the models, on its device.

    Args:
        models: that name it.
        part: which one.

    Raises:
        InputError: as :func:`kind_of`, or the model is incomplete or damaged, or its device can't be used.
    """
    network, processor = CLASSES[part][kind_of(models, part)]
    module, _, tools = processor.rpartition(".")
    name = getattr(models, part)
    loaded = load_pretrained(
        f"{models.KEY}.{part}={name}",
        name,
        getattr(import_module("transformers"), network),
        getattr(import_module(module), tools),
    )
    try:
        return loaded._replace(network=loaded.network.to(models.device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"{models.KEY}.device={models.device}: can't be used ({reason(error)}); use cpu") from error
