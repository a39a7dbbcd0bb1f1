"""Anyone's own images: what a list of samples may say, and what bad lists are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_utils
from refusals import refused

from locinv_pl.datamodules.entries import EntrySamples, Problems
from locinv_pl.datamodules.folder import FolderDataModule
from locinv_pl.errors import InputError
from locinv_pl.io.frames import Frame
from locinv_pl.priors import box_mask
from locinv_pl.types import EditSample

WIDTH, HEIGHT = 12, 8
# A plain read crops the centre square, x in [2, 10), and keeps its 8x8 pixels.
Json = dict[str, Any]


def rectangle(x: int, y: int, w: int, h: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


CAT, DOG = rectangle(3, 2, 4, 3), rectangle(7, 4, 3, 4)


def centre(mask: np.ndarray) -> torch.Tensor:
    """What the plain crop shows of a mask."""
    return torch.from_numpy(mask[:, 2:10].copy()).float()


def encode(mask: np.ndarray) -> Json:
    return {"size": list(mask.shape), "counts": mask_utils.encode(np.asfortranarray(mask))["counts"].decode()}


def uncompressed(mask: np.ndarray) -> Json:
    pixels, counts, value = mask.flatten(order="F").tolist(), [0], 0
    for pixel in pixels:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


class Mine:
    """A folder with an image and its masks; ``row`` is what its list says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "masks").mkdir(parents=True)
        self.pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(self.pixels).save(root / "pets.png")
        self.mask("cat.png", CAT)
        self.mask("dog.png", DOG)
        labels = Image.fromarray(CAT * 3 + DOG * 7)
        labels.save(root / "masks/labels.png")
        labels.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
        labels.save(root / "masks/palette.png")
        self.row: Json = {"image": "pets.png", "prompt": "a cat", "priors": {"cat": "masks/cat.png"}}

    def mask(self, name: str, mask: np.ndarray, high: int = 255) -> str:
        Image.fromarray(mask * np.uint8(high)).save(self.root / "masks" / name)
        return f"masks/{name}"

    def write(self, *rows: Any, name: str = "samples.yaml") -> None:
        if name.endswith("jsonl"):
            text = "\n".join(json.dumps(row) for row in rows)
        else:
            text = yaml.safe_dump(list(rows), allow_unicode=True, sort_keys=False)
        (self.root / name).write_text(text, encoding="utf-8")

    def samples(self, *rows: Any, side: int = HEIGHT, problems: Problems | None = None, **options: Any) -> EntrySamples:
        self.write(*(rows or [self.row]))
        return FolderDataModule(str(self.root), **options).read(side, problems or Problems("raise"))

    def sample(self, **options: Any) -> EditSample:
        return self.samples(**options)[0]

    def priors(self, prompt: str, priors: Any, **options: Any) -> list[torch.Tensor]:
        self.row |= {"prompt": prompt, "priors": priors}
        return [noun.prior for noun in self.sample(**options).nouns]


@pytest.fixture
def mine(tmp_path: Path) -> Mine:
    return Mine(tmp_path / "mine")


# --- a whole sample ---


def test_the_example_of_the_documentation(mine: Mine) -> None:
    mine.row = {
        "image": "pets.png",
        "prompt": "a red cat, a dog and a bird on a sofa",
        "priors": {
            "cat": "masks/cat.png",
            "dog": [7, 4, 3, 4],
            "bird": {"index": "masks/labels.png", "value": 7},
            "sofa": encode(DOG),
        },
        "edits": [
            "a red tiger, a dog and a bird on a sofa",
            {"prompt": "a black cat, a dog and a bird on a sofa", "kind": "attribute"},
        ],
    }
    sample = mine.sample()
    assert sample.id == "pets" and sample.prompt == mine.row["prompt"] and sample.region is None
    assert [(n.word, sample.prompt[slice(*n.span)]) for n in sample.nouns] == [
        (word, word) for word in ("cat", "dog", "bird", "sofa")
    ]
    for noun, mask in zip(sample.nouns, (CAT, DOG, DOG, DOG), strict=True):
        assert torch.equal(noun.prior, centre(mask)) and torch.equal(noun.mask, centre(mask).bool())
    assert [(a.word, a.span, a.noun) for a in sample.adjectives] == [("red", (2, 5), 0)]
    assert [(edit.prompt, edit.kind, edit.blend) for edit in sample.edits] == [
        ("a red tiger, a dog and a bird on a sofa", "edit", None),
        ("a black cat, a dog and a bird on a sofa", "attribute", None),
    ]
    assert torch.equal(sample.image, torch.from_numpy(mine.pixels[:, 2:10].copy()).permute(2, 0, 1) / 255)


def test_yaml_and_jsonl_say_the_same(mine: Mine) -> None:
    mine.row |= {"prompt": "a café's cat — «chat»\u2028\x85", "priors": {"cat": encode(CAT)}}
    (mine.root / "b.png").write_bytes((mine.root / "pets.png").read_bytes())
    rows = [mine.row, {**mine.row, "id": "second"}, {**mine.row, "image": "b.png", "prompt": "the cat"}]
    for name in ("samples.jsonl", "samples.yaml", "samples.yml"):
        mine.write(*rows, name=name)
        samples = FolderDataModule(str(mine.root), samples=name).read(8, Problems("raise"))
        assert samples.ids == ["pets", "second", "b"]
        assert [s.prompt for s in samples] == ["a café's cat — «chat»"] * 2 + ["the cat"]
        assert all(torch.equal(s.nouns[0].prior, centre(CAT)) for s in samples)


