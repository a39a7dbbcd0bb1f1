"""What was drawn on the page: boxes and brushed masks in the photograph's own pixels, as priors that the model sees."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict

from locinv_pl.errors import InputError
from locinv_pl.io.frames import Frame, inside
from locinv_pl.io.images import Size
from locinv_pl.priors import Box, check_box

REGION = "#region"  # stands in a noun's place: where edits may change the image
MOST = 64  # boxes, masks and points
LONGEST = 1024  # pixels of a brushed mask's longer side, as canvas.js has it
PNG = "data:image/png;base64,"
DAMAGED = "drawing: is not what this page sends; reload the page"


class _Box(TypedDict):
    noun: str
    x: float
    y: float
    w: float
    h: float


class _Point(TypedDict):
    noun: str
    x: float
    y: float
    inside: bool


class _Drawn(TypedDict):
    photo: str
    boxes: list[_Box]
    masks: dict[str, str]
    points: list[_Point]


DRAWN = TypeAdapter(_Drawn)


@dataclass(frozen=True)
class Places:
    """Where each noun is, as it was drawn.

    Args:
        photo: the key of the photograph that it was drawn on; "" where there is none.
        boxes: by noun (x, y, w, h) in pixels of the photograph.
        masks: by noun what was brushed, (h, w) bool, of the photograph's shape and up to 1024 pixels.
        points: by noun (x, y, whether it is inside), in pixels of the photograph.
    """

    photo: str = ""
    boxes: Mapping[str, Sequence[Box]] = field(default_factory=dict)
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    points: Mapping[str, Sequence[tuple[float, float, bool]]] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str | None) -> Places:
        """What the canvas says; nothing where it has said nothing yet.

        Args:
            text: JSON, as canvas.js writes it.

        Raises:
            InputError: it is no drawing, or a mask is too large.
        """
        if not text:
            return cls()
        try:
            drawn = DRAWN.validate_python(json.loads(text), strict=False)
        except (ValidationError, ValueError):
            raise InputError(DAMAGED) from None
        if max(map(len, (drawn["boxes"], drawn["masks"], drawn["points"]))) > MOST:
            raise InputError(f"drawing: has more than {MOST} boxes, masks or points; clear some")
        boxes: dict[str, list[Box]] = {}
        for box in drawn["boxes"]:
            boxes.setdefault(box["noun"], []).append((box["x"], box["y"], box["w"], box["h"]))
        points: dict[str, list[tuple[float, float, bool]]] = {}
        for point in drawn["points"]:
            points.setdefault(point["noun"], []).append((point["x"], point["y"], point["inside"]))
        masks = {noun: _mask_of(source) for noun, source in drawn["masks"].items()}
        return cls(drawn["photo"], boxes, {noun: mask for noun, mask in masks.items() if mask.any()}, points)

    def has(self, noun: str) -> bool:
        """Whether a noun has a place."""
        return noun in self.boxes or noun in self.masks

    def prior(self, noun: str, frame: Frame) -> Tensor | None:
        """A noun's place as the model sees it, (H, W) in [0, 1]: its boxes and what was brushed, together.

        Args:
            noun: the noun, or :data:`REGION`.
            frame: of the photograph.

        Returns:
            None where nothing of it lies in the frame.

        Raises:
            InputError: a box lies outside the photograph.
        """
        plane = torch.zeros(frame.size)
        for box in self.boxes.get(noun, ()):
            plane = torch.maximum(plane, frame.box_plane(check_box(box, *frame.image, f"noun {noun!r}")))
        if noun in self.masks:
            plane = torch.maximum(
                plane, inside(scaled(frame, self.masks[noun].shape[::-1]).plane(self._mask(noun))).float()
            )
        return plane if plane.any() else None

    def priors(self, nouns: Iterable[str], frame: Frame) -> dict[str, Tensor]:
        """The priors of those of some nouns that have a place."""
        each = {noun: self.prior(noun, frame) for noun in dict.fromkeys(nouns)}
        return {noun: plane for noun, plane in each.items() if plane is not None}

    def own(self, noun: str, size: Size) -> Box | np.ndarray:
        """A noun's place on the photograph: its box where one box is all there is, else a mask (height, width).

        Args:
            noun: the noun.
            size: (width, height) of the photograph.

        Raises:
            InputError: a box lies outside the photograph.
        """
        boxes = self.boxes.get(noun, ())
        return boxes[0] if len(boxes) == 1 and noun not in self.masks else self.whole(noun, size)

    def whole(self, noun: str, size: Size) -> np.ndarray:
        """A noun's place as a mask (height, width) of the photograph, empty where it has none.

        Args:
            noun: the noun.
            size: (width, height) of the photograph.

        Raises:
            InputError: a box lies outside the photograph.
        """
        plane = self.prior(noun, Frame.whole(*size))
        return np.zeros(size[::-1], bool) if plane is None else (plane >= 0.5).numpy()

    def _mask(self, noun: str) -> Tensor:
        return torch.from_numpy(self.masks[noun])

    def to_json(self, some: Sequence[str] | None = None) -> str:
        """The drawing for ``props.load`` of the canvas.

        Args:
            some: the nouns whose places are replaced there; all by default.
        """
        boxes = [dict(zip("xywh", box, strict=True), noun=noun) for noun, each in self.boxes.items() for box in each]
        masks = {noun: _source_of(mask) for noun, mask in self.masks.items()}
        return json.dumps({"photo": self.photo, "boxes": boxes, "masks": masks, "some": some})


def scaled(frame: Frame, size: Size) -> Frame:
    """The frame for a copy of the photograph of another size."""
    across, down = size[0] / frame.image[0], size[1] / frame.image[1]
    x, y, w, h = frame.window
    return replace(frame, window=(x * across, y * down, w * across, h * down), image=size)


def shrunk(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) at up to 1024 pixels."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.BILINEAR)
    return np.asarray(image) > 127


def _mask_of(source: str) -> np.ndarray:
    try:
        content = base64.b64decode(source.removeprefix(PNG), validate=True)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if max(image.size) > LONGEST:
                raise InputError(DAMAGED)
            return np.asarray(image.convert("RGBA"))[..., 3] > 127
    except (binascii.Error, OSError, SyntaxError, ValueError):
        raise InputError(DAMAGED) from None


def _source_of(mask: np.ndarray) -> str:
    alpha = Image.fromarray(mask.astype(np.uint8) * 255)
    image = Image.merge("RGBA", [Image.new("L", alpha.size)] * 3 + [alpha])
    return data_url(image)


def data_url(image: Image.Image, format: Literal["png", "jpeg"] = "png", **options: Any) -> str:
    """An image as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return url_of(buffer.getvalue(), format)


def url_of(content: bytes, format: Literal["png", "jpeg"] = "png") -> str:
    """An image's file as a data URL."""
    return f"data:image/{format};base64,{base64.b64encode(content).decode()}"
