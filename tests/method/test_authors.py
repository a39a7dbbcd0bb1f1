"""What the authors' code does beyond the papers, each an option of a method."""

import dataclasses

import pytest
import torch
from conftest import make_two_objects
from straight_line import R, T
from test_inversion import land, method, run

from locinv_pl import Method, load_method
from locinv_pl.method.losses import attention_balancing_loss, contrast_tokens, joint_marginal_loss
from locinv_pl.method.null_text import optimize_null_text
from locinv_pl.method.policies import LossTerm, NullTextPolicy, TokenPolicy
from locinv_pl.method.task import prepare
from locinv_pl.method.timestep import collect
from locinv_pl.networks.attention import Context, maps_of


def short(name: str) -> Method:
    """A preset with two steps of each kind at a timestep."""
    how = load_method(name)
    tokens, null = dataclasses.replace(how.tokens, max_steps=2), dataclasses.replace(how.null_text, max_steps=2)
    return dataclasses.replace(how, tokens=tokens, null_text=null)


def table(backbone):
    return backbone.text_encoder.get_input_embeddings().weight


def test_dynamic_tokens_start_without_the_end_of_word_mark(tiny, sample):
    word, piece = (prepare(tiny, [sample], method(start=start), 1, R) for start in ("word", "piece"))
    dynamic = word.prompts.dynamic[0]
    assert torch.equal(word.embeddings, tiny.embed(word.prompts.ids))
    assert torch.equal(piece.embeddings[0, ~dynamic], word.embeddings[0, ~dynamic])
    end = table(tiny)[tiny.tokenizer.eos_token_id]
    for n in torch.nonzero(dynamic).flatten():  # the tiny vocabulary has no "cat" without its mark
        assert torch.equal(piece.embeddings[0, n], end)
    assert torch.equal(piece.plain.keys, word.plain.keys)  # the DDIM inversion is of the words
    assert torch.equal(piece.trajectory, word.trajectory) and torch.equal(piece.start().tokens, piece.embeddings)


def test_a_noun_of_several_tokens_starts_without_the_mark_of_its_last_one(tiny, sample):
    noun = dataclasses.replace(sample.nouns[0], word="zebra", span=(2, 7))
    zebra = dataclasses.replace(sample, prompt="a zebra on grass", nouns=(noun,), adjectives=())
    task = prepare(tiny, [zebra], method(start="piece"), 1, R)
    expected = table(tiny)[tiny.tokenizer.convert_tokens_to_ids(["z", "e", "b", "r", "a"])]
    assert torch.equal(task.embeddings[0, task.prompts.dynamic[0]], expected)


def test_fixed_tokens_start_from_their_words(tiny, sample):
    task = prepare(tiny, [sample], method("fixed", start="piece"), 1, R)
    assert torch.equal(task.embeddings, tiny.embed(task.prompts.ids))


def test_a_sampled_latent_is_the_image_s_own_in_any_batch(tiny, sample):
    sampled = Method(tokens=TokenPolicy("fixed"), latent="sample")
    other = make_two_objects("other", 3)
    z = prepare(tiny, [other, sample], sampled, 1, R).trajectory[0]
    torch.manual_seed(5)  # no draw of others changes it
    renamed = dataclasses.replace(sample, id="renamed", prompt="a cat and a dog", nouns=(), adjectives=())
    torch.testing.assert_close(prepare(tiny, [renamed], sampled, 1, R).trajectory[0, 0], z[1])
    mean = prepare(tiny, [sample], Method(tokens=TokenPolicy("fixed")), 1, R).trajectory[0, 0]
    assert torch.equal(mean, tiny.encode(sample.image[None])[0]) and (z[1] - mean).abs().mean() > 1e-3


def test_sampled_latents_have_the_posterior_s_mean_and_deviation(tiny, sample):
    n = 500
    generators = [torch.Generator().manual_seed(seed) for seed in range(n)]
    z = tiny.encode(sample.image.expand(n, -1, -1, -1), generators)
    with torch.no_grad():
        posterior = tiny.vae.encode(sample.image[None] * 2 - 1).latent_dist
    μ, σ = posterior.mean[0] * 0.5, posterior.std[0] * 0.5  # the tiny model's scaling factor
    assert ((z.mean(0) - μ).abs() / (σ / n**0.5)).max() < 5  # of 1024 numbers
    assert (z.std(0) / σ - 1).abs().mean() < 0.05


