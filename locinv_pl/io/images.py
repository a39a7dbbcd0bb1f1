"""Images and masks, opened one way wherever they come from: files, PIL images, arrays, tensors.

An image is upright, in sRGB, of eight bits, over white. A mask says of every pixel whether it is in.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from locinv_pl.errors import InputError, one_line
from locinv_pl.io.reading import expanded, regular_file

Size = tuple[int, int]  # (width, height)
AnyImage = Tensor | np.ndarray | Image.Image | str | Path
ORIENTATION = 0x0112  # EXIF's tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by its value: what makes the image upright
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Formats of images; others that PIL opens are containers, fonts, or programs that it would run."""
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
COLOURED = 48  # of 255: grey that was JPEG-compressed has less between its channels
LABELS = 64  # numbers up to this one, when there are more than two, number objects
EVEN = 0.1  # of the largest value: what differs by less is of one value
SLACK = 0.05  # what resampling overshoots [0, 1] by


def open_image(path: Path, size: Size | None = None) -> Image.Image:
    """A file as an upright RGB image.

    Args:
        path: the image's file, in one of :data:`FORMATS`.
        size: (width, height) that the image was annotated at; unchecked by default. Where the stored pixels have that
            size but the upright image doesn't, the stored pixels were annotated and aren't turned.

    Raises:
        InputError: missing, unreadable, truncated, or of another size.
    """
    with _opened(path, whole=True) as file:
        image = to_rgb(_upright(file, size))
    image.info = {}  # what turns it and what its colours are has been heeded
    if size is not None and image.size != size:
        raise InputError(
            f"{path}: is {image.width}x{image.height} but {size[0]}x{size[1]} was annotated; "
            f"use the image that was annotated or correct the annotation"
        )
    return image