def test_jsonl_as_others_write_it(mine: Mine) -> None:
    line = json.dumps({**mine.row, "prompt": "a cat\u2028\u0085 here"}, ensure_ascii=False)
    (mine.root / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n  \n")
    (sample,) = FolderDataModule(str(mine.root)).read(8, Problems("raise"))
    assert sample.prompt == "a cat here"


def test_a_folded_prompt_is_one_line(mine: Mine) -> None:
    prompt = "prompt: >\n    a cat\n    on   grass\n\n"
    text = f"- image: pets.png\n  {prompt}  priors: {{cat: masks/cat.png}}\n  edits:\n  - |\n    a dog\n"
    (mine.root / "samples.yaml").write_text(text)
    (sample,) = FolderDataModule(str(mine.root)).read(8, Problems("raise"))
    assert sample.prompt == "a cat on grass" and sample.nouns[0].span == (2, 5)
    assert [edit.prompt for edit in sample.edits] == ["a dog"]


# --- priors ---


@pytest.mark.parametrize("mode", ["1", "L", "P", "I", "I;16"])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_mask_is_what_is_not_zero(mode: str, kind: str, mine: Mine) -> None:
    if mode == "I;16":
        image = Image.fromarray(CAT.astype(np.uint16) * 40_000)
    elif mode == "P":
        image = Image.fromarray(CAT)
        image.putpalette([0, 0, 0, 255, 255, 255])
    else:
        image = Image.fromarray(CAT * np.uint8(255)).convert(mode)
    if (mode, kind) == ("I", "png"):
        return
    image.save(mine.root / f"masks/m.{kind}")
    assert torch.equal(mine.priors("a cat", {"cat": f"masks/m.{kind}"})[0], centre(CAT))


@pytest.mark.parametrize("high", [1, 2, 128, 255])
def test_any_value_of_a_mask_counts_the_same(high: int, mine: Mine) -> None:
    assert torch.equal(mine.priors("a cat", {"cat": mine.mask("m.png", CAT, high)})[0], centre(CAT))


@pytest.mark.parametrize("index", ["masks/labels.png", "masks/palette.png"])
def test_an_index_image_holds_many_masks(index: str, mine: Mine) -> None:
    with Image.open(mine.root / index) as file:
        assert file.mode == {"masks/labels.png": "L", "masks/palette.png": "P"}[index]
    given = {"cat": {"index": index, "value": 3}, "dog": {"index": index, "value": 7}}
    for priors in (given, {"cat": 3, "dog": 7}):
        mine.row["index"] = index
        cat, dog = mine.priors("a cat and a dog", priors)
        assert torch.equal(cat, centre(CAT)) and torch.equal(dog, centre(DOG))
    mine.row["index"] = "masks/gone.png"
    assert torch.equal(mine.priors("a cat", {"cat": {"index": index, "value": 3}})[0], centre(CAT))
    mine.row["index"] = index
    assert torch.equal(mine.priors("a cat", {"cat": {"value": 3}})[0], centre(CAT))
    assert torch.equal(mine.priors("a cat", {"cat": 0})[0], centre(1 - np.maximum(CAT, DOG)))


def test_sixteen_bits_of_an_index(mine: Mine) -> None:
    Image.fromarray(CAT.astype(np.uint16) * 1234).save(mine.root / "masks/m.png")
    assert torch.equal(mine.priors("a cat", {"cat": {"index": "masks/m.png", "value": 1234}})[0], centre(CAT))


@pytest.mark.parametrize("encoder", [encode, uncompressed])
def test_run_lengths_of_coco(encoder: Callable[[np.ndarray], Json], mine: Mine) -> None:
    for name in ("samples.yaml", "samples.jsonl"):
        mine.write({**mine.row, "priors": {"cat": encoder(CAT)}}, name=name)
        (sample,) = FolderDataModule(str(mine.root), samples=name).read(8, Problems("raise"))
        assert torch.equal(sample.nouns[0].prior, centre(CAT))


@pytest.mark.parametrize("prior", ["segment", "box"])
def test_boxes_hold_shares_of_pixels(prior: str, mine: Mine) -> None:
    (found,) = mine.priors("a cat", {"cat": [3.25, 2, 4.5, 3.75]}, prior=prior)
    torch.testing.assert_close(found, box_mask((1.25, 2, 4.5, 3.75), (8, 8)))


def test_a_prior_for_each_time_that_the_noun_stands_there(mine: Mine) -> None:
    for priors in (["masks/cat.png", "masks/dog.png"], [[3, 2, 4, 3], [7, 4, 3, 4]], [encode(CAT), [7, 4, 3, 4]]):
        first, second = mine.priors("a cat and a Cat", {"cat": priors})
        assert torch.equal(first, centre(CAT)) and torch.equal(second, centre(DOG))
    mine.row["index"] = "masks/labels.png"
    first, second = mine.priors("a cat and a Cat", {"cat": [7, 3]})
    assert torch.equal(first, centre(DOG)) and torch.equal(second, centre(CAT))


def test_one_prior_for_all_times(mine: Mine) -> None:
    for prior in ("masks/cat.png", [3, 2, 4, 3], ["masks/cat.png"] * 3):
        assert all(torch.equal(found, centre(CAT)) for found in mine.priors("a cat, a cat, a cat", {"cat": prior}))
    assert len(mine.sample().nouns) == 3


@pytest.mark.parametrize("prior", ["segment", "box"])
def test_many_priors_for_one_time_are_their_union(prior: str, mine: Mine) -> None:
    expected = centre(np.maximum(CAT, DOG))
    for priors in (["masks/cat.png", "masks/dog.png"], [[3, 2, 4, 3], encode(DOG)]):
        assert torch.equal(mine.priors("some cats", {"cats": priors}, prior=prior)[0], expected)
    mine.row["index"] = "masks/labels.png"
    assert torch.equal(mine.priors("some cats", {"cats": [3, 7]}, prior=prior)[0], expected)


def test_prior_box_is_the_box_of_the_mask(mine: Mine) -> None:
    corner = CAT.copy()
    corner[3:, 4:] = 0
    mine.mask("corner.png", corner)
    mine.mask("labels.png", corner * np.uint8(5), 1)
    for prior in ("masks/corner.png", encode(corner), {"index": "masks/labels.png", "value": 5}):
        mine.row["priors"] = {"cat": prior}
        box, mask = mine.sample(prior="box").nouns[0], mine.sample().nouns[0]
        assert torch.equal(box.prior, centre(CAT)) and torch.equal(box.mask, centre(corner).bool())
        assert torch.equal(mask.prior, centre(corner)) and torch.equal(mask.mask, box.mask)


def test_a_prior_may_hold_all_of_the_image(mine: Mine) -> None:
    mine.mask("all.png", rectangle(0, 0, WIDTH, HEIGHT))
    for prior in ("masks/all.png", [0, 0, WIDTH, HEIGHT], encode(rectangle(0, 0, WIDTH, HEIGHT))):
        assert (mine.priors("a cat", {"cat": prior})[0] == 1).all()


def test_nouns_are_words_of_the_prompt_in_its_order(mine: Mine) -> None:
    mine.row |= {"prompt": "The DOG chases a catfish and a wine glass", "priors": {}}
    mine.row["priors"] = {noun: [3, 2, 4, 3] for noun in ("wine glass", "catfish", "dog")}
    assert [noun.word for noun in mine.sample().nouns] == ["DOG", "catfish", "wine glass"]


def test_a_longer_noun_hides_the_shorter_one_in_it(mine: Mine) -> None:
    mine.row |= {"prompt": "a hot dog and a dog", "priors": {"dog": "masks/dog.png", "hot dog": "masks/cat.png"}}
    sample = mine.sample()
    assert [(noun.word, noun.span) for noun in sample.nouns] == [("hot dog", (2, 9)), ("dog", (16, 19))]
    assert torch.equal(sample.nouns[1].prior, centre(DOG))
    mine.row["prompt"] = "a hot dog"
    refused(mine.samples, "image pets: 'dog' stands in the prompt only within another of its nouns; leave it out")
    mine.row["priors"] = {"dog": "masks/dog.png", "Dog": "masks/cat.png"}
    refused(mine.samples, "image pets: 'Dog' stands in the prompt only within another of its nouns")


def test_no_priors_at_all(mine: Mine) -> None:
    mine.row["priors"] = {}
    sample = mine.sample()
    assert sample.nouns == () == sample.adjectives and sample.masks.shape == (0, 8, 8)


# --- adjectives, edits, region, ids ---


def words(sample: EditSample) -> list[tuple[str, str, tuple[int, int]]]:
    return [(a.word, sample.nouns[a.noun].word, a.span) for a in sample.adjectives]


def test_adjectives_are_found_in_the_prompt(mine: Mine) -> None:
    mine.row |= {"prompt": "a black dog, a small red cat and a blue sofa"}
    mine.row["priors"] = {"cat": "masks/cat.png", "dog": "masks/dog.png"}
    assert words(mine.sample()) == [("black", "dog", (2, 7)), ("small", "cat", (15, 20)), ("red", "cat", (21, 24))]


def test_adjectives_that_are_given_are_those(mine: Mine) -> None:
    mine.row |= {"prompt": "a black dog, a small red cat", "priors": {"cat": "masks/cat.png", "dog": [7, 4, 3, 4]}}
    assert words(mine.samples({**mine.row, "adjectives": []})[0]) == []
    given = [["Small", "cat"], ["black", "dog"], ["red", "dog"]]
    assert words(mine.samples({**mine.row, "adjectives": given})[0]) == [
        ("black", "dog", (2, 7)),
        ("red", "dog", (21, 24)),
        ("small", "cat", (15, 20)),
    ]


def test_of_two_places_an_adjective_describes_the_nearest(mine: Mine) -> None:
    mine.row |= {"prompt": "a cat, a red cat and a cat", "adjectives": [["red", "cat"]]}
    assert [(a.word, a.noun) for a in mine.sample().adjectives] == [("red", 1)]


def test_a_part_of_the_noun_is_none_of_its_adjectives(mine: Mine) -> None:
    mine.row |= {"prompt": "a big red cat", "priors": {"red cat": "masks/cat.png"}}
    assert words(mine.sample()) == [("big", "red cat", (2, 5))]
    mine.row["adjectives"] = [["red", "cat"]]
    assert words(mine.sample()) == []


def test_edits_are_optional_and_may_be_one(mine: Mine) -> None:
    assert mine.sample().edits == ()
    for edits in ("a dog", ["a dog"], {"prompt": "a dog"}, [{"prompt": " a\n dog ", "kind": "edit"}]):
        (edit,) = mine.samples({**mine.row, "edits": edits})[0].edits
        assert (edit.prompt, edit.kind) == ("a dog", "edit")
    assert mine.samples({**mine.row, "edits": None})[0].edits == ()


def test_a_region_is_a_prior_too(mine: Mine) -> None:
    mine.row["index"] = "masks/labels.png"
    for region in ("masks/dog.png", [7, 4, 3, 4], 7, encode(DOG), {"index": "masks/palette.png", "value": 7}):
        found = mine.samples({**mine.row, "region": region})[0].region
        assert found is not None and found.dtype == torch.bool and torch.equal(found, centre(DOG).bool())
    found = mine.samples({**mine.row, "region": [3.6, 2.4, 1, 1]})[0].region
    assert found is not None and found.nonzero().tolist() == [[2, 2]], "of what is smaller, the pixel most covered"
    assert mine.samples({**mine.row, "region": None})[0].region is None


def test_ids_are_file_names_or_given(mine: Mine) -> None:
    (mine.root / "sub/deep").mkdir(parents=True)
    for name in ("sub/deep/a b.png", "sub/x.y.PNG"):
        Image.fromarray(mine.pixels).save(mine.root / name)
    rows = [{**mine.row, "image": image} for image in ("pets.png", "sub/deep/a b.png", "sub/x.y.PNG")]
    rows += [{**mine.row, "id": id} for id in (7, "seven", "sub/pets")]
    assert mine.samples(*rows).ids == ["pets", "a b", "x.y", "7", "seven", "sub/pets"]
    assert mine.samples({**mine.row, "id": None}, {**mine.row, "id": "", "image": "sub/x.y.PNG"}).ids == ["pets", "x.y"]


def test_num_images_takes_the_first(mine: Mine) -> None:
    rows = [{**mine.row, "id": n} for n in range(4)]
    assert mine.samples(*rows, num_images=2).ids == ["0", "1"]
    assert mine.samples(*rows, num_images=9).ids == ["0", "1", "2", "3"]
    for number in (0, -1):
        refused(partial(mine.samples, *rows, num_images=number), f"data.num_images={number}: must be 1")


def test_images_are_opened_only_when_asked_for(mine: Mine) -> None:
    samples = mine.samples(mine.row, {**mine.row, "id": "other"})
    (mine.root / "pets.png").unlink()
    assert samples.ids == ["pets", "other"] and samples.frame(1).size == (8, 8)
    refused(lambda: samples[0], "pets.png: no such image; put it there")


def test_a_turned_image_has_upright_masks(mine: Mine) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(mine.pixels).transpose(Image.Transpose.ROTATE_90).save(mine.root / "pets.jpg", exif=exif)
    mine.row["image"] = "pets.jpg"
    assert torch.equal(mine.sample().nouns[0].prior, centre(CAT))


# --- fit ---


@pytest.mark.parametrize("fit", ["pad", "native"])
@pytest.mark.parametrize("prior", ["segment", "box"])
def test_other_fits_frame_image_mask_and_region_alike(fit: Any, prior: str, mine: Mine) -> None:
    mine.row |= {"region": "masks/cat.png", "priors": {"cat": "masks/cat.png", "dog": [7, 4, 3, 4]}}
    mine.row["prompt"] = "a cat and a dog"
    sample = mine.sample(side=64, fit=fit, prior=prior)
    frame = Frame.fitting(WIDTH, HEIGHT, 64, fit)
    size = {"pad": (64, 64), "native": (64, 128)}[fit]
    assert sample.image.shape == (3, *size) and sample.image.shape[1:] == sample.nouns[0].prior.shape
    masks = [frame.plane(torch.from_numpy(mask)) for mask in (CAT, DOG)]
    for noun, expected in zip(sample.nouns, masks, strict=True):
        torch.testing.assert_close(noun.prior, expected, rtol=0, atol=1e-6)
    assert sample.region is not None and torch.equal(sample.region, masks[0] >= 0.5)
    if fit == "pad":
        assert (sample.image[:, :8] == 0).all() and masks[0].sum() == pytest.approx(12 * (64 / 12) ** 2, rel=1e-5)


def test_a_noun_that_the_crop_cuts_off_is_told(mine: Mine) -> None:
    mine.row["priors"] = {"cat": [0, 0, 2, 8]}
    samples = mine.samples()
    problem = "pets.png: the part of the image that is shown has nothing of noun 'cat'; use data.fit=pad or native"
    for kind in ("segment", "box"):
        refused(partial(mine.sample, prior=kind), problem)
    assert samples.ids == ["pets"]
    for fit in ("pad", "native"):
        assert mine.samples(fit=fit, side=64)[0].nouns[0].prior.sum() > 0


# --- the list ---


def test_no_folder_no_list_several_lists(mine: Mine) -> None:
    def read(root: Path, **options: Any) -> EntrySamples:
        return FolderDataModule(str(root), **options).read(8, Problems("raise"))

    gone = mine.root / "gone"
    refused(lambda: read(gone), f"{gone}: no such folder; give the folder of your images in data.root=")
    refused(lambda: read(mine.root / "pets.png"), "pets.png: no such folder")
    refused(lambda: read(mine.root), f"{mine.root}: has no list of images; write samples.yaml")
    refused(lambda: read(mine.root, samples="a.yaml"), "mine/a.yaml: no such file; name the list of your images")
    refused(lambda: read(mine.root, samples="masks"), "mine/masks: cannot be read (Is a directory)")
    mine.write(mine.row, name="b.jsonl")
    assert read(mine.root).ids == ["pets"]
    mine.write(mine.row, name="a.YML")
    refused(lambda: read(mine.root), "mine: has several lists of images (a.YML, b.jsonl); name one in data.samples=")
    assert read(mine.root, samples="b.jsonl").ids == ["pets"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.yaml", b"- image: [", "a.yaml: not valid YAML ("),
        ("a.yaml", b"- image: a\n\tprompt: b", "a.yaml: not valid YAML ("),
        ("a.yaml", b"\xff\xfe\x00", "a.yaml: not valid YAML ("),
        ("a.yaml", b"- \x00", "a.yaml: not valid YAML ("),
        ("a.yaml", b"- !!python/object:os.system {}", "a.yaml: not valid YAML ("),
        ("a.yaml", b"- !!int ''", "a.yaml: not valid YAML ("),
        ("a.yaml", b"- !!timestamp x", "a.yaml: not valid YAML ("),
        ("a.yaml", b"- !!bool maybe", "a.yaml: not valid YAML ("),
        ("a.yaml", b"- 2020-99-99", "a.yaml: not valid YAML ("),
        ("a.yaml", b"- {[a, b]: c, {a: b}: d}", "a.yaml: not valid YAML ("),
        ("a.yaml", b"[" * 2000, "a.yaml: not valid YAML ("),
        ("a.yaml", b"", "a.yaml: is no list of images; begin every image with '- image:'"),
        ("a.yaml", b"image: pets.png", "a.yaml: is no list of images"),
        ("a.yaml", b"pets.png", "a.yaml: is no list of images"),
        ("a.yaml", b"[]", "a.yaml: names no image; add some"),
        ("a.jsonl", b"", "a.jsonl: names no image; add some"),
        ("a.jsonl", b'{"image": "pets.png"}\n\n{"image": ', "a.jsonl: not valid JSONL (line 3: "),
        ("a.jsonl", b'{"image": "pets.png"} {}', "a.jsonl: not valid JSONL (line 1: "),
        ("a.jsonl", b"[" * 100_000, "a.jsonl: not valid JSONL ("),
        ("a.jsonl", b"\xff", "a.jsonl: not valid JSONL ("),
    ],
)
def test_a_malformed_list(name: str, content: bytes, problem: str, mine: Mine) -> None:
    (mine.root / name).write_bytes(content)
    for on_error in ("raise", "skip"):
        refused(partial(FolderDataModule(str(mine.root)).read, 8, Problems(on_error)), problem)  # type: ignore[arg-type]


def test_a_list_that_refers_to_itself(mine: Mine) -> None:
    text = "- &a\n  image: pets.png\n  prompt: a cat\n  priors: &b\n    cat: {}\n"
    for cycle in ("*b", "[*b, *a]", "{size: [8, 12], counts: *b}", "{size: *b, counts: *a}"):
        (mine.root / "samples.yaml").write_text(text.format(cycle))
        refused(lambda: FolderDataModule(str(mine.root)).read(8, Problems()), "yaml: not valid YAML (its aliases (*)")


# --- images of the list, each with one mistake ---

BAD: list[tuple[Any, str]] = [
    ("pets.png", "image 1: has no image; write image: FILE"),
    (None, "image 1: has no image"),
    ([], "image 1: has no image"),
    ({}, "image 1: has no image"),
    ({"image": None}, "image 1: has no image"),
    ({"image": ["pets.png"]}, "has no image"),
    ({"image": 7, "id": "x"}, "image x: has no image"),
    ({"id": ["a"]}, "image ['a']: its id is no text; write id: TEXT"),
    ({"id": 1.5}, "image 1.5: its id is no text"),
    ({"promt": "a cat"}, "image pets: unknown key 'promt'; use id, image, prompt, priors, index, adjectives, edits"),
    ({1: 2}, "image pets: unknown key 1; use id"),
    ({"prompt": None}, "image pets: has no prompt; write prompt: TEXT"),
    ({"prompt": " \n"}, "image pets: has no prompt"),
    ({"prompt": ["a cat"]}, "image pets: has no prompt"),
    ({"priors": None}, "image pets: has no priors; write priors: with one for every noun, or {} for none"),
    ({"priors": ["masks/cat.png"]}, "image pets: has no priors"),
    ({"priors": {3: "masks/cat.png"}}, "image pets: has no priors"),
    ({"priors": {"bird": "masks/cat.png"}}, "image pets: word 'bird' is not in the prompt 'a cat'; name a word"),
    ({"priors": {"": "masks/cat.png"}}, "image pets: word '' is not in the prompt"),
    ({"priors": {"cats": "masks/cat.png"}}, "image pets: word 'cats' is not in the prompt"),
    ({"priors": {"cat": "masks/gone.png"}}, "image pets, cat: {root}/masks/gone.png: no such mask; put it there"),
    ({"priors": {"cat": "masks"}}, "image pets, cat: {root}/masks: no such mask"),
    ({"priors": {"cat": "n" * 300}}, "no such mask"),
    ({"priors": {"cat": "a\0b"}}, "no such mask"),
    ({"priors": {"cat": {"index": "gone.png", "value": 3}}}, "pets, cat: {root}/gone.png: no such mask"),
    ({"index": "gone.png", "priors": {"cat": 3}}, "image pets, cat: {root}/gone.png: no such mask"),
    ({"priors": {"cat": 3}}, "image pets, cat: 3 is no prior; give a mask's file, a box [x, y, width, height]"),
    ({"index": "masks/labels.png", "priors": {"cat": True}}, "image pets, cat: True is no prior; "),
    ({"index": "masks/labels.png", "priors": {"cat": 3.0}}, "image pets, cat: 3.0 is no prior; "),
    ({"index": 4, "priors": {"cat": 3}}, "image pets, cat: 3 is no prior; "),
    ({"priors": {"cat": None}}, "image pets, cat: None is no prior; "),
    ({"priors": {"cat": {}}}, "image pets, cat: {} is no prior; "),
    ({"priors": {"cat": {"value": 3}}}, "image pets, cat: {'value': 3} is no prior; "),
    ({"priors": {"cat": {"index": "masks/labels.png"}}}, "is no prior; give"),
    ({"priors": {"cat": {"mask": "masks/cat.png"}}}, "image pets, cat: {'mask': 'masks/cat.png'} is no prior; "),
    ({"priors": {"cat": []}}, "image pets, cat: stands 1 times in the prompt and has 0 priors; give one"),
    ({"prompt": "cat cat", "priors": {"cat": [[3, 2, 4, 3]] * 3}}, "cat: stands 2 times in the prompt and has 3 "),
    ({"prompt": "cat cat", "priors": {"cat": [[3, 2, 4, 3]]}}, "cat: stands 2 times in the prompt and has 1 priors"),
    ({"priors": {"cat": [3, 2, 4]}}, "image pets, cat: 3 is no prior; "),
    ({"priors": {"cat": [[3, 2, 4]]}}, "image pets, cat: its box [3, 2, 4] is not four numbers; correct"),
    ({"priors": {"cat": [3, 2, 4, float("nan")]}}, "image pets, cat: its box [3, 2, 4, nan] is not four numbers"),
    ({"priors": {"cat": [3, 2, 0, 3]}}, "image pets, cat: its box [3, 2, 0, 3] has no area; correct"),
    ({"priors": {"cat": [3, 2, 40, 3]}}, "cat: its box [3, 2, 40, 3] lies outside the image of 12x8; correct"),
    ({"priors": {"cat": [-5, 2, 4, 3]}}, "cat: its box [-5, 2, 4, 3] lies outside the image of 12x8; correct"),
    ({"priors": {"cat": encode(CAT.T.copy())}}, "cat: its segmentation has size [12, 8] but the image [8, 12]"),
    ({"priors": {"cat": uncompressed(CAT.T.copy())}}, "cat: its segmentation has size [12, 8] but the image"),
    ({"priors": {"cat": encode(CAT * 0)}}, "image pets, cat: its mask is empty; draw it again"),
    ({"priors": {"cat": {"counts": "0"}}}, "image pets, cat: its segmentation has size None"),
    ({"priors": {"cat": {"size": [8, 12], "counts": "zz"}}}, "cat: its segmentation is malformed ("),
    ({"priors": {"cat": {"size": [8, 12], "counts": [1]}}}, "cat: its segmentation is malformed ("),
    ({"priors": {"cat": {"size": [8, 12], "counts": bytes([80, 16])}}}, "cat: its segmentation is malformed ("),
    ({"adjectives": "red"}, "image pets: 'red' is no pair of words; write adjectives: [[red, cat]]"),
    ({"adjectives": ["red", "cat"]}, "image pets: 'red' is no pair of words"),
    ({"adjectives": [["red", 3]]}, "image pets: ['red', 3] is no pair of words"),
    ({"adjectives": [["red", "cat"]]}, "image pets: word 'red' is not in the prompt 'a cat'"),
    ({"adjectives": [["a", "dog"]]}, "image pets: word 'dog' is not in the prompt 'a cat'"),
    ({"adjectives": {"red": "cat"}}, "image pets: {'red': 'cat'} is no pair of words"),
    ({"edits": [None]}, "image pets: None is no edit; write a prompt, or {prompt: …, kind: …}"),
    ({"edits": [["a dog"]]}, "image pets: ['a dog'] is no edit"),
    ({"edits": 3}, "image pets: 3 is no edit"),
    ({"edits": [" "]}, "image pets: ' ' is no edit"),
    ({"edits": [{"kind": "attribute"}]}, "image pets: {'kind': 'attribute'} is no edit"),
    ({"edits": [{"prompt": "a dog", "kind": 3}]}, "is no edit"),
    ({"edits": [{"prompt": "a dog", "typ": "x"}]}, "is no edit"),
    ({"edits": [{"prompt": 3}]}, "image pets: {'prompt': 3} is no edit"),
    ({"region": "masks/gone.png"}, "image pets, region: {root}/masks/gone.png: no such mask"),
    ({"region": [1, 2, 3]}, "image pets, region: its box [1, 2, 3] is not four numbers"),
    ({"region": False}, "image pets, region: False is no prior"),
]


@pytest.mark.parametrize(("bad", "problem"), BAD)
def test_every_mistake_is_one_clear_line(bad: Any, problem: str, mine: Mine) -> None:
    row = {**mine.row, **bad} if isinstance(bad, dict) and bad else bad
    expected = problem.replace("{root}", str(mine.root))
    refused(lambda: mine.samples(row), f"{mine.root / 'samples.yaml'}: ", expected)
    good = [{**mine.row, "id": "good"}, {**mine.row, "id": "better"}]
    problems = Problems("skip")
    samples = mine.samples(good[0], row, good[1], problems=problems)
    assert samples.ids == ["good", "better"] == [sample.id for sample in samples]
    (found,) = problems.found
    assert problems.num_images == 3
    assert "\n" not in found.problem and f": image {found.id}" in found.problem


def broken(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


HEADERS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.unlink(), "pets.png: no such image; put it there"),
    (lambda path: path.write_bytes(b""), "pets.png: the file is empty; get it again"),
    (lambda path: path.write_text("<html>"), "pets.png: is no image, or of a format"),
    (lambda path: path.write_bytes(path.read_bytes()[:20]), "pets.png: "),
]
BODIES: list[tuple[Callable[[Path], object], str]] = [
    (broken, "pets.png: cannot be read as an image ("),
    (lambda path: Image.new("RGB", (9, 9)).save(path), "pets.png: is 9x9 but 12x8 was annotated; use the image"),
]
MASKS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: Image.new("L", (8, 12), 1).save(path), "cat.png: the mask is 8x12 but its image 12x8; make both"),
    (lambda path: Image.new("RGB", (12, 8), "red").save(path), "cat.png: the mask is in colour, not one channel; "),
    (lambda path: Image.new("RGBA", (12, 8), "red").save(path), "cat.png: the mask is in colour, not one channel"),
    (lambda path: Image.new("L", (12, 8)).save(path), "cat.png: the mask is empty; draw it again"),
    (lambda path: path.write_bytes(b""), "cat.png: the mask cannot be read (UnidentifiedImageError); write it again"),
    (lambda path: path.write_text("<html>"), "cat.png: the mask cannot be read ("),
    (lambda path: path.write_bytes(path.read_bytes()[:60]), "cat.png: the mask cannot be read ("),
    (lambda path: path.unlink(), "cat.png: no such mask; put it there or correct its name"),
]


