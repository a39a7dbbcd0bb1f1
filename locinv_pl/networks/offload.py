"""Networks that wait on the CPU until they are needed, and large text encoders with quantised weights."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from locinv_pl.errors import InputError

LARGE = "T5EncoderModel"
QUANTIZERS = {
    "bitsandbytes_4bit": (("bitsandbytes", "accelerate"), 4),
    "torchao_int8": (("torchao",), 8),
    "quanto_int8": (("optimum.quanto", "accelerate"), 8),
}
"""By name the libraries that it needs, and the bits of a weight."""


class Offload:
    """Keeps on a device the networks that are needed there, and all others on the CPU.

    As accelerate's ``cpu_offload_with_hook``, which diffusers' ``enable_model_cpu_offload`` makes use of, but that
    several networks may be needed at one time: gradients of a token go through the denoiser and the text encoders.

    Args:
        device: where networks compute.
    """

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)
        self.there: list[nn.Module] = []
        self.held: tuple[nn.Module, ...] = ()  # stay until others are: gradients go through them

    def use(self, *networks: nn.Module, beside: bool = False) -> bool:
        """Bring networks to the device.

        Args:
            networks: that are needed.
            beside: whether those that are there stay; else they leave, but for those that are ``held``.

        Returns:
            whether one of them has moved.
        """
        stays = self.there if beside else [*networks, *self.held]
        leaving = [net for net in self.there if net not in stays]
        coming = [net for net in networks if net not in self.there]
        for net in leaving:
            self._move(net, torch.device("cpu"))
        if leaving and self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.there = [net for net in self.there if net not in leaving] + coming
        for net in coming:
            self._move(net, self.device)
        return bool(coming)

    def _move(self, net: nn.Module, device: torch.device) -> None:
        nn.Module.to(net, device)  # diffusers' own talks about half precision on a CPU


def check_quantizer(name: str) -> None:
    """Whether there is such a way to quantise weights.

    Args:
        name: of :data:`QUANTIZERS`.

    Raises:
        InputError: there is none.
    """
    if name not in QUANTIZERS:
        raise InputError(f"model.quantize={name}: is none of {', '.join(QUANTIZERS)}")


def quantization(name: str, dtype: torch.dtype) -> Any:
    """The configuration by which transformers quantises a network's weights while it loads them.

    Args:
        name: of :data:`QUANTIZERS`.
        dtype: that products are computed in.

    Raises:
        InputError: there is no such name, or a library that it needs isn't installed.
    """
    check_quantizer(name)
    missing = [library for library in QUANTIZERS[name][0] if not _is_installed(library)]
    if missing:
        packages = " ".join(library.replace(".", "-") for library in missing)
        raise InputError(f"model.quantize={name}: needs {packages}, which isn't installed; pip install {packages}")
    import transformers

    if name == "bitsandbytes_4bit":
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    if name == "quanto_int8":
        return transformers.QuantoConfig(weights="int8")
    from torchao.quantization import Int8WeightOnlyConfig

    return transformers.TorchAoConfig(Int8WeightOnlyConfig())


def _is_installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # the package around it
        return False
