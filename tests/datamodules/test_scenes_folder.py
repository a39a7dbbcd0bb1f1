"""The full world as a COCO-format folder, read back."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from locinv_pl.datamodules.coco_edit import CocoEditDataModule
from locinv_pl.datamodules.entries import EntrySamples, Problems
from locinv_pl.datamodules.scenes import ScenesDataModule, SceneSettings, make_edits, make_scene, write_scenes
from locinv_pl.errors import InputError
from locinv_pl.scenes.captions import Caption, Group
from locinv_pl.scenes.drawing import CORE, FULL, Scene, draw_scene
from locinv_pl.scenes.words import PLURALS
from locinv_pl.words import inflect

SETTINGS = SceneSettings(num_images=60, seed=3, size=64, min_objects=1, max_objects=4, world="full")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "full"
    write_scenes(root, num_images=60, seed=3, size=64, world="full")
    return root


def read(root: Path) -> EntrySamples:
    return CocoEditDataModule(str(root)).read(64, Problems())


def said_together(scene: Scene) -> dict[tuple[int, int], np.ndarray]:
    """The union of the masks of what a noun of the caption means, by its place."""
    unions: dict[tuple[int, int], np.ndarray] = {}
    for thing, said in zip(scene.objects, scene.said, strict=True):
        unions[said.noun] = unions.get(said.noun, False) | thing.mask
    return unions


def test_every_noun_is_found_with_the_union_of_its_instances(folder: Path) -> None:
    samples = read(folder)
    assert len(samples) == 60
    together = 0
    for index, sample in enumerate(samples):
        scene = make_scene(index, SETTINGS)
        assert sample.prompt == scene.caption
        unions = said_together(scene)
        assert [noun.span for noun in sample.nouns] == list(unions)
        for noun in sample.nouns:
            assert (noun.prior.numpy() == unions[noun.span]).all() and (noun.mask.numpy() == unions[noun.span]).all()
        together += len(unions) < len(scene.objects)
        adjectives = {(said.noun, span) for said in scene.said for span in said.adjectives}
        assert {(sample.nouns[a.noun].span, a.span) for a in sample.adjectives} == adjectives
    assert together > 3


def test_adjectives_tell_groups_of_one_noun_apart(tmp_path: Path) -> None:
    write_scenes(tmp_path / "x", num_images=1, seed=0, size=64, min_objects=4, world="full")
    root = tmp_path / "x/annotations"
    tables = json.loads((root / "instances.json").read_text())
    looks = [{"color": c, "material": "striped"} for c in ("red", "red", "blue")]
    cat = next(row["id"] for row in tables["categories"] if row["name"] == "cat")
    tables["annotations"] = [
        {**row, "category_id": cat, "attributes": look}
        for row, look in zip(tables["annotations"][:3], looks, strict=True)
    ]
    (root / "instances.json").write_text(json.dumps(tables))
    caption = "two red striped cats and a blue striped cat on the grass"
    (root / "captions.json").write_text(json.dumps({"annotations": [{"id": 0, "image_id": 0, "caption": caption}]}))
    (root / "edits.json").unlink()
    (sample,) = read(tmp_path / "x")
    masks = [thing.mask for thing in make_scene(0, SceneSettings(1, 0, 64, 4, 4, "full")).objects]
    assert [noun.word for noun in sample.nouns] == ["cats", "cat"]
    assert (sample.nouns[0].mask.numpy() == masks[0] | masks[1]).all()
    assert (sample.nouns[1].mask.numpy() == masks[2]).all()


def test_plurals() -> None:
    regular = {noun: several for noun, several in PLURALS.items() if noun not in ("fish", "sheep")}
    assert {noun: inflect(noun, True) for noun in regular} == regular
    others = {"person": "people", "hot dog": "hot dogs", "wine glass": "wine glasses"}
    assert {noun: inflect(noun, True) for noun in others} == others


# --- edits ---


def test_edits_swap_one_noun_colour_or_material() -> None:
    kinds = set()
    for seed in range(150):
        scene = draw_scene(random.Random(seed), 32, world=FULL)
        for kind, prompt in make_edits(scene, random.Random(seed), FULL).items():
            kinds.add(kind)
            source, target = scene.caption.split(" "), prompt.split(" ")
            changed = [(a, b) for a, b in zip(source, target, strict=True) if a != b and {a, b} != {"a", "an"}]
            ((old, new),) = changed
            if kind == "word_swap":
                singular = {noun: noun for noun in PLURALS} | {several: noun for noun, several in PLURALS.items()}
                plurals = set(PLURALS.values()) - set(PLURALS)
                ambiguous = {"fish", "sheep"} & {old, new}
                assert singular[new] not in {thing.noun for thing in scene.objects}
                assert ambiguous or (old in plurals) == (new in plurals)
            elif kind == "attribute":
                assert {old, new} <= set(FULL.colors)
            else:
                assert {old, new} <= {"wooden", "golden"} or {old, new} <= {"striped", "dotted", "checkered"}
            for article, word in zip(target, target[1:], strict=False):
                assert article not in ("a", "an") or article == ("an" if word[0] in "aeiou" else "a")
    assert kinds == {"word_swap", "attribute", "material"}


def test_an_edit_leaves_groups_of_one_noun_apart() -> None:
    groups = (Group("cat", ("red",), (0, 1)), Group("cat", ("blue",), (2,)))
    thing = draw_scene(random.Random(0), 32, 1, FULL).objects[0]
    scene = Scene(draw_scene(random.Random(0), 32).image, (thing,) * 3, "grass", Caption(groups))
    prompts = {make_edits(scene, random.Random(seed), FULL)["attribute"] for seed in range(80)}
    assert not prompts & {"two red cats and a red cat", "two blue cats and a blue cat"}
    assert "two pink cats and a blue cat" in prompts and "two red cats and an orange cat" in prompts


# --- settings ---


def test_the_core_world_goes_without_saying(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "core", num_images=1, size=64)
    for root, settings in ((tmp_path / "core", {}), (folder, {"world": "full"})):
        info = json.loads((root / "annotations/instances.json").read_text())["info"]["settings"]
        assert {key: value for key, value in info.items() if key == "world"} == settings
    assert "world" not in ScenesDataModule().settings
    assert ScenesDataModule(world="full").settings["world"] == "full"


def test_a_folder_of_another_world_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds other scenes \(max_objects=4, world=full\); delete it"):
        write_scenes(folder, num_images=60, seed=3, size=64)
    write_scenes(tmp_path / "core", num_images=1, size=64)
    with pytest.raises(InputError, match=r"holds other scenes \(world=core\); delete it"):
        write_scenes(tmp_path / "core", num_images=1, size=64, max_objects=3, world="full")


def test_a_world_bounds_the_number_of_objects(tmp_path: Path) -> None:
    assert ScenesDataModule().max_objects == CORE.max_objects == 3
    assert ScenesDataModule(world="full").max_objects == FULL.max_objects == 4
    with pytest.raises(InputError, match="max_objects=5: give 1 <= min_objects <= max_objects <= 4"):
        write_scenes(tmp_path / "x", num_images=1, max_objects=5, world="full")
    with pytest.raises(InputError, match="world=moon: no such world; choose core or full"):
        write_scenes(tmp_path / "x", num_images=1, world="moon")  # type: ignore[arg-type]
