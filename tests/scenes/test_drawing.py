"""The scenes of the core world, and the COCO folder of them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from locinv_pl.datamodules.scenes import make_edits, write_scenes
from locinv_pl.errors import InputError
from locinv_pl.scenes.canvas import Canvas
from locinv_pl.scenes.drawing import BACKGROUNDS, COLORS, NOUNS, Scene, draw_scene, with_article
from locinv_pl.scenes.words import all_words

PHRASE = re.compile(rf"(an?) (?:({'|'.join(COLORS)}) )?({'|'.join(NOUNS)})")
PLACE = re.compile(rf"(.*?)(?: (on|in) the ({'|'.join(BACKGROUNDS)}))?")
# Captions, and digests of images, masks and the next random number.
PINNED = {
    "an orange ball and a blue cup in the water": "be37de4c0d1624f1",
    "a car and a dog on the sand": "043784a8c21d8343",
    "a red bird and a black flower and a purple car": "f23e316a6712bc14",
    "a red cat on the snow": "c347d77200681e5c",
}


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return [draw_scene(random.Random(seed)) for seed in range(60)]


def parse(caption: str) -> tuple[list[tuple[str, str, str]], str, str]:
    """(article, colour, noun) of every object, the preposition and the background."""
    place = PLACE.fullmatch(caption)
    assert place, caption
    phrases = [PHRASE.fullmatch(phrase) for phrase in place[1].split(" and ")]
    assert all(phrases), caption
    return [(p[1], p[2] or "", p[3]) for p in phrases if p], place[2] or "", place[3] or ""


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def test_the_embedded_model_saw_exactly_these_scenes() -> None:
    drawn = {}
    for seed, size, count in ((0, 128, None), (1, 128, None), (2, 64, 3), ("train/7", 200, 1)):
        rng = random.Random(seed)
        scene = draw_scene(rng, size, count)
        objects = [part for o in scene.objects for part in (f"{o.noun} {o.color}".encode(), np.packbits(o.mask))]
        after = str(rng.random()).encode()
        drawn[scene.caption] = digest(scene.image.tobytes(), *(bytes(part) for part in objects), after)
    assert drawn == PINNED


def test_the_tokenizer_was_trained_on_exactly_these_words() -> None:
    words = all_words()
    assert len(words) == 130 and digest(" ".join(words).encode()) == "bd3bc6bb89ea5ba5"


def test_the_annotations_of_a_folder_stay_the_same_to_the_byte(folder: Path) -> None:
    tables = [path.read_bytes() for path in sorted((folder / "annotations").iterdir())]
    assert digest(*tables) == "d6d2051523365921"


def test_the_vocabulary_is_the_one_the_embedded_model_knows() -> None:
    core = "cat dog bird fish car boat house cup ball chair flower airplane"
    assert " ".join(NOUNS) == core and " ".join(COLORS) == "red blue green yellow purple orange white black"
    assert len(NOUNS) == 12 and len(COLORS) == 8 and len(BACKGROUNDS) == 6
    assert {"cat", "airplane", "chair"} < set(NOUNS) and {"orange", "black"} < set(COLORS)


def test_captions_name_all_that_is_drawn_and_nothing_else(many: list[Scene]) -> None:
    for scene in many:
        phrases, preposition, background = parse(scene.caption)
        assert [noun for _, _, noun in phrases] == [thing.noun for thing in scene.objects]
        for (article, color, noun), thing in zip(phrases, scene.objects, strict=True):
            assert color in ("", thing.color)
            assert article == ("an" if (color or noun)[0] in "ao" else "a")
        if background:
            assert background == scene.background
            assert preposition == ("in" if background in ("sky", "water") else "on")


def test_captions_vary(many: list[Scene]) -> None:
    assert {len(scene.objects) for scene in many} == {1, 2, 3}
    assert {scene.background for scene in many} == set(BACKGROUNDS)
    assert {thing.noun for scene in many for thing in scene.objects} == set(NOUNS)
    assert {thing.color for scene in many for thing in scene.objects} == set(COLORS)
    assert {bool(parse(scene.caption)[2]) for scene in many} == {True, False}
    assert {bool(parse(scene.caption)[0][0][1]) for scene in many} == {True, False}


def test_article() -> None:
    assert [with_article(w) for w in ("cat", "airplane", "orange cat")] == [
        "a cat",
        "an airplane",
        "an orange cat",
    ]


def test_a_scene_depends_on_its_rng_alone() -> None:
    first, again, other = (draw_scene(random.Random(seed), 64) for seed in (5, 5, 6))
    assert first.image.tobytes() == again.image.tobytes() and first.caption == again.caption
    assert all((a.mask == b.mask).all() for a, b in zip(first.objects, again.objects, strict=True))
    assert first.image.tobytes() != other.image.tobytes()


def test_objects_do_not_overlap(many: list[Scene]) -> None:
    for scene in many:
        assert np.sum([thing.mask for thing in scene.objects], axis=0).max() == 1


@pytest.mark.parametrize("size", [64, 256])
def test_masks_are_exactly_the_pixels_that_hide_the_background(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def on(gray: int, seed: int) -> tuple[Scene, np.ndarray]:
        flat = Image.new("RGBA", (size, size), (gray, gray, gray, 255))
        monkeypatch.setattr("locinv_pl.scenes.core._background", lambda *args: flat)
        scene = draw_scene(random.Random(seed), size)
        return scene, np.asarray(scene.image, dtype=int).mean(-1)

    for seed in range(8):
        (scene, dark), (_, light) = on(0, seed), on(255, seed)
        opacity = 255 - (light - dark)
        masks = np.any([thing.mask for thing in scene.objects], axis=0)
        clear = np.abs(opacity - 127.5) > 2  # rounding
        assert (masks == (opacity > 127))[clear].all() and clear.mean() > 0.98
        assert 0.01 < masks.mean() < 0.5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_number_of_objects_can_be_fixed(count: int) -> None:
    for seed in range(12):
        scene = draw_scene(random.Random(seed), size=64, num_objects=count)
        assert len(scene.objects) == count == len(parse(scene.caption)[0])


def test_a_larger_image_shows_the_same_scene_larger() -> None:
    small, large = (draw_scene(random.Random(3), size) for size in (128, 512))
    assert large.image.size == (512, 512) and large.caption == small.caption
    shrunk = np.asarray(large.image.resize((128, 128), Image.Resampling.BOX), dtype=float)
    assert np.abs(shrunk - np.asarray(small.image)).mean() < 6


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_draws_inside_its_square_in_the_given_colour(noun: str) -> None:
    canvas = Canvas(90)
    NOUNS[noun][0](canvas, (200, 10, 120))
    pixels = np.asarray(canvas.image)
    assert 0.1 < (pixels[:, :, 3] > 0).mean() < 0.7
    assert (pixels[:, :, :3] == (200, 10, 120)).all(-1).mean() > 0.05


def test_nouns_are_told_apart_by_their_shape() -> None:
    shapes = {}
    for noun, styles in NOUNS.items():
        canvas = Canvas(60)
        styles[0](canvas, (200, 10, 120))
        shapes[noun] = np.asarray(canvas.image)[:, :, 3] > 0
    for a in shapes:
        for b in shapes:
            iou = (shapes[a] & shapes[b]).sum() / (shapes[a] | shapes[b]).sum()
            assert iou < 0.9 or a == b, (a, b)


# --- the folder ---


def load(root: Path, name: str) -> Any:
    return json.loads((root / "annotations" / name).read_text())


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(root, num_images=12, seed=1, size=64)
    return root


def test_the_folder_is_coco_and_its_masks_boxes_and_areas_agree(folder: Path) -> None:
    coco = COCO(str(folder / "annotations/instances.json"))
    assert len(coco.imgs) == 12 and len(coco.cats) == 12
    assert len(coco.anns) >= 12
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        ys, xs = mask.nonzero()
        x, y = int(xs.min()), int(ys.min())
        assert mask.shape == (64, 64) and annotation["area"] == mask.sum()
        assert annotation["bbox"] == [x, y, xs.max() + 1 - x, ys.max() + 1 - y]
        assert isinstance(annotation["segmentation"]["counts"], str) and annotation["iscrowd"] == 0
        assert annotation["attributes"]["color"] in COLORS
    for row in coco.imgs.values():
        with Image.open(folder / "images" / row["file_name"]) as image:
            assert image.size == (row["width"], row["height"]) == (64, 64)


def test_captions_name_the_annotated_objects_in_order(folder: Path) -> None:
    coco = COCO(str(folder / "annotations/instances.json"))
    captions = load(folder, "captions.json")["annotations"]
    assert [row["image_id"] for row in captions] == list(coco.imgs)
    for row in captions:
        annotated = [coco.cats[a["category_id"]]["name"] for a in coco.imgToAnns[row["image_id"]]]
        assert [noun for _, _, noun in parse(row["caption"])[0]] == annotated


def test_edits_change_one_word_of_the_caption(folder: Path) -> None:
    captions = {row["image_id"]: row["caption"] for row in load(folder, "captions.json")["annotations"]}
    edits = load(folder, "edits.json")
    swaps = [edit for edit in edits if edit["kind"] == "word_swap"]
    colored = {i for i, caption in captions.items() if any(c for _, c, _ in parse(caption)[0])}
    assert [edit["image_id"] for edit in swaps] == list(captions)
    assert {edit["image_id"] for edit in edits if edit["kind"] == "attribute"} == colored != set()
    for edit in edits:
        source, *source_place = parse(captions[edit["image_id"]])
        target, *target_place = parse(edit["prompt"])
        assert source_place == target_place and len(source) == len(target)
        changed = [(s, t) for s, t in zip(source, target, strict=True) if s != t]
        assert len(changed) == 1
        (_, old_color, old_noun), (article, new_color, new_noun) = changed[0]
        assert article == ("an" if (new_color or new_noun)[0] in "ao" else "a")
        if edit["kind"] == "word_swap":
            assert old_color == new_color and new_noun not in {noun for _, _, noun in source}
        else:
            assert old_noun == new_noun and old_color != new_color and new_color


def test_edits_never_repeat_what_is_there(many: list[Scene]) -> None:
    for seed, scene in enumerate(many):
        edits = make_edits(scene, random.Random(seed))
        assert scene.caption not in edits.values()
        target = [noun for _, _, noun in parse(edits["word_swap"])[0]]
        assert len(set(target) - {thing.noun for thing in scene.objects}) == 1


def test_fewer_images_are_a_prefix_of_more(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "few", num_images=5, seed=1, size=64)
    for number in range(5):
        name = f"images/{number:06d}.png"
        assert (tmp_path / "few" / name).read_bytes() == (folder / name).read_bytes()
    for name, table in (("instances.json", "annotations"), ("captions.json", "annotations")):
        few, more = load(tmp_path / "few", name)[table], load(folder, name)[table]
        assert few == more[: len(few)] and few[-1]["image_id"] == 4
    few, more = load(tmp_path / "few", "edits.json"), load(folder, "edits.json")
    assert few == more[: len(few)] and few[-1]["image_id"] == 4


def test_another_seed_draws_other_scenes(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "other", num_images=1, seed=2, size=64)
    name = "images/000000.png"
    assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def test_the_number_of_objects_is_bounded(tmp_path: Path) -> None:
    write_scenes(tmp_path / "pairs", num_images=8, seed=0, size=64, min_objects=2, max_objects=2)
    annotations = load(tmp_path / "pairs", "instances.json")["annotations"]
    assert [a["image_id"] for a in annotations] == [i for i in range(8) for _ in range(2)]


def test_writing_again_changes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_scenes(folder, num_images=12, seed=1, size=64)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_writers_at_once_leave_one_complete_folder(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: write_scenes(root, num_images=12, seed=1, size=64), range(4)))
    assert files(root) == files(folder)
    assert list(tmp_path.iterdir()) == [root]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("locinv_pl.datamodules.scenes.make_edits", fail)
    with pytest.raises(OSError, match="disk full"):
        write_scenes(tmp_path / "scenes", num_images=2, size=64)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    write_scenes(tmp_path, num_images=1, size=64)
    assert (tmp_path / "images/000000.png").is_file()


def test_a_folder_of_other_scenes_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"scenes: holds other scenes \(num_images=12\); delete it"):
        write_scenes(folder, num_images=13, seed=1, size=64)


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="holds no drawn scenes; move it away"):
        write_scenes(tmp_path, num_images=1, size=64)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_images": 0}, "num_images=0: "),
        ({"num_images": 1, "size": 8}, "size=8: "),
        ({"num_images": 1, "min_objects": 0}, "min_objects=0, max_objects=3: "),
        ({"num_images": 1, "max_objects": 4}, "min_objects=1, max_objects=4: "),
        ({"num_images": 1, "min_objects": 3, "max_objects": 2}, "min_objects=3, max_objects=2: "),
    ],
)
def test_settings_out_of_range(settings: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        write_scenes(tmp_path / "scenes", **settings)
    assert not (tmp_path / "scenes").exists()