@pytest.mark.parametrize(("spoil", "problem"), HEADERS)
def test_an_image_without_a_header_is_told_at_once(spoil: Callable[[Path], object], problem: str, mine: Mine) -> None:
    (mine.root / "good.png").write_bytes((mine.root / "pets.png").read_bytes())
    spoil(mine.root / "pets.png")
    refused(mine.samples, problem)
    problems = Problems("skip")
    assert mine.samples(mine.row, {**mine.row, "image": "good.png"}, problems=problems).ids == ["good"]
    assert [found.id for found in problems.found] == ["pets"] and problem in problems.found[0].problem


@pytest.mark.parametrize(("spoil", "problem"), BODIES)
def test_other_damage_is_told_when_the_image_is_opened(
    spoil: Callable[[Path], object], problem: str, mine: Mine
) -> None:
    samples = mine.samples()
    spoil(mine.root / "pets.png")
    refused(lambda: samples[0], problem)


@pytest.mark.parametrize("prior", ["segment", "box"])
@pytest.mark.parametrize(("spoil", "problem"), MASKS)
def test_a_bad_mask_is_told_when_the_image_is_opened(
    spoil: Callable[[Path], object], problem: str, prior: str, mine: Mine
) -> None:
    noun, region = mine.samples(prior=prior), mine.samples({**mine.row, "priors": {}, "region": "masks/cat.png"})
    spoil(mine.root / "masks/cat.png")
    refused(lambda: noun[0], problem)
    refused(lambda: region[0], problem)


