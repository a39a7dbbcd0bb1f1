"""An edit at the photograph's own size: what it may not change keeps the photograph's own pixels."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from locinv_pl.drawing import to_array
from locinv_pl.io.frames import Frame
from locinv_pl.io.images import as_image
from locinv_pl.photo.sample import Photo


def composite(photo: Photo, edited: Tensor, mask: Tensor) -> Tensor:
    """The photograph with an edit in it, at its own size.

        I* = I + P (E - I),

    with the photograph I, the edited image E, resized to the window on I that the model saw, and P in [0, 1], which is
    1 where the edit's mask m isn't 0 and falls to 0 within a cell of m around it. Where P is 0, the pixels are the
    photograph's own, bit by bit: the loss of the VAE, of resizing and of framing stays inside. P also falls to 0
    towards sides of the window beyond which the photograph goes on.

    Args:
        photo: from :func:`~locinv_pl.photo.open_photo`.
        edited: E, as the model made it from ``photo.sample.image``, (3, H, W) in [0, 1].
        mask: m, where the edit may differ from the source, (h, w), one of those that
            :func:`~locinv_pl.editing.prompt_to_prompt.iter_edit` answers with.

    Returns:
        I*, of the size of ``photo.pixels``, (3, H, W) in [0, 1].

    >>> from locinv_pl.photo import open_photo
    >>> photo = open_photo(torch.zeros(3, 60, 80), "a cat on grass", {"cat": (20, 10, 40, 30)}, 32)
    >>> mask = torch.zeros(4, 4)
    >>> mask[1, 1] = 1  # a cell of 15 x 15 pixels of the photograph, from (25, 15) on
    >>> whole = composite(photo, torch.ones(3, 32, 32), mask)
    >>> tuple(whole.shape), [round(value, 2) for value in whole[0, 22, [8, 17, 32, 47, 57]].tolist()]
    ((3, 60, 80), [0.0, 0.39, 1.0, 0.5, 0.0])
    """
    frame = photo.sample.frame
    assert frame is not None
    E, (x, y, w, h) = frame.back(Image.fromarray(to_array(edited)))
    share = Image.fromarray(_share(mask, frame).numpy())
    P = torch.from_numpy(np.array(frame.back(share, Image.Resampling.BILINEAR)[0])).clamp(0, 1)
    whole = photo.pixels.clone()
    inside = whole[:, int(y) : int(y + h), int(x) : int(x + w)]
    inside += P * (as_image(E) - inside)
    return whole


def _share(mask: Tensor, frame: Frame) -> Tensor:
    """P on the frame's pixels, (H, W)."""
    H, W = frame.size
    r = max(1, H // mask.shape[0] // 2)  # pixels: half a cell
    P = F.interpolate((mask > 0).float()[None, None], (H, W), mode="nearest")
    P = F.pad(F.max_pool2d(P, 2 * r + 1, 1, r), (r, r, r, r), mode="replicate")
    left, top, right, bottom = (side * (2 * r + 1) for side in frame.cut)
    P[..., :left], P[..., :top, :] = 0, 0
    P[..., P.shape[-1] - right :], P[..., P.shape[-2] - bottom :, :] = 0, 0
    return F.avg_pool2d(P, 2 * r + 1, 1)[0, 0]
