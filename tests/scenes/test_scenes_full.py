"""Scenes of the full world: their masks, and the truth of their captions."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import locinv_pl
from locinv_pl.scenes import full
from locinv_pl.scenes.backgrounds import Backdrop, draw_backdrop
from locinv_pl.scenes.captions import Caption, Group
from locinv_pl.scenes.drawing import FULL, Scene, draw_scene
from locinv_pl.scenes.layout import MIN_VISIBLE, Placed, arrange, paint, visible
from locinv_pl.scenes.relations import RELATIONS, true_relations
from locinv_pl.scenes.sprites import Light, Look
from locinv_pl.scenes.words import COUNTS, PLURALS, PREPOSITIONS, all_words

EVEN = Light(0.0, -1.0, 0.0, (1.0, 1.0, 1.0))
NOUNS = sorted({*PLURALS, *PLURALS.values()}, key=len, reverse=True)
ADJECTIVES = [*FULL.colors, *FULL.materials]
PHRASE = re.compile(rf"(an?|{'|'.join(COUNTS.values())}) ((?:(?:{'|'.join(ADJECTIVES)}) )*)({'|'.join(NOUNS)})(?!\w)")


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return [draw_scene(random.Random(f"full/{seed}"), 96, world=FULL) for seed in range(300)]


def gray(size: int, value: int = 120, horizon: float | None = 0.35) -> Backdrop:
    """An even background whose shadows cannot be seen."""
    color = (value, value, value)
    return Backdrop(Image.new("RGB", (size, size), color), horizon, color)


def arrangements(count: int, horizon: float | None = 0.35) -> Iterator[list[Placed]]:
    for seed in range(count):
        rng = random.Random(seed)
        looks = full.cast(FULL, rng, 4, ["none", "thick"])
        yield arrange(rng, looks, gray(96, horizon=horizon), 96, FULL.sides[4], EVEN)


def around(mask: np.ndarray) -> np.ndarray:
    """The mask and the pixels next to it."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    shifts = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.any(shifts, axis=0)


# --- images and masks ---


def test_a_scene_depends_on_its_rng_alone() -> None:
    def digest() -> str:
        digest = hashlib.sha256()
        for seed in range(4):
            scene = draw_scene(random.Random(seed), 64, world=FULL)
            digest.update(scene.image.tobytes() + scene.caption.encode() + bytes([len(scene.objects)]))
            for thing in scene.objects:
                digest.update(np.packbits(thing.mask).tobytes())
        return digest.hexdigest()

    code = (
        "import hashlib, random, sys, types, numpy as np\n"
        "sys.modules['locinv_pl'] = package = types.ModuleType('locinv_pl')\n"  # scenes need nothing else of it
        f"package.__path__ = [{str(Path(locinv_pl.__file__).parent)!r}]\n"
        "from locinv_pl.scenes.drawing import FULL, draw_scene\n"
        "digest = hashlib.sha256()\n"
        "for seed in range(4):\n"
        "    scene = draw_scene(random.Random(seed), 64, world=FULL)\n"
        "    digest.update(scene.image.tobytes() + scene.caption.encode() + bytes([len(scene.objects)]))\n"
        "    for thing in scene.objects: digest.update(np.packbits(thing.mask).tobytes())\n"
        "print(digest.hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert digest() == digest() == other.stdout.strip()


def test_masks_are_disjoint_and_not_empty(many: list[Scene]) -> None:
    for scene in many:
        assert np.sum([thing.mask for thing in scene.objects], axis=0).max() == 1
        assert all(thing.mask.sum() > 50 for thing in scene.objects)


def test_objects_overlap_but_stay_visible() -> None:
    hidden = []
    for placed in arrangements(25):
        for thing, seen in zip(placed, visible(placed), strict=True):
            hidden.append(1 - seen.sum() / thing.mask.sum())
            assert not (seen & ~thing.mask).any()
    assert max(hidden) <= 1 - MIN_VISIBLE and np.mean(np.array(hidden) > 0.1) > 0.1


def test_masks_are_exactly_the_pixels_that_hide_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Light, "on", lambda self, image: image)

    def on(value: int, seed: int) -> tuple[Scene, np.ndarray]:
        monkeypatch.setattr(full, "draw_backdrop", lambda rng, name, size: gray(size, value))
        scene = draw_scene(random.Random(seed), 96, world=FULL)
        return scene, np.asarray(scene.image, dtype=int).mean(-1)

    for seed in range(12):
        (scene, dark), (_, light) = on(0, seed), on(255, seed)
        opacity = 255 - (light - dark)
        masks = np.any([thing.mask for thing in scene.objects], axis=0)
        clear = np.abs(opacity - 127.5) > 3  # rounding
        assert (opacity > 127)[masks & clear].all() and clear.mean() > 0.98
        assert not (opacity > 127)[~around(masks) & clear].any()  # where the soft edges of two objects meet
        if len(scene.objects) == 1:
            assert (masks == (opacity > 127))[clear].all()


