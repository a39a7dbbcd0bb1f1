"""The edits of a run's images: their files, what these list, and their scores."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, cast

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from locinv_pl.drawing import to_array, to_png
from locinv_pl.editing.prompt_to_prompt import check_edit
from locinv_pl.editing.rows import as_edit
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import DamagedError, InputError, all_of, quoted, tell
from locinv_pl.io.files import check, read_image, read_json, to_json, write_atomically, write_json
from locinv_pl.measures.edits import Measures, MeasureSettings, edit_region
from locinv_pl.method.progress import nothing
from locinv_pl.networks.backbone import Backbone
from locinv_pl.run.candidates import Candidate, edit_best, load_measures
from locinv_pl.run.contents import OPEN
from locinv_pl.run.names import file_name, id_of
from locinv_pl.run.store import RunFolder
from locinv_pl.types import Edit, EditSample, Inversion

AGAIN = "run predict again"
EDIT_FILE = r"^[1-9][0-9]{0,8}-[A-Za-z0-9_.~%-]{0,220}\.png$"
CANDIDATE_FILE = r"^[1-9][0-9]{0,8}(\.[1-9][0-9]?)?-[A-Za-z0-9_.~%-]{0,220}\.png$"  # the kept one's is its edit's
MASK_FILE = r"^[1-9][0-9]{0,8}\.mask-[A-Za-z0-9_.~%-]{0,220}\.png$"
PHOTO_FILE = r"^[1-9][0-9]{0,8}\.photo-[A-Za-z0-9_.~%-]{0,220}\.png$"

BESIDE: tuple[Literal["mask", "photo"], ...] = ("mask", "photo")


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


@OPEN
class CandidateRow(TypedDict):
    """One strength of an edit in edits.json; its measures stand beside the score."""

    file: Annotated[str, Field(pattern=CANDIDATE_FILE)]
    strength: float
    score: float
    kept: bool


@OPEN
class EditRow(TypedDict):
    """An edit in edits.json: its file, which has a name as this package gives it, and what it was made by."""

    file: Annotated[str, Field(pattern=EDIT_FILE)]
    kind: str
    prompt: str
    settings: dict[str, Any]
    candidates: NotRequired[Annotated[list[CandidateRow], Field(min_length=1)]]
    mask: NotRequired[Annotated[str, Field(pattern=MASK_FILE)]]
    photo: NotRequired[Annotated[str, Field(pattern=PHOTO_FILE)]]


@OPEN
class EditedImage(TypedDict):
    """The content of ``edits/<id>/edits.json``."""

    id: str
    prompt: str
    edits: list[EditRow]
    fingerprint: NotRequired[str]


class _Refused(TypedDict):
    """The content of ``edits/<id>/refused.json``."""

    id: str
    edits: list[dict[str, Any]]


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
        int(name.partition("-")[0]) for name in [*_edit_files(run, id), *(row["file"] for row in before["edits"])]
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
        took = _seconds(run, id) | {path.name: seconds for path in paths}
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


def list_edits(run: RunFolder, id: str) -> EditedImage:
    """The content of ``edits/<id>/edits.json``; where that is damaged, what the PNGs say of themselves.

    Args:
        run: the run's folder.
        id: the image's.

    Raises:
        InputError: it is another image's, or names files as this package doesn't.
    """
    path = run.edits_path(id, "edits.json")
    if not path.exists():
        return {"id": id, "prompt": "", "edits": []}
    try:
        listed: EditedImage = read_json(path, EditedImage)
    except DamagedError as problem:
        tell(f"{problem.problem}; what the images beside it say of themselves is taken")
        return _told_by_files(run, id)
    if listed["id"] != id:
        raise InputError(f"{path}: of another image, {listed['id']!r}; delete it and run again")
    return listed


def _told_by_files(run: RunFolder, id: str) -> EditedImage:
    """What edits.json should say, from the metadata of the edits' files; of several fingerprints the last one's."""
    told: EditedImage = {"id": id, "prompt": "", "edits": []}
    for name in _edit_files(run, id):
        with suppress(InputError, KeyError, ValueError, TypeError, AttributeError, RecursionError):
            info = read_image(run.edits_path(id, name)).info
            row = json.loads(info["edit"])
            fingerprint, prompt = str(row.pop("fingerprint")), str(info["source_prompt"])
            if fingerprint != told.get("fingerprint"):
                told = {"id": id, "prompt": prompt, "fingerprint": fingerprint, "edits": []}
            names = {what: beside(name, what) for what in BESIDE}
            own = {what: there for what, there in names.items() if run.edits_path(id, there).exists()}
            check(row := {**row, "file": name, **own}, EditRow, name)
            told["edits"].append(cast("EditRow", row))
    return told


def _seconds(run: RunFolder, id: str) -> dict[str, float]:
    """How long an image's edits took, by their files, as far as that is known."""
    with suppress(InputError):
        return read_json(run.edits_path(id, "seconds.json"), dict[str, float])
    return {}


