"""Where an edit may change an image, what it changes, and weights in brackets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import make_image
from test_editing import invert

from locinv_pl.editing.prompt_to_prompt import check_edit, denoise, edit, plan
from locinv_pl.editing.rows import Rows, changed_nouns
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError
from locinv_pl.method.progress import finish
from locinv_pl.networks.backbone import Backbone
from locinv_pl.prompt_weights import read_weights
from locinv_pl.run.edit_files import edit_row
from locinv_pl.run.results import score
from locinv_pl.types import Edit, EditSample, Inversion
from locinv_pl.words.alignment import align
from locinv_pl.words.tokens import tokenize

PRIOR = EditSettings(blend="prior", blend_margin=0.07)


@pytest.fixture(scope="module")
def inversion(tiny: Backbone) -> Inversion:
    return invert(tiny)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("a bear and a cat", "a teddy bear and a cat", ["bear"]),
        ("a dog and a cat", "a hot dog and a cat", ["dog"]),
        ("a teddy bear and a cat", "a bear and a cat", ["bear"]),
        ("a toy cat and a dog", "a robot cat and a dog", ["cat"]),
        ("a cat", "a toy cat", ["cat"]),
        ("a cat and a dog", "a cat and a big police dog", ["dog"]),
        ("a cat and a dog", "a cat and a dog on grass", []),
        ("a red cat and a dog", "a green cat and a dog", ["cat"]),
        ("a red cat and a dog", "a red cat on grass", ["dog"]),
    ],
)
def test_a_noun_that_describes_a_noun_changes_it(tiny, source, target, words):
    mine, yours = (tokenize(tiny.tokenizer, prompt) for prompt in (source, target))
    nouns = [word for word in ("bear", "cat", "dog") if word in source.split()]
    nouns.sort(key=source.index)
    places = [mine.positions((source.index(word), source.index(word) + len(word))) for word in nouns]
    assert [nouns[k] for k in changed_nouns(places, mine, yours, align(mine, yours))] == words


@pytest.mark.parametrize(
    "target", ["a red toy cat and a dog", "a red (toy:1.5) cat and a dog", "a red (cat:2) and a dog"]
)
def test_with_the_prior_blend_far_latents_stay(tiny: Backbone, inversion: Inversion, target: str) -> None:
    rows = Rows.of(tiny, [inversion], [[target]], PRIOR)
    with torch.no_grad():
        z = finish(denoise(tiny, rows))
    differs = (z[0] != z[1]).any(0)
    near = torch.zeros(16, 16, dtype=torch.bool)
    near[:11, :11] = True
    assert differs[:8, :8].any() and not differs[~near].any()


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("a red cat and a dog, owl", "'owl' has no prior that gives it a place"),
        ("a red dog and a dog on grass", "'grass' has no prior"),
        ("a red cat and a dog on", "it changes no noun"),
        ("a red cat and a dog", "it changes no noun"),
    ],
)
def test_what_has_no_place_is_refused_and_takes_a_region(tiny, inversion, target, says):
    with pytest.raises(InputError, match=says) as caught:
        check_edit(tiny, inversion, target, PRIOR)
    assert "region=" in str(caught.value) and "\n" not in str(caught.value)
    region = torch.zeros(32, 32)
    region[:8, :8] = 1
    check_edit(tiny, inversion, target, PRIOR, region)
    check_edit(tiny, inversion, target, EditSettings())


def test_a_changed_noun_without_a_prior_has_no_place(tiny, inversion):
    (cat, _) = inversion.noun_positions
    alone = replace(
        inversion,
        nouns=("cat",),
        noun_positions=(cat,),
        priors=inversion.priors[:1],
        fine_priors=inversion.fine_priors[:1],
    )
    check_edit(tiny, alone, "a blue cat and a dog", PRIOR)
    with pytest.raises(InputError, match="'dog' has no prior"):
        check_edit(tiny, alone, "a blue cat and an owl", PRIOR)


def test_a_region_is_checked_and_acts_whatever_the_blend(tiny, inversion):
    region, target = torch.zeros(32, 32), "a red zebra and a dog"
    with pytest.raises(InputError, match="region: is empty"):
        edit(tiny, inversion, target, region=region)
    with pytest.raises(InputError, match=r"region: its shape is \(16, 16\), the image's \(32, 32\)"):
        edit(tiny, inversion, target, region=torch.ones(16, 16))
    region[-8:, :8] = 1
    assert torch.equal(
        edit(tiny, inversion, target, EditSettings(blend_margin=0.07), region),
        edit(tiny, inversion, target, PRIOR, region),
    )


def test_weights_in_brackets_are_a_reweighting(tiny, inversion):
    plain, free = "a red dog and a dog", EditSettings(blend="none")
    weighted = edit(tiny, inversion, "a (red:3) dog and a dog", free)
    assert torch.equal(weighted, edit(tiny, inversion, plain, replace(free, reweight={"red": 3.0})))
    assert not torch.equal(weighted, edit(tiny, inversion, plain, free))
    one = edit(tiny, inversion, "a red dog and a (dog:3)", free)  # the second dog alone
    assert not torch.equal(one, edit(tiny, inversion, plain, replace(free, reweight={"dog": 3.0})))


@pytest.mark.parametrize(
    ("prompt", "plain", "weights"),
    [
        ("a (red:1.5) house", "a red house", [("red", 1.5)]),
        ("(a red house: .5), (sky:-2)", "a red house, sky", [("a red house", 0.5), ("sky", -2.0)]),
        ("a clock (at 4:20)", "a clock (at 4:20)", []),
        ("a house (old)", "a house (old)", []),
    ],
)
def test_weights_are_read(prompt, plain, weights):
    edit = Edit(prompt, "edit")
    assert edit.prompt == plain and replace(edit, kind="x").weights == edit.weights
    assert [(plain[slice(*span)], factor) for span, factor in edit.weights] == weights


@pytest.mark.parametrize(
    "prompt", ["a ((red)) house", "a ((red:1.5) big:1.2) house", "a (red:1" + "0" * 400 + ") house"]
)
def test_other_weights_are_refused(prompt):
    with pytest.raises(InputError, match="write"):
        read_weights(prompt)


@pytest.mark.parametrize("prompt", ["", "   ", "\u200b", " , "])
def test_a_prompt_without_a_word_is_no_edit(prompt):
    with pytest.raises(InputError, match="has no word"):
        Edit(prompt, "edit")


def test_a_source_prompt_has_no_weights():
    with pytest.raises(InputError, match=r"image 'x': its prompt has a weight, \(red:1.5\); write 'red' alone"):
        EditSample("x", make_image(), "a (red:1.5) cat")


class TestBlendedWords:
    """The pair of words that PIE-Bench says an edit blends."""

    def mask(self, backbone: Backbone, inversion: Inversion, settings: EditSettings, blend: tuple[str, str] | None):
        asked = Edit("a red zebra and a owl", "change_object", blend)
        rows = Rows.of(backbone, [inversion], [[asked]], settings)
        _, blended = plan(backbone, rows, None)
        assert blended is not None
        return blended.masks[1]

    @pytest.mark.parametrize("settings", [PRIOR, EditSettings(blend="attention", blend_threshold=0.97)])
    def test_they_say_where(self, tiny, inversion, settings):
        both, cat, dog = (
            self.mask(tiny, inversion, settings, blend) for blend in (None, ("cat", "zebra"), ("dog", "owl"))
        )
        assert not torch.equal(cat, dog) and torch.equal(both > 0, (cat > 0) | (dog > 0))

    def test_words_that_the_prompts_have_not_say_nothing(self, tiny, inversion):
        none = self.mask(tiny, inversion, PRIOR, None)
        assert torch.equal(self.mask(tiny, inversion, PRIOR, ("horse", "zebra")), none)

    def test_words_without_a_noun_s_maps_are_followed_as_they_go(self, tiny, inversion):
        asked = [Edit("a red zebra and a dog", "x", ("red", "zebra"))]
        rows = Rows.of(tiny, [inversion], [asked], EditSettings(blend_threshold=0.9, blend_start=0.0))
        with torch.no_grad():
            z = finish(denoise(tiny, rows))
        same = (z[0] == z[1]).all(0)
        assert same.any() and not same.all()


def test_the_identity_of_an_edit():
    asked, settings = Edit("a (red:2) cat", "edit", ("dog", "cat")), {"blend": "prior"}
    region, other = torch.zeros(8, 8), torch.zeros(8, 8)
    region[0, 0], other[1, 1] = 1, 1
    rows = [edit_row(asked, settings, plane) for plane in (None, region, other, region.bool())]
    assert rows[0]["settings"] == {
        "blend": "prior",
        "weights": [["red", 2, 5, 2.0]],
        "blended_words": ["dog", "cat"],
    }
    assert rows[1] != rows[2] and rows[1] == rows[3] and rows[0] != rows[1]
    assert edit_row(Edit("a cat", "edit"), settings)["settings"] == settings


@pytest.mark.parametrize("default", [torch.float32, torch.bfloat16, torch.float64])
def test_scores_do_not_depend_on_the_precision_around_them(tiny, inversion, sample, default):
    back = make_image(seed=3)[None]
    (expected,) = score(tiny, [sample], [inversion], back, 1.0)
    torch.set_default_dtype(default)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            (found,) = score(tiny, [sample], [inversion], back, 1.0)
    finally:
        torch.set_default_dtype(torch.float32)
    for key in ("ssim", "psnr", "iou", "iou_initial", "iou_curve"):
        assert found.scores[key] == expected.scores[key]
    assert found.scores["ssim_vae"] == pytest.approx(expected.scores["ssim_vae"], abs=0.01)
