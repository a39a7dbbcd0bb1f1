"""Masks and images of every kind that people have, in files and in notebooks: the values that they mean."""

from __future__ import annotations

import sys
from collections.abc import Callable
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

from locinv_pl.api import make_sample
from locinv_pl.io.frames import Frame, frame_mask
from locinv_pl.io.images import as_image, as_mask, open_image, open_mask

WIDTH, HEIGHT = 128, 96
TRUTH = np.zeros((HEIGHT, WIDTH), dtype=bool)
TRUTH[32:64, 40:100] = True
BYTE = TRUTH * np.uint8(255)
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def iou(mask: Any, truth: np.ndarray = TRUTH) -> float:
    mask = np.asarray(mask) >= 0.5
    return float((mask & truth).sum() / (mask | truth).sum())


def palette(*colours: tuple[int, int, int]) -> Image.Image:
    """The truth in indices 0 (out) and 1 (in), of these colours."""
    image = Image.fromarray(TRUTH.astype(np.uint8), "P")
    image.putpalette([n for colour in colours for n in colour])
    return image


def layers(*planes: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack([np.broadcast_to(p, TRUTH.shape).astype(np.uint8) for p in planes], -1))


def soft(sigma: float = 3.0) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(TRUTH.astype(float), sigma)


INVERTED = palette((255, 255, 255), (0, 0, 0))  # index 1 is what is drawn black
INVERTED.putdata((~TRUTH).astype(np.uint8).reshape(-1).tolist())
MASKS: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
    "L": (Image.fromarray(BYTE), "png", {}),
    "L of 0 and 1": (Image.fromarray(TRUTH.astype(np.uint8)), "png", {}),
    "L of 1 and 255": (Image.fromarray(np.maximum(BYTE, 1)), "png", {}),
    "L of 150 and 255": (Image.fromarray(np.maximum(BYTE, 150)), "png", {}),
    "JPEG of 160 and 250": (Image.fromarray(np.where(TRUTH, np.uint8(250), np.uint8(160))), "jpg", {"quality": 60}),
    "L of 0 and 100": (Image.fromarray(TRUTH * np.uint8(100)), "bmp", {}),
    "soft": (Image.fromarray((soft() * 255).astype(np.uint8)), "png", {}),
    "1": (Image.fromarray(BYTE).convert("1"), "png", {}),
    "P": (palette((0, 0, 0), (255, 255, 255)), "png", {}),
    "P, white first": (INVERTED, "png", {}),
    "P in one colour": (palette((0, 0, 0), (128, 0, 0)), "png", {}),
    "P, transparent": (palette((255, 255, 255), (255, 255, 255)), "png", {"transparency": 0}),
    "GIF": (INVERTED, "gif", {}),
    "GIF of grey": (Image.fromarray(BYTE), "gif", {}),
    "LA": (layers(BYTE, np.uint8(255)), "png", {}),
    "LA by alpha": (layers(np.uint8(0), BYTE), "png", {}),
    "RGB": (layers(BYTE, BYTE, BYTE), "png", {}),
    "RGB in red": (layers(BYTE, BYTE * 0, BYTE * 0), "png", {}),
    "RGBA": (layers(BYTE, BYTE, BYTE, np.uint8(255)), "png", {}),
    "RGBA by alpha": (layers(*[np.uint8(255)] * 3, BYTE), "png", {}),
    "RGBA, black by alpha": (layers(*[np.uint8(0)] * 3, BYTE), "tif", {}),
    "RGBA cut out": (layers(*NOISE.transpose(2, 0, 1), BYTE), "png", {}),
    "RGBA both": (layers(BYTE, BYTE, BYTE, BYTE), "webp", {"lossless": True}),
    "I;16": (Image.fromarray(TRUTH.astype(np.uint16) * 65535), "png", {}),
    "I;16 of 0 and 1": (Image.fromarray(TRUTH.astype(np.uint16)), "png", {}),
    "I": (Image.fromarray(TRUTH.astype(np.int32) * 255), "tif", {}),
    "F": (Image.fromarray(TRUTH.astype(np.float32)), "tif", {}),
    "F of 255": (Image.fromarray(soft().astype(np.float32) * 255), "tif", {}),
    "JPEG": (Image.fromarray(BYTE), "jpg", {"quality": 20}),
    "JPEG of colour": (Image.fromarray(BYTE).convert("RGB"), "jpg", {"quality": 30}),
    "WebP": (Image.fromarray(BYTE).convert("RGB"), "webp", {"quality": 10}),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_of_any_kind_is_what_it_shows(kind: str, tmp_path: Path) -> None:
    image, suffix, options = MASKS[kind]
    path = tmp_path / f"m.{suffix}"
    image.save(path, **options)
    assert iou(open_mask(path, (WIDTH, HEIGHT))) > 0.95
    assert iou(as_mask(path, (WIDTH, HEIGHT), "cat")) > 0.95
    with Image.open(path) as opened:
        assert iou(as_mask(opened, (WIDTH, HEIGHT), "cat")) > 0.95
    square = Frame.fitting(WIDTH, HEIGHT, HEIGHT)
    assert iou(frame_mask(path, square), TRUTH[:, 16:112]) > 0.95


