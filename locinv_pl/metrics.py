"""How well maps sit on objects and pictures come back: functions, and torchmetrics shells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import peak_signal_noise_ratio


def attention_iou(maps: Tensor, masks: Tensor, threshold: float = 0.3) -> Tensor:
    """IoU of each noun's attention map with its object's mask.

    The map is upsampled to the mask, divided by its maximum and cut at ``threshold`` (Tang et al.,
    LocInv, arXiv 2405.01496, section 4.1).

    Args:
        maps: A^k, averaged over the timesteps where a picture is meant, shape (K, r, c).
        masks: ground truth, bool, shape (K, H, W).

    Returns:
        shape (K,), in [0, 1].
    """
    if not len(maps):
        return maps.new_zeros(0)
    large = F.interpolate(maps[None], masks.shape[-2:], mode="bilinear", align_corners=False)[0]
    covered = large > threshold * large.amax((-2, -1), keepdim=True)
    union = (covered | masks).sum((-2, -1))
    return (covered & masks).sum((-2, -1)) / union.clamp_min(1)


class AttentionIoU(Metric):
    """Mean of :func:`attention_iou` over all nouns seen."""

    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self, threshold: float = 0.3):
        super().__init__()
        self.threshold = threshold
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add the nouns of one picture: maps (K, r, c), masks (K, H, W)."""
        iou = attention_iou(maps, masks, self.threshold)
        self.total += iou.sum()
        self.count += len(iou)

    def compute(self) -> Tensor:
        """The mean; 0 before any noun."""
        return self.total / self.count.clamp_min(1)


def psnr(picture: Tensor, reference: Tensor) -> Tensor:
    """PSNR in dB of one picture (3, H, W) in [0, 1] against another."""
    return peak_signal_noise_ratio(picture, reference, data_range=1.0)
