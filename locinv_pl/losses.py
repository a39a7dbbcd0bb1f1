"""The losses of LocInv and their thresholds: pure tensors in, one value per image out.

A^k is the cross-attention map of noun k, S^k its localization prior on the same grid. Images of a
batch may have different numbers of nouns: ``valid`` (*, K) marks the rows that exist. The formulas
follow Tang et al., LocInv, arXiv 2405.01496, section 3.2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_loss(A: Tensor, S: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_sim = mean_k [ 1 - cos(A^k, S^k) ], the maps flattened.

    Args:
        A: attention maps, shape (*, K, r, c).
        S: priors, the same shape.
        valid: which nouns exist, bool, shape (*, K); all by default.

    Returns:
        shape (*); 0 where no noun exists.
    """
    return _mean(1 - F.cosine_similarity(A.flatten(-2), S.flatten(-2), dim=-1), valid)


def overlap_loss(A: Tensor, S: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_ovl = mean_k [ 1 - Σ(A^k · S^k) / Σ A^k ]: the share of attention outside the prior.

    Arguments and result as in :func:`similarity_loss`.
    """
    mass = A.sum((-2, -1)).clamp_min(torch.finfo(A.dtype).tiny)
    return _mean(1 - (A * S).sum((-2, -1)) / mass, valid)


def adjective_binding_loss(A_adj: Tensor, A_noun: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_adj = mean over (adjective a, its noun k) of [ 1 - cos(A^a, A^k) ].

    Args:
        A_adj: maps of the adjectives, shape (*, P, r, c) for P pairs.
        A_noun: maps of the nouns that they describe, the same shape.
        valid: which pairs exist, bool, shape (*, P).

    Returns:
        shape (*); 0 where no pair exists.
    """
    return similarity_loss(A_adj, A_noun, valid)


def loss_threshold(i: int, alpha: float, beta: float) -> float:
    """TH_i = β exp(-i / α), the progressive threshold of step i; i = 0 is the noisiest step."""
    return beta * math.exp(-i / alpha)


def _mean(x: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return x.mean(-1)
    return x.where(valid, 0).sum(-1) / valid.sum(-1).clamp_min(1)
