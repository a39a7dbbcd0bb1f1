"""Edits as they are measured, from their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypedDict

from locinv_pl.errors import InputError, all_of, quoted
from locinv_pl.io.files import read_image, read_json, write_json
from locinv_pl.measures.edits import Measures, edit_region
from locinv_pl.run.edit_files import AGAIN, damaged_edits, edit_row, list_edits, seconds_of
from locinv_pl.run.store import RunFolder
from locinv_pl.types import EditSample


class _Refused(TypedDict):
    """The content of ``edits/<id>/refused.json``."""

    id: str
    edits: list[dict[str, Any]]


def note_refused(run: RunFolder, id: str, refused: Sequence[Mapping[str, Any]]) -> None:
    """Write ``edits/<id>/refused.json``: the edits that can't be made, and why; gone where there is none.

    Args:
        run: the run's folder.
        id: the image's.
        refused: what :func:`edit_row` answers for each of them, with the "problem".
    """
    path = run.edits_path(id, "refused.json")
    if refused:
        write_json(path, {"id": id, "edits": list(refused)}, sealed=True)
    else:
        path.unlink(missing_ok=True)


def score_edits(
    run: RunFolder,
    sample: EditSample,
    tokenizer: Any,
    settings: Mapping[str, Any],
    measures: Measures,
    by_region: bool = False,
    skip: bool = False,
) -> list[dict[str, Any]]:
    """Measure every edit that a sample names, on its file in ``edits/<id>/``, against the sample's image.

    Args:
        run: the folder of the run that made the edits.
        sample: the image and its edits.
        tokenizer: of the model that edited it.
        settings: the edits that were made with these.
        measures: the networks and functions that measure them.
        by_region: whether the edits keep to the sample's region.
        skip: leave out edits that :func:`note_refused` has noted.

    Returns:
        for each edit, in the sample's order, its kind, prompt, file and measures, with the seconds that it took.

    Raises:
        InputError: an edit is missing, or its file isn't the image that it was.
    """
    listed, seconds, scored = list_edits(run, sample.id), seconds_of(run, sample.id), []
    if listed["edits"] and listed.get("fingerprint") != sample.fingerprint:
        raise InputError(
            f"image {sample.id!r}: its prompt, nouns, priors or pixels aren't those that were edited in {run.root}; "
            f"run predict again"
        )
    noted = run.edits_path(sample.id, "refused.json")
    refused = read_json(noted, _Refused)["edits"] if skip and noted.exists() else []
    for edit in sample.edits:
        row = {"kind": edit.kind, "prompt": edit.prompt}
        identity = edit_row(edit, settings, sample.region if by_region else None)
        made = next((there for there in listed["edits"] if identity.items() <= there.items()), None)
        if made is None and any(identity.items() <= there.items() for there in refused):
            continue
        if made is None:
            raise InputError(
                f"image {sample.id!r}: {run.edits_path(sample.id)} has no edit to {quoted(edit.prompt)} with these "
                f"settings; run predict first, with the same words"
            )
        image = _read_png(run, made["file"], sample)
        region = edit_region(sample, tokenizer, edit)
        scores = measures.score(sample.image, image, edit.prompt, region)
        scored.append({**row, "file": made["file"], **scores, "seconds_per_edit": seconds.get(made["file"])})
    return scored


def score_reconstruction(run: RunFolder, sample: EditSample, measures: Measures) -> dict[str, float]:
    """Measure ``edits/<id>/reconstruction.png`` against the sample's image.

    Args:
        run: the run's folder.
        sample: the image.
        measures: the networks and functions that measure it.

    Returns:
        values by the measure's name.

    Raises:
        InputError: the file is missing, or isn't the image that it was.
    """
    return measures.reconstruction(sample.image, _read_png(run, "reconstruction.png", sample))


def _read_png(run: RunFolder, name: str, sample: EditSample) -> Tensor:
    """An image of a sample's edits, (3, H, W) in [0, 1]; where it is damaged, all that are damaged are named."""
    path = run.edits_path(sample.id, name)
    try:
        pixels = torch.from_numpy(np.array(read_image(path, AGAIN))).movedim(-1, 0) / 255
    except InputError as problem:
        raise InputError(all_of(damaged_edits(run) or [str(problem)])) from None
    if pixels.shape != sample.image.shape:
        raise InputError(f"{path}: has another size than image {sample.id!r}; {AGAIN}")
    return pixels