@settings(derandomize=True, deadline=5000, max_examples=60)
@given(
    kind=st.sampled_from(sorted(set(MASKS) - {"soft", "F of 255"})),
    box=st.tuples(st.integers(8, 40), st.integers(8, 30), st.integers(24, 60), st.integers(24, 50)),
)
def test_wherever_the_object_is(kind: str, box: tuple[int, ...], tmp_path_factory: pytest.TempPathFactory) -> None:
    image, suffix, options = MASKS[kind]
    x, y, w, h = box
    truth = np.zeros_like(TRUTH)
    truth[y : y + h, x : x + w] = True
    path = tmp_path_factory.getbasetemp() / f"moved.{suffix}"
    moved = image.copy() if image.mode in ("P", "1") else None
    values = np.asarray(image)
    out, inside = values[0, 0], values[40, 60]
    if moved is not None:
        moved.putdata(np.where(truth, int(inside) * (255 if image.mode == "1" else 1), int(out)).reshape(-1).tolist())
    else:
        moved = Image.fromarray(np.where(truth if values.ndim == 2 else truth[..., None], inside, out))
    moved.save(path, **options)
    assert iou(open_mask(path, (WIDTH, HEIGHT)), truth) > 0.9


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) % 4,
            "holds the numbers 0, 1, 2, 3, which are labels; name one",
        ),
        (TRUTH * np.uint8(0), "the mask is empty"),
    ],
)
def test_labels_are_no_mask(values: np.ndarray, says: str, tmp_path: Path) -> None:
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "m.png")
    refused(lambda: open_mask(tmp_path / "m.png", (WIDTH, HEIGHT)), "m.png: ", says)


@pytest.mark.parametrize("image", [Image.fromarray(NOISE), palette((0, 0, 128), (0, 128, 0))])
def test_colours_are_no_mask(image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "m.png")
    refused(lambda: open_mask(tmp_path / "m.png", (WIDTH, HEIGHT)), "m.png: the mask is in colour, not one channel")


def test_floats_that_have_no_scale_are_no_mask(tmp_path: Path) -> None:
    for value in (np.nan, -1.0, np.inf):
        Image.fromarray(np.where(TRUTH, value, 0).astype(np.float32)).save(tmp_path / "m.tif")
        refused(lambda: open_mask(tmp_path / "m.tif", (WIDTH, HEIGHT)), "m.tif: the mask holds numbers")


def test_a_region_of_another_size_is_refused(tmp_path: Path) -> None:
    square, path = Frame.fitting(WIDTH, HEIGHT, HEIGHT), tmp_path / "m.png"
    Image.fromarray(BYTE[:, 16:112]).save(path)
    assert np.array_equal(frame_mask(path, square).numpy(), TRUTH[:, 16:112]), "the size that it is shown at will do"
    Image.fromarray(BYTE[:40, :40]).save(path)
    refused(lambda: frame_mask(path, square), "m.png: the mask is 40x40 but its image 128x96; make both")
    Image.fromarray(np.where(np.arange(WIDTH) < 10, 255, 0 * BYTE).astype(np.uint8)).save(path)
    refused(lambda: frame_mask(path, square), "the part of the image that is shown has nothing of the mask")


# --- masks in a notebook ---


