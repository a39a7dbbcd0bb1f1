"""Where things stand: backgrounds with a horizon, texture and perspective."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from locinv_pl.scenes.canvas import Color, channel, shade, tint

SUPERSAMPLING = 2
SKIES = (((120, 178, 232), (205, 228, 246)), ((150, 190, 225), (238, 230, 215)), ((175, 195, 215), (222, 228, 234)))


@dataclass(frozen=True)
class Backdrop:
    """A background without objects.

    Attributes:
        image: the background alone, an RGB square.
        horizon: height of the ground's far end, as a share of the image's from the top; None where there is
            no ground.
        shadow: the colour of shadows on the ground.
    """

    image: Image.Image
    horizon: float | None
    shadow: Color


def draw_backdrop(rng: random.Random, name: str, size: int) -> Backdrop:
    """A background in a random variation."""
    ground = name != "sky"
    horizon = rng.uniform(0.26, 0.46) if ground else 1.0
    plate = Plate(rng, size * SUPERSAMPLING, horizon)
    shadow = PAINTERS[name](plate)
    return Backdrop(_noisy(rng, plate.image.reduce(SUPERSAMPLING)), horizon if ground else None, shadow)


def _noisy(rng: random.Random, image: Image.Image) -> Image.Image:
    """With soft blotches, so that no ground is quite even."""
    coarse = np.random.default_rng(rng.getrandbits(32)).integers(121, 136, (9, 9), dtype=np.uint8)
    blotches = Image.fromarray(coarse).resize(image.size, Image.Resampling.BICUBIC)
    return ImageChops.add(image, Image.merge("RGB", [blotches] * 3), 1, -128)


class Plate:
    """An image with a horizon to paint a background on, in coordinates from 0 to 1."""

    def __init__(self, rng: random.Random, side: int, horizon: float) -> None:
        self.rng, self.side, self.horizon = rng, side, horizon
        self.image = Image.new("RGB", (side, side))
        self.draw = ImageDraw.Draw(self.image)

    def varied(self, color: Color, amount: int = 12) -> Color:
        """About this colour."""
        red, green, blue = (channel(value + self.rng.randint(-amount, amount)) for value in color)
        return red, green, blue

    def gradient(self, top: float, bottom: float, first: Color, last: Color) -> None:
        """Fill from one height to another."""
        start, stop = round(top * self.side), round(bottom * self.side)
        column = np.linspace(first, last, max(1, stop - start)).round().astype(np.uint8)[:, None]
        self.image.paste(Image.fromarray(column).resize((self.side, len(column)), Image.Resampling.NEAREST), (0, start))

    def heaven(self, clouds: int) -> None:
        """The sky down to the horizon."""
        top, bottom = self.rng.choice(SKIES)
        self.gradient(0, self.horizon, self.varied(top), self.varied(bottom))
        for _ in range(clouds):
            scale = self.rng.uniform(0.05, 0.09)
            self.cloud(self.rng.random(), self.rng.uniform(0.02, max(0.04, self.horizon - 0.14)), scale)

    def cloud(self, x: float, y: float, scale: float) -> None:
        """Puffs on a flat base."""
        white = tint(self.varied((225, 230, 238), 6), 0.5)
        for dx, dy, radius in ((-1.2, 0.3, 0.6), (-0.4, -0.1, 0.8), (0.5, 0, 0.7), (1.2, 0.4, 0.5)):
            self.ellipse(x + dx * scale, y + dy * scale, radius * scale, radius * scale * 0.8, white)

    def ellipse(self, x: float, y: float, width: float, height: float, fill: Color) -> None:
        """Draw an ellipse around (x, y) whose half axes are ``width`` and ``height``, as shares of the side."""
        corners = [n * self.side for n in (x - width, y - height, x + width, y + height)]
        self.draw.ellipse(corners, fill=fill)

    def line(self, x: float, y: float, to_x: float, to_y: float, fill: Color, width: float) -> None:
        """Draw a straight line, one pixel wide at least."""
        ends = [n * self.side for n in (x, y, to_x, to_y)]
        self.draw.line(ends, fill=fill, width=max(1, round(width * self.side)))

    def polygon(self, *points: tuple[float, float], fill: Color) -> None:
        """Draw a filled polygon with these corners."""
        self.draw.polygon([n * self.side for point in points for n in point], fill=fill)

    def ground(self, depth: float) -> float:
        """The height of the ground at a depth: 0 is the horizon, 1 the image's lower edge."""
        return self.horizon + (1 - self.horizon) * depth

    def scattered(self, count: int) -> list[tuple[float, float]]:
        """Random spots (x, depth) of the ground, the far ones first; the ground looks denser far away."""
        return sorted(((self.rng.random(), self.rng.random() ** 1.4) for _ in range(count)), key=lambda spot: spot[1])

    def rays(self, vanishing: float, spread: float, count: int) -> list[tuple[float, float]]:
        """Lines that meet far behind the horizon: (x at the horizon, x at the lower edge)."""
        steps = [k / count - 0.5 for k in range(count + 1)]
        return [(vanishing + step * spread, vanishing + step * spread * 4.5) for step in steps]


