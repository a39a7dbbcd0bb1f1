"""Other forward passes for a network's modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

Forward = Callable[..., Any]


@contextmanager
def use_forwards(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Put functions in the place of modules' forward passes; restores theirs whatever happens.

    Args:
        forwards: by module what is called in place of its ``forward``.
    """
    before = own_forwards(forwards)
    try:
        set_forwards(forwards)
        yield
    finally:
        set_forwards(forwards, on=False)
        set_forwards(before)


def set_forwards(forwards: Mapping[nn.Module, Forward], on: bool = True) -> None:
    """Put functions in the place of modules' forward passes for good, or take such away again.

    Args:
        forwards: by module what is called in place of its ``forward``.
        on: False takes them away; the modules then have their class's own.
    """
    for module, forward in forwards.items():
        vars(module).pop("forward", None)
        if on:
            vars(module)["forward"] = forward


def own_forwards(modules: Iterable[nn.Module]) -> dict[nn.Module, Forward]:
    """The functions that are in the place of modules' forward passes now, where there are any.

    Args:
        modules: to look at.
    """
    return {module: vars(module)["forward"] for module in modules if "forward" in vars(module)}
