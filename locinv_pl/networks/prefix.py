"""What a UNet computes without looking at the text, once for all passes from one latent.

Time embedding and its projections, first convolution, first residual block, first self-attention: all
of it depends on z_t and t alone. A :class:`Prefix` keeps what these modules answered the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from locinv_pl.networks.forwards import Forward, own_forwards, use_forwards


class Prefix:
    """The answers of modules that need no text, for one batch of latents; empty before its first pass.

    Args:
        modules: as :func:`modules_without_text` finds them.
        outputs: what some of them have answered.
        other: a further one, for the same latents.
    """

    def __init__(
        self, modules: Sequence[nn.Module], outputs: dict[nn.Module, Any] | None = None, other: Prefix | None = None
    ):
        self.modules = modules
        self.outputs = {} if outputs is None else outputs
        self.other = other

    def pick(self, images: Any) -> Prefix:
        """The prefix of some images of the batch.

        Args:
            images: numbers (b,) or a mask (B,).
        """
        other = self.other and self.other.pick(images)
        return Prefix(self.modules, tree_map(lambda output: output[images], self.outputs), other)

    def beside(self, modules: Sequence[nn.Module]) -> Prefix:
        """A further prefix for the same latents, of modules that look at a text which stays as it is.

        Args:
            modules: that answer once and the same ever after; always the same ones.
        """
        if self.other is None:
            self.other = Prefix(modules)
        return self.other

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Let the modules compute once and answer the same ever after; restores them whatever happens."""
        with use_forwards({module: self._once(module, module.forward) for module in self.modules}):
            yield

    def _once(self, module: nn.Module, forward: Forward) -> Forward:
        def answer(*args: Any, **kwargs: Any) -> Any:
            if module not in self.outputs:
                with torch.no_grad():
                    self.outputs[module] = forward(*args, **kwargs)
            return self.outputs[module]

        return answer


@torch.enable_grad()
def modules_without_text(unet: nn.Module, run: Callable[[], object]) -> tuple[nn.Module, ...]:
    """The outermost modules whose output doesn't depend on the text; none from within a compiled block.

    Args:
        unet: with frozen weights.
        run: a pass of the whole UNet from a context that requires gradients: whatever depends on the text does, too.

    Returns:
        those that run once in a pass.
    """
    compiled = own_forwards(unet.modules())
    inside = {child for block in compiled for child in block.modules() if child is not block}
    calls: dict[nn.Module, int] = {}
    text: set[nn.Module] = set()

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(output)):
            text.add(module)

    with ExitStack() as stack:
        for module in set(unet.modules()) - inside:
            stack.callback(module.register_forward_hook(hook).remove)
        run()
    without = [module for module in calls if module not in text]
    inner = {child for module in without for child in module.modules() if child is not module}
    return tuple(module for module in without if module not in inner and calls[module] == 1)
