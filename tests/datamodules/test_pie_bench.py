"""PIE-Bench's folder: prompts, regions, priors and blended words, and what a damaged mapping is told."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from refusals import refused

from locinv_pl.datamodules.entries import EntrySamples, Problems, decode
from locinv_pl.datamodules.pie_bench import KINDS, PieBenchDataModule, plain_prompt, region_mask
from locinv_pl.errors import InputError

SIDE = 512
Json = dict[str, Any]
TYPES = {
    "0": "0_random_140",
    "1": "1_change_object_80",
    "6": "6_change_attribute_color_40",
    "9": "9_change_style_80",
}


def by_the_authors(runs: list[int]) -> np.ndarray:
    """The published rule: flat starts and lengths, row by row, cut at the end."""
    flat = np.zeros(SIDE * SIDE)
    for i in range(0, len(runs), 2):
        for j in range(min(runs[i + 1], SIDE * SIDE - runs[i])):
            flat[runs[i] + j] = 1
    return flat.reshape(SIDE, SIDE)


def runs_of(mask: np.ndarray) -> list[int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.reshape(-1), [0]])))
    return [int(n) for start, stop in zip(edges[::2], edges[1::2], strict=True) for n in (start, stop - start)]


def rectangle(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=np.int8)
    mask[y : y + h, x : x + w] = 1
    return mask


CAT = rectangle(100, 40, 300, 350)


class Bench:
    """A folder as PIE-Bench is distributed, to change before it is read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: Json = {}
        root.mkdir()
        self.add("000000000000", "0", "a [black] cat on a bench", "a [white] cat on a bench", "cat cat")

    def add(self, id: str, kind: str, original: str, edited: str, blended: str, mask: np.ndarray = CAT) -> Json:
        path = self.root / "annotation_images" / TYPES[kind] / f"{id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), "teal").save(path)
        self.rows[id] = {
            "image_path": f"{TYPES[kind]}/{id}.jpg",
            "original_prompt": original,
            "editing_prompt": edited,
            "editing_instruction": "Change it",
            "editing_type_id": kind,
            "blended_word": blended,
            "mask": runs_of(mask),
        }
        return self.rows[id]

    @property
    def row(self) -> Json:
        return self.rows["000000000000"]

    def samples(self, side: int = 64, problems: Problems | None = None, **options: Any) -> EntrySamples:
        (self.root / "mapping_file.json").write_text(json.dumps(self.rows))
        return PieBenchDataModule(str(self.root), **options).read(side, problems or Problems("raise"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "PIE")


# --- a whole image ---


def test_an_image_of_the_benchmark(bench: Bench) -> None:
    sample = bench.samples(side=SIDE)[0]
    assert sample.id == "000000000000" and sample.prompt == "a black cat on a bench"
    assert sample.image.shape == (3, SIDE, SIDE)
    (noun,) = sample.nouns
    assert (noun.word, noun.span) == ("cat", (8, 11))
    assert torch.equal(noun.prior, torch.from_numpy(CAT).float())
    assert sample.region is not None and torch.equal(sample.region, torch.from_numpy(CAT).bool())
    assert torch.equal(noun.mask, sample.region)
    assert [(a.word, a.span, a.noun) for a in sample.adjectives] == [("black", (2, 7), 0)]
    (edit,) = sample.edits
    assert (edit.prompt, edit.kind, edit.blend) == ("a white cat on a bench", "random", ("cat", "cat"))


def test_the_box_prior_is_the_box_of_the_region(bench: Bench) -> None:
    bench.row["mask"] = runs_of(rectangle(128, 64, 64, 128) | rectangle(256, 128, 64, 128))
    sample = bench.samples(side=8, prior="box")[0]
    expected = torch.zeros(8, 8)
    expected[1:4, 2:5] = 1
    assert torch.equal(sample.nouns[0].prior, expected)
    assert sample.region is not None and sample.region.sum() == 4


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a [round] cake", "a round cake"),
        ("a cake [with [two] candles]", "a cake with two candles"),
        (" [a] cat ", "a cat"),
        ("a cat []", "a cat"),
        ("[a cat", "a cat"),
        ("[]", ""),
    ],
)
def test_prompts_have_no_brackets(prompt: str, plain: str) -> None:
    assert plain_prompt(prompt) == plain


