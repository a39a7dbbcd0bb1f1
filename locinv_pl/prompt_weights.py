"""Weights in brackets, as other tools write them: "a (red:1.5) house"."""

from __future__ import annotations

import re

from locinv_pl.errors import InputError, quoted

# Where a digit stands before the colon it is a time, "a clock (at 4:20)".
WEIGHT = re.compile(r"\(\s*([^():]*[^():\d\s])\s*:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)")
EMPHASIS = re.compile(r"\(\(|\)\)")
MOST = 100.0

Weights = tuple[tuple[tuple[int, int], float], ...]
"""Stretches of characters of a prompt, each with the factor on the attention to its words."""


def read_weights(prompt: str) -> tuple[str, Weights]:
    """Read the weights of a target prompt.

    Args:
        prompt: the prompt as it was written, with or without weights.

    Returns:
        The prompt without the brackets; spans of its characters, each with the factor on the attention to its words.

    Raises:
        InputError: weights within weights, double brackets without a number, or a factor beyond ±100.

    >>> read_weights("a (red:1.5) house")
    ('a red house', (((2, 5), 1.5),))
    """
    plain, weights, at = "", [], 0
    for match in WEIGHT.finditer(prompt):
        plain += prompt[at : match.start()]
        at, factor = match.end(), float(match[2])
        if abs(factor) > MOST:
            raise InputError(
                f"prompt {quoted(prompt)}: weight {match[2]} is beyond {MOST:g}; write a factor such as 1.5"
            )
        weights.append(((len(plain), len(plain) + len(match[1])), factor))
        plain += match[1]
    plain += prompt[at:]
    if EMPHASIS.search(plain) or WEIGHT.search(plain):
        raise InputError(
            f"prompt {quoted(prompt)}: double brackets aren't read; write one factor, as in (red:1.5), or "
            f"edit.reweight="
        )
    return plain, tuple(weights)


def refuse_weights(prompt: str, name: str) -> None:
    """Refuse a source prompt with weights: it describes the image, and nothing weights its words.

    Args:
        prompt: the source prompt.
        name: the image's id, for the error.

    Raises:
        InputError: the prompt has a weight.
    """
    if found := WEIGHT.search(prompt):
        raise InputError(
            f"image {name!r}: its prompt has a weight, {found[0]}; write {found[1]!r} alone, "
            f"and weights in target prompts or in edit.reweight="
        )
