"""How networks are run changes rounding alone."""

import os
from types import SimpleNamespace

import pytest
import torch
from conftest import LENGTH, make_two_objects

from locinv_pl.method.policies import Method, NullTextPolicy, TokenPolicy
from locinv_pl.method.task import prepare
from locinv_pl.method.timestep import invert_step
from locinv_pl.networks.attention import Context, attention_layers
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import load_backbone
from locinv_pl.networks.tuning import Tuning, set_memory_format, use_one_thread

GRID, T = (8, 8), torch.tensor(500)
HOW = Method("test", 2.0, TokenPolicy(max_steps=2), NullTextPolicy(max_steps=2))


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, LENGTH, 32, generator=generator)


def gradients(backbone: Backbone, z: torch.Tensor, text: torch.Tensor) -> list[torch.Tensor]:
    """The maps and the noise, and both with respect to the text; values that are the text's own negative."""
    context = Context(text.clone().requires_grad_(), -text)
    prefix = backbone.prefix(z, T)
    A = backbone.attention_maps(z, T, context, GRID, prefix)
    eps = backbone.predict(z, T, context, prefix=prefix)
    return [A, eps, *(torch.autograd.grad(out.square().sum(), context.keys)[0] for out in (A, eps))]


@pytest.mark.parametrize(
    "tuning",
    [
        Tuning(channels_last=False),
        Tuning(gradient_checkpointing=True),
        Tuning(fuse_projections=False),
        pytest.param(Tuning(compile=True, gradient_checkpointing=True), marks=pytest.mark.slow),
    ],
    ids=["contiguous", "checkpointing", "apart", "all"],
)
def test_results_and_gradients_stay(tiny, tiny_folder, inputs, tuning, monkeypatch):
    compiled, ran = [], []

    def backend(graph, inputs):
        return lambda *args: ran.append(graph) or graph.forward(*args)

    def compile(function, dynamic):
        compiled.append(function.__self__)
        return torch._dynamo.optimize(backend, dynamic=dynamic)(function)

    monkeypatch.setattr(torch, "compile", compile)
    tuned = load_backbone(str(tiny_folder), tuning=tuning)
    for ours, plain in zip(gradients(tuned, *inputs), gradients(tiny, *inputs), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())
    kinds = {type(block).__name__ for block in compiled}
    blocks = {"TimestepEmbedding", "ResnetBlock2D", "FeedForward", "Downsample2D", "Upsample2D"}
    assert kinds == (blocks if tuning.compile else set())
    prefix = tuned.prefix(inputs[0], T)
    tuned.predict(inputs[0], T, Context.of(inputs[1]), prefix=prefix)
    held = {part for module in prefix.outputs for part in module.modules()}
    ran.clear()
    tuned.predict(inputs[0], T, Context.of(inputs[1].requires_grad_()), prefix=prefix)
    assert len(ran) == len([block for block in compiled if block not in held])  # none has fallen back


def test_fused_projections_are_the_layers_own_weights(tiny, tiny_folder):
    apart = load_backbone(str(tiny_folder), tuning=Tuning(fuse_projections=False))
    assert tiny.unet.state_dict().keys() == apart.unet.state_dict().keys()
    for (name, ours), (_, plain) in zip(tiny.unet.named_parameters(), apart.unet.named_parameters(), strict=True):
        torch.testing.assert_close(ours, plain, msg=name)
    for name, layer in attention_layers(tiny.unet).items():
        text = layer.is_cross_attention
        whole = {tiny.unet.to_keys, tiny.unet.to_values} if text else {layer.to_qkv}
        parts = (layer.to_k, layer.to_v) if text else (layer.to_q, layer.to_k, layer.to_v)
        found = {part.weight.untyped_storage().data_ptr() for part in parts}
        assert found == {weight.untyped_storage().data_ptr() for weight in whole}, name  # no memory of their own


def test_channels_last_is_the_convolutions_layout(tiny, tiny_folder):
    plain = load_backbone(str(tiny_folder), tuning=Tuning(channels_last=False))
    for backbone in (tiny, plain):
        for weight in (backbone.unet.conv_in.weight, backbone.vae.encoder.conv_in.weight):
            assert weight.is_contiguous(memory_format=torch.channels_last) == (backbone is tiny)


