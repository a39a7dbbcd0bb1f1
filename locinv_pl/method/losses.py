"""The losses of LocInv and DPL and their thresholds: pure tensors in, one value per image out.

A^k is the cross-attention map of noun k, S^k its localization prior on the same grid. Images of a
batch may have different numbers of nouns: ``valid`` (*, K) marks the rows that exist. LocInv's formulas
follow Tang et al., arXiv 2405.01496, section 3.2, DPL's follow Wang et al., arXiv 2309.15664, section 3.2.
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


def leakage_loss(A: Tensor, S: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_leak = mean_k cos(A^k, 1 - S^k): a variant for boxes; punishes attention outside, asks for none inside.

    Arguments and result as in :func:`similarity_loss`.
    """
    return _mean(F.cosine_similarity(A.flatten(-2), 1 - S.flatten(-2), dim=-1), valid)


def marginal_loss(A: Tensor, S: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_mar = mean_k [ KL(r(S^k) ‖ r(A^k)) + KL(c(S^k) ‖ c(A^k)) ], r and c the shares of the rows and of the columns.

    Arguments and result as in :func:`similarity_loss`; in nats.
    """
    tiny = torch.finfo(A.dtype).tiny
    loss = torch.zeros_like(A[..., 0, 0])
    for other in (-1, -2):
        q, p = (x.sum(other) / x.sum((-2, -1)).clamp_min(tiny)[..., None] for x in (A, S))
        loss = loss + (torch.xlogy(p, p) - p * q.clamp_min(tiny).log()).sum(-1)
    return _mean(loss, valid)


def attention_balancing_loss(A: Tensor, valid: Tensor | None = None) -> Tensor:
    """DPL's L_at = max(0, 1 - min_k max(G * A^k)): the highest point of the faintest map, G a Gaussian of 3x3.

    Args:
        A: attention maps, shape (B, K, r, c).
        valid: which nouns exist, bool, shape (B, K); all by default.

    Returns:
        shape (B,); 0 where no noun exists.
    """
    line = torch.exp(-torch.tensor([1.0, 0.0, 1.0], dtype=A.dtype, device=A.device) / (2 * 0.5**2))
    G = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(A.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
    highest = F.conv2d(padded, G[None, None]).flatten(1).amax(-1).unflatten(0, A.shape[:2])
    unseen = 1 - highest if valid is None else (1 - highest).where(valid, 0)
    return F.pad(unseen, (0, 1)).amax(-1)  # with a 0 for no noun


def disjoint_object_loss(A: Tensor, valid: Tensor | None = None) -> Tensor:
    """DPL's L_obj = mean over pairs of nouns k < l of cos(A^k, A^l).

    Args:
        A: attention maps, shape (B, K, r, c).
        valid: which nouns exist, bool, shape (B, K); all by default.

    Returns:
        shape (B,); 0 where there are fewer than two nouns.
    """
    first, second = torch.triu_indices(A.shape[1], A.shape[1], offset=1)
    exists = torch.ones(A.shape[:2], dtype=torch.bool, device=A.device) if valid is None else valid
    flat = A.flatten(-2)
    return _mean(F.cosine_similarity(flat[:, first], flat[:, second], dim=-1), exists[:, first] & exists[:, second])


def background_leakage_loss(A: Tensor, background: Tensor, valid: Tensor | None = None) -> Tensor:
    """DPL's L_bg = mean_k cos(A^k, M), M the background.

    Args:
        A: attention maps, shape (*, K, r, c).
        background: M, shape (*, r, c).
        valid: which nouns exist, bool, shape (*, K); all by default.

    Returns:
        shape (*); 0 where no noun or no background exists.
    """
    M = background.flatten(-2)[..., None, :].expand_as(A.flatten(-2))
    return _mean(F.cosine_similarity(A.flatten(-2), M, dim=-1), valid)


def loss_threshold(i: int, alpha: float, beta: float) -> float:
    """TH_i = β exp(-i / α), the progressive threshold of step i; i = 0 is the noisiest step."""
    return beta * math.exp(-i / alpha)


def _mean(x: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return x.mean(-1)
    return x.where(valid, 0).sum(-1) / valid.sum(-1).clamp_min(1)
