"""Every architecture is inverted, reconstructed and edited by the same engine: what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_two_objects
from lightning.pytorch import Callback
from runs import inversions, run_stage
from tiny_pipelines import WRITERS

from locinv_pl.api import invert
from locinv_pl.benchmark.counting import count
from locinv_pl.benchmark.modes import Mode, with_steps
from locinv_pl.benchmark.reference import NONE, Savings
from locinv_pl.editing.prompt_to_prompt import edit, reconstruct
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError
from locinv_pl.method.dynamic_tokens import optimize_tokens, token_context, token_losses
from locinv_pl.method.null_text import optimize_null_text
from locinv_pl.method.policies import LOSSES, LossTerm, Method, NullTextPolicy, TokenPolicy
from locinv_pl.method.task import prepare
from locinv_pl.method.timestep import invert_step
from locinv_pl.networks.attention import Context, Layer
from locinv_pl.networks.loading import load_backbone
from locinv_pl.types import EditSample, Inversion

T, R, PROMPT = 3, 8, "a red cat and a dog"


@pytest.fixture(scope="session", params=WRITERS)
def folder(request: pytest.FixtureRequest, folder_of: Callable[[str], Path]) -> Path:
    return folder_of(request.param)


@pytest.fixture(scope="session")
def model(folder: Path) -> Any:
    return load_backbone(str(folder))


@pytest.fixture(scope="session")
def two() -> EditSample:
    return make_two_objects("two", seed=0)


def method(model: Any, steps: int = 2, **null: Any) -> Method:
    """Of tokens and ∅; of tokens alone where there is no ∅, unless the test says otherwise."""
    null = null if model.has_null or null else {"policy": "none"}
    return Method("test", 3.0, TokenPolicy(max_steps=steps), NullTextPolicy(max_steps=2, **null))


@pytest.fixture(scope="session")
def with_null(model: Any) -> Any:
    """The model, of those that have ∅; the others are :func:`test_methods_that_need_a_null_text`'s."""
    if not model.has_null:
        pytest.skip("has no null text")
    return model


@pytest.fixture(scope="session")
def joint(model: Any) -> Any:
    """The model, of those in which text and image attend to each other in one layer."""
    if not model.is_joint:
        pytest.skip("has cross-attention")
    return model


def run_inversion(model: Any, sample: EditSample, how: Method) -> Inversion:
    priors: Any = {noun.word: noun.prior for noun in sample.nouns}
    return invert(model, sample.image, PROMPT, priors, method=how, num_steps=T, resolution=R)


@pytest.fixture(scope="session")
def inverted(model: Any, two: EditSample) -> Inversion:
    return run_inversion(model, two, method(model))


@pytest.fixture(scope="session")
def inputs(model: Any) -> tuple[torch.Tensor, torch.Tensor, Context]:
    ids = torch.tensor([model.tokenizer(PROMPT, padding="max_length", max_length=length(model)).input_ids])
    C, side = model.widths[1], model.latent_size
    with torch.no_grad():
        return torch.randn(2, C, side, side), model.schedule(T).timesteps[1], model.encode_text(ids).expand(2)


def length(model: Any) -> int:
    return model.tokenizer.model_max_length


