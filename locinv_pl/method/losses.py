"""The losses of LocInv and DPL and their thresholds: pure tensors in, one value per image out.

| LocInv | formula in | DPL | formula in |
|---|---|---|---|
| L_sim | :func:`similarity_loss` | L_at | :func:`attention_balancing_loss` |
| L_ovl | :func:`overlap_loss` | L_obj | :func:`disjoint_object_loss` |
| L_adj | :func:`adjective_binding_loss` | L_bg | :func:`background_leakage_loss` |
| L_leak, L_mar | :func:`leakage_loss`, :func:`marginal_loss` | TH_i | :func:`loss_threshold` |

:func:`joint_marginal_loss` is L_mar as LocInv's published code has it, and L_at of :func:`contrast_tokens` with
σ = 0.5 √2 is L_at as DPL's has it.

A^k is the cross-attention map of noun k, S^k its localization prior on the same grid. Images of a
batch may have different numbers of nouns: ``valid`` (*, K) marks the rows that exist.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_loss(A: Tensor, S: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_sim = mean_k [ 1 - cos(A^k, S^k) ], the maps flattened.

    >>> A = torch.tensor([[[[3.0, 4.0]], [[1.0, 0.0]]]])  # two nouns on a grid of 1 x 2
    >>> S = torch.tensor([[[[0.0, 1.0]], [[1.0, 0.0]]]])
    >>> similarity_loss(A, S)  # (1 - 4/5 + 1 - 1) / 2
    tensor([0.1000])
    >>> similarity_loss(A, S, torch.tensor([[True, False]]))
    tensor([0.2000])

    Source: Tang et al., LocInv, arXiv 2405.01496, section 3.2.

    Args:
        A: attention maps A^k, (*, K, r, c), at least 0.
        S: priors S^k, (*, K, r, c), in [0, 1].
        valid: which nouns exist, bool, (*, K); all by default.

    Returns:
        shape (*), in [0, 1]; 0 where no noun exists.
    """
    return _mean(1 - F.cosine_similarity(A.flatten(-2), S.flatten(-2), dim=-1), valid)