@pytest.mark.parametrize(
    ("prompt", "blended", "noun", "blend"),
    [
        ("a [cat] sitting on a bench", "cat dog", "cat", ("cat", "dog")),
        ("a cat sitting on a bench", "bench sofa", "bench", ("bench", "sofa")),
        ("a cat sitting on a bench", "sitting running", None, ("sitting", "running")),
        ("a red car", "red blue", None, ("red", "blue")),
        ("a red car", "car car", "car", ("car", "car")),
        ("a Cat and a cat", "cat dog", "Cat", ("cat", "dog")),
        ("a caterpillar", "cat dog", None, ("cat", "dog")),
        ("a cat", "", None, None),
        ("a cat", " ", None, None),
        ("a cat", "cat", "cat", None),
        ("a cat", "cat black dog", "cat", None),
        ("a wine glass", "glass cup", "glass", ("glass", "cup")),
    ],
)
def test_the_blended_word_has_the_region_as_prior_where_it_is_a_noun(
    prompt: str, blended: str, noun: str | None, blend: tuple[str, str] | None, bench: Bench
) -> None:
    bench.row.update(original_prompt=prompt, blended_word=blended)
    sample = bench.samples(side=8)[0]
    assert [n.word for n in sample.nouns] == ([] if noun is None else [noun])
    assert all(sample.prompt[slice(*n.span)] == n.word for n in sample.nouns)
    assert sample.edits[0].blend == blend and sample.region is not None


def test_without_a_mask_there_is_neither_region_nor_prior(bench: Bench) -> None:
    for runs in ([], [0, 0], [SIDE * SIDE, 5]):
        bench.row["mask"] = runs
        sample = bench.samples(side=8)[0]
        assert sample.region is None and sample.nouns == () and sample.edits[0].blend == ("cat", "cat")


def test_the_whole_image_is_a_region(bench: Bench) -> None:
    bench.row["mask"] = [0, SIDE * SIDE]
    sample = bench.samples(side=8)[0]
    assert sample.region is not None and sample.region.all() and (sample.nouns[0].prior == 1).all()


# --- masks ---


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.one_of(st.integers(0, SIDE * SIDE), st.just(SIDE - 1)), st.integers(0, 3000)),
        max_size=12,
    )
)
def test_masks_are_those_of_the_authors(pairs: list[tuple[int, int]]) -> None:
    runs = [n for pair in pairs for n in pair]
    found = decode(region_mask(runs, "here"), SIDE, SIDE)
    assert found.shape == (SIDE, SIDE) and np.array_equal(found, by_the_authors(runs))


def test_a_run_that_goes_on_beyond_the_image_is_cut_off() -> None:
    for length in (1, 2, SIDE * SIDE, 10**30):
        found = decode(region_mask([SIDE * SIDE - 1, length, 5, 2], "here"), SIDE, SIDE)
        assert found.reshape(-1).nonzero()[0].tolist() == [5, 6, SIDE * SIDE - 1]


def test_masks_that_are_drawn_come_back() -> None:
    rng = np.random.default_rng(0)
    for mask in (CAT, CAT.T, rng.random((SIDE, SIDE)) < 0.1, rectangle(0, 0, 1, 1), rectangle(511, 511, 1, 1)):
        assert np.array_equal(decode(region_mask(runs_of(mask.astype(np.int8)), "here"), SIDE, SIDE), mask)


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 300), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.one_of(anything, st.lists(st.one_of(st.integers(0, 300_000), anything), max_size=4)))
def test_any_mask_is_read_or_one_clear_line(runs: Any) -> None:
    try:
        found = decode(region_mask(runs, "here"), SIDE, SIDE)
    except InputError as error:
        assert str(error).startswith("here: its mask is not pairs of start and length within 512x512 pixels; get")
    else:
        assert np.array_equal(found, by_the_authors(runs))