def grass(plate: Plate) -> Color:
    plate.heaven(plate.rng.randint(0, 3))
    far, near = plate.varied((150, 200, 110)), plate.varied((88, 158, 66))
    plate.gradient(plate.horizon, 1, far, near)
    for x, depth in plate.scattered(34):
        y, height = plate.ground(depth), 0.012 + 0.035 * depth
        fill = shade(near, 0.8) if plate.rng.random() < 0.6 else tint(near, 0.2)
        for lean in (-0.5, 0.0, 0.5):
            plate.line(x, y, x + lean * height, y - height, fill, 0.004 + 0.005 * depth)
    return shade(near, 0.45)


def sand(plate: Plate) -> Color:
    plate.heaven(plate.rng.randint(0, 2))
    far, near = plate.varied((240, 222, 175)), plate.varied((222, 192, 132))
    x = plate.rng.random()
    plate.ellipse(x, plate.horizon + 0.01, 0.5, 0.07, shade(far, 0.93))
    plate.gradient(plate.horizon, 1, far, near)
    for x, depth in plate.scattered(12):
        y, width = plate.ground(depth), 0.08 + 0.16 * depth
        corners = [n * plate.side for n in (x - width, y, x + width, y + 0.04 + 0.05 * depth)]
        plate.draw.arc(corners, 200, 340, fill=shade(near, 0.87), width=max(1, round(plate.side * 0.009)))
    for x, depth in plate.scattered(60):
        plate.ellipse(x, plate.ground(depth), 0.003 + 0.004 * depth, 0.002 + 0.003 * depth, shade(near, 0.78))
    return shade(near, 0.55)


def snow(plate: Plate) -> Color:
    plate.heaven(plate.rng.randint(0, 2))
    far, near = plate.varied((226, 234, 246), 6), plate.varied((244, 247, 252), 6)
    for _ in range(2):
        plate.ellipse(plate.rng.random(), plate.horizon + 0.02, plate.rng.uniform(0.3, 0.5), 0.1, shade(far, 0.94))
    plate.gradient(plate.horizon, 1, far, near)
    for x, depth in plate.scattered(7):
        y, width = plate.ground(depth), 0.15 + 0.25 * depth
        plate.ellipse(x, y + 0.02, width, 0.02 + 0.03 * depth, shade(far, 0.95))
        plate.ellipse(x - 0.02, y + 0.01, width, 0.02 + 0.03 * depth, near)
    for _ in range(40):
        radius = plate.rng.uniform(0.003, 0.008)
        plate.ellipse(plate.rng.random(), plate.rng.random(), radius, radius, (255, 255, 255))
    return (150, 165, 195)


def water(plate: Plate) -> Color:
    plate.heaven(plate.rng.randint(0, 3))
    far, near = plate.varied((128, 190, 222)), plate.varied((48, 118, 184))
    plate.gradient(plate.horizon, 1, far, near)
    for x, depth in plate.scattered(46):
        y, width, height = plate.ground(depth), 0.03 + 0.07 * depth, 0.006 + 0.03 * depth
        fill = tint(near, 0.45) if plate.rng.random() < 0.6 else shade(near, 0.85)
        for start in (x - width, x):
            corners = [n * plate.side for n in (start, y, start + width, y + height)]
            plate.draw.arc(corners, 180, 360, fill=fill, width=max(1, round(plate.side * (0.004 + 0.006 * depth))))
    return shade(near, 0.55)