def test_a_value_that_the_index_image_lacks(mine: Mine) -> None:
    mine.row |= {"index": "masks/labels.png"}
    for value in (5, 256, -1, 10**30):
        samples = mine.samples({**mine.row, "priors": {"cat": value}})
        refused(partial(samples.__getitem__, 0), f"labels.png: the mask has no pixel of value {value}; draw it again")


def test_two_images_of_one_id(mine: Mine) -> None:
    (mine.root / "sub").mkdir()
    (mine.root / "sub/pets.jpg").write_bytes((mine.root / "pets.png").read_bytes())
    other = {**mine.row, "image": "sub/pets.jpg"}
    problem = f"{mine.root}/samples.yaml: two images have the id 'pets'; give one another id"
    refused(lambda: mine.samples(mine.row, other), problem)
    problems = Problems("skip")
    assert len(mine.samples(mine.row, other, problems=problems)) == 1
    assert [found.problem for found in problems.found] == [problem]
    assert mine.samples(mine.row, {**other, "id": "other"}).ids == ["pets", "other"]
    refused(lambda: mine.samples({**mine.row, "id": 5}, {**mine.row, "id": "5"}), "two images have the id '5'")


def test_names_with_line_breaks_stay_in_one_line(mine: Mine) -> None:
    for row in ({"id": "a\nb", "prompt": ""}, {"image": "a\nb.png"}, {"priors": {"cat": "a\nb"}}, {"x\ny": 1}):
        refused(partial(mine.samples, {**mine.row, **row}), "samples.yaml: image")


