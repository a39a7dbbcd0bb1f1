"""Triton kernels for what PyTorch does slowly on a GPU: group normalisation with channels last, and GEGLU.

PyTorch's group normalisation turns images with channels last round, and back, and its GEGLU walks through halves of
rows number by number. Here the activation comes with the normalisation, in one pass, and everything is recomputed from
the input for the gradients. These are those of the input alone: the networks' weights are frozen.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = tl.constexpr(64)
"""Channels of a tile; its pixels are ROWS, up to 64, all of one image."""


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool) -> Tensor:
    """Group normalisation (Wu and He, arXiv 1803.08494), then SiLU if asked for; statistics in fp32.

    Args:
        x: (B, C, h, w); with channels last in memory nothing is copied.
        groups: that C is divided into.
        weight: (C,), without gradients.
        bias: (C,), without gradients.
        eps: added to a group's variance.
        silu: whether y σ(y) comes after the normalisation.

    Returns:
        shape and type of x, channels last.
    """
    return _GroupNorm.apply(x, groups, weight, bias, eps, silu)


def geglu(h: Tensor) -> Tensor:
    """V · GELU(g) (Shazeer, GLU Variants Improve Transformer, arXiv 2002.05202).

    Args:
        h: (v, g) along the last dimension, (..., 2 F).

    Returns:
        (..., F), type of h.
    """
    return _GEGLU.apply(h)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        mean, within = _of_chunks(_moments, x, groups, x)
        between, mean = torch.var_mean(mean, (1, 3), correction=0)
        rstd = (within.mean((1, 3)) + between + eps).rsqrt()
        y = torch.empty_like(x)
        _launch(_normalize, x, groups, x, y, mean, rstd, weight, bias, SILU=silu)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        ctx.groups, ctx.silu = groups, silu
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight, bias = ctx.saved_tensors
        dy = grads[0].contiguous(memory_format=torch.channels_last)
        known = (x, dy, mean, rstd, weight, bias)
        sums = _of_chunks(_gradient_moments, x, ctx.groups, *known, SILU=ctx.silu).mean((2, 4))
        dx = torch.empty_like(x)
        _launch(_gradient, x, ctx.groups, *known, sums[0], sums[1], dx, SILU=ctx.silu)
        return dx, None, None, None, None, None


class _GEGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        h = h.contiguous()
        out = h.new_empty(*h.shape[:-1], h.shape[-1] // 2)
        _launch_rows(_geglu, h, out)
        ctx.save_for_backward(h)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors
        dh = torch.empty_like(h)
        _launch_rows(_geglu_gradient, h, dh, grads[0].contiguous())
        return dh


def _rows(x: Tensor) -> int:
    """Pixels of a tile: a power of two that divides an image's."""
    pixels = x.shape[2] * x.shape[3]
    return min(64, pixels & -pixels)


