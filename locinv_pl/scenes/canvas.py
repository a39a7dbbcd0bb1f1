"""The canvas that objects are drawn on: shapes in unit coordinates, their colours kept as numbers until the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]

INK, PUPIL, GLASS, WOOD, LEAF = (30, 30, 30), (20, 20, 20), (190, 225, 245), (110, 75, 40), (50, 130, 50)
CURVE_STEPS = 6


class Paint(NamedTuple):
    """A colour of the object's own: "a red cat" is drawn in shades of it, and a material covers what is drawn so."""

    red: int
    green: int
    blue: int


Style = Callable[["Canvas", Color], None]  # draws a noun on a canvas in a colour


def shade(color: Color, factor: float) -> Color:
    """Multiply a colour by a factor: below 1 it becomes darker, above 1 lighter; paint stays paint."""
    red, green, blue = (channel(value * factor) for value in color)
    return Paint(red, green, blue) if isinstance(color, Paint) else (red, green, blue)


def tint(color: Color, share: float) -> Color:
    """Mix a colour with white, whose share is in [0, 1]; paint stays paint."""
    red, green, blue = (channel(value + (255 - value) * share) for value in color)
    return Paint(red, green, blue) if isinstance(color, Paint) else (red, green, blue)


def channel(value: float) -> int:
    """Cut a number to 0..255 and drop its fraction, for a colour's channel."""
    return int(max(0, min(255, value)))


class Canvas:
    """A transparent square to draw on in unit coordinates: (0, 0) is top left, (1, 1) bottom right.

    Attributes:
        side: of the square, in pixels.
        plane: which colour every pixel has, by its number; 0 is transparent.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.plane = Image.new("L", (side, side), 0)
        self._inks: dict[tuple[Color, bool], int] = {}
        self._draw = ImageDraw.Draw(self.plane)

    @property
    def image(self) -> Image.Image:
        """The image so far, RGBA."""
        return self.render(lambda paint: paint)

    def render(self, repaint: Callable[[Color], Color]) -> Image.Image:
        """The image, RGBA, with every shade of paint replaced."""
        palette = bytearray(4)
        for color, is_paint in self._inks:
            palette += bytes((*(repaint(color) if is_paint else color), 255))
        numbers = self.plane.convert("L")
        numbers.putpalette(palette, "RGBA")
        return numbers.convert("RGBA")

    def transform(self, matrix: tuple[float, ...]) -> None:
        """Move every pixel: (a, b, c, d, e, f) says that (x, y) shows what was at (ax + by + c, dx + ey + f)."""
        self.plane = self.plane.transform(self.plane.size, Image.Transform.AFFINE, matrix)
        self._draw = ImageDraw.Draw(self.plane)

    def outline(self, fill: Color, width: float) -> None:
        """Draw a line around everything drawn so far."""
        reach, side = self._stroke(width) - 1, self.side
        drawn = self.plane.point(_OPAQUE)
        wide = drawn
        for dx, dy in ((reach, 0), (0, reach)):
            for x, y in ((dx, dy), (-dx, -dy)):
                wide = ImageChops.lighter(wide, drawn.crop((x, y, x + side, y + side)))
            drawn = wide
        line = Image.new("L", (side, side), self._ink(fill))
        self.plane = Image.composite(self.plane, Image.composite(line, self.plane, wide), self.plane.point(_OPAQUE))
        self._draw = ImageDraw.Draw(self.plane)

    def ellipse(self, left: float, top: float, right: float, bottom: float, fill: Color) -> None:
        """Draw a filled ellipse inside a rectangle."""
        self._draw.ellipse(self._scaled(left, top, right, bottom), fill=self._ink(fill))

    def disc(self, x: float, y: float, radius: float, fill: Color) -> None:
        """Draw a filled circle around (x, y)."""
        self.ellipse(x - radius, y - radius, x + radius, y + radius, fill)

    def rectangle(self, left: float, top: float, right: float, bottom: float, fill: Color, radius: float = 0) -> None:
        """Draw a filled rectangle, its corners rounded by ``radius``."""
        corners = self._scaled(left, top, right, bottom)
        self._draw.rounded_rectangle(corners, radius=radius * self.side, fill=self._ink(fill))

    def polygon(self, *points: Point, fill: Color) -> None:
        """Draw a filled polygon with these corners."""
        self._draw.polygon(self._scaled(*(number for point in points for number in point)), fill=self._ink(fill))

    def blob(self, *points: Point, fill: Color) -> None:
        """A smooth closed shape through the points."""
        knots = np.array(points)
        around = np.stack([np.roll(knots, shift, axis=0) for shift in (1, 0, -1, -2)])
        curve = np.einsum("sk,knd->nsd", _catmull_rom(), around) * self.side
        self._draw.polygon(curve.ravel().tolist(), fill=self._ink(fill))

    def line(self, start: Point, stop: Point, fill: Color, width: float) -> None:
        """Draw a straight line, one pixel wide at least."""
        self._draw.line(self._scaled(*start, *stop), fill=self._ink(fill), width=self._stroke(width))

    def stroke(self, *points: Point, fill: Color, width: float) -> None:
        """A smooth line through the points, with round ends."""
        knots = np.array([points[0], *points, points[-1]])
        around = np.stack([knots[k : k + len(points) - 1] for k in range(4)])
        curve = np.einsum("sk,knd->nsd", _catmull_rom(), around).reshape(-1, 2)
        curve = np.concatenate([curve, knots[-1:]]) * self.side
        self._draw.line(curve.ravel().tolist(), fill=self._ink(fill), width=self._stroke(width), joint="curve")
        for x, y in (points[0], points[-1]):
            self.disc(x, y, width / 2, fill)

    def arc(self, x: float, y: float, radii: Point, degrees: Point, fill: Color, width: float) -> None:
        """The part of an ellipse's outline between two angles, clockwise from the right."""
        corners = self._scaled(x - radii[0], y - radii[1], x + radii[0], y + radii[1])
        self._draw.arc(corners, *degrees, fill=self._ink(fill), width=self._stroke(width))

    def sector(self, x: float, y: float, radii: Point, degrees: Point, fill: Color) -> None:
        """The part of an ellipse between two angles, clockwise from the right."""
        corners = self._scaled(x - radii[0], y - radii[1], x + radii[0], y + radii[1])
        self._draw.pieslice(corners, *degrees, fill=self._ink(fill))

    def erase(self, left: float, top: float, right: float, bottom: float) -> None:
        """Make an ellipse transparent again."""
        self._draw.ellipse(self._scaled(left, top, right, bottom), fill=0)

    def _ink(self, color: Color) -> int:
        return self._inks.setdefault((color, isinstance(color, Paint)), len(self._inks) + 1)

    def _scaled(self, *numbers: float) -> list[float]:
        return [number * self.side for number in numbers]

    def _stroke(self, width: float) -> int:
        return int(width * self.side) + 1


_OPAQUE = [0, *[255] * 255]


@lru_cache
def _catmull_rom() -> NDArray[np.float64]:
    """The weights of a knot, its predecessor and its two successors along the curve to the next knot, (steps, 4)."""
    t = np.arange(CURVE_STEPS) / CURVE_STEPS
    return np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], axis=1) / 2
