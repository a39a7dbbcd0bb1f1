"""Target prompts for scenes: one word changed, everything else as it was."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from locinv_pl.scenes.captions import Group
from locinv_pl.scenes.drawing import CORE, Scene, World
from locinv_pl.scenes.materials import MATERIALS


def make_edits(scene: Scene, rng: random.Random, world: World = CORE) -> dict[str, str]:
    """Target prompts by kind: one noun swapped, and one colour and one material where the caption names them."""
    groups = scene.wording.groups
    group = rng.choice(groups)
    absent = [noun for noun in world.nouns if noun not in {other.noun for other in groups}]
    edits = {"word_swap": _caption_with(scene, group, replace(group, noun=rng.choice(absent)))}
    for kind, words in (("attribute", [*world.colors]), ("material", [*world.materials])):
        described = [(group, word) for group in groups for word in group.adjectives if word in words]
        if described:
            group, word = rng.choice(described)
            others = [other for other in words if _can_replace(word, other, group, groups)]
            adjectives = tuple(rng.choice(others) if said == word else said for said in group.adjectives)
            edits[kind] = _caption_with(scene, group, replace(group, adjectives=adjectives))
    return edits


def _can_replace(word: str, other: str, group: Group, groups: Sequence[Group]) -> bool:
    """Whether it is an adjective of the same sort that no group of this noun has."""
    said = {adjective for group_ in groups if group_.noun == group.noun for adjective in group_.adjectives}
    replaces_color = [name in MATERIALS and not MATERIALS[name].colored for name in (word, other)]
    return other not in said and replaces_color[0] == replaces_color[1]


def _caption_with(scene: Scene, old: Group, new: Group) -> str:
    groups = tuple(new if group is old else group for group in scene.wording.groups)
    return replace(scene.wording, groups=groups).text
