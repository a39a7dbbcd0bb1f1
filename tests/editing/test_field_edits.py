"""MasaCtrl's mutual self-attention and LOCATEdit's smoothed masks, against their formulas."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from types import SimpleNamespace

import pytest
import torch
from diffusers.models.attention_processor import Attention
from test_editing import invert

from locinv_pl.editing.attention import AttentionEdit
from locinv_pl.editing.blending import Blend, smoothed
from locinv_pl.editing.prompt_to_prompt import check_edit, denoise, edit, plan, reconstruct
from locinv_pl.editing.rows import Rows
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError
from locinv_pl.method.progress import finish
from locinv_pl.networks.attention import Context, Layer, control_attention
from locinv_pl.networks.backbone import Backbone
from locinv_pl.types import Inversion

T = 6
PLAIN = EditSettings(
    cross_replace_steps=0, swap_steps=0, self_replace_steps=0, attribute_steps=0, keep="nothing", blend="none"
)
MASACTRL = replace(PLAIN, mutual_start=0.2, mutual_layers=0.5)
TARGETS = ["a red zebra and a dog", "a blue cat and a dog"]


@pytest.fixture(scope="module")
def inversion(tiny: Backbone) -> Inversion:
    return invert(tiny)


# -- mutual self-attention ---------------------------------------------------------------------------


@pytest.mark.parametrize("halves", [1, 2])
def test_targets_attend_to_their_source_s_keys_and_values(tiny, inversion, halves):
    """Of two inversions with their targets, with and without the null texts' half of the pass."""
    settings = [[MASACTRL, PLAIN], [MASACTRL]]
    rows = Rows.of(tiny, [inversion, inversion], [TARGETS, TARGETS[:1]], settings)  # rows 0 and 3 are sources
    hook = AttentionEdit(rows, T, torch.device("cpu"), self_layers=1)
    hook.step = 2
    hook.mutual_layers = torch.zeros(3)
    torch.manual_seed(0)
    attn = Attention(query_dim=12, heads=2, dim_head=4)
    x = torch.randn(5 * halves, 9, 12)
    with torch.no_grad(), control_attention(torch.nn.ModuleList([attn]), Context.of(torch.zeros(1, 1, 12)), hook):
        found = attn(x)
    for n in range(5 * halves):
        seen = {1: 0, 4: 3}.get(n % 5, n % 5) + n // 5 * 5  # the second target keeps to itself
        q, k, v = (p(x[m]).unflatten(-1, (2, 4)) for p, m in ((attn.to_q, n), (attn.to_k, seen), (attn.to_v, seen)))
        each = [((q[:, h] @ k[:, h].T) / sqrt(4)).softmax(-1) @ v[:, h] for h in range(2)]
        torch.testing.assert_close(found[n], attn.to_out[0](torch.cat(each, dim=-1)))


def test_object_and_background_see_their_own(tiny, inversion):
    """As the paper writes it: two masked attentions, put together by the target's mask."""
    rows = Rows.of(tiny, [inversion], [TARGETS[:1]], replace(MASACTRL, mutual_mask=True, mutual_layers=0.0))
    hook = AttentionEdit(rows, T, torch.device("cpu"), self_layers=1)
    hook.step = 2
    torch.manual_seed(0)
    hook.maps = torch.rand(2, 8, 8, 20) ** 12  # few cells stand out
    attn = Attention(query_dim=12, heads=2, dim_head=4)
    x = torch.randn(4, 256, 12)  # 16x16 cells, the maps have 8x8
    with torch.no_grad(), control_attention(torch.nn.ModuleList([attn]), Context.of(torch.zeros(1, 1, 12)), hook):
        found = attn(x)
    cat = inversion.fine_priors[0].flatten() > 0.5
    looked = hook.maps[1][..., rows.targets[0].positions("zebra")].mean(-1)
    target = (looked > 0.3 * looked.max()).repeat_interleave(2, 0).repeat_interleave(2, 1).flatten()
    assert 0 < cat.sum() < 256 and 0 < target.sum() < 256
    for n, seen in ((1, 0), (3, 2)):
        q, k, v = (p(x[m]).unflatten(-1, (2, 4)) for p, m in ((attn.to_q, n), (attn.to_k, seen), (attn.to_v, seen)))
        parts = []
        for mask in (cat, ~cat):
            each = [(q[:, h] @ k[mask, h].T / sqrt(4)).softmax(-1) @ v[mask, h] for h in range(2)]
            parts.append(torch.cat(each, dim=-1))
        expected = torch.where(target[:, None], *parts)
        torch.testing.assert_close(found[n], attn.to_out[0](expected))
    apart, together = (edit(tiny, inversion, TARGETS, replace(MASACTRL, mutual_mask=how)) for how in (True, False))
    assert apart.isfinite().all() and not torch.equal(apart, together)
    alone = edit(tiny, inversion, TARGETS[1], replace(MASACTRL, mutual_mask=True))
    torch.testing.assert_close(alone[0], apart[1], rtol=0, atol=1e-4)


