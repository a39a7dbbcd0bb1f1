"""An edit of a photograph told as a command, and as Python."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pprint import pformat
from typing import Any

from torch import Tensor

from locinv_pl.editing.settings import EditSettings
from locinv_pl.photo.sample import Photo

Masks = Mapping[str, Sequence[str]]


def command_of(
    photo: Photo,
    edits: Sequence[str],
    settings: EditSettings = EditSettings(),
    *,
    image: str,
    masks: Masks | None = None,
    backbone: str = "embedded",
    method: str = "locinv_direct",
    num_steps: int | None = None,
    resolution: int = 16,
) -> str:
    """The command line that edits a photograph so; what has its default goes unsaid.

    Args:
        photo: with its prompt and priors.
        edits: target prompts.
        settings: how they are made.
        image: the photograph's file.
        masks: for every noun with masks their files, in their order.
        backbone: the model's name.
        method: the method's.
        num_steps: T; None is the method's own.
        resolution: R, side of the attention grid in cells.

    >>> from locinv_pl.photo.sample import open_photo
    >>> import torch
    >>> photo = open_photo(torch.zeros(3, 64, 64), "a cat on grass", {"cat": (8, 8, 40, 30)}, 64)
    >>> print(command_of(photo, ["a dog on grass"], EditSettings(swap_steps=0.5), image="my cat.jpg"))
    locinv photo 'image=my cat.jpg' 'prompt=a cat on grass' box.cat=8,8,40,30 'edit=a dog on grass' edit.swap_steps=0.5
    """
    words = [f"image={image}", f"prompt={photo.prompt}"]
    for noun, given in photo.priors.items():
        boxes = [",".join(f"{x:g}" for x in prior) for prior in given if not isinstance(prior, Tensor)]
        if boxes:
            words.append(f"box.{noun}={';'.join(boxes)}")
        elif masks and noun in masks:
            words.append(f"mask.{noun}={';'.join(masks[noun])}")
    words += [f"edit={prompt}" for prompt in edits]
    words += [f"edit.{key}={as_word(value)}" for key, value in changed(settings).items()]
    asked = {
        "backbone": (backbone, "embedded"),
        "method": (method, "locinv_direct"),
        "num_steps": (num_steps, None),
        "resolution": (resolution, 16),
        "fit": (photo.fit, "crop"),
    }
    words += [f"{key}={value}" for key, (value, default) in asked.items() if value != default]
    return " ".join(["locinv photo", *map(shlex.quote, words)])


def snippet_of(
    photo: Photo,
    edits: Sequence[str],
    settings: EditSettings = EditSettings(),
    *,
    image: str,
    masks: Masks | None = None,
    backbone: str = "embedded",
    method: str = "locinv_direct",
    num_steps: int | None = None,
    resolution: int = 16,
) -> str:
    """Python that edits a photograph so.

    Args:
        photo: as for :func:`command_of`.
        edits: as for :func:`command_of`.
        settings: as for :func:`command_of`.
        image: as for :func:`command_of`.
        masks: as for :func:`command_of`.
        backbone: as for :func:`command_of`.
        method: as for :func:`command_of`.
        num_steps: as for :func:`command_of`.
        resolution: as for :func:`command_of`.

    >>> from locinv_pl.photo.sample import open_photo
    >>> import torch
    >>> photo = open_photo(torch.zeros(3, 64, 64), "a cat on grass", {"cat": (8, 8, 40, 30)}, 64)
    >>> print(snippet_of(photo, ["a dog on grass"], image="cat.jpg"))
    from locinv_pl import EditSettings, edit, load_backbone
    from locinv_pl.photo import PhotoRun, open_photo
    <BLANKLINE>
    backbone = load_backbone('embedded')
    photo = open_photo('cat.jpg', 'a cat on grass', {'cat': (8, 8, 40, 30)}, backbone)
    inversion = PhotoRun("outputs/photo", backbone, 'locinv_direct').invert(photo)
    images = edit(backbone, inversion, ['a dog on grass'], EditSettings())  # (n, 3, H, W), in [0, 1]
    """
    priors: dict[str, Any] = {}
    for noun, given in photo.priors.items():
        own = iter((masks or {}).get(noun, ()))
        told = [next(own, "") if isinstance(prior, Tensor) else _numbers(prior) for prior in given]
        priors[noun] = told if len(told) > 1 else told[0]
    fit = "" if photo.fit == "crop" else f", fit={photo.fit!r}"
    steps = "" if num_steps is None else f", num_steps={num_steps}"
    steps += "" if resolution == 16 else f", resolution={resolution}"
    made = ", ".join(f"{key}={value!r}" for key, value in changed(settings).items())
    shown = pformat(priors, sort_dicts=False, width=10_000)
    return "\n".join(
        [
            "from locinv_pl import EditSettings, edit, load_backbone",
            "from locinv_pl.photo import PhotoRun, open_photo",
            "",
            f"backbone = load_backbone({backbone!r})",
            f"photo = open_photo({image!r}, {photo.prompt!r}, {shown}, backbone{fit})",
            f'inversion = PhotoRun("outputs/photo", backbone, {method!r}{steps}).invert(photo)',
            f"images = edit(backbone, inversion, {list(edits)!r}, EditSettings({made}))  # (n, 3, H, W), in [0, 1]",
        ]
    )


def changed(settings: EditSettings) -> dict[str, Any]:
    """The settings that differ from their defaults, by name.

    >>> changed(EditSettings(swap_steps=0.5))
    {'swap_steps': 0.5}
    """
    usual = EditSettings()
    each = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {name: value for name, value in each.items() if value != getattr(usual, name)}


def _numbers(box: Sequence[float]) -> tuple[float, ...]:
    return tuple(int(x) if x == int(x) else float(x) for x in box)


def as_word(value: Any) -> str:
    """A setting as a word of the command line has it."""
    return value if isinstance(value, str) else json.dumps(value)
