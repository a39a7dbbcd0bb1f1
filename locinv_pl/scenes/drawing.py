"""Drawing scenes: coloured objects on a background, with exact masks and a caption.

The embedded text-to-image model learned from images of the core world; it knows its words only.
"""

from __future__ import annotations

import random

from locinv_pl.errors import InputError
from locinv_pl.scenes.captions import with_article
from locinv_pl.scenes.scene import Scene, SceneObject
from locinv_pl.scenes.world import World
from locinv_pl.scenes.worlds import CORE, FULL, world

NOUNS, COLORS, BACKGROUNDS = CORE.nouns, CORE.colors, CORE.backgrounds

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "CORE",
    "FULL",
    "NOUNS",
    "Scene",
    "SceneObject",
    "World",
    "draw_scene",
    "with_article",
    "world",
]


def draw_scene(rng: random.Random, size: int = 128, num_objects: int | None = None, world: World = CORE) -> Scene:
    """Draw a random scene.

    Args:
        rng: the only source of chance: equal states draw equal scenes.
        size: side of the square image in pixels.
        num_objects: exactly so many objects, as many as the world allows; by default chance decides, and an
            object that finds no room is left out.
        world: what can be drawn.

    Raises:
        InputError: the world has no scenes of so many objects.
    """
    if num_objects is not None and num_objects not in world.counts:
        raise InputError(f"num_objects={num_objects}: the {world.name} world has 1 to {world.max_objects} objects")
    while True:
        scene = world.compose(world, rng, size, num_objects)
        if num_objects in (None, len(scene.objects)):
            return scene
