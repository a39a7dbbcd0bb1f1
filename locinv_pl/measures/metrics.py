"""How well maps sit on objects, images come back, and edits keep what they are not to change.

Functions, and a torchmetrics shell. As in torchmetrics, what is measured comes first (``preds``) and what it is
measured against second (``target``). The measures of edits follow PIE-Bench's evaluation (Ju et al., PnP Inversion,
arXiv 2310.01506): images in [0, 1] with the edited region set to black, over all pixels.
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
    """Compute a block in full precision, whatever the Trainer's: its autocast and its default type end here.

    Args:
        device: the type of the tensors' device, "cpu" or "cuda".

    >>> with torch.autocast("cpu", torch.bfloat16), fp32():
    ...     print((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
    torch.float32
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)


def attention_iou(preds: Tensor, target: Tensor, threshold: float = 0.3) -> Tensor:
    """IoU of each noun's attention map with its object's mask.

    The map is upsampled to the mask, divided by its maximum and cut at ``threshold`` (Tang et al., LocInv, arXiv
    2405.01496, section 4.1).

    Args:
        preds: the maps A^k, averaged over the timesteps where an image is meant, (K, r, c).
        target: the ground-truth masks, bool, (K, H, W).
        threshold: share of a map's maximum, 0 to 1, above which a pixel counts as looked at.

    Returns:
        (K,), in [0, 1]; 0 where neither map nor mask covers a pixel.

    >>> maps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
    >>> mask = torch.tensor([[[True, False], [False, False]]])
    >>> attention_iou(maps, mask)
    tensor([0.5000])
    >>> attention_iou(maps, mask, threshold=0.6)
    tensor([1.])
    """
    if not len(preds):
        return preds.new_zeros(0)
    large = F.interpolate(preds[None], target.shape[-2:], mode="bilinear", align_corners=False)[0]
    covered = large > threshold * large.amax((-2, -1), keepdim=True)
    union = (covered | target).sum((-2, -1))
    return (covered & target).sum((-2, -1)) / union.clamp_min(1)


def attention_iou_curve(preds: Tensor, target: Tensor, threshold: float = 0.3) -> Tensor:
    """:func:`attention_iou` at every step.

    Args:
        preds: the maps of T steps, (T, K, r, c).
        target: the ground-truth masks, bool, (K, H, W).
        threshold: as in :func:`attention_iou`.

    Returns:
        (T, K), in [0, 1].

    >>> maps = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]], [[[1.0, 0.0], [0.0, 0.0]]]])
    >>> attention_iou_curve(maps, torch.tensor([[[True, True], [False, False]]]))
    tensor([[1.0000],
            [0.5000]])
    """
    return torch.stack([attention_iou(A, target, threshold) for A in preds])


class AttentionIoU(Metric):
    """Mean of :func:`attention_iou` over all nouns seen, of all processes.

    Args:
        threshold: as in :func:`attention_iou`.

    >>> metric, mask = AttentionIoU(), torch.tensor([[[True, True], [False, False]]])
    >>> metric.update(torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]), mask)
    >>> metric.update(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), mask)
    >>> metric.compute()
    tensor(0.7500)
    """

    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self, threshold: float = 0.3):
        super().__init__()
        self.threshold = threshold
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the nouns of one image.

        Args:
            preds: the maps of its K nouns, (K, r, c).
            target: the ground-truth masks, bool, (K, H, W).
        """
        iou = attention_iou(preds, target, self.threshold)
        self.total += iou.sum()
        self.count += len(iou)

    def compute(self) -> Tensor:
        """The mean, a scalar in [0, 1]; 0 before any noun."""
        return self.total / self.count.clamp_min(1)


def psnr(preds: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of an image.

    Args:
        preds: the image, (3, H, W) in [0, 1].
        target: the image that it should be, likewise.

    Returns:
        a scalar in dB; infinite where the images are equal.

    >>> psnr(torch.full((3, 16, 16), 0.75), torch.full((3, 16, 16), 0.5))
    tensor(12.0412)
    """
    return peak_signal_noise_ratio(preds, target, data_range=1.0)


