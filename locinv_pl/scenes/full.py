"""The large world: up to four objects of many styles and materials, near and far, partly behind each other."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from locinv_pl.scenes.backgrounds import draw_backdrop
from locinv_pl.scenes.canvas import channel
from locinv_pl.scenes.captions import Caption, Group
from locinv_pl.scenes.layout import Placed, arrange, paint, visible
from locinv_pl.scenes.materials import MATERIALS
from locinv_pl.scenes.relations import true_relations
from locinv_pl.scenes.scene import Scene, SceneObject
from locinv_pl.scenes.sprites import OUTLINES, Light, Look
from locinv_pl.scenes.world import World

T = TypeVar("T")

SAME_NOUN, SAME_COLOR, HAS_MATERIAL = 0.25, 0.5, 0.35
LEADS = {"": 0.6, "a photo of": 0.12, "a picture of": 0.1, "a drawing of": 0.08, "there is": 0.1}
PALE = ("snow", "sky")  # where a white object without an outline could not be seen
# How often a caption says no adjective, all of them, the colour alone, the material alone.
SAYING = {"none": 0.22, "all": 0.6, "color": 0.09, "material": 0.09}


def compose(world: World, rng: random.Random, size: int, wanted: int | None) -> Scene:
    """Draw a scene; an object that finds no room is left out."""
    background = rng.choice(world.backgrounds)
    count = wanted or _weighted(rng, world.counts)
    backdrop, light = draw_backdrop(rng, background, size), Light.draw(rng)
    looks = cast(world, rng, count, OUTLINES if background not in PALE else ("thin", "thick"))
    placed = arrange(rng, looks, backdrop, size, world.sides[count], light)
    masks = visible(placed)
    groups = _grouped(rng, placed)
    order = [k for group in groups for k in group.members]
    objects = tuple(
        SceneObject(placed[k].look.noun, placed[k].look.color, masks[k], placed[k].look.material) for k in order
    )
    caption = _caption(rng, groups, placed, background)
    return Scene(paint(backdrop, placed, light), objects, background, caption)


def cast(world: World, rng: random.Random, count: int, outlines: Iterable[str]) -> list[Look]:
    """Who is on the image: objects of one noun share their material and differ in colour at most."""
    outline = rng.choice(list(outlines))
    looks: list[Look] = []
    unused = rng.sample(list(world.nouns), count)
    for _ in range(count):
        twin = rng.choice(looks) if looks and rng.random() < SAME_NOUN else None
        noun = twin.noun if twin else unused.pop()
        material = rng.choice(world.materials) if rng.random() < HAS_MATERIAL else ""
        color = rng.choice(list(world.colors))
        if twin:
            material = twin.material
            color = twin.color if rng.random() < SAME_COLOR else color
        if material and not MATERIALS[material].colored:
            color = ""
        red, green, blue = (channel(value + rng.randint(-14, 14)) for value in world.colors.get(color, (0, 0, 0)))
        looks.append(Look(noun, rng.choice(world.nouns[noun]), color, (red, green, blue), material, outline))
    rng.shuffle(looks)
    return looks


def _grouped(rng: random.Random, placed: Sequence[Placed]) -> list[Group]:
    """The objects by noun and adjectives said, in random order."""
    saying = _weighted(rng, SAYING)
    nouns = [thing.look.noun for thing in placed]
    members: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for k, thing in enumerate(placed):
        look = thing.look
        said = {"none": (), "all": (look.color, look.material), "color": (look.color,), "material": (look.material,)}
        adjectives = said["all" if saying != "none" and nouns.count(look.noun) > 1 else saying]
        members.setdefault((look.noun, tuple(word for word in adjectives if word)), []).append(k)
    groups = [Group(noun, adjectives, tuple(those)) for (noun, adjectives), those in members.items()]
    rng.shuffle(groups)
    return groups


def _caption(rng: random.Random, groups: Sequence[Group], placed: Sequence[Placed], background: str) -> Caption:
    """The groups with what is true of them; their members are counted anew in the caption's order."""
    lead, relation = _weighted(rng, LEADS), "and"
    if len(groups) > 1 and rng.random() < 0.75:
        true = true_relations([[placed[k] for k in group.members] for group in groups])
        relation = rng.choice(true or ["and"])
    counted, numbered = 0, []
    for group in groups:
        members = tuple(range(counted, counted + len(group.members)))
        numbered.append(Group(group.noun, group.adjectives, members))
        counted += len(members)
    return Caption(tuple(numbered), lead, relation, background if rng.random() < 0.7 else "")


def _weighted(rng: random.Random, weights: Mapping[T, float]) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]
