"""The engine against a straight-line implementation, and against what must hold."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from conftest import make_image, make_two_objects
from straight_line import R, StraightLine, T

from locinv_pl import InputError, Method, invert, load_method, reconstruct
from locinv_pl.method.dynamic_tokens import optimize_tokens, token_context, token_losses
from locinv_pl.method.early_stopping import keep_rows
from locinv_pl.method.null_text import optimize_null_text
from locinv_pl.method.policies import LOSSES, LossTerm, NullTextPolicy, TokenPolicy
from locinv_pl.method.task import prepare
from locinv_pl.method.timestep import collect, invert_step
from locinv_pl.networks.attention import Context, maps_of
from locinv_pl.networks.loading import load_backbone
from locinv_pl.networks.schedule import guided
from locinv_pl.run.module import LocInvModule
from locinv_pl.types import Inversion


def method(policy="optimize", null="optimize", **changes) -> Method:
    tokens = {k: v for k, v in changes.items() if k in TokenPolicy.__dataclass_fields__}
    nulls = {k.removeprefix("null_"): v for k, v in changes.items() if k.startswith("null_")}
    return Method("test", 2.0, TokenPolicy(policy, **tokens), NullTextPolicy(null, **nulls))


def run(backbone, samples, how, steps=T, stop=None):
    task = prepare(backbone, samples, how, T, R)
    records = [task.start()]
    for i in range(steps if stop is None else stop):
        records.append(invert_step(backbone, task, i, records[-1]))
    return task, records[1:]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_rows_that_go_on_move_as_with_an_optimizer_each(kind):
    start, pull = torch.randn(4, 3, 5), torch.randn(6, 4, 3, 5)
    last = torch.tensor([1, 6, 3, 6])  # the number of steps of each
    apart = [row.clone().requires_grad_() for row in start]
    each = [kind([row], lr=0.1) for row in apart]
    rows = start.clone().requires_grad_()
    whole, running = kind([rows], lr=0.1), torch.arange(4)
    for step in range(6):
        rows.grad = pull[step, running]
        going = last[running] > step
        if not going.all():
            rows, running = keep_rows(whole, going), running[going]
        whole.step()
        for b in running.tolist():
            apart[b].grad = pull[step, b]
            each[b].step()
        assert running.tolist() == [b for b in range(4) if last[b] > step]
        torch.testing.assert_close(rows.detach(), torch.stack([apart[b].detach() for b in running.tolist()]))


@pytest.mark.parametrize("policy", ["optimize", "fixed"])
@pytest.mark.parametrize("carry_over", [True, False])
def test_three_timesteps_equal_the_straight_line(tiny, policy, carry_over):
    how = method(policy, values="dynamic", max_steps=4, lr=1e-2, null_max_steps=3, null_carry_over=carry_over)
    samples = [make_two_objects("one", 0), make_two_objects("two", 5)]
    _, records = run(tiny, samples, how, stop=3)
    for b, sample in enumerate(samples):
        for i, expected in enumerate(StraightLine(tiny, sample, how).run(3)):
            torch.testing.assert_close(records[i].losses[b, :3], expected["losses"], rtol=1e-4, atol=1e-5)
            assert records[i].null_loss[b].item() == pytest.approx(expected["null_loss"], rel=1e-3)
            assert records[i].token_steps[b] == expected["steps"]
            torch.testing.assert_close(records[i].latent[b : b + 1], expected["z"], rtol=1e-3, atol=1e-4)


# -- what must hold ------------------------------------------------------------------------------


def test_tokens_bring_the_losses_down(tiny, sample):
    _, before = run(tiny, [sample], method("fixed", "none"))
    _, after = run(tiny, [sample], method(max_steps=10, lr=3e-2, null="none"))
    assert after[-1].losses[0, 0] < before[-1].losses[0, 0] - 0.01
    assert after[-1].losses[0, 1] < before[-1].losses[0, 1] - 0.01


def test_binding_brings_the_adjective_s_map_to_its_noun_s(tiny, sample):
    bound, free = (LossTerm(w, 50, 0.0) for w in (2.0, 0.0))
    _, with_it = run(tiny, [sample], method(max_steps=8, lr=3e-2, adjective=bound, null="none"))
    _, without = run(tiny, [sample], method(max_steps=8, lr=3e-2, adjective=free, null="none"))
    assert with_it[-1].losses[0, 2] < without[-1].losses[0, 2]


def test_null_text_brings_the_step_closer_to_the_trajectory(tiny, sample):
    _, plain = run(tiny, [sample], method("fixed", "none"), stop=1)
    _, fitted = run(tiny, [sample], method("fixed", null_max_steps=5), stop=1)
    assert fitted[0].null_loss[0] < plain[0].null_loss[0] and fitted[0].null_steps[0] == 5
    assert torch.equal(plain[0].null, prepare(tiny, [sample], method(), T, R).empty.keys)


def test_tokens_stop_below_the_thresholds_and_not_before(tiny, sample):
    easy = dict.fromkeys(("similarity", "overlap", "adjective"), LossTerm(1.0, 50.0, 10.0))
    never = dict.fromkeys(("similarity", "overlap", "adjective"), LossTerm(1.0, 50.0, 0.0))
    _, records = run(tiny, [sample], method(max_steps=3, null="none", **easy), stop=1)
    assert records[0].token_steps.tolist() == [0]
    _, records = run(tiny, [sample], method(max_steps=3, null="none", **never), stop=1)
    assert records[0].token_steps.tolist() == [3]


def test_a_batch_equals_its_images_one_by_one(tiny):
    """Also when one of them stops early: an image without nouns takes no token step at all."""
    samples = [make_two_objects(str(n), seed=n) for n in range(2)]
    samples.append(dataclasses.replace(samples[0], id="bare", nouns=(), adjectives=()))
    how = method(max_steps=4, lr=3e-2, null_max_steps=4)
    task, records = run(tiny, samples, how)
    together = collect(task, records)
    for sample, inversion in zip(samples, together, strict=True):
        task, records = run(tiny, [sample], how)
        (alone,) = collect(task, records)
        assert inversion.token_steps.tolist() == alone.token_steps.tolist()
        assert inversion.maps.shape == alone.maps.shape and inversion.dynamic == alone.dynamic
        torch.testing.assert_close(inversion.latent, alone.latent, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(inversion.tokens, alone.tokens, rtol=1e-2, atol=1e-2)
    assert together[2].token_steps.sum() == 0 and together[0].token_steps.sum() > 0
    assert together[2].losses.isnan().all()


def test_in_a_batch_too_an_image_that_stops_stays_where_it_is(tiny):
    """Tokens and null text of the others go on; the gradient of one that has stopped is zero, its momentum isn't."""
    samples = [make_two_objects(str(n), seed=n) for n in range(3)]
    off, sim = LossTerm(0.0), LossTerm(1.0, 50.0, 0.55)
    how = method(max_steps=6, lr=3e-2, similarity=sim, overlap=off, adjective=off)
    task = prepare(tiny, samples, how, T, R)
    z_T = task.trajectory[-1]
    V, steps = optimize_tokens(tiny, task, z_T, 0, task.embeddings)
    assert len(set(steps.tolist())) > 1 and steps.min() > 0
    alone = [prepare(tiny, [each], how, T, R) for each in samples]
    for b, one in enumerate(alone):
        v, _ = optimize_tokens(tiny, one, z_T[b : b + 1], 0, one.embeddings)
        torch.testing.assert_close(V[b], v[0], rtol=1e-3, atol=1e-4)

    task = prepare(tiny, samples, method(null_max_steps=20), T, R)
    null, eps = task.empty.keys.expand(3, -1, -1), torch.zeros_like(z_T)
    shift = torch.tensor([0.06, 0.08, 1.0])[:, None, None]  # how far ∅ is from what lands on the trajectory
    task.trajectory[-2] = land(tiny, task, z_T, eps, null + shift * null.sign())
    found, _, _, steps = optimize_null_text(tiny, task, z_T, 0, eps, null)
    assert len(set(steps.tolist())) > 1 and steps.min() > 0
    for b, sample in enumerate(samples):
        one = prepare(tiny, [sample], method(null_max_steps=20), T, R)
        one.trajectory[-2] = task.trajectory[-2][b]
        single = optimize_null_text(tiny, one, z_T[b : b + 1], 0, eps[:1], one.empty.keys)[0]
        torch.testing.assert_close(found[b], single[0], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def land(backbone, task, z_t, eps_cond, null):
    """Where the guided step from z_T leads under a null text."""
    t = task.schedule.timesteps[0]
    eps_null = backbone.predict(z_t, t, Context.of(null))
    return task.schedule.step(z_t, guided(eps_cond, eps_null, task.method.guidance_scale), 0)


def test_keys_only_tokens_leave_the_values_alone(tiny, sample):
    """With fixed tokens both choices are one; with moved tokens they aren't."""
    _, keys = run(tiny, [sample], method(max_steps=5, lr=3e-2, values="prompt", null="none"), stop=2)
    _, both = run(tiny, [sample], method(max_steps=5, lr=3e-2, values="dynamic", null="none"), stop=2)
    _, none = run(tiny, [sample], method(max_steps=0, values="prompt", null="none"), stop=2)
    _, same = run(tiny, [sample], method(max_steps=0, values="dynamic", null="none"), stop=2)
    torch.testing.assert_close(none[-1].latent, same[-1].latent, rtol=1e-4, atol=1e-4)
    assert (keys[-1].latent - both[-1].latent).abs().max() > 1e-3


def test_only_dynamic_tokens_move_and_the_table_stays(tiny, sample):
    table = tiny.text_encoder.get_input_embeddings().weight.clone()
    task, records = run(tiny, [sample], method(max_steps=3), stop=1)
    moved = (records[0].tokens[0] - task.embeddings[0]).abs().sum(-1) > 0
    assert torch.equal(moved, task.prompts.dynamic[0])
    assert torch.equal(tiny.text_encoder.get_input_embeddings().weight, table)
    assert not any(p.requires_grad or p.grad is not None for p in tiny.unet.parameters())


def test_going_on_from_a_record_changes_nothing(tiny, sample, tmp_path):
    how = method(max_steps=2)
    task, records = run(tiny, [sample], how)
    records[1].save(tmp_path / "1.safetensors")
    again = type(records[1]).load(tmp_path / "1.safetensors")
    for i in range(2, T):
        again = invert_step(tiny, task, i, again)
    assert torch.equal(again.latent, records[-1].latent) and torch.equal(again.tokens, records[-1].tokens)


@pytest.mark.parametrize("values", ["prompt", "dynamic"])
def test_reconstruction_from_the_file_is_the_inversion_s_own(tiny, sample, tmp_path, values):
    how = method(max_steps=2, values=values)
    task, records = run(tiny, [sample], how)
    (inversion,) = collect(task, records)
    inversion.save(tmp_path / "x.safetensors")
    image = reconstruct(tiny, [type(inversion).load(tmp_path / "x.safetensors")])
    torch.testing.assert_close(image, tiny.decode(records[-1].latent), rtol=1e-3, atol=1e-3)


def test_reconstruction_refuses_another_backbone(tiny, sample):
    task, records = run(tiny, [sample], method("fixed", "none"))
    (inversion,) = collect(task, records)
    foreign = dataclasses.replace(inversion, settings={**inversion.settings, "backbone": "other"})
    with pytest.raises(InputError, match="made with backbone 'other'"):
        reconstruct(tiny, [foreign])


def test_box_priors_are_another_S_and_nothing_else(tiny):
    """A mask that fills its box gives the same inversion as the box."""
    mask = torch.zeros(32, 32)
    mask[4:16, 8:20] = 1
    common = {"method": method(max_steps=2), "num_steps": 3, "resolution": R}
    a = invert(tiny, make_image(), "a cat on grass", {"cat": mask}, **common)
    b = invert(tiny, make_image(), "a cat on grass", {"cat": (8, 4, 12, 12)}, **common)
    assert torch.equal(a.latent, b.latent) and torch.equal(a.priors, b.priors)


# -- the call from a notebook ---------------------------------------------------------------------


def test_presets_by_name(tiny, sample):
    priors = {"cat": sample.nouns[0].prior}
    inversion = invert(tiny, sample.image, sample.prompt, priors, method="nti", num_steps=2, resolution=R)
    assert inversion.num_steps == 2
    assert Method.from_dict(inversion.settings["method"]) == load_method("nti")
    assert inversion.noise.shape == (4, 16, 16) and inversion.maps.shape == (2, 1, R, R)


def test_a_method_names_the_steps_that_it_is_made_for(tiny, sample):
    def steps(**given) -> tuple[int, int]:
        inversion = invert(tiny, sample.image, sample.prompt, method=few, resolution=R, **given)
        return inversion.num_steps, inversion.settings["num_steps"]

    few = dataclasses.replace(load_method("ddim"), num_steps=4)
    assert steps() == (4, 4) and steps(num_steps=2) == (2, 2)
    assert LocInvModule(method=few).num_steps == 4 and LocInvModule(method=few, num_steps=7).num_steps == 7
    assert load_method("locinv_fast").num_steps == 9 and load_method("locinv").num_steps == 50
    with pytest.raises(InputError, match="num_steps=0 must be 1 or more"):
        dataclasses.replace(few, num_steps=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"priors": {"bird": torch.ones(32, 32)}}, "'bird' is not in the prompt"),
        ({"nouns": ["cat", "dog"]}, "'dog' has no prior"),
        ({"priors": {"cat": torch.zeros(32, 32)}}, "prior is empty"),
        ({"priors": {"cat": torch.ones(16, 16)}}, "prior is 16x16 but the image is 32x32"),
        ({"priors": {"cat": (20, 20, 30, 5)}}, "outside the image of 32x32"),
        ({"priors": {"cat": [torch.ones(32, 32)] * 2}}, "1 times in the prompt and has 2 priors"),
        ({"prompt": "a cat " + "dog " * 20}, "has 24 tokens"),
        ({"adjectives": [("blue", "cat")]}, "'blue' is not in the prompt"),
        ({"image": "missing.png"}, "missing.png"),
        ({"image": torch.zeros(3, 0, 0)}, "not .3, H, W. of at least one pixel"),
        ({"method": "nope"}, "no such preset; use one of ddim"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"resolution": 7}, "resolution=7"),
    ],
)
def test_bad_input_is_one_clear_line(tiny, changes, message):
    arguments = {"image": make_image(), "prompt": "a cat and a dog", "priors": {"cat": torch.ones(32, 32)}}
    arguments |= {"method": "ddim", "num_steps": 1, "resolution": R} | changes
    with pytest.raises(InputError, match=message) as error:
        invert(tiny, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_autocast_keeps_state_in_fp32(tiny, sample, precision):
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        _, records = run(tiny, [sample], method(max_steps=2), stop=2)
    last = records[-1]
    assert {last.latent.dtype, last.tokens.dtype, last.null.dtype, last.maps.dtype} == {torch.float32}
    assert last.latent.isfinite().all() and last.losses[:, :-1].isfinite().all()  # but for the background's


def test_null_text_is_kept_as_it_is_used(tiny_folder, sample, tmp_path):
    """In the type of the weights, and once where it is the same at all timesteps; a file brings it back."""
    half = load_backbone(str(tiny_folder), "bfloat16")
    for policy, kept in (("optimize", T), ("npi", 1), ("none", 1)):
        task, records = run(half, [sample], method("fixed", policy))
        collect(task, records)[0].save(tmp_path / "inversion")
        inversion = Inversion.load(tmp_path / "inversion")
        assert inversion.null.dtype == torch.bfloat16 and len(inversion.null) == kept
        assert torch.equal(inversion.null_at(T - 1), records[-1].null[0])
        assert len({record.null.data_ptr() for record in records}) == kept
        back = reconstruct(half, [inversion])[0]
        assert (back - half.decode(inversion.latent[None])[0]).abs().mean() < 1e-2  # but for bfloat16's rounding


# -- the other methods ---------------------------------------------------------------------------


def test_negative_prompt_inversion_reconstructs_without_guidance(tiny, sample):
    """∅ is the prompt's own embedding, so that the guided noise is the conditional one, whatever w."""
    task, records = run(tiny, [sample], method("fixed", "npi"))
    z = task.trajectory[-1]
    for i, record in enumerate(records):
        t, (abar_t, abar_s) = task.schedule.timesteps[i], task.schedule.signal[i : i + 2].square()
        with torch.no_grad():
            eps = tiny.unet(z, t, encoder_hidden_states=task.plain.keys).sample
        z_0 = (z - (1 - abar_t).sqrt() * eps) / abar_t.sqrt()
        z = abar_s.sqrt() * z_0 + (1 - abar_s).sqrt() * eps
        torch.testing.assert_close(record.latent, z, rtol=1e-4, atol=1e-4)
        assert torch.equal(record.null, task.plain.keys) and record.null_steps.tolist() == [0]


@pytest.mark.parametrize("policy", ["fixed", "optimize"])
def test_direct_inversion_reconstructs_what_the_vae_does(tiny, sample, policy):
    task, records = run(tiny, [sample], method(policy, "direct", max_steps=2))
    inversion = collect(task, records)[0]
    assert torch.equal(inversion.latent, task.trajectory[0, 0]) and torch.equal(
        inversion.null_at(2), task.empty.keys[0]
    )
    assert len(inversion.null) == 1  # the same at all timesteps
    ceiling = tiny.decode(tiny.encode(sample.image[None]))
    torch.testing.assert_close(reconstruct(tiny, [inversion]), ceiling, rtol=0, atol=1e-5)
    moved = inversion.tokens[-1] != task.embeddings[0, list(inversion.dynamic)]
    assert moved.any() == (policy == "optimize")


def test_direct_inversion_predicts_no_noise(tiny, sample, monkeypatch):
    """Its latents are the DDIM trajectory's: what a timestep costs ends with the last map."""
    task = prepare(tiny, [sample], method("optimize", "direct", max_steps=1), T, R)
    for name in ("predict", "predict_with_maps"):
        monkeypatch.setattr(type(tiny), name, None)
    record = invert_step(tiny, task, 0, task.start())
    assert torch.equal(record.latent, task.trajectory[-2]) and record.token_steps.tolist() == [1]


def test_tokens_that_move_at_every_second_timestep_stay_at_the_others(tiny, sample):
    how = method("optimize", "direct", max_steps=2, every=2)
    task, records = run(tiny, [sample], how)
    assert [record.token_steps.item() for record in records] == [2, 0, 2, 0, 2][:T]
    assert torch.equal(records[1].tokens, records[0].tokens) and not torch.equal(records[2].tokens, records[1].tokens)
    every = run(tiny, [sample], dataclasses.replace(how, tokens=dataclasses.replace(how.tokens, every=1)))[1]
    assert torch.equal(every[0].tokens, records[0].tokens) and not torch.equal(every[1].tokens, records[1].tokens)
    with torch.no_grad():  # what a timestep leaves behind is of its own latent, moved or not
        context = token_context(tiny, task, records[1].tokens)
        t = task.schedule.timesteps[1:2]
        A = tiny.predict_with_maps(task.trajectory[-2], t, context, task.grid)[1]
    torch.testing.assert_close(records[1].maps, maps_of(A, task.prompts.nouns))
    with pytest.raises(InputError, match="every=0 must be 1 or more"):
        TokenPolicy(every=0)


@pytest.mark.parametrize("null", ["none", "optimize", "npi", "direct"])
def test_token_and_null_text_policies_combine(tiny, sample, null):
    _, plain = run(tiny, [sample], method("fixed", "direct"))
    how = method("optimize", null, max_steps=6, lr=3e-2, null_max_steps=2)
    task, records = run(tiny, [sample], how)
    assert records[-1].losses[0, 0] < plain[-1].losses[0, 0]
    collect(task, records)[0]


def test_dpl_s_losses_are_those_of_its_maps(tiny, sample):
    terms = {name: LossTerm(1.0, 50.0, 0.0) for name in ("balance", "disjoint", "background")}
    off = {name: LossTerm(0.0) for name in ("similarity", "overlap", "adjective")}
    how = method(max_steps=6, lr=3e-2, null="direct", **terms, **off)
    task, records = run(tiny, [sample], how)
    assert task.background is not None and set(task.background.unique().tolist()) <= {0.0, 1.0}
    names = list(TokenPolicy().losses)
    A, losses = records[-1].maps[0], dict(zip(names, records[-1].losses[0].tolist(), strict=True))
    cat, dog = A.flatten(1)
    assert losses["disjoint"] == pytest.approx(F.cosine_similarity(cat, dog, dim=0).item(), rel=1e-4)
    leaked = [F.cosine_similarity(a, task.background[0].flatten(), dim=0).item() for a in (cat, dog)]
    assert losses["background"] == pytest.approx(sum(leaked) / 2, rel=1e-4)
    _, before = run(tiny, [sample], method("fixed", "direct"))
    for name in ("balance", "disjoint"):
        assert losses[name] < before[-1].losses[0, names.index(name)].item()


def test_a_loss_without_a_threshold_doesn_t_keep_the_tokens_moving(tiny, sample):
    """The marginals' divergence has a weight alone."""
    easy = dict.fromkeys(("similarity", "overlap", "adjective"), LossTerm(1.0, 50.0, 10.0))
    _, records = run(tiny, [sample], method(max_steps=3, null="direct", marginals=LossTerm(1.0), **easy), stop=1)
    assert records[0].token_steps.tolist() == [0] and records[0].thresholds[4].isinf()
    hard = dict.fromkeys(("similarity", "overlap", "adjective"), LossTerm(1.0, 50.0, 0.0))
    ways = [method(max_steps=5, lr=3e-2, null="direct", marginals=LossTerm(w), **hard) for w in (0.0, 5.0)]
    with_out, with_it = (run(tiny, [sample], way)[1][-1].losses[0, 4] for way in ways)
    assert with_it < with_out


def test_relative_losses_are_in_units_of_an_even_map_s(tiny, sample):
    """1 - area for the overlap, 1 - √area for the similarity: what even maps have is 1, whatever the object's size."""
    how = method("optimize", "direct", max_steps=1, relative=True, rasterize="any")  # cells of 0 or 1
    task = prepare(tiny, [sample], how, T, R)
    plain = dataclasses.replace(task, method=method("optimize", "direct", rasterize="any"))
    A = torch.rand(1, *task.grid, task.prompts.ids.shape[1], generator=torch.Generator().manual_seed(0))
    even = torch.full_like(A, 0.1)
    area = task.priors[0].mean((-2, -1))
    both = [LOSSES.index("similarity"), LOSSES.index("overlap")]
    torch.testing.assert_close(token_losses(even, task)[0, both], torch.ones(2))
    expected = token_losses(A, plain)[0, both] / torch.stack([(1 - area.sqrt()).mean(), (1 - area).mean()])
    torch.testing.assert_close(token_losses(A, task)[0, both], expected)
    adjective = LOSSES.index("adjective")
    torch.testing.assert_close(token_losses(A, task)[0, adjective], token_losses(A, plain)[0, adjective])


def test_the_variant_for_boxes_counts_alone(tiny, sample):
    off = dict.fromkeys(("similarity", "overlap", "adjective"), LossTerm(0.0))
    how = method(max_steps=8, lr=3e-2, null="direct", leakage=LossTerm(1.0, 50.0, 0.0), **off)
    _, moved = run(tiny, [sample], how)
    _, fixed = run(tiny, [sample], method("fixed", "direct"))
    assert moved[-1].losses[0, 3] < fixed[-1].losses[0, 3] - 0.01
