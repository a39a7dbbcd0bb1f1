"""The nouns, materials and backgrounds of the full world, one at a time."""

from __future__ import annotations

import random

import numpy as np
import pytest

from locinv_pl.errors import InputError
from locinv_pl.scenes.backgrounds import draw_backdrop
from locinv_pl.scenes.canvas import Canvas, Paint, Style, shade, tint
from locinv_pl.scenes.drawing import CORE, FULL, draw_scene, world
from locinv_pl.scenes.materials import MATERIALS
from locinv_pl.scenes.sprites import OUTLINES, Light, Look, make_sprite, pose
from locinv_pl.scenes.words import COLORS, PLURALS, PREPOSITIONS
from locinv_pl.scenes.words import MATERIALS as MATERIAL_WORDS

ALL_STYLES = [style for styles in FULL.nouns.values() for style in styles]
EVEN = Light(0.0, -1.0, 0.0, (1.0, 1.0, 1.0))


def drawn(style: Style, side: int, color: tuple[int, int, int]) -> np.ndarray:
    canvas = Canvas(side)
    style(canvas, Paint(*color))
    return np.asarray(canvas.image, dtype=int)


def sprite(noun: str, style: int = 0, side: int = 50, color: str = "red", material: str = "") -> np.ndarray:
    look = Look(noun, FULL.nouns[noun][style], color, FULL.colors[color], material, "none")
    return np.asarray(make_sprite(random.Random(1), look, side, EVEN, 0.0), dtype=int)


def test_the_full_world_says_all_words_and_holds_the_core_world() -> None:
    assert set(FULL.nouns) == set(PLURALS) and set(FULL.colors) == set(COLORS)
    assert set(FULL.materials) == set(MATERIAL_WORDS) and set(FULL.backgrounds) == set(PREPOSITIONS)
    assert all(len(styles) >= 2 for styles in FULL.nouns.values()) and len(set(ALL_STYLES)) == len(ALL_STYLES)
    for noun, styles in CORE.nouns.items():
        assert styles == FULL.nouns[noun][:1]
    assert CORE.max_objects == 3 and FULL.max_objects == 4


def test_worlds_are_found_by_name() -> None:
    assert world("core") is CORE and world("full") is FULL
    with pytest.raises(InputError, match="^world=moon: no such world; choose core or full$"):
        world("moon")


def test_a_world_says_how_many_objects_it_has() -> None:
    with pytest.raises(InputError, match="^num_objects=4: the core world has 1 to 3 objects$"):
        draw_scene(random.Random(0), 64, 4)


@pytest.mark.parametrize("style", ALL_STYLES, ids=lambda style: style.__name__)
def test_every_style_fills_its_square_mostly_with_its_own_colour(style: Style) -> None:
    for side in (40, 90, 210):
        red, blue = drawn(style, side, (220, 40, 40)), drawn(style, side, (40, 40, 220))
        opaque = red[:, :, 3] > 0
        assert 0.1 < opaque.mean() < 0.85
        painted = (red != blue).any(-1)
        assert painted.sum() > 0.3 * opaque.sum() and not (painted & ~opaque).any()


@pytest.mark.parametrize("style", ALL_STYLES, ids=lambda style: style.__name__)
def test_every_style_stays_inside_its_square_in_every_pose(style: Style) -> None:
    rng = random.Random(style.__name__)
    for _ in range(8):
        canvas = Canvas(120)
        style(canvas, Paint(128, 128, 128))
        canvas.transform(pose(rng, canvas.side, 12.0))
        canvas.outline((0, 0, 0), OUTLINES["thick"])
        left, top, right, bottom = canvas.plane.getbbox()
        assert left > 0 and top > 0 and right < 120 and bottom < 120


@pytest.mark.parametrize("noun", FULL.nouns)
def test_styles_of_a_noun_differ(noun: str) -> None:
    images = [drawn(style, 60, (200, 60, 40)) for style in FULL.nouns[noun]]
    for k, image in enumerate(images):
        assert all((image != other).any(-1).mean() > 0.12 for other in images[:k])


def test_outlines_grow_an_object_by_a_dark_line() -> None:
    canvas = Canvas(100)
    canvas.disc(0.5, 0.5, 0.3, Paint(200, 100, 50))
    before = np.asarray(canvas.image)
    canvas.outline((10, 20, 30), 0.03)
    after = np.asarray(canvas.image)
    inside = before[:, :, 3] > 0
    assert (after[inside] == before[inside]).all()
    line = (after[:, :, 3] > 0) & ~inside
    assert line[50, 80:86].any() and line[14:20, 50].any() and (after[line] == (10, 20, 30, 255)).all()


def test_paint_stays_paint() -> None:
    assert isinstance(shade(Paint(100, 50, 10), 0.5), Paint) and isinstance(tint(Paint(100, 50, 10), 0.5), Paint)
    assert not isinstance(shade((100, 50, 10), 0.5), Paint) and tint((255, 55, 0), 0.5) == (255, 155, 127)


@pytest.mark.parametrize("noun", ["cat", "car", "cup", "couch", "apple"])
@pytest.mark.parametrize("color", ["red", "white", "black", "yellow", "brown"])
def test_materials_differ_from_paint_and_from_each_other(noun: str, color: str) -> None:
    images = {material: sprite(noun, color=color, material=material) for material in ("", *MATERIALS)}
    shape = images[""][:, :, 3] > 127
    for material, image in images.items():
        assert ((image[:, :, 3] > 127) == shape).all()
        for other in images:
            if other != material:
                difference = np.abs(image - images[other])[shape][:, :3].mean()
                assert difference > 8, (material, other)


def test_wood_and_gold_replace_the_colour() -> None:
    for material, settings in MATERIALS.items():
        same = (sprite("cup", color="red", material=material) == sprite("cup", color="blue", material=material)).all()
        assert same != settings.colored


def test_backgrounds_differ_and_vary() -> None:
    images = {}
    for name in FULL.backgrounds:
        backdrops = [draw_backdrop(random.Random(f"{name}/{seed}"), name, 64) for seed in range(8)]
        assert all((b.horizon is None) == (name == "sky") for b in backdrops)
        assert all(b.image.size == (64, 64) and b.image.mode == "RGB" for b in backdrops)
        assert len({b.image.tobytes() for b in backdrops}) == 8
        images[name] = np.mean([np.asarray(b.image, dtype=float) for b in backdrops], axis=0)
        lower = [np.asarray(b.image, dtype=float)[32:] for b in backdrops]
        assert min(image.std((0, 1)).max() for image in lower) > 2
    for name, image in images.items():
        for other in images:
            assert name == other or np.abs(image - images[other]).mean() > 8, (name, other)
