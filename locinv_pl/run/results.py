"""Finished images and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from locinv_pl.measures.metrics import attention_iou, attention_iou_curve, fp32, psnr, ssim
from locinv_pl.networks.backbone import Backbone
from locinv_pl.types import EditSample, Inversion


@dataclass(frozen=True, eq=False)
class Result:
    """An image with its inversion, its reconstruction and the VAE's own, (3, H, W) in [0, 1], and scores."""

    sample: EditSample
    inversion: Inversion
    reconstruction: Tensor
    vae: Tensor
    scores: dict[str, Any]


def score(
    backbone: Backbone,
    samples: Sequence[EditSample],
    inversions: Sequence[Inversion],
    reconstructions: Tensor,
    seconds: float,
) -> list[Result]:
    """Score a batch's reconstructions.

    Args:
        backbone: the networks, whose VAE gives the ceiling of a reconstruction.
        samples: the B images.
        inversions: their inversions.
        reconstructions: what these give back, (B, 3, H, W) in [0, 1].
        seconds: the time that each image took.
    """
    images = torch.stack([s.image for s in samples])
    vae = backbone.decode(backbone.encode(images)).cpu()
    with fp32():
        return [
            Result(sample, inversion, back, ceiling, {**_scores(sample, inversion, back, ceiling), "seconds": seconds})
            for sample, inversion, back, ceiling in zip(samples, inversions, reconstructions, vae, strict=True)
        ]


def _scores(sample: EditSample, inversion: Inversion, back: Tensor, vae: Tensor) -> dict[str, Any]:
    return {
        "id": sample.id,
        "prompt": sample.prompt,
        "nouns": [n.word for n in sample.nouns],
        **({} if sample.frame is None else {"frame": asdict(sample.frame)}),
        "iou_initial": attention_iou(inversion.initial_maps.mean(0), sample.masks).tolist(),
        "iou": attention_iou(inversion.maps.mean(0), sample.masks).tolist(),
        "iou_curve": attention_iou_curve(inversion.maps, sample.masks).T.tolist(),
        "psnr": psnr(back, sample.image).item(),
        "ssim": ssim(back, sample.image).item(),
        "psnr_vae": psnr(vae, sample.image).item(),
        "ssim_vae": ssim(vae, sample.image).item(),
        "token_steps": int(inversion.token_steps.sum()),
        "null_steps": int(inversion.null_steps.sum()),
    }
