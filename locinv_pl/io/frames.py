"""Frames: how an image of any shape is cut and resized for the model, and its masks and boxes with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor

from locinv_pl.errors import InputError
from locinv_pl.io.images import Size, mask_file, open_mask
from locinv_pl.io.reading import validated
from locinv_pl.priors import Box, box_mask, resample

Fit = Literal["crop", "pad", "native"]
LONGEST = 4.0  # times the shorter side; a panorama would not fit into memory
MULTIPLE = 64  # pixels: a latent of Stable Diffusion then halves three times without rest


@dataclass(frozen=True)
class Frame:
    """A window on an image and the size that it is shown at.

    Images, planes and boxes go through the same window, so that a mask stays on its object.

    Args:
        window: (x, y, w, h) in pixels of the image; what lies beyond the image is black.
        size: (H, W) of what comes out.
        image: (width, height) of the image.
    """

    window: Box
    size: tuple[int, int]
    image: Size

    @classmethod
    def fitting(cls, width: int, height: int, side: int, fit: Fit = "crop") -> Frame:
        """The frame for an image of ``width`` x ``height``.

        Args:
            width: the image's width in pixels.
            height: the image's height in pixels.
            side: of the square that "crop" and "pad" give; the shorter side of what "native" gives.
            fit: "crop" shows the centred square, "pad" the whole image between black bars, "native" keeps the
                image's shape, up to 4:1: sides are multiples of 64, what exceeds their aspect ratio is cut off.
        """
        if fit == "native":
            return cls._native(width, height, side)
        edge = min(width, height) if fit == "crop" else max(width, height)
        return cls(((width - edge) // 2, (height - edge) // 2, edge, edge), (side, side), (width, height))

    @classmethod
    def whole(cls, width: int, height: int) -> Frame:
        """The frame that shows an image as it is."""
        return cls((0, 0, width, height), (height, width), (width, height))

    @classmethod
    def _native(cls, width: int, height: int, side: int) -> Frame:
        short = _round_to_multiple(side)
        aspect = min(max(width, height) / min(width, height), LONGEST)
        long = max(short, _round_to_multiple(short * aspect))
        H, W = (short, long) if width >= height else (long, short)
        w, h = min(width, height * W / H), min(height, width * H / W)
        return cls(((width - w) / 2, (height - h) / 2, w, h), (H, W), (width, height))

    def apply(self, image: Image.Image) -> Image.Image:
        """Cut out and resize, bicubic with antialiasing; untouched where it has that size already."""
        x, y, w, h = self.window
        left, top = math.floor(x), math.floor(y)
        around = image.crop((left, top, math.ceil(x + w), math.ceil(y + h)))
        inner = (x - left, y - top, x - left + w, y - top + h)
        return around.resize(self.size[::-1], Image.Resampling.BICUBIC, box=inner)

    def back(self, shown: Image.Image, how: Image.Resampling = Image.Resampling.BICUBIC) -> tuple[Image.Image, Box]:
        """What :meth:`apply` undoes: the frame's content at the image's own size.

        Args:
            shown: of the size ``size``.
            how: resampling, with antialiasing where the image is smaller than the frame.

        Returns:
            the pixels of the image that lie in the window whole, and the box (x, y, w, h) of the image that they are.

        >>> from PIL import Image
        >>> back, box = Frame.fitting(640, 427, 64).back(Image.new("RGB", (64, 64)))
        >>> back.size, box
        ((427, 427), (106, 0, 427, 427))
        """
        x, y, w, h = self.window
        left, top = math.ceil(max(0, x)), math.ceil(max(0, y))
        right = max(left + 1, math.floor(min(self.image[0], x + w)))
        bottom = max(top + 1, math.floor(min(self.image[1], y + h)))
        H, W = self.size
        across, down = W / w, H / h
        inner = (
            max(0.0, (left - x) * across),
            max(0.0, (top - y) * down),
            min(W, (right - x) * across),
            min(H, (bottom - y) * down),
        )
        return shown.resize((right - left, bottom - top), how, box=inner), (left, top, right - left, bottom - top)

    @property
    def cut(self) -> tuple[bool, bool, bool, bool]:
        """Whether the image goes on beyond the window's left, top, right and bottom side."""
        x, y, w, h = self.window
        return x > 0, y > 0, x + w < self.image[0], y + h < self.image[1]

    def plane(self, plane: Tensor) -> Tensor:
        """Cut out and resize a mask (H, W) by area averages; the result has the shape ``size``."""
        return resample(plane.double(), self.window, self.size).float()

    def box(self, box: Box) -> Box:
        """Convert a box (x, y, w, h) from pixels of the image to pixels of the frame."""
        x, y, w, h = box
        left, top, width, height = self.window
        down, across = self.size[0] / height, self.size[1] / width
        return (x - left) * across, (y - top) * down, w * across, h * down

    def box_plane(self, box: Box) -> Tensor:
        """Fill a box, given in pixels of the image, on a plane of shape ``size``; values in [0, 1]."""
        return box_mask(self.box(box), self.size)


FRAME = TypeAdapter(Frame)


def to_frame(values: Any, where: str) -> Frame:
    """A frame from the plain values of ``asdict``, as JSON gives them back; ``where`` begins the error.

    Raises:
        InputError: they are none.
    """
    return validated(FRAME, values, lambda *_: f"{where}: its frame is damaged; delete it and run again", strict=False)


def frame_mask(path: Path, frame: Frame) -> Tensor:
    """A mask's file as the model sees it, (H, W) bool.

    Args:
        path: the file, of the size of the image, or of the size that it is shown at.
        frame: the frame of the image that the mask belongs to.

    Raises:
        InputError: it is no mask, of another size, or covers nothing of what the frame shows.
    """
    with mask_file(path) as file:
        is_framed = file.size == frame.size[::-1] != frame.image
    if is_framed:
        return torch.from_numpy(open_mask(path, frame.size[::-1]))
    mask = inside(frame.plane(torch.from_numpy(open_mask(path, frame.image))))
    if not mask.any():
        raise InputError(f"{path}: the part of the image that is shown has nothing of the mask; draw it there")
    return mask


def inside(plane: Tensor) -> Tensor:
    """Threshold a soft mask at one half; of an object smaller than a pixel the pixels that it covers most are taken."""
    return (plane > 0) & (plane >= plane.amax().clamp_max(0.5))


def _round_to_multiple(pixels: float) -> int:
    return max(1, round(pixels / MULTIPLE)) * MULTIPLE
