"""Tokens fitted at several timesteps at once."""

import dataclasses

import pytest
import torch
from conftest import make_two_objects

from locinv_pl.method import dynamic_tokens
from locinv_pl.method.dynamic_tokens import optimize_tokens, propose_tokens
from locinv_pl.method.policies import LossTerm, Method, NullTextPolicy, ParallelPolicy, TokenPolicy
from locinv_pl.method.task import Proposals, prepare
from locinv_pl.method.timestep import invert_step
from locinv_pl.networks.attention import Context
from locinv_pl.run.batch import advance, begin, make_engine
from locinv_pl.types import StepRecord

T = 4
HARD = dict.fromkeys(("similarity", "overlap", "adjective"), LossTerm(1.0, 50.0, 0.0))
TOKENS = TokenPolicy(max_steps=3, lr=2e-2, **HARD)
SAMPLES = [make_two_objects("one", 0), make_two_objects("two", 5)]


def method(timesteps: int, correction_steps: int = 2, tokens: TokenPolicy = TOKENS) -> Method:
    return Method("test", 2.0, tokens, NullTextPolicy(max_steps=1), ParallelPolicy(timesteps, correction_steps))


def run(backbone, how, samples=SAMPLES):
    task = prepare(backbone, samples, how, T, 8)
    records = [task.start()]
    for i in range(T):
        records.append(invert_step(backbone, task, i, records[-1]))
    return task, records[1:]


def close(ours, other):
    torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_rows_have_timesteps_of_their_own(tiny):
    generator = torch.Generator().manual_seed(0)
    z, text = torch.randn(3, 4, 16, 16, generator=generator), torch.randn(3, 20, 32, generator=generator)
    t, context = torch.tensor([900, 500, 20]), Context.of(text)
    together = tiny.predict(z, t, context, prefix=tiny.prefix(z, t))
    for b in range(3):
        one = slice(b, b + 1)
        alone = tiny.predict(z[one], t[b], context.pick(one))
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("early_stop", [False, True])
def test_how_many_timesteps_go_together_changes_nothing(tiny, early_stop):
    """Also where some rows stop before others."""
    terms = {} if not early_stop else {"similarity": LossTerm(1.0, 3.0, 0.7), "overlap": LossTerm(1.0, 3.0, 1.0)}
    tokens = dataclasses.replace(TOKENS, **terms, **({"adjective": LossTerm(0.0)} if early_stop else {}))
    _, alone = run(tiny, method(1, tokens=tokens))
    for timesteps in (3, 50):
        _, together = run(tiny, method(timesteps, tokens=tokens))
        for ours, other in zip(together, alone, strict=True):
            assert ours.token_steps.tolist() == other.token_steps.tolist()
            close(ours.tokens, other.tokens)
            close(ours.latent, other.latent)


def test_without_correction_every_timestep_is_fitted_on_the_trajectory(tiny):
    task, records = run(tiny, method(3, correction_steps=0))
    for i, record in enumerate(records):
        V, steps = optimize_tokens(tiny, task, task.trajectory[T - i], i, task.embeddings)
        close(record.tokens, V)
        assert record.token_steps.tolist() == steps.tolist() == [3, 3]
        assert torch.equal(record.tokens, propose_tokens(tiny, task, i)[0])


def test_the_first_timestep_is_the_sequential_one_s(tiny):
    """It starts from the trajectory's end and the words' own embeddings in both."""
    _, together = run(tiny, method(1, correction_steps=0))
    _, sequential = run(tiny, method(0))
    assert torch.equal(together[0].tokens, sequential[0].tokens)
    assert torch.equal(together[0].latent, sequential[0].latent)
    assert (together[-1].tokens - sequential[-1].tokens).abs().max() > 1e-3


def test_corrections_go_on_to_the_next_timestep(tiny):
    how = method(2, correction_steps=1)
    task, records = run(tiny, how)
    proposals = [propose_tokens(tiny, task, i)[0] for i in range(T)]
    start = proposals[1] + (records[0].tokens - proposals[0])
    z_t = records[0].latent
    V, steps = optimize_tokens(tiny, task, z_t, 1, start, max_steps=1)
    close(records[1].tokens, V)
    assert steps.tolist() == [1, 1] and records[1].token_steps.tolist() == [4, 4]
    assert (records[0].tokens - proposals[0]).abs().max() > 1e-3


def test_it_fits_the_priors(tiny):
    _, fixed = run(tiny, Method("fixed", 2.0, TokenPolicy("fixed"), NullTextPolicy(max_steps=1)))
    _, fitted = run(tiny, method(T))
    assert all((ours.losses[:, 0] < plain.losses[:, 0]).all() for ours, plain in zip(fitted, fixed, strict=True))


def test_going_on_from_a_record_changes_nothing(tiny, tmp_path):
    how = method(3)
    _, records = run(tiny, how)
    records[2].save(tmp_path / "2.safetensors")
    again = invert_step(tiny, prepare(tiny, SAMPLES, how, T, 8), 3, StepRecord.load(tmp_path / "2.safetensors"))
    assert torch.equal(again.tokens, records[3].tokens) and torch.equal(again.latent, records[3].latent)


class Scarce:
    """optimize_tokens in a memory for so many rows."""

    def __init__(self, room: int):
        self.room = room
        self.tried: list[int] = []

    def __call__(self, backbone, task, z_t, *rest, **more):
        self.tried.append(len(z_t))
        if len(z_t) > self.room:
            raise torch.OutOfMemoryError("too much")
        return optimize_tokens(backbone, task, z_t, *rest, **more)


def test_timesteps_are_halved_until_they_fit(tiny, monkeypatch):
    task = prepare(tiny, SAMPLES, method(T), T, 8)
    together = [propose_tokens(tiny, task, i)[0] for i in range(T)]
    scarce = Scarce(room=2)
    monkeypatch.setattr(dynamic_tokens, "optimize_tokens", scarce)
    task = dataclasses.replace(task, proposals=Proposals())
    for i, whole in enumerate(together):
        close(propose_tokens(tiny, task, i)[0], whole)
    assert scarce.tried == [8, 4, 2, 2, 4, 2, 2]
    scarce.room = 0
    task = dataclasses.replace(task, proposals=Proposals())
    with pytest.raises(torch.OutOfMemoryError):
        propose_tokens(tiny, task, 0)


def test_a_part_of_a_batch_keeps_its_proposals(tiny):
    how = method(T)
    engine = make_engine(tiny, how, T, 8, is_half=False)
    (whole,), _ = begin(engine, SAMPLES)
    (whole,), _ = advance((whole,), 0)
    (second,), _ = advance((whole.pick([1]),), 1)
    (both,), _ = advance((whole,), 1)
    close(second.records[1].tokens[0], both.records[1].tokens[1])
    assert second.records[1].token_steps.tolist() == both.records[1].token_steps[1:].tolist()
