"""Attention IoU by hand; PSNR and SSIM against scikit-image, of backgrounds too; structure distance pair by pair."""

from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from conftest import make_image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from locinv_pl.errors import InputError
from locinv_pl.measures import metrics
from locinv_pl.measures.metrics import (
    AttentionIoU,
    attention_iou,
    background_lpips,
    background_mse,
    background_psnr,
    background_ssim,
    psnr,
    ssim,
    structure_distance,
    with_border,
)


def test_iou_on_a_4x4_map():
    A = torch.tensor([[[1.0, 0.5, 0.31, 0.29], [0.2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0.9]]])
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0] = True  # covered: 1, .5, .31 of the mask's four cells, and .9 outside it
    assert attention_iou(A, mask).item() == pytest.approx(3 / 5)
    assert attention_iou(7 * A, mask).item() == pytest.approx(3 / 5)
    assert attention_iou(A, mask, threshold=0.6).item() == pytest.approx(1 / 5)


def test_iou_upsamples_to_the_mask():
    A = torch.zeros(1, 4, 4)
    A[0, :2] = 1
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, :32] = True
    assert attention_iou(A, mask).item() > 0.85
    assert attention_iou(A, ~mask).item() < 0.15


def test_iou_of_nothing():
    assert attention_iou(torch.zeros(0, 4, 4), torch.zeros(0, 8, 8, dtype=torch.bool)).shape == (0,)
    assert attention_iou(torch.zeros(1, 4, 4), torch.ones(1, 8, 8, dtype=torch.bool)).item() == 0


def test_metric_is_the_mean_over_nouns():
    generator = torch.Generator().manual_seed(0)
    images = [
        (torch.rand(k, 4, 4, generator=generator), torch.rand(k, 8, 8, generator=generator) > 0.5) for k in (1, 3)
    ]
    metric = AttentionIoU()
    for maps, masks in images:
        metric.update(maps, masks)
    every = torch.cat([attention_iou(*image) for image in images])
    assert metric.compute().item() == pytest.approx(every.mean().item())


def test_psnr_is_scikit_image_s():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 16, 16, generator=generator)
    assert psnr(a, b).item() == pytest.approx(peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=1), rel=1e-5)


def skimage_ssim(a: np.ndarray, b: np.ndarray) -> float:
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(a, b, data_range=1, channel_axis=0, **gaussian))


@pytest.mark.parametrize("size", [(32, 32), (24, 48), (11, 13)])
def test_ssim_is_scikit_image_s(size: tuple[int, int]) -> None:
    a = make_image(64)[:, : size[0], : size[1]]
    b = (a + 0.1 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert 0.05 < ssim(a, b).item() < 0.99
    assert ssim(a, b).item() == pytest.approx(skimage_ssim(a.numpy(), b.numpy()), abs=1e-5)
    assert ssim(a, a).item() == pytest.approx(1)


class TestBackground:
    """Two images that differ everywhere, and a region in which one of them is upside down."""

    region = torch.zeros(32, 32, dtype=torch.bool)
    region[5:20, 8:30] = True
    source = make_image(seed=3)
    edited = (source + 0.05 * torch.randn(source.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    edited[:, region] = 1 - edited[:, region]

    def products(self) -> tuple[np.ndarray, np.ndarray]:
        outside = 1 - self.region.numpy().astype(np.float32)
        return self.edited.numpy() * outside, self.source.numpy() * outside

    def test_as_scikit_image_measures_the_products(self) -> None:
        edited, source = self.products()
        images = (self.edited, self.source, self.region)
        assert background_mse(*images).item() == pytest.approx(((edited - source) ** 2).mean(), rel=1e-5)
        expected = peak_signal_noise_ratio(source, edited, data_range=1)
        assert background_psnr(*images).item() == pytest.approx(expected, rel=1e-5)
        assert background_ssim(*images).item() == pytest.approx(skimage_ssim(edited, source), abs=1e-5)

    def test_what_lies_in_the_region_does_not_count(self) -> None:
        changed = torch.where(self.region, torch.rand(3, 32, 32), self.edited)
        for measure in (background_mse, background_psnr, background_ssim):
            assert measure(changed, self.source, self.region) == measure(self.edited, self.source, self.region)

    def test_equal_backgrounds(self) -> None:
        changed = torch.where(self.region, 1 - self.source, self.source)
        assert background_mse(changed, self.source, self.region).item() == 0
        assert background_psnr(changed, self.source, self.region).item() == 100
        assert background_ssim(changed, self.source, self.region).item() == pytest.approx(1)

    def test_lpips_gets_the_products(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Any] = []

        def network(*images: torch.Tensor, **settings: Any) -> torch.Tensor:
            seen.extend([images, settings])
            return torch.tensor(0.5)

        monkeypatch.setattr(metrics, "find_spec", lambda name: name)
        monkeypatch.setattr(metrics, "learned_perceptual_image_patch_similarity", network)
        assert background_lpips(self.edited, self.source, self.region).item() == 0.5
        for given, product in zip(seen[0], self.products(), strict=True):
            assert np.array_equal(given.numpy(), product[None])
        assert seen[1] == {"net_type": "squeeze", "normalize": True}

    def test_lpips_without_torchvision(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metrics, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r'measures.lpips: needs torchvision; pip install "locinv_pl\[lpips\]"'):
            background_lpips(self.edited, self.source, self.region)

    def test_lpips_without_its_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def network(*_: Any, **__: Any) -> torch.Tensor:
            raise URLError("no route to host")

        monkeypatch.setattr(metrics, "find_spec", lambda name: name)
        monkeypatch.setattr(metrics, "learned_perceptual_image_patch_similarity", network)
        with pytest.raises(InputError, match="can't be downloaded .*no route to host"):
            background_lpips(self.edited, self.source, self.region)


def test_the_frame_counts_as_edited() -> None:
    region = torch.zeros(4, 5, dtype=torch.bool)
    region[1, 2] = True
    frame = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
    assert torch.equal(with_border(region), frame)
    assert region.sum() == 1
    assert with_border(torch.zeros(2, 9, dtype=torch.bool)).all()


def test_structure_distance_pair_by_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 5, 7, generator=generator)

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(a @ b / a.norm() / b.norm())

    pairs = [(i, j) for i in range(5) for j in range(5)]
    squares = [(cosine(one[i], one[j]) - cosine(other[i], other[j])) ** 2 for i, j in pairs]
    assert structure_distance(one, other).item() == pytest.approx(sum(squares) / 25, rel=1e-5)
    assert structure_distance(one, 3 * one).item() == pytest.approx(0, abs=1e-12)