@torch.no_grad()
def test_reading_maps_changes_nothing(model, inputs):
    z, t, context = inputs
    plain, (read, A) = model.predict(z, t, context), model.predict_with_maps(z, t, context, (R, R))
    torch.testing.assert_close(read, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(A.sum(-1), torch.ones(2, R, R))
    assert A.shape == (2, R, R, length(model)) and A.std() > 1e-4


@torch.no_grad()
def test_a_pass_that_ends_after_the_last_map_has_the_same_maps(model, inputs):
    z, t, context = inputs
    A = model.predict_with_maps(z, t, context, (R, R))[1]
    torch.testing.assert_close(model.attention_maps(z, t, context, (R, R)), A)
    short = model.attention_maps(z, t, context, (R, R), model.prefix(z, t))
    torch.testing.assert_close(short, A, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_values_of_their_own_are_those_of_the_plain_pass(joint, inputs):
    model = joint
    z, t, context = inputs
    plain = model.predict(z, t, context)
    same = context.with_states(context.keys.clone(), context.values)
    torch.testing.assert_close(model.predict(z, t, same), plain, rtol=1e-4, atol=1e-5)
    moved = context.with_states(context.keys + 0.3, context.values)
    prefix = model.prefix(z, t)
    A, out = model.attention_maps(z, t, moved, (R, R), prefix), model.predict(z, t, moved, prefix=prefix)
    torch.testing.assert_close(out, model.predict(z, t, moved), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(A, model.attention_maps(z, t, moved, (R, R)), rtol=1e-4, atol=1e-6)
    one = model.predict(z[1:], t, moved.pick(slice(1, 2)), prefix=prefix.pick(torch.tensor([1])))
    torch.testing.assert_close(one, out[1:], rtol=1e-4, atol=1e-5)
    whole = model.predict(z, t, moved.with_states(moved.keys))
    assert (out - plain).abs().max() > 1e-4 and (whole - out).abs().max() > 1e-4


def test_replaced_embeddings_reach_every_encoder(model, inputs):
    z, t, _ = inputs
    ids = torch.tensor([model.tokenizer(PROMPT, padding="max_length", max_length=length(model)).input_ids])
    own = model.embed(ids)
    with torch.no_grad():
        plain, same = model.encode_text(ids), model.encode_text(ids, own)
        assert all(torch.equal(a, b) for a, b in zip(plain.tensors, same.tensors, strict=True))
    V = own.clone().requires_grad_()
    moved = plain.with_states(model.encode_text(ids, V).keys).expand(2)
    model.attention_maps(z, t, moved, (R, R))[..., 2].sum().backward()
    used = model.text.embed(ids) != 0
    assert V.grad is not None and (V.grad[used] != 0).float().mean() > 0.1
    for part, encoders in zip(V.grad.split(model.text.lengths, dim=1), model.text.stretches, strict=True):
        widths = [encoder.network.get_input_embeddings().embedding_dim for encoder in encoders]
        assert all(rows.abs().sum() > 0 for rows in part[..., : sum(widths)].split(widths, dim=-1))
    with torch.no_grad():
        other = plain.with_states(model.encode_text(ids, own + 0.5).keys).expand(2)
        assert not torch.allclose(model.predict(z, t, other), model.predict(z, t, plain.expand(2)), atol=1e-4)


def test_token_steps_lower_the_losses(model, two):
    how = replace(method(model), tokens=TokenPolicy(max_steps=15, adjective=LossTerm(0.0)))
    task = prepare(model, [two], how, T, R)
    z_t, t = task.ddim_latent(0), task.schedule.timesteps[0]

    @torch.no_grad()
    def losses(V: torch.Tensor) -> list[float]:
        A = model.attention_maps(z_t, t.expand(1), token_context(model, task, V), task.grid)
        return [token_losses(A, task)[0, LOSSES.index(name)].item() for name in ("similarity", "overlap")]

    V, steps = optimize_tokens(model, task, z_t, 0, task.embeddings, model.prefix(z_t, t))
    assert steps.tolist() == [15]
    assert all(after < before for after, before in zip(losses(V), losses(task.embeddings), strict=True))
    fixed = ~task.prompts.dynamic[0]
    assert torch.equal(V[0, fixed], task.embeddings[0, fixed])


@pytest.mark.parametrize("policy", ["optimize", "npi"])
def test_methods_that_need_a_null_text(model, two, policy):
    how = method(model, policy=policy)
    if model.has_null:
        assert prepare(model, [two], how, 1, R).empty.keys.shape == (1, length(model), model.widths[0])
        return
    with pytest.raises(InputError, match="^method=test: null_text.policy=.* needs a null text.*method=locinv_direct"):
        prepare(model, [two], how, T, R)


def test_null_text_has_pooled_states_of_its_own(with_null, two):
    """The prompt's prefix holds what depends on the prompt's pooled states, and is no part of a pass of ∅."""
    model = with_null
    task = prepare(model, [two], method(model), T, R)
    z_t, t = task.ddim_latent(1), task.schedule.timesteps[1]
    with torch.no_grad():
        prefix = model.prefix(z_t, t)
        cond = model.predict(z_t, t, task.plain, prefix=prefix)
        shared = optimize_null_text(model, task, z_t, 1, cond, task.empty.keys, prefix)
        alone = optimize_null_text(model, task, z_t, 1, cond, task.empty.keys)
    for one, other in zip(shared, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_null_text_steps_bring_the_reconstruction_closer(with_null, two):
    model = with_null
    task = prepare(model, [two], method(model, steps=0, early_stop=False), T, R)
    z_t, t = task.ddim_latent(1), task.schedule.timesteps[1]
    with torch.no_grad():
        cond = model.predict(z_t, t, task.plain)
        empty = model.guide(cond, z_t, t, task.empty, 3.0)
    before = (task.schedule.step(z_t, empty, 1) - task.ddim_latent(2)).square().mean()
    assert optimize_null_text(model, task, z_t, 1, cond, task.empty.keys)[2].item() < before


def test_a_reconstruction_is_the_inversion_s_own_and_closer_than_without_null_text(model, inverted, two):
    (back,) = reconstruct(model, [inverted])
    torch.testing.assert_close(back, model.decode(inverted.latent[None])[0], rtol=0, atol=1e-4)
    if not model.has_null:
        return
    plain = run_inversion(model, two, method(model, policy="none"))
    errors = [(each.latent - each.trajectory[0]).square().mean() for each in (inverted, plain)]
    assert errors[0] < errors[1]


def test_direct_inversion_leads_back_to_the_image(model, two):
    direct = run_inversion(model, two, method(model, policy="direct"))
    (back,) = reconstruct(model, [direct])
    torch.testing.assert_close(back, model.decode(direct.trajectory[:1])[0], rtol=0, atol=1e-5)
    edited = edit(model, direct, ["a red dog and a dog"], with_source=True)
    torch.testing.assert_close(edited[0], back, rtol=0, atol=1e-5)


def test_the_source_prompt_as_target_is_the_reconstruction(model, inverted):
    back, same = edit(model, inverted, PROMPT, with_source=True)
    torch.testing.assert_close(same, back, rtol=0, atol=1e-5)
    other = edit(model, inverted, "a red dog and a dog", EditSettings(blend="none"))[0]
    assert (other - back).abs().mean() > 1e-4


def test_the_coarsest_self_attention_is_taken_over(model, inverted):
    from locinv_pl.editing.prompt_to_prompt import plan
    from locinv_pl.editing.rows import Rows

    rows = Rows.of(model, [inverted], [["a red dog and a dog"]], EditSettings(self_resolution=2))
    control, _ = plan(model, rows, None)
    side = model.coarsest(inverted.noise.shape)
    assert control is not None
    assert control.wants(Layer("", False, side**2, side**2)) and not control.wants(Layer("", False, side**2 + 1, 0))


@pytest.mark.parametrize("policy", ["optimize", "direct"])
def test_what_is_counted_is_what_runs(model, two, policy):
    if policy == "optimize" and not model.has_null:
        pytest.skip("has no null text")
    how = with_steps(method(model, policy=policy), 2, 2)
    mode = Mode.prepare(model, Savings(), how, [two], T, R)

    def whole() -> None:
        task = prepare(model, [two], how, T, R)
        record = task.start()
        for i in range(T):
            record = invert_step(model, task, i, record)

    costs = mode.costs()
    assert mode.flops(costs, [mode.fixed_steps] * T) == pytest.approx(
        count(whole).flops, rel=5e-3
    )  # priors are products, too
    assert replace(mode, savings=NONE).costs()["token"].flops > 1.1 * costs["token"].flops  # the authors' way, here too


class Interrupt(Callback):
    """Raises after four timesteps."""

    left = 4

    def on_train_batch_end(self, *_: Any) -> None:
        """Count."""
        self.left -= 1
        if not self.left:
            raise KeyError("interrupted")


def test_a_run_goes_on_bit_for_bit(model, folder, tmp_path):
    run = partial(run_stage, folder, count=2, method=method(model), data={"batch_size": 1})
    run(tmp_path / "whole")
    with pytest.raises(KeyError):
        run(tmp_path / "parts", callbacks=[Interrupt()])
    assert len(inversions(tmp_path / "parts")) == 1
    run(tmp_path / "parts")
    assert inversions(tmp_path / "parts") == inversions(tmp_path / "whole")
