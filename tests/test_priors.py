"""Priors: exact areas, on the image and on the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from locinv_pl.priors import area_weights, box_mask, prior_on_grid


def test_box_mask_holds_the_covered_share_of_every_pixel() -> None:
    mask = box_mask((0.5, 1.0, 1.75, 1.5), (4, 3))
    expected = torch.tensor([[0, 0, 0], [0.5, 1, 0.25], [0.25, 0.5, 0.125], [0, 0, 0]])
    torch.testing.assert_close(mask, expected, rtol=0, atol=0)


def test_box_mask_of_whole_pixels_is_a_filled_rectangle() -> None:
    expected = torch.zeros(8, 10)
    expected[2:7, 3:5] = 1
    torch.testing.assert_close(box_mask((3, 2, 2, 5), (8, 10)), expected, rtol=0, atol=0)


def test_box_mask_cuts_off_what_is_outside() -> None:
    torch.testing.assert_close(box_mask((-5, -5, 30, 30), (4, 6)), torch.ones(4, 6), rtol=0, atol=0)
    assert box_mask((6, 0, 3, 3), (4, 6)).sum() == 0
    assert box_mask((-1, 1, 1.5, 1), (4, 6)).sum() == 0.5


def test_box_mask_has_the_area_of_the_box() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        x, y, w, h = (torch.rand(4, generator=generator) * 10).tolist()
        assert box_mask((x, y, w, h), (20, 20)).double().sum().item() == pytest.approx(w * h, rel=1e-5)


@pytest.mark.parametrize(("size", "grid"), [((12, 20), (4, 5)), ((16, 16), (16, 16)), ((6, 8), (2, 8))])
def test_area_is_interpolate_area_where_cells_are_whole_pixels(size: tuple[int, int], grid: tuple[int, int]) -> None:
    plane = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(plane, grid, mode="area")
    torch.testing.assert_close(prior_on_grid(plane, grid), expected, rtol=0, atol=1e-6)


def test_area_shares_pixels_between_cells_where_they_are_not() -> None:
    plane = torch.tensor([[1.0, 2.0, 3.0]])
    # Cells [0, 1.5] and [1.5, 3]: (1 + 2/2) / 1.5 and (2/2 + 3) / 1.5.
    torch.testing.assert_close(prior_on_grid(plane, (1, 2)), torch.tensor([[4 / 3, 8 / 3]]))


def test_area_onto_a_finer_grid_repeats_and_mixes() -> None:
    plane = torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(prior_on_grid(plane, (1, 3)), torch.tensor([[0.0, 0.5, 1.0]]))


@pytest.mark.parametrize(("pixels", "cells"), [(512, 16), (427, 16), (5, 7), (1, 3), (640, 13)])
def test_area_weights_rows_are_means_and_spread_every_pixel_evenly(pixels: int, cells: int) -> None:
    weights = area_weights(pixels, cells)
    torch.testing.assert_close(weights.sum(1), torch.ones(cells, dtype=torch.float64))
    torch.testing.assert_close(weights.sum(0), torch.full((pixels,), cells / pixels).double())
    assert (weights >= 0).all()


def test_area_keeps_a_plane_on_its_own_grid_bit_for_bit() -> None:
    plane = torch.rand(7, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prior_on_grid(plane, (7, 9)), plane)


def test_any_is_one_wherever_a_part_of_the_cell_is_nonzero() -> None:
    plane = torch.zeros(8, 8)
    plane[0, 0], plane[3, 4] = 1e-6, 1.0
    expected = torch.zeros(2, 2)
    expected[0, 0] = expected[0, 1] = 1
    assert torch.equal(prior_on_grid(plane, (2, 2), rasterize="any"), expected)
    assert prior_on_grid(plane, (2, 2)).max() < 0.1


def test_any_agrees_with_max_pooling_of_the_nonzero_pixels() -> None:
    plane = (torch.rand(5, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.97).float()
    expected = F.max_pool2d(plane, 4)
    assert 0 < expected.mean() < 1
    assert torch.equal(prior_on_grid(plane, (8, 8), rasterize="any"), expected)


def test_any_counts_a_pixel_in_both_cells_that_share_it() -> None:
    plane = torch.tensor([[0.0, 1.0, 0.0]])
    assert torch.equal(prior_on_grid(plane, (1, 2), rasterize="any"), torch.ones(1, 2))


def test_dtypes_bool_becomes_float_and_double_stays() -> None:
    mask = torch.tensor([[True, False]])
    assert torch.equal(prior_on_grid(mask, (1, 1)), torch.tensor([[0.5]]))
    assert prior_on_grid(mask.double(), (1, 1)).dtype == torch.float64


@pytest.mark.parametrize(("size", "grid"), [((512, 512), (16, 16)), ((48, 64), (6, 8)), ((16, 16), (16, 16))])
def test_bicubic_is_one_wherever_the_resized_mask_is_not_zero(size: tuple[int, int], grid: tuple[int, int]) -> None:
    noise = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(0))
    planes = (F.interpolate(noise[None], size, mode="bicubic")[0] > 0.8).float()
    found = prior_on_grid(planes, grid, rasterize="bicubic")
    assert 0 < found.mean() < 1
    for plane, answer in zip(planes, found, strict=True):
        image = Image.fromarray((plane * 255).byte().numpy()).resize(grid[::-1], Image.Resampling.BICUBIC)
        assert np.array_equal(answer.numpy(), np.asarray(image).astype(bool))


def test_bicubic_reaches_into_the_cells_around_and_loses_what_is_tiny() -> None:
    plane = torch.zeros(64, 64)
    plane[16:32, 16:32] = 1  # one cell of 4x4, all of it
    assert prior_on_grid(plane, (4, 4), rasterize="any").sum() == 1
    assert prior_on_grid(plane, (4, 4), rasterize="bicubic")[:3, :3].all()
    speck = torch.zeros(512, 512)
    speck[100, 100] = 1
    assert prior_on_grid(speck, (16, 16), rasterize="any").sum() == 1
    assert prior_on_grid(speck, (16, 16), rasterize="bicubic").sum() == 0


def test_bicubic_takes_any_plane() -> None:
    plane = torch.eye(32).double()
    expected = prior_on_grid(plane, (8, 8), rasterize="bicubic")
    assert expected.dtype == torch.float64
    assert torch.equal(prior_on_grid(plane.bool(), (8, 8), rasterize="bicubic"), expected.float())
    assert torch.equal(prior_on_grid(plane[None, None], (8, 8), rasterize="bicubic"), expected[None, None])