@pytest.mark.parametrize(
    "mask",
    [
        TRUTH,
        TRUTH.astype(np.uint8),
        BYTE,
        BYTE.astype(np.float32),
        TRUTH.astype(np.int64) * 255,
        TRUTH.astype(np.uint16) * 65535,
        TRUTH.astype(np.float16),
        torch.from_numpy(BYTE),
        torch.from_numpy(TRUTH)[None],
        BYTE[..., None],
        layers(*[np.uint8(9)] * 3, BYTE),
        np.asarray(layers(BYTE, BYTE, BYTE)),
    ],
)
def test_a_mask_in_a_notebook_has_any_scale(mask: Any) -> None:
    sample = make_sample(np.zeros((HEIGHT, WIDTH, 3), np.uint8), "a cat", {"cat": mask})
    assert np.array_equal(sample.nouns[0].prior.numpy(), TRUTH.astype(np.float32))


def test_a_soft_mask_in_a_notebook_stays_soft() -> None:
    plane = torch.from_numpy(soft()).float()
    assert torch.equal(make_sample(torch.zeros(3, HEIGHT, WIDTH), "a cat", {"cat": plane}).nouns[0].prior, plane)


@pytest.mark.parametrize(
    ("prior", "says"),
    [
        (TRUTH * -1.0, "noun 'cat': its mask holds numbers that are negative"),
        (np.full(TRUTH.shape, np.nan), "noun 'cat': its mask holds numbers"),
        (TRUTH.astype(np.uint8) * 3 + np.eye(HEIGHT, WIDTH, dtype=np.uint8), "are labels"),
        (TRUTH.astype(complex), "complex"),
        (np.array([["a"] * 4] * 4), "of no numbers"),
        ((0.1, 0.2, 0.5, 0.4), "is less than a pixel; boxes are in pixels"),
        ((True, 2, 50, 50), "is not four numbers"),
        ((1, 2, float("inf"), 5), "is not four numbers"),
        ((1, 2, 10**400, 5), "is not four numbers"),
        ((10, 10, 125, 90), "as corners it would fit: write x, y, x2 - x, y2 - y"),
        ("gone.png", "gone.png: no such mask"),
        (b"bytes", "noun 'cat'"),
        (None, "noun 'cat'"),
        (object(), "noun 'cat'"),
    ],
)
def test_a_prior_in_a_notebook_that_is_none(prior: Any, says: str) -> None:
    refused(lambda: make_sample(torch.zeros(3, HEIGHT, WIDTH), "a cat", {"cat": prior}), says)


@pytest.mark.parametrize("kind", [tuple, list, np.array, torch.tensor])
def test_a_box_in_a_notebook_has_any_type(kind: Any) -> None:
    box = kind([40, 32, 60, 32])
    assert iou(make_sample(torch.zeros(3, HEIGHT, WIDTH), "a cat", {"cat": box}).nouns[0].prior) == 1


def test_a_list_of_boxes_of_numpy() -> None:
    boxes = [np.array([40, 32, 60, 32]), [np.int64(40), 32, np.float32(60), 32]]
    sample = make_sample(torch.zeros(3, HEIGHT, WIDTH), "a cat, a cat", {"cat": boxes})
    assert [iou(noun.prior) for noun in sample.nouns] == [1, 1]


# --- images ---


def exact(image: Any, expected: np.ndarray = NOISE, within: float = 0.0) -> None:
    found = as_image(image)
    assert found.dtype == torch.float32 and found.shape == (3, *expected.shape[:2])
    assert np.abs(found.movedim(0, -1).numpy() * 255 - expected).max() <= within + 1e-3


@pytest.mark.parametrize(
    "image",
    [
        NOISE,
        Image.fromarray(NOISE),
        NOISE.astype(np.int64),
        NOISE.astype(np.uint16) * 257,
        NOISE / 255,
        (NOISE / 255).astype(np.float32),
        torch.from_numpy(NOISE).movedim(-1, 0),
        torch.from_numpy(NOISE).movedim(-1, 0) / 255,
        np.concatenate([NOISE, np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], -1),
    ],
)
def test_an_image_in_a_notebook_is_scaled_by_its_type(image: Any) -> None:
    exact(image)


