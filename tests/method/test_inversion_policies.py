"""Where trajectories come from: ReNoise's refined steps and InfEdit's drawn ones, against their formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import make_two_objects

from locinv_pl import InputError, Method, edit, load_method, reconstruct
from locinv_pl.editing.prompt_to_prompt import denoise
from locinv_pl.editing.rows import Rows
from locinv_pl.editing.settings import EditSettings
from locinv_pl.method.policies import InversionPolicy, NullTextPolicy, TokenPolicy
from locinv_pl.method.progress import finish
from locinv_pl.method.task import prepare, renoise
from locinv_pl.method.timestep import collect, invert_step
from locinv_pl.networks.schedule import Schedule

T, R = 4, 8
PLAIN = EditSettings(
    cross_replace_steps=0, swap_steps=0, self_replace_steps=0, attribute_steps=0, keep="nothing", blend="none"
)
TARGETS = ["a red zebra and a dog", "a blue cat and a dog"]


def fixed(null: str = "npi", **inversion) -> Method:
    return Method("test", 3.0, TokenPolicy("fixed"), NullTextPolicy(null), inversion=InversionPolicy(**inversion))


def run(backbone, samples, how, start=0, record=None):
    task = prepare(backbone, samples, how, T, R)
    records = [record or task.start()]
    for i in range(start, T):
        records.append(invert_step(backbone, task, i, records[-1]))
    return task, records[1:]


def inverted(backbone, how, *samples):
    return collect(*run(backbone, samples or [make_two_objects("x", 0)], how))


@torch.no_grad()
def noise(backbone, z, t, prompt):
    """ε of diffusers' own UNet."""
    ids = backbone.tokenizer(prompt, padding="max_length", max_length=20, return_tensors="pt").input_ids
    states = backbone.text_encoder(ids).last_hidden_state
    return backbone.unet(z, t, encoder_hidden_states=states.expand(len(z), -1, -1)).sample


def levels(backbone):
    """Timesteps, noisiest first, and ᾱ at them and after the last."""
    backbone.scheduler.set_timesteps(T)
    times = backbone.scheduler.timesteps
    return times, [*backbone.scheduler.alphas_cumprod[times], backbone.scheduler.alphas_cumprod[0]]


# -- ReNoise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("K", "n"), [(1, 1), (3, 2)])
def test_a_refined_step_is_the_formula_s(tiny, sample, K, n):
    task = prepare(tiny, [sample], fixed(renoise=K, average=n), T, R)
    times, abar = levels(tiny)
    z = tiny.encode(sample.image[None])
    for i in reversed(range(T)):
        a, b = abar[i + 1], abar[i]

        def onto(eps, z=z, a=a, b=b):
            return (b / a).sqrt() * (z - (1 - a).sqrt() * eps) + (1 - b).sqrt() * eps

        found, at = [], z
        for _ in range(K + 1):
            found.append(noise(tiny, at, times[i], sample.prompt))
            at = onto(found[-1])
        z = onto(sum(found[-n:]) / n)
        torch.testing.assert_close(task.trajectory[T - i], z, rtol=1e-3, atol=1e-4)


def test_without_refinement_it_is_ddim_inversion(tiny, sample):
    plain, none = (prepare(tiny, [sample], how, T, R) for how in (Method(), fixed(renoise=0)))
    assert torch.equal(plain.trajectory, none.trajectory)


@torch.no_grad()
def test_the_round_trip_comes_closer_with_every_refinement(tiny, sample):
    """Without guidance DDIM's steps lead back to the image's latent."""
    errors = []
    for K in (0, 1, 3):
        task = prepare(tiny, [sample], fixed(renoise=K), 20, R)
        z = task.trajectory[-1]
        for i, t in enumerate(task.schedule.timesteps):
            z = task.schedule.step(z, tiny.predict(z, t, task.plain), i)
        errors.append((z - task.trajectory[0]).square().mean().item())
    assert errors[2] < errors[1] < errors[0] and errors[2] < errors[0] / 10


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_a_fixed_point_is_inverted_exactly(kind):
    """Whatever a network predicts, an ε, a v, a z_0 or a flow's u."""
    schedule = Schedule.of_alphas(torch.tensor([500]), torch.tensor([0.5, 0.8]), kind)
    if kind == "flow":
        schedule = Schedule(torch.tensor([500.0]), torch.tensor([0.5, 0.8]), torch.tensor([0.5, 0.2]), kind)

    def predict(z, t):
        return 0.3 * z.tanh()

    z_s = torch.linspace(-2, 2, 8)[None]
    z_t = renoise(schedule, z_s, 0, predict, InversionPolicy(renoise=30))
    torch.testing.assert_close(schedule.step(z_t, predict(z_t, 0), 0), z_s, rtol=0, atol=1e-5)


# -- InfEdit -----------------------------------------------------------------------------------------