def test_from_a_step_and_a_layer_on(tiny, inversion):
    rows = Rows.of(tiny, [inversion], [TARGETS[:1]], MASACTRL)
    hook = AttentionEdit(rows, T, torch.device("cpu"), self_layers=4)
    k = torch.randn(2, 2, 9, 4)
    taken = {}
    for step in range(T):
        hook.step = step
        for number in range(4):
            given, *_ = hook.share(k, k, Layer(f"block.{3 - number}", False, 9, 9))  # their order is the pass's
            taken[step, number] = torch.equal(given[1], k[0])
            assert torch.equal(given[0], k[0])
        assert hook.acts() == (step >= 2)
    assert taken == {(step, number): step >= 2 and number >= 2 for step, number in taken}  # 0.2 of 6, half of 4


def test_the_layers_are_counted_along_the_pass(tiny, inversion):
    """A UNet lists its middle block last."""
    control, _ = plan(tiny, Rows.of(tiny, [inversion], [TARGETS[:1]], MASACTRL), None)
    with torch.no_grad():
        ids = torch.stack([inversion.trajectory[-1]] * 2)
        tiny.predict(ids, torch.tensor(500), tiny.encode_null().expand(2), control)
    places = [name.split("_")[0] for name in control._order]
    assert places == sorted(places, key=["down", "mid", "up"].index) and "mid" in places
    assert control.mutual_layers.tolist() == [len(places) / 2]


def test_without_a_step_it_is_the_plain_edit(tiny, inversion):
    never = replace(MASACTRL, mutual_start=1.0)
    assert torch.equal(edit(tiny, inversion, TARGETS, never), edit(tiny, inversion, TARGETS, PLAIN))
    assert not torch.equal(edit(tiny, inversion, TARGETS, MASACTRL), edit(tiny, inversion, TARGETS, PLAIN))
    assert replace(never, mutual_layers=0.6).to_dict() == PLAIN.to_dict()


@pytest.mark.parametrize("direct", [False, True])
def test_the_source_s_prompt_gives_the_source_and_edits_of_a_batch_are_those_made_alone(tiny, inversion, direct):
    how = replace(MASACTRL, mutual_start=0.0, mutual_layers=0.0, direct=direct)
    made = edit(tiny, inversion, [inversion.prompt, *TARGETS], how, with_source=True)
    if not direct:  # of a direct edit the source isn't where its own steps lead
        torch.testing.assert_close(made[0], reconstruct(tiny, [inversion])[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(made[1], made[0], rtol=0, atol=1e-4)
    for n, target in enumerate(TARGETS):
        torch.testing.assert_close(edit(tiny, inversion, target, how)[0], made[2 + n], rtol=0, atol=1e-4)


# -- smoothed masks ----------------------------------------------------------------------------------


@pytest.fixture
def affinity() -> torch.Tensor:
    return torch.rand(16, 16, generator=torch.Generator().manual_seed(0)).mul(4).softmax(-1)


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1))


def test_smoothing_solves_the_graph_s_equation(maps, affinity):
    W = [[(affinity[i, j] + affinity[j, i]) / 2 for j in range(16)] for i in range(16)]
    found = smoothed(maps, affinity, 3.0)
    for a, x in zip(maps.flatten(1), found.flatten(1), strict=True):
        for i in range(16):  # x_i + λ Σ_j W_ij (x_i - x_j) = a_i
            equation = x[i] + 3.0 * sum(W[i][j] * (x[i] - x[j]) for j in range(16))
            assert equation.item() == pytest.approx(a[i].item(), abs=1e-5)


def test_smoothing_is_the_identity_at_zero_and_the_mean_far_out(maps, affinity):
    torch.testing.assert_close(smoothed(maps, affinity, 0.0), maps, rtol=0, atol=0)
    mean = maps.mean((1, 2), keepdim=True).expand_as(maps)
    torch.testing.assert_close(smoothed(maps, affinity, 1e4), mean, rtol=0, atol=1e-3)


@pytest.mark.parametrize("smooth", [0.5, 4.0])
def test_smoothing_keeps_sums_and_ranges(maps, affinity, smooth):
    """Over the cells, and over the tokens: maps that share every cell out still do."""
    shares = maps / maps.sum(0)
    found = smoothed(shares, affinity, smooth)
    torch.testing.assert_close(found.sum((1, 2)), shares.sum((1, 2)))
    torch.testing.assert_close(found.sum(0), torch.ones(4, 4))
    assert (found.amin((1, 2)) >= shares.amin((1, 2))).all() and (found.amax((1, 2)) <= shares.amax((1, 2))).all()
    torch.testing.assert_close(smoothed(found, 5 * affinity, smooth), smoothed(found, affinity, smooth))


