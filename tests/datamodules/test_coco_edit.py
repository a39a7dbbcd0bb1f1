"""COCO-edit's rules, its manifest, and where a COCO folder keeps its files."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from processes import Forked
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from locinv_pl.configs import CONFIGS
from locinv_pl.datamodules.coco_edit import CocoEditDataModule
from locinv_pl.datamodules.entries import EntrySamples, Problems
from locinv_pl.datamodules.selection import Limits
from locinv_pl.errors import InputError

ROOT = Path(__file__).parents[2]
SIDE = 100
CATEGORIES = {"person": "person", "cat": "animal", "dog": "animal", "horse": "animal", "frisbee": "sports"}
Objects = Sequence[tuple[str, tuple[int, int, int, int]]]


class Set:
    """A COCO 2017 folder under way; every object's polygon is its box."""

    def __init__(self, root: Path, split: str = "_val2017") -> None:
        self.root, self.split = root, split
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.captions: list[dict[str, Any]] = []
        (root / "annotations").mkdir(parents=True)
        self.image_folder = root / (split.strip("_") or "images")
        self.image_folder.mkdir()

    def add(self, objects: Objects, *captions: str, crowd: bool = False) -> int:
        id = len(self.images) + 1
        name = f"{id:012d}.png"
        self.images.append({"id": id, "file_name": name, "width": SIDE, "height": SIDE})
        Image.new("RGB", (SIDE, SIDE), "gray").save(self.image_folder / name)
        for category, (x, y, w, h) in objects:
            row = {"id": len(self.annotations) + 1, "image_id": id, "category_id": 1 + [*CATEGORIES].index(category)}
            polygon: Any = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            if crowd:
                polygon = mask_utils.frPyObjects(polygon, SIDE, SIDE)[0]
                polygon["counts"] = polygon["counts"].decode()
            self.annotations.append(
                {**row, "bbox": [x, y, w, h], "segmentation": polygon, "iscrowd": int(crowd), "area": w * h}
            )
        for caption in captions:
            self.captions.append({"id": len(self.captions) + 1, "image_id": id, "caption": caption})
        return id

    def data(self, **options: Any) -> CocoEditDataModule:
        categories = [
            {"id": n, "name": name, "supercategory": family} for n, (name, family) in enumerate(CATEGORIES.items(), 1)
        ]
        tables = {"images": self.images, "categories": categories, "annotations": self.annotations}
        (self.root / f"annotations/instances{self.split}.json").write_text(json.dumps(tables))
        texts = {"images": self.images, "annotations": self.captions}
        (self.root / f"annotations/captions{self.split}.json").write_text(json.dumps(texts))
        return CocoEditDataModule(str(self.root), **options)

    def prompts(self, **options: Any) -> dict[int, str]:
        """The chosen prompts by image."""
        return {entry.image_id: entry.prompt for entry in self.data(**options).entries(64, Problems())}  # type: ignore[misc]


BOX, OTHER = (10, 10, 30, 30), (60, 50, 30, 40)


@pytest.fixture
def coco(tmp_path: Path) -> Set:
    return Set(tmp_path / "coco")


# --- which images ---


def test_a_search_wants_just_its_categories_named_and_annotated(coco: Set) -> None:
    coco.add([("cat", BOX)], "a cat on a mat")
    coco.add([("cat", BOX), ("dog", OTHER)], "a cat and a dog")
    coco.add([("cat", BOX), ("dog", OTHER)], "a kitten sleeps")
    coco.add([("dog", BOX)], "a cat")
    coco.add([("cat", BOX)], "an empty street")
    assert coco.prompts(categories=["cat"]) == {1: "a cat on a mat", 3: "a kitten sleeps"}
    assert coco.prompts(categories=["cat and dog"]) == {2: "a cat and a dog"}
    assert coco.prompts(categories="all") == {
        1: "a cat on a mat",
        2: "a cat and a dog",
        3: "a kitten sleeps",
    }


def test_three_categories_and_plurals(coco: Set) -> None:
    coco.add([("person", BOX), ("dog", OTHER), ("frisbee", (0, 90, 20, 10))], "people throw a frisbee to their dogs")
    assert list(coco.prompts(categories=["person, dog and frisbee"])) == [1]
    assert list(coco.prompts(categories=["dog and frisbee and person"])) == [1]


def test_every_search_gets_its_share(coco: Set) -> None:
    for _ in range(4):
        coco.add([("cat", BOX)], "a cat")
    for _ in range(2):
        coco.add([("dog", BOX)], "a dog")
    coco.add([("horse", BOX)], "a horse")
    searches = ["horse", "cat", "dog"]
    taken = Counter(coco.prompts(categories=searches, num_images=5).values())
    assert taken == {"a cat": 2, "a dog": 2, "a horse": 1}
    assert len(coco.prompts(categories=searches)) == 7


