"""Localization priors: boxes as planes on the image, and planes on another grid.

All areas are exact and separable: a pixel or grid cell counts by the share of it that is covered.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from locinv_pl.errors import InputError

Box = tuple[float, float, float, float]
Rasterize = Literal["area", "any", "bicubic"]
BOX_TOLERANCE = 1.0  # pixels; annotators' boxes may stick out by rounding
FARTHEST = 1e9  # pixels: a number beyond is none of a box


def is_number(value: Any) -> bool:
    """Whether a value is a number between -10⁹ and 10⁹; truth values, NaN and infinities aren't.

    >>> is_number(3.5), is_number(True), is_number(float("nan"))
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool) and -FARTHEST < value < FARTHEST  # type: ignore[operator]


def check_box(box: Any, width: int, height: int, where: str) -> Box:
    """Check that a box lies on its image, and cut off what sticks out by rounding, one pixel at most.

    Args:
        box: (x, y, w, h) in pixels, COCO's order; any value, since it comes from a file.
        width: the image's width in pixels.
        height: the image's height in pixels.
        where: the start of the error, which names the file and the noun.

    Returns:
        The box, inside [0, width] x [0, height].

    Raises:
        InputError: the value isn't four numbers, or the box lies outside the image or covers less than a pixel.

    >>> check_box([-0.5, 0, 20, 10], 64, 48, "noun 'cat'")
    (0, 0.0, 19.5, 10.0)
    """
    told, mend = reprlib.repr(box), "correct its bbox (x, y, width, height) or delete it"
    if not (isinstance(box, Sequence) and len(box) == 4 and all(map(is_number, box))):
        raise InputError(f"{where}: its box {told} is not four numbers; {mend}")
    x, y, w, h = map(float, box)
    if w <= 0 or h <= 0:
        raise InputError(f"{where}: its box {told} has no area; {mend}")
    for start, length, size in ((x, w, width), (y, h, height)):
        if not (-BOX_TOLERANCE <= start < size and -start < length <= size + BOX_TOLERANCE - start):
            hint = "; as corners it would fit: write x, y, x2 - x, y2 - y" if corners_fit(box, width, height) else ""
            raise InputError(f"{where}: its box {told} lies outside the image of {width}x{height}; {mend}{hint}")
    if w * h < 1 or (max(x, y) < 1 and max(w, h) <= 1):
        raise InputError(
            f"{where}: its box {told} is less than a pixel; boxes are in pixels: multiply shares of the image by "
            f"its {width}x{height}, or delete it"
        )
    left, top = max(x, 0), max(y, 0)
    return left, top, min(w - (left - x), width - left), min(h - (top - y), height - top)


def corners_fit(box: Sequence[float], width: int, height: int) -> bool:
    """Whether four numbers can be the corners (x, y, x2, y2) of a box that lies on the image.

    Args:
        box: four numbers, in pixels.
        width: the image's width in pixels.
        height: the image's height in pixels.

    >>> corners_fit((10, 10, 60, 40), 64, 48), corners_fit((10, 10, 5, 5), 64, 48)
    (True, False)
    """
    x, y, x2, y2 = box
    return 0 <= x < x2 <= width + BOX_TOLERANCE and 0 <= y < y2 <= height + BOX_TOLERANCE


