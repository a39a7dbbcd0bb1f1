"""Notes on data that a run takes but that look like a mistake: inverted masks, boxes given as corners, and others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from pycocotools import mask as mask_utils
from torch import Tensor

from locinv_pl.datamodules.entries import Entry, MaskFile, Shape, decode
from locinv_pl.io.images import Size, mask_file
from locinv_pl.priors import BOX_TOLERANCE, Box, box_mask, corners_fit
from locinv_pl.types import EditSample

BRACKETS = re.compile(r"\[[^\]]+\]")  # by which other tools weaken words
FULL, BORDER, BETWEEN = 0.98, 0.9, 0.1  # shares: of the image, of its border, of pixels that are neither in nor out
FEW = 2  # boxes: fewer say nothing about all


def notes_of(entry: Entry, sample: EditSample) -> Iterator[str]:
    """Remarks on what looks like a mistake in one sample.

    Args:
        entry: the sample's entry, as the data set has it.
        sample: the sample that the entry became.
    """
    for edit in sample.edits:
        for (start, stop), factor in edit.weights:
            yield f"{edit.prompt!r} has a weight in brackets: attention to {edit.prompt[start:stop]!r} times {factor:g}"
    for prompt in (sample.prompt, *(edit.prompt for edit in sample.edits)):
        if found := BRACKETS.search(prompt):
            yield f"{prompt!r} has brackets, {found[0]!r}, which count as words; is a weight meant, as in (red:0.5)?"
    shapes = {mention.word: mention.shapes for mention in entry.mentions}
    if entry.region is not None:
        shapes["region"] = (entry.region,)
    for name, each in shapes.items():
        for shape in each:
            yield from (f"{name}: {note}" for note in _notes_of_shape(shape, entry))
    for noun in sample.nouns:
        if not noun.mask.any():
            yield f"{noun.word}: its mask covers nothing of what is shown"


def notes_of_all(entries: Sequence[Entry]) -> Iterator[str]:
    """Remarks on what looks like a mistake in all samples together: boxes that are all corners."""
    boxes = [(shape.box, e) for e in entries for m in e.mentions for shape in m.shapes if shape.box and not shape.mask]
    if len(boxes) >= FEW and all(_may_be_corners(box, entry) for box, entry in boxes):
        yield f"all {len(boxes)} boxes may be corners (x, y, x2, y2); boxes are x, y, width, height"


def _notes_of_shape(shape: Shape, entry: Entry) -> Iterator[str]:
    size = entry.width, entry.height
    mask = None if shape.mask is None else np.asarray(decode(shape.mask, *size)) > 0
    if isinstance(shape.mask, MaskFile) and shape.mask.value is None:
        yield from _notes_of_file(shape.mask, size)
    if mask is not None and mask.mean() >= FULL:
        yield "its mask covers all of the image; was another meant?"
    elif mask is not None and _border(mask).mean() >= BORDER:
        yield "its mask covers the border and leaves out the middle; is it inverted?"
    if shape.box is not None and mask is None and shape.box[2] * shape.box[3] >= FULL * size[0] * size[1]:
        yield f"its box {_told(shape.box)} covers all of the image; was another meant?"
    if shape.box is not None and _better_as_corners(shape.box, mask, entry):
        x, y, x2, y2 = shape.box
        yield (
            f"its box {_told(shape.box)} would fit better as corners; boxes are x, y, width, height: "
            f"{_told((x, y, x2 - x, y2 - y))}?"
        )


def _notes_of_file(mask: MaskFile, size: Size) -> Iterator[str]:
    with mask_file(mask.path, size) as file:
        is_wide = file.mode.startswith("I") or file.mode == "F"
        values = np.asarray(file.convert("F" if is_wide else "L"))
        says_nothing = values.min() == values.max() and not file.has_transparency_data
    if says_nothing:
        yield f"{mask.path}: the mask has one value, {values.max():g}; is it the right file?"
    top = max(float(values.max()), 1)
    between = ((values > 0.1 * top) & (values < 0.9 * top)).mean()
    if between > BETWEEN:
        yield f"{mask.path}: {between:.0%} of the mask are neither in nor out; what counts is from half of its scale on"


def _better_as_corners(box: Box, mask: np.ndarray | None, entry: Entry) -> bool:
    """By the mask where there is one; else where the box reaches the border that its corners wouldn't."""
    if not corners_fit(box, entry.width, entry.height):
        return False
    x, y, x2, y2 = box
    corners = (x, y, x2 - x, y2 - y)
    if mask is not None:
        found = mask_utils.toBbox(mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))).tolist()
        planes = [box_mask(b, mask.shape) for b in (tuple(found), box, corners)]
        return _iou(planes[0], planes[2]) > _iou(planes[0], planes[1])
    return _may_be_corners(box, entry) and (
        x + x2 >= entry.width - BOX_TOLERANCE or y + y2 >= entry.height - BOX_TOLERANCE
    )


def _may_be_corners(box: Box, entry: Entry) -> bool:
    return corners_fit(box, entry.width, entry.height) and min(box[:2]) > 0


def _iou(one: Tensor, other: Tensor) -> float:
    return (torch.minimum(one, other).sum() / torch.maximum(one, other).sum()).item()


def _border(mask: np.ndarray) -> np.ndarray:
    return np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])


def _told(box: Box) -> str:
    return "[" + ", ".join(f"{n:g}" for n in box) + "]"
