"""Reading COCO-format folders: what a sample holds, and what every kind of bad input says."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from refusals import refused

from locinv_pl.datamodules.annotations import run_lengths
from locinv_pl.datamodules.coco_edit import CocoEditDataModule
from locinv_pl.datamodules.entries import EntrySamples, Problems
from locinv_pl.datamodules.scenes import write_scenes
from locinv_pl.errors import InputError
from locinv_pl.priors import box_mask
from locinv_pl.scenes.drawing import COLORS

CATEGORIES = {"cat": 1, "dog": 2, "hot dog": 3, "dog house": 4}
# A plain image of 12x8 (w x h): its centre square is x in [2, 10).
WIDTH, HEIGHT = 12, 8
Json = dict[str, Any]


def rectangle(x: int, y: int, w: int, h: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def encode(mask: np.ndarray) -> Json:
    rle = mask_utils.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def uncompressed(mask: np.ndarray) -> Json:
    pixels, counts, value = mask.flatten(order="F"), [0], 0
    for pixel in pixels:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def annotated(id: int, box: tuple[int, int, int, int], name: str = "cat", **extra: Any) -> Json:
    """An annotation of image 1 whose mask is its box."""
    segmentation = encode(rectangle(*box))
    row = {"id": id, "image_id": 1, "category_id": CATEGORIES[name], "bbox": list(box)}
    return {**row, "segmentation": segmentation, "iscrowd": 0, **extra}


class Folder:
    """A COCO-format folder with one image, to change before it is read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: list[Json] = [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}]
        self.annotations: list[Json] = [annotated(1, (3, 2, 4, 3))]
        self.captions: list[Json] = [{"id": 1, "image_id": 1, "caption": "a cat"}]
        self.edits: list[Json] | None = None
        (root / "images").mkdir(parents=True)
        (root / "annotations").mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        self.image = Image.fromarray(pixels)
        self.image.save(root / "images/a.png")

    def caption(self, *texts: str) -> Folder:
        self.captions = [{"id": k, "image_id": 1, "caption": text} for k, text in enumerate(texts)]
        return self

    def write(self) -> Folder:
        categories = [{"id": number, "name": name} for name, number in CATEGORIES.items()]
        tables = {"images": self.images, "categories": categories, "annotations": self.annotations}
        self.dump("instances.json", tables)
        self.dump("captions.json", {"images": self.images, "annotations": self.captions})
        if self.edits is not None:
            self.dump("edits.json", self.edits)
        return self

    def dump(self, name: str, content: Any) -> None:
        (self.root / "annotations" / name).write_text(json.dumps(content))

    def read(self, **options: Any) -> EntrySamples:
        return read(self.write().root, **{"size": HEIGHT, **options})


def read(root: Path, size: int = 64, on_error: Any = "raise", **options: Any) -> EntrySamples:
    """Every image of a folder whose caption names an annotated object."""
    return CocoEditDataModule(str(root), **options).read(size, Problems(on_error))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "set")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(root, num_images=12, seed=0, size=64)
    return root


# --- a whole set ---


def test_masks_are_annToMask_pixel_for_pixel(scenes: Path) -> None:
    samples = read(scenes)
    coco = COCO(str(scenes / "annotations/instances.json"))
    assert len(samples) == 12 and samples.ids == [f"{k:06d}" for k in range(12)]
    for sample, image in zip(samples, coco.imgs, strict=True):
        expected = [torch.from_numpy(coco.annToMask(a)) for a in coco.imgToAnns[image]]
        assert len(sample.nouns) == len(expected) > 0
        for noun, mask in zip(sample.nouns, expected, strict=True):
            assert torch.equal(noun.prior, mask.float()) and torch.equal(noun.mask, mask.bool())


def test_images_are_untouched_at_their_own_size(scenes: Path) -> None:
    sample = read(scenes)[3]
    with Image.open(scenes / "images/000003.png") as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    assert torch.equal(sample.image, expected) and sample.id == "000003"


