"""Reading and changing attention: nothing is lost, everything is put back."""

import pytest
import torch

from locinv_pl.networks.attention import Context, CrossAttentionMaps, attention_layers, control_attention, maps_of

GRID = (8, 8)


@pytest.fixture
def inputs(tiny):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 4, 16, 16, generator=generator)
    context = torch.randn(2, 20, 32, generator=generator)
    return z, torch.tensor(500), context


def plain(tiny, inputs):
    z, t, context = inputs
    with torch.no_grad():
        return tiny.unet(z, t, encoder_hidden_states=context).sample


@torch.no_grad()
def test_explicit_attention_equals_diffusers_own(tiny, inputs):
    z, t, context = inputs
    maps = CrossAttentionMaps(GRID)
    with control_attention(tiny.unet, Context.of(context), maps):
        out = tiny.unet(z, t, encoder_hidden_states=context).sample
    torch.testing.assert_close(out, plain(tiny, inputs), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_maps_are_the_mean_over_heads_and_layers_computed_by_hand(tiny, inputs):
    z, t, context = inputs
    seen = []

    def keep(layer, args, kwargs):
        seen.append((layer, args[0]))

    layers = [m for n, m in tiny.unet.named_modules() if n.endswith("attn2")]
    handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers]
    try:
        maps = CrossAttentionMaps(GRID)
        tiny.predict(z, t, Context.of(context), maps)
    finally:
        for handle in handles:
            handle.remove()
    expected = []
    for layer, hidden in seen:
        if hidden.shape[1] != 64:
            continue
        q, k = layer.to_q(hidden), layer.to_k(context)
        for h in range(layer.heads):
            part = slice(h * q.shape[-1] // layer.heads, (h + 1) * q.shape[-1] // layer.heads)
            scores = torch.einsum("bnd,bld->bnl", q[..., part], k[..., part]) * layer.scale
            expected.append(scores.exp() / scores.exp().sum(-1, keepdim=True))
    assert len(expected) > layers[0].heads  # more than one layer was read
    torch.testing.assert_close(maps.A.flatten(1, 2), torch.stack(expected).mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(maps.A.sum(-1), torch.ones(2, 8, 8))


def test_maps_of_the_shortened_pass_are_the_full_pass_s_with_gradients(tiny, inputs):
    z, t, context = inputs
    full, short = (context.clone().requires_grad_() for _ in range(2))
    maps = CrossAttentionMaps(GRID)
    tiny.predict(z, t, Context.of(full), maps)
    A = tiny.attention_maps(z, t, Context.of(short), GRID)
    torch.testing.assert_close(A, maps.A)
    maps.A.square().sum().backward()
    A.square().sum().backward()
    torch.testing.assert_close(short.grad, full.grad)


def test_the_shortened_pass_leaves_out_the_rest(tiny, inputs):
    z, t, context = inputs
    tiny.attention_maps(z, t, Context.of(context), GRID)  # counts the layers, once
    ran = []
    handle = tiny.unet.conv_out.register_forward_hook(lambda *_: ran.append(1))
    try:
        tiny.attention_maps(z, t, Context.of(context), GRID)
    finally:
        handle.remove()
    assert not ran


def test_layers_are_restored_also_after_an_exception(tiny, inputs):
    layers = attention_layers(tiny.unet).values()
    with pytest.raises(RuntimeError, match="on purpose"), control_attention(tiny.unet, Context.of(inputs[-1])):
        assert all("forward" in vars(layer) for layer in layers)
        raise RuntimeError("on purpose")
    assert layers and not any("forward" in vars(layer) for layer in layers)


@torch.no_grad()
def test_values_of_their_own_move_the_output_and_not_the_first_map(tiny, inputs):
    z, t, context = inputs

    class First(CrossAttentionMaps):
        pass

    def first_map(values):
        maps = First(GRID, stop_after=1)
        try:
            tiny.predict(z, t, Context(context, values), maps)
        except Exception as stop:
            assert type(stop).__name__ == "MapsComplete"
        return maps.A

    torch.testing.assert_close(first_map(context), first_map(-context), rtol=0, atol=0)
    same = tiny.predict(z, t, Context(context, context))
    other = tiny.predict(z, t, Context(context, -context))
    torch.testing.assert_close(same, plain(tiny, inputs), rtol=1e-4, atol=1e-5)
    assert (same - other).abs().max() > 1e-3


@torch.no_grad()
def test_a_hook_can_change_attention(tiny, inputs):
    z, t, context = inputs

    class Uniform(CrossAttentionMaps):
        def __call__(self, probs, layer):
            return torch.full_like(super().__call__(probs, layer), 1 / probs.shape[-1])

    changed = tiny.predict(z, t, Context.of(context), Uniform(GRID))
    assert (changed - plain(tiny, inputs)).abs().max() > 1e-4


def test_map_of_a_word_is_the_mean_over_its_tokens():
    A = torch.rand(1, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[[0, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 1.0]]])
    words = maps_of(A, weights)
    torch.testing.assert_close(words[0, 0], (A[0, ..., 1] + A[0, ..., 2]) / 2)
    torch.testing.assert_close(words[0, 1], A[0, ..., 4])


def test_a_resolution_without_attention_is_said(tiny, inputs):
    maps = CrossAttentionMaps((3, 3))
    with pytest.raises(RuntimeError, match="3x3"):
        _ = maps.A
