"""Segmentations and boxes of any kind: what is one keeps its pixels, what is none is one clear line."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from refusals import refused

from locinv_pl.datamodules.annotations import compress, run_lengths
from locinv_pl.datamodules.entries import Rle, decode
from locinv_pl.errors import InputError
from locinv_pl.priors import check_box

WIDTH, HEIGHT = 13, 9
many = settings(derandomize=True, deadline=None, max_examples=300)
sides = st.integers(1, 40)


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Masks that aren't empty: noise, stripes and blobs."""
    width, height = draw(sides), draw(sides)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    mask = rng.random((height, width)) < draw(st.sampled_from([0.02, 0.5, 0.98, 1]))
    mask = mask.repeat(draw(st.integers(1, 9)), axis=draw(st.integers(0, 1)))
    mask.flat[draw(st.integers(0, mask.size - 1))] = True
    return mask.astype(np.uint8)


def runs_of(mask: np.ndarray) -> list[int]:
    """The lengths of runs of zeros and ones by turns, column by column."""
    runs, value = [0], 0
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def compressed(runs: list[int]) -> str:
    """COCO's letters for runs, by its description."""
    letters = ""
    for number, run in enumerate(runs):
        left, more = run - (runs[number - 2] if number > 2 else 0), True
        while more:
            bits, left = left & 31, left >> 5
            more = left != (-1 if bits & 16 else 0)
            letters += chr(48 + bits + 32 * more)
    return letters


def pixels(rle: Rle, width: int, height: int) -> np.ndarray:
    found = np.asarray(decode(rle, width, height))
    assert found.shape == (height, width)
    return found


# --- masks ---


@many
@given(masks())
def test_run_lengths_keep_every_pixel(mask: np.ndarray) -> None:
    height, width = mask.shape
    runs = runs_of(mask)
    text = mask_utils.encode(np.asfortranarray(mask))["counts"].decode()
    assert run_lengths(text) == runs and compressed(runs) == text
    for counts in (runs, text, text.encode()):
        rle = compress({"size": [height, width], "counts": counts}, width, height, "here")
        assert np.array_equal(pixels(rle, width, height), mask)


@many
@given(masks(), st.integers(1, 5))
def test_runs_of_no_pixels_do_not_matter(mask: np.ndarray, at: int) -> None:
    height, width = mask.shape
    runs = runs_of(mask)
    at = min(at, len(runs))
    padded = [*runs[:at], 0, 0, *runs[at:]]
    for counts in (padded, compressed(padded)):
        rle = compress({"size": [height, width], "counts": counts}, width, height, "here")
        assert np.array_equal(pixels(rle, width, height), mask)


def points(low: float, high: float) -> st.SearchStrategy[list[float]]:
    x, y = (st.one_of(st.floats(low * n, high * n), st.integers(0, n)) for n in (WIDTH, HEIGHT))
    return st.lists(st.tuples(x, y), min_size=3, max_size=9).map(lambda found: [n for point in found for n in point])


@many
@given(st.lists(st.one_of(points(0, 1), points(-1, 2)), min_size=1, max_size=4))
@example([[1, 1, 8, 7, 8, 1, 1, 7]])  # crosses itself
@example([[1, 1, 8, 1, 8, 8, 1, 1, 5, 4, 5, 1]])  # touches itself
@example([[-13, -9, 26, -9, 26, 18, -13, 18]])  # all around
@example([[2, 2, 2, 2, 2, 2]])
def test_polygons_are_those_of_pycocotools(polygons: list[list[float]]) -> None:
    coco = COCO()
    coco.imgs = {1: {"height": HEIGHT, "width": WIDTH}}
    expected = coco.annToMask({"image_id": 1, "segmentation": polygons})
    if not expected.any():
        refused(lambda: compress(polygons, WIDTH, HEIGHT, "here"), "here: its mask is empty; draw it again")
        return
    assert np.array_equal(pixels(compress(polygons, WIDTH, HEIGHT, "here"), WIDTH, HEIGHT), expected)


@pytest.mark.parametrize(("x", "y", "w", "h"), [(2, 1, 5, 4), (0, 0, WIDTH, HEIGHT), (12, 8, 1, 1)])
def test_a_polygon_round_whole_pixels_holds_them(x: int, y: int, w: int, h: int) -> None:
    expected = np.zeros((HEIGHT, WIDTH))
    expected[y : y + h, x : x + w] = 1
    around = [x, y, x + w, y, x + w, y + h, x, y + h]
    assert np.array_equal(pixels(compress([around], WIDTH, HEIGHT, "here"), WIDTH, HEIGHT), expected)


# --- what is none ---

numbers = st.one_of(
    st.integers(-3, 120), st.integers(), st.floats(), st.booleans(), st.just(10**400), st.just(WIDTH * HEIGHT)
)
leaves = st.one_of(st.none(), numbers, st.text(max_size=5), st.sampled_from(["size", "counts", "0PoO`1" * 3]))
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
letters = st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30)
sizes = st.one_of(st.just([HEIGHT, WIDTH]), st.just([float(HEIGHT), float(WIDTH)]), anything)


@st.composite
def almost(draw: st.DrawFn) -> list[Any]:
    """Numbers that add up to the image, but for what else is wrong with them."""
    runs: list[Any] = draw(st.lists(st.sampled_from([0, 1, 2.5, -4, True, 30, 0.5, 1e18, -1e18]), max_size=6))
    return [*runs, WIDTH * HEIGHT - sum(runs)]


def mask_or_one_line(segmentation: Any) -> None:
    try:
        rle = compress(segmentation, WIDTH, HEIGHT, "here")
    except InputError as error:
        assert str(error).startswith("here: its ") and "; " in str(error) and "\n" not in str(error)
        return
    found = pixels(rle, WIDTH, HEIGHT)
    assert set(np.unique(found)) <= {0, 1} and found.any()
    assert found.sum() == mask_utils.area(rle)


