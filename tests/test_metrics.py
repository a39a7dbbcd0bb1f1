"""Attention IoU by hand, PSNR against scikit-image."""

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from locinv_pl.metrics import AttentionIoU, attention_iou, psnr


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
    pictures = [
        (torch.rand(k, 4, 4, generator=generator), torch.rand(k, 8, 8, generator=generator) > 0.5) for k in (1, 3)
    ]
    metric = AttentionIoU()
    for maps, masks in pictures:
        metric.update(maps, masks)
    every = torch.cat([attention_iou(*picture) for picture in pictures])
    assert metric.compute().item() == pytest.approx(every.mean().item())


def test_psnr_is_scikit_image_s():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 16, 16, generator=generator)
    assert psnr(a, b).item() == pytest.approx(peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=1), rel=1e-5)
