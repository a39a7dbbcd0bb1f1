"""What a UNet computes before it first looks at the text, once for all passes from one latent.

Time embedding, first convolution, the first residual block, the first self-attention: all of it
depends on z_t and t alone. A :class:`Prefix` holds the outputs of these modules; while it is
replayed the modules answer what they answered before and compute nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn


class PrefixComplete(Exception):
    """Leaves a UNet's forward pass: everything before the text is there."""


class Prefix:
    """The outputs of the modules that need no text, of one batch of latents."""

    def __init__(self, outputs: Mapping[nn.Module, Any]):
        self.outputs = outputs

    @classmethod
    @torch.no_grad()
    def record(cls, modules: Sequence[nn.Module], run: Callable[[], object]) -> Prefix:
        """The outputs of ``modules`` in a pass of the UNet, ``run``, which ends after the last of them."""
        outputs: dict[nn.Module, Any] = {}

        def recorder(module: nn.Module) -> Callable[..., Any]:
            forward = module.forward

            def record(*args: Any, **kwargs: Any) -> Any:
                outputs[module] = forward(*args, **kwargs)
                if len(outputs) == len(modules):
                    raise PrefixComplete
                return outputs[module]

            return record

        with _forwards({module: recorder(module) for module in modules}), suppress(PrefixComplete):
            run()
        return cls(outputs)

    def pick(self, images: Any) -> Prefix:
        """The prefix of some images of the batch."""
        return Prefix({module: _pick(output, images) for module, output in self.outputs.items()})

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Let the modules answer what they did; restores them whatever happens."""
        with _forwards({module: _answer(output) for module, output in self.outputs.items()}):
            yield


@torch.enable_grad()
def modules_before_text(unet: nn.Module, run: Callable[[], object]) -> tuple[nn.Module, ...]:
    """The outermost modules that are through, once and for all, before the first one that sees the text.

    Args:
        unet: with frozen weights.
        run: a pass of the whole UNet from a context that requires gradients: whatever depends on the text does, too.
    """
    before: list[nn.Module] = []
    calls: dict[nn.Module, int] = {}
    text = False

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal text
        calls[module] = calls.get(module, 0) + 1
        text = text or _requires_grad(output)
        if not text:
            before.append(module)

    with ExitStack() as stack:
        for module in unet.modules():
            stack.callback(module.register_forward_hook(hook).remove)
        run()
    inner = {child for module in before for child in module.modules() if child is not module}
    return tuple(module for module in before if module not in inner and calls[module] == 1)


@contextmanager
def _forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Put functions in the place of modules' forward passes."""
    before = {module: vars(module)["forward"] for module in forwards if "forward" in vars(module)}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module in forwards:
            vars(module).pop("forward", None)
        for module, own in before.items():
            vars(module)["forward"] = own


def _answer(output: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: output


def _pick(output: Any, images: Any) -> Any:
    return output[images] if isinstance(output, Tensor) else tuple(_pick(part, images) for part in output)


def _requires_grad(output: Any) -> bool:
    if isinstance(output, Tensor):
        return output.requires_grad
    return any(_requires_grad(part) for part in (output.values() if isinstance(output, dict) else output))
