"""Cartoon scenes: one to three coloured objects on a background, with exact masks and a caption.

The embedded text-to-image model learned from pictures drawn this way; it knows these words only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]
Mask = NDArray[np.bool_]

COLORS: dict[str, Color] = {
    "red": (214, 48, 49),
    "blue": (41, 98, 214),
    "green": (39, 160, 80),
    "yellow": (245, 200, 40),
    "purple": (140, 70, 190),
    "orange": (240, 130, 30),
    "white": (240, 240, 240),
    "black": (45, 45, 50),
}
# The colours of the picture's top and bottom row.
BACKGROUNDS: dict[str, tuple[Color, Color]] = {
    "grass": ((120, 180, 90), (90, 150, 70)),
    "sand": ((230, 205, 150), (210, 185, 130)),
    "snow": ((235, 240, 248), (215, 225, 240)),
    "water": ((90, 160, 215), (60, 130, 190)),
    "road": ((130, 130, 135), (105, 105, 110)),
    "sky": ((160, 205, 245), (120, 175, 230)),
}
# How often a scene has one, two or three objects, and their sides as a share of the picture's.
COUNT_WEIGHTS = {1: 0.35, 2: 0.5, 3: 0.15}
SIDES = {1: (0.4, 0.7), 2: (0.34, 0.5), 3: (0.28, 0.4)}
PLACING_TRIES = 40
SUPERSAMPLING = 3

INK, PUPIL, GLASS, WOOD, LEAF = (30, 30, 30), (20, 20, 20), (190, 225, 245), (110, 75, 40), (50, 130, 50)


@dataclass(frozen=True, eq=False)
class SceneObject:
    """An object of a scene; ``mask`` (H, W) holds exactly its own pixels."""

    noun: str
    color: str
    color_in_caption: bool
    mask: Mask = field(repr=False)

    @property
    def phrase(self) -> str:
        """The object in the caption: "a cat", "an orange cat"."""
        return with_article(f"{self.color} {self.noun}" if self.color_in_caption else self.noun)


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn picture, RGB, and what is on it."""

    image: Image.Image
    objects: tuple[SceneObject, ...]
    background: str
    background_in_caption: bool

    @property
    def caption(self) -> str:
        """All objects, left out none: "a red cat and a blue car on the grass"."""
        objects = " and ".join(thing.phrase for thing in self.objects)
        if not self.background_in_caption:
            return objects
        preposition = "in" if self.background in ("sky", "water") else "on"
        return f"{objects} {preposition} the {self.background}"