def test_a_virtual_trajectory_has_a_noise_of_its_own_at_every_level(tiny, sample):
    task = prepare(tiny, [sample], fixed(policy="virtual"), T, R)
    _, abar = levels(tiny)
    z_0 = tiny.encode(sample.image[None])
    assert torch.equal(task.trajectory[0], z_0)
    drawn = [(task.trajectory[T - i] - abar[i].sqrt() * z_0) / (1 - abar[i]).sqrt() for i in range(T)]
    for n, eps in enumerate(drawn):
        assert abs(eps.mean()) < 0.15 and 0.9 < eps.std() < 1.1
        assert all(torch.cosine_similarity(eps.flatten(), other.flatten(), 0) < 0.2 for other in drawn[:n])
    again = prepare(tiny, [make_two_objects("y", 3), sample], fixed(policy="virtual"), T, R)
    # the pixels' own, in any batch; other batches may round otherwise
    torch.testing.assert_close(again.trajectory[:, 1], task.trajectory[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("null", ["npi", "direct"])
def test_a_virtual_edit_is_the_multistep_consistency_sampler_s(tiny, null):
    """DDCM as the paper writes it, noise by noise."""
    (inversion,) = inverted(tiny, fixed(null, policy="virtual"))
    times, abar = levels(tiny)
    w, empty = 3.0, inversion.prompt if null == "npi" else ""
    z_0, z_s = inversion.trajectory[0][None], inversion.trajectory[T][None]
    z_t = z_s
    for i in range(T):
        a = abar[i]
        plain = [noise(tiny, z, times[i], empty) for z in (z_s, z_t)]
        own = [noise(tiny, z, times[i], prompt) for z, prompt in ((z_s, inversion.prompt), (z_t, TARGETS[0]))]
        e_s, e_t = (p + w * (o - p) for p, o in zip(plain, own, strict=True))
        e_cons = (z_s - a.sqrt() * z_0) / (1 - a).sqrt()
        clean = (z_t - (1 - a).sqrt() * (e_t - e_s + e_cons)) / a.sqrt()
        if i + 1 < T:
            z_s = inversion.trajectory[T - 1 - i][None]
            fresh = (z_s - abar[i + 1].sqrt() * z_0) / (1 - abar[i + 1]).sqrt()
            z_t = abar[i + 1].sqrt() * clean + (1 - abar[i + 1]).sqrt() * fresh
    with torch.no_grad():
        made = finish(denoise(tiny, Rows.of(tiny, [inversion], [TARGETS[:1]], PLAIN)))
    torch.testing.assert_close(made[1:], clean, rtol=1e-3, atol=1e-3)
    assert (made[1] - z_0[0]).abs().max() > 0.1


@pytest.mark.parametrize("settings", [PLAIN, EditSettings()])
def test_a_virtual_edit_to_the_source_s_prompt_is_the_source_exactly(tiny, settings):
    (inversion,) = inverted(tiny, fixed(policy="virtual"))
    with torch.no_grad():
        made = finish(denoise(tiny, Rows.of(tiny, [inversion], [[inversion.prompt]], settings)))
    assert torch.equal(made[0], inversion.trajectory[0])
    torch.testing.assert_close(made[1], inversion.trajectory[0], rtol=0, atol=1e-4)
    assert torch.equal(reconstruct(tiny, [inversion]), tiny.decode(inversion.trajectory[:1]).cpu())


@pytest.mark.parametrize("how", [fixed(policy="virtual"), fixed(renoise=2)])
def test_edits_of_a_batch_are_those_made_alone(tiny, how):
    samples = [make_two_objects(str(n), n) for n in range(2)]
    together = inverted(tiny, how, *samples)
    for sample, one in zip(samples, together, strict=True):
        (alone,) = inverted(tiny, how, sample)
        torch.testing.assert_close(alone.trajectory, one.trajectory, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(alone.maps, one.maps, rtol=1e-3, atol=1e-4)
    both = edit(tiny, together[0], TARGETS)
    for n, target in enumerate(TARGETS):
        torch.testing.assert_close(edit(tiny, together[0], target)[0], both[n], rtol=0, atol=1e-4)


@pytest.mark.parametrize("how", [fixed(policy="virtual"), fixed(renoise=2)])
def test_going_on_from_a_record_changes_nothing(tiny, sample, how, tmp_path):
    _, records = run(tiny, [sample], how)
    records[1].save(tmp_path / "1.safetensors")
    _, again = run(tiny, [sample], how, 2, type(records[1]).load(tmp_path / "1.safetensors"))
    assert torch.equal(again[-1].latent, records[-1].latent) and torch.equal(again[-1].maps, records[-1].maps)


def test_dynamic_tokens_move_on_a_virtual_trajectory_too(tiny, sample):
    how = load_method("locinv_direct")
    _, records = run(tiny, [sample], replace(how, inversion=InversionPolicy("virtual")))
    assert records[0].token_steps.item() > 0 and records[-1].losses[0, :2].isfinite().all()


# -- presets and refusals ----------------------------------------------------------------------------


def test_presets():
    assert load_method("renoise").inversion.renoise > 0 and load_method("infedit").inversion.policy == "virtual"
    for name in ("renoise", "infedit", "nti"):
        how = load_method(name)
        assert Method.from_dict(how.to_dict()) == how
    assert "inversion" not in load_method("nti").to_dict()  # results of other methods stay what they are


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"inversion": {"renoise": -1}}, "renoise=-1 must be 0 or more"),
        ({"inversion": {"renoise": 2, "average": 4}}, "average=4 must be 1 to 3"),
        ({"inversion": {"policy": "virtual"}}, "null_text.policy=optimize must be direct or npi"),
        ({"inversion": {"policy": "virtual", "renoise": 1}}, "renoise=1 must be 0"),
    ],
)
def test_refusals(values, says):
    with pytest.raises(InputError, match=says):
        Method.from_dict(values)