def test_priors_come_onto_the_grid_by_a_bicubic_resize(tiny, sample):
    area, bicubic = (prepare(tiny, [sample], method(rasterize=rule), 1, R).priors for rule in ("area", "bicubic"))
    assert set(bicubic.unique().tolist()) == {0.0, 1.0} and bicubic[area > 0.05].all() and bicubic.sum() > area.sum()


def test_the_published_formulas_are_those_of_the_maps(tiny, sample):
    counts = {"marginals": LossTerm(1.0), "balance": LossTerm(1.0, 25.0, 0.0)}
    task, records = run(tiny, [sample], method(formulas="published", max_steps=1, null="direct", **counts), stop=1)
    plain, others = run(tiny, [sample], method(max_steps=1, null="direct", **counts), stop=1)
    context = task.plain
    t = task.schedule.timesteps[0]
    losses = dict(zip(task.method.tokens.losses, records[0].losses[0], strict=True))
    torch.testing.assert_close(losses["marginals"], joint_marginal_loss(records[0].maps, task.priors)[0])
    with torch.no_grad():
        moved = tiny.encode_text(task.prompts.ids, records[0].tokens).keys
        _, A = tiny.predict_with_maps(task.trajectory[-1], t, Context(moved, context.values), task.grid)
    expected = attention_balancing_loss(maps_of(contrast_tokens(A), task.prompts.nouns), sigma=0.5**0.5)[0]
    torch.testing.assert_close(losses["balance"], expected, rtol=1e-4, atol=1e-5)
    for name, loss in zip(plain.method.tokens.losses, others[0].losses[0], strict=True):
        if name in counts:
            assert (losses[name] - loss).abs() > 1e-3


def test_a_null_text_may_step_before_it_is_tested(tiny, sample):
    """An image beside the trajectory takes one step all the same, and one more after the loss that is small enough."""
    start = prepare(tiny, [sample], method(), T, R)
    z_T, null = start.trajectory[-1], start.empty.keys
    eps = torch.zeros_like(z_T)
    steps = {}
    for far in (1e-3, 0.06):
        for first in (False, True):
            task = prepare(tiny, [sample], method(null_max_steps=20, null_step_first=first), T, R)
            task.trajectory[-2] = land(tiny, task, z_T, eps, null + far * null.sign())
            found, _, _, taken = optimize_null_text(tiny, task, z_T, 0, eps, null)
            steps[far, first] = taken.item()
            assert torch.equal(found, null) == (taken.item() == 0)
    assert steps[1e-3, False] == 0 and steps[1e-3, True] == 1
    assert 0 < steps[0.06, False] < 20 and steps[0.06, True] == steps[0.06, False] + 1


def test_step_first_makes_no_difference_without_an_early_stop(tiny, sample):
    ways = [method("fixed", null_early_stop=False, null_max_steps=3, null_step_first=first) for first in (False, True)]
    (_, plain), (_, first) = (run(tiny, [sample], how, stop=2) for how in ways)
    assert torch.equal(plain[-1].null, first[-1].null) and plain[-1].null_steps.tolist() == [3]


def test_locinv_authors_is_locinv_paper_but_for_four_differences():
    paper, authors = load_method("locinv_paper"), load_method("locinv_authors")
    tokens = dataclasses.replace(
        paper.tokens, start="piece", rasterize="bicubic", marginals=LossTerm(1.0), formulas="published"
    )
    assert authors == dataclasses.replace(paper, name="locinv_authors", tokens=tokens, latent="sample")


def test_dpl_authors_has_the_losses_of_dpl():
    plain, authors = load_method("dpl"), load_method("dpl_authors")
    assert authors.tokens.losses == plain.tokens.losses and authors.tokens.formulas == "published"
    assert authors.null_text == NullTextPolicy("optimize", 51, 1e-2, carry_over=False, early_stop=False)


@pytest.mark.parametrize("name", ["locinv_authors", "dpl_authors"])
def test_the_presets_run(tiny, name):
    samples = [make_two_objects("one", 0), make_two_objects("two", 5)]
    task, records = run(tiny, samples, short(name), stop=2)
    for inversion in collect(task, records):
        assert inversion.latent.isfinite().all() and inversion.null_steps.tolist() == [2, 2]
        assert inversion.token_steps.sum() > 0
        assert Method.from_dict(inversion.settings["method"]) == short(name)