def with_article(words: str) -> str:
    """ "cat" to "a cat", "orange cat" to "an orange cat"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def draw_scene(rng: random.Random, size: int = 128, num_objects: int | None = None) -> Scene:
    """Draw a random scene.

    Args:
        rng: the only source of chance: equal states draw equal scenes.
        size: side of the square picture in pixels.
        num_objects: exactly so many objects, 1 to 3; by default chance decides, and an object that
            finds no room is left out.
    """
    while True:
        scene = _draw_scene(rng, size, num_objects)
        if num_objects in (None, len(scene.objects)):
            return scene


def _draw_scene(rng: random.Random, size: int, wanted: int | None) -> Scene:
    background = rng.choice(list(BACKGROUNDS))
    count = wanted or rng.choices(list(COUNT_WEIGHTS), list(COUNT_WEIGHTS.values()))[0]
    picture = _background(rng, background, size)
    squares: list[Square] = []
    drawn: list[tuple[str, str, Mask]] = []
    for noun in rng.sample(list(NOUNS), count):
        square = _free_square(rng, size, SIDES[count], squares)
        if square is None:
            continue
        color = rng.choice(list(COLORS))
        sprite = _sprite(rng, noun, color, square.side)
        picture.alpha_composite(sprite, (square.left, square.top))
        squares.append(square)
        drawn.append((noun, color, square.paste(np.asarray(sprite)[:, :, 3] > 127, size)))
    name_colors = rng.random() < 0.7
    objects = tuple(SceneObject(noun, color, name_colors, mask) for noun, color, mask in drawn)
    return Scene(picture.convert("RGB"), objects, background, rng.random() < 0.7)


def _background(rng: random.Random, name: str, size: int) -> Image.Image:
    """A vertical gradient with soft noise and a random brightness, RGBA."""
    noise_rng = np.random.default_rng(rng.getrandbits(32))
    coarse = Image.fromarray((noise_rng.random((16, 16)) * 255).astype(np.uint8))
    noise = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) / 255 - 0.5
    top, bottom = np.array(BACKGROUNDS[name], dtype=float)
    down = np.linspace(0, 1, size)[:, None, None]
    pixels = top * (1 - down) + bottom * down + 30 * noise[:, :, None] + rng.uniform(-12, 12)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGBA")


def _sprite(rng: random.Random, noun: str, color: str, side: int) -> Image.Image:
    """One object in a random variation: its exact colour, which way it looks, how it tilts."""
    canvas = Canvas(side * SUPERSAMPLING)
    red, green, blue = (_channel(value + rng.randint(-14, 14)) for value in COLORS[color])
    NOUNS[noun](canvas, (red, green, blue))
    sprite = canvas.image
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tilted = sprite.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC)
    return tilted.resize((side, side), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class Square:
    """Where an object goes, in pixels."""

    left: int
    top: int
    side: int

    def overlaps(self, other: Square) -> bool:
        """Whether the two share a pixel."""
        apart = (
            self.left + self.side <= other.left
            or other.left + other.side <= self.left
            or self.top + self.side <= other.top
            or other.top + other.side <= self.top
        )
        return not apart

    def paste(self, patch: Mask, size: int) -> Mask:
        """The patch, shape (side, side), in its place on an empty mask, shape (size, size)."""
        mask = np.zeros((size, size), dtype=bool)
        mask[self.top : self.top + self.side, self.left : self.left + self.side] = patch
        return mask


def _free_square(rng: random.Random, size: int, sides: tuple[float, float], taken: Sequence[Square]) -> Square | None:
    for _ in range(PLACING_TRIES):
        side = int(size * rng.uniform(*sides))
        square = Square(rng.randint(0, size - side), rng.randint(0, size - side), side)
        if not any(square.overlaps(other) for other in taken):
            return square
    return None


def shade(color: Color, factor: float) -> Color:
    """The colour darker (factor below 1) or lighter."""
    red, green, blue = (_channel(value * factor) for value in color)
    return red, green, blue


def _channel(value: float) -> int:
    return int(max(0, min(255, value)))


class Canvas:
    """A transparent square to draw on in unit coordinates: (0, 0) is top left, (1, 1) bottom right."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)

    def ellipse(self, left: float, top: float, right: float, bottom: float, fill: Color) -> None:
        self._draw.ellipse(self._scaled(left, top, right, bottom), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Color) -> None:
        self.ellipse(x - radius, y - radius, x + radius, y + radius, fill)

    def rectangle(self, left: float, top: float, right: float, bottom: float, fill: Color, radius: float = 0) -> None:
        corners = self._scaled(left, top, right, bottom)
        self._draw.rounded_rectangle(corners, radius=radius * self.side, fill=fill)

    def polygon(self, *points: Point, fill: Color) -> None:
        self._draw.polygon(self._scaled(*(number for point in points for number in point)), fill=fill)

    def line(self, start: Point, stop: Point, fill: Color, width: float) -> None:
        self._draw.line(self._scaled(*start, *stop), fill=fill, width=self._stroke(width))

    def arc(self, x: float, y: float, radii: Point, degrees: Point, fill: Color, width: float) -> None:
        """The part of an ellipse's outline between two angles, clockwise from the right."""
        corners = self._scaled(x - radii[0], y - radii[1], x + radii[0], y + radii[1])
        self._draw.arc(corners, *degrees, fill=fill, width=self._stroke(width))

    def _scaled(self, *numbers: float) -> list[float]:
        return [number * self.side for number in numbers]

    def _stroke(self, width: float) -> int:
        return int(width * self.side) + 1