def ssim(preds: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of an image: the mean over all Gaussian windows, 11x11 pixels, that lie inside it.

    Wang et al., Image Quality Assessment (IEEE Trans. Image Process. 13(4), 2004), with windows of sigma 1.5.

    Args:
        preds: the image, (3, H, W) in [0, 1], with more than 10 pixels a side.
        target: the image that it should be, likewise.

    Returns:
        a scalar, at most 1; 1 where the images are equal.

    >>> image = torch.linspace(0, 1, 3 * 16 * 16).view(3, 16, 16)
    >>> ssim(image, image)
    tensor(1.)
    >>> f"{ssim(0.5 * image, image):.2f}"
    '0.71'
    """
    # torchmetrics itself takes this mean up to version 1.4.0; later ones count windows beyond the edge, too.
    _, every = structural_similarity_index_measure(preds[None], target[None], data_range=1.0, return_full_image=True)
    return every[..., 5:-5, 5:-5].mean()


def with_border(region: Tensor) -> Tensor:
    """An edit region together with the image's outermost frame of one pixel, which PIE-Bench counts as edited.

    Args:
        region: where the edit changes the image, (H, W), bool.

    Returns:
        (H, W), bool; a new tensor.

    >>> with_border(torch.zeros(3, 4, dtype=torch.bool)).int()
    tensor([[1, 1, 1, 1],
            [1, 0, 0, 1],
            [1, 1, 1, 1]], dtype=torch.int32)
    """
    wide = torch.ones_like(region)
    wide[1:-1, 1:-1] = region[1:-1, 1:-1]
    return wide


def background(image: Tensor, region: Tensor) -> Tensor:
    """An image with the edited region set to black: the image times 1 - region.

    Args:
        image: (3, H, W) in [0, 1].
        region: where the edit changes the image, (H, W), bool.

    Returns:
        (3, H, W).

    >>> background(torch.full((1, 1, 3), 0.5), torch.tensor([[True, False, False]]))
    tensor([[[0.0000, 0.5000, 0.5000]]])
    """
    return image * ~region


def background_mse(preds: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """Mean square difference of two images' backgrounds, over all pixels.

    Args:
        preds: the edited image, (3, H, W) in [0, 1].
        target: the source image, likewise.
        region: where the edit changes the image, (H, W), bool.

    Returns:
        a scalar in [0, 1].

    >>> region = torch.tensor([[True, False], [True, False]])
    >>> background_mse(torch.full((3, 2, 2), 0.75), torch.full((3, 2, 2), 0.5), region)
    tensor(0.0312)
    """
    return F.mse_loss(background(preds, region), background(target, region))


def background_psnr(preds: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """PSNR of two images' backgrounds, over all pixels.

    Args:
        preds: the edited image, (3, H, W) in [0, 1].
        target: the source image, likewise.
        region: where the edit changes the image, (H, W), bool.

    Returns:
        a scalar in dB, 100 at most, so that means stay finite where nothing differs.

    >>> region = torch.tensor([[True, False], [True, False]])
    >>> background_psnr(torch.full((3, 2, 2), 0.75), torch.full((3, 2, 2), 0.5), region)
    tensor(15.0515)
    >>> background_psnr(torch.ones(3, 2, 2), torch.ones(3, 2, 2), region)
    tensor(100.)
    """
    return psnr(background(preds, region), background(target, region)).clamp(max=MOST_DECIBELS)


def background_ssim(preds: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """:func:`ssim` of two images' backgrounds.

    Args:
        preds: the edited image, (3, H, W) in [0, 1], with more than 10 pixels a side.
        target: the source image, likewise.
        region: where the edit changes the image, (H, W), bool.

    Returns:
        a scalar, at most 1; 1 where the backgrounds are equal.

    >>> image, region = torch.linspace(0, 1, 3 * 16 * 16).view(3, 16, 16), torch.zeros(16, 16, dtype=torch.bool)
    >>> region[4:8, 4:8] = True
    >>> background_ssim(torch.where(region, 1 - image, image), image, region)
    tensor(1.)
    """
    return ssim(background(preds, region), background(target, region))


def lpips(preds: Tensor, target: Tensor) -> Tensor:
    """LPIPS of an image by SqueezeNet (Zhang et al., arXiv 1801.03924); needs torchvision and its weights.

    Args:
        preds: the image, (3, H, W) in [0, 1].
        target: the image that it should be, likewise.

    Returns:
        a scalar, 0 or more; 0 where the images are equal.

    Raises:
        InputError: torchvision is missing, or its SqueezeNet is neither in torch's cache nor can be downloaded.

    >>> lpips(torch.zeros(3, 64, 64), torch.zeros(3, 64, 64))  # doctest: +SKIP
    tensor(0.)
    """
    check_lpips()
    try:
        return learned_perceptual_image_patch_similarity(preds[None], target[None], net_type="squeeze", normalize=True)
    except OSError as error:
        raise InputError(
            f"measures.lpips: torchvision's SqueezeNet is not in torch's cache and can't be downloaded ({error}); "
            f"try again with a network connection, or leave LPIPS out"
        ) from None


def background_lpips(preds: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """:func:`lpips` of two images' backgrounds.

    Args:
        preds: the edited image, (3, H, W) in [0, 1].
        target: the source image, likewise.
        region: where the edit changes the image, (H, W), bool.

    Returns:
        a scalar, 0 or more.

    Raises:
        InputError: as :func:`lpips`.

    >>> region = torch.ones(64, 64, dtype=torch.bool)
    >>> background_lpips(torch.ones(3, 64, 64), torch.zeros(3, 64, 64), region)  # doctest: +SKIP
    tensor(0.)
    """
    return lpips(background(preds, region), background(target, region))


def check_lpips() -> None:
    """Refuse to measure LPIPS where torchvision is missing.

    Raises:
        InputError: it is missing.

    >>> check_lpips()  # doctest: +SKIP
    Traceback (most recent call last):
    locinv_pl.errors.InputError: measures.lpips: needs torchvision; pip install "locinv_pl[lpips]", or leave LPIPS out
    """
    if find_spec("torchvision") is None:
        raise InputError('measures.lpips: needs torchvision; pip install "locinv_pl[lpips]", or leave LPIPS out')


def structure_distance(preds: Tensor, target: Tensor) -> Tensor:
    """How far two images' structures are apart: mean_ij (S_ij - S'_ij)^2 with S_ij = cos(k_i, k_j).

    S is the self-similarity of Tumanyan et al., Splicing ViT Features (arXiv 2201.00424); the mean square is
    PIE-Bench's.

    Args:
        preds: the edited image's keys k_i from the last block of a ViT, its heads side by side, of all tokens with
            the CLS token, (N, D).
        target: the source image's keys, likewise.

    Returns:
        a scalar in [0, 4]; 0 where the structures are equal, whatever the keys' lengths.

    >>> keys = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> structure_distance(2 * keys, keys)
    tensor(0.)
    >>> structure_distance(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), keys)
    tensor(0.5000)
    """
    S, other = (keys @ keys.mT for keys in (F.normalize(preds, dim=-1), F.normalize(target, dim=-1)))
    return F.mse_loss(S, other)