def in_gray(thing: Placed, value: int) -> Placed:
    flat = Image.new("RGBA", thing.sprite.size, (value, value, value, 255))
    flat.putalpha(thing.sprite.getchannel("A"))
    return replace(thing, sprite=flat)


@pytest.mark.parametrize("horizon", [0.35, None])
def test_an_object_shows_in_its_mask_and_nowhere_else(horizon: float | None) -> None:
    for placed in arrangements(8, horizon):
        masks = visible(placed)
        for k, thing in enumerate(placed):
            black, white = (
                np.asarray(paint(gray(96), [*placed[:k], in_gray(thing, value), *placed[k + 1 :]], EVEN), dtype=int)
                for value in (0, 255)
            )
            share = (white - black).max(-1) / 255  # of a pixel that the object makes up
            assert masks[k][share > 0.51].all() and share[masks[k]].min() > 0.1
            assert share[masks[k]].mean() > 0.9 and share[~around(around(masks[k]))].mean() < 0.01


def test_shadows_darken_the_ground_and_belong_to_nothing() -> None:
    light = Image.new("RGB", (96, 96), (200, 200, 200))
    for placed in arrangements(5):
        with_shadows = np.asarray(paint(Backdrop(light, 0.35, (40, 40, 40)), placed, EVEN), dtype=int)
        without = np.asarray(paint(Backdrop(light, 0.35, (200, 200, 200)), placed, EVEN), dtype=int)
        shaded = (with_shadows != without).any(-1)
        solid = np.any([np.asarray(thing.mask) for thing in placed], axis=0)
        assert shaded.any() and (with_shadows <= without).all()
        assert not (shaded & solid & ~around(~solid)).any()


def test_what_is_far_is_higher_up_and_smaller() -> None:
    sizes, bottoms = [], []
    for seed in range(80):
        rng = random.Random(seed)
        look = Look("ball", FULL.nouns["ball"][0], "red", FULL.colors["red"], "", "none")
        (thing,) = arrange(rng, [look], gray(96), 96, (0.5, 0.5), EVEN)
        sizes.append(thing.sprite.height)
        bottoms.append(thing.bottom)
    assert np.corrcoef(sizes, bottoms)[0, 1] > 0.6
    assert min(bottoms) > 96 * 0.35


def test_the_number_of_objects_can_be_fixed() -> None:
    for count in (1, 2, 3, 4):
        for seed in range(6):
            assert len(draw_scene(random.Random(seed), 64, count, FULL).objects) == count


def test_scenes_vary(many: list[Scene]) -> None:
    assert {len(scene.objects) for scene in many} == {1, 2, 3, 4}
    assert {scene.background for scene in many} == set(FULL.backgrounds)
    things = [thing for scene in many for thing in scene.objects]
    assert {thing.noun for thing in things} == set(FULL.nouns)
    assert {thing.color for thing in things} == {*FULL.colors, ""}
    assert {thing.material for thing in things} == {*FULL.materials, ""}


def test_any_size_can_be_drawn() -> None:
    for size in (16, 40, 256):
        scene = draw_scene(random.Random(size), size, world=FULL)
        assert scene.image.size == (size, size) and scene.objects[0].mask.shape == (size, size)
    assert draw_backdrop(random.Random(0), "floor", 16).image.size == (16, 16)


# --- captions ---


def number(word: str) -> int:
    return {**{said: count for count, said in COUNTS.items()}, "a": 1, "an": 1}[word]


def test_captions_say_known_words_only(many: list[Scene]) -> None:
    assert {word for scene in many for word in scene.caption.split(" ")} <= set(all_words())


def test_captions_count_and_describe_what_is_there(many: list[Scene]) -> None:
    for scene in many:
        left = list(scene.objects)
        for match in PHRASE.finditer(scene.caption):
            count, adjectives = number(match[1]), match[2].split()
            singular = [noun for noun, plural in PLURALS.items() if match[3] == (plural if count > 1 else noun)]
            assert len(singular) == 1
            if match[1] in ("a", "an"):
                following = scene.caption[match.end(1) + 1 :]
                assert match[1] == ("an" if following[0] in "aeiou" else "a")
            group, left = left[:count], left[count:]
            assert [thing.noun for thing in group] == singular * count
            for thing in group:
                assert set(adjectives) <= {thing.color, thing.material}
        assert not left


def test_spans_are_those_of_noun_and_adjectives(many: list[Scene]) -> None:
    for scene in many:
        assert len(scene.said) == len(scene.objects)
        times = Counter(said.noun for said in scene.said)
        for thing, said in zip(scene.objects, scene.said, strict=True):
            alone = times[said.noun] == 1
            assert scene.caption[slice(*said.noun)] == (thing.noun if alone else PLURALS[thing.noun])
            words = [scene.caption[slice(*span)] for span in said.adjectives]
            assert words in ([], [thing.color], [thing.material], [thing.color, thing.material])
            assert "" not in words
            phrase = " ".join([*words, scene.caption[slice(*said.noun)]])
            start = min(span[0] for span in (said.noun, *said.adjectives))
            assert scene.caption[start : said.noun[1]] == phrase


