"""Passes that are recorded and replayed answer what they would have computed; a stand-in replays without a GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import LENGTH, make_two_objects
from torch.utils._pytree import tree_flatten, tree_unflatten

from locinv_pl.method.policies import Method, NullTextPolicy, TokenPolicy
from locinv_pl.method.task import prepare
from locinv_pl.method.timestep import invert_step
from locinv_pl.networks.attention import Context
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.graphs import LARGEST, Graphs
from locinv_pl.networks.loading import load_backbone
from locinv_pl.networks.tuning import Tuning
from locinv_pl.types import StepRecord

FIELDS = ("latent", "tokens", "null", "maps", "losses", "null_loss", "token_steps", "null_steps")


class Replay:
    """Like a CUDA graph: inputs are copied to one place, results lie in one place, gradients are those of the last."""

    def __init__(self, function: Callable[..., Any], samples: tuple[torch.Tensor, ...]):
        self.function, self.samples = function, samples
        with torch.enable_grad():
            outputs, self.spec = tree_flatten(function(*samples))
        self.outputs = [output.detach().clone() for output in outputs]

    def __call__(self, *inputs: torch.Tensor) -> Any:
        replay = self

        class Replayed(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
                for place, given in zip(replay.samples, inputs, strict=True):
                    place.data.copy_(given)
                with torch.enable_grad():
                    replay.live = tree_flatten(replay.function(*replay.samples))[0]
                for place, output in zip(replay.outputs, replay.live, strict=True):
                    place.copy_(output.detach())
                return tuple(output.detach() for output in replay.outputs)

            @staticmethod
            def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
                pairs = [(x, dx) for x, dx in zip(replay.live, gradients, strict=True) if x.requires_grad]
                needed = [sample for sample in replay.samples if sample.requires_grad]
                found = iter(torch.autograd.grad([x for x, _ in pairs], needed, [dx for _, dx in pairs]))
                return tuple(next(found) if sample.requires_grad else None for sample in replay.samples)

        return tree_unflatten(list(Replayed.apply(*inputs)), self.spec)


@pytest.fixture
def recorded(monkeypatch) -> list[Replay]:
    """What was recorded; passes on the CPU count as small ones on a GPU with room."""
    made: list[Replay] = []

    def record(function: Callable[..., Any], samples: tuple[torch.Tensor, ...]) -> Replay:
        made.append(Replay(function, samples))
        return made[-1]

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3, 4))
    monkeypatch.setattr(Backbone, "_graphs_for", lambda self, batch: self._graphs)
    return made


def inverted(backbone: Backbone, num_steps: int) -> list[StepRecord]:
    method = Method("test", 2.0, TokenPolicy(max_steps=3, lr=0.01), NullTextPolicy(max_steps=3))
    samples = [make_two_objects(str(n), seed=n) for n in range(2)]
    task = prepare(backbone, samples, method, num_steps, 8)
    records = [task.start()]
    for i in range(num_steps):
        records.append(invert_step(backbone, task, i, records[-1]))
    return records[1:]


def test_an_inversion_is_the_same_and_records_every_pass_once(recorded, tiny_folder):
    replayed, plain = (load_backbone(str(tiny_folder), tuning=Tuning(cuda_graphs=on)) for on in (True, False))
    results = inverted(replayed, 2)
    count = len(recorded)
    assert count >= 7  # DDIM inversion, text, maps, both predictions, with gradients and without
    for ours, expected in zip(results, inverted(plain, 2), strict=True):
        for name in FIELDS:
            torch.testing.assert_close(getattr(ours, name), getattr(expected, name), rtol=0, atol=0, equal_nan=True)
    assert len(recorded) == count  # the plain one records nothing
    inverted(replayed, 3)
    assert len(recorded) == count


def test_gradients_after_another_replay_are_refused(recorded, tiny_folder):
    backbone = load_backbone(str(tiny_folder))
    z, text = torch.randn(1, 4, 16, 16), torch.randn(1, LENGTH, 32, requires_grad=True)
    t = torch.tensor(500)
    first, second = (backbone.predict(z, t, Context.of(text)) for _ in range(2))
    second.sum().backward()
    with pytest.raises(RuntimeError, match="tuning.cuda_graphs=false"):
        first.sum().backward()
    torch.testing.assert_close(first, second)  # results stay


def test_nothing_is_recorded_without_room(recorded, monkeypatch, tiny_folder):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2, 4))
    full, plain = load_backbone(str(tiny_folder)), load_backbone(str(tiny_folder), tuning=Tuning(cuda_graphs=False))
    torch.testing.assert_close(inverted(full, 1)[0].latent, inverted(plain, 1)[0].latent, rtol=0, atol=0)
    assert not recorded


def test_what_cannot_be_recorded_runs_as_it_is(recorded, monkeypatch, tiny_folder):
    def record(function: Callable[..., Any], samples: tuple[torch.Tensor, ...]) -> Replay:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    refused, plain = load_backbone(str(tiny_folder)), load_backbone(str(tiny_folder), tuning=Tuning(cuda_graphs=False))
    with pytest.warns(UserWarning, match="not permitted when stream is capturing.; it runs kernel by kernel"):
        results = inverted(refused, 1)
    torch.testing.assert_close(results[0].latent, inverted(plain, 1)[0].latent, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("tuning", "batch", "autocast", "used"),
    [
        (Tuning(), LARGEST, False, True),
        (Tuning(), LARGEST + 1, False, False),
        (Tuning(), 1, True, False),
        (Tuning(cuda_graphs=False), 1, False, False),
        (Tuning(gradient_checkpointing=True), 1, False, False),
    ],
    ids=["small", "large", "autocast", "off", "checkpointing"],
)
def test_small_batches_on_gpus_are_recorded(monkeypatch, tiny_folder, tuning, batch, autocast, used):
    backbone = load_backbone(str(tiny_folder), tuning=tuning)
    assert backbone._graphs_for(torch.empty(1)) is None  # on a CPU never
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: autocast)  # autocast is off without a GPU
    assert isinstance(backbone._graphs_for(torch.empty(batch)), Graphs) == used