def _cat(canvas: Canvas, color: Color) -> None:
    canvas.polygon((0.18, 0.45), (0.22, 0.08), (0.45, 0.25), fill=color)
    canvas.polygon((0.82, 0.45), (0.78, 0.08), (0.55, 0.25), fill=color)
    canvas.ellipse(0.15, 0.18, 0.85, 0.8, color)
    for eye, pupil in ((0.3, 0.34), (0.58, 0.61)):
        canvas.ellipse(eye, 0.4, eye + 0.12, 0.55, (250, 250, 210))
        canvas.ellipse(pupil, 0.43, pupil + 0.05, 0.54, PUPIL)
    canvas.polygon((0.46, 0.58), (0.54, 0.58), (0.5, 0.64), fill=(230, 120, 130))
    for side in (-1, 1):
        for tip in (0.57, 0.69):
            canvas.line((0.5 + 0.1 * side, 0.63), (0.5 + 0.38 * side, tip), INK, width=0.01)


def _dog(canvas: Canvas, color: Color) -> None:
    canvas.ellipse(0.2, 0.15, 0.8, 0.8, color)
    for ear in (0.05, 0.7):
        canvas.ellipse(ear, 0.2, ear + 0.25, 0.65, shade(color, 0.6))
    for eye in (0.33, 0.58):
        canvas.ellipse(eye, 0.35, eye + 0.09, 0.45, PUPIL)
    canvas.ellipse(0.33, 0.48, 0.67, 0.78, shade(color, 1.35))
    canvas.ellipse(0.43, 0.5, 0.57, 0.6, (25, 25, 25))
    canvas.rectangle(0.45, 0.7, 0.55, 0.84, (225, 100, 110))


def _bird(canvas: Canvas, color: Color) -> None:
    canvas.ellipse(0.2, 0.35, 0.75, 0.75, color)
    canvas.ellipse(0.55, 0.15, 0.88, 0.48, color)
    canvas.polygon((0.86, 0.28), (1.0, 0.33), (0.86, 0.38), fill=(240, 160, 30))
    canvas.polygon((0.28, 0.5), (0.02, 0.35), (0.1, 0.62), fill=shade(color, 0.75))
    canvas.ellipse(0.32, 0.42, 0.62, 0.64, shade(color, 0.7))
    canvas.ellipse(0.7, 0.24, 0.77, 0.31, (15, 15, 15))
    for leg in (0.45, 0.55):
        canvas.line((leg, 0.74), (leg, 0.92), (200, 120, 30), width=0.03)


def _fish(canvas: Canvas, color: Color) -> None:
    fin = shade(color, 0.7)
    canvas.ellipse(0.2, 0.3, 0.9, 0.72, color)
    canvas.polygon((0.25, 0.5), (0.0, 0.28), (0.0, 0.74), fill=fin)
    canvas.polygon((0.45, 0.32), (0.6, 0.14), (0.68, 0.34), fill=fin)
    canvas.ellipse(0.72, 0.4, 0.82, 0.5, (255, 255, 255))
    canvas.ellipse(0.76, 0.43, 0.81, 0.48, (0, 0, 0))
    for gill in (0.4, 0.52):
        canvas.arc(gill, 0.51, (0.08, 0.13), (-80, 80), shade(color, 0.55), width=0.03)


def _car(canvas: Canvas, color: Color) -> None:
    canvas.polygon((0.22, 0.48), (0.34, 0.25), (0.7, 0.25), (0.82, 0.48), fill=shade(color, 0.85))
    canvas.polygon((0.29, 0.46), (0.37, 0.3), (0.5, 0.3), (0.5, 0.46), fill=GLASS)
    canvas.polygon((0.54, 0.46), (0.54, 0.3), (0.67, 0.3), (0.75, 0.46), fill=GLASS)
    canvas.rectangle(0.04, 0.45, 0.96, 0.7, color, radius=0.08)
    for wheel in (0.25, 0.75):
        canvas.disc(wheel, 0.7, 0.12, INK)
        canvas.disc(wheel, 0.7, 0.05, (190, 190, 190))


