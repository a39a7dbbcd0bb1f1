"""Finished pictures and their scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from locinv_pl.backbone import Backbone
from locinv_pl.drawing import to_array, to_png
from locinv_pl.editing import EditSettings
from locinv_pl.metrics import attention_iou, psnr
from locinv_pl.store import RunFolder, write_json
from locinv_pl.types import Edit, EditSample, Inversion, write_atomically


@dataclass(frozen=True, eq=False)
class Result:
    """A picture with its inversion, its reconstruction and the VAE's own, (3, H, W) in [0, 1], and scores."""

    sample: EditSample
    inversion: Inversion
    reconstruction: Tensor
    vae: Tensor
    scores: dict[str, Any]


@dataclass(frozen=True, eq=False)
class EditResult:
    """An inverted picture with its reconstruction (3, H, W) and its edits' pictures (n, 3, H, W), in [0, 1]."""

    sample: EditSample
    inversion: Inversion
    settings: EditSettings
    reconstruction: Tensor
    edits: tuple[Edit, ...]
    pictures: Tensor


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
        "psnr": psnr(back, sample.image).item(),
        "psnr_vae": psnr(vae, sample.image).item(),
        "token_steps": int(inversion.token_steps.sum()),
        "null_steps": int(inversion.null_steps.sum()),
    }


def save_edits(run: RunFolder, result: EditResult) -> None:
    """Write ``edits/<id>/``: source.png, reconstruction.png, a numbered PNG for each edit, and edits.json.

    Every PNG holds the prompt and the settings in its metadata; edits.json is written last.
    """
    folder = run.edits_path(result.sample.id)
    settings, prompt = result.settings.to_dict(), result.sample.prompt
    shown = {
        "source": (result.sample.image, result.sample.prompt),
        "reconstruction": (result.reconstruction, result.inversion.prompt),
    }
    named = [(f"{n}-{edit.kind}", edit) for n, edit in enumerate(result.edits, start=1)]
    shown |= {name: (picture, edit.prompt) for (name, edit), picture in zip(named, result.pictures, strict=True)}
    for name, (picture, made_by) in shown.items():
        about = {"prompt": made_by, "source_prompt": prompt, "settings": json.dumps(settings)}
        write_atomically(folder / f"{name}.png", to_png(Image.fromarray(to_array(picture)), about))
    rows = [{"file": f"{name}.png", "kind": edit.kind, "prompt": edit.prompt} for name, edit in named]
    write_json(folder / "edits.json", {"id": result.sample.id, "prompt": prompt, "settings": settings, "edits": rows})
