"""What a caption may say about where objects are, because it is so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, product

import numpy as np

from locinv_pl.scenes.layout import Placed

CLOSE = 0.06  # of the image's side: the widest gap between neighbours
COVERS = 0.06  # of an object's pixels: what it takes to be in front of it


def true_relations(groups: Sequence[Sequence[Placed]]) -> list[str]:
    """The phrases that may stand between the first group and the others; each holds for every pair of objects."""
    first, others = groups[0], [thing for group in groups[1:] for thing in group]
    pairs = list(product(first, others))
    said = [words for words, holds in RELATIONS for _ in range(all(holds(a, b) for a, b in pairs))]
    if [len(group) for group in groups] == [1, 1, 1] and _between(first[0], *others):
        said.append("between")
    return said


def next_to(a: Placed, b: Placed) -> bool:
    """Side by side, close, and at about the same height."""
    gap = max(b.left - a.right, a.left - b.right)
    shared = min(a.bottom, b.bottom) - max(a.top, b.top)
    lower = abs(a.bottom - b.bottom)
    heights = a.bottom - a.top, b.bottom - b.top
    overlap_allowed = -0.25 * min(a.right - a.left, b.right - b.left)
    return (
        overlap_allowed <= gap <= CLOSE * a.size
        and shared >= 0.6 * min(heights)
        and lower <= max(0.25 * min(heights), 2)
    )


def left_of(a: Placed, b: Placed) -> bool:
    """Wholly on the left."""
    return a.right <= b.left


def above(a: Placed, b: Placed) -> bool:
    """Wholly higher, and over it rather than beside it."""
    shared = min(a.right, b.right) - max(a.left, b.left)
    return a.bottom <= b.top and shared >= 0.5 * min(a.right - a.left, b.right - b.left)


def in_front_of(a: Placed, b: Placed) -> bool:
    """Nearer and hiding a part of it."""
    hidden = np.count_nonzero(a.mask & b.mask)
    return bool(a.bottom > b.bottom and hidden >= COVERS * np.count_nonzero(b.mask))


def _between(middle: Placed, *others: Placed) -> bool:
    left, right = sorted(others, key=lambda thing: thing.left)
    level = all(abs(a.bottom - b.bottom) <= 0.3 * (b.bottom - b.top) for a, b in pairwise((left, middle, right)))
    return level and left_of(left, middle) and left_of(middle, right)


def _turned(relation: Callable[[Placed, Placed], bool]) -> Callable[[Placed, Placed], bool]:
    return lambda a, b: relation(b, a)


RELATIONS: tuple[tuple[str, Callable[[Placed, Placed], bool]], ...] = (
    ("next to", next_to),
    ("beside", next_to),
    ("to the left of", left_of),
    ("to the right of", _turned(left_of)),
    ("above", above),
    ("below", _turned(above)),
    ("in front of", in_front_of),
    ("behind", _turned(in_front_of)),
)
