"""Edits of a photograph told as a command, and as Python."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pprint import pformat
from typing import Any

from torch import Tensor

from locinv_pl.editing.settings import EditSettings, as_word, changed
from locinv_pl.networks.options import LoadOptions
from locinv_pl.photo.sample import Photo


@dataclass(frozen=True, eq=False)
class PhotoEdit:
    """Edits of a photograph with all that makes them, for :func:`command_of` and :func:`snippet_of`.

    Args:
        photo: with its prompt and priors.
        prompts: target prompts.
        image: the photograph's file.
        masks: for every noun with masks their files, in their order.
        settings: how the edits are made.
        region: the file of a mask that says where they may change the image; None where none does.
        backbone: the model's name.
        model: what it is loaded with.
        dtype: of its weights.
        method: the method's name.
        num_steps: T; None is the method's own.
        resolution: R, side of the attention grid in cells.
    """

    photo: Photo
    prompts: Sequence[str]
    image: str
    masks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    settings: EditSettings = EditSettings()
    region: str | None = None
    backbone: str = "embedded"
    model: LoadOptions = LoadOptions()
    dtype: str = "float32"
    method: str = "locinv_direct"
    num_steps: int | None = None
    resolution: int = 16


def command_of(edit: PhotoEdit) -> str:
    """The command line that makes edits of a photograph; what has its default goes unsaid.

    Args:
        edit: the edits.

    >>> from locinv_pl.photo.sample import open_photo
    >>> import torch
    >>> photo = open_photo(torch.zeros(3, 64, 64), "a cat on grass", {"cat": (8, 8, 40, 30)}, 64)
    >>> print(command_of(PhotoEdit(photo, ["a dog on grass"], "my cat.jpg", settings=EditSettings(swap_steps=0.5))))
    locinv photo 'image=my cat.jpg' 'prompt=a cat on grass' box.cat=8,8,40,30 'edit=a dog on grass' edit.swap_steps=0.5
    """
    words = [f"image={edit.image}", f"prompt={edit.photo.prompt}"]
    for noun, given in edit.photo.priors.items():
        boxes = [",".join(f"{x:g}" for x in prior) for prior in given if not isinstance(prior, Tensor)]
        if boxes:
            words.append(f"box.{noun}={';'.join(boxes)}")
        elif noun in edit.masks:
            words.append(f"mask.{noun}={';'.join(edit.masks[noun])}")
    words += [f"edit={prompt}" for prompt in edit.prompts]
    words += [f"edit.{key}={as_word(value)}" for key, value in changed(edit.settings).items()]
    words += [f"{key}={value}" for key, value in _asked(edit, "backbone", "dtype", "method", "num_steps", "resolution")]
    words += [f"model.{key}={as_word(value)}" for key, value in edit.model.given.items()]
    words += [f"fit={edit.photo.fit}"] if edit.photo.fit != "crop" else []
    words += [f"region={edit.region}"] if edit.region else []
    return " ".join(["locinv photo", *map(shlex.quote, words)])


def snippet_of(edit: PhotoEdit) -> str:
    """Python that makes edits of a photograph.

    Args:
        edit: the edits.

    >>> from locinv_pl.photo.sample import open_photo
    >>> import torch
    >>> photo = open_photo(torch.zeros(3, 64, 64), "a cat on grass", {"cat": (8, 8, 40, 30)}, 64)
    >>> print(snippet_of(PhotoEdit(photo, ["a dog on grass"], "cat.jpg")))
    from locinv_pl import EditSettings, edit, load_backbone
    from locinv_pl.photo import PhotoRun, open_photo
    <BLANKLINE>
    backbone = load_backbone('embedded')
    photo = open_photo('cat.jpg', 'a cat on grass', {'cat': (8, 8, 40, 30)}, backbone)
    inversion = PhotoRun("outputs/photo", backbone, 'locinv_direct').invert(photo)
    images = edit(backbone, inversion, ['a dog on grass'], EditSettings())  # (n, 3, H, W), in [0, 1]
    """
    priors: dict[str, Any] = {}
    for noun, given in edit.photo.priors.items():
        own = iter(edit.masks.get(noun, ()))
        told = [next(own, "") if isinstance(prior, Tensor) else _numbers(prior) for prior in given]
        priors[noun] = told if len(told) > 1 else told[0]
    shown = pformat(priors, sort_dicts=False, width=10_000)
    fit = "" if edit.photo.fit == "crop" else f", fit={edit.photo.fit!r}"
    loaded = _words({**dict(_asked(edit, "dtype")), **edit.model.given})
    steps = _words(dict(_asked(edit, "num_steps", "resolution")))
    made = f"EditSettings({_words(changed(edit.settings)).removeprefix(', ')})"
    if edit.region:
        made += f", region=frame_mask(Path({edit.region!r}), photo.sample.frame)"
    return "\n".join(
        [
            *(["from pathlib import Path", ""] if edit.region else []),
            "from locinv_pl import EditSettings, edit, load_backbone",
            *(["from locinv_pl.io.frames import frame_mask"] if edit.region else []),
            "from locinv_pl.photo import PhotoRun, open_photo",
            "",
            f"backbone = load_backbone({edit.backbone!r}{loaded})",
            f"photo = open_photo({edit.image!r}, {edit.photo.prompt!r}, {shown}, backbone{fit})",
            f'inversion = PhotoRun("outputs/photo", backbone, {edit.method!r}{steps}).invert(photo)',
            f"images = edit(backbone, inversion, {list(edit.prompts)!r}, {made})  # (n, 3, H, W), in [0, 1]",
        ]
    )


def _asked(edit: PhotoEdit, *names: str) -> list[tuple[str, Any]]:
    """Those of some fields that aren't the default."""
    return [(name, value) for name in names if (value := getattr(edit, name)) != getattr(PhotoEdit, name)]


def _words(values: Mapping[str, Any]) -> str:
    """Keyword arguments, as they stand after other arguments."""
    return "".join(f", {key}={value!r}" for key, value in values.items())


def _numbers(box: Sequence[float]) -> tuple[float, ...]:
    return tuple(int(x) if x == int(x) else float(x) for x in box)
