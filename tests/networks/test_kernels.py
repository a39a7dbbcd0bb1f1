"""What runs on GPUs in place of PyTorch's own passes is the same function, with the same gradients."""

import pytest
import torch
import torch.nn.functional as F
from conftest import LENGTH
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D

from locinv_pl.networks.attention import Context
from locinv_pl.networks.forwards import set_forwards
from locinv_pl.networks.fused import fused_forwards
from locinv_pl.networks.loading import load_backbone

kernels = pytest.importorskip("locinv_pl.networks.kernels", reason="needs Triton", exc_type=ImportError)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISION = {torch.float32: 2e-6, torch.float16: 1e-3}


def assert_close(ours: torch.Tensor, exact: torch.Tensor) -> None:
    """Within a few roundings of the largest number."""
    assert ours.shape == exact.shape
    assert (ours - exact).abs().max() <= PRECISION[ours.dtype] * exact.abs().max()


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("silu", [True, False], ids=["SiLU", "alone"])
@pytest.mark.parametrize(
    "shape, groups",
    [((2, 64, 8, 8), 32), ((1, 20, 6, 4), 4), ((1, 8, 3, 5), 4), ((3, 130, 16, 8), 10)],
    ids=["square", "few channels", "odd sides", "channels of two tiles"],
)
def test_group_norm_is_pytorchs(shape, groups, silu, dtype):
    draw = torch.Generator().manual_seed(0)
    x, dy = ((torch.randn(shape, generator=draw) * 3 + 20).to(DEVICE, dtype) for _ in range(2))  # far from 0
    weight, bias = (torch.randn(shape[1], generator=draw).to(DEVICE, dtype) for _ in range(2))
    exact = x.double().requires_grad_()
    expected = F.group_norm(exact, groups, weight.double(), bias.double(), 1e-5)
    expected = F.silu(expected) if silu else expected

    x.requires_grad_()
    y = kernels.group_norm(x, groups, weight, bias, 1e-5, silu)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert_close(y, expected)
    (dx,), (exact_dx,) = torch.autograd.grad(y, x, dy), torch.autograd.grad(expected, exact, dy.double())
    assert (dx - exact_dx).abs().max() <= PRECISION[dtype] * dy.abs().max()  # of what was added up to it


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 300), (9, 256), (1, 2)], ids=str)
def test_geglu_is_its_formula(shape, dtype):
    draw = torch.Generator().manual_seed(0)
    h = (torch.randn(shape, generator=draw) * 2).to(DEVICE, dtype)
    exact = h.double().requires_grad_()
    v, g = exact.chunk(2, dim=-1)
    expected = v * g * (1 + torch.erf(g / 2**0.5)) / 2
    d = torch.randn(expected.shape, generator=draw).to(DEVICE, dtype)

    out = kernels.geglu(h.requires_grad_())
    assert out.dtype == dtype
    assert_close(out, expected)
    assert_close(torch.autograd.grad(out, h, d)[0], torch.autograd.grad(expected, exact, d.double())[0])


def test_a_unet_of_them_gives_the_same_maps_noise_and_gradients(tiny_folder):
    backbone = load_backbone(str(tiny_folder), device=DEVICE)
    draw = torch.Generator().manual_seed(0)
    z, text = (torch.randn(shape, generator=draw).to(DEVICE) for shape in ((1, 4, 8, 8), (1, LENGTH, 32)))
    t = torch.tensor(500, device=DEVICE)

    def results() -> list[torch.Tensor]:
        context, prefix = Context(text.clone().requires_grad_(), -text), backbone.prefix(z, t)
        A = backbone.attention_maps(z, t, context, (4, 4), prefix)
        eps = backbone.predict(z, t, context, prefix=prefix)
        return [A, eps, *(torch.autograd.grad(out.square().sum(), context.keys)[0] for out in (A, eps))]

    forwards = fused_forwards(backbone.unet)
    set_forwards(forwards, on=False)
    plain, prefix = results(), backbone.prefix(z, t).modules
    backbone._without_text = None
    set_forwards(forwards)
    for fused, expected in zip(results(), plain, strict=True):
        torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert set(backbone.prefix(z, t).modules) == set(prefix)  # as much is computed once

    blocks = [module for module in backbone.unet.modules() if isinstance(module, ResnetBlock2D)]
    kinds = torch.nn.GroupNorm, GEGLU
    replaced = {module for module in backbone.unet.modules() if isinstance(module, kinds)}
    assert blocks and replaced | {block.nonlinearity for block in blocks} <= set(forwards)
    set_forwards(forwards, on=False)
    assert not any("forward" in vars(module) for module in backbone.unet.modules())