def road(plate: Plate) -> Color:
    plate.heaven(plate.rng.randint(0, 3))
    gray, verge = plate.varied((122, 122, 128)), plate.varied((140, 172, 104))
    plate.gradient(plate.horizon, 1, tint(verge, 0.2), verge)
    middle = plate.rng.uniform(0.35, 0.65)
    far, near = 0.3, 1.4

    def at(side: float, depth: float) -> tuple[float, float]:
        return middle + side * (far + (near - far) * depth), plate.ground(depth)

    plate.polygon(at(-1, 0), at(1, 0), at(1, 1), at(-1, 1), fill=gray)
    for left, right in ((-0.93, -0.88), (0.88, 0.93)):
        plate.polygon(at(left, 0), at(right, 0), at(right, 1), at(left, 1), fill=(235, 235, 230))
    phase = plate.rng.random()
    for k in range(8):
        start, stop = (((k + phase + part) / 8) ** 2 for part in (0, 0.5))
        plate.polygon(at(-0.03, start), at(0.03, start), at(0.03, stop), at(-0.03, stop), fill=(240, 235, 215))
    for x, depth in plate.scattered(40):
        plate.ellipse(x, plate.ground(depth), 0.002 + 0.004 * depth, 0.002 + 0.002 * depth, shade(gray, 0.9))
    return shade(gray, 0.45)


def sky(plate: Plate) -> Color:
    plate.heaven(0)
    for _ in range(plate.rng.randint(3, 6)):
        plate.cloud(plate.rng.random(), plate.rng.uniform(0.05, 0.95), plate.rng.uniform(0.06, 0.14))
    return (0, 0, 0)


def floor(plate: Plate) -> Color:
    walls = ((226, 214, 196), (196, 212, 214), (214, 204, 220), (222, 224, 204), (232, 206, 196))
    wall, plank = plate.varied(plate.rng.choice(walls), 8), plate.varied((186, 138, 92))
    plate.gradient(0, plate.horizon, wall, shade(wall, 0.93))
    plate.gradient(plate.horizon, 1, shade(plank, 0.9), tint(plank, 0.12))
    rays = plate.rays(plate.rng.uniform(0.3, 0.7), 1.1, 12)
    for (far, near), (next_far, next_near) in zip(rays, rays[1:], strict=False):
        fill = shade(plank, plate.rng.uniform(0.9, 1.08))
        plate.polygon((far, plate.horizon), (next_far, plate.horizon), (next_near, 1), (near, 1), fill=fill)
        joint = plate.rng.uniform(0.1, 0.9)
        ends = [x + (y - x) * joint for x, y in ((far, near), (next_far, next_near))]
        plate.line(ends[0], plate.ground(joint), ends[1], plate.ground(joint), shade(plank, 0.72), 0.006)
    for far, near in rays:
        plate.line(far, plate.horizon, near, 1, shade(plank, 0.72), 0.006)
    plate.line(0, plate.horizon - 0.018, 1, plate.horizon - 0.018, tint(wall, 0.6), 0.036)
    plate.line(0, plate.horizon, 1, plate.horizon, shade(plank, 0.6), 0.008)
    return shade(plank, 0.4)


def field(plate: Plate) -> Color:
    plate.heaven(plate.rng.randint(0, 3))
    crop, soil = plate.varied((214, 184, 84)), plate.varied((150, 128, 62))
    plate.gradient(plate.horizon, 1, tint(crop, 0.15), crop)
    for far, near in plate.rays(plate.rng.uniform(0.2, 0.8), 1.3, 16):
        width = 0.03
        plate.polygon(
            (far - width / 5, plate.horizon),
            (far + width / 5, plate.horizon),
            (near + width, 1),
            (near - width, 1),
            fill=soil,
        )
    for x, depth in plate.scattered(60):
        y, height = plate.ground(depth), 0.015 + 0.04 * depth
        fill = tint(crop, 0.35) if plate.rng.random() < 0.5 else shade(crop, 0.82)
        plate.line(x, y, x + plate.rng.uniform(-0.3, 0.3) * height, y - height, fill, 0.004 + 0.006 * depth)
    plate.line(0, plate.horizon, 1, plate.horizon, shade(crop, 0.75), 0.01)
    return shade(soil, 0.5)


PAINTERS: dict[str, Callable[[Plate], Color]] = {
    "grass": grass,
    "sand": sand,
    "snow": snow,
    "water": water,
    "road": road,
    "sky": sky,
    "floor": floor,
    "field": field,
}