def overlap_loss(A: Tensor, S: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_ovl = mean_k [ 1 - Σ(A^k · S^k) / Σ A^k ]: the share of attention outside the prior.

    >>> A = torch.tensor([[[[3.0, 1.0]]]])
    >>> S = torch.tensor([[[[1.0, 0.0]]]])
    >>> overlap_loss(A, S)  # 1 of 4 lies outside
    tensor([0.2500])

    Source: Tang et al., LocInv, arXiv 2405.01496, section 3.2.

    Args:
        A: attention maps A^k, (*, K, r, c), at least 0.
        S: priors S^k, (*, K, r, c), in [0, 1].
        valid: which nouns exist, bool, (*, K); all by default.

    Returns:
        shape (*), in [0, 1]; 0 where no noun exists.
    """
    mass = A.sum((-2, -1)).clamp_min(torch.finfo(A.dtype).tiny)
    return _mean(1 - (A * S).sum((-2, -1)) / mass, valid)


def adjective_binding_loss(A_adj: Tensor, A_noun: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_adj = mean over (adjective a, its noun k) of [ 1 - cos(A^a, A^k) ].

    >>> A_adj, A_noun = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    >>> adjective_binding_loss(A_adj, A_noun)  # 1 - 3/5
    tensor([0.4000])

    Source: Tang et al., LocInv, arXiv 2405.01496, section 3.2.

    Args:
        A_adj: maps A^a of the adjectives, (*, P, r, c) for P pairs, at least 0.
        A_noun: maps A^k of the nouns that they describe, (*, P, r, c), at least 0.
        valid: which pairs exist, bool, (*, P); all by default.

    Returns:
        shape (*), in [0, 1]; 0 where no pair exists.
    """
    return similarity_loss(A_adj, A_noun, valid)


def leakage_loss(A: Tensor, S: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_leak = mean_k cos(A^k, 1 - S^k): a variant for boxes; punishes attention outside, asks for none inside.

    >>> A, S = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    >>> leakage_loss(A, S)  # 4/5
    tensor([0.8000])

    Source: the published code of LocInv, arXiv 2405.01496.

    Args:
        A: attention maps A^k, (*, K, r, c), at least 0.
        S: priors S^k, (*, K, r, c), in [0, 1].
        valid: which nouns exist, bool, (*, K); all by default.

    Returns:
        shape (*), in [0, 1]; 0 where no noun exists.
    """
    return _mean(F.cosine_similarity(A.flatten(-2), 1 - S.flatten(-2), dim=-1), valid)


def marginal_loss(A: Tensor, S: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_mar = mean_k [ KL(r(S^k) ‖ r(A^k)) + KL(c(S^k) ‖ c(A^k)) ], r and c the shares of the rows and of the columns.

    >>> A, S = torch.tensor([[[[1.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    >>> marginal_loss(A, S)  # one row: 0; columns (1, 0) against (1/2, 1/2): ln 2
    tensor([0.6931])

    After an idea in the published code of LocInv, arXiv 2405.01496; its own form is :func:`joint_marginal_loss`.

    Args:
        A: attention maps A^k, (*, K, r, c), at least 0.
        S: priors S^k, (*, K, r, c), in [0, 1].
        valid: which nouns exist, bool, (*, K); all by default.

    Returns:
        shape (*), in nats, at least 0; 0 where no noun exists.
    """
    tiny = torch.finfo(A.dtype).tiny
    loss = torch.zeros_like(A[..., 0, 0])
    for other in (-1, -2):
        q, p = (x.sum(other) / x.sum((-2, -1)).clamp_min(tiny)[..., None] for x in (A, S))
        loss = loss + _divergence(p, q).sum(-1)
    return _mean(loss, valid)


def joint_marginal_loss(A: Tensor, S: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_mar of the published code: ½ mean p ln(p / q) over all nouns' columns, and the mean over their rows.

    A map's columns and rows are shares of all nouns' mass together, q_k = c(A^k + ε) / Σ_l Σ(A^l + ε) and p_k likewise
    of S, with ε = 1e-5. Means are over K c and K r entries, so that the loss is far smaller than :func:`marginal_loss`.

    >>> A, S = torch.tensor([[[[1.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    >>> joint_marginal_loss(A, S)  # one row: 0; columns (1, 0) against (1/2, 1/2): ½ (ln 2) / 2, but for ε
    tensor([0.1733])

    Source: the published code of LocInv, arXiv 2405.01496.

    Args:
        A: attention maps A^k, (*, K, r, c), at least 0.
        S: priors S^k, (*, K, r, c), in [0, 1].
        valid: which nouns exist, bool, (*, K); all by default.

    Returns:
        shape (*), in nats, at least 0; 0 where no noun exists.
    """
    exists = torch.ones(A.shape[:-2], dtype=torch.bool, device=A.device) if valid is None else valid
    tiny = torch.finfo(A.dtype).tiny
    A, S = ((x + 1e-5).where(exists[..., None, None], 0) for x in (A, S))
    loss = torch.zeros_like(A[..., 0, 0])
    for other, weight in ((-2, 0.5), (-1, 1.0)):  # columns, rows
        q, p = (x.sum(other) / x.sum((-3, -2, -1)).clamp_min(tiny)[..., None, None] for x in (A, S))
        loss = loss + weight * _divergence(p, q).mean(-1)
    return _mean(loss, valid)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """The terms p ln(p / q) of KL(p ‖ q), of any shape; 0 where p is."""
    return torch.xlogy(p, p) - p * q.clamp_min(torch.finfo(q.dtype).tiny).log()


def contrast_tokens(A: Tensor) -> Tensor:
    """Attention with its contrast between tokens raised: softmax over them of 100 A, without the first and the last.

    >>> contrast_tokens(torch.tensor([0.90, 0.06, 0.04, 0.00]))  # 1 / (1 + e⁻²), and the rest
    tensor([0.0000, 0.8808, 0.1192, 0.0000])

    Source: the published code of DPL, arXiv 2309.15664, after Chefer et al., Attend-and-Excite, arXiv 2301.13826.

    Args:
        A: A_t, (*, L), the first token the start mark and the last one the end mark or a pad.

    Returns:
        shape (*, L), 0 for the first and the last token.
    """
    return F.pad((100 * A[..., 1:-1]).softmax(-1), (1, 1))


def attention_balancing_loss(A: Tensor, valid: Tensor | None = None, sigma: float = 0.5) -> Tensor:
    """DPL's L_at = max(0, 1 - min_k max(G * A^k)): the highest point of the faintest map, G a Gaussian of 3x3.

    >>> A = torch.ones(1, 2, 4, 4) * torch.tensor([0.75, 0.25])[:, None, None]
    >>> attention_balancing_loss(A)  # an even map stays as it is: 1 - 0.25
    tensor([0.7500])

    Source: Wang et al., Dynamic Prompt Learning, arXiv 2309.15664, section 3.2.

    Args:
        A: attention maps A^k, (B, K, r, c), at least 0; r and c at least 2.
        valid: which nouns exist, bool, (B, K); all by default.
        sigma: σ of G in cells. The published code writes exp(-(x / 2σ)²) with σ = 0.5: here that is 0.5 √2.

    Returns:
        shape (B,), in [0, 1] for maps in [0, 1]; 0 where no noun exists.
    """
    line = torch.exp(-torch.tensor([1.0, 0.0, 1.0], dtype=A.dtype, device=A.device) / (2 * sigma**2))
    G = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(A.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
    highest = F.conv2d(padded, G[None, None]).flatten(1).amax(-1).unflatten(0, A.shape[:2])
    unseen = 1 - highest if valid is None else (1 - highest).where(valid, 0)
    return F.pad(unseen, (0, 1)).amax(-1)  # with a 0 for no noun


def disjoint_object_loss(A: Tensor, valid: Tensor | None = None) -> Tensor:
    """DPL's L_obj = mean over pairs of nouns k < l of cos(A^k, A^l).

    >>> A = torch.tensor([[[[3.0, 4.0]], [[1.0, 0.0]], [[0.0, 1.0]]]])
    >>> disjoint_object_loss(A)  # (3/5 + 4/5 + 0) / 3
    tensor([0.4667])

    Source: Wang et al., Dynamic Prompt Learning, arXiv 2309.15664, section 3.2.

    Args:
        A: attention maps A^k, (B, K, r, c), at least 0.
        valid: which nouns exist, bool, (B, K); all by default.

    Returns:
        shape (B,), in [0, 1]; 0 where there are fewer than two nouns.
    """
    first, second = torch.triu_indices(A.shape[1], A.shape[1], offset=1)
    exists = torch.ones(A.shape[:2], dtype=torch.bool, device=A.device) if valid is None else valid
    flat = A.flatten(-2)
    return _mean(F.cosine_similarity(flat[:, first], flat[:, second], dim=-1), exists[:, first] & exists[:, second])


def background_leakage_loss(A: Tensor, background: Tensor, valid: Tensor | None = None) -> Tensor:
    """DPL's L_bg = mean_k cos(A^k, M), M the background.

    >>> A, M = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[0.0, 1.0]]])
    >>> background_leakage_loss(A, M)  # 4/5
    tensor([0.8000])

    Source: Wang et al., Dynamic Prompt Learning, arXiv 2309.15664, section 3.2.

    Args:
        A: attention maps A^k, (*, K, r, c), at least 0.
        background: M, (*, r, c), 0 or 1.
        valid: which nouns exist, bool, (*, K); all by default.

    Returns:
        shape (*), in [0, 1]; 0 where no noun or no background exists.
    """
    M = background.flatten(-2)[..., None, :].expand_as(A.flatten(-2))
    return _mean(F.cosine_similarity(A.flatten(-2), M, dim=-1), valid)


def loss_threshold(i: int, alpha: float, beta: float) -> float:
    """TH_i = β exp(-i / α), the progressive threshold of step i.

    >>> loss_threshold(0, alpha=50, beta=0.7)
    0.7
    >>> round(loss_threshold(50, alpha=50, beta=0.7), 4)  # 0.7 / e
    0.2575

    Source: Tang et al., LocInv, arXiv 2405.01496, section 3.2.

    Args:
        i: step, 0 the noisiest.
        alpha: α, in steps, more than 0: the threshold falls to 1/e of itself in so many.
        beta: β, at least 0: the threshold of step 0.
    """
    return beta * math.exp(-i / alpha)


def _mean(x: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return x.mean(-1)
    return x.where(valid, 0).sum(-1) / valid.sum(-1).clamp_min(1)