def test_a_hole_in_what_belongs_together_is_filled():
    """Four cells attend to each other, and so do the others; one of the four isn't looked at."""
    inside = torch.zeros(16)
    inside[[5, 6, 9, 10]] = 1.0
    together = (inside[:, None] == inside[None]).float()
    looked = inside.clone()
    looked[6] = 0.0
    looked[0] = 0.4
    found = smoothed(looked.reshape(1, 4, 4), together, 5.0).flatten()
    assert torch.equal((found > 0.3 * found.max()).float(), inside)


@pytest.mark.parametrize("blend", ["attention", "both"])
def test_a_smoothed_mask_is_the_formula_s_with_the_attention_so_far(tiny, inversion, blend):
    settings = EditSettings(blend=blend, smooth=2.0, self_replace_steps=0.0, blend_threshold=0.9, blend_growth=0.9)
    rows = Rows.of(tiny, [inversion], [TARGETS[:1]], settings)
    control, blended = plan(tiny, rows, None)
    seen = []

    class Spy(AttentionEdit):
        def __call__(self, probs, layer):
            if not layer.is_cross and layer.queries == 64:
                seen.append(probs[0].mean(0))
            return super().__call__(probs, layer)

    control.__class__ = Spy
    with torch.no_grad():
        finish(denoise(tiny, rows, None, (control, blended)))
    assert len(seen) >= T
    plain = inversion.maps[:, :1].mean(0)
    even = smoothed(plain, torch.stack(seen).sum(0), 2.0)
    A = plain.min() + (even - even.min()) * (plain.max() - plain.min()) / (even.max() - even.min())
    large = torch.nn.functional.interpolate(A[None], (16, 16), mode="bilinear")[0, 0]
    share = settings.blend_threshold if blend == "attention" else settings.blend_growth
    expected = large > share * large.max()
    if blend == "both":
        own, other = inversion.fine_priors
        expected = ((own > settings.blend_coverage) | expected) & (other <= own)
    assert torch.equal(blended.last(1), expected.float())
    assert (A - plain).abs().max() > 1e-4


def test_a_mask_is_cut_from_the_stretched_map(tiny, inversion):
    """A hole is filled, and the background stays out, although all cells attend to all others a little."""
    inside = torch.zeros(8, 8)
    inside[2:5, 2:5] = 1.0
    looked = inside.clone()
    looked[3, 3] = 0.1
    maps = looked[None, None].expand(*inversion.maps.shape[:2], 8, 8)
    rows = Rows.of(tiny, [replace(inversion, maps=maps)], [TARGETS[:1]], EditSettings(blend="attention", smooth=16.0))
    blend = Blend(rows, (8, 8), None)
    assert torch.equal(blend.masks[1], looked.round())
    together = inside.flatten()
    affinity = 0.8 * (together[:, None] == together[None]) + 0.1
    control = SimpleNamespace(affinity=lambda target: affinity)
    blend(torch.zeros(2, 4, 8, 8), control)
    assert torch.equal(blend.last(1), inside)


def test_without_smoothing_nothing_changes_and_edits_of_a_batch_are_those_made_alone(tiny, inversion):
    usual, smooth = EditSettings(), EditSettings(smooth=3.0, blend="attention")
    assert torch.equal(edit(tiny, inversion, TARGETS, replace(usual, smooth=0.0)), edit(tiny, inversion, TARGETS))
    assert "smooth" not in usual.to_dict() and smooth.to_dict()["smooth"] == 3.0
    both = edit(tiny, inversion, TARGETS, smooth)
    for n, target in enumerate(TARGETS):
        torch.testing.assert_close(edit(tiny, inversion, target, smooth)[0], both[n], rtol=0, atol=1e-4)
    assert not replace(smooth, blend="prior").smooths


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [EditSettings(smooth=1.0), MASACTRL])
def test_joint_attention_is_refused(tiny, inversion, settings, monkeypatch):
    monkeypatch.setattr(type(tiny), "is_joint", True)
    with pytest.raises(InputError, match="mutual_start and smooth act on the self-attention of a UNet") as caught:
        check_edit(tiny, inversion, TARGETS[0], settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"smooth": -1.0}, "edit.smooth=-1.0: give a number of 0 or more"),
        ({"smooth": float("inf")}, "edit.smooth=inf"),
        ({"mutual_start": 4}, "edit.mutual_start=4: is a share"),
        ({"mutual_layers": 10}, "edit.mutual_layers=10: is a share"),
    ],
)
def test_settings_out_of_range(values, says):
    with pytest.raises(InputError, match=says):
        EditSettings(**values)
