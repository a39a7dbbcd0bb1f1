"""Opening pictures of any kind as upright RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from locinv_pl.errors import InputError, one_line

ORIENTATION = 0x0112  # EXIF's tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by its value: what makes the picture upright


def read_picture(path: Path, width: int, height: int) -> Image.Image:
    """Open a picture, upright and RGB, that is known to be ``width`` x ``height``.

    Where only the pixels as they are stored have that size, not the upright picture, that is what was annotated,
    and they stay as they are stored.

    Raises:
        InputError: missing, unreadable, truncated, or of another size.
    """
    with _opened(path) as file:
        turn = _turn(file)
        if file.size == (width, height) != _turned(file.size, turn):
            turn = None
        picture = to_rgb(file if turn is None else file.transpose(turn))
    if picture.size != (width, height):
        raise InputError(
            f"{path}: is {picture.width}x{picture.height} but {width}x{height} was annotated; "
            f"use the picture that was annotated or correct the annotation"
        )
    return picture


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright picture, from its file's header alone.

    Raises:
        InputError: missing or no picture.
    """
    with _opened(path) as file:
        return _turned(file.size, _turn(file))


def to_rgb(picture: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits are scaled to 8, transparent pixels become white."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float64)
        scale = 257 if picture.mode.startswith("I;16") or values.max(initial=0) > 255 else 1
        picture = Image.fromarray((values / scale).clip(0, 255).round().astype(np.uint8))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def _turn(file: Image.Image) -> Image.Transpose | None:
    """What makes a picture upright, by the EXIF of its file's header; nothing where that is damaged."""
    if file.format == "TIFF":  # PIL turns them itself
        return None
    try:
        exif = Image.Image.getexif(file)  # a PNG's own reads all of the file
    except Exception:
        return None
    return TURNS.get(exif.get(ORIENTATION, 1))


def _turned(size: tuple[int, int], turn: Image.Transpose | None) -> tuple[int, int]:
    """(width, height) of what has ``size`` before a turn."""
    width, height = size
    return (height, width) if turn in [TURNS[value] for value in (5, 6, 7, 8)] else (width, height)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture's file; whatever PIL raises while it is read becomes one clear line."""
    mend = "get it again or remove it from the data set"
    try:
        with Image.open(path) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such picture; put it there or remove it from the data set") from None
    except UnidentifiedImageError:
        empty = path.is_file() and path.stat().st_size == 0
        problem = "the file is empty" if empty else "is no picture, or of a format that PIL does not know"
        raise InputError(f"{path}: {problem}; {mend}") from None
    except InputError:
        raise
    except Exception as error:  # PIL's readers raise all kinds
        problem = one_line(str(error)) or type(error).__name__
        raise InputError(f"{path}: cannot be read as a picture ({problem}); {mend}") from None
