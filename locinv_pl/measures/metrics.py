"""How well maps sit on objects, images come back, and edits keep what they are not to change.

Functions, and torchmetrics shells. What is measured of edits follows PIE-Bench's evaluation (Ju et al., PnP
Inversion, arXiv 2310.01506): images in [0, 1] with the edited region set to black, over all pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import (
    learned_perceptual_image_patch_similarity,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from locinv_pl.errors import InputError

MOST_DECIBELS = 100.0  # of a background: a mean square difference of 1e-10


@contextmanager
def fp32(device: str = "cpu") -> Iterator[None]:
    """A block in full precision, whatever the Trainer's: its autocast and its default type end here.

    Args:
        device: the type of the tensors' device.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)


def attention_iou(maps: Tensor, masks: Tensor, threshold: float = 0.3) -> Tensor:
    """IoU of each noun's attention map with its object's mask.

    The map is upsampled to the mask, divided by its maximum and cut at ``threshold`` (Tang et al.,
    LocInv, arXiv 2405.01496, section 4.1).

    Args:
        maps: A^k, averaged over the timesteps where an image is meant, shape (K, r, c).
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


def attention_iou_curve(maps: Tensor, masks: Tensor, threshold: float = 0.3) -> Tensor:
    """:func:`attention_iou` at every step: maps (T, K, r, c) and masks (K, H, W) give (T, K)."""
    return torch.stack([attention_iou(A, masks, threshold) for A in maps])


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
        """Add the nouns of one image: maps (K, r, c), masks (K, H, W)."""
        iou = attention_iou(maps, masks, self.threshold)
        self.total += iou.sum()
        self.count += len(iou)

    def compute(self) -> Tensor:
        """The mean; 0 before any noun."""
        return self.total / self.count.clamp_min(1)


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """PSNR in dB of one image (3, H, W) in [0, 1] against another."""
    return peak_signal_noise_ratio(image, reference, data_range=1.0)


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """SSIM of one image (3, H, W) in [0, 1] with another, of more than 10 pixels a side; 1 where they are equal.

    Wang et al., Image Quality Assessment (IEEE Trans. Image Process. 13(4), 2004): the mean over all Gaussian windows
    of sigma 1.5, 11x11 pixels, that lie inside the image.
    """
    # torchmetrics itself takes this mean up to version 1.4.0; later ones count windows beyond the edge, too.
    _, every = structural_similarity_index_measure(image[None], reference[None], data_range=1.0, return_full_image=True)
    return every[..., 5:-5, 5:-5].mean()


def with_border(region: Tensor) -> Tensor:
    """An edit region (H, W), bool, to which the image's outermost frame of one pixel belongs, too."""
    wide = torch.ones_like(region)
    wide[1:-1, 1:-1] = region[1:-1, 1:-1]
    return wide


def background(image: Tensor, region: Tensor) -> Tensor:
    """An image (3, H, W) times 1 - region, which is (H, W), bool, and True where the edit changes the image."""
    return image * ~region


def background_mse(edited: Tensor, source: Tensor, region: Tensor) -> Tensor:
    """Mean square difference of two images' backgrounds over all pixels; arguments as in :func:`background`."""
    return F.mse_loss(background(edited, region), background(source, region))


def background_psnr(edited: Tensor, source: Tensor, region: Tensor) -> Tensor:
    """PSNR of two images' backgrounds in dB, 100 at most, so that means stay finite where nothing differs."""
    return psnr(background(edited, region), background(source, region)).clamp(max=MOST_DECIBELS)


def background_ssim(edited: Tensor, source: Tensor, region: Tensor) -> Tensor:
    """SSIM of two images' backgrounds; arguments as in :func:`background`."""
    return ssim(background(edited, region), background(source, region))


def lpips(image: Tensor, reference: Tensor) -> Tensor:
    """LPIPS of two images (3, H, W) in [0, 1] by SqueezeNet (Zhang et al., arXiv 1801.03924); needs torchvision.

    Raises:
        InputError: torchvision is missing, or its SqueezeNet is neither in torch's cache nor can be downloaded.
    """
    check_lpips()
    try:
        return learned_perceptual_image_patch_similarity(
            image[None], reference[None], net_type="squeeze", normalize=True
        )
    except OSError as error:
        raise InputError(
            f"measures.lpips: torchvision's SqueezeNet is not in torch's cache and can't be downloaded ({error}); "
            f"try again with a network connection, or leave LPIPS out"
        ) from None


def background_lpips(edited: Tensor, source: Tensor, region: Tensor) -> Tensor:
    """:func:`lpips` of two images' backgrounds; arguments as in :func:`background`."""
    return lpips(background(edited, region), background(source, region))


def check_lpips() -> None:
    """Whether LPIPS can be measured.

    Raises:
        InputError: torchvision is missing.
    """
    if find_spec("torchvision") is None:
        raise InputError('measures.lpips: needs torchvision; pip install "locinv_pl[lpips]", or leave LPIPS out')


def structure_distance(keys: Tensor, others: Tensor) -> Tensor:
    """How far two images' structures are apart: mean_ij (S_ij - S'_ij)^2 with S_ij = cos(k_i, k_j).

    S is the self-similarity of Tumanyan et al., Splicing ViT Features (arXiv 2201.00424); the mean square is
    PIE-Bench's.

    Args:
        keys: k_i of the last block of a ViT, its heads side by side, of all tokens with the CLS token, (N, D).
        others: the same of the other image.
    """
    one, other = (F.normalize(k, dim=-1) for k in (keys, others))
    return F.mse_loss(one @ one.mT, other @ other.mT)