def test_without_a_list_all_images_are_taken(mine: Mine) -> None:
    Image.fromarray(mine.pixels).save(mine.root / "a.JPG")
    (mine.root / "notes.txt").write_text("no image")
    data = FolderDataModule(str(mine.root), caption="blip", prior="grounded_sam")
    assert data.read(8, Problems("raise")).ids == ["a", "pets"]
    Image.fromarray(mine.pixels).save(mine.root / "pets.webp")
    refused(lambda: data.read(8, Problems("raise")), f"{mine.root}: two images have the id 'pets'; give one another")
    alone: list[Json] = [{"caption": "blip"}, {"prior": "grounded_sam"}]
    for options in alone:
        data = FolderDataModule(str(mine.root), **options)
        refused(partial(data.read, 8, Problems("raise")), f"{mine.root}: has no list of images; write")


def test_what_models_find_may_be_missing_from_the_list(mine: Mine) -> None:
    samples = mine.samples({"image": "pets.png"}, caption="blip", prior="grounded_sam")
    entry = samples.entries[0]
    assert (entry.prompt, entry.mentions) == ("", ())
    entry = mine.samples({"image": "pets.png", "prompt": " \n"}, caption="blip", prior="grounded_sam").entries[0]
    assert entry.prompt == ""
    entry = mine.samples({"image": "pets.png", "prompt": "a cat"}, prior="grounded_sam").entries[0]
    assert (entry.prompt, entry.mentions) == ("a cat", ())
    refused(lambda: mine.samples({"image": "pets.png", "prompt": 3}, caption="blip"), "image pets: has no prompt")
    refused(lambda: mine.samples({"image": "pets.png", "priors": {"cat": [1, 2, 3, 4]}}, caption="blip"), "word 'cat'")