def image_size(path: Path) -> Size:
    """(width, height) of the upright image, from its file's header alone.

    Raises:
        InputError: missing or no image.
    """
    with _opened(path) as file:
        return _turned(file.size, _turn(file))


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode: in sRGB where a profile says what the colours are, 8 bits, transparent pixels white.

    Raises:
        ValueError: its numbers have no scale.
    """
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bits(image))
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")
    image = (_in_srgb(image, profile) if profile else image).convert("RGB")
    return image if alpha is None else _over_white(image, alpha)


def as_image(image: AnyImage) -> Tensor:
    """An image of any kind, as :func:`open_image` would read it, (3, H, W) in [0, 1].

    Args:
        image: a file; a PIL image; a (3, H, W) tensor or an (H, W), (H, W, 3) or (H, W, 4) array: integers of 8 or
            16 bits are scaled by their type, floats are in [0, 1].

    Raises:
        InputError: the value isn't an image, or its numbers are on no known scale.
    """
    if isinstance(image, (str, Path)):
        image = open_image(expanded(image))
    elif isinstance(image, Image.Image):
        with _readably("image", "give another image"):
            image = to_rgb(_upright(image))
    if isinstance(image, Image.Image):
        image = np.array(image)
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 4 and image.size:
            image = np.array(to_rgb(Image.fromarray(image)))
        image = _tensor(image, "image")
        image = image[None].expand(3, -1, -1) if image.ndim == 2 else image.movedim(-1, 0)
    if not isinstance(image, Tensor):
        raise InputError(f"image: a {type(image).__name__} is no image; give a file, a PIL image, an array or a tensor")
    if image.ndim != 3 or len(image) != 3 or not image.numel():
        raise InputError(f"image: shape {tuple(image.shape)} is not (3, H, W) of at least one pixel")
    return _unit(image)


def open_mask(path: Path, size: Size, value: int | None = None) -> np.ndarray:
    """The pixels of a mask in a file, (H, W) bool.

    Args:
        path: the mask's file.
        size: (width, height) of its image; the mask must have it, and is turned upright like an image.
        value: the pixels of this number in an index image, whose palette then does not matter; by default what
            :func:`cut` takes.

    Raises:
        InputError: missing, unreadable, of another size, no mask, or empty.
    """
    with mask_file(path, size) as file:
        if value is None:
            mask = cut(file, f"{path}: the mask")
        elif file.mode in ("1", "L", "P", "I", "LA", "F") or file.mode.startswith("I;16"):
            values = np.asarray(file.getchannel("L") if file.mode == "LA" else file)
            mask = values == value
        else:
            raise InputError(f"{path}: the mask has mode {file.mode}, not one channel; write it again, in numbers")
    if not mask.any():
        what = "is empty" if value is None else f"has no pixel of value {value}"
        raise InputError(f"{path}: the mask {what}; draw it again")
    return mask


@contextmanager
def mask_file(path: Path, size: Size | None = None) -> Iterator[Image.Image]:
    """A mask's file, opened and upright; what is wrong with it, here or in the block, becomes one clear line.

    Raises:
        InputError: missing, unreadable, of another size.
    """
    try:
        with (
            _readably(f"{path}: the mask", "write it again, as an image of one channel"),
            _open(path, whole=True) as file,
        ):
            image = _upright(file, size)
            if size is not None and image.size != size:
                raise InputError(
                    f"{path}: the mask is {image.width}x{image.height} but its image {size[0]}x{size[1]}; "
                    f"make both the same size"
                )
            yield image
    except FileNotFoundError:
        raise InputError(f"{path}: no such mask; put it there or correct its name") from None


def cut(mask: Image.Image, name: str) -> np.ndarray:
    """Which pixels of a mask's image are in, (H, W) bool.

    Values count from half of the largest on, whatever their scale: 0 and 1, 0 and 255, soft edges, traces of JPEG.
    The palette says what indices look like. Where colour says nothing, transparency is the mask.

    Args:
        mask: the mask's image, of any mode.
        name: the start of the error, as "cat.png: the mask".

    Raises:
        InputError: the mask is in colours or holds labels, so that it is unclear which pixels are meant.
    """
    values, alpha = _values(mask), None
    if mask.has_transparency_data:
        alpha = np.asarray(mask.convert("RGBA").getchannel("A")) >= 128
    if alpha is not None and not alpha.all():
        if values is None or not alpha.any() or not _differ(values[alpha]):
            return alpha
        return (values >= values[alpha].max() / 2) & alpha
    if values is None:
        raise InputError(
            f"{name} is in colour, not one channel; write white on black, or, where its colours are labels, "
            f"{{index: FILE, value: N}} of an image of numbers"
        )
    return cut_values(values, name)


def cut_values(values: np.ndarray, name: str) -> np.ndarray:
    """Numbers from half of the largest on, where some are below that, else the upper half of those there are.

    Args:
        values: shape (H, W), 0 or more, on any scale.
        name: the start of the error, as "noun 'cat': its mask".

    Raises:
        InputError: some are negative or not finite, or they are labels.
    """
    if not np.isfinite(values).all() or values.min(initial=0) < 0:
        raise InputError(f"{name} holds numbers that are negative or not finite; write it again, from 0 to 1")
    top = values.max(initial=0)
    if 1 < top <= LABELS and np.array_equal(values, np.round(values)):
        labels = np.unique(values).astype(int)
        if len(labels) > 2:
            told = ", ".join(map(str, labels[:4])) + (", …" if len(labels) > 4 else "")
            raise InputError(f"{name} holds the numbers {told}, which are labels; name one: {{index: FILE, value: N}}")
    low = values.min(initial=top)
    if low < top / 2 or top - low <= EVEN * top:
        return (values > 0) & (values >= top / 2)
    return values >= (low + top) / 2  # of two lights the brighter


def as_mask(mask: Any, size: Size, name: str) -> Tensor:
    """A mask of any kind as :func:`open_mask` would read it, (H, W) in [0, 1]; soft where it is floats in [0, 1].

    Args:
        mask: a file, a PIL image, an (H, W) array or tensor of truth values, of integers, or of floats.
        size: (width, height) of its image.
        name: the start of the error, as "noun 'cat'".

    Raises:
        InputError: the value isn't a mask, or has another size than its image.
    """
    if isinstance(mask, (str, Path)):
        return torch.from_numpy(open_mask(expanded(mask), size)).float()
    name = f"{name}: its mask"
    if isinstance(mask, Image.Image):
        with _readably(name, "give another mask"):
            return torch.from_numpy(cut(_upright(mask, size), name)).float()
    plane = mask if isinstance(mask, Tensor) else _tensor(mask, name)
    if plane.ndim == 3 and plane.dtype == torch.uint8 and plane.shape[-1] in (2, 3, 4):
        return torch.from_numpy(cut(Image.fromarray(plane.cpu().numpy()), name)).float()
    if plane.ndim == 3 and 1 in (len(plane), plane.shape[-1]):
        plane = plane.squeeze(0 if len(plane) == 1 else -1)
    if plane.ndim != 2:
        raise InputError(f"{name} has shape {tuple(plane.shape)}; give (H, W), or a box of four numbers")
    if plane.dtype == torch.bool:
        return plane.float()
    if plane.is_complex():
        raise InputError(f"{name} holds complex numbers; give truth values")
    if plane.is_floating_point() and plane.numel() and plane.min() >= 0 and plane.max() <= 1:
        return plane.float()
    return torch.from_numpy(cut_values(plane.detach().cpu().double().numpy(), name)).float()


def _values(mask: Image.Image) -> np.ndarray | None:
    """What a mask's pixels say, without transparency, from 0 up; None where that is colours."""
    if mask.mode.startswith("I") or mask.mode in ("F", "1", "L"):
        return np.asarray(mask).astype(np.float64)
    colours = np.asarray(mask.convert("RGB")).astype(np.float64)
    spread = np.ptp(colours, axis=-1)
    if spread.max(initial=0) <= COLOURED:
        return colours.mean(-1)
    values = colours.max(-1)  # one colour on black
    inside = values >= values.max() / 2
    is_one = np.ptp(colours[inside], axis=0).max() <= 0.6 * values.max()
    return values if is_one and not inside.all() else None


