"""Opening pictures, and cropping and resizing them with their masks and boxes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pycocotools import mask as mask_utils
from torch import Tensor

from locinv_pl.errors import InputError, one_line
from locinv_pl.priors import Box, prior_on_grid


@dataclass(frozen=True)
class SquareCrop:
    """The centre square of a picture, and how pictures, planes and boxes follow it to a new size."""

    left: int
    top: int
    side: int

    @classmethod
    def centre(cls, width: int, height: int) -> SquareCrop:
        """The largest centred square of a picture."""
        side = min(width, height)
        return cls((width - side) // 2, (height - side) // 2, side)

    def picture(self, picture: Image.Image, size: int) -> Image.Image:
        """Crop and resize, bicubic with antialiasing; untouched where it has that size already."""
        square = picture.crop((self.left, self.top, self.left + self.side, self.top + self.side))
        return square.resize((size, size), Image.Resampling.BICUBIC)

    def plane(self, plane: Tensor, size: int) -> Tensor:
        """The same for a mask, shape (H, W): area averages, shape (size, size)."""
        rows, columns = slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)
        return prior_on_grid(plane[rows, columns].double(), (size, size)).float()

    def box(self, box: Box, size: int) -> Box:
        """The same for a box (x, y, w, h)."""
        x, y, w, h = box
        scale = size / self.side
        return (x - self.left) * scale, (y - self.top) * scale, w * scale, h * scale

    def shows_box(self, box: Box) -> bool:
        """Whether any of the box is inside."""
        x, y, w, h = self.box(box, self.side)
        return x < self.side and y < self.side and x + w > 0 and y + h > 0

    def shows_mask(self, rle: dict[str, Any]) -> bool:
        """Whether any of the mask, a compressed RLE, is inside."""
        square = np.array([[self.left, self.top, self.side, self.side]], dtype=float)
        mine = mask_utils.frPyObjects(square, *rle["size"])
        return bool(mask_utils.area(mask_utils.merge([rle, *mine], intersect=True)) > 0)


def read_picture(path: Path, width: int, height: int) -> Image.Image:
    """Open a picture, upright and RGB, that the annotations say is width x height.

    Raises:
        InputError: missing, unreadable, truncated, or of another size.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{path}: no such picture; put it there or remove it from the JSON") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if path.is_file() and path.stat().st_size == 0:
            problem = "the file is empty"
        elif isinstance(error, UnidentifiedImageError):
            problem = "is no picture, or of a format that PIL does not know"
        else:
            problem = f"cannot be read as a picture ({one_line(str(error))})"
        raise InputError(f"{path}: {problem}; get it again or remove it from the JSON") from None
    if picture.size != (width, height):
        raise InputError(
            f"{path}: is {picture.width}x{picture.height} but the JSON says {width}x{height}; "
            f"use the picture that was annotated or correct the JSON"
        )
    return picture
