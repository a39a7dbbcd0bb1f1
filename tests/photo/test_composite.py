"""An edit put back into the photograph that it is of, at the photograph's own size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_image
from PIL import Image
from torch import Tensor

from locinv_pl.drawing import to_array
from locinv_pl.io.frames import Fit, Frame
from locinv_pl.io.images import as_image
from locinv_pl.photo import Photo, composite, open_photo

CELLS, CELL = 16, 8  # of a frame of 128 pixels
SIZES = [(640, 427), (375, 500), (90, 61), (128, 128), (61, 97)]  # width x height
FITS: tuple[Fit, ...] = ("crop", "pad", "native")


def slope(width: int, height: int) -> Tensor:
    """Three even slopes (3, H, W), which resampling leaves as they are but at their ends."""
    y, x = np.mgrid[:height, :width] + 0.5
    planes = [x / width, y / height, (x / width + y / height) / 2]
    return torch.from_numpy(0.1 + 0.8 * np.stack(planes)).float()


def photo_of(pixels: Tensor, fit: Fit = "crop") -> Photo:
    height, width = pixels.shape[-2:]
    everywhere = {"cat": (0, 0, width, height)}
    return open_photo(to_array(pixels), "a cat on grass", everywhere, 128, fit)


def ones(photo: Photo) -> Tensor:
    return torch.ones([side // CELL for side in photo.sample.image.shape[-2:]])


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", SIZES)
def test_what_is_shown_goes_back_where_it_was(size: tuple[int, int], fit: Fit) -> None:
    photo = photo_of(slope(*size), fit)
    frame = photo.sample.frame
    assert frame is not None
    back, (x, y, w, h) = frame.back(Image.fromarray(to_array(photo.sample.image)))
    assert back.size == (w, h)
    there = photo.pixels[:, int(y) : int(y + h), int(x) : int(x + w)]
    rim = 1 + round(2 * max(size) / 128)  # the bicubic kernel's
    apart = (as_image(back) - there)[:, rim:-rim, rim:-rim]
    assert apart.abs().max() < 2.5 / 255  # two roundings
    off = apart.mean((1, 2))[:2] / torch.tensor([0.8 / size[0], 0.8 / size[1]])  # pixels that it lies beside its place
    assert off.abs().max() < 0.2
    if fit != "native":
        assert (w, h) == ((min(size),) * 2 if fit == "crop" else size)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", SIZES)
def test_outside_of_the_mask_every_pixel_is_the_photograph_s(size: tuple[int, int], fit: Fit) -> None:
    photo = photo_of(make_image(max(size))[:, : size[1], : size[0]], fit)
    frame, mask = photo.sample.frame, 0 * ones(photo)
    assert frame is not None
    mask[5:8, 4:9] = 0.5
    whole = composite(photo, 1 - photo.sample.image, mask)
    assert whole.shape == photo.pixels.shape
    # Centres of the photograph's pixels in cells of the mask, written out.
    (x, y, w, h), (H, W) = frame.window, frame.size
    across = (torch.arange(size[0]) + 0.5 - x) / w * W / CELL
    down = (torch.arange(size[1]) + 0.5 - y) / h * H / CELL
    slack = 1 + 1.5 * max(1, w / W, W / w) * max(1, W / w) / CELL  # a cell, and the reach of bilinear resampling
    far_across = (across < 4 - slack) | (across > 9 + slack)
    far = far_across[None] | ((down < 5 - slack) | (down > 8 + slack))[:, None]
    assert far.any() and torch.equal(whole[:, far], photo.pixels[:, far])
    near = ((across > 5) & (across < 8))[None] & ((down > 6) & (down < 7))[:, None]
    back, (left, top, wide, high) = frame.back(Image.fromarray(to_array(1 - photo.sample.image)))
    edited = torch.zeros_like(photo.pixels)
    edited[:, int(top) : int(top + high), int(left) : int(left + wide)] = as_image(back)
    assert near.any() and torch.allclose(whole[:, near], edited[:, near], atol=1e-6)


def test_at_the_model_s_own_size_an_edit_stays_as_it_is() -> None:
    photo = photo_of(make_image(128))
    edited = as_image(Image.fromarray(to_array(1 - photo.sample.image)))
    assert torch.allclose(composite(photo, edited, ones(photo)), edited, atol=1e-6)
    assert torch.equal(composite(photo, edited, 0 * ones(photo)), photo.pixels)


def test_the_share_is_the_formula() -> None:
    photo = photo_of(torch.zeros(3, 128, 128))
    mask = 0 * ones(photo)
    mask[5, 4] = 1
    share = composite(photo, torch.ones(3, 128, 128), mask)[0]
    wide = torch.zeros(128, 128)
    wide[5 * CELL - 4 : 6 * CELL + 4, 4 * CELL - 4 : 5 * CELL + 4] = 1  # half a cell round the mask
    box = torch.full((1, 1, 9, 9), 1 / 81)
    assert torch.allclose(share, F.conv2d(wide[None, None], box, padding=4)[0, 0], atol=1e-5)


def test_an_edit_fades_where_the_photograph_goes_on() -> None:
    black = torch.zeros(3, 128, 256)
    photo = photo_of(black)  # the window is cut left and right, not above and below
    whole = composite(photo, torch.ones(3, 128, 128), ones(photo))[0]
    assert (whole[:, :65] == 0).all() and (whole[:, 191:] == 0).all()
    rising = whole[64, 64 : 64 + 2 * CELL]
    assert (rising.diff() >= 0).all() and rising[-1] == 1 and whole[0, 128] == 1 == whole[127, 128]


def test_a_frame_of_one_pixel_is_put_back() -> None:
    for width, height in [(1, 1), (1, 300), (3, 1000)]:
        for fit in FITS:
            frame = Frame.fitting(width, height, 64, fit)
            back, (x, y, w, h) = frame.back(Image.new("RGB", frame.size[::-1], "white"))
            assert back.size == (w, h) and 0 <= x < x + w <= width and 0 <= y < y + h <= height