def _differ(values: np.ndarray) -> bool:
    """Whether values are a mask: some in and some out, not all but the same."""
    return bool((values < values.max() / 2).any())


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Integers of 16 or 32 bits, or floats, as 8 bits: the type says the scale, or the largest number."""
    values = np.asarray(image, dtype=np.float64)
    top = values.max(initial=0)
    if image.mode == "F" and (not np.isfinite(values).all() or values.min(initial=0) < -SLACK or top > 65535):
        raise ValueError("its floats are not in 0..1, 0..255 or 0..65535")
    scale = 1.0
    if image.mode.startswith("I;16") or top > 255:
        scale = 257
    elif image.mode == "F" and top <= 1 + SLACK:
        scale = 1 / 255
    return (values / scale).clip(0, 255).round().astype(np.uint8)


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The colours that a profile means; as they are where it means sRGB, or nothing that fits."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), image.mode, "RGB")
        if image.mode == "RGB":
            steps = np.linspace(0, 255, 6).round().astype(np.uint8)
            probe = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 6, 3)
            seen = np.asarray(ImageCms.applyTransform(Image.fromarray(probe), transform))
            if np.abs(seen.astype(int) - probe).max() <= 1:  # rounding alone
                return image
        return ImageCms.applyTransform(image, transform) or image
    except (ImageCms.PyCMSError, OSError, ValueError):  # damaged, or of other channels: every viewer leaves it out
        return image


def _over_white(image: Image.Image, alpha: Image.Image) -> Image.Image:
    image.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _tensor(values: Any, name: str) -> Tensor:
    try:
        array = np.asarray(values)
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    except (TypeError, ValueError):
        raise InputError(f"{name}: {type(values).__name__} of no numbers; give an array of uint8 or floats") from None


def _unit(image: Tensor) -> Tensor:
    """Pixels in [0, 1] in float32, from integers by their type."""
    if image.is_complex():
        raise InputError("image: complex numbers are no pixels; give floats in 0..1 or uint8")
    if image.dtype == torch.bool:
        return image.float()
    if not image.is_floating_point():
        wide = image.dtype == torch.uint16
        values = image.to(torch.int64)
        if values.min() < 0 or values.max() > (65535 if wide else 255):
            raise InputError(
                f"image: integers from {values.min()} to {values.max()} have no known scale; "
                f"give uint8, uint16 or floats in 0..1"
            )
        return values.float() / (65535 if wide else 255)
    low, high = image.min().item(), image.max().item()
    if not (low >= -SLACK and high <= 1 + SLACK):  # nor with NaN
        mend = "(x + 1) / 2" if -1.5 < low < 0 and high < 1.5 else "x / 255"
        raise InputError(f"image: floats from {low:.4g} to {high:.4g} are not in 0..1; give {mend}, or uint8")
    if not image.isfinite().all():
        raise InputError("image: some pixels are no finite numbers; mend them")
    return image.float().clamp(0, 1)


def _upright(file: Image.Image, size: Size | None = None) -> Image.Image:
    turn = _turn(file)
    if file.size == size != _turned(file.size, turn):
        turn = None
    return file if turn is None else file.transpose(turn)


def _turn(file: Image.Image) -> Image.Transpose | None:
    """What makes an image upright, by the EXIF of its file's header; nothing where that is damaged."""
    if file.format == "TIFF":  # PIL turns them itself
        return None
    try:
        exif = Image.Image.getexif(file)  # a PNG's own reads all of the file
    except Exception:
        return None
    return TURNS.get(exif.get(ORIENTATION, 1))


