"""The losses against the formulas of the paper, written out with loops."""

import math

import pytest
import torch

from locinv_pl.method.losses import (
    adjective_binding_loss,
    attention_balancing_loss,
    background_leakage_loss,
    contrast_tokens,
    disjoint_object_loss,
    joint_marginal_loss,
    leakage_loss,
    loss_threshold,
    marginal_loss,
    overlap_loss,
    similarity_loss,
)


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


def test_leakage_is_the_mean_cosine_with_what_lies_outside(maps):
    A, S = maps
    outside = (1 - S[1]).flatten(1).tolist()
    by_hand = [cosine(A[1, k].flatten().tolist(), outside[k]) for k in range(3)]
    assert leakage_loss(A, S)[1].item() == pytest.approx(sum(by_hand) / 3, rel=1e-5)


def test_marginals_are_compared_by_their_divergence(maps):
    A, S = maps
    S = (S > 0.5).float()
    S[:, :, 0], S[:, :, -1, -1] = 0, 1  # an empty row adds nothing, a whole plane of zeros can't be

    def divergence(p: list[float], q: list[float]) -> float:
        return sum(x / sum(p) * math.log(x / sum(p) / (y / sum(q))) for x, y in zip(p, q, strict=True) if x)

    for b in range(2):
        by_hand = 0.0
        for k in range(3):
            a, s = A[b, k].tolist(), S[b, k].tolist()
            by_hand += divergence([sum(row) for row in s], [sum(row) for row in a])
            by_hand += divergence([sum(c) for c in zip(*s, strict=True)], [sum(c) for c in zip(*a, strict=True)])
        assert marginal_loss(A, S)[b].item() == pytest.approx(by_hand / 3, rel=1e-5)


def test_the_published_marginals_are_shares_of_all_nouns_together(maps):
    A, S = maps
    S = (S > 0.5).float()
    for b in range(2):
        a, s = (A[b] + 1e-5).tolist(), (S[b] + 1e-5).tolist()
        total_a, total_s = (sum(sum(sum(row) for row in plane) for plane in planes) for planes in (a, s))
        rows = columns = 0.0
        for k in range(3):
            for n in range(4):
                p, q = sum(s[k][n]) / total_s, sum(a[k][n]) / total_a
                rows += p * math.log(p / q)
                p, q = sum(row[n] for row in s[k]) / total_s, sum(row[n] for row in a[k]) / total_a
                columns += p * math.log(p / q)
        by_hand = (0.5 * columns + rows) / (3 * 4)
        assert joint_marginal_loss(A, S)[b].item() == pytest.approx(by_hand, rel=1e-4)


def test_the_published_marginals_are_torch_s_divergence(maps):
    """Its reduction is the mean over all entries; of a grid that isn't square there are more of one kind."""
    A, S = maps[0][..., :3], (maps[1][..., :3] > 0.5).float()
    a, s = (A[0] + 1e-5), (S[0] + 1e-5)
    divergence = [
        torch.nn.functional.kl_div((a.sum(other) / a.sum()).log(), s.sum(other) / s.sum(), reduction="none").mean()
        for other in (1, 2)
    ]
    torch.testing.assert_close(joint_marginal_loss(A, S)[0], 0.5 * divergence[0] + divergence[1])


def test_contrast_is_a_softmax_over_the_tokens_between_the_marks(maps):
    A = maps[0].movedim(1, -1).repeat(1, 1, 1, 2) / 10  # (B, r, c, 6)
    found = contrast_tokens(A)
    for cell, answer in (
        (A[1, 2, 3].tolist(), found[1, 2, 3].tolist()),
        (A[0, 0, 0].tolist(), found[0, 0, 0].tolist()),
    ):
        powers = [math.exp(100 * a) for a in cell[1:-1]]
        assert answer == pytest.approx([0, *(x / sum(powers) for x in powers), 0], rel=1e-4)


def test_balancing_smooths_by_the_sigma_that_it_is_told(maps):
    """The published kernel, exp(-(x / 2σ)²) with σ = 0.5, is a Gaussian of σ = 0.5 √2."""
    line = [math.exp(-((x / (2 * 0.5)) ** 2)) for x in (-1, 0, 1)]
    kernel = torch.tensor([[x * y / sum(line) ** 2 for x in line] for y in line])
    padded = torch.nn.functional.pad(maps[0], (1, 1, 1, 1), mode="reflect")
    smoothed = sum(kernel[y, x] * padded[..., y : y + 4, x : x + 4] for y in range(3) for x in range(3))
    expected = 1 - smoothed.flatten(2).amax(-1).amin(-1)
    torch.testing.assert_close(attention_balancing_loss(maps[0], sigma=0.5 * math.sqrt(2)), expected)
    assert (attention_balancing_loss(maps[0]) - expected).abs().min() > 1e-3


def test_balancing_looks_at_the_highest_point_of_the_faintest_smoothed_map(maps):
    A, _ = maps
    skimage = pytest.importorskip("skimage.filters")
    for b in range(2):
        smoothed = [
            skimage.gaussian(A[b, k].numpy().astype("float64"), sigma=0.5, truncate=2, mode="mirror") for k in range(3)
        ]
        by_hand = 1 - min(plane.max() for plane in smoothed)
        assert attention_balancing_loss(A)[b].item() == pytest.approx(by_hand, rel=1e-4)


def test_disjoint_objects_are_compared_pair_by_pair(maps):
    A, _ = maps
    flat = [A[0, k].flatten().tolist() for k in range(3)]
    by_hand = cosine(flat[0], flat[1]) + cosine(flat[0], flat[2]) + cosine(flat[1], flat[2])
    assert disjoint_object_loss(A)[0].item() == pytest.approx(by_hand / 3, rel=1e-5)
    assert disjoint_object_loss(A[:, :1]).tolist() == [0, 0]


def test_background_leakage_is_the_mean_cosine_with_the_background(maps):
    A, S = maps
    M = (S[:, 0] > 0.5).float()
    by_hand = [cosine(A[0, k].flatten().tolist(), M[0].flatten().tolist()) for k in range(3)]
    assert background_leakage_loss(A, M)[0].item() == pytest.approx(sum(by_hand) / 3, rel=1e-5)
    assert background_leakage_loss(A, torch.zeros(2, 4, 4)).tolist() == [0, 0]


@pytest.mark.parametrize("loss", [attention_balancing_loss, disjoint_object_loss])
def test_missing_nouns_do_not_count_for_dpl(maps, loss):
    A = maps[0].clone()
    A[1, 2] = 0
    valid = torch.tensor([[True, True, True], [True, True, False]])
    torch.testing.assert_close(loss(A, valid)[1], loss(A[1:, :2])[0])
    assert loss(A, torch.zeros(2, 3, dtype=torch.bool)).tolist() == [0, 0]
    assert loss(A[:, :0], torch.zeros(2, 0, dtype=torch.bool)).tolist() == [0, 0]


@pytest.mark.parametrize("loss", [similarity_loss, overlap_loss, leakage_loss, marginal_loss, joint_marginal_loss])
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