# --- choice of images ---


@pytest.fixture
def four(bench: Bench) -> Bench:
    bench.add("100000000000", "1", "a [cat]", "a [dog]", "cat dog")
    bench.add("600000000000", "6", "a [red] car", "a [blue] car", "car car")
    bench.add("100000000001", "1", "a [cup]", "a [glass]", "cup glass")
    return bench


def test_kinds_of_edits_are_chosen_by_number(four: Bench) -> None:
    assert four.samples().ids == list(four.rows)
    assert four.samples(kinds=["1"]).ids == ["100000000000", "100000000001"]
    assert four.samples(kinds=[1, 6]).ids == ["100000000000", "600000000000", "100000000001"]
    assert [entry.edits[0].kind for entry in four.samples().entries] == [
        "random",
        "change_object",
        "change_color",
        "change_object",
    ]
    refused(lambda: four.samples(kinds=["9"]), "mapping_file.json: has no image of data.kinds=['9']; choose others")
    assert sorted(KINDS) == list("0123456789")


def test_num_images_takes_the_first(four: Bench) -> None:
    assert four.samples(num_images=2).ids == ["000000000000", "100000000000"]
    assert four.samples(num_images=1, kinds=["6"]).ids == ["600000000000"]
    assert len(four.samples(num_images=99)) == 4
    for number in (0, -2):
        refused(partial(four.samples, num_images=number), f"data.num_images={number}: must be 1 or more")


def test_numbers_of_kinds_may_be_numbers(bench: Bench) -> None:
    bench.row["editing_type_id"] = 6
    assert bench.samples(kinds=["6"]).entries[0].edits[0].kind == "change_color"


def test_images_of_other_kinds_need_not_be_there(four: Bench) -> None:
    (four.root / "annotation_images/0_random_140/000000000000.jpg").unlink()
    assert four.samples(kinds=["1", "6"]).ids == ["100000000000", "600000000000", "100000000001"]


# --- what a damaged folder is told ---

MISTAKES: list[tuple[Json, str]] = [
    *[({key: ...}, f"has no {key}; get the mapping again") for key in ("image_path", "original_prompt", "mask")],
    *[({key: ...}, f"has no {key}; get the") for key in ("editing_prompt", "editing_type_id", "blended_word")],
    *[({key: 3}, f"its {key} is no text; get") for key in ("image_path", "original_prompt", "editing_prompt")],
    ({"blended_word": ["cat", "dog"]}, "its blended_word is no text; get the mapping again"),
    ({"original_prompt": "[ ]"}, "its original_prompt is empty; get the mapping again"),
    ({"mask": [1]}, "its mask is not pairs of start and length within 512x512 pixels; get the mapping again"),
    ({"mask": [-1, 5]}, "its mask is not pairs"),
    ({"mask": [5, -1]}, "its mask is not pairs"),
    ({"mask": [SIDE * SIDE + 1, 5]}, "its mask is not pairs"),
    ({"mask": [1.0, 5]}, "its mask is not pairs"),
    ({"mask": [True, 5]}, "its mask is not pairs"),
    ({"mask": [[1, 5]]}, "its mask is not pairs"),
    ({"mask": [[1, 5], [7, 8]]}, "its mask is not pairs"),
    ({"mask": {"0": 5}}, "its mask is not pairs"),
    ({"mask": "1 5"}, "its mask is not pairs"),
    ({"mask": None}, "its mask is not pairs"),
]


@pytest.mark.parametrize(("change", "problem"), MISTAKES)
def test_a_damaged_row_is_one_clear_line(change: Json, problem: str, bench: Bench) -> None:
    bench.add("100000000000", "1", "a [cat]", "a [dog]", "cat dog")
    for key, value in change.items():
        if value is ...:
            del bench.row[key]
        else:
            bench.row[key] = value
    refused(bench.samples, f"{bench.root}/mapping_file.json: image 000000000000: {problem}")
    problems = Problems("skip")
    assert bench.samples(problems=problems).ids == ["100000000000"] and problems.num_images == 2
    assert [found.id for found in problems.found] == ["000000000000"] and problem in problems.found[0].problem


