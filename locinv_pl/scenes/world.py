"""What a world of drawn scenes consists of."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from locinv_pl.scenes.canvas import Color, Style
from locinv_pl.scenes.materials import MATERIALS
from locinv_pl.scenes.scene import Scene


@dataclass(frozen=True, eq=False)
class World:
    """What can be drawn and said.

    Attributes:
        name: the world's name in settings, "core" or "full".
        nouns: each with the styles in which it is drawn.
        colors: RGB values, 0 to 255 each, by the colours' names.
        materials: names of materials and patterns.
        backgrounds: the names of the backgrounds.
        counts: how often a scene has one object, two, and so on.
        sides: sizes of a scene's objects by their number, as a share of the image's side.
        compose: draws a scene; takes the world, the source of chance, the image's side and the number of
            objects, None for a random one.
    """

    name: str
    nouns: Mapping[str, tuple[Style, ...]]
    colors: Mapping[str, Color]
    materials: tuple[str, ...]
    backgrounds: tuple[str, ...]
    counts: Mapping[int, float]
    sides: Mapping[int, tuple[float, float]]
    compose: Callable[[World, random.Random, int, int | None], Scene] = field(repr=False)

    @property
    def max_objects(self) -> int:
        """The most objects of a scene."""
        return max(self.counts)

    @property
    def looks(self) -> tuple[str, ...]:
        """The colours, and the materials that replace them."""
        return (*self.colors, *(name for name in self.materials if not MATERIALS[name].colored))
