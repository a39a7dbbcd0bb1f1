"""The estimate of the background: made attention whose answer is known."""

import torch

from locinv_pl.method.background import estimate_background


def attention(parts: torch.Tensor) -> torch.Tensor:
    """Self-attention of cells that look at their own part alone."""
    flat = parts.flatten()
    same = (flat[:, None] == flat[None]).float()
    return same / same.sum(1, keepdim=True)


def test_parts_that_no_noun_looks_at_are_background():
    parts = torch.zeros(8, 8, dtype=torch.long)
    parts[:3, :3], parts[5:, 5:], parts[:2, 6:], parts[6:, :2] = 1, 2, 3, 4
    M = estimate_background(attention(parts), torch.stack([parts == 1, parts == 2]).float(), (8, 8))
    assert torch.equal(M, ((parts != 1) & (parts != 2)).float())


def test_another_grid_and_faint_maps():
    """Maps are scaled to their own range; the estimate comes on their grid."""
    parts = torch.zeros(8, 8, dtype=torch.long)
    parts[:4, :4], parts[:4, 4:], parts[4:, :4], parts[4:6, 4:] = 1, 2, 3, 4
    A = torch.zeros(1, 4, 4)
    A[0, :2, :2] = 1e-4
    M = estimate_background(attention(parts), A + 3e-4, (8, 8))
    expected = torch.ones(4, 4)
    expected[:2, :2] = 0
    assert torch.equal(M, expected)


def test_without_nouns_all_is_background():
    M = estimate_background(attention(torch.arange(16).view(4, 4) // 4), torch.zeros(0, 4, 4), (4, 4))
    assert torch.equal(M, torch.ones(4, 4))