@pytest.mark.parametrize("row", [None, [], "row", 3, {}])
def test_what_is_no_row(row: Any, bench: Bench) -> None:
    bench.rows["000000000000"] = row
    refused(bench.samples, "mapping_file.json: image 000000000000: has no image_path; get the mapping again")


def test_a_missing_folder_or_mapping(bench: Bench, tmp_path: Path) -> None:
    gone = PieBenchDataModule(str(tmp_path / "gone"))
    refused(lambda: gone.read(8, Problems()), f"{tmp_path / 'gone'}: no such folder; give the folder of PIE-Bench")
    data = PieBenchDataModule(str(bench.root))
    refused(lambda: data.read(8, Problems()), "PIE/mapping_file.json: no such file; ")
    for content in (b"", b"{", b"\xff", b"[" * 100_000):
        (bench.root / "mapping_file.json").write_bytes(content)
        refused(lambda: data.read(8, Problems()), "PIE/mapping_file.json: not valid JSON (", "; write it again")
    for text in ("[]", "3", "null", '"a"'):
        (bench.root / "mapping_file.json").write_text(text)
        refused(lambda: data.read(8, Problems()), "PIE/mapping_file.json: is no mapping of images; use PIE-Bench's")
    (bench.root / "mapping_file.json").write_text("{}")
    refused(lambda: data.read(8, Problems()), "PIE/mapping_file.json: has no image of data.kinds=None; choose")


def test_other_names_of_mapping_and_images(bench: Bench) -> None:
    bench.samples()
    (bench.root / "mapping_file.json").rename(bench.root / "other.json")
    (bench.root / "annotation_images").rename(bench.root / "pictures")
    data = PieBenchDataModule(str(bench.root), mapping="other.json", images="pictures")
    assert data.read(8, Problems())[0].id == "000000000000"


def test_a_missing_or_spoilt_image(bench: Bench) -> None:
    path = bench.root / "annotation_images/0_random_140/000000000000.jpg"
    content = path.read_bytes()
    path.unlink()
    refused(bench.samples, f"{path}: no such image; put it there")
    path.write_text("<html>")
    refused(bench.samples, f"{path}: is no image, or of a format")
    Image.new("RGB", (512, 500)).save(path)
    refused(bench.samples, f"{path}: is 512x500, its mask 512x512; use PIE-Bench's own images")
    path.write_bytes(content[: len(content) // 2])
    samples = bench.samples()
    refused(lambda: samples[0], f"{path}: cannot be read as an image (")


texts = st.one_of(
    st.sampled_from(["a [black] cat", "cat dog", "0_random_140/000000000000.jpg", "0"]), st.text(max_size=5)
)
mistaken = st.fixed_dictionaries(
    {},
    optional={
        "image_path": st.one_of(texts, anything),
        "original_prompt": st.one_of(texts, anything),
        "editing_prompt": st.one_of(texts, anything),
        "editing_type_id": st.one_of(texts, anything),
        "blended_word": st.one_of(texts, anything),
        "mask": anything,
    },
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("any") / "PIE")


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.one_of(mistaken, anything), st.sampled_from(["raise", "skip"]))
def test_any_row_is_a_sample_or_one_clear_line(shared: Bench, row: Any, on_error: Any) -> None:
    good = shared.rows["000000000000"]
    problems = Problems(on_error)
    shared.rows["other"] = {**good, **row} if isinstance(row, dict) else row
    try:
        samples = shared.samples(side=8, problems=problems)
    except InputError as error:
        assert on_error == "raise" and "\n" not in str(error) and str(shared.root) in str(error)
    else:
        assert len(samples) + len(problems.found) == 2
        assert len(samples[:]) == len(samples)
