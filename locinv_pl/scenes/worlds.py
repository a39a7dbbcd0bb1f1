"""The worlds that scenes are drawn from."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from locinv_pl.errors import InputError
from locinv_pl.scenes import core, full
from locinv_pl.scenes.animals import ANIMALS
from locinv_pl.scenes.backgrounds import PAINTERS
from locinv_pl.scenes.canvas import Color, Style
from locinv_pl.scenes.food import FOOD
from locinv_pl.scenes.household import HOUSEHOLD
from locinv_pl.scenes.materials import MATERIALS
from locinv_pl.scenes.outdoors import OUTDOORS
from locinv_pl.scenes.scene import Scene
from locinv_pl.scenes.vehicles import VEHICLES

STYLES: dict[str, tuple[Style, ...]] = {**ANIMALS, **VEHICLES, **HOUSEHOLD, **OUTDOORS, **FOOD}
CORE_NOUNS = ["cat", "dog", "bird", "fish", "car", "boat", "house", "cup", "ball", "chair", "flower", "airplane"]
CORE_COLORS: dict[str, Color] = {
    "red": (214, 48, 49),
    "blue": (41, 98, 214),
    "green": (39, 160, 80),
    "yellow": (245, 200, 40),
    "purple": (140, 70, 190),
    "orange": (240, 130, 30),
    "white": (240, 240, 240),
    "black": (45, 45, 50),
}


@dataclass(frozen=True, eq=False)
class World:
    """What can be drawn and said.

    Attributes:
        name: "core" or "full".
        nouns: each with the styles in which it is drawn.
        colors: by name.
        materials: names of materials and patterns.
        backgrounds: their names.
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


CORE = World(
    name="core",
    nouns={noun: STYLES[noun][:1] for noun in CORE_NOUNS},
    colors=CORE_COLORS,
    materials=(),
    backgrounds=tuple(core.BACKGROUNDS),
    counts={1: 0.35, 2: 0.5, 3: 0.15},
    sides={1: (0.4, 0.7), 2: (0.34, 0.5), 3: (0.28, 0.4)},
    compose=core.compose,
)
FULL = World(
    name="full",
    nouns=STYLES,
    colors={**CORE_COLORS, "pink": (238, 130, 175), "brown": (126, 78, 44)},
    materials=tuple(MATERIALS),
    backgrounds=tuple(PAINTERS),
    counts={1: 0.3, 2: 0.35, 3: 0.22, 4: 0.13},
    sides={1: (0.58, 0.88), 2: (0.52, 0.74), 3: (0.46, 0.63), 4: (0.42, 0.56)},
    compose=full.compose,
)
WORLDS = {world.name: world for world in (CORE, FULL)}


def world(name: str) -> World:
    """The world of this name.

    Raises:
        InputError: there is none.
    """
    if name not in WORLDS:
        raise InputError(f"world={name}: no such world; choose {' or '.join(WORLDS)}")
    return WORLDS[name]
