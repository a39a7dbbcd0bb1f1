"""How far work has come: the generators behind ``invert`` and ``edit``."""

import pytest
import torch

from locinv_pl import EditSettings, InputError, adjectives, edit, invert, iter_edit, iter_invert, nouns, open_image
from locinv_pl.api import make_sample
from locinv_pl.editing.prompt_to_prompt import reconstruct
from locinv_pl.method.progress import finish, last_result
from tests.conftest import make_image

R, T = 8, 3
PROMPT, PRIORS = "a red cat on grass", {"cat": (8, 4, 12, 12)}
COMMON = {"method": "locinv_direct", "num_steps": T, "resolution": R}


@pytest.fixture(scope="module")
def told(tiny):
    return list(iter_invert(tiny, make_image(), PROMPT, PRIORS, **COMMON))


def test_every_timestep_of_both_phases_is_told_once(told):
    phases = [(p.phase, p.step, p.total) for p in told]
    assert phases == [(phase, n, T) for phase in ("invert", "optimize") for n in (1, 2, 3)]
    assert [p.result is None for p in told] == [True] * 5 + [False]
    seconds = [p.seconds for p in told]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_maps_are_the_mean_so_far_and_the_result_is_that_of_invert(tiny, told):
    inversion = invert(tiny, make_image(), PROMPT, PRIORS, **COMMON)
    for name in ("latent", "tokens", "maps", "initial_maps", "trajectory"):
        assert torch.equal(getattr(told[-1].result, name), getattr(inversion, name)), name
    torch.testing.assert_close(told[1].maps, inversion.initial_maps[-2:].mean(0))  # noisiest first: two told so far
    torch.testing.assert_close(told[4].maps, inversion.maps[:2].mean(0))


def test_closing_cancels_and_leaves_the_networks_as_they_were(tiny, told):
    for steps in (1, 4):  # within either phase
        running = iter_invert(tiny, make_image(), PROMPT, PRIORS, **COMMON)
        for _ in range(steps):
            next(running)
        running.close()
    assert torch.is_grad_enabled()
    again = last_result(iter_invert(tiny, make_image(), PROMPT, PRIORS, **COMMON))
    assert torch.equal(again.latent, told[-1].result.latent)


def test_no_grad_holds_within_the_generator_alone(tiny, told):
    running = iter_edit(tiny, told[-1].result, "a blue cat on grass")
    next(running)
    assert torch.is_grad_enabled()
    running.close()


def test_an_edit_s_result_says_where_and_what_it_changed(tiny, told):
    inversion = told[-1].result
    prompts = ["a blue cat on grass", "a red dog on grass"]
    settings = [EditSettings(), EditSettings(blend="none")]
    steps = list(iter_edit(tiny, inversion, prompts, settings))
    assert [(p.phase, p.step, p.total) for p in steps] == [("edit", n, T) for n in (1, 2, 3)]
    made = steps[-1].result
    assert torch.equal(made.images, edit(tiny, inversion, prompts, settings))
    # decoded beside the edits there and alone here, so that the last bits may differ
    torch.testing.assert_close(made.reconstruction, reconstruct(tiny, [inversion])[0], rtol=0, atol=1e-5)
    assert made.settings == tuple(settings) and [e.prompt for e in made.edits] == prompts
    assert made.changed == ((("red", "blue"),), (("cat", "dog"),))
    covered = inversion.fine_priors[0] > settings[0].attribute_coverage
    assert torch.equal(made.masks[0] > 0, covered) and (made.masks[1] == 1).all()
    assert list(made.maps[0]) == ["cat", "grass"] and list(made.maps[1]) == ["dog", "grass"]
    for plane in made.maps[1].values():
        assert plane.shape == (R, R) and 0 < plane.mean() < 1


def test_bad_input_is_told_at_the_call(tiny):
    with pytest.raises(InputError, match="noun 'dog'"):
        iter_invert(tiny, make_image(), PROMPT, {"cat": PRIORS["cat"]}, nouns=["dog"])


def test_adjectives_of_localized_nouns_are_bound_unless_told_otherwise():
    prompt, image = "a red cat and a blue dog", torch.zeros(3, 16, 16)
    assert adjectives(prompt) == (("red", "cat"), ("blue", "dog")) and nouns(prompt) == ("cat", "dog")
    found = make_sample(image, prompt, {"dog": [2, 2, 8, 8]})
    assert [(a.word, a.span, a.noun) for a in found.adjectives] == [("blue", (16, 20), 0)]
    assert make_sample(image, prompt, {"dog": [2, 2, 8, 8]}, adjectives=()).adjectives == ()


def test_an_exception_after_a_step_closes_the_generator():
    closed = []

    def work():
        try:
            yield 1
        finally:
            closed.append(True)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(work(), stop)
    assert closed == [True]


@pytest.mark.parametrize(("fit", "window"), [("crop", (8, 0, 24, 24)), ("pad", (0, -8, 40, 40))])
def test_an_image_is_cut_as_a_folder_s(fit, window):
    wide = torch.zeros(3, 24, 40)
    wide[:, :, 20:] = 1.0
    opened = open_image(wide, 48, fit)
    assert opened.frame.window == window and opened.image.shape == (3, 48, 48)
    assert opened.image[:, 24, 4:20].max() < 0.1 and opened.image[:, 24, 28:44].min() > 0.9


def test_an_unknown_fit_is_refused():
    with pytest.raises(InputError, match="fit=wide: no such fit; choose one of crop, pad, native"):
        open_image(torch.zeros(3, 8, 8), 16, "wide")
