"""The noise schedule, its one step, used in both directions, and guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

FlowSolver = Literal["midpoint", "euler", "fireflow"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """T timesteps, noisiest first, the noise level at each and after the last, and what a network answers there.

        z_t = signal · z_0 + noise · ε

    Args:
        timesteps: t_0 > t_1 > ... > t_{T-1}, shape (T,); what the network is told.
        signal: at those timesteps, then that of the clean latent, shape (T+1,), in [0, 1], rising. Step i goes from
            ``signal[i]`` to ``signal[i + 1]``.
        noise: likewise, in [0, 1], falling.
        kind: what the network predicts. ``epsilon``: the noise ε; ``v_prediction``: signal · ε - noise · z_0;
            ``sample``: z_0; ``flow``: the velocity u = ε - z_0 of a rectified flow, where signal + noise = 1.

    >>> import torch
    >>> schedule = Schedule.of_alphas(torch.tensor([981, 961]), torch.tensor([0.36, 0.64, 1.0]))
    >>> len(schedule), schedule.signal, schedule.noise
    (2, tensor([0.6000, 0.8000, 1.0000]), tensor([0.8000, 0.6000, 0.0000]))
    """

    timesteps: Tensor
    signal: Tensor
    noise: Tensor
    kind: str = "epsilon"

    @classmethod
    def of_alphas(cls, timesteps: Tensor, alphas: Tensor, kind: str = "epsilon") -> Schedule:
        """A schedule that keeps the variance: signal √ᾱ, noise √(1-ᾱ).

        Args:
            timesteps: (T,).
            alphas: ᾱ, the cumulative product of α, shape (T+1,), in (0, 1].
            kind: what the network predicts.
        """
        return cls(timesteps, alphas.sqrt(), (1 - alphas).sqrt(), kind)

    def __len__(self) -> int:
        return len(self.timesteps)

    def step(self, z: Tensor, prediction: Tensor, i: int, inverse: bool = False) -> Tensor:
        """The deterministic step i, from level i to level i + 1, or with ``inverse`` from level i + 1 to level i.

            z_s = signal_s · (z_t - noise_t ε) / signal_t + noise_s ε,

        with the ε that the prediction at timestep i amounts to. Where signal + noise = 1 this is Euler's step
        z_s = z_t + (noise_s - noise_t) u, which a flow takes: it divides by nothing.

        Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, eq. 12 with σ = 0; Liu et al.,
        Flow Straight and Fast, arXiv 2209.03003; v: Salimans and Ho, arXiv 2202.00512.

        >>> import torch
        >>> schedule = Schedule.of_alphas(torch.tensor([1]), torch.tensor([0.64, 1.0]))
        >>> schedule.step(torch.tensor([1.0]), torch.tensor([0.6]), 0)  # (1 - 0.6 * 0.6) / 0.8
        tensor([0.8000])
        >>> schedule.step(torch.tensor([0.8]), torch.tensor([0.6]), 0, inverse=True)
        tensor([1.])

        Args:
            z: latent at the step's beginning, of any shape.
            prediction: what the network answers, told timestep i, guided or not; shape of z.
            i: step, 0 the noisiest.
            inverse: whether the step adds noise.

        Returns:
            the latent at the step's end, shape of z.
        """
        return self.move(z, self.direction(prediction, z, i), i, inverse)

    def move(self, z: Tensor, direction: Tensor, i: int, inverse: bool = False) -> Tensor:
        """The step of :meth:`step` along a direction, which may come from elsewhere than ``z``.

        Args:
            z: latent at the step's beginning, of any shape.
            direction: as :meth:`direction` answers it, shape of z.
            i: step, 0 the noisiest.
            inverse: whether the step adds noise.

        Returns:
            the latent at the step's end, shape of z.
        """
        start, stop = (i + 1, i) if inverse else (i, i + 1)
        if self.kind == "flow":
            return z + (self.noise[stop] - self.noise[start]) * direction
        z_0 = (z - self.noise[start] * direction) / self.signal[start]
        return self.signal[stop] * z_0 + self.noise[stop] * direction

    def clean(self, z: Tensor, prediction: Tensor, i: int) -> Tensor:
        """The z_0 that a prediction amounts to: (z_t - noise_t ε) / signal_t, of a flow z_t - noise_t u.

        >>> import torch
        >>> schedule = Schedule.of_alphas(torch.tensor([1]), torch.tensor([0.64, 1.0]))
        >>> schedule.clean(torch.tensor([1.0]), torch.tensor([0.6]), 0)  # (1 - 0.6 * 0.6) / 0.8
        tensor([0.8000])

        Args:
            z: z_t, at timestep i, of any shape.
            prediction: what the network answers there, shape of z.
            i: step, 0 the noisiest.

        Returns:
            shape of z.
        """
        z_0 = z - self.noise[i] * self.direction(prediction, z, i)
        return z_0 if self.kind == "flow" else z_0 / self.signal[i]

    def halfway(self, z: Tensor, prediction: Tensor, i: int, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """Where a flow is halfway through step i, for a step of second order.

        The whole step with the prediction that is made there errs by the third power of its length, Euler's by the
        second.

        Source: Wang et al., RF-Solver, arXiv 2411.04746, eq. 9: with the derivative of u as the difference between both
        ends of half a step, its second-order expansion is this rule.

        Args:
            z: latent at the step's beginning.
            prediction: u there, shape of z.
            i: step, 0 the noisiest.
            inverse: whether the step adds noise.

        Returns:
            the latent halfway, shape of z, and its timestep, a scalar.
        """
        start, stop = (i + 1, i) if inverse else (i, i + 1)
        times = [*self.timesteps, torch.zeros_like(self.timesteps[0])]
        return z + (self.noise[stop] - self.noise[start]) / 2 * prediction, (times[start] + times[stop]) / 2

    def direction(self, prediction: Tensor, z: Tensor, i: int) -> Tensor:
        """What a step goes along: ε of a prediction at timestep i, of a flow u.

        Args:
            prediction: what the network answers for z, shape of z.
            z: of any shape.
            i: step, 0 the noisiest.

        Returns:
            shape of z.
        """
        if self.kind == "v_prediction":
            return self.signal[i] * prediction + self.noise[i] * z
        if self.kind == "sample":
            return (z - self.signal[i] * prediction) / self.noise[i]
        return prediction


class Solver:
    """Walks along a schedule, a step after the other; of a flow by one of three rules.

    ``euler``: a pass at the step's beginning. ``midpoint``: a second pass halfway, to where the first one leads, and
    the whole step by that one, whose error falls by the square of the steps' length. ``fireflow``: halfway is where the
    step before leads by its own halfway velocity, so that a step takes one pass; the first one takes two. Other kinds
    of schedules have DDIM's step, whatever the rule.

    >>> import torch
    >>> noise = torch.tensor([1.0, 0.5, 0.0])
    >>> schedule = Schedule(1000 * noise[:-1], 1 - noise, noise, "flow")
    >>> for kind in ("euler", "midpoint", "fireflow"):
    ...     solver, z = Solver(schedule, kind), torch.ones(1)
    ...     for i in (0, 1):
    ...         z = solver.step(z, i, lambda z, t: t / 1000 * z)  # dz / dσ = σ z, z(0) = exp(-½) = 0.6065
    ...     print(kind, round(z.item(), 3))
    euler 0.375
    midpoint 0.64
    fireflow 0.646

    Source: Wang et al., RF-Solver, arXiv 2411.04746, for the second; Deng et al., FireFlow, arXiv 2412.07517,
    for the third.

    Args:
        schedule: T steps.
        kind: the rule.
    """

    def __init__(self, schedule: Schedule, kind: FlowSolver = "midpoint"):
        self.schedule, self.kind = schedule, kind if schedule.kind == "flow" else "euler"
        self._halfway: Tensor | None = None  # the velocity of the step before

    def step(self, z: Tensor, i: int, predict: Callable[[Tensor, Tensor], Tensor], inverse: bool = False) -> Tensor:
        """Step i, after the one that lies before it in the same direction.

        Args:
            z: latent at the step's beginning, of any shape.
            i: step, 0 the noisiest.
            predict: what the network answers, of a latent and its timestep.
            inverse: whether the step adds noise.

        Returns:
            the latent at the step's end.
        """
        if self._halfway is None:
            u = predict(z, self.schedule.timesteps[i])
            if self.kind != "euler":
                u = predict(*self.schedule.halfway(z, u, i, inverse))
        else:
            u = predict(*self.schedule.halfway(z, self._halfway, i, inverse))
        self._halfway = u if self.kind == "fireflow" else None
        return self.schedule.step(z, u, i, inverse)


def guided(cond: Tensor, null: Tensor, w: float | Tensor) -> Tensor:
    """Classifier-free guidance of predictions, whatever their kind: f = f(∅) + w (f(c) - f(∅)).

    ε, v, z_0 and u of one latent are linear in each other, so that guidance of one is guidance of all.

    >>> import torch
    >>> guided(torch.tensor([1.0]), torch.tensor([0.5]), w=7.5)  # 0.5 + 7.5 * 0.5
    tensor([4.2500])

    Source: Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv 2207.12598.

    Args:
        cond: f(c), what is predicted under the prompt, of any shape.
        null: f(∅), what is predicted under the null text, of the same shape.
        w: guidance scale, one for all or a tensor that goes with the shape; 1 gives ``cond``, 0 gives ``null``.

    Returns:
        f, of the same shape.
    """
    return null + w * (cond - null)


def guidance_embedding(w: float, width: int) -> Tensor:
    """What a UNet that has learned guidance is told of its scale: sines and cosines of 1000 (w - 1) f_k.

        f_k = 10000^(-k / (width/2 - 1)),  k = 0, ..., width/2 - 1

    >>> guidance_embedding(1.0, 4)
    tensor([[0., 0., 1., 1.]])

    Source: Luo et al., Latent Consistency Models, arXiv 2310.04378, section 4.2, as in its public code.

    Args:
        w: guidance scale.
        width: of the embedding, even, 4 or more; a UNet's ``time_cond_proj_dim``.

    Returns:
        (1, width).
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10000.0) / (half - 1)))
    angles = 1000.0 * (w - 1) * frequencies
    return torch.cat([angles.sin(), angles.cos()])[None]