@pytest.mark.parametrize(
    ("objects", "taken"),
    [
        ([("cat", (0, 0, 10, 10))], False),
        ([("cat", (0, 0, 20, 20))], True),
        ([("cat", (0, 0, 100, 90))], False),
        ([("cat", (0, 0, 15, 10)), ("cat", (20, 20, 15, 10))], True),
        ([("cat", (20 * n, 0, 15, 15)) for n in range(4)], False),
        ([("cat", BOX)] * 3, True),
        ([("cat", (0, 0, 60, 60)), ("cat", (5, 5, 60, 60))], True),
    ],
)
def test_limits(objects: Objects, taken: bool, coco: Set) -> None:
    coco.add(objects, "a cat")
    coco.add([("dog", BOX)], "a dog")
    limits = Limits(min_area=0.02, max_area=0.7, max_instances=3)
    assert (1 in coco.prompts(categories=["cat", "dog"], limits=limits)) == taken
    assert 1 in coco.prompts(categories="all", limits=limits)


def test_crowd_masks_alone_are_no_objects_of_a_search(coco: Set) -> None:
    coco.add([("person", BOX)], "a person", crowd=True)
    coco.add([("person", BOX)], "a person")
    assert list(coco.prompts(categories=["person"])) == [2]
    assert list(coco.prompts(categories="all")) == [1, 2]


def test_a_polygon_marked_as_crowd_is_an_object_all_the_same(coco: Set) -> None:
    coco.add([("cat", BOX)], "a cat")
    coco.annotations[0]["iscrowd"] = 1
    assert list(coco.prompts(categories=["cat"])) == [1]


def test_the_caption_names_most_then_says_least(coco: Set) -> None:
    captions = ["a cat", "a cat and a dog in a house", "a dog and a cat", "a dog with a cat", "a house"]
    coco.add([("cat", BOX), ("dog", OTHER)], *captions)
    assert coco.prompts(categories="all") == {1: "a dog and a cat"}
    assert coco.prompts(categories=["cat"]) == {1: "a cat"}


