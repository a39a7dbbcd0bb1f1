"""The judge's recogniser: which noun, in which colour, in every cell of an image."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from locinv_pl.measures.judge import CELL, Recognizer
from locinv_pl.pretrain.optimization import Optimization, PretrainModule


def build_recognizer(num_nouns: int, num_colors: int, size: int = 128, channels: tuple[int, ...] = (48, 96, 128)):
    """A small convolutional U-Net over cells of 4x4 pixels."""
    unet: Any = UNet2DModel(
        sample_size=size // CELL,
        in_channels=3 * CELL**2,
        out_channels=1 + num_nouns + num_colors,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        layers_per_block=1,
        norm_num_groups=8,
        add_attention=False,
    )
    return Recognizer(unet.to(memory_format=torch.channels_last), num_nouns)


class RecognizerModule(PretrainModule):
    """Trains a recogniser by cross-entropy: nouns over all cells, colours over the objects' cells.

    A batch is (images, nouns, colors): (B, 3, H, W) in [0, 1], and (B, H / 4, W / 4) labels from 1, 0 for
    background. Images are blurred and made noisy at random, so that it doesn't live on sharp edges.

    Args:
        recognizer: the network to train, see :func:`build_recognizer`.
        optimization: steps, batch size, learning rate and the other settings of AdamW.
    """

    networks = ("recognizer",)

    def __init__(self, recognizer: Recognizer, optimization: Optimization):
        super().__init__(optimization)
        self.recognizer = recognizer

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch."""
        images, nouns, colors = batch
        noun_logits, color_logits = self.recognizer(worsen(images))
        noun_loss = F.cross_entropy(noun_logits.float(), nouns.long())
        color_loss = F.cross_entropy(color_logits.float(), colors.long() - 1, ignore_index=-1)
        self.log_dict({"noun_loss": noun_loss, "color_loss": color_loss})
        return noun_loss + color_loss


def worsen(images: Tensor) -> Tensor:
    """Half of the images blurred to a third of their resolution at most, all with pale blotches and some noise."""
    side = images.shape[-1]
    small = int(side * (1 / 3 + 2 / 3 * torch.rand(()).item()))
    blurred = F.interpolate(images, size=(small, small), mode="bilinear", antialias=True)
    blurred = F.interpolate(blurred, size=(side, side), mode="bilinear")
    each = torch.rand(3, len(images), 1, 1, 1, device=images.device)
    blotches = torch.randn(len(images), 3, 5, 5, device=images.device)
    blotches = F.interpolate(blotches, size=(side, side), mode="bicubic")
    noise = torch.randn_like(images)
    return torch.where(each[0] < 0.5, blurred, images) + 0.08 * each[1] * blotches + 0.03 * each[2] * noise
