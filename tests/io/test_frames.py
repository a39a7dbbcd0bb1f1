"""Frames: images, masks and boxes of any shape go through one window, and stay on each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from locinv_pl.io.frames import Fit, Frame
from locinv_pl.priors import Box, box_mask, prior_on_grid, resample

FITS: tuple[Fit, ...] = get_args(Fit)
SIZES = [(640, 427), (375, 500), (333, 1000), (1280, 724), (512, 512), (97, 61)]  # width x height
SIDE, CELL, SAMPLES = 512, 32, 64
Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]
quick = settings(derandomize=True, deadline=None, max_examples=150)


def written_out(width: int, height: int, side: int, fit: Fit) -> tuple[Box, tuple[int, int]]:
    """Window and size (H, W), once more."""
    if fit == "native":
        short = max(64, 64 * round(side / 64))
        long = max(short, 64 * round(short * min(4, max(width, height) / min(width, height)) / 64))
        W, H = (long, short) if width >= height else (short, long)
        scale = max(W / width, H / height)
        w, h = W / scale, H / scale
        return ((width - w) / 2, (height - h) / 2, w, h), (H, W)
    edge = {"crop": min, "pad": max}[fit](width, height)
    return (math.floor((width - edge) / 2), math.floor((height - edge) / 2), edge, edge), (side, side)


def shapes(width: int, height: int) -> dict[str, Inside]:
    """Whether points, in pixels of the image, are inside of a shape."""
    cx, cy, small = 0.45 * width, 0.55 * height, min(width, height)
    corners = [(0.1 * width, 0.2 * height), (0.9 * width, 0.35 * height), (0.35 * width, 0.95 * height)]
    edges = list(zip(corners, [*corners[1:], corners[0]], strict=True))

    def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        sides = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0 for (ax, ay), (bx, by) in edges]
        return np.logical_and.reduce(sides)

    return {
        "triangle": triangle,
        "ellipse": lambda x, y: ((x - cx) / (0.4 * width)) ** 2 + ((y - cy) / (0.3 * height)) ** 2 <= 1,
        "disc": lambda x, y: (x - cx) ** 2 + (y - cy) ** 2 <= (0.17 * small) ** 2,
        "disc at the border": lambda x, y: (x - width) ** 2 + (y - 0.5 * height) ** 2 <= (0.3 * small) ** 2,
        "box": lambda x, y: (abs(x - cx) <= 0.21 * width) & (abs(y - cy) <= 0.13 * height),
    }


def drawn(inside: Inside, width: int, height: int) -> np.ndarray:
    """The mask (H, W): pixels whose centre is inside."""
    y, x = np.mgrid[:height, :width] + 0.5
    return inside(x, y)


def supersampled(inside: Inside, window: Box, grid: tuple[int, int], width: int, height: int) -> np.ndarray:
    """Share of every grid cell that a shape covers, by points on the image."""
    x, y, w, h = window
    (r, c), n = grid, SAMPLES
    points = np.meshgrid(x + (np.arange(c * n) + 0.5) * w / (c * n), y + (np.arange(r * n) + 0.5) * h / (r * n))
    found = inside(*points) & (points[0] >= 0) & (points[0] <= width) & (points[1] >= 0) & (points[1] <= height)
    return found.reshape(r, n, c, n).mean((1, 3))


def area_of_overlap(box: Box, window: Box, grid: tuple[int, int], width: int, height: int) -> np.ndarray:
    """The same of a box, exactly."""

    def along(start: float, length: float, first: float, extent: float, cells: int, pixels: int) -> list[float]:
        step, low, high = extent / cells, max(start, 0), min(start + length, pixels)
        edges = [first + k * step for k in range(cells + 1)]
        return [max(0.0, min(b, high) - max(a, low)) / step for a, b in zip(edges, edges[1:], strict=False)]

    rows = along(box[1], box[3], window[1], window[3], grid[0], height)
    return np.outer(rows, along(box[0], box[2], window[0], window[2], grid[1], width))


def white_where(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255)


# --- the window and the size ---


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("side", [512, 768, 100, 1])
def test_crop_and_pad_are_squares_round_the_centre(width: int, height: int, side: int) -> None:
    for fit in ("crop", "pad"):
        frame = Frame.fitting(width, height, side, fit)  # type: ignore[arg-type]
        x, y, w, h = frame.window
        assert frame.size == (side, side)
        assert w == h == (min if fit == "crop" else max)(width, height)
        assert abs(x + w / 2 - width / 2) <= 0.5 and abs(y + h / 2 - height / 2) <= 0.5
        assert x == int(x) and y == int(y)


@quick
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 600), st.sampled_from(FITS))
def test_the_geometry_is_that_written_out(width: int, height: int, side: int, fit: Fit) -> None:
    window, size = written_out(width, height, side, fit)
    frame = Frame.fitting(width, height, side, fit)
    assert frame.size == size
    assert frame.window == pytest.approx(window, rel=1e-9, abs=1e-9)


@quick
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 600))
def test_native_keeps_the_shape_in_multiples_of_64(width: int, height: int, side: int) -> None:
    frame = Frame.fitting(width, height, side, "native")
    (H, W), (x, y, w, h) = frame.size, frame.window
    assert H % 64 == W % 64 == 0 and (W - H) * (width - height) >= 0
    short, long = min(H, W), max(H, W)
    assert short == 64 or abs(short - side) <= 32
    assert abs(long - short * min(4, max(width, height) / min(width, height))) <= 32 + 1e-6
    assert w / h == pytest.approx(W / H, rel=1e-12)
    assert min(x, y) >= 0 and x + w <= width * (1 + 1e-12) and y + h <= height * (1 + 1e-12)
    assert w == width or h == height
    assert (x + w / 2, y + h / 2) == pytest.approx((width / 2, height / 2))


def test_panoramas_are_cut_off_at_four_to_one() -> None:
    assert Frame.fitting(9000, 100, 128, "native").size == (128, 512)


def test_native_sizes_of_common_images() -> None:
    sizes = {(640, 427): (512, 768), (375, 500): (704, 512), (1280, 724): (512, 896), (500, 500): (512, 512)}
    assert {size: Frame.fitting(*size, 512, "native").size for size in sizes} == sizes


# --- masks onto the attention grid, the project's bar ---


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_mask_on_the_grid_is_the_shape_on_the_grid(width: int, height: int, fit: Fit) -> None:
    frame = Frame.fitting(width, height, SIDE, fit)
    window, size = written_out(width, height, SIDE, fit)
    grid = (size[0] // CELL, size[1] // CELL)
    for name, inside in shapes(width, height).items():
        plane = frame.plane(torch.from_numpy(drawn(inside, width, height)))
        found = prior_on_grid(plane, grid).numpy()
        expected = supersampled(inside, window, grid, width, height)
        assert plane.shape == size and (expected.any() or name == "disc at the border")
        error = np.abs(found - expected)
        assert error.mean() < (0.02 if min(width, height) < 300 else 0.005), (name, error.mean())
        assert error.max() < (0.3 if min(width, height) < 300 else 0.1), (name, error.max())


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_box_on_the_grid_is_exact(width: int, height: int, fit: Fit) -> None:
    frame = Frame.fitting(width, height, SIDE, fit)
    window, size = written_out(width, height, SIDE, fit)
    grid = (size[0] // CELL, size[1] // CELL)
    for box in [
        (0.1 * width, 0.3 * height, 0.5 * width + 0.37, 0.4 * height + 0.11),
        (width / 2 - 0.4, height / 2 - 0.3, 1.3, 0.9),
        (0.0, 0.0, float(width), float(height)),
        (0.61 * width, 0.7 * height, 0.39 * width, 0.3 * height),
    ]:
        found = prior_on_grid(frame.box_plane(box), grid).numpy()
        expected = area_of_overlap(box, window, grid, width, height)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@quick
@given(st.data(), st.sampled_from(FITS))
def test_two_steps_onto_the_grid_are_one(data: st.DataObject, fit: Fit) -> None:
    width, height = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    assume(fit != "native" or max(width, height) <= 8 * min(width, height))
    grid = data.draw(st.integers(1, 8))
    frame = Frame.fitting(width, height, grid * data.draw(st.integers(1, 8)), fit)
    mask = torch.from_numpy(np.random.default_rng(width * height).random((height, width)) < 0.3)
    plane = frame.plane(mask)
    assert plane.dtype == torch.float32 and tuple(plane.shape) == frame.size
    assert plane.min() >= 0 and plane.max() <= 1
    cells = (grid, grid) if fit != "native" else (frame.size[0] // 8, frame.size[1] // 8)
    direct = resample(mask.double(), frame.window, cells).float()
    torch.testing.assert_close(prior_on_grid(plane, cells), direct, rtol=0, atol=1e-5)


# --- planes ---


@quick
@given(st.integers(1, 120), st.integers(1, 120), st.integers(1, 100))
def test_pad_loses_nothing(width: int, height: int, side: int) -> None:
    mask = torch.from_numpy(np.random.default_rng(side).random((height, width)) < 0.5)
    plane = Frame.fitting(width, height, side, "pad").plane(mask)
    pixels = (max(width, height) / side) ** 2
    assert plane.double().sum().item() * pixels == pytest.approx(mask.sum().item(), rel=1e-5, abs=1e-5)


@quick
@given(st.integers(1, 120), st.integers(1, 120), st.integers(1, 100))
def test_crop_keeps_the_area_of_the_centre(width: int, height: int, side: int) -> None:
    mask = torch.from_numpy(np.random.default_rng(side).random((height, width)) < 0.5)
    plane = Frame.fitting(width, height, side).plane(mask)
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    centre = mask[top : top + edge, left : left + edge]
    assert plane.double().sum().item() * (edge / side) ** 2 == pytest.approx(centre.sum().item(), rel=1e-5, abs=1e-5)


def test_a_window_beyond_the_plane_shows_zeros() -> None:
    plane = torch.arange(1.0, 13).reshape(3, 4)
    shown = resample(plane, (-1, 1, 4, 4), (4, 4))
    expected = torch.zeros(4, 4)
    expected[:2, 1:] = plane[1:, :3]
    assert torch.equal(shown, expected)
    assert resample(plane, (10, 10, 2, 2), (3, 3)).sum() == 0


def test_a_window_between_pixels_mixes_them() -> None:
    plane = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    assert torch.equal(resample(plane, (0.25, 0, 3, 1), (1, 3)), torch.tensor([[0.25, 0.75, 0.25]]))
    assert torch.equal(resample(plane, (0.5, 0, 1, 1), (2, 2)), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float64])
def test_any_number_of_planes_of_any_dtype(dtype: torch.dtype) -> None:
    planes = (torch.rand(2, 3, 8, 6, generator=torch.Generator().manual_seed(0)) < 0.5).to(dtype)
    found = resample(planes, (1, 2, 4, 4), (2, 2))
    assert found.dtype == (dtype if dtype.is_floating_point else torch.float32)
    expected = torch.nn.functional.avg_pool2d(planes[..., 2:6, 1:5].float(), 2)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-6)


# --- images ---


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_image_and_mask_move_together(width: int, height: int, fit: Fit) -> None:
    frame = Frame.fitting(width, height, 256, fit)
    for name, inside in shapes(width, height).items():
        mask = drawn(inside, width, height)
        image = np.asarray(frame.apply(white_where(mask)))[..., 0] / 255
        plane = frame.plane(torch.from_numpy(mask)).numpy()
        assert image.shape == plane.shape == frame.size
        assert np.abs(image - plane).mean() < 0.01, name
        if name == "disc at the border" and not plane.any():
            continue
        y, x = np.mgrid[: frame.size[0], : frame.size[1]] + 0.5
        centres = [np.array([(p * x).sum(), (p * y).sum()]) / p.sum() for p in (image, plane)]
        assert np.abs(centres[0] - centres[1]).max() < (0.1 if frame.size[0] < width else 0.5), name


@pytest.mark.parametrize(("width", "height"), [(64, 40), (40, 64), (65, 40), (640, 1)])
def test_pad_shows_the_whole_image_between_black_bars(width: int, height: int) -> None:
    frame = Frame.fitting(width, height, 64, "pad")
    shown = np.asarray(frame.apply(Image.new("RGB", (width, height), "white")))
    plane = frame.plane(torch.ones(height, width))
    bar = (64 - 64 * min(width, height) / max(width, height)) / 2
    along = shown[:, 32, 0] if width > height else shown[32, :, 0]
    prior = plane[:, 32] if width > height else plane[32]
    outer = math.floor(bar) - 3
    assert (along[:outer] == 0).all() and (along[64 - outer :] == 0).all()
    assert (prior[: math.floor(bar) - 1] == 0).all() and (prior[64 - math.floor(bar) + 1 :] == 0).all()
    inner = math.ceil(bar) + 3
    assert (along[inner : 64 - inner] == 255).all() and (prior[inner : 64 - inner] > 1 - 1e-6).all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_black_bleeds_into_an_image_that_is_filled(width: int, height: int, fit: Fit) -> None:
    if fit == "pad" and width != height:
        return
    for side in (64, 200, 512):
        shown = np.asarray(Frame.fitting(width, height, side, fit).apply(Image.new("RGB", (width, height), "white")))
        assert shown.min() == 255


@quick
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 600), st.sampled_from(FITS))
def test_any_image_comes_out_at_the_size(width: int, height: int, side: int, fit: Fit) -> None:
    frame = Frame.fitting(width, height, side, fit)
    assume(math.prod(frame.size) <= 1_000_000 and frame.window[2] * frame.window[3] <= 2_000_000)
    shown = frame.apply(Image.new("L", (width, height), 200))
    assert shown.size == frame.size[::-1]
    assert np.asarray(shown).max() <= (200 if fit != "pad" else 255)


@pytest.mark.parametrize(
    ("fit", "width", "height", "side"),
    [
        ("crop", 48, 48, 48),
        ("pad", 48, 48, 48),
        ("native", 192, 128, 128),
        ("native", 64, 64, 64),
        ("crop", 60, 48, 48),
    ],
)
def test_what_has_the_size_already_is_untouched(fit: Fit, width: int, height: int, side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(0))
    frame = Frame.fitting(width, height, side, fit)
    shown = slice((width - frame.size[1]) // 2, (width + frame.size[1]) // 2)
    assert np.array_equal(np.asarray(frame.apply(Image.fromarray(pixels))), pixels[:, shown])
    assert torch.equal(frame.plane(mask), mask[:, shown])
    assert frame.box((20.0, 30.0, 5.0, 7.0)) == (20.0 - shown.start, 30.0, 5.0, 7.0)


# --- boxes ---


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_box_is_the_box_of_the_framed_mask(width: int, height: int, fit: Fit) -> None:
    frame = Frame.fitting(width, height, SIDE, fit)
    box = (round(0.4 * width), round(0.4 * height), round(0.2 * width), round(0.25 * height))
    plane = frame.plane(box_mask(box, (height, width)))
    x, y, w, h = frame.box(box)
    rows, columns = (torch.nonzero(plane.amax(axis) > 1e-6)[:, 0].tolist() for axis in (1, 0))
    assert (columns[0], columns[-1] + 1) == (max(0, math.floor(x + 1e-5)), min(frame.size[1], math.ceil(x + w - 1e-5)))
    assert (rows[0], rows[-1] + 1) == (max(0, math.floor(y + 1e-5)), min(frame.size[0], math.ceil(y + h - 1e-5)))
    torch.testing.assert_close(frame.box_plane(box), plane, rtol=0, atol=1e-5)


@quick
@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(1, 600),
    st.sampled_from(FITS),
    st.tuples(*[st.floats(0, 3000)] * 4),
)
def test_a_box_keeps_its_place_in_the_window(width: int, height: int, side: int, fit: Fit, box: Box) -> None:
    frame = Frame.fitting(width, height, side, fit)
    (left, top, across, down), (H, W) = frame.window, frame.size
    x, y, w, h = frame.box(box)
    back = (left + x * across / W, top + y * down / H, w * across / W, h * down / H)
    assert back == pytest.approx(box, rel=1e-9, abs=1e-6)