def _turned(size: Size, turn: Image.Transpose | None) -> Size:
    """(width, height) of what has ``size`` before a turn."""
    width, height = size
    return (height, width) if turn in [TURNS[value] for value in (5, 6, 7, 8)] else (width, height)


def _open(path: Path, whole: bool) -> Image.Image:
    """PIL's image of a regular file of a known format; HEIC is made known to PIL first.

    ``whole`` holds a PNG's pixels against its checksums, which PIL doesn't ask for by itself.
    """
    with regular_file(path).open("rb") as file:
        head = file.read(64)
    if head[4:8] == b"ftyp" and head[8:12] in HEIC and b"avif" not in head:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise InputError(f'{path}: is HEIC; pip install "locinv_pl[heic]" reads it, or save it as JPEG') from None
        register_heif_opener()
    Image.init()
    formats = [format for format in FORMATS if format in Image.OPEN]
    if whole and head.startswith(b"\x89PNG"):
        with Image.open(path, formats=formats) as file:
            file.verify()
    return Image.open(path, formats=formats)


@contextmanager
def _readably(name: str, mend: str) -> Iterator[None]:
    """A block that reads an image: whatever PIL raises becomes one clear line, but a missing file."""
    try:
        yield
    except (InputError, FileNotFoundError):
        raise
    except Exception as error:  # PIL's readers raise all kinds
        problem = type(error).__name__ if isinstance(error, UnidentifiedImageError) else one_line(str(error))
        raise InputError(f"{name} cannot be read ({problem or type(error).__name__}); {mend}") from None


@contextmanager
def _opened(path: Path, whole: bool = False) -> Iterator[Image.Image]:
    """An image's file; whatever PIL raises while it is read becomes one clear line."""
    mend = "get it again or remove it from the data set"
    try:
        with _open(path, whole) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such image; put it there or remove it from the data set") from None
    except UnidentifiedImageError:
        empty = path.is_file() and path.stat().st_size == 0
        problem = "the file is empty" if empty else "is no image, or of a format that PIL does not know"
        raise InputError(f"{path}: {problem}; {mend}") from None
    except InputError:
        raise
    except Exception as error:  # PIL's readers raise all kinds
        problem = (isinstance(error, OSError) and error.strerror) or one_line(str(error)) or type(error).__name__
        raise InputError(f"{path}: cannot be read as an image ({problem}); {mend}") from None
