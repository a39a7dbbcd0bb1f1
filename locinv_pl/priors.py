"""Localization priors: boxes as planes on the picture, and planes on the attention grid.

All areas are exact and separable: a pixel or grid cell counts by the share of it that is covered.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Box = tuple[float, float, float, float]
Rasterize = Literal["area", "any"]


def box_mask(box: Box, size: tuple[int, int]) -> Tensor:
    """Fill a box: every pixel holds the share of it that the box covers.

    Args:
        box: (x, y, w, h) in pixels, COCO's order; parts outside the picture are cut off.
        size: (H, W) of the picture.

    Returns:
        shape (H, W), in [0, 1].
    """
    x, y, w, h = (torch.tensor([n], dtype=torch.float64) for n in box)
    H, W = size
    return (_overlaps(y, y + h, H).mT @ _overlaps(x, x + w, W)).float()


def prior_on_grid(plane: Tensor, grid: tuple[int, int], rasterize: Rasterize = "area") -> Tensor:
    """S^k on the attention grid: W_r · plane · W_cᵀ, the mean of the plane over each cell's area.

    Args:
        plane: S^k on the picture, shape (*, H, W).
        grid: (r, c); needs not divide (H, W), cells then share pixels.
        rasterize: "area" averages; "any" is the rule of LocInv's authors, 1 wherever any part of
            the cell is non-zero, else 0.

    Returns:
        shape (*, r, c), in the plane's dtype, or float32 for a bool or integer plane.
    """
    values = plane if plane.is_floating_point() else plane.float()
    if rasterize == "any":
        values = (values != 0).to(values.dtype)
    rows, columns = (area_weights(n, cells) for n, cells in zip(plane.shape[-2:], grid, strict=True))
    means = rows.to(values) @ values @ columns.to(values).mT
    return (means > 0).to(values.dtype) if rasterize == "any" else means


def area_weights(pixels: int, cells: int) -> Tensor:
    """Share of each pixel in each cell's mean along one axis, shape (cells, pixels), rows sum to 1."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * pixels / cells
    return _overlaps(edges[:-1], edges[1:], pixels) * cells / pixels


def _overlaps(starts: Tensor, stops: Tensor, n: int) -> Tensor:
    """Length that the intervals [start, stop], shape (m,), share with [i, i + 1], shape (m, n)."""
    left = torch.arange(n, dtype=torch.float64)
    shared = torch.minimum(stops[:, None], left + 1) - torch.maximum(starts[:, None], left)
    return shared.clamp_min(0)
