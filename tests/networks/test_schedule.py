"""The step against its formula and against diffusers, and flows there and back."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from locinv_pl.networks.schedule import Schedule, Solver, guided


def test_step_is_the_formula():
    z, eps, a, s = 0.7, -0.3, 0.4, 0.6
    z_0 = (z - math.sqrt(1 - a) * eps) / math.sqrt(a)
    expected = math.sqrt(s) * z_0 + math.sqrt(1 - s) * eps
    got = Schedule.of_alphas(torch.tensor([1]), torch.tensor([a, s])).step(torch.tensor(z), torch.tensor(eps), 0)
    assert got.item() == pytest.approx(expected, rel=1e-6)


def test_there_and_back_with_the_same_noise_is_where_it_was():
    z, eps = torch.randn(2, 2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    schedule = Schedule.of_alphas(torch.tensor([1]), torch.tensor([0.2, 0.9], dtype=torch.float64))
    torch.testing.assert_close(schedule.step(schedule.step(z, eps, 0), eps, 0, inverse=True), z)


@pytest.mark.parametrize("num_steps", [4, 10, 50])
def test_schedule_and_step_agree_with_diffusers(tiny, num_steps):
    reference = DDIMScheduler.from_config(tiny.scheduler.config)
    reference.set_timesteps(num_steps)
    schedule = tiny.schedule(num_steps)
    assert schedule.timesteps.tolist() == reference.timesteps.tolist()
    assert len(schedule) == num_steps and len(schedule.signal) == len(schedule.noise) == num_steps + 1
    generator = torch.Generator().manual_seed(0)
    z, eps = torch.randn(2, 1, 4, 8, 8, generator=generator)
    for i, t in enumerate(reference.timesteps):
        expected = reference.step(eps, t, z).prev_sample
        torch.testing.assert_close(schedule.step(z, eps, i), expected, rtol=1e-4, atol=1e-5)


def test_noise_grows_towards_the_first_step(tiny):
    signal = tiny.schedule(50).signal
    assert (signal[1:] > signal[:-1]).all() and 0 < signal[0] < signal[-1] < 1


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_guidance_of_any_kind_is_guidance_of_noise(kind):
    """From one latent all kinds of predictions are linear in ε."""
    z, eps, null = torch.randn(3, 1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, s = 0.3, 0.6
    alphas, told = torch.tensor([a, s], dtype=torch.float64), torch.tensor([1])

    def seen(eps):
        z_0 = (z - math.sqrt(1 - a) * eps) / math.sqrt(a)
        return z_0 if kind == "sample" else math.sqrt(a) * eps - math.sqrt(1 - a) * z_0

    ours = Schedule.of_alphas(told, alphas, kind).step(z, guided(seen(eps), seen(null), 7.5), 0)
    torch.testing.assert_close(ours, Schedule.of_alphas(told, alphas).step(z, guided(eps, null, 7.5), 0))


def flow(num_steps):
    noise = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    return Schedule(1000 * noise[:-1], 1 - noise, noise, "flow")


def test_a_flow_takes_the_steps_of_diffusers():
    """Also from σ = 1, where there is no signal to divide by."""
    reference = FlowMatchEulerDiscreteScheduler(shift=3.0)
    reference.set_timesteps(5)
    schedule = Schedule(reference.timesteps, 1 - reference.sigmas, reference.sigmas, "flow")
    z, u = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert schedule.signal[0] == 0
    for i, t in enumerate(reference.timesteps):
        torch.testing.assert_close(schedule.step(z, u, i), reference.step(u, t, z).prev_sample)


def test_the_step_of_a_flow_is_ddims_formula():
    z, u = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    schedule = flow(5)
    for i in range(1, 5):
        (a, s), (b, q) = schedule.signal[i : i + 2], schedule.noise[i : i + 2]
        z_0, eps = z - b * u, z + a * u
        torch.testing.assert_close(schedule.step(z, u, i), s * z_0 + q * eps)


def test_a_flow_there_and_back():
    """u = σ z has z_1 = z_0 e^½; Euler errs by the steps' length, the midpoint rule and FireFlow by its square."""

    def error(num_steps, kind, inverse):
        solver, z, passes = Solver(flow(num_steps), kind), torch.ones(1, dtype=torch.float64), []

        def predict(z, t):
            # On the way to noise the network is told the timestep of the step's end, as DDIM inversion tells it.
            passes.append(t)
            return t / 1000 * z

        for i in sorted(range(num_steps), reverse=inverse):
            z = solver.step(z, i, predict, inverse)
        assert len(passes) == {"euler": num_steps, "midpoint": 2 * num_steps, "fireflow": num_steps + 1}[kind]
        return abs(z.item() - math.exp(0.5 if inverse else -0.5))

    for inverse in (True, False):
        assert error(20, "euler", inverse) / error(40, "euler", inverse) == pytest.approx(2, rel=0.1)
        for kind in ("midpoint", "fireflow"):
            assert error(20, kind, inverse) / error(40, kind, inverse) == pytest.approx(4, rel=0.15)
            assert error(10, kind, inverse) < error(10, "euler", inverse) / 5


def test_other_schedules_have_one_step():
    told, alphas = torch.tensor([2, 1]), torch.tensor([0.36, 0.64, 1.0])
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = Schedule.of_alphas(told, alphas)
    for kind in ("euler", "midpoint", "fireflow"):
        solver, at = Solver(schedule, kind), z
        for i in (1, 0):
            at = solver.step(at, i, lambda z, t: 0.1 * z, inverse=True)
        expected = schedule.step(schedule.step(z, 0.1 * z, 1, True), 0.1 * schedule.step(z, 0.1 * z, 1, True), 0, True)
        assert torch.equal(at, expected)
