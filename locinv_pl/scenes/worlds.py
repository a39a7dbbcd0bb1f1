"""The registry of the worlds that scenes are drawn from."""

from __future__ import annotations

from locinv_pl.errors import InputError
from locinv_pl.scenes import core, full
from locinv_pl.scenes.animals import ANIMALS
from locinv_pl.scenes.backgrounds import PAINTERS
from locinv_pl.scenes.canvas import Color, Style
from locinv_pl.scenes.food import FOOD
from locinv_pl.scenes.household import HOUSEHOLD
from locinv_pl.scenes.materials import MATERIALS
from locinv_pl.scenes.outdoors import OUTDOORS
from locinv_pl.scenes.vehicles import VEHICLES
from locinv_pl.scenes.world import World

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
    """The world of a name, "core" or "full".

    Raises:
        InputError: no world has this name.
    """
    if name not in WORLDS:
        raise InputError(f"world={name}: no such world; choose {' or '.join(WORLDS)}")
    return WORLDS[name]