def test_prompts_nouns_adjectives_and_edits(scenes: Path) -> None:
    def listed(name: str) -> Any:
        return json.loads((scenes / "annotations" / name).read_text())

    edits, captions = listed("edits.json"), listed("captions.json")["annotations"]
    for k, sample in enumerate(read(scenes)):
        assert sample.prompt == captions[k]["caption"]
        assert [(e.kind, e.prompt) for e in sample.edits] == [
            (e["kind"], e["prompt"]) for e in edits if e["image_id"] == k
        ]
        assert all(sample.prompt[slice(*noun.span)] == noun.word for noun in sample.nouns)
        colored = re.findall(rf"({'|'.join(COLORS)}) (\w+)", sample.prompt)
        assert colored == [(a.word, sample.nouns[a.noun].word) for a in sample.adjectives]
        assert all(sample.prompt[slice(*a.span)] == a.word for a in sample.adjectives)


def test_box_priors_are_filled_boxes_and_masks_stay_masks(scenes: Path) -> None:
    boxes, segments = read(scenes, prior="box"), read(scenes)
    coco = COCO(str(scenes / "annotations/instances.json"))
    for sample, segmented, image in zip(boxes, segments, coco.imgs, strict=True):
        for noun, other, annotation in zip(sample.nouns, segmented.nouns, coco.imgToAnns[image], strict=True):
            x, y, w, h = map(int, annotation["bbox"])
            expected = torch.from_numpy(rectangle(x, y, w, h, 64, 64)).float()
            assert torch.equal(noun.prior, expected)
            assert torch.equal(noun.mask, other.mask)


def test_samples_are_a_picklable_sequence(scenes: Path) -> None:
    samples = pickle.loads(pickle.dumps(read(scenes)))
    assert samples[-1].id == "000011"
    assert [sample.id for sample in samples[2:4]] == ["000002", "000003"]
    with pytest.raises(IndexError):
        samples[12]