def _boat(canvas: Canvas, color: Color) -> None:
    canvas.polygon((0.05, 0.6), (0.95, 0.6), (0.8, 0.85), (0.2, 0.85), fill=color)
    canvas.line((0.5, 0.6), (0.5, 0.08), WOOD, width=0.04)
    canvas.polygon((0.53, 0.1), (0.53, 0.55), (0.88, 0.55), fill=(245, 240, 230))
    canvas.polygon((0.47, 0.18), (0.47, 0.55), (0.18, 0.55), fill=(230, 225, 215))


def _house(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.18, 0.45, 0.82, 0.9, color)
    canvas.polygon((0.08, 0.47), (0.5, 0.1), (0.92, 0.47), fill=(130, 60, 50))
    canvas.rectangle(0.42, 0.62, 0.58, 0.9, (95, 60, 35))
    for window in (0.25, 0.63):
        canvas.rectangle(window, 0.53, window + 0.12, 0.66, (250, 240, 170))


def _cup(canvas: Canvas, color: Color) -> None:
    canvas.arc(0.775, 0.525, (0.175, 0.175), (-100, 100), shade(color, 0.8), width=0.08)
    canvas.polygon((0.15, 0.25), (0.75, 0.25), (0.67, 0.85), (0.23, 0.85), fill=color)
    canvas.ellipse(0.15, 0.17, 0.75, 0.33, shade(color, 0.65))


def _ball(canvas: Canvas, color: Color) -> None:
    canvas.disc(0.5, 0.5, 0.4, color)
    canvas.arc(0.1, 0.5, (0.4, 0.4), (-60, 60), (250, 250, 250), width=0.06)
    canvas.arc(0.9, 0.5, (0.4, 0.4), (120, 240), (250, 250, 250), width=0.06)


def _chair(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.25, 0.05, 0.35, 0.95, shade(color, 0.8))
    canvas.rectangle(0.68, 0.5, 0.77, 0.95, shade(color, 0.8))
    canvas.rectangle(0.25, 0.1, 0.36, 0.5, color)
    canvas.rectangle(0.22, 0.48, 0.8, 0.6, color)


def _flower(canvas: Canvas, color: Color) -> None:
    canvas.line((0.5, 0.5), (0.5, 0.98), LEAF, width=0.06)
    canvas.ellipse(0.5, 0.7, 0.75, 0.8, LEAF)
    for petal in range(6):
        angle = petal * math.pi / 3
        canvas.disc(0.5 + 0.2 * math.cos(angle), 0.35 + 0.2 * math.sin(angle), 0.14, color)
    canvas.disc(0.5, 0.35, 0.12, (250, 220, 80))


def _airplane(canvas: Canvas, color: Color) -> None:
    fin = shade(color, 0.8)
    canvas.ellipse(0.03, 0.4, 0.97, 0.6, color)
    canvas.polygon((0.4, 0.5), (0.6, 0.5), (0.45, 0.92), (0.3, 0.92), fill=shade(color, 0.7))
    canvas.polygon((0.42, 0.45), (0.58, 0.45), (0.42, 0.12), (0.3, 0.12), fill=fin)
    canvas.polygon((0.05, 0.48), (0.0, 0.2), (0.12, 0.2), (0.2, 0.45), fill=fin)
    for window in (0.45, 0.55, 0.65, 0.75):
        canvas.ellipse(window, 0.45, window + 0.04, 0.49, (200, 230, 250))


NOUNS: dict[str, Callable[[Canvas, Color], None]] = {
    "cat": _cat,
    "dog": _dog,
    "bird": _bird,
    "fish": _fish,
    "car": _car,
    "boat": _boat,
    "house": _house,
    "cup": _cup,
    "ball": _ball,
    "chair": _chair,
    "flower": _flower,
    "airplane": _airplane,
}
