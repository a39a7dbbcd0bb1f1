"""CUDA graphs of whole passes, for batches so small that starting their kernels takes longer than running them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from locinv_pl.errors import one_line
from locinv_pl.networks.attention import Context
from locinv_pl.networks.prefix import Prefix

Pass = Callable[[Tensor, Tensor, Context, Prefix | None], Any]
"""A pass of a UNet: of z (B, C, h, w), t, a context and, maybe, a prefix, which it fills."""

LARGEST = 8
"""Images in a batch, at most: every recording keeps memory of its own for all that it computes."""


class Graphs:
    """Records functions of tensors and their gradients, once for every kind of input, and replays them.

    They are made while more than half of the device's memory is free; what isn't recorded runs as it is.
    """

    def __init__(self) -> None:
        self._recorded: dict[Hashable, Callable[..., Any] | None] = {}
        self._replays: Counter[Hashable] = Counter()

    def __call__(self, what: Hashable, function: Callable[..., Any], *inputs: Any) -> Any:
        """function(*inputs), differentiable once, before the next call of its kind.

        Args:
            what: names the function; calls of one name differ by nothing but the tensors of their inputs.
            function: answers tensors, in tuples and dicts, and never waits for the device.
            inputs: tensors on the device, in tuples and dicts; their shapes, types and need of gradients make a kind.

        Returns:
            tensors of their own, which later calls leave alone.

        Raises:
            RuntimeError: gradients were asked for after another call of this kind.
        """
        leaves, spec = tree_flatten(inputs)
        place = {leaf: n for n, leaf in enumerate(dict.fromkeys(leaves))}  # keys and values may be one tensor
        places = tuple(place[leaf] for leaf in leaves)

        def of_tensors(*tensors: Tensor) -> Any:
            return function(*tree_unflatten([tensors[place] for place in places], spec))

        return self._replay((what, places), of_tensors, *place)

    def _replay(self, what: Hashable, function: Callable[..., Any], *inputs: Tensor) -> Any:
        needs = [x.requires_grad and torch.is_grad_enabled() for x in inputs]
        kind = what, *((x.shape, x.dtype, need) for x, need in zip(inputs, needs, strict=True))
        if kind not in self._recorded:
            samples = tuple(x.detach().clone().requires_grad_(need) for x, need in zip(inputs, needs, strict=True))
            with torch.cuda.device_of(inputs[0]):
                self._recorded[kind] = _record(function, samples) if _has_room() else None
        replay = self._recorded[kind]
        if replay is None:
            return function(*inputs)
        self._replays[kind] += 1
        number = self._replays[kind]

        def check(gradient: Tensor) -> None:
            if self._replays[kind] != number:
                raise RuntimeError(
                    "this pass was replayed since, and what its gradients need is gone; "
                    "take them first, or set tuning.cuda_graphs=false"
                )

        answer = tree_map(Tensor.clone, replay(*inputs))  # the next replay writes where this one did
        for tensor in tree_leaves(answer):
            if tensor.requires_grad:
                tensor.register_hook(check)
        return answer


def run_pass(
    graphs: Graphs | None, what: Hashable, run: Pass, z: Tensor, t: Tensor, context: Context, prefix: Prefix | None
) -> Any:
    """run(z, t, context, prefix), replayed where there are graphs.

    A recording knows tensors alone, those that it is given and those that it answers. So it is given what the prefix
    holds, and answers what the pass adds to it.

    Args:
        graphs: what records; None runs the pass as it is.
        what: names the pass among all of ``graphs``.
        run: the pass.
        z: latents (B, C, h, w).
        t: timestep, scalar or (B,).
        context: keys and values, (B, L, D) each.
        prefix: of z and t; the pass may fill it.

    Returns:
        what ``run`` answers.
    """
    if graphs is None:
        return run(z, t, context, prefix)
    if prefix is None:
        return graphs(
            (what, None), lambda z, t, text: run(z, t, Context(*text), None), z, t.to(z.device), context.tensors
        )

    modules = prefix.modules

    def of_tensors(z: Tensor, t: Tensor, text: tuple[Tensor, ...], known: dict[nn.Module, Any]) -> Any:
        own = Prefix(modules, dict(known))
        answer = run(z, t, Context(*text), own)
        return answer, {module: output for module, output in own.outputs.items() if module not in known}

    kind = what, tuple(prefix.outputs)
    answer, added = graphs(kind, of_tensors, z, t.to(z.device), context.tensors, prefix.outputs)
    prefix.outputs |= tree_map(Tensor.detach, added)
    return answer


def _record(function: Callable[..., Any], samples: tuple[Tensor, ...]) -> Callable[..., Any] | None:
    """A replay; None where the function can't be recorded."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # that of the rehearsals
            return torch.cuda.make_graphed_callables(function, samples)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # another thread used the device meanwhile, or an operation waits for it
        warnings.warn(f"a pass can't be recorded ({one_line(str(error))}); it runs kernel by kernel", stacklevel=2)
        return None


def _has_room() -> bool:
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return free > total / 2
