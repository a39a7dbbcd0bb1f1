"""How far work on an image has come, told after every timestep.

What takes a while is a generator that yields after every timestep. Closing it is cancelling. Those for users yield
:class:`Progress`, the last one with what has been made, and :func:`last_result` runs them to their end; those within
the package return what they have made, and :func:`finish` does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor

Made = TypeVar("Made")
Phase = Literal["invert", "optimize", "edit"]


@dataclass(frozen=True, eq=False)
class Progress(Generic[Made]):
    """One timestep done.

    Args:
        phase: "invert", the DDIM inversion; "optimize", tokens and null text; or "edit".
        step: how many timesteps of the phase are done, 1 to ``total``.
        total: of the phase, T.
        seconds: since the work began, over all phases.
        maps: of every noun, the mean over the phase's timesteps so far, (K, r, c); None where none are read.
        latents: z of the n edits after the timestep, (n, C, h, w), on the backbone's device; of the phase "edit" alone.
        result: what has been made; None but in the last one.
    """

    phase: Phase
    step: int
    total: int
    seconds: float
    maps: Tensor | None = None
    latents: Tensor | None = None
    result: Made | None = None


def nothing() -> None:
    """Do nothing: what happens after a timestep where nobody asks for more."""


def finish(steps: Generator[Any, None, Made], after_each: Callable[[], None] = nothing) -> Made:
    """Run a generator to its end.

    Args:
        steps: yields after every timestep.
        after_each: called then; an exception that it raises closes the generator.

    Returns:
        what the generator returns.

    >>> def count():
    ...     yield from range(3)
    ...     return "made"
    >>> finish(count())
    'made'
    """
    try:
        while True:
            try:
                next(steps)
            except StopIteration as end:
                made: Made = end.value
                return made
            after_each()
    finally:
        steps.close()


def last_result(steps: Iterable[Progress[Made]], after_each: Callable[[], None] = nothing) -> Made:
    """Run to the end what tells its progress.

    Args:
        steps: one or more.
        after_each: called after each of them.

    Returns:
        the last one's result.

    >>> last_result([Progress("edit", 1, 2, 0.5), Progress("edit", 2, 2, 1.0, result="made")])
    'made'
    """
    made = None
    for progress in steps:
        after_each()
        made = progress.result
    assert made is not None
    return made
