"""How the networks are run, not what they compute: memory format, compiled blocks, recomputed activations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._triton import has_triton  # knows which GPUs it can serve
from torch.utils.checkpoint import checkpoint

from locinv_pl.networks.attention import attention_layers, fuse_projections
from locinv_pl.networks.forwards import own_forwards, set_forwards, use_forwards
from locinv_pl.networks.fused import fused_forwards


@dataclass(frozen=True)
class Tuning:
    """What changes results by rounding at most.

    Args:
        channels_last: whether UNet and VAE take ``torch.channels_last`` as their memory format. On a GPU this needs
            Triton, whose kernels then also take the place of the UNet's group normalisations and gated units:
            PyTorch's own would copy everything into the other format, and back. None takes it wherever it pays: on
            CPUs, and on GPUs with Triton.
        compile: torch.compile of every block without attention, for the shapes that it meets; the first passes take
            minutes. Attention itself stays as it is: it is read and changed. Compiled blocks take the place of
            Triton's kernels.
        gradient_checkpointing: the UNet keeps the inputs of its blocks alone and computes the rest once more for the
            gradients: about a third more time, a fraction of the memory.
        cuda_graphs: on a GPU, passes of up to eight images are recorded once and replayed: starting their kernels one
            by one takes longer than running them. Not with autocast, compile or gradient_checkpointing. Set
            it to false where ``data.pin_memory`` is true: that thread may use the device while a pass is recorded.
        fuse_projections: one matrix product for attention's projections of one input, hidden states or text.
    """

    channels_last: bool | None = None
    compile: bool = False
    gradient_checkpointing: bool = False
    cuda_graphs: bool = True
    fuse_projections: bool = True


def tune(unet: Any, vae: Any, tuning: Tuning) -> None:
    """Set the networks up in place.

    Args:
        unet: diffusers' UNet2DConditionModel.
        vae: diffusers' AutoencoderKL.
        tuning: how they are to run.
    """
    set_memory_format(unet, vae, tuning)
    if tuning.compile:
        torch._dynamo.config.recompile_limit = 1024  # shared by all blocks of a kind; beyond it nothing is compiled
        torch._dynamo.config.accumulated_recompile_limit = 1024
        for block in _without_attention(unet):
            block.forward = torch.compile(block.forward, dynamic=False)
    checkpoint_blocks(unet, tuning)


def checkpoint_blocks(denoiser: Any, tuning: Tuning) -> None:
    """Let a denoiser keep the inputs of its blocks alone, where it is to.

    Args:
        denoiser: of diffusers, a UNet or a transformer.
        tuning: how it is to run.
    """
    if tuning.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing(_checkpoint)


def set_memory_format(unet: Any, vae: Any, tuning: Tuning) -> None:
    """Set what depends on the device: the memory format, the kernels that go with it, the fused projections.

    Networks that move to another device need it again; moving also undoes the fused projections.

    Args:
        unet: diffusers' UNet2DConditionModel.
        vae: diffusers' AutoencoderKL.
        tuning: how they are to run.
    """
    on_gpu = unet.conv_in.weight.device.type == "cuda"
    fused = on_gpu and not tuning.compile and tuning.channels_last is not False and has_triton()
    last = (fused or not on_gpu) if tuning.channels_last is None else tuning.channels_last
    for net, turned in ((unet, last), (vae, last and not fused)):
        net.to(memory_format=torch.channels_last if turned else torch.contiguous_format)
    set_forwards(fused_forwards(unet), fused)
    if tuning.fuse_projections:
        fuse_projections(unet)


def use_one_thread() -> None:
    """Compute with one thread of the CPU, in this process and those that it starts, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


def _without_attention(module: nn.Module) -> Iterator[Any]:
    """The outermost blocks of several layers that hold no attention and don't checkpoint their own parts."""
    for child in module.children():
        if attention_layers(child) or isinstance(child, nn.ModuleList) or hasattr(child, "gradient_checkpointing"):
            yield from _without_attention(child)
        elif any(True for _ in child.children()):
            yield child


def _checkpoint(module: nn.Module, *args: Any) -> Any:
    """A block that is computed again for its gradients, then with the forward passes of the first time."""
    now = own_forwards(module.modules())
    return checkpoint(module, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), use_forwards(now)))
