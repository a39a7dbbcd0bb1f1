"""Where the objects of a scene go: on the ground or in the air, near or far, partly behind each other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image

from locinv_pl.scenes.backgrounds import Backdrop
from locinv_pl.scenes.scene import Mask
from locinv_pl.scenes.sprites import Light, Look, make_sprite

MIN_VISIBLE = 0.55  # of an object's pixels
PLACING_TRIES = 14
NEAREST_TO_HORIZON, FRONT = 0.28, 0.97  # depths of the ground where things stand
FAR_SCALE = 0.72  # of the size at the front, for what would stand at the horizon
SHADOW = 0.5  # opacity


@dataclass(frozen=True, eq=False)
class Placed:
    """An object in its place on the image.

    Attributes:
        look: its noun, style, colour, material and outline.
        sprite: its drawing, RGBA.
        left: the sprite's first column, in pixels of the image.
        top: the sprite's first row, in pixels of the image.
        size: side of the image in pixels.
    """

    look: Look
    sprite: Image.Image = field(repr=False)
    left: int
    top: int
    size: int

    @property
    def right(self) -> int:
        """The first column beyond the sprite, in pixels of the image."""
        return self.left + self.sprite.width

    @property
    def bottom(self) -> int:
        """The first row below the sprite, in pixels of the image."""
        return self.top + self.sprite.height

    @cached_property
    def mask(self) -> Mask:
        """Its pixels on the image, also those that something hides."""
        mask = np.zeros((self.size, self.size), dtype=bool)
        mask[self.top : self.bottom, self.left : self.right] = np.asarray(self.sprite.getchannel("A")) > 127
        return mask


def arrange(
    rng: random.Random,
    looks: Sequence[Look],
    backdrop: Backdrop,
    size: int,
    sides: tuple[float, float],
    light: Light,
) -> list[Placed]:
    """Place the objects, the far ones first; what finds no room is left out."""
    placed: list[Placed] = []
    for look, depth in zip(looks, _depths(rng, len(looks), backdrop), strict=True):
        scale = 1.0 if backdrop.horizon is None else FAR_SCALE + (1 - FAR_SCALE) * depth
        side = max(8, int(size * rng.uniform(*sides) * scale))
        tilt = 12.0 if backdrop.horizon is None else 6.0
        sprite = make_sprite(rng, look, side, light, tilt)
        for _ in range(PLACING_TRIES):
            left, top = _spot(rng, sprite, depth, placed, backdrop, size)
            candidate = Placed(look, sprite, left, top, size)
            if all(_still_seen(thing, placed[k + 1 :], candidate) for k, thing in enumerate(placed)):
                placed.append(candidate)
                break
    return placed


def visible(placed: Sequence[Placed]) -> list[Mask]:
    """The pixels that show each object, given the far ones first."""
    masks, taken = [], np.zeros_like(placed[0].mask)
    for thing in reversed(placed):
        masks.append(thing.mask & ~taken)
        taken = taken | thing.mask
    return masks[::-1]


def paint(backdrop: Backdrop, placed: Sequence[Placed], light: Light) -> Image.Image:
    """The image, RGB: background, all shadows, the objects from far to near, and the light on them."""
    image = backdrop.image.copy()
    if backdrop.horizon is not None:
        for thing in placed:
            _cast_shadow(image, thing, backdrop, light)
    for thing in placed:
        image.paste(thing.sprite, (thing.left, thing.top), thing.sprite)
    return light.on(image)


def _depths(rng: random.Random, count: int, backdrop: Backdrop) -> list[float]:
    """How far in front of the horizon each object stands, ascending; sometimes all in a row."""
    if backdrop.horizon is None:
        return [1.0] * count
    if rng.random() < 0.4:
        row = rng.uniform(0.45, FRONT)
        depths = [min(FRONT, max(NEAREST_TO_HORIZON, row + rng.uniform(-0.06, 0.06))) for _ in range(count)]
    else:
        depths = [rng.uniform(NEAREST_TO_HORIZON, FRONT) for _ in range(count)]
    return sorted(depths)


def _spot(
    rng: random.Random, sprite: Image.Image, depth: float, placed: Sequence[Placed], backdrop: Backdrop, size: int
) -> tuple[int, int]:
    """A place inside the image; often close to an object that is there already."""
    room = size - sprite.width, size - sprite.height
    left, top = rng.randint(0, room[0]), rng.randint(0, room[1])
    if placed and rng.random() < 0.4:
        other, gap = rng.choice(placed), int(size * rng.uniform(-0.06, 0.06))
        left = rng.choice((other.right + gap, other.left - sprite.width - gap))
        if backdrop.horizon is None:
            top = (other.top + other.bottom - sprite.height) // 2 + gap
    if backdrop.horizon is not None:
        top = int(size * (backdrop.horizon + (1 - backdrop.horizon) * depth)) - sprite.height
    return min(room[0], max(0, left)), min(room[1], max(0, top))


def _still_seen(thing: Placed, others: Sequence[Placed], newest: Placed) -> bool:
    """Whether enough of an object is left to be seen when these stand before it."""
    if thing.right <= newest.left or newest.right <= thing.left:
        return True
    seen = thing.mask & ~newest.mask
    for other in others:
        seen &= ~other.mask
    return bool(np.count_nonzero(seen) >= MIN_VISIBLE * np.count_nonzero(thing.mask))


def _cast_shadow(image: Image.Image, thing: Placed, backdrop: Backdrop, light: Light) -> None:
    width, height = thing.right - thing.left, thing.bottom - thing.top
    half, low = max(2, int(width * 0.58)), max(2, int(min(width, height) * 0.13))
    x = (thing.left + thing.right) // 2 - int(light.x * width * 0.14)
    y = thing.bottom - low // 3
    soft = _spot_of_shadow().resize((2 * half, 2 * low), Image.Resampling.BILINEAR)
    image.paste(backdrop.shadow, (x - half, y - low), soft)


@lru_cache
def _spot_of_shadow() -> Image.Image:
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    values = 255 * SHADOW * (1.6 * (1 - np.hypot(x, y))).clip(0, 1)
    return Image.fromarray(values.astype(np.uint8))
