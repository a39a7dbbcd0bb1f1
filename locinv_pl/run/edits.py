"""Edits as they are made and written into a run's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from locinv_pl.drawing import to_array, to_png
from locinv_pl.editing.prompt_to_prompt import check_edit
from locinv_pl.editing.rows import as_edit
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError, quoted, tell
from locinv_pl.io.files import to_json, write_atomically, write_json
from locinv_pl.measures.edits import MeasureSettings
from locinv_pl.method.progress import nothing
from locinv_pl.networks.backbone import Backbone
from locinv_pl.run.candidates import Candidate, edit_best, load_measures
from locinv_pl.run.edit_files import BESIDE, beside, edit_files, edit_row, list_edits, seconds_of
from locinv_pl.run.names import file_name
from locinv_pl.run.store import RunFolder
from locinv_pl.types import Edit, EditSample, Inversion


class EditResult:
    """An image with its reconstruction (3, H, W) and its edits' images (n, 3, H, W), in [0, 1].

    The inversion is None for editors that make none; the reconstruction then is the VAE's. A plain class, which
    Lightning hands over as it is: it would take a dataclass apart.
    """

    def __init__(
        self,
        sample: EditSample,
        inversion: Inversion | None,
        settings: Mapping[str, Any],
        reconstruction: Tensor,
        edits: Sequence[Edit],
        images: Tensor,
    ):
        self.sample, self.inversion, self.settings = sample, inversion, settings
        self.reconstruction, self.edits, self.images = reconstruction, tuple(edits), images


def save_edits(
    run: RunFolder,
    id: str,
    *,
    prompt: str,
    fingerprint: str,
    settings: Mapping[str, Any],
    source: Tensor | None,
    reconstruction: Tensor,
    edits: Sequence[Edit],
    images: Tensor,
    region: Tensor | None = None,
    seconds: float | None = None,
    candidates: Sequence[Sequence[Candidate]] = (),
    masks: Sequence[Tensor] | Tensor = (),
    photos: Sequence[Tensor] = (),
) -> list[Path]:
    """Write ``edits/<id>/``: source.png, reconstruction.png, a numbered PNG for each edit, and edits.json.

    An edit that is there already, with this prompt, these settings and this region, is written again under its own
    number; others are kept, those of another fingerprint only as files. Every PNG holds prompt and settings in its
    metadata; edits.json is written last. Candidate k of "3-word_swap.png" is "3.k-word_swap.png", unless it is kept;
    its mask is "3.mask-word_swap.png", and in the photograph at its own size it is "3.photo-word_swap.png".

    Args:
        run: the run's folder.
        id: the image's.
        prompt: the source prompt.
        fingerprint: that of the image with its prompt and priors.
        settings: those of the edits, as plain values.
        source: the image (3, H, W) in [0, 1]; without one, source.png is left as it is.
        reconstruction: the image as its inversion gives it back, (3, H, W) in [0, 1].
        edits: the n edits, with their prompts.
        images: what they made, (n, 3, H, W) in [0, 1].
        region: where they may change the image, (H, W); everywhere by default.
        seconds: how long each of them took, for seconds.json.
        candidates: the strengths of each edit, where several were made; ``images`` has those that are kept.
        masks: of each edit where it may differ from the reconstruction, (h, w) in [0, 1]; nothing from editors that
            have none.
        photos: of each edit the whole photograph with it, (3, H', W') in [0, 1]; nothing where there is none.

    Returns:
        the edits' files.
    """
    before = list_edits(run, id)
    rows: list[Any] = list(before["edits"]) if before.get("fingerprint") == fingerprint else []
    if before["edits"] and not rows:
        tell(
            f"image {id!r}: its data have changed, edits of what it was stay in {run.edits_path(id)}, but aren't listed"
        )
    numbers = [
        int(name.partition("-")[0]) for name in [*edit_files(run, id), *(row["file"] for row in before["edits"])]
    ]

    def write(name: str, image: Tensor, text: str, own: Mapping[str, Any] = settings, **told: str) -> Path:
        about = {"prompt": text, "source_prompt": prompt, "settings": to_json(own), **told}
        write_atomically(run.edits_path(id, name), to_png(Image.fromarray(to_array(image)), about))
        return run.edits_path(id, name)

    if source is not None:
        write("source.png", source, prompt)
    write("reconstruction.png", reconstruction, prompt)
    paths = []
    for n, (edit, image) in enumerate(zip(edits, images, strict=True)):
        row = edit_row(edit, settings, region)
        same = [there for there in rows if row.items() <= there.items()]
        if not same:
            numbers.append(max(numbers, default=0) + 1)
            same = [{"file": f"{numbers[-1]}-{file_name(edit.kind)}.png", **row}]
            rows += same
        file, own = same[0]["file"], same[0]["settings"]
        if candidates:
            same[0]["candidates"] = []
            for k, candidate in enumerate(candidates[n], start=1):
                other = beside(file, str(k))
                told = {"strength": candidate.strength, "kept": candidate.is_kept, **candidate.scores}
                same[0]["candidates"].append({"file": file if candidate.is_kept else other, **told})
                if candidate.is_kept:
                    run.edits_path(id, other).unlink(missing_ok=True)  # another run's, by other measures
                else:
                    write(other, candidate.image, edit.prompt, own, candidate=to_json(told))
        about = {key: value for key, value in same[0].items() if key not in BESIDE}
        paths.append(write(file, image, edit.prompt, own, edit=to_json({**about, "fingerprint": fingerprint})))
        if len(masks):
            same[0]["mask"] = beside(file, "mask")
            grey = Image.fromarray((masks[n].numpy() * 255).round().astype(np.uint8))
            write_atomically(run.edits_path(id, same[0]["mask"]), to_png(grey))
        if photos:
            same[0]["photo"] = beside(file, "photo")
            write(same[0]["photo"], photos[n], edit.prompt, own)
        elif candidates and "photo" in same[0]:  # of the candidate that was kept then
            run.edits_path(id, same[0].pop("photo")).unlink(missing_ok=True)
    if seconds is not None:
        took = seconds_of(run, id) | {path.name: seconds for path in paths}
        write_json(run.edits_path(id, "seconds.json"), took, sealed=True)
    listed = {"id": id, "prompt": prompt, "fingerprint": fingerprint, "edits": rows}
    write_json(run.edits_path(id, "edits.json"), listed, sealed=True)
    return paths


def make_edits(
    run: RunFolder,
    backbone: Backbone,
    inversion: Inversion,
    prompts: Sequence[str],
    settings: EditSettings,
    region: Tensor | None,
    measures: MeasureSettings,
    source: Tensor | None,
    after_each: Callable[[], None] = nothing,
    into_photo: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[list[Edit], Tensor, list[Path]]:
    """Edit an inverted image by prompts, and write what comes out, as :func:`save_edits` does.

    Args:
        run: the run's folder.
        backbone: the one that made the inversion.
        inversion: the image's.
        prompts: n target prompts, edited as one batch.
        settings: how; with a region, as ``blend="prior"``.
        region: where the edits may change the image, (H, W); everywhere for None.
        measures: the networks that choose among the strengths of an edit, with ``settings.candidates`` above 1.
        source: the image (3, H, W) in [0, 1]; without one, source.png is left as it is.
        after_each: called after every timestep.
        into_photo: makes of an edit (3, H, W) and its mask (h, w) the whole photograph with it, (3, H', W').

    Returns:
        the edits, the reconstruction with what they made, (1 + n, 3, H, W) in [0, 1], and their files.

    Raises:
        InputError: a prompt is the source's own, or as :func:`~locinv_pl.editing.prompt_to_prompt.edit` does, before
            anything is computed.
    """
    settings = settings if region is None else replace(settings, blend="prior")
    edits = [as_edit(inversion.prompt, prompt) for prompt in prompts]
    for edit in edits:
        if edit.kind == "same" and not (edit.weights or settings.reweight):
            named = f"{quoted(edit.prompt)}: is the source prompt of {inversion.id!r}"
            raise InputError(f"prompt {named}; change a word of it")
        check_edit(backbone, inversion, edit, settings, region)
    networks = cache(lambda: load_measures(measures, backbone))
    images, candidates, masks = edit_best(backbone, inversion, edits, settings, region, networks, after_each)
    paths = save_edits(
        run,
        inversion.id,
        prompt=inversion.prompt,
        fingerprint=inversion.fingerprint,
        settings=settings.to_dict(),
        source=source,
        reconstruction=images[0],
        edits=edits,
        images=images[1:],
        region=region,
        candidates=candidates,
        masks=masks,
        photos=[into_photo(image, mask) for image, mask in zip(images[1:], masks, strict=True)] if into_photo else (),
    )
    return edits, images, paths
