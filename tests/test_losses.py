"""The losses against the formulas of the paper, written out with loops."""

import math

import pytest
import torch

from locinv_pl.losses import adjective_binding_loss, loss_threshold, overlap_loss, similarity_loss


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 4, 4, generator=generator), torch.rand(2, 3, 4, 4, generator=generator)


def test_similarity_is_one_minus_mean_cosine(maps):
    A, S = maps
    for b in range(2):
        by_hand = [1 - cosine(A[b, k].flatten().tolist(), S[b, k].flatten().tolist()) for k in range(3)]
        assert similarity_loss(A, S)[b].item() == pytest.approx(sum(by_hand) / 3, rel=1e-5)


def test_overlap_is_the_share_of_attention_outside(maps):
    A, S = maps
    for b in range(2):
        by_hand = []
        for k in range(3):
            a, s = A[b, k].flatten().tolist(), S[b, k].flatten().tolist()
            by_hand.append(1 - sum(x * y for x, y in zip(a, s, strict=True)) / sum(a))
        assert overlap_loss(A, S)[b].item() == pytest.approx(sum(by_hand) / 3, rel=1e-5)


def test_binding_is_one_minus_cosine_of_adjective_and_noun(maps):
    A_adj, A_noun = maps
    by_hand = [1 - cosine(A_adj[0, p].flatten().tolist(), A_noun[0, p].flatten().tolist()) for p in range(3)]
    assert adjective_binding_loss(A_adj, A_noun)[0].item() == pytest.approx(sum(by_hand) / 3, rel=1e-5)


def test_overlap_is_zero_inside_and_one_outside():
    S = torch.zeros(1, 1, 4, 4)
    S[..., :2] = 1
    assert overlap_loss(S * 0.3, S).item() == pytest.approx(0)
    assert overlap_loss(1 - S, S).item() == pytest.approx(1)
    even = torch.ones(1, 1, 4, 4)
    assert overlap_loss(even, S).item() == pytest.approx(1 - S.mean().item())


def test_similarity_ignores_the_scale_of_a_map(maps):
    A, S = maps
    torch.testing.assert_close(similarity_loss(A, S), similarity_loss(7 * A, S))


@pytest.mark.parametrize("loss", [similarity_loss, overlap_loss])
def test_missing_nouns_do_not_count(maps, loss):
    A, S = maps
    A, S = A.clone(), S.clone()
    A[1, 2], S[1, 2] = 0, 0
    valid = torch.tensor([[True, True, True], [True, True, False]])
    torch.testing.assert_close(loss(A, S, valid)[1], loss(A[1:, :2], S[1:, :2])[0])
    assert loss(A, S, torch.zeros(2, 3, dtype=torch.bool)).tolist() == [0, 0]


def test_missing_nouns_give_no_gradient_and_no_nan(maps):
    A, S = (m.clone() for m in maps)
    A[1, 2], S[1, 2] = 0, 0
    A.requires_grad_()
    valid = torch.tensor([[True, True, True], [True, True, False]])
    (similarity_loss(A, S, valid) + overlap_loss(A, S, valid)).sum().backward()
    assert A.grad is not None and A.grad.isfinite().all()
    assert not A.grad[1, 2].any() and A.grad[1, 1].any()


def test_threshold_falls_from_beta():
    assert loss_threshold(0, 50, 0.7) == 0.7
    assert loss_threshold(25, 25, 0.7) == pytest.approx(0.7 / math.e)
    assert loss_threshold(49, 50, 0.1) == pytest.approx(0.1 * 2.718281828459045 ** (-49 / 50))