@pytest.mark.parametrize("triton", [True, False], ids=["Triton", "no Triton"])
@pytest.mark.parametrize("compile", [True, False], ids=["compiled", "eager"])
@pytest.mark.parametrize("said", [None, True, False])
def test_layout_and_kernels_follow_the_device_unless_the_user_says(tiny_folder, monkeypatch, triton, compile, said):
    monkeypatch.setattr("locinv_pl.networks.tuning.has_triton", lambda: triton)
    backbone = load_backbone(str(tiny_folder))
    unet, vae = backbone.unet, backbone.vae
    norms = [module for module in unet.modules() if isinstance(module, torch.nn.GroupNorm)]

    def laid_out(device: str) -> tuple[bool, bool, set[bool]]:
        seen = SimpleNamespace(weight=SimpleNamespace(device=torch.device(device)))
        shown = SimpleNamespace(conv_in=seen, to=unet.to, modules=unet.modules)
        set_memory_format(shown, vae, Tuning(channels_last=said, compile=compile, fuse_projections=False))
        weights = unet.conv_in.weight, vae.encoder.conv_in.weight
        last = (weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
        return *last, {"forward" in vars(norm) for norm in norms}

    kernels = triton and not compile and said is not False
    assert laid_out("cuda") == (kernels or said is True, said is True and not kernels, {kernels})
    assert laid_out("cpu") == (said is not False, said is not False, {False})  # moved back


def test_moved_networks_hold_their_weights_once(tiny_folder):
    moved = load_backbone(str(tiny_folder)).to("meta")
    before = sum(weight.nbytes for weight in moved.unet.parameters())
    own = {weight.untyped_storage()._cdata: weight.untyped_storage().nbytes() for weight in everything(moved.unet)}
    assert moved.device.type == "meta" and sum(own.values()) == before


def everything(net: torch.nn.Module) -> list[torch.Tensor]:
    """Weights and buffers."""
    return [*net.parameters(), *net.buffers()]


def test_checkpointing_keeps_less_and_restores_the_layers(deep_folder, inputs):
    z, text = inputs
    kept = []
    for tuning in (Tuning(), Tuning(gradient_checkpointing=True)):
        backbone = load_backbone(str(deep_folder), tuning=tuning)
        sizes: list[int] = []

        def pack(x, sizes=sizes):
            sizes.append(x.numel())
            return x

        context = Context.of(text.clone().requires_grad_())
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            eps = backbone.predict(z, T, context)
        eps.sum().backward()
        assert not any("forward" in vars(layer) for layer in attention_layers(backbone.unet).values())
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_leave_what_is_optimized_in_fp32(tiny, tiny_folder, monkeypatch, dtype):
    optimizers = []
    for name in ("Adam", "AdamW"):
        kind = getattr(torch.optim, name)
        monkeypatch.setattr(
            torch.optim, name, lambda *a, kind=kind, **k: optimizers.append(kind(*a, **k)) or optimizers[-1]
        )
    half = load_backbone(str(tiny_folder), dtype)
    records = []
    for backbone in (half, tiny):
        task = prepare(backbone, [make_two_objects("one", 0)], HOW, 4, 8)
        records.append(invert_step(backbone, task, 0, task.start()))
        record = vars(records[-1])
        assert record["null"].dtype == backbone.dtype  # kept as the text encoder makes it, and moved in fp32
        tensors = [task.embeddings, task.plain.keys, task.trajectory, task.schedule.signal]
        tensors += [value for key, value in record.items() if key != "null"]
        kinds = {x.dtype for x in tensors if isinstance(x, torch.Tensor) and x.is_floating_point()}
        assert kinds == {torch.float32}
    state = [x for optimizer in optimizers for row in optimizer.state.values() for x in row.values()]
    assert len(optimizers) == 4 and state and {x.dtype for x in state} == {torch.float32}
    ours, plain = records
    starts = half.encode_null().keys, tiny.encode_null().keys
    moved = [(r.null.float() - start.float()).flatten() for r, start in zip(records, starts, strict=True)]
    assert torch.cosine_similarity(*moved, dim=0) > 0.5  # gradients in half precision still point that way
    assert ours.null_steps.tolist() == plain.null_steps.tolist() == [2]
    torch.testing.assert_close(ours.losses[0, :3], plain.losses[0, :3], rtol=0.05, atol=0.05)


def test_one_thread_unless_the_user_says_how_many(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", (numbers := []).append)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    use_one_thread()
    assert not numbers and os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    use_one_thread()
    assert numbers == [1] and os.environ["OMP_NUM_THREADS"] == "1"
