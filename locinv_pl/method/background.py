"""Where an image's background is, found without a prior: DPL's estimate from attention."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from locinv_pl.networks.attention import Grid

SEGMENTS, THRESHOLD = 5, 0.2  # of DPL's code


def estimate_background(self_attention: Tensor, maps: Tensor, grid: Grid) -> Tensor:
    """The cells that attend alike and that no noun looks at.

    Cells are clustered by their rows of the self-attention. A cluster belongs to a noun if that noun's map, scaled
    to [0, 1], is above ``THRESHOLD`` in its mean; clusters of no noun are background (Patashnik et al., Prompt
    Mixing, arXiv 2303.11306, section 4.2; in DPL, Wang et al., arXiv 2309.15664, section 3.2).

    Args:
        self_attention: (n, n), rows sum to 1, over n cells of ``grid``.
        maps: A^k, (K, r, c).
        grid: of the self-attention.

    Returns:
        M, (r, c), 0 or 1.
    """
    from sklearn.cluster import KMeans  # a second to load

    r, c = maps.shape[-2:]
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    scaled = (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
    looks = F.interpolate(scaled[:, None], grid, mode="bilinear").flatten(1).cpu().numpy()
    segments = min(SEGMENTS, len(self_attention))
    labels = KMeans(segments, n_init=10, random_state=0).fit_predict(self_attention.cpu().numpy())
    background = np.zeros(len(labels), dtype=np.float32)
    for segment in range(segments):
        cells = labels == segment
        background[cells] = not (looks[:, cells].mean(1) > THRESHOLD).any()
    plane = torch.from_numpy(background).unflatten(0, grid)[None, None]
    return (F.interpolate(plane, (r, c), mode="area")[0, 0] >= 0.5).float()