def _edit_files(run: RunFolder, id: str) -> list[str]:
    """The names of the edits' files that are there, by number."""
    folder = run.edits_path(id)
    found = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    names = [name for name in found if re.match(EDIT_FILE, name)]
    return sorted(names, key=lambda name: int(name.partition("-")[0]))


def edited_images(run: RunFolder) -> list[EditedImage]:
    """What :func:`list_edits` answers for every image that has been edited, by id.

    Raises:
        InputError: for some it can't; names all of them.
    """
    found, problems = [], []
    for name in run.store.folders("edits"):
        try:
            path = run.place("edits", name, "edits.json")
            if not path.exists():
                continue
            id = id_of(name)
            id = read_json(path, EditedImage)["id"] if id is None else id
            if file_name(id) != name:
                raise InputError(f"{path}: the folder isn't named after image {id!r}; delete it")
            found.append(list_edits(run, id))
        except InputError as problem:
            problems.append(str(problem))
    if problems:
        raise InputError(all_of(problems))
    return sorted(found, key=lambda edited: edited["id"])


def beside(file: str, what: str) -> str:
    """The name of a file that belongs to an edit's.

    >>> beside("3-word_swap.png", "mask")
    '3.mask-word_swap.png'
    """
    return file.replace("-", f".{what}-", 1)


def files_of(row: EditRow) -> list[str]:
    """The names of an edit's files: its own, of the candidates that weren't kept, of its mask and its photograph."""
    others = [candidate["file"] for candidate in row.get("candidates", ())]
    return list(dict.fromkeys([row["file"], *others, *(row[what] for what in BESIDE if what in row)]))


def damaged_edits(run: RunFolder) -> list[str]:
    """What is wrong with the images of all edits, file by file."""
    problems = []
    for edited in edited_images(run):
        made = [name for row in edited["edits"] for name in files_of(row)]
        for name in ("source.png", "reconstruction.png", *made):
            try:
                read_image(run.edits_path(edited["id"], name), AGAIN)
            except InputError as problem:
                problems.append(str(problem))
    return problems


def edit_row(edit: Edit, settings: Mapping[str, Any], region: Tensor | None = None) -> dict[str, Any]:
    """What makes an edit the one it is: its kind, its prompt, and its settings with what it has of its own.

    Args:
        edit: its kind and prompt, and the weights and blended words that it has of its own.
        settings: those of all edits, as plain values.
        region: (H, W), where it may change the image.
    """
    own: dict[str, Any] = {}
    if edit.weights:
        own["weights"] = [[edit.prompt[slice(*span)], *span, factor] for span, factor in edit.weights]
    if edit.blend is not None:
        own["blended_words"] = list(edit.blend)
    if region is not None:
        plane = region.float().contiguous()
        content = repr(tuple(plane.shape)).encode() + plane.numpy().tobytes()
        own["region"] = sha256(content).hexdigest()[:16]
    return {"kind": edit.kind, "prompt": edit.prompt, "settings": {**settings, **own}}


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
    listed, seconds, scored = list_edits(run, sample.id), _seconds(run, sample.id), []
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
