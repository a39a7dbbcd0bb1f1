"""Opening images: every kind of file as upright RGB, and every damaged one as one clear line."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from refusals import refused

from locinv_pl.errors import InputError
from locinv_pl.io.images import as_image, image_size, open_image, to_rgb

WIDTH, HEIGHT = 7, 5
ORIENTATION = 0x0112
Options = dict[str, Any]
# The sides of the upright image where the first row and the first column as stored are, by the EXIF standard.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def lossless(kind: str) -> Options:
    return {"lossless": True, "exact": True} if kind == "webp" else {}


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """The upright image, pixel by pixel."""
    rows, columns = stored.shape[:2]
    flat = SIDES[orientation][0] in ("left", "right")
    expected = np.zeros((columns, rows, 3) if flat else (rows, columns, 3), dtype=np.uint8)
    height, width = expected.shape[:2]
    for r in range(rows):
        for c in range(columns):
            at = {}
            for side, n in zip(SIDES[orientation], (r, c), strict=True):
                axis, last = ("y", height - 1) if side in ("top", "bottom") else ("x", width - 1)
                at[axis] = n if side in ("top", "left") else last - n
            expected[at["y"], at["x"]] = stored[r, c]
    return expected


def pixels(path: Path, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    image = open_image(path, (width, height))
    assert image.mode == "RGB" and image.size == (width, height)
    return np.asarray(image)


# --- orientation ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "webp", "tif"])
def test_exif_turns_an_image_upright(orientation: int, kind: str, tmp_path: Path) -> None:
    stored, path = noise(HEIGHT, WIDTH, 3), tmp_path / f"a.{kind}"
    Image.fromarray(stored).save(path, exif=turned(orientation), **lossless(kind))
    expected = upright(stored, orientation)
    assert image_size(path) == (expected.shape[1], expected.shape[0])
    assert np.array_equal(pixels(path, *image_size(path)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_exif_turns_a_jpeg_upright(orientation: int, mode: str, tmp_path: Path) -> None:
    plain, exif = tmp_path / "plain.jpg", tmp_path / "exif.jpg"
    Image.fromarray(noise(16, 24, 3)).convert(mode).save(plain)
    Image.fromarray(noise(16, 24, 3)).convert(mode).save(exif, exif=turned(orientation))
    expected = upright(pixels(plain, 24, 16), orientation)
    assert np.array_equal(pixels(exif, *image_size(exif)), expected)


@pytest.mark.parametrize("has_profile", [False, True])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_what_was_opened_is_taken_as_it_is(kind: str, has_profile: bool, tmp_path: Path) -> None:
    """It is upright and in sRGB: nobody who gets it turns it, or reads its colours by the profile, again."""
    path = tmp_path / f"a.{kind}"
    wide = Image.open(Path(__file__).parent.parent / "cases/adobe_icc.jpg").info["icc_profile"]
    profile = {"icc_profile": wide} if has_profile else {}
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).save(path, exif=turned(6), **profile)
    opened = open_image(path)
    again = as_image(opened)
    assert np.array_equal((again.movedim(0, -1).numpy() * 255).round(), np.asarray(opened))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_an_image_annotated_as_it_is_stored_stays_so(orientation: int, tmp_path: Path) -> None:
    stored, path = noise(HEIGHT, WIDTH, 3), tmp_path / "a.png"
    Image.fromarray(stored).save(path, exif=turned(orientation))
    assert image_size(path) == (HEIGHT, WIDTH)
    assert np.array_equal(pixels(path, WIDTH, HEIGHT), stored)
    assert np.array_equal(pixels(path, HEIGHT, WIDTH), upright(stored, orientation))


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_where_both_sizes_are_the_same_the_image_is_upright(orientation: int, tmp_path: Path) -> None:
    stored, square = noise(HEIGHT, WIDTH, 3), noise(5, 5, 3)
    Image.fromarray(stored).save(tmp_path / "a.png", exif=turned(orientation))
    Image.fromarray(square).save(tmp_path / "b.png", exif=turned(6))
    assert np.array_equal(pixels(tmp_path / "a.png"), upright(stored, orientation))
    assert np.array_equal(pixels(tmp_path / "b.png", 5, 5), upright(square, 6))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation: int, tmp_path: Path) -> None:
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).save(tmp_path / "a.png", exif=turned(orientation))
    assert np.array_equal(pixels(tmp_path / "a.png"), noise(HEIGHT, WIDTH, 3))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"", b"no EXIF at all", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_damaged_exif_does_not_matter(exif: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).save(path, exif=exif, **lossless(kind))
    assert image_size(path) == (WIDTH, HEIGHT)
    assert np.array_equal(pixels(path), noise(HEIGHT, WIDTH, 3))


def test_exif_that_pil_cannot_write_again_does_not_matter(tmp_path: Path) -> None:
    """ImageOps.exif_transpose writes all tags again and fails at a short that is text."""
    tags = [(0x0106, 2, 4, b"odd\0"), (ORIENTATION, 3, 1, struct.pack("<HH", 6, 0))]
    entries = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in tags)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "a.png", HEIGHT, WIDTH), upright(noise(HEIGHT, WIDTH, 3), 6))


# --- modes and formats ---


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_bits_and_palettes_become_rgb(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(noise(HEIGHT, WIDTH, 3)).convert(mode)
    image.save(tmp_path / "a.png")
    values = np.asarray(image)
    if mode == "P":
        expected = np.array(image.getpalette()).reshape(-1, 3)[values]
    else:
        expected = np.repeat(values[..., None] * (255 if mode == "1" else 1), 3, axis=2)
    assert np.array_equal(pixels(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", ["png", "tif", "webp"])
def test_transparent_pixels_lie_over_white(mode: str, kind: str, tmp_path: Path) -> None:
    layers = noise(HEIGHT, WIDTH, len(mode))
    layers[0, :, -1], layers[1, :, -1] = 0, 255
    image = Image.fromarray(layers, mode)
    image.save(tmp_path / f"a.{kind}", **lossless(kind))
    colour = layers[..., :-1].astype(float) if mode == "RGBA" else layers[..., [0, 0, 0]].astype(float)
    alpha = layers[..., -1:] / 255
    found = pixels(tmp_path / f"a.{kind}")
    assert np.abs(found - (alpha * colour + (1 - alpha) * 255)).max() <= 1
    assert (found[0] == 255).all() and np.array_equal(found[1], colour[1])


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_a_transparent_colour_of_a_palette_is_white(kind: str, tmp_path: Path) -> None:
    image = Image.new("P", (WIDTH, HEIGHT), 1)
    image.putpalette([9, 9, 9, 10, 200, 30, 5, 5, 5])
    image.paste(2, (0, 0, 3, HEIGHT))
    image.save(tmp_path / f"a.{kind}", transparency=2)
    found = pixels(tmp_path / f"a.{kind}")
    assert (found[:, :3] == 255).all() and (found[:, 3:] == [10, 200, 30]).all()


@pytest.mark.parametrize(("mode", "black"), [("RGB", (0, 0, 0)), ("L", 0), ("1", 0)])
def test_a_transparent_colour_without_palette_is_white(mode: str, black: Any, tmp_path: Path) -> None:
    image = Image.new(mode, (WIDTH, HEIGHT), "white")
    image.paste(black, (0, 0, 3, HEIGHT))
    image.save(tmp_path / "a.png", transparency=black)
    assert (pixels(tmp_path / "a.png") == 255).all()
    image.save(tmp_path / "b.png")
    assert (pixels(tmp_path / "b.png")[:, :3] == 0).all()


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(kind: str, tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535 - 128, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{kind}")
    expected = np.array([0, 0, 1, 1, 128, 255, 255])
    assert np.array_equal(pixels(tmp_path / f"a.{kind}", 7, 1), np.repeat(expected[None, :, None], 3, axis=2))


def test_a_dark_image_of_sixteen_bits_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 200, dtype=np.uint16)).save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == 1).all()


@pytest.mark.parametrize("orientation", [3, 6])
def test_sixteen_bits_are_turned_too(orientation: int, tmp_path: Path) -> None:
    values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 1028
    Image.fromarray(values).save(tmp_path / "a.png", exif=turned(orientation))
    expected = upright(np.repeat(values[..., None] // 257, 3, axis=2).astype(np.uint8), orientation)
    assert np.array_equal(pixels(tmp_path / "a.png", *image_size(tmp_path / "a.png")), expected)


@pytest.mark.parametrize(("value", "expected"), [(200, 200), (0, 0), (255, 255), (65535, 255), (-3, 0), (1 << 20, 255)])
def test_integers_of_32_bits_are_clipped(value: int, expected: int) -> None:
    assert (np.asarray(to_rgb(Image.new("I", (3, 2), value))) == expected).all()


def test_cmyk_has_the_colours_that_it_prints(tmp_path: Path) -> None:
    inks = {(0, 0, 0, 0): (255, 255, 255), (255, 0, 0, 0): (0, 255, 255), (0, 255, 255, 0): (255, 0, 0)}
    for number, (ink, colour) in enumerate((inks | {(0, 0, 0, 255): (0, 0, 0)}).items()):
        for kind in ("jpg", "tif"):
            path = tmp_path / f"{number}.{kind}"
            Image.new("CMYK", (16, 16), ink).save(path)
            assert np.abs(pixels(path, 16, 16).astype(int) - colour).max() <= 3


@pytest.mark.parametrize("kind", ["png", "webp", "tif", "bmp", "ppm"])
def test_lossless_formats_are_exact(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(noise(HEIGHT, WIDTH, 3))
    image.save(tmp_path / f"a.{kind}", **lossless(kind))
    assert image_size(tmp_path / f"a.{kind}") == (WIDTH, HEIGHT)
    assert np.array_equal(pixels(tmp_path / f"a.{kind}"), noise(HEIGHT, WIDTH, 3))


def test_of_many_frames_the_first_is_shown(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "lime", "blue")]
    for kind in ("gif", "tif", "webp", "png"):
        path = tmp_path / f"a.{kind}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert np.abs(pixels(path).astype(int) - [255, 0, 0]).max() <= 3


def test_a_file_is_what_it_holds_not_what_it_is_called(tmp_path: Path) -> None:
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(pixels(tmp_path / "a.jpg"), noise(HEIGHT, WIDTH, 3))


def test_a_colour_profile_does_not_matter(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).save(tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(pixels(tmp_path / "a.png"), noise(HEIGHT, WIDTH, 3))


# --- the header alone ---


@pytest.mark.parametrize(("kind", "share"), [("png", 0.2), ("jpg", 0.5), ("gif", 0.5), ("bmp", 0.2), ("ppm", 0.2)])
def test_the_size_needs_no_body(kind: str, share: float, tmp_path: Path) -> None:
    path, exif = tmp_path / f"a.{kind}", kind in ("png", "jpg")
    options: Options = {"exif": turned(6)} if exif else {}
    Image.fromarray(noise(60, 80, 3)).save(path, **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert image_size(path) == ((60, 80) if exif else (80, 60))
    refused(lambda: open_image(path, image_size(path)), f"a.{kind}: cannot be read as an image (", "get it again")


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif", "gif"])
def test_the_size_decodes_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(noise(60, 80, 3)).save(tmp_path / f"a.{kind}")

    decoded: list[object] = []
    with Image.open(tmp_path / f"a.{kind}") as file:
        monkeypatch.setattr(type(file), "load", lambda self: decoded.append(self))
    assert image_size(tmp_path / f"a.{kind}") == (80, 60) and not decoded


# --- what can't be read ---

READERS = [lambda path: open_image(path, (80, 60)), image_size]


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif", "gif"])
@pytest.mark.parametrize("share", [0.6, 0.95])
def test_a_truncated_image(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    Image.fromarray(noise(60, 80, 3)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(lambda: open_image(path, (80, 60)), f"{path}: ", "; get it again or remove it from the data set")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"<html><body>404 not found</body></html>", "is no image, or of a format that PIL does not know"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read as an image ("),
        (b"\xff\xd8\xff", "is no image, or of a format that PIL does not know"),
        (b"RIFF\x04\0\0\0WEBP", "is no image, or of a format"),
        (b"\0" * 1000, "is no image, or of a format"),
    ],
)
def test_a_file_that_is_no_image(read: Callable[[Path], object], content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    refused(lambda: read(path), f"{path}: ", "; get it again or remove it")
    if not content or content.startswith(b"<"):
        refused(lambda: read(path), f"{path}: {problem}; ")


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_file(read: Callable[[Path], object], tmp_path: Path) -> None:
    missing = "no such image; put it there or remove it from the data set"
    refused(lambda: read(tmp_path / "gone.png"), f"{tmp_path / 'gone.png'}: {missing}")
    refused(lambda: read(tmp_path / "no/such/folder.png"), f"folder.png: {missing}")
    refused(lambda: read(tmp_path), f"{tmp_path}: cannot be read as an image (", "s a directory", "; get it again")
    (tmp_path / "file").write_bytes(b"1")
    for name in ("file/a.png", "n" * 300 + ".png", "a\0b.png"):
        refused(partial(read, tmp_path / name), "get it again")


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT + 1), (1, 1), (HEIGHT, WIDTH)])
def test_an_image_of_another_size(size: tuple[int, int], tmp_path: Path) -> None:
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).save(tmp_path / "a.png")
    problem = f"a.png: is 7x5 but {size[0]}x{size[1]} was annotated; use the image that was annotated or correct"
    refused(lambda: open_image(tmp_path / "a.png", size), problem)


def test_a_turned_image_of_another_size_is_told_upright(tmp_path: Path) -> None:
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).save(tmp_path / "a.png", exif=turned(6))
    refused(lambda: open_image(tmp_path / "a.png", (6, 6)), "a.png: is 5x7 but 6x6 was annotated")


def test_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (80, 60)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for read in READERS:
        refused(partial(read, tmp_path / "a.png"), "a.png: cannot be read as an image (", "; get it again")


def saved(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(9, 11, 3)).save(file, kind, **options)
    return file.getvalue()


FILES = [
    saved("PNG", exif=turned(6)),
    saved("JPEG", exif=turned(6)),
    saved("WEBP", exif=turned(6)),
    saved("TIFF", exif=turned(6)),
    saved("GIF"),
    saved("BMP"),
]


@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4), st.integers(0, 4)), min_size=1, max_size=5),
    st.integers(0, 2000),
)
@pytest.mark.filterwarnings("ignore")
def test_any_damage_is_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, damage: list[tuple[int, bytes, int]], length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    for start, new, old in damage:
        content = content[:start] + new + content[start + old :]
    path.write_bytes(content[: max(length, 20)])
    for read in (image_size, lambda path: open_image(path, (9, 11)), lambda path: open_image(path, (11, 9))):
        try:
            read(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and "; " in str(error) and "\n" not in str(error)