def _launch(kernel: Any, x: Tensor, groups: int, *tensors: Tensor, **options: Any) -> None:
    B, C, h, w = x.shape
    grid = (B * h * w // _rows(x), triton.cdiv(C, COLUMNS.value))
    with torch.cuda.device_of(x):
        kernel[grid](*tensors, h * w, C, groups, ROWS=_rows(x), **options)


def _of_chunks(kernel: Any, x: Tensor, groups: int, *tensors: Tensor, **options: Any) -> Tensor:
    """Two numbers for every channel of every tile: (2, B, tiles, groups, C / groups)."""
    B, C, h, w = x.shape
    out = x.new_empty(2, B * h * w // _rows(x), C, dtype=torch.float32)
    _launch(kernel, x, groups, *tensors, out, **options)
    return out.view(2, B, -1, groups, C // groups)


def _launch_rows(kernel: Any, h: Tensor, *tensors: Tensor) -> None:
    width = h.shape[-1] // 2
    rows = h.numel() // (2 * width)
    with torch.cuda.device_of(h):
        kernel[triton.cdiv(rows, 8), triton.cdiv(width, 128)](h, *tensors, rows, width, ROWS=8, COLS=128)


@triton.jit
def _tile(C, ROWS: tl.constexpr):
    """This program's channels (COLUMNS,), which of them there are, and where its numbers lie, (ROWS, COLUMNS)."""
    pixels = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channels = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    return channels, channels < C, pixels[:, None] * C + channels[None, :]


@triton.jit
def _store_two(out, first, second, channels, real, C):
    """Two numbers of every channel of this tile."""
    chunk, chunks = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    tl.store(out + chunk * C + channels, first, mask=real)
    tl.store(out + (chunks + chunk) * C + channels, second, mask=real)


@triton.jit
def _moments(x, out, HW, C, groups, ROWS: tl.constexpr):
    """Mean and variance of every channel in this tile."""
    channels, real, at = _tile(C, ROWS)
    values = tl.load(x + at, mask=real[None, :], other=0).to(tl.float32)
    mean = tl.sum(values, 0) / ROWS
    centred = values - mean[None, :]
    _store_two(out, mean, tl.sum(centred * centred, 0) / ROWS, channels, real, C)


@triton.jit
def _of_groups(statistic, channels, real, HW, C, groups, ROWS: tl.constexpr):
    """A number (B, groups) for each of the channels of this tile."""
    image = tl.program_id(0) * ROWS // HW
    return tl.load(statistic + image * groups + channels // (C // groups), mask=real, other=0)


@triton.jit
def _standardized(x, mean, rstd, weight, bias, HW, C, groups, ROWS: tl.constexpr):
    """x̂ = (x - μ) / σ, its weights and y = w x̂ + b, and 1 / σ, in this tile."""
    channels, real, at = _tile(C, ROWS)
    values = tl.load(x + at, mask=real[None, :], other=0).to(tl.float32)
    mu = _of_groups(mean, channels, real, HW, C, groups, ROWS)
    r = _of_groups(rstd, channels, real, HW, C, groups, ROWS)
    w = tl.load(weight + channels, mask=real, other=0).to(tl.float32)
    b = tl.load(bias + channels, mask=real, other=0).to(tl.float32)
    standard = (values - mu[None, :]) * r[None, :]
    return standard, w, standard * w[None, :] + b[None, :], r


@triton.jit
def _normalize(x, out, mean, rstd, weight, bias, HW, C, groups, ROWS: tl.constexpr, SILU: tl.constexpr):
    channels, real, at = _tile(C, ROWS)
    standard, w, y, r = _standardized(x, mean, rstd, weight, bias, HW, C, groups, ROWS)
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(out + at, y, mask=real[None, :])


@triton.jit
def _to_standardized(x, dy, mean, rstd, weight, bias, HW, C, groups, ROWS: tl.constexpr, SILU: tl.constexpr):
    """The gradient of x̂, u = w dy SiLU'(y); x̂; and 1 / σ, in this tile."""
    channels, real, at = _tile(C, ROWS)
    standard, w, y, r = _standardized(x, mean, rstd, weight, bias, HW, C, groups, ROWS)
    u = tl.load(dy + at, mask=real[None, :], other=0).to(tl.float32) * w[None, :]
    if SILU:
        s = tl.sigmoid(y)
        u = u * s * (1 + y * (1 - s))
    return u, standard, r


@triton.jit
def _gradient_moments(x, dy, mean, rstd, weight, bias, out, HW, C, groups, ROWS: tl.constexpr, SILU: tl.constexpr):
    """Mean of u and of u x̂ for every channel in this tile."""
    channels, real, at = _tile(C, ROWS)
    u, standard, r = _to_standardized(x, dy, mean, rstd, weight, bias, HW, C, groups, ROWS, SILU)
    _store_two(out, tl.sum(u, 0) / ROWS, tl.sum(u * standard, 0) / ROWS, channels, real, C)


@triton.jit
def _gradient(
    x, dy, mean, rstd, weight, bias, mean_u, mean_ux, dx, HW, C, groups, ROWS: tl.constexpr, SILU: tl.constexpr
):
    """Dx = (u - mean u - x̂ mean u x̂) / σ, means over the group."""
    channels, real, at = _tile(C, ROWS)
    u, standard, r = _to_standardized(x, dy, mean, rstd, weight, bias, HW, C, groups, ROWS, SILU)
    a = _of_groups(mean_u, channels, real, HW, C, groups, ROWS)
    c = _of_groups(mean_ux, channels, real, HW, C, groups, ROWS)
    tl.store(dx + at, (u - a[None, :] - standard * c[None, :]) * r[None, :], mask=real[None, :])


@triton.jit
def _halves(h, rows, width, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Where this tile's numbers lie in (rows, width) and in h, which of them there are, and v, g, Φ(g) in fp32."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    real = (row < rows) & (col < width)
    at = row * 2 * width + col
    v = tl.load(h + at, mask=real, other=0).to(tl.float32)
    g = tl.load(h + at + width, mask=real, other=0).to(tl.float32)
    return row * width + col, at, real, v, g, 0.5 * (1 + tl.erf(g * 0.7071067811865476))


@triton.jit
def _geglu(h, out, rows, width, ROWS: tl.constexpr, COLS: tl.constexpr):
    """V g Φ(g)."""
    to, at, real, v, g, phi = _halves(h, rows, width, ROWS, COLS)
    tl.store(out + to, v * g * phi, mask=real)


@triton.jit
def _geglu_gradient(h, dh, dout, rows, width, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Φ' is the normal density."""
    to, at, real, v, g, phi = _halves(h, rows, width, ROWS, COLS)
    d = tl.load(dout + to, mask=real, other=0).to(tl.float32)
    tl.store(dh + at, d * g * phi, mask=real)
    tl.store(dh + at + width, d * v * (phi + g * tl.exp(-0.5 * g * g) * 0.3989422804014327), mask=real)