def test_nothing_is_printed(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(scenes)
    assert capsys.readouterr() == ("", "")


def test_ids_need_no_images(folder: Folder) -> None:
    (folder.root / "images/a.png").unlink()
    assert folder.read().ids == ["a"]


# --- crop and resize ---


def test_the_centre_square_is_cut_out_of_image_mask_and_box(folder: Folder) -> None:
    folder.annotations = [annotated(1, (1, 2, 4, 3))]
    expected = torch.from_numpy(rectangle(0, 2, 3, 3, 8, 8)).float()  # x from 1..5 to -1..3
    for prior in ("segment", "box"):
        noun = folder.read(prior=prior)[0].nouns[0]
        assert torch.equal(noun.prior, expected) and torch.equal(noun.mask, expected.bool())
    pixels = np.asarray(folder.image)[:, 2:10]
    assert torch.equal(folder.read()[0].image, torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255)


def test_a_tall_image_is_cropped_at_top_and_bottom(folder: Folder) -> None:
    folder.image.transpose(Image.Transpose.ROTATE_90).save(folder.root / "images/a.png")
    folder.images[0].update(width=HEIGHT, height=WIDTH)
    mask = rectangle(1, 1, 2, 5, HEIGHT, WIDTH)
    folder.annotations = [annotated(1, (1, 1, 2, 5), segmentation=encode(mask))]
    expected = torch.from_numpy(rectangle(1, 0, 2, 4, 8, 8)).float()
    for prior in ("segment", "box"):
        assert torch.equal(folder.read(prior=prior)[0].nouns[0].prior, expected)


def test_smaller_masks_are_area_averages_and_thresholded_at_half(folder: Folder) -> None:
    folder.annotations = [annotated(1, (3, 2, 4, 3))]  # in the square: x 1..5, y 2..5
    noun = folder.read(size=4)[0].nouns[0]
    column, row = torch.tensor([0.5, 1, 0.5, 0]), torch.tensor([0, 1, 0.5, 0])
    expected = row[:, None] * column
    assert torch.equal(noun.prior, expected)
    assert torch.equal(noun.mask, expected >= 0.5) and noun.mask.sum() == 4
    assert torch.equal(folder.read(size=4, prior="box")[0].nouns[0].prior, expected)


def test_boxes_are_resized_as_boxes(folder: Folder) -> None:
    folder.annotations = [annotated(1, (3, 2, 4, 3), bbox=[3.3, 2.1, 4.2, 2.5])]
    noun = folder.read(size=12, prior="box")[0].nouns[0]
    expected = box_mask((1.3 * 1.5, 2.1 * 1.5, 4.2 * 1.5, 2.5 * 1.5), (12, 12))
    torch.testing.assert_close(noun.prior, expected)


def test_images_are_resized_bicubic_with_antialiasing(folder: Folder) -> None:
    sample = folder.read(size=3)[0]
    square = torch.from_numpy(np.asarray(folder.image)[:, 2:10].copy()).permute(2, 0, 1).float() / 255
    expected = torch.nn.functional.interpolate(square[None], (3, 3), mode="bicubic", antialias=True)[0]
    torch.testing.assert_close(sample.image, expected.clamp(0, 1), rtol=0, atol=2 / 255)


def test_objects_outside_the_centre_square_are_no_nouns(folder: Folder) -> None:
    folder.annotations = [annotated(1, (0, 0, 2, 3)), annotated(2, (4, 4, 3, 3), "dog")]
    for prior in ("segment", "box"):
        sample = folder.caption("a cat and a dog").read(prior=prior)[0]
        assert [noun.word for noun in sample.nouns] == ["dog"]


def test_an_object_whose_box_is_outside_the_square_has_no_box_prior(folder: Folder) -> None:
    folder.annotations = [
        annotated(1, (4, 2, 2, 2), bbox=[0, 2, 2, 2]),
        annotated(2, (4, 4, 3, 3), "dog"),
    ]
    folder.caption("a cat and a dog")
    assert [noun.word for noun in folder.read(prior="box")[0].nouns] == ["dog"]
    assert [noun.word for noun in folder.read(prior="segment")[0].nouns] == ["cat", "dog"]


def test_an_exif_rotation_is_applied(folder: Folder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned a quarter to the left
    stored = folder.image.transpose(Image.Transpose.ROTATE_90)
    stored.save(folder.root / "images/a.png", exif=exif)
    plain = np.asarray(folder.image)[:, 2:10].copy()
    assert torch.equal(folder.read()[0].image, torch.from_numpy(plain).permute(2, 0, 1) / 255)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str, folder: Folder) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    folder.images[0]["file_name"] = f"b.{suffix}"
    folder.image.convert(mode).save(folder.root / f"images/b.{suffix}")
    assert folder.read()[0].image.shape == (3, 8, 8)


# --- captions, nouns, instances ---


def test_the_prompt_is_the_first_caption_that_names_an_annotated_category(folder: Folder) -> None:
    folder.caption("a caterpillar", "a dog", " A  Cat\n", "the cat")
    folder.captions.reverse()
    sample = folder.read()[0]
    assert sample.prompt == "A Cat" and sample.nouns[0].word == "Cat" and sample.nouns[0].span == (2, 5)


def test_nouns_stand_in_the_order_of_the_prompt(folder: Folder) -> None:
    folder.annotations = [annotated(1, (3, 2, 4, 3), "cat"), annotated(2, (3, 5, 2, 2), "dog")]
    sample = folder.caption("a dog, a bird and a cat").read()[0]
    assert [(n.word, n.span) for n in sample.nouns] == [("dog", (2, 5)), ("cat", (20, 23))]
    assert torch.equal(sample.nouns[0].prior, torch.from_numpy(rectangle(1, 5, 2, 2, 8, 8)).float())


@pytest.mark.parametrize("longer", ["hot dog", "dog house"])
def test_a_longer_name_hides_the_shorter_one_in_it(longer: str, folder: Folder) -> None:
    folder.annotations = [annotated(1, (3, 2, 4, 3), longer), annotated(2, (3, 5, 2, 2), "dog")]
    assert [n.word for n in folder.caption(f"a {longer}").read()[0].nouns] == [longer]
    folder.annotations = [annotated(2, (3, 5, 2, 2), "dog")]
    refused(folder.read, "no image has a caption")


def planes(folder: Folder) -> list[torch.Tensor]:
    return [noun.prior for noun in folder.read()[0].nouns]


def test_as_many_mentions_as_instances_pair_up_by_annotation_id(folder: Folder) -> None:
    folder.annotations = [annotated(9, (3, 2, 2, 2)), annotated(4, (6, 2, 2, 2))]
    first, second = planes(folder.caption("a cat and a cat"))
    assert torch.equal(first, torch.from_numpy(rectangle(4, 2, 2, 2, 8, 8)).float())
    assert torch.equal(second, torch.from_numpy(rectangle(1, 2, 2, 2, 8, 8)).float())


@pytest.mark.parametrize(("caption", "mentions"), [("a cat", 1), ("a cat, a cat, a cat", 3)])
@pytest.mark.parametrize("prior", ["segment", "box"])
def test_otherwise_every_mention_means_all_instances(caption: str, mentions: int, prior: str, folder: Folder) -> None:
    folder.annotations = [annotated(9, (3, 2, 3, 2)), annotated(4, (5, 3, 3, 2))]
    expected = torch.from_numpy(rectangle(1, 2, 3, 2, 8, 8) | rectangle(3, 3, 3, 2, 8, 8)).float()
    nouns = folder.caption(caption).read(prior=prior)[0].nouns
    assert len(nouns) == mentions
    assert all(torch.equal(noun.prior, expected) for noun in nouns)


def test_adjectives_are_those_of_the_prompt(folder: Folder) -> None:
    red: Json = {"attributes": {"color": "red"}}
    blue: Json = {"attributes": {"color": "blue", "occluded": True}}
    folder.annotations = [annotated(1, (3, 2, 2, 2), **red), annotated(2, (6, 2, 2, 2), **blue)]

    def found(caption: str) -> list[tuple[str, tuple[int, int], int]]:
        sample = folder.caption(caption).read()[0]
        return [(a.word, a.span, a.noun) for a in sample.adjectives]

    assert found("a cat and a Blue cat") == [("Blue", (12, 16), 1)]
    assert found("a blue cat and a red cat") == [("blue", (2, 6), 0), ("red", (17, 20), 1)]
    assert found("a red fluffy cat") == [("red", (2, 5), 0), ("fluffy", (6, 12), 0)]
    assert found("a cat near a red hat") == []


def test_adjectives_choose_among_the_instances(folder: Folder) -> None:
    boxes = {"red": (3, 2, 2, 2), "blue": (6, 2, 2, 2)}
    folder.annotations = [
        annotated(k, box, attributes={"color": color}) for k, (color, box) in enumerate(boxes.items(), start=1)
    ]
    red, blue = (torch.from_numpy(rectangle(x - 2, y, w, h, 8, 8)).float() for x, y, w, h in boxes.values())
    cases = {
        "a blue cat and a red cat": [blue, red],
        "a cat and a red cat": [blue, red],
        "a big blue cat": [blue],
        "a green cat": [red.maximum(blue)],
        "two cats": [red.maximum(blue)],
        "a cat and a cat": [red, blue],
    }
    for caption, expected in cases.items():
        found = planes(folder.caption(caption))
        assert len(found) == len(expected) and all(map(torch.equal, found, expected)), caption


def test_images_without_a_usable_caption_or_annotation_are_left_out(folder: Folder) -> None:
    row = folder.images[0]
    folder.images = [{**row, "id": k, "file_name": f"{k}.png"} for k in (3, 1, 2)]
    folder.annotations.append(annotated(2, (3, 2, 2, 2), image_id=2))
    folder.captions += [{"id": 5, "image_id": 2, "caption": "an animal"}]
    folder.captions += [{"id": 6, "image_id": 3, "caption": "a cat"}]
    assert folder.read().ids == ["1"]


def test_problems_of_annotations_that_no_caption_names_do_not_matter(folder: Folder) -> None:
    folder.annotations.append(annotated(2, (3, 2, 2, 2), "dog", bbox=[0, 0, -1, 0], segmentation=[[1]]))
    assert folder.read().ids == ["a"]


# --- segmentations ---

POLYGON = [[3.0, 2.0, 7.0, 2.0, 7.0, 5.0, 3.0, 5.0], [8.0, 6.0, 9.5, 6.0, 9.0, 7.5]]


@pytest.mark.parametrize(
    "extra",
    [
        {"segmentation": POLYGON},
        {"segmentation": uncompressed(rectangle(2, 1, 3, 4))},
        {"segmentation": uncompressed(rectangle(0, 0, 3, 4))},
        {"segmentation": uncompressed(rectangle(2, 1, 3, 4)), "iscrowd": 1},
        {"segmentation": encode(rectangle(9, 7, 3, 1))},
    ],
)
def test_every_kind_of_segmentation_is_annToMask(extra: Json, folder: Folder) -> None:
    folder.annotations = [annotated(1, (3, 2, 4, 3), **extra)]
    noun = folder.read()[0].nouns[0]
    coco = COCO(str(folder.root / "annotations/instances.json"))
    expected = torch.from_numpy(coco.annToMask(coco.anns[1])[:, 2:10].copy())
    assert expected.any() and torch.equal(noun.prior, expected.float())


def test_compressed_runs_are_read_like_pycocotools_writes_them() -> None:
    rng = np.random.default_rng(0)
    for density in (0.01, 0.5, 0.99):
        for shape in ((7, 5), (64, 48), (300, 300)):
            mask = (rng.random(shape) < density).astype(np.uint8)
            assert run_lengths(encode(mask)["counts"]) == uncompressed(mask)["counts"]


def test_runs_that_break_off_are_refused() -> None:
    counts = encode(rectangle(3, 2, 4, 3))["counts"]
    with pytest.raises(ValueError, match="ends in the middle of a run"):
        run_lengths(counts + "P")  # pycocotools would never return


def test_without_segmentation_the_box_is_prior_and_mask(folder: Folder) -> None:
    folder.annotations = [annotated(1, (3, 2, 4, 3), segmentation=[]), annotated(2, (8, 6, 1, 1))]
    noun = folder.read(prior="box")[0].nouns[0]
    expected = torch.from_numpy(rectangle(1, 2, 4, 3, 8, 8) | rectangle(6, 6, 1, 1, 8, 8))
    assert torch.equal(noun.prior, expected.float()) and torch.equal(noun.mask, expected.bool())


@pytest.mark.parametrize("box", [[-1, 2, 5, 3], [3, -0.5, 5, 9], [8, 5, 5, 4]])
def test_a_box_may_stick_out_by_a_pixel(box: list[float], folder: Folder) -> None:
    folder.annotations = [annotated(1, (3, 2, 4, 3), bbox=box)]
    assert folder.read(prior="box")[0].nouns[0].prior.any()


# --- what bad input says: one line, the file, the problem, the mend ---


def test_missing_folders(tmp_path: Path, folder: Folder) -> None:
    refused(lambda: read(tmp_path / "gone"), f"{tmp_path / 'gone'}: no such folder; give the")
    refused(lambda: folder.read(images="jpgs"), "set/jpgs: no such folder; say in data.images=")


@pytest.mark.parametrize("name", ["instances", "captions"])
def test_missing_json(name: str, folder: Folder) -> None:
    folder.write()
    (folder.root / f"annotations/{name}.json").unlink()
    refused(lambda: read(folder.root), f"{name}.json: no such file; ")


@pytest.mark.parametrize("name", ["instances", "captions", "edits"])
@pytest.mark.parametrize("content", [b"", b'{"images": [', b"\xff\xfe\x00", b"[" * 100_000])
def test_invalid_json(name: str, content: bytes, folder: Folder) -> None:
    folder.write()
    (folder.root / f"annotations/{name}.json").write_bytes(content)
    refused(lambda: read(folder.root), f"{name}.json: not valid JSON (", "); write it again")


@pytest.mark.parametrize("content", [[], {}, 3, {"annotations": {}}, {"images": None}])
def test_json_without_its_tables(content: Any, folder: Folder) -> None:
    for name in ("instances", "captions"):
        folder.write().dump(f"{name}.json", content)
        refused(lambda: read(folder.root), "json: has no list of ", "see the format's description")


@pytest.mark.parametrize(
    ("table", "column"),
    [("images", "file_name"), ("images", "width"), ("annotations", "image_id"), ("captions", "caption")],
)
def test_rows_without_a_column(table: str, column: str, folder: Folder) -> None:
    del getattr(folder, table)[0][column]
    name = "captions.json: entry 1 of annotations" if table == "captions" else f"entry 1 of {table}"
    refused(folder.read, f"{name} has no valid {column!r}; add it")


def test_edits_that_are_no_list_or_of_no_image(folder: Folder) -> None:
    folder.edits = [{"image_id": 7, "kind": "word_swap", "prompt": "a dog"}]
    refused(folder.read, "edits.json: image 7 is not in instances.json; correct its image_id")
    folder.edits = [{"image_id": 1, "kind": "word_swap"}]
    refused(folder.read, "edits.json: entry 0 of edits has no valid 'prompt'; add it")
    folder.edits = {}  # type: ignore[assignment]
    refused(folder.read, "edits.json: has no list of edits")


def test_a_missing_image(folder: Folder) -> None:
    (folder.root / "images/a.png").unlink()
    refused(lambda: folder.read()[0], "images/a.png: no such image; put it there")


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_damaged_image(kind: str, folder: Folder) -> None:
    path = folder.root / f"images/b.{kind}"
    folder.images[0]["file_name"] = path.name
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)).save(path)
    folder.images[0].update(width=120, height=80)
    folder.annotations = [annotated(1, (50, 20, 9, 9), segmentation=encode(rectangle(50, 20, 9, 9, 120, 80)))]
    content = path.read_bytes()
    assert folder.read()[0].nouns  # fine as yet
    mend = "; get it again or remove it from the data set"
    path.write_bytes(content[: len(content) // 2])
    refused(lambda: folder.read()[0], f"images/b.{kind}: cannot be read as an image (", "runcated", mend)
    path.write_bytes(b"<html>not found</html>")
    refused(lambda: folder.read()[0], f"images/b.{kind}: is no image, or of a format", mend)
    path.write_bytes(b"")
    refused(lambda: folder.read()[0], f"images/b.{kind}: the file is empty", mend)


def test_an_image_of_another_size(folder: Folder) -> None:
    folder.image.resize((24, 16)).save(folder.root / "images/a.png")
    refused(lambda: folder.read()[0], "images/a.png: is 24x16 but 12x8 was annotated; use the image")


def test_a_size_that_is_none(folder: Folder) -> None:
    folder.images[0]["width"] = 0
    refused(folder.read, "instances.json: image a.png is 0x8; correct its size")


WHERE = "instances.json: annotation 1 of image a.png: "


@pytest.mark.parametrize("encoder", [encode, uncompressed])
def test_a_segmentation_of_another_size(encoder: Callable[[np.ndarray], Json], folder: Folder) -> None:
    turned = encoder(rectangle(3, 2, 4, 3).T.copy())
    folder.annotations = [annotated(1, (3, 2, 4, 3), segmentation=turned)]
    refused(folder.read, WHERE + "its segmentation has size [12, 8] but the image [8, 12]", "; make")


@pytest.mark.parametrize("extra", [{"segmentation": []}, {"segmentation": None}])
def test_no_segmentation_where_the_prior_needs_it(extra: Json, folder: Folder) -> None:
    folder.annotations = [annotated(1, (3, 2, 4, 3), **extra)]
    refused(folder.read, WHERE + "has no segmentation; use prior=box")


def test_no_box_where_the_prior_needs_it(folder: Folder) -> None:
    del folder.annotations[0]["bbox"]
    refused(lambda: folder.read(prior="box"), WHERE + "has no bbox; use prior=segment")
    assert folder.read()[0].nouns[0].prior.sum() == 12


@pytest.mark.parametrize(
    "segmentation",
    [encode(rectangle(0, 0, 0, 0)), uncompressed(rectangle(0, 0, 0, 0)), [[3, 2, 3, 2, 3, 2]]],
)
def test_an_empty_mask(segmentation: Any, folder: Folder) -> None:
    folder.annotations = [annotated(1, (3, 2, 4, 3), segmentation=segmentation)]
    refused(folder.read, WHERE + "its mask is empty; draw it again or delete")


SIZE = [HEIGHT, WIDTH]
WHOLE = encode(rectangle(3, 2, 4, 3))["counts"]


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": SIZE, "counts": WHOLE[:2]},
        {"size": SIZE, "counts": WHOLE + "0" * 3},
        {"size": SIZE, "counts": "~~~~zzzz"},
        {"size": SIZE, "counts": ""},
        {"size": SIZE, "counts": "P" * 20},
        {"size": SIZE, "counts": "é\x00"},
        {"size": SIZE, "counts": None},
        {"size": SIZE, "counts": [1, 2]},
        {"size": SIZE, "counts": [-1, 97]},
        {"size": SIZE, "counts": ["a", 95]},
        {"size": SIZE},
        [[]],
        [[1, 2]],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [["a", 2, 3, 4, 5, 6]],
        [[float("nan"), 2, 3, 4, 5, 6]],
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        [1, 2, 3, 4, 5, 6],
        "a mask",
        7,
    ],
)
def test_a_malformed_segmentation(segmentation: Any, folder: Folder) -> None:
    folder.annotations = [annotated(1, (3, 2, 4, 3), segmentation=segmentation)]
    refused(folder.read, WHERE + "its segmentation is malformed (", "; mend it or delete the annotation")


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ([3, 2, 0, 3], "has no area"),
        ([3, 2, 4, -3], "has no area"),
        ([3, 2, 4], "is not four numbers"),
        (["3", 2, 4, 3], "is not four numbers"),
        ([float("nan"), 2, 4, 3], "is not four numbers"),
        ([-1.5, 2, 4, 3], "lies outside the image of 12x8"),
        ([3, 2, 4, 7.5], "lies outside the image of 12x8"),
        ([9, 2, 4.5, 3], "lies outside the image of 12x8"),
        ([12.2, 2, 0.5, 3], "lies outside the image of 12x8"),
    ],
)
@pytest.mark.parametrize("prior", ["segment", "box"])
def test_a_bad_box(box: list[Any], problem: str, prior: str, folder: Folder) -> None:
    folder.annotations = [annotated(1, (3, 2, 4, 3), bbox=box)]
    refused(lambda: folder.read(prior=prior), f"{WHERE}its box {box} {problem}; correct its bbox")