@pytest.mark.parametrize("limits", [{"min_area": 0.5, "max_area": 0.2}, {"min_area": -1}, {"max_instances": 0}])
def test_limits_out_of_range(limits: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^data\.limits"):
        Limits(**limits)


def test_categories_that_the_file_lacks(coco: Set) -> None:
    coco.add([("cat", BOX)], "a cat")
    with pytest.raises(
        InputError, match=r"^data.categories: the data set has no category of unicorn; name some of cat,"
    ):
        coco.prompts(categories=["unicorn"])
    with pytest.raises(InputError, match=r"no image has a caption .* within data.limits; widen them"):
        coco.prompts(categories=["dog"])
    assert list(coco.prompts(categories=["unicorn", "cat"])) == [1]


def test_the_preset_searches_coco_by_its_own_names() -> None:
    preset = yaml.safe_load((CONFIGS / "data/coco_edit.yaml").read_text())["init_args"]
    names = set(yaml.safe_load((CONFIGS / "words/coco.yaml").read_text())) - {"not_meant"}
    said = {part.strip() for prompt in preset["categories"] for part in prompt.replace(" and ", ",").split(",")}
    assert said <= names and set(preset["swaps"]) <= names and set(preset["attributes"]) - {"any"} <= names
    assert said <= set(preset["swaps"]), "every searched category has targets"
    assert preset["num_images"] == 300


# --- edits ---


def edits_of(coco: Set, **options: Any) -> list[dict[str, str]]:
    entries = coco.data(**options).entries(64, Problems())
    return [{edit.kind: edit.prompt for edit in entry.edits} for entry in entries]


def test_edits_come_from_the_table(coco: Set) -> None:
    coco.add([("cat", BOX)], "two black cats on a mat")
    coco.add([("cat", BOX)], "a cat on a mat")
    table = {"swaps": {"cat": ["elephant"]}, "attributes": {"any": ["orange"], "dog": ["black"]}}
    assert edits_of(coco, **table) == [
        {"word_swap": "two black elephants on a mat", "attribute": "two orange cats on a mat"},
        {"word_swap": "an elephant on a mat", "attribute": "an orange cat on a mat"},
    ]


def test_without_a_table_a_noun_of_the_same_family_takes_its_place(coco: Set) -> None:
    coco.add([("cat", BOX), ("dog", OTHER)], "a cat and a dog")
    assert edits_of(coco)[0]["word_swap"] in ("a horse and a dog", "a cat and a horse")


def test_edits_of_the_data_come_before_the_table(coco: Set) -> None:
    coco.add([("cat", BOX)], "a cat")
    listed = [{"image_id": 1, "kind": "mine", "prompt": "a lion"}]
    (coco.root / "annotations/edits_val2017.json").write_text(json.dumps(listed))
    assert edits_of(coco, swaps={"cat": ["dog"]}) == [{"mine": "a lion"}]


def test_edits_are_the_same_each_time(coco: Set) -> None:
    for _ in range(6):
        coco.add([("cat", BOX), ("dog", OTHER)], "a cat and a dog")
    table = {"swaps": {"cat": ["a1", "a2", "a3"], "dog": ["b1", "b2", "b3"]}}
    first = edits_of(coco, **table)
    assert edits_of(coco, **table) == first
    assert len({edit["word_swap"] for edit in first}) > 2


# --- files ---


@pytest.mark.parametrize("split", ["_val2017", "_train2014", ""])
def test_files_are_found_by_cocos_names(split: str, tmp_path: Path) -> None:
    coco = Set(tmp_path / "coco", split)
    coco.add([("cat", BOX)], "a cat")
    (sample,) = coco.data().read(64, Problems())
    assert sample.prompt == "a cat" and sample.image.shape == (3, 64, 64)


def test_the_validation_set_comes_first_and_others_can_be_named(coco: Set) -> None:
    coco.add([("cat", BOX)], "a cat")
    coco.data()
    train = Set(coco.root / "other", "_train2017")
    train.add([("dog", BOX)], "a dog")
    train.data()
    for path in [*train.root.glob("annotations/*"), train.image_folder]:
        path.rename(coco.root / path.relative_to(train.root))
    assert [e.prompt for e in CocoEditDataModule(str(coco.root)).entries(64, Problems())] == ["a cat"]
    named = CocoEditDataModule(str(coco.root), instances="annotations/instances_train2017.json")
    assert [s.prompt for s in named.read(64, Problems())] == ["a dog"]
    (coco.root / "annotations/instances_val2017.json").rename(coco.root / "annotations/instances_test2017.json")
    with pytest.raises(InputError, match=r"several instance files \(.*\); name one in data.instances="):
        CocoEditDataModule(str(coco.root)).entries(64, Problems())


def test_images_may_lie_relative_to_the_root(coco: Set) -> None:
    coco.add([("cat", BOX)], "a cat")
    coco.images[0]["file_name"] = f"val2017/{coco.images[0]['file_name']}"
    assert coco.data().read(64, Problems())[0].id == "000000000001"


# --- one bad image ---


def test_a_bad_annotation_is_skipped_with_its_image(coco: Set) -> None:
    coco.add([("cat", BOX)], "a cat")
    coco.add([("cat", (10, 10, 30, 0))], "a cat")
    problems = Problems("skip")
    entries = coco.data().entries(64, problems)
    assert [entry.image_id for entry in entries] == [1]
    (problem,) = problems.found
    assert problem.id == "000000000002" and "its box [10, 10, 30, 0] has no area" in problem.problem
    assert problems.num_images == 2
    with pytest.raises(InputError, match="has no area"):
        coco.data().entries(64, Problems("raise"))


# --- the manifest ---


def equal(one: EntrySamples, other: EntrySamples) -> bool:
    def content(samples: EntrySamples) -> list[Any]:
        return [
            (
                s.id,
                s.prompt,
                s.edits,
                s.adjectives,
                [(n.word, n.span, n.prior.tolist(), n.mask.tolist()) for n in s.nouns],
            )
            for s in samples
        ]

    return content(one) == content(other)


@pytest.mark.parametrize("prior", ["segment", "box"])
def test_a_manifest_gives_the_same_samples_without_the_annotations(prior: Any, coco: Set, tmp_path: Path) -> None:
    coco.add([("cat", BOX), ("cat", OTHER)], "two white cats")
    coco.add([("cat", BOX), ("dog", OTHER)], "a cat and a black dog")
    coco.add([("person", BOX)], "a person", crowd=True)
    data = coco.data(prior=prior, swaps={"cat": ["tiger"]}, attributes={"any": ["red"]})
    before = data.read(64, Problems())
    manifest = tmp_path / "manifest.json"
    assert len(data.build_manifest(manifest, Problems())) == 3
    for path in (coco.root / "annotations").iterdir():
        path.unlink()
    frozen = CocoEditDataModule(str(coco.root), manifest=str(manifest), prior=prior)
    problems = Problems()
    assert equal(frozen.read(64, problems), before) and problems.num_images == 3
    row = json.loads(manifest.read_text())["images"][0]
    assert row["image_id"] == 1 and row["nouns"][0]["annotation_ids"] == [1, 2] and row["nouns"][0]["span"] == [10, 14]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(format=99), "no manifest of this version"),
        (lambda c: c.pop("images"), "has no list of images"),
        (lambda c: c["images"][0].pop("prompt"), "has no valid 'prompt'"),
        (lambda c: c["images"][0].update(prompt="the cat"), "its prompt has 'e c' where 'cat' should be"),
        (lambda c: c["images"][0]["nouns"][0].pop("boxes"), "damaged"),
        (lambda c: c["images"][0]["nouns"][0]["segmentations"][0].update(counts="zzz"), "malformed"),
        (lambda c: c["images"][0]["nouns"][0].update(boxes=[[1, 2, 3, 999]]), "lies outside"),
    ],
)
def test_a_damaged_manifest(change: Any, says: str, coco: Set, tmp_path: Path) -> None:
    coco.add([("cat", BOX)], "a cat")
    manifest = tmp_path / "m.json"
    coco.data().build_manifest(manifest, Problems())
    content = json.loads(manifest.read_text())
    change(content)
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match=says) as caught:
        CocoEditDataModule(str(coco.root), manifest=str(manifest)).entries(64, Problems())
    assert str(manifest) in str(caught.value) and "\n" not in str(caught.value)


