"""Edits of an inversion by the tiny model: what must stay the same, and what each setting changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import make_two_objects

from locinv_pl.editing.attention import AttentionEdit
from locinv_pl.editing.blending import Blend
from locinv_pl.editing.prompt_to_prompt import denoise, edit, reconstruct
from locinv_pl.editing.rows import Rows, changed_nouns
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError
from locinv_pl.method.policies import Method, NullTextPolicy, TokenPolicy, load_method
from locinv_pl.method.progress import finish
from locinv_pl.method.task import prepare
from locinv_pl.method.timestep import collect, invert_step
from locinv_pl.networks.attention import Layer
from locinv_pl.networks.backbone import Backbone
from locinv_pl.types import Inversion
from locinv_pl.words import find_word
from locinv_pl.words.alignment import align
from locinv_pl.words.tokens import tokenize

T = 6
PLAIN = EditSettings(cross_replace_steps=0, swap_steps=0, self_replace_steps=0, attribute_steps=0)
NO_BLEND = EditSettings(blend="none")


def invert(backbone: Backbone, values: str = "prompt") -> Inversion:
    method = Method(
        tokens=TokenPolicy(max_steps=2, values=values),  # type: ignore[arg-type]
        null_text=NullTextPolicy(max_steps=2),
    )
    task = prepare(backbone, [make_two_objects("x", seed=0)], method, T, 8)
    records = []
    for i in range(T):
        records.append(invert_step(backbone, task, i, records[-1] if records else task.start()))
    return collect(task, records)[0]


@pytest.fixture(scope="module")
def inversion(tiny_module: Backbone) -> Inversion:
    return invert(tiny_module)


@pytest.fixture(scope="module")
def tiny_module(tiny_folder) -> Backbone:
    from locinv_pl.networks.loading import load_backbone

    return load_backbone(str(tiny_folder))


@pytest.mark.parametrize("values", ["prompt", "dynamic"])
@pytest.mark.parametrize("settings", [PLAIN, NO_BLEND, EditSettings()])
def test_the_source_prompt_gives_the_reconstruction(tiny_module, values, settings):
    inversion = invert(tiny_module, values)
    again = edit(tiny_module, inversion, inversion.prompt, settings)
    torch.testing.assert_close(again, reconstruct(tiny_module, [inversion]), rtol=0, atol=1e-4)


def test_a_word_replaced_by_itself_gives_the_reconstruction(tiny_module, inversion):
    same = inversion.prompt.replace("cat", "CAT")
    torch.testing.assert_close(
        edit(tiny_module, inversion, same), reconstruct(tiny_module, [inversion]), rtol=0, atol=1e-4
    )


def test_several_edits_in_one_batch_are_those_made_alone(tiny_module, inversion):
    prompts = ["a red dog and a dog", "a cat and a dog", "a red zebra and a dog on grass"]
    together = edit(tiny_module, inversion, prompts)
    assert together.shape == (3, 3, 32, 32) and (together[0] - together[1]).abs().max() > 1e-4
    for n, prompt in enumerate(prompts):
        torch.testing.assert_close(edit(tiny_module, inversion, prompt)[0], together[n], rtol=0, atol=1e-4)


def test_an_edit_made_twice_is_equal(tiny_module, inversion):
    one, other = (edit(tiny_module, inversion, "a red zebra and a dog") for _ in range(2))
    assert torch.equal(one, other)


def test_the_source_branch_does_not_see_the_target(tiny_module, inversion):
    rows = Rows.of(tiny_module, [inversion], [["a red zebra and a dog"]])
    with torch.no_grad():
        z = finish(denoise(tiny_module, rows))
    back = tiny_module.decode(z[:1]).cpu()
    torch.testing.assert_close(back, reconstruct(tiny_module, [inversion]), rtol=0, atol=1e-4)


def probabilities(rows: int, queries: int, keys: int) -> torch.Tensor:
    return torch.rand(rows, 2, queries, keys, generator=torch.Generator().manual_seed(0)).softmax(-1)


def control(tiny_module, inversion, target: str, **settings) -> AttentionEdit:
    rows = Rows.of(tiny_module, [inversion], [[target]], EditSettings(**settings))
    return AttentionEdit(rows, T, torch.device("cpu"))


CROSS, SELF = Layer("x", True, 64, 20), Layer("y", False, 64, 64)


def test_cross_attention_is_taken_over_by_the_mapper_for_its_share_of_the_steps(tiny_module, inversion):
    hook = control(tiny_module, inversion, "a red owl and a dog", swap_steps=0.5)
    A = probabilities(2, 64, 20)
    expected = A[1].clone()
    expected[..., [0, 1, 2]] = A[0][..., [0, 1, 2]]  # start mark, a, red
    expected[..., [3, 4, 5]] = A[0][..., [3]] / 3  # cat: three letters of "owl"
    expected[..., 6:20] = A[0][..., 4:18]  # and a dog, end, padding
    hook.step = 2
    torch.testing.assert_close(hook(A, CROSS)[1], expected)
    assert torch.equal(hook(A, CROSS)[0], A[0])
    hook.step = 3
    assert torch.equal(hook(A, CROSS), A)


def test_swaps_and_other_edits_take_over_for_shares_of_their_own(tiny_module, inversion):
    shares = {"cross_replace_steps": 1.0, "swap_steps": 0.5}
    A, late = probabilities(2, 64, 20), T // 2
    for target, is_taken in (("a red owl and a dog", False), ("a blue cat and a dog", True), ("a red cat", True)):
        hook = control(tiny_module, inversion, target, **shares)
        hook.step = late
        assert torch.equal(hook(A, CROSS)[1], A[1]) != is_taken


def test_new_words_keep_their_own_maps(tiny_module, inversion):
    hook = control(tiny_module, inversion, "a red cat and a red dog", cross_replace_steps=1)
    A = probabilities(2, 64, 20)
    assert torch.equal(hook(A, CROSS)[1][..., 6], A[1][..., 6])
    assert torch.equal(hook(A, CROSS)[1][..., 7], A[0][..., 6])


def test_steps_and_weights_of_single_words(tiny_module, inversion):
    hook = control(tiny_module, inversion, "a red dog and a dog", word_steps={"red": 0.0}, reweight={"and": 3.0})
    A = probabilities(2, 64, 20)
    edited = hook(A, CROSS)[1]
    assert torch.equal(edited[..., 2], A[1][..., 2]) and torch.equal(edited[..., 3], A[0][..., 3])
    torch.testing.assert_close(edited[..., 4], 3 * A[0][..., 4])


def test_self_attention_is_taken_over_early_and_on_coarse_grids(tiny_module, inversion):
    hook = control(tiny_module, inversion, "a red dog and a dog", self_replace_steps=0.5, self_resolution=8)
    A = probabilities(2, 64, 64)
    assert hook.wants(SELF) and not hook.wants(Layer("y", False, 256, 256))
    assert torch.equal(hook(A, SELF)[1], A[0])
    hook.step = 3
    assert not hook.wants(SELF) and hook.wants(CROSS)


def test_attribute_edits_take_over_self_attention_for_longer(tiny_module, inversion):
    """Each target of a batch for its own share of the steps."""
    settings = EditSettings(self_replace_steps=0.5, attribute_steps=1.0)
    rows = Rows.of(tiny_module, [inversion], [["a red dog and a dog", "a blue cat and a dog"]], settings)
    hook = AttentionEdit(rows, T, torch.device("cpu"))
    A = probabilities(3, 64, 64)
    early = hook(A, SELF)
    hook.step = 3
    late = hook(A, SELF)
    assert torch.equal(early[1], A[0]) and torch.equal(early[2], A[0])
    assert torch.equal(late[1], A[1]) and torch.equal(late[2], A[0]) and hook.wants(SELF)


def test_kept_words_have_the_source_s_context_but_for_nouns_described_anew(tiny_module, inversion):
    """Tokens: start, a, red, cat, and, a, dog, end."""
    targets = ["a red dog and a dog", "a on cat and a dog", "a red cat and a red dog"]
    rows = Rows.of(tiny_module, [inversion], [targets], EditSettings(keep="all"))
    states = torch.randn(4, 20, 32, generator=torch.Generator().manual_seed(0))
    kept = rows.keep(states)
    assert torch.equal(kept[0], states[0])
    own = [[p for p in range(20) if torch.equal(kept[n, p], states[n, p])] for n in (1, 2, 3)]
    assert own[0] == [3]  # another noun
    assert own[1] == [2]  # another word, but no adjective
    assert own[2] == [6, 7]  # an adjective more, and its noun
    words = Rows.of(tiny_module, [inversion], [targets], EditSettings(keep="words")).keep(states)
    assert torch.equal(words[1, 1:3], states[0, 1:3]) and torch.equal(words[1, 8:], states[1, 8:])


def test_blending_by_attention_keeps_to_the_changed_noun_s_maps(tiny_module, inversion):
    """Where the inversion has looked at the cat, in the mean, more than a third as much as at most."""
    maps = torch.full_like(inversion.maps, 0.1)
    maps[:, 0, 2:5, 1:4] = 0.9
    maps[: T // 2, 0, 7, 7] = 1.0  # for half of the time: 0.55 in the mean
    looked = replace(inversion, maps=maps)

    def denoised(threshold: float) -> torch.Tensor:
        settings = EditSettings(blend="attention", blend_threshold=threshold)
        return finish(denoise(tiny_module, Rows.of(tiny_module, [looked], [["a red zebra and a dog"]], settings)))

    with torch.no_grad():
        z, loose = denoised(0.65), denoised(0.5)
    large = torch.nn.functional.interpolate(maps[:, 0].mean(0)[None, None], (16, 16), mode="bilinear")[0, 0]
    differs = (z[0] != z[1]).any(0)
    assert differs.any() and not (differs & ~(large > 0.65 * large.max())).any() and not differs[14:, 14:].any()
    assert (loose[0] != loose[1]).any(0)[14:, 14:].any()


def test_blending_without_a_noun_of_the_inversion_follows_the_words_maps_so_far(tiny_module, inversion):
    """As in Prompt-to-Prompt: from a step on."""

    def denoised(settings: EditSettings) -> torch.Tensor:
        return finish(
            denoise(tiny_module, Rows.of(tiny_module, [inversion], [["a red cat and a dog on grass"]], settings))
        )

    with torch.no_grad():
        free = denoised(NO_BLEND)
        never = denoised(EditSettings(blend_start=1.0))
        blended = denoised(EditSettings(blend_threshold=0.9))
    torch.testing.assert_close(free, never)
    same = (blended[0] == blended[1]).all(0)
    assert same.any() and not same.all()


@pytest.mark.parametrize(
    ("target", "nouns"),
    [
        ("a red dog and a dog", [0]),
        ("a red cat and a zebra", [1]),
        ("a blue cat and a dog", [0]),
        ("a cat and a dog", [0]),
        ("a red cat and a blue dog", [1]),
        ("a red cat and a dog on grass", []),
        ("a red cat", [1]),
    ],
)
def test_the_nouns_that_an_edit_changes(tiny_module, inversion, target, nouns):
    source, tokens = tokenize(tiny_module.tokenizer, inversion.prompt), tokenize(tiny_module.tokenizer, target)
    assert changed_nouns(inversion.noun_positions, source, tokens, align(source, tokens)) == nouns


def test_with_the_prior_blend_the_rest_is_the_reconstruction_exactly(tiny_module, inversion):
    rows = Rows.of(
        tiny_module, [inversion], [["a red zebra and a dog"]], EditSettings(blend="prior", blend_margin=0.07)
    )
    with torch.no_grad():
        z = finish(denoise(tiny_module, rows))
    differs = (z[0] != z[1]).any(0)
    near = torch.zeros(16, 16, dtype=torch.bool)
    near[:11, :11] = True  # the cat's quarter, 8x8 latent pixels, a margin of one and its softened edge
    assert differs[:8, :8].any() and not differs[~near].any()


def test_a_region_takes_the_place_of_the_priors(tiny_module, inversion):
    rows = Rows.of(
        tiny_module, [inversion], [["a red zebra and a dog"]], EditSettings(blend="prior", blend_margin=0.07)
    )
    region = torch.zeros(32, 32)
    region[-8:, :8] = 1
    with torch.no_grad():
        z = finish(denoise(tiny_module, rows, region))
    differs = (z[0] != z[1]).any(0)
    assert differs[-4:, :4].any() and not differs[:9].any() and not differs[:, 8:].any()


def test_direct_puts_the_source_on_the_trajectory(tiny_module, inversion):
    rows = Rows.of(tiny_module, [inversion], [["a red zebra and a dog"]], EditSettings(direct=True, blend="prior"))
    with torch.no_grad():
        z = finish(denoise(tiny_module, rows))
    assert torch.equal(z[0], inversion.trajectory[0])
    same = z[1] == inversion.trajectory[0]
    assert same.any() and not same.all()


def owned(tiny_module, inversion, cat: torch.Tensor, dog: torch.Tensor, target: str = "a red zebra and a dog"):
    """The mask of an edit with ``blend="both"`` where the nouns have these priors, and looked at the last row alone."""
    maps = torch.zeros_like(inversion.maps)
    maps[:, 0, -1] = 1.0
    placed = replace(inversion, fine_priors=torch.stack([cat, dog]), maps=maps)
    settings = EditSettings(blend="both", blend_coverage=0.25, blend_growth=0.7)
    return Blend(Rows.of(tiny_module, [placed], [[target]], settings), (16, 16), None).masks[1]


def test_a_cell_changes_where_the_changed_noun_s_prior_covers_it_or_attention_grows(tiny_module, inversion):
    cat, dog = torch.zeros(2, 16, 16)
    cat[2:6, 2:6], dog[5:9, 2:6], dog[-1, :4] = 1.0, 0.5, 0.1
    cat[6, 2:6], cat[10, :], cat[12, :] = 0.4, 0.3, 0.2
    mask = owned(tiny_module, inversion, cat, dog)
    assert mask[2:6, 2:6].all()  # the cat's own, with the cells of which the dog has half
    assert not mask[6:9].any()  # the dog has more of them
    assert mask[10].all() and not mask[12].any()  # covered by more and by less than a quarter
    assert not mask[-1, :4].any() and mask[-1, 4:].all()  # attention, but for the dog's cells
    assert mask.unique().tolist() == [0, 1]


def test_an_edit_of_adjectives_keeps_to_the_prior(tiny_module, inversion):
    cat, dog = torch.zeros(2, 16, 16)
    cat[2:6, 2:6] = 1.0
    assert torch.equal(owned(tiny_module, inversion, cat, dog, "a blue cat and a dog"), cat)


def test_boxes_that_overlap_share_what_lies_in_both(tiny_module, inversion):
    cat, dog = torch.zeros(2, 16, 16)
    cat[8:, :10], dog[8:, 6:] = 1.0, 1.0
    mask = owned(tiny_module, inversion, cat, dog)
    assert mask[8:, :10].all() and not mask[8:, 10:].any() and not mask[:8].any()


def test_an_edit_of_all_nouns_protects_none(tiny_module, inversion):
    cat, dog = torch.zeros(2, 16, 16)
    cat[:4], dog[4:8] = 1.0, 1.0
    mask = owned(tiny_module, inversion, cat, dog, "a red zebra and a owl")
    assert mask[:8].all() and not mask[8:13].any()


def test_edits_of_a_batch_have_their_own_settings(tiny_module, inversion):
    prompts = ["a red zebra and a dog", "a blue cat and a dog"]
    settings = [EditSettings(swap_steps=0.6, blend="none"), EditSettings(keep="nothing", blend="prior")]
    together = edit(tiny_module, inversion, prompts, settings)
    for n, (prompt, own) in enumerate(zip(prompts, settings, strict=True)):
        torch.testing.assert_close(edit(tiny_module, inversion, prompt, own)[0], together[n], rtol=0, atol=1e-4)
    assert (edit(tiny_module, inversion, prompts[0], settings[1])[0] - together[0]).abs().max() > 1e-3
    with pytest.raises(InputError, match=r"edit\.direct: is true for some edits only"):
        edit(tiny_module, inversion, prompts, [settings[0], replace(settings[1], direct=True)])


def test_a_direct_edit_predicts_its_source_for_attention_alone(tiny_module, inversion, monkeypatch):
    """The source's latents are known: it has no guidance, and no pass at all once no attention is taken over."""
    passes, predict = [], type(tiny_module).predict

    def counted(self, z, *args, **kwargs):
        passes.append(len(z))
        return predict(self, z, *args, **kwargs)

    monkeypatch.setattr(type(tiny_module), "predict", counted)
    shares = {"cross_replace_steps": 0.5, "swap_steps": 0.5, "self_replace_steps": 0.5, "attribute_steps": 0.5}
    edit(tiny_module, inversion, ["a red zebra and a dog", "a blue cat and a dog"], EditSettings(**shares, direct=True))
    taken = -(-T // 2)
    assert passes == [3 + 2] * taken + [2 + 2] * (T - taken)


def test_the_reconstruction_of_a_direct_method_is_its_trajectory_s_end(tiny_module, inversion):
    direct = load_method("direct").to_dict()
    known = replace(inversion, settings={**inversion.settings, "method": direct})
    assert torch.equal(reconstruct(tiny_module, [known]), tiny_module.decode(inversion.trajectory[:1]).cpu())


def test_dynamic_tokens_follow_their_words(tiny_module, inversion):
    targets = ["a owl and a dog on grass", "a owl and a red dog on grass", "a dog and a cat"]
    rows = Rows.of(tiny_module, [inversion], [targets])
    ids = torch.stack([tokens.ids for tokens in rows.tokens])
    own = tiny_module.embed(ids)
    V = rows.embeddings(2, own)
    place = {position: k for k, position in enumerate(inversion.dynamic)}
    (dog,) = inversion.noun_positions[1]
    assert torch.equal(V[0, dog], inversion.tokens[2, place[dog]])
    moved = [(n, p) for n, p in torch.nonzero((own != V).any(-1)).tolist() if n > 0]
    # the dog alone, where it is no other dog; of "a dog and a cat" neither noun is in its own place
    ((row, position),) = moved
    assert row == 1 and rows.tokens[1].positions(find_word(targets[0], "dog")[0]) == (position,)
    assert torch.equal(V[1, position], V[0, dog].squeeze(0))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cross_replace_steps": 1.5}, "edit.cross_replace_steps=1.5: is a share"),
        ({"word_steps": {"cat": -1}}, "edit.word_steps.cat=-1: is a share"),
        ({"blend": "all"}, "edit.blend=all: no such blend; choose one of none, attention, prior"),
        ({"keep": "none"}, "edit.keep=none: no such keep; choose one of nothing, words, all"),
    ],
)
def test_settings_out_of_range(settings, says):
    with pytest.raises(InputError, match=says):
        EditSettings(**settings)


def test_refusals(tiny_module, inversion):
    with pytest.raises(InputError, match="has 21 tokens"):
        edit(tiny_module, inversion, " ".join(["cat"] * 19))
    with pytest.raises(InputError, match="word 'bird' is not in the prompt 'a dog and a dog'"):
        edit(tiny_module, inversion, "a dog and a dog", EditSettings(reweight={"bird": 2.0}))
    foreign = replace(inversion, settings={**inversion.settings, "backbone": "other"})
    with pytest.raises(InputError, match="made with backbone 'other'"):
        edit(tiny_module, foreign, "a dog")
