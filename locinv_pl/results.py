"""Finished pictures and their scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from locinv_pl.backbone import Backbone
from locinv_pl.drawing import to_array, to_png
from locinv_pl.errors import InputError, one_line
from locinv_pl.measures import Measures, edit_region
from locinv_pl.metrics import attention_iou, attention_iou_curve, fp32, psnr, ssim
from locinv_pl.store import RunFolder, read_json, write_json
from locinv_pl.types import Edit, EditSample, Inversion, write_atomically


@dataclass(frozen=True, eq=False)
class Result:
    """A picture with its inversion, its reconstruction and the VAE's own, (3, H, W) in [0, 1], and scores."""

    sample: EditSample
    inversion: Inversion
    reconstruction: Tensor
    vae: Tensor
    scores: dict[str, Any]


class EditResult:
    """A picture with its reconstruction (3, H, W) and its edits' pictures (n, 3, H, W), in [0, 1].

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
        pictures: Tensor,
    ):
        self.sample, self.inversion, self.settings = sample, inversion, settings
        self.reconstruction, self.edits, self.pictures = reconstruction, tuple(edits), pictures


def score(
    backbone: Backbone,
    samples: Sequence[EditSample],
    inversions: Sequence[Inversion],
    reconstructions: Tensor,
    seconds: float,
) -> list[Result]:
    """Score a batch's reconstructions (B, 3, H, W); ``seconds`` is the time that each picture took."""
    pictures = torch.stack([s.image for s in samples])
    vae = backbone.decode(backbone.encode(pictures)).cpu()
    with fp32():
        return [
            Result(sample, inversion, back, ceiling, {**_scores(sample, inversion, back, ceiling), "seconds": seconds})
            for sample, inversion, back, ceiling in zip(samples, inversions, reconstructions, vae, strict=True)
        ]


def _scores(sample: EditSample, inversion: Inversion, back: Tensor, vae: Tensor) -> dict[str, Any]:
    return {
        "id": sample.id,
        "prompt": sample.prompt,
        "nouns": [n.word for n in sample.nouns],
        "iou_initial": attention_iou(inversion.initial_maps.mean(0), sample.masks).tolist(),
        "iou": attention_iou(inversion.maps.mean(0), sample.masks).tolist(),
        "iou_curve": attention_iou_curve(inversion.maps, sample.masks).T.tolist(),
        "psnr": psnr(back, sample.image).item(),
        "ssim": ssim(back, sample.image).item(),
        "psnr_vae": psnr(vae, sample.image).item(),
        "ssim_vae": ssim(vae, sample.image).item(),
        "token_steps": int(inversion.token_steps.sum()),
        "null_steps": int(inversion.null_steps.sum()),
    }


def save_edits(
    run: RunFolder,
    id: str,
    prompt: str,
    settings: Mapping[str, Any],
    source: Tensor | None,
    reconstruction: Tensor,
    edits: Sequence[Edit],
    pictures: Tensor,
    region: Tensor | None = None,
) -> list[Path]:
    """Write ``edits/<id>/``: source.png, reconstruction.png, a numbered PNG for each edit, and edits.json.

    ``prompt`` is the source prompt, ``settings`` are those of the edits, as plain values, and ``region`` is the one
    that they keep to. An edit that is there already, with this prompt, these settings and this region, is written
    again under its own number; others are kept. Without a ``source`` that picture is left as it is. Every PNG holds
    prompt and settings in its metadata; edits.json is written last.

    Returns:
        the edits' files.
    """
    folder = run.edits_path(id)
    rows = read_json(folder / "edits.json")["edits"] if (folder / "edits.json").exists() else []

    def write(name: str, picture: Tensor, text: str, settings: Mapping[str, Any] = settings) -> Path:
        path, about = folder / name, {"prompt": text, "source_prompt": prompt, "settings": json.dumps(settings)}
        write_atomically(path, to_png(Image.fromarray(to_array(picture)), about))
        return path

    if source is not None:
        write("source.png", source, prompt)
    write("reconstruction.png", reconstruction, prompt)
    paths = []
    for edit, picture in zip(edits, pictures, strict=True):
        row = edit_row(edit, settings, region)
        same = [there for there in rows if row.items() <= there.items()]
        if not same:
            same = [{"file": f"{len(rows) + 1}-{quote(edit.kind, safe='')}.png", **row}]
            rows += same
        paths.append(write(same[0]["file"], picture, edit.prompt, row["settings"]))
    write_json(folder / "edits.json", {"id": id, "prompt": prompt, "edits": rows})
    return paths


def edit_row(edit: Edit, settings: Mapping[str, Any], region: Tensor | None = None) -> dict[str, Any]:
    """What makes an edit the one it is: its kind, its prompt, and its settings with what it has of its own.

    Args:
        edit: the edit.
        settings: those of all edits, as plain values.
        region: (H, W), where it may change the picture.
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
    """Write ``edits/<id>/refused.json``: the edits that can't be made, and why; gone where there is none."""
    path = run.edits_path(id) / "refused.json"
    if refused:
        write_json(path, {"id": id, "edits": list(refused)})
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
    """Measure every edit that a sample names, on its file in ``edits/<id>/``, against the sample's picture.

    Args:
        run: whose edits.
        sample: the picture and its edits.
        tokenizer: of the model that edited it.
        settings: the edits that were made with these.
        measures: what measures them.
        by_region: whether the edits keep to the sample's region.
        skip: leave out edits that :func:`note_refused` has noted.

    Returns:
        for each edit, in the sample's order, its kind, prompt, file and measures.

    Raises:
        InputError: an edit is missing, or its file isn't the picture that it was.
    """
    folder = run.edits_path(sample.id)
    listed = read_json(folder / "edits.json")["edits"] if (folder / "edits.json").exists() else []
    refused = read_json(folder / "refused.json")["edits"] if skip and (folder / "refused.json").exists() else []
    scored = []
    for edit in sample.edits:
        row = {"kind": edit.kind, "prompt": edit.prompt}
        identity = edit_row(edit, settings, sample.region if by_region else None)
        made = next((there for there in listed if identity.items() <= there.items()), None)
        if made is None and any(identity.items() <= row.items() for row in refused):
            continue
        if made is None:
            raise InputError(
                f"image {sample.id!r}: {folder} has no edit to {edit.prompt!r} with these settings; "
                f"run predict first, with the same words"
            )
        picture = _read_png(folder / made["file"], sample)
        region = edit_region(sample, tokenizer, edit)
        scored.append({**row, "file": made["file"], **measures.score(sample.image, picture, edit.prompt, region)})
    return scored


def score_reconstruction(run: RunFolder, sample: EditSample, measures: Measures) -> dict[str, float]:
    """Measure ``edits/<id>/reconstruction.png`` against the sample's picture.

    Raises:
        InputError: the file is missing, or isn't the picture that it was.
    """
    return measures.reconstruction(sample.image, _read_png(run.edits_path(sample.id) / "reconstruction.png", sample))


def _read_png(path: Path, sample: EditSample) -> Tensor:
    """An edit's picture, (3, H, W) in [0, 1]."""
    try:
        with Image.open(path) as picture:
            pixels = torch.from_numpy(np.array(picture.convert("RGB"))).movedim(-1, 0) / 255
    except OSError as error:
        raise InputError(f"{path}: can't be read ({one_line(str(error))}); run predict again") from None
    if pixels.shape != sample.image.shape:
        raise InputError(f"{path}: has another size than image {sample.id!r}; run predict again")
    return pixels