@many
@given(anything)
def test_what_is_no_segmentation_is_one_clear_line(segmentation: Any) -> None:
    mask_or_one_line(segmentation)


@many
@given(sizes, st.one_of(almost(), letters, letters.map(str.encode), anything))
@example([HEIGHT, WIDTH], bytes([100, 17]))  # its bytes add up to the image
@example([HEIGHT, WIDTH], [1.5, 115.5])
@example([HEIGHT, WIDTH], {0: "a", 117: "b"})
def test_what_are_no_run_lengths_is_one_clear_line(size: Any, counts: Any) -> None:
    mask_or_one_line({"size": size, "counts": counts})


@many
@given(st.lists(st.one_of(st.lists(numbers, max_size=9), anything), max_size=4))
def test_what_are_no_polygons_is_one_clear_line(polygons: Any) -> None:
    mask_or_one_line(polygons)


@many
@given(st.lists(st.integers(0, 2**31), max_size=8), st.integers(0, 6))
def test_letters_read_as_pycocotools_reads_them(runs: list[int], longer: int) -> None:
    """A number may be written with more letters than it needs; pycocotools shifts by 32 bits at most."""
    text = compressed(runs)
    if longer and text:
        text = text[:-1] + chr(ord(text[-1]) + 32) + "P" * (longer - 1) + "0"
    mask_or_one_line({"size": [HEIGHT, WIDTH], "counts": text})


def test_negative_numbers_in_too_many_letters_are_refused() -> None:
    """-1 is 31, with any number of 31s that say that more follows before it."""
    text = compressed([50, 20, 47])
    for padding in range(12):
        mask_or_one_line({"size": [HEIGHT, WIDTH], "counts": text + "o" * padding + "O"})
    refused(lambda: compress({"size": [HEIGHT, WIDTH], "counts": "o" * 9 + "O"}, WIDTH, HEIGHT, "here"), "longer than")


@pytest.mark.parametrize("letter", ["o", "P", "0", "O"])
def test_long_nonsense_takes_no_time(letter: str) -> None:
    started = time.monotonic()
    counts = letter * 1_000_000
    refused(lambda: compress({"size": [HEIGHT, WIDTH], "counts": counts}, WIDTH, HEIGHT, "here"), "here: its ")
    assert time.monotonic() - started < 5


def test_messages_stay_short() -> None:
    for box in (list(range(10_000)), ["x" * 10_000] * 4, {"x" * 10_000: 1}, "x" * 10_000):
        with pytest.raises(InputError) as caught:
            check_box(box, WIDTH, HEIGHT, "here")
        assert len(str(caught.value)) < 400
    with pytest.raises(InputError) as caught:
        compress({"size": list(range(10_000)), "counts": "x"}, WIDTH, HEIGHT, "here")
    assert len(str(caught.value)) < 400


# --- boxes ---


def within(n: float, low: float, high: float) -> bool:
    return low <= n <= high


@many
@given(st.one_of(st.lists(st.one_of(st.floats(-3, 16), numbers), min_size=3, max_size=5), anything))
@example([0.5, 1, 10**400, 2])
@example([10**400, 1, 1, 1])
@example([0, 0, WIDTH, HEIGHT])
def test_a_box_lies_on_the_image_or_is_one_clear_line(box: Any) -> None:
    try:
        x, y, w, h = check_box(box, WIDTH, HEIGHT, "here")
    except InputError as error:
        assert str(error).startswith("here: its box ") and "; correct its bbox" in str(error)
        assert "\n" not in str(error)
        good = isinstance(box, list) and len(box) == 4 and all(isinstance(n, (int, float)) for n in box)
        if good and all(math.isfinite(min(max(n, -9e9), 9e9)) for n in box) and box[2] > 0 and box[3] > 0:
            x, y, w, h = (min(max(n, -1e9), 1e9) for n in box)
            assert not (within(x, 0, WIDTH - 1) and within(x + w, 0, WIDTH) and within(y, 0, 8) and y + h <= HEIGHT)
        return
    assert 0 <= x < WIDTH and 0 <= y < HEIGHT and w > 0 and h > 0
    assert x + w <= WIDTH + 1e-9 and y + h <= HEIGHT + 1e-9
    ends = zip((x, y, x + w, y + h), (box[0], box[1], box[0] + box[2], box[1] + box[3]), strict=True)
    assert all(abs(found - given) <= 1 + 1e-9 for found, given in ends)


@many
@given(st.tuples(*[st.floats(0.01, 0.41)] * 4), st.booleans())
def test_a_box_inside_is_left_as_it_is(shares: tuple[float, ...], whole: bool) -> None:
    box = [share * size for share, size in zip(shares, (WIDTH, HEIGHT) * 2, strict=True)]
    box = [math.ceil(n) for n in box] if whole else box
    if box[2] * box[3] < 1 or (max(box[:2]) < 1 and max(box[2:]) <= 1):
        refused(lambda: check_box(box, WIDTH, HEIGHT, "here"), "here: its box ", "is less than a pixel; boxes are in")
        return
    assert list(check_box(box, WIDTH, HEIGHT, "here")) == box


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([-1, 2, 5, 3], (0, 2, 4, 3)),
        ([3, -0.5, 5, 10.5], (3, 0, 5, 9)),
        ([8, 5, 6, 5], (8, 5, 5, 4)),
        ([-1, -1, 15, 11], (0, 0, 13, 9)),
    ],
)
def test_what_sticks_out_by_a_pixel_is_cut_off(box: list[float], expected: tuple[float, ...]) -> None:
    assert check_box(box, WIDTH, HEIGHT, "here") == expected
