"""The edits in a run's folder: how their files are named, what edits.json lists, and what of it is damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from locinv_pl.errors import DamagedError, InputError, all_of, tell
from locinv_pl.io.files import check, read_image, read_json
from locinv_pl.run.contents import OPEN
from locinv_pl.run.names import file_name, id_of
from locinv_pl.run.store import RunFolder
from locinv_pl.types import Edit

AGAIN = "run predict again"
EDIT_FILE = r"^[1-9][0-9]{0,8}-[A-Za-z0-9_.~%-]{0,220}\.png$"
CANDIDATE_FILE = r"^[1-9][0-9]{0,8}(\.[1-9][0-9]?)?-[A-Za-z0-9_.~%-]{0,220}\.png$"  # the kept one's is its edit's
MASK_FILE = r"^[1-9][0-9]{0,8}\.mask-[A-Za-z0-9_.~%-]{0,220}\.png$"
PHOTO_FILE = r"^[1-9][0-9]{0,8}\.photo-[A-Za-z0-9_.~%-]{0,220}\.png$"
BESIDE: tuple[Literal["mask", "photo"], ...] = ("mask", "photo")


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


def seconds_of(run: RunFolder, id: str) -> dict[str, float]:
    """How long an image's edits took, by their files, as far as that is known."""
    with suppress(InputError):
        return read_json(run.edits_path(id, "seconds.json"), dict[str, float])
    return {}


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


def _told_by_files(run: RunFolder, id: str) -> EditedImage:
    """What edits.json should say, from the metadata of the edits' files; of several fingerprints the last one's."""
    told: EditedImage = {"id": id, "prompt": "", "edits": []}
    for name in edit_files(run, id):
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


def edit_files(run: RunFolder, id: str) -> list[str]:
    """The names of the edits' files that are there, by number."""
    folder = run.edits_path(id)
    found = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    names = [name for name in found if re.match(EDIT_FILE, name)]
    return sorted(names, key=lambda name: int(name.partition("-")[0]))


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
