"""The small world: one to three objects apart from each other on a flat background."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from locinv_pl.scenes.canvas import Canvas, Color, Paint, Style, channel
from locinv_pl.scenes.captions import Caption, Group
from locinv_pl.scenes.scene import Mask, Scene, SceneObject
from locinv_pl.scenes.world import World

# The colours of the image's top and bottom row.
BACKGROUNDS: dict[str, tuple[Color, Color]] = {
    "grass": ((120, 180, 90), (90, 150, 70)),
    "sand": ((230, 205, 150), (210, 185, 130)),
    "snow": ((235, 240, 248), (215, 225, 240)),
    "water": ((90, 160, 215), (60, 130, 190)),
    "road": ((130, 130, 135), (105, 105, 110)),
    "sky": ((160, 205, 245), (120, 175, 230)),
}
PLACING_TRIES = 40
SUPERSAMPLING = 3


def compose(world: World, rng: random.Random, size: int, wanted: int | None) -> Scene:
    """Draw a scene; an object that finds no room is left out."""
    background = rng.choice(list(BACKGROUNDS))
    count = wanted or rng.choices(list(world.counts), list(world.counts.values()))[0]
    image = _background(rng, background, size)
    squares: list[Square] = []
    drawn: list[tuple[str, str, Mask]] = []
    for noun in rng.sample(list(world.nouns), count):
        square = _free_square(rng, size, world.sides[count], squares)
        if square is None:
            continue
        color = rng.choice(list(world.colors))
        sprite = _sprite(rng, world.nouns[noun][0], world.colors[color], square.side)
        image.alpha_composite(sprite, (square.left, square.top))
        squares.append(square)
        drawn.append((noun, color, square.paste(np.asarray(sprite)[:, :, 3] > 127, size)))
    say_colors = rng.random() < 0.7
    groups = tuple(Group(noun, (color,) * say_colors, (k,)) for k, (noun, color, _) in enumerate(drawn))
    caption = Caption(groups, background=background if rng.random() < 0.7 else "")
    return Scene(image.convert("RGB"), tuple(SceneObject(*thing) for thing in drawn), background, caption)


def _background(rng: random.Random, name: str, size: int) -> Image.Image:
    """A vertical gradient with soft noise and a random brightness, RGBA."""
    noise_rng = np.random.default_rng(rng.getrandbits(32))
    coarse = Image.fromarray((noise_rng.random((16, 16)) * 255).astype(np.uint8))
    noise = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) / 255 - 0.5
    top, bottom = np.array(BACKGROUNDS[name], dtype=float)
    down = np.linspace(0, 1, size)[:, None, None]
    pixels = top * (1 - down) + bottom * down + 30 * noise[:, :, None] + rng.uniform(-12, 12)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGBA")


def _sprite(rng: random.Random, style: Style, color: Color, side: int) -> Image.Image:
    """One object in a random variation: its exact colour, which way it looks, how it tilts."""
    canvas = Canvas(side * SUPERSAMPLING)
    style(canvas, Paint(*(channel(value + rng.randint(-14, 14)) for value in color)))
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
