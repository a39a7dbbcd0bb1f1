"""The DDIM step against its formula and against diffusers."""

import math

import pytest
import torch
from diffusers import DDIMScheduler

from locinv_pl.networks.schedule import ddim_step


def test_step_is_the_formula():
    z, eps, a, s = 0.7, -0.3, 0.4, 0.6
    z_0 = (z - math.sqrt(1 - a) * eps) / math.sqrt(a)
    expected = math.sqrt(s) * z_0 + math.sqrt(1 - s) * eps
    got = ddim_step(torch.tensor(z), torch.tensor(eps), torch.tensor(a), torch.tensor(s))
    assert got.item() == pytest.approx(expected, rel=1e-6)


def test_there_and_back_with_the_same_noise_is_where_it_was():
    z, eps = torch.randn(2, 2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, s = torch.tensor([0.2, 0.9], dtype=torch.float64)
    torch.testing.assert_close(ddim_step(ddim_step(z, eps, a, s), eps, s, a), z)


@pytest.mark.parametrize("num_steps", [4, 10, 50])
def test_schedule_and_step_agree_with_diffusers(tiny, num_steps):
    reference = DDIMScheduler.from_config(tiny.scheduler.config)
    reference.set_timesteps(num_steps)
    schedule = tiny.schedule(num_steps)
    assert schedule.timesteps.tolist() == reference.timesteps.tolist()
    assert len(schedule) == num_steps and len(schedule.alphas) == num_steps + 1
    generator = torch.Generator().manual_seed(0)
    z, eps = torch.randn(2, 1, 4, 8, 8, generator=generator)
    for i, t in enumerate(reference.timesteps):
        expected = reference.step(eps, t, z).prev_sample
        torch.testing.assert_close(ddim_step(z, eps, *schedule.alphas[i : i + 2]), expected, rtol=1e-4, atol=1e-5)


def test_noise_grows_towards_the_first_step(tiny):
    alphas = tiny.schedule(50).alphas
    assert (alphas[1:] > alphas[:-1]).all() and 0 < alphas[0] < alphas[-1] < 1