# --- anything at all ---

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-9, 300),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(
        ["cat", "masks/cat.png", "masks/labels.png", "masks", "pets.png", "a cat", [3, 2, 4, 3], CAT.shape]
    ),
).map(lambda leaf: list(leaf) if isinstance(leaf, tuple) else leaf)
keys = st.sampled_from(["index", "value", "size", "counts", "cat", "prompt", "kind", "", "a\nb"])
anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=3))
fields: dict[str, st.SearchStrategy[Any]] = {
    "image": st.one_of(st.just("pets.png"), anything),
    "prompt": st.one_of(st.sampled_from(["a cat", "a cat and a red cat"]), anything),
    "priors": st.one_of(st.dictionaries(st.sampled_from(["cat", "red cat", "a"]), anything, max_size=3), anything),
}
optional = {key: anything for key in ("id", "index", "adjectives", "edits", "region")}
rows = st.one_of(
    st.fixed_dictionaries({**fields, "index": st.just("masks/labels.png")}),
    st.fixed_dictionaries(fields, optional=optional),
    anything,
)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Mine:
    return Mine(tmp_path_factory.mktemp("any") / "mine")


@settings(derandomize=True, deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(rows, min_size=1, max_size=3), st.sampled_from(["raise", "skip"]), st.sampled_from(["segment", "box"]))
def test_any_list_gives_samples_or_clear_lines(ours: Mine, listed: list[Any], on_error: Any, prior: Any) -> None:
    ours.write(*listed, name="samples.jsonl")
    problems = Problems(on_error)
    try:
        samples = FolderDataModule(str(ours.root), prior=prior).read(8, problems)
    except InputError as error:
        assert on_error == "raise" and "\n" not in str(error) and str(ours.root) in str(error)
        return
    assert len(samples) + len(problems.found) == len(listed) == problems.num_images
    assert all("\n" not in found.problem and str(ours.root) in found.problem for found in problems.found)
    for index in range(len(samples)):
        try:
            sample = samples[index]
        except InputError as error:
            assert "\n" not in str(error) and str(ours.root) in str(error)
        else:
            assert all(noun.prior.min() >= 0 and noun.prior.max() <= 1 for noun in sample.nouns)
            assert all(sample.prompt[slice(*noun.span)] == noun.word for noun in sample.nouns)