def box_mask(box: Box, size: tuple[int, int]) -> Tensor:
    """Fill a box: every pixel holds the share of it that the box covers.

    Args:
        box: (x, y, w, h) in pixels, COCO's order; parts outside the image are cut off.
        size: (H, W) of the image.

    Returns:
        shape (H, W), float32, in [0, 1].

    >>> box_mask((0.5, 0, 1, 1), (2, 3))
    tensor([[0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    x, y, w, h = (torch.tensor([n], dtype=torch.float64) for n in box)
    H, W = size
    return (_overlaps(y, y + h, H).mT @ _overlaps(x, x + w, W)).float()


def prior_on_grid(plane: Tensor, grid: tuple[int, int], rasterize: Rasterize = "area") -> Tensor:
    """S^k on the attention grid; by default W_r · plane · W_cᵀ, the mean of the plane over each cell's area.

    Args:
        plane: S^k on the image, shape (*, H, W).
        grid: (r, c); needs not divide (H, W), cells then share pixels.
        rasterize: "area" averages; "any" is 1 wherever any part of the cell is non-zero, else 0; "bicubic" is the
            rule of LocInv's published code: Pillow's bicubic resize in 256 levels, then 1 wherever that isn't 0. Its
            kernel reaches into the cells around, and what is less than half a level of a cell is lost.

    Returns:
        shape (*, r, c), in the plane's dtype, or float32 for a bool or integer plane.

    >>> prior_on_grid(torch.eye(4), (2, 2))
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    >>> prior_on_grid(torch.eye(4), (2, 2), "any")
    tensor([[1., 0.],
            [0., 1.]])
    >>> prior_on_grid(torch.eye(4), (2, 2), "bicubic")
    tensor([[1., 1.],
            [1., 1.]])
    """
    H, W = plane.shape[-2:]
    dtype = plane.dtype if plane.is_floating_point() else torch.float32
    if rasterize == "any":
        means = resample((plane != 0).float(), (0, 0, W, H), grid)
        return (means > 0).to(dtype)
    if rasterize == "bicubic":
        levels = (plane[None].float() * 255).round().flatten(0, -3)[None]
        for size in ((H, grid[1]), grid):  # Pillow's way: along rows, then columns, in whole levels each time
            levels = F.interpolate(levels, size, mode="bicubic", antialias=True).clamp(0, 255).round()
        return (levels > 0).to(dtype).reshape(*plane.shape[:-2], *grid)
    return resample(plane, (0, 0, W, H), grid)


def resample(plane: Tensor, window: Box, size: tuple[int, int]) -> Tensor:
    """The part of a plane that a window shows, at another size: every cell is the mean over its area.

    Args:
        plane: shape (*, H, W).
        window: (x, y, w, h) in the plane's pixels; what it shows beyond the plane is 0.
        size: (r, c), the cells that the window is divided into.

    Returns:
        shape (*, r, c), in the plane's dtype, or float32 for a bool or integer plane.

    >>> resample(torch.eye(4), (0, 0, 2, 2), (1, 1))
    tensor([[0.5000]])
    """
    values = plane if plane.is_floating_point() else plane.float()
    x, y, w, h = window
    rows = area_weights(values.shape[-2], size[0], y, h).to(values)
    columns = area_weights(values.shape[-1], size[1], x, w).to(values)
    return rows @ values @ columns.mT


def area_weights(pixels: int, cells: int, start: float = 0, length: float | None = None) -> Tensor:
    """Share of each pixel in each cell's mean along one axis, shape (cells, pixels).

    The cells divide [start, start + length] equally; the rows sum to 1 where that lies inside [0, pixels].

    Args:
        pixels: the number of pixels along the axis.
        cells: the number of cells.
        start: where the first cell begins, in pixels; 0 by default.
        length: the length of all cells together, in pixels; all pixels by default.

    >>> area_weights(3, 2)
    tensor([[0.6667, 0.3333, 0.0000],
            [0.0000, 0.3333, 0.6667]], dtype=torch.float64)
    """
    length = pixels if length is None else length
    edges = start + torch.arange(cells + 1, dtype=torch.float64) * length / cells
    return _overlaps(edges[:-1], edges[1:], pixels) * cells / length


def _overlaps(starts: Tensor, stops: Tensor, n: int) -> Tensor:
    """Length that the intervals [start, stop], shape (m,), share with [i, i + 1], shape (m, n)."""
    left = torch.arange(n, dtype=torch.float64)
    shared = torch.minimum(stops[:, None], left + 1) - torch.maximum(starts[:, None], left)
    return shared.clamp_min(0)
