"""Scenes as a bad model draws them: objects half gone, wholly gone, or smeared into something without a form."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from locinv_pl.scenes.scene import Mask, Scene

Fault = Literal["half", "gone", "smudge"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
Plane = NDArray[np.float32]


def with_faults(scene: Scene, faults: Mapping[int, Fault], rng: random.Random) -> Scene:
    """The scene with a fault for some of its objects, by their numbers; its caption stays.

    Args:
        scene: it stays as it is.
        faults: "half": one half of the object is background, and its mask is what is left. "gone": all of it is
            background, and its mask is empty. "smudge": in its place lies a blot of its colours without its form,
            which is no object, either.
        rng: the only source of chance.
    """
    pixels = np.asarray(scene.image, dtype=np.float32)
    covered = np.any([thing.mask for thing in scene.objects], axis=0)
    behind, objects = _spread(pixels, ~covered, sigma=8), list(scene.objects)
    for k, fault in faults.items():
        mask = scene.objects[k].mask
        lost = mask & _half_plane(mask, rng) if fault == "half" else mask
        erased = _soft(lost, 1.0)
        pixels = pixels * (1 - erased) + behind * erased
        if fault == "smudge":
            blot = _soft(_blot(mask, rng), rng.uniform(0.8, 2.5))
            pixels = pixels * (1 - blot) + _spread(np.asarray(scene.image, np.float32), mask, _side(mask) / 4) * blot
        objects[k] = replace(objects[k], mask=mask & ~lost)
    image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    return replace(scene, image=image, objects=tuple(objects))


def _spread(pixels: Plane, known: Mask, sigma: float) -> Plane:
    """Colours (H, W, 3) everywhere, as a blur of those that are known."""
    weight = gaussian_filter(known.astype(np.float32), sigma)[..., None] + 1e-6
    filled = gaussian_filter(pixels * known[..., None], (sigma, sigma, 0)) / weight
    far = pixels[known].mean(0) if known.any() else pixels.mean((0, 1))
    share = np.minimum(weight / 1e-3, 1)  # where nothing known is near, their mean
    return filled * share + far * (1 - share)


def _soft(mask: Mask, sigma: float) -> Plane:
    """The mask and its fringe at 1, softly falling to 0: (H, W, 1)."""
    grown = gaussian_filter(mask.astype(np.float32), 1.0) > 0.1
    return np.maximum(gaussian_filter(grown.astype(np.float32), sigma), mask)[..., None]


def _half_plane(mask: Mask, rng: random.Random) -> Mask:
    """The side of a line in a random direction on which half of the mask's pixels lie."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.indices(mask.shape)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    return along > np.median(along[mask]) if mask.any() else mask


def _side(mask: Mask) -> float:
    return max(float(np.sqrt(mask.sum())), 1.0)


def _blot(mask: Mask, rng: random.Random) -> Mask:
    """A random form about as large as the mask, where it is."""
    rows, columns = np.indices(mask.shape)
    (y, x), side = (np.nonzero(mask)[k].mean() if mask.any() else 0.0 for k in (0, 1)), _side(mask)
    noise = gaussian_filter(np.random.default_rng(rng.getrandbits(32)).standard_normal(mask.shape), side / 6)
    field = noise / (noise.std() + 1e-9) - ((rows - y) ** 2 + (columns - x) ** 2) / (0.6 * side) ** 2
    size = int(mask.sum() * rng.uniform(0.4, 1.0))
    return field > np.sort(field, axis=None)[-size - 1] if size else mask
