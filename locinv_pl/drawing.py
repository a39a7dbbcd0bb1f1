"""Drawing maps and priors over images: tensors become arrays, PIL images or the content of files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

COLORS = ("#e4572e", "#2e86ab", "#3f9c52", "#8e5aa8", "#d9a21b", "#5b5b5b")


def to_array(image: Tensor) -> np.ndarray:
    """Convert an image (3, H, W) in [0, 1], which is clamped, to an array (H, W, 3) uint8."""
    return (image.clamp(0, 1).movedim(0, -1).cpu().numpy() * 255).round().astype(np.uint8)


def difference(one: np.ndarray, other: np.ndarray, factor: float = 4) -> np.ndarray:
    """The absolute difference of two images, averaged over the channels and enlarged, as a grey image.

    Args:
        one: shape (H, W, 3), values 0 to 255.
        other: the same.
        factor: the differences are multiplied by it and cut at 255; 4 by default.

    Returns:
        Shape (H, W, 3), uint8.
    """
    apart = factor * np.abs(one.astype(np.float32) - other).mean(-1, keepdims=True)
    return apart.clip(0, 255).round().astype(np.uint8).repeat(3, -1)


def heat(plane: Tensor, size: Sequence[int]) -> np.ndarray:
    """A map (r, c) of any range in colours, brightest at its maximum: (*size, 3) in [0, 1]."""
    scaled = plane / plane.amax().clamp_min(1e-12)
    scaled = F.interpolate(scaled[None, None], tuple(size), mode="bilinear", align_corners=False)[0, 0]
    return colormaps["inferno"](scaled.cpu().numpy())[..., :3]


def overlay(image: Tensor, plane: Tensor) -> np.ndarray:
    """A map (r, c) of any range over an image (3, H, W), brightest at its maximum: (H, W, 3) uint8."""
    grey = image.mean(0).cpu().numpy()[..., None]
    return ((0.3 * grey + 0.7 * heat(plane, image.shape[-2:])) * 255).round().astype(np.uint8)


def heat_strip(planes: Sequence[Tensor], scale: int = 4) -> Image.Image:
    """Maps (r, c) of one size in colours, each as :func:`heat` draws it, under each other."""
    size = [scale * side for side in planes[0].shape]
    return Image.fromarray((np.concatenate([heat(plane, size) for plane in planes]) * 255).round().astype(np.uint8))


def outline(image: Tensor, planes: list[Tensor], side: int = 384) -> np.ndarray:
    """An image (3, H, W), enlarged to ``side`` at least, with a line round every plane (H, W): uint8."""
    scale = max(1, round(side / min(image.shape[-2:])))
    out = to_array(image.repeat_interleave(scale, 1).repeat_interleave(scale, 2))
    for k, plane in enumerate(planes):
        inside = (plane >= 0.5).float().repeat_interleave(scale, 0).repeat_interleave(scale, 1)[None, None]
        line = (F.max_pool2d(inside, 7, 1, 3) > inside)[0, 0].cpu().numpy()
        out[line] = [int(COLORS[k % len(COLORS)][i : i + 2], 16) for i in (1, 3, 5)]
    return out


def stack_strips(strips: list[Image.Image]) -> Image.Image:
    """Paste strips under each other, left-aligned on white."""
    page = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
    top = 0
    for one in strips:
        page.paste(one, (0, top))
        top += one.height
    return page


def to_png(image: Figure | Image.Image, about: Mapping[str, str] | None = None, dpi: int = 100) -> bytes:
    """Encode an image as PNG.

    Args:
        image: a matplotlib figure or a PIL image.
        about: texts for the PNG's metadata, by keyword; none by default.
        dpi: pixels per inch of a figure; 100 by default.
    """
    buffer = io.BytesIO()
    if isinstance(image, Figure):
        image.savefig(buffer, format="png", dpi=dpi, metadata=dict(about or {}))
        return buffer.getvalue()
    info = PngInfo()
    for key, value in (about or {}).items():
        info.add_itxt(key, value)
    image.save(buffer, format="png", pnginfo=info)
    return buffer.getvalue()


def to_jpeg(image: Image.Image) -> bytes:
    """Encode an image as JPEG, of quality 90."""
    buffer = io.BytesIO()
    image.save(buffer, format="jpeg", quality=90)
    return buffer.getvalue()