# --- a folder of somebody else's making ---


def test_kwcoco_shapes(tmp_path: Path) -> None:
    """kwcoco's demo data: another writer's polygons, in another writer's layout."""
    kwcoco = pytest.importorskip("kwcoco")
    pytest.importorskip("cv2")
    made = kwcoco.CocoDataset.demo("shapes8", dpath=str(tmp_path / "made"), verbose=0)
    made.conform(legacy=True)  # its export to COCO's own format
    content = made.dataset
    for image in content["images"]:
        image["file_name"] = str(Path(made.get_image_fpath(image["id"])).resolve())
    names = {category["id"]: category["name"] for category in content["categories"]}
    root = tmp_path / "set"
    root.mkdir()
    (root / "images").mkdir()
    made.dump(str(root / "instances.json"))
    shown: dict[int, set[str]] = {}
    for row in content["annotations"]:
        shown.setdefault(row["image_id"], set()).add(names[row["category_id"]])
    texts = [
        {"id": n, "image_id": image, "caption": "some " + " and ".join(sorted(found))}
        for n, (image, found) in enumerate(shown.items())
    ]
    (root / "captions.json").write_text(json.dumps({"annotations": texts}))
    samples = CocoEditDataModule(str(root), fit="native").read(512, Problems())
    entries, coco = samples.entries, COCO(str(root / "instances.json"))
    assert len(entries) == len(shown) >= 5
    counted = 0
    for entry in entries:
        for mention in entry.mentions:
            expected = np.zeros((entry.height, entry.width), dtype=np.uint8)
            for shape in mention.shapes:
                mine = mask_utils.decode(shape.mask)
                theirs = coco.annToMask(coco.anns[shape.id])
                assert (mine == theirs).all()
                expected |= theirs
            counted += len(mention.shapes)
            assert expected.any()
    assert counted >= 8
    sample = samples[0]
    assert sample.nouns and sample.image.shape[-1] % 64 == 0


def test_the_benchmark_runs_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small folder, in a fork in place of a new Python; the figures themselves are the benchmark's business."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import coco_index

    def run(command: list[str], check: bool, cwd: Path) -> None:
        assert command[:2] == [sys.executable, str(ROOT / "train.py")] and check and cwd == ROOT
        process = Forked(command)
        assert os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1]) == 0

    for name, value in (("IMAGES", 40), ("INSTANCES", 300), ("subprocess", SimpleNamespace(run=run))):
        monkeypatch.setattr(coco_index, name, value)
    monkeypatch.setattr(sys, "argv", ["coco_index", "--json", str(tmp_path / "f.json")])
    coco_index.main()
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["chosen"] > 5 and figures["seconds"] > 0 and figures["peak_memory_gib"] > 0


def test_scenes_and_pixels(tmp_path: Path) -> None:
    """The whole image at its own size is bit-equal in every fit of a square image."""
    coco = Set(tmp_path / "coco")
    coco.add([("cat", (0, 0, 64, 64))], "a cat")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(coco.image_folder / coco.images[0]["file_name"])
    coco.images[0].update(width=64, height=64)
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    for fit in ("crop", "pad", "native"):
        assert torch.equal(coco.data(fit=fit).read(64, Problems())[0].image, expected)
