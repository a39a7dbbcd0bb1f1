"""Drawing maps and priors over pictures; tensors in, arrays or pictures out."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

COLORS = ("#e4572e", "#2e86ab", "#3f9c52", "#8e5aa8", "#d9a21b", "#5b5b5b")


def to_array(picture: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] to (H, W, 3) uint8."""
    return (picture.clamp(0, 1).movedim(0, -1).cpu().numpy() * 255).round().astype(np.uint8)


def overlay(picture: Tensor, plane: Tensor) -> np.ndarray:
    """A map (r, c) of any range over a picture (3, H, W), brightest at its maximum: (H, W, 3) uint8."""
    heat = plane / plane.amax().clamp_min(1e-12)
    heat = F.interpolate(heat[None, None], picture.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
    colors = colormaps["inferno"](heat.cpu().numpy())[..., :3]
    grey = picture.mean(0).cpu().numpy()[..., None]
    return ((0.3 * grey + 0.7 * colors) * 255).round().astype(np.uint8)


def outline(picture: Tensor, planes: list[Tensor], side: int = 384) -> np.ndarray:
    """A picture (3, H, W), enlarged to ``side`` at least, with a line round every plane (H, W): uint8."""
    scale = max(1, round(side / min(picture.shape[-2:])))
    out = to_array(picture.repeat_interleave(scale, 1).repeat_interleave(scale, 2))
    for k, plane in enumerate(planes):
        inside = (plane >= 0.5).float().repeat_interleave(scale, 0).repeat_interleave(scale, 1)[None, None]
        line = (F.max_pool2d(inside, 7, 1, 3) > inside)[0, 0].cpu().numpy()
        out[line] = [int(COLORS[k % len(COLORS)][i : i + 2], 16) for i in (1, 3, 5)]
    return out


def stack_strips(strips: list[Image.Image]) -> Image.Image:
    """Strips under each other."""
    page = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
    top = 0
    for one in strips:
        page.paste(one, (0, top))
        top += one.height
    return page


def to_png(picture: Figure | Image.Image, about: Mapping[str, str] | None = None, dpi: int = 100) -> bytes:
    """PNG file content; ``about`` goes into its metadata."""
    buffer = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(buffer, format="png", dpi=dpi)
        return buffer.getvalue()
    info = PngInfo()
    for key, value in (about or {}).items():
        info.add_itxt(key, value)
    picture.save(buffer, format="png", pnginfo=info)
    return buffer.getvalue()
