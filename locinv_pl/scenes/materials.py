"""Materials and patterns: what covers the painted parts of an object."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from locinv_pl.scenes.canvas import Canvas, Color, Paint, shade, tint

NEUTRAL = Paint(128, 128, 128)  # what objects are drawn in before they get their tones
DARK_WOOD, LIGHT_WOOD, DEEP_GOLD, BRIGHT_GOLD = (112, 68, 34), (196, 142, 86), (176, 116, 14), (255, 238, 150)


@dataclass(frozen=True)
class Material:
    """Two tones and a pattern that says where the second one shows.

    Attributes:
        tones: of an object's colour.
        pattern: drawn in a square of a given side, "L": 255 where the second tone shows.
        colored: whether an object keeps its colour; a wooden one doesn't.
    """

    tones: Callable[[Color], tuple[Color, Color]]
    pattern: Callable[[random.Random, int], Image.Image]
    colored: bool = True


def cover(canvas: Canvas, rng: random.Random, color: Color, material: Material | None) -> Image.Image:
    """The image, RGBA, of what was drawn in shades of ``NEUTRAL``, in a colour and a material."""
    if material is None:
        return canvas.render(lambda paint: _shaded(color, paint))
    first, second = material.tones(color)
    below, above = (
        canvas.render(lambda paint: _shaded(first, paint)),
        canvas.render(lambda paint: _shaded(second, paint)),
    )
    return Image.composite(above, below, material.pattern(rng, canvas.side))


def _shaded(tone: Color, neutral: Color) -> Color:
    value, middle = neutral[0], NEUTRAL[0]
    return shade(tone, value / middle) if value <= middle else tint(tone, (value - middle) / (255 - middle))


def _contrast(color: Color) -> tuple[Color, Color]:
    """The colour, and a darker or paler tone that stands out and still tells white from black."""
    brightness = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]
    if brightness > 165:
        return color, shade(color, 0.55)
    return color, tint(color, 0.8 if brightness > 70 else 0.5)


def stripes(rng: random.Random, side: int) -> Image.Image:
    """Parallel stripes: upright, level or slanting."""
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    angle = rng.choice((0, 45, 90, 135)) + rng.uniform(-8, 8)
    across, along = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    period = side * rng.uniform(0.13, 0.17)
    offset = rng.random()
    for k in range(-6, 7):
        x, y = (side / 2 + across * (k + offset) * period, side / 2 + along * (k + offset) * period)
        ends = [(x - along * side, y + across * side), (x + along * side, y - across * side)]
        draw.line(ends, fill=255, width=int(period * 0.48))
    return image


def dots(rng: random.Random, side: int) -> Image.Image:
    """Round dots, every other row shifted."""
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    step = side * rng.uniform(0.14, 0.17)
    radius = step * 0.29
    left, top = rng.uniform(-step, 0), rng.uniform(-step, 0)
    for row in range(int(side / step) + 3):
        for column in range(int(side / step) + 3):
            x, y = left + (column + 0.5 * (row % 2)) * step, top + row * step * 0.87
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return image


def checks(rng: random.Random, side: int) -> Image.Image:
    """A chequerboard."""
    board = Image.fromarray((np.indices((12, 12)).sum(0) % 2 * 255).astype(np.uint8))
    scale = 1 / (side * rng.uniform(0.1, 0.125))
    matrix = (scale, 0, rng.random(), 0, scale, rng.random())
    return board.transform((side, side), Image.Transform.AFFINE, matrix)


def grain(rng: random.Random, side: int) -> Image.Image:
    """The grain of a board: wavy lines around a knot."""
    y, x = np.mgrid[0:1:48j, 0:1:48j]
    knot_x, knot_y = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8)
    knot = np.exp(-18 * (x - knot_x) ** 2 - 30 * (y - knot_y) ** 2)
    rings = 7.5 * y + 0.25 * np.sin(2 * math.pi * (x + rng.random())) + 1.6 * knot * np.sign(y - knot_y)
    lines = (0.5 + 0.5 * np.sin(2 * math.pi * rings)) ** 1.5
    return _stretched(lines, side)


def gleam(rng: random.Random, side: int) -> Image.Image:
    """Bands of light on polished metal."""
    y, x = np.mgrid[0:1:32j, 0:1:32j]
    return _stretched(np.cos(math.pi * (1.7 * y + 0.9 * x + rng.random())) ** 4, side)


def _stretched(values: np.ndarray, side: int) -> Image.Image:
    return Image.fromarray((values * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR)


MATERIALS: dict[str, Material] = {
    "striped": Material(_contrast, stripes),
    "dotted": Material(_contrast, dots),
    "checkered": Material(_contrast, checks),
    "wooden": Material(lambda color: (LIGHT_WOOD, DARK_WOOD), grain, colored=False),
    "golden": Material(lambda color: (DEEP_GOLD, BRIGHT_GOLD), gleam, colored=False),
}
