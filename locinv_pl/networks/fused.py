"""Forward passes of a UNet's modules for a GPU: the same functions in fewer passes over memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from locinv_pl.networks.forwards import Forward


def fused_forwards(unet: Any) -> dict[nn.Module, Forward]:
    """For images with channels last: normalisation and activation in one, gated units in one, 1x1 as products.

    Args:
        unet: diffusers' UNet2DConditionModel; it stays as it is.

    Returns:
        what to call in place of the forward passes of some modules of the UNet.
    """
    forwards: dict[nn.Module, Forward] = {}
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm) and module.affine:
            forwards[module] = partial(_group_norm, module, silu=False)
        elif isinstance(module, GEGLU):
            forwards[module] = partial(_geglu, module)
        elif isinstance(module, nn.Conv2d) and module.kernel_size == module.stride == (1, 1) and module.groups == 1:
            forwards[module] = partial(_product, module)
    for block in unet.modules():
        if isinstance(block, ResnetBlock2D) and _is_plain(block):
            for norm in (block.norm1, block.norm2):
                forwards[norm] = partial(_group_norm, norm, silu=True)
            forwards[block.nonlinearity] = _same
            forwards[block.time_emb_proj] = partial(_after_silu, block.time_emb_proj)
    return forwards


def _is_plain(block: Any) -> bool:
    """SiLU after both norms and before the projection of the time embedding, which is added, and nowhere else."""
    silu = isinstance(block.nonlinearity, nn.SiLU) and not block.skip_time_act
    return silu and block.time_emb_proj is not None and block.time_embedding_norm == "default"


def _group_norm(norm: nn.GroupNorm, x: Tensor, silu: bool) -> Tensor:
    from locinv_pl.networks.kernels import group_norm  # needs Triton

    return group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu)


def _geglu(layer: Any, hidden_states: Tensor) -> Tensor:
    from locinv_pl.networks.kernels import geglu  # needs Triton

    return geglu(layer.proj(hidden_states))


def _product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution, with its bias added by the matrix product itself."""
    return F.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


def _after_silu(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(F.silu(x), layer.weight, layer.bias)


def _same(x: Tensor) -> Tensor:
    return x