def test_an_unknown_category(folder: Folder) -> None:
    folder.annotations[0]["category_id"] = 99
    refused(folder.read, WHERE + "its category_id 99 is not in the file; correct it")


def test_no_usable_image(folder: Folder) -> None:
    refused(folder.caption("a bird").read, "instances.json: no image has a caption that names", "; add")
    folder.caption("a cat").annotations = []
    refused(folder.read, "instances.json: no image has a caption that names")


def test_two_images_of_one_name(folder: Folder) -> None:
    folder.images.append({**folder.images[0], "id": 2, "file_name": "a.jpg"})
    folder.annotations.append(annotated(2, (3, 2, 4, 3), image_id=2))
    folder.captions.append({"id": 2, "image_id": 2, "caption": "a cat"})
    refused(folder.read, "images/a.jpg: has the same name as ", "a.png; rename one of the two")


@pytest.mark.parametrize(
    "option",
    [
        {"prior": "mask"},
        {"size": 0},
        {"fit": "stretch"},
        {"on_error": "ignore"},
        {"caption": "guess"},
        {"batch_size": 0},
        {"num_workers": -1},
        {"num_images": 0},
    ],
)
def test_options_out_of_range(option: Json) -> None:
    key, value = next(iter(option.items()))
    with pytest.raises(InputError, match=rf"^data.{re.escape(key)}={value}: "):
        CocoEditDataModule("set", **option)