def test_the_rest_of_a_caption_is_its_lead_its_relation_and_its_background(many: list[Scene]) -> None:
    leads, relations = set(), set()
    for scene in many:
        skeleton = PHRASE.sub("X", scene.caption)
        match = re.fullmatch(r"(.*?) ?X(?: (.+?) X)?(?: and X)*(?: (?:on|in) the (\w+))?", skeleton)
        assert match, scene.caption
        leads.add(match[1])
        relations.add(match[2])
        if match[3]:
            assert match[3] == scene.background and f" {PREPOSITIONS[match[3]]} the {match[3]}" in scene.caption
        if match[1].startswith("there"):
            assert match[1] == ("there are" if len(scene.wording.groups[0].members) > 1 else "there is")
    assert leads == {"", "a photo of", "a picture of", "a drawing of", "there is", "there are"}
    assert relations >= {None, "and", "next to", "in front of", "to the left of"}


def test_relations_in_captions_are_true(many: list[Scene]) -> None:
    for scene in many:
        first, *others = scene.wording.groups
        for a in (scene.objects[k] for k in first.members):
            for b in (scene.objects[k] for group in others for k in group.members):
                (ay, ax), (by, bx) = a.mask.nonzero(), b.mask.nonzero()
                relation = scene.wording.relation
                if relation in ("to the left of", "to the right of"):
                    (left, right) = (ax, bx) if "left" in relation else (bx, ax)
                    assert left.max() < right.min()
                elif relation in ("above", "below"):
                    (upper, lower) = (ay, by) if relation == "above" else (by, ay)
                    assert upper.max() < lower.min()
                elif relation in ("in front of", "behind"):
                    assert (around(around(a.mask)) & b.mask).any()
                    assert relation != "in front of" or ay.max() > by.max() - 2
                elif relation in ("next to", "beside"):
                    gap = max(ax.min() - bx.max(), bx.min() - ax.max())
                    assert gap < 0.25 * 96 and abs(ay.max() - by.max()) < 0.25 * 96
                elif relation == "between":
                    assert len(scene.objects) == 3
                else:
                    assert relation == "and"


def box(left: int, top: int, right: int, bottom: int) -> Placed:
    look = Look("cat", FULL.nouns["cat"][0], "red", FULL.colors["red"], "", "none")
    return Placed(look, Image.new("RGBA", (right - left, bottom - top), (9, 9, 9, 255)), left, top, 100)


@pytest.mark.parametrize(
    ("first", "second", "relations"),
    [
        (box(10, 50, 40, 80), box(42, 52, 72, 82), {"next to", "beside", "to the left of"}),
        (box(42, 52, 72, 82), box(10, 50, 40, 80), {"next to", "beside", "to the right of"}),
        (box(10, 50, 40, 80), box(60, 50, 90, 80), {"to the left of"}),
        (box(20, 50, 50, 90), box(30, 30, 60, 70), {"in front of"}),
        (box(30, 30, 60, 70), box(20, 50, 50, 90), {"behind"}),
        (box(20, 10, 50, 30), box(25, 40, 55, 80), {"above"}),
        (box(20, 60, 50, 90), box(25, 10, 55, 40), {"below"}),
        (box(10, 10, 30, 30), box(20, 60, 90, 99), {"above"}),
        (box(10, 10, 30, 30), box(28, 60, 90, 99), set()),
    ],
)
def test_relations_of_two(first: Placed, second: Placed, relations: set[str]) -> None:
    assert set(true_relations([[first], [second]])) == relations


def test_a_relation_holds_for_every_pair() -> None:
    a, b, c = box(10, 50, 30, 80), box(40, 50, 60, 80), box(70, 50, 95, 80)
    assert true_relations([[a], [b, c]]) == ["to the left of"]
    assert true_relations([[a, c], [b]]) == []
    assert true_relations([[b], [a], [c]]) == ["between"]
    assert "between" not in true_relations([[a], [b], [c]])


def test_captions_are_put_together() -> None:
    cats, owl = Group("cat", ("red", "striped"), (0, 1)), Group("umbrella", (), (2,))
    caption = Caption((cats, owl), "there is", "next to", "field")
    assert caption.text == "there are two red striped cats next to an umbrella in the field"
    assert Caption((owl, cats), "there is").text == "there is an umbrella and two red striped cats"
    assert Caption((Group("sheep", ("orange",), (0,)),)).text == "an orange sheep"
    said = caption.said
    assert said[0] == said[1] and [caption.text[slice(*span)] for span in said[0].adjectives] == ["red", "striped"]
    assert {words for words, _ in RELATIONS} | {"between"} <= {
        "next to", "beside", "to the left of", "to the right of", "above", "below", "in front of", "behind", "between"
    }  # fmt: skip