def test_grey_arrays_are_grey_images() -> None:
    exact(NOISE[..., 0], np.repeat(NOISE[..., :1], 3, -1))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (NOISE.astype(np.float32), "floats from 0 to 255 are not in 0..1; give x / 255"),
        (NOISE / 127.5 - 1, "are not in 0..1; give (x + 1) / 2"),
        (torch.from_numpy(NOISE / 127.5 - 1).movedim(-1, 0), "are not in 0..1; give (x + 1) / 2"),
        (NOISE.astype(np.int32) * 257, "integers from 0 to 65535 have no known scale"),
        (np.full((8, 8, 3), np.nan), "are not in 0..1"),
        (np.full((8, 8, 3), 0.5 + 0j), "complex"),
        (np.zeros((8, 8, 5)), "is not (3, H, W)"),
        (np.zeros((0, 8, 3), np.uint8), "at least one pixel"),
        (np.array("an image"), "of no numbers"),
        ([1, 2, 3], "a list is no image"),
        (None, "a NoneType is no image"),
        ("gone.png", "gone.png: no such image"),
    ],
)
def test_an_image_in_a_notebook_that_is_none(image: Any, says: str) -> None:
    refused(lambda: as_image(image), says)


def test_files_in_a_notebook_are_those_of_a_folder(tmp_path: Path) -> None:
    exif, turned = Image.Exif(), tmp_path / "turned.png"
    exif[0x0112] = 6
    Image.fromarray(NOISE).transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    exact(turned)
    exact(str(turned))
    with Image.open(turned) as opened:
        exact(opened)
    wide = tmp_path / "wide.png"
    Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257).save(wide)
    exact(wide, np.repeat(NOISE[..., :1], 3, -1))
    layers(*NOISE.transpose(2, 0, 1), BYTE).save(tmp_path / "clear.png")
    exact(tmp_path / "clear.png", np.where(TRUTH[..., None], NOISE, 255))


@pytest.mark.parametrize("scale", [1, 255, 65535])
def test_floats_of_a_tiff_are_scaled(scale: int, tmp_path: Path) -> None:
    values = NOISE[..., 0].astype(np.float32) / 255
    Image.fromarray(values * scale).save(tmp_path / "a.tif")
    exact(tmp_path / "a.tif", np.repeat(NOISE[..., :1], 3, -1), within=1)


def test_floats_of_a_tiff_without_a_scale_are_refused(tmp_path: Path) -> None:
    for value in (np.nan, -1.0, 1e6):
        Image.fromarray(np.full((9, 9), value, np.float32)).save(tmp_path / "a.tif")
        refused(lambda: open_image(tmp_path / "a.tif"), "a.tif: cannot be read as an image (its floats are")


def test_a_profile_says_what_the_colours_are() -> None:
    """A photograph in Adobe RGB; Image.open gives (220, 40, 41) and (39, 200, 60)."""
    found = np.asarray(open_image(Path(__file__).parents[1] / "cases/adobe_icc.jpg"))
    with Image.open(Path(__file__).parents[1] / "cases/adobe_icc.jpg") as file:
        stored = np.asarray(file)
    for before, after in (((220, 40, 41), (255, 35, 36)), ((39, 200, 60), (0, 201, 37))):
        places = (np.abs(stored.astype(int) - before).max(-1) <= 1).nonzero()
        assert len(places[0]) > 50 and np.abs(found[places].astype(int) - after).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("profile", [b"", b"no profile", b"\0" * 200])
def test_a_damaged_profile_does_not_matter(mode: str, profile: bytes, tmp_path: Path) -> None:
    image = Image.fromarray(NOISE).convert(mode)
    image.save(tmp_path / "a.tif", icc_profile=profile)
    image.save(tmp_path / "b.tif")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.tif")), np.asarray(open_image(tmp_path / "b.tif")))


def test_heic_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    readers: list[Callable[[Path], object]] = [open_image, as_image, lambda path: open_mask(path, (8, 8))]
    for read in readers:
        refused(partial(read, path), 'IMG_0001.HEIC: is HEIC; pip install "locinv_pl[heic]" reads it, or save it as')


def test_one_flipped_bit_of_a_png_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    refused(lambda: open_image(path), "a.png: cannot be read as an image (")
    refused(lambda: open_mask(path, (WIDTH, HEIGHT)), "a.png: the mask cannot be read (")
