"""One object as a small image: its pose, its outline, its material and the light on it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from locinv_pl.scenes.canvas import Canvas, Color, Style, shade
from locinv_pl.scenes.materials import MATERIALS, NEUTRAL, cover

SUPERSAMPLING = 3
FILL = 0.86  # of its square, so that a turned object stays inside
DARK = (35, 30, 35)
OUTLINES = {"none": 0.0, "thin": 0.012, "thick": 0.024}


@dataclass(frozen=True)
class Light:
    """Where the light comes from and how it colours what it falls on.

    Attributes:
        x, y: direction to the light; right and down are positive.
        depth: how much darker the far side is.
        gains: what every channel of the image is multiplied with.
    """

    x: float
    y: float
    depth: float
    gains: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: random.Random) -> Light:
        """A light from somewhere above, dim or bright, cold or warm."""
        angle, brightness, warmth = rng.uniform(-2.6, -0.5), rng.uniform(0.9, 1.1), rng.uniform(-0.06, 0.06)
        gains = (brightness * (1 + warmth), brightness, brightness * (1 - warmth))
        return cls(math.cos(angle), math.sin(angle), rng.uniform(0.0, 0.22), gains)

    def on(self, image: Image.Image) -> Image.Image:
        """The whole image in this light."""
        return image.point([min(255, int(value * gain)) for gain in self.gains for value in range(256)])


@dataclass(frozen=True)
class Look:
    """How an object looks, whatever its size.

    Attributes:
        color, material: their names, "" for none.
        paint: the colour in RGB, 0 to 255 each, a variation of the named one.
        outline: the kind of line around the object, one of ``OUTLINES``.
    """

    noun: str
    style: Style
    color: str
    paint: Color
    material: str
    outline: str


def make_sprite(rng: random.Random, look: Look, side: int, light: Light, tilt: float) -> Image.Image:
    """The object drawn in a square of ``side`` pixels, RGBA, and cut out."""
    canvas = Canvas(side * SUPERSAMPLING)
    look.style(canvas, NEUTRAL)
    canvas.transform(pose(rng, canvas.side, tilt))
    material = MATERIALS.get(look.material)
    if look.outline != "none":
        main = material.tones(look.paint)[0] if material else look.paint
        canvas.outline(shade(main, 0.4) if look.outline == "thick" else DARK, OUTLINES[look.outline])
    image = cover(canvas, rng, look.paint, material).reduce(SUPERSAMPLING)
    image = image.crop(image.getchannel("A").point([0] * 128 + [255] * 128).getbbox())
    return _lit(image, light)


def pose(rng: random.Random, side: int, tilt: float) -> tuple[float, ...]:
    """The matrix of a random pose: which way it looks, how it leans, how broad and how tall it is."""
    flip = rng.choice((-1, 1))
    width, height = (FILL * rng.uniform(0.86, 1.0) for _ in range(2))
    angle, shear = math.radians(rng.uniform(-tilt, tilt)), rng.uniform(-0.04, 0.04)
    cosine, sine, middle = math.cos(angle), math.sin(angle), side / 2
    a, b = flip * (cosine - shear * sine) / width, flip * (sine + shear * cosine) / width
    d, e = -sine / height, cosine / height
    return a, b, middle - (a + b) * middle, d, e, middle - (d + e) * middle


def _lit(image: Image.Image, light: Light) -> Image.Image:
    """Darker on the side away from the light."""
    pixels = np.array(image)
    height, width = pixels.shape[:2]
    away = np.linspace(light.y, -light.y, height)[:, None] + np.linspace(light.x, -light.x, width)
    pixels[:, :, :3] = pixels[:, :, :3] * (1 - light.depth * (0.5 + 0.35 * away[:, :, None]).clip(0, 1))
    return Image.fromarray(pixels)
