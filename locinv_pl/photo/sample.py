"""A photograph with its prompt and priors: as it is given, and as a model sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import yaml
from PIL import Image
from torch import Tensor

from locinv_pl.api import Prior, are_several, make_sample, open_image, read_prior
from locinv_pl.drawing import to_array, to_png
from locinv_pl.errors import InputError
from locinv_pl.io.files import write_atomically
from locinv_pl.io.frames import Fit, inside
from locinv_pl.io.images import AnyImage, Size, as_image
from locinv_pl.networks.backbone import Backbone
from locinv_pl.run.names import file_name
from locinv_pl.types import EditSample


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph, its prompt, and where its nouns are.

    Args:
        name: of its file, without suffix; "photo" where it has none.
        pixels: at its own size, upright and in sRGB, (3, H, W) in [0, 1].
        priors: for every noun its boxes (x, y, w, h) in those pixels and its masks (H, W): one, or one for each time
            that the noun stands in the prompt.
        fit: how it is framed.
        sample: what the model sees, its ``id`` made of the name and of all of the above.
    """

    name: str
    pixels: Tensor
    priors: Mapping[str, Sequence[Tensor | tuple[float, ...]]]
    fit: Fit
    sample: EditSample

    @property
    def prompt(self) -> str:
        """The source prompt."""
        return self.sample.prompt

    @property
    def masks(self) -> dict[str, list[int]]:
        """For every noun with masks their numbers among its places, from 1."""
        each = {
            noun: [number for number, prior in enumerate(given, start=1) if isinstance(prior, Tensor)]
            for noun, given in self.priors.items()
        }
        return {noun: numbers for noun, numbers in each.items() if numbers}

    @property
    def image_file(self) -> str:
        """Where :func:`save_photo` writes the pixels, below its folder."""
        return f"{file_name(self.sample.id)}.png"

    def mask_file(self, noun: str, number: int) -> str:
        """Where :func:`save_photo` writes a noun's mask, below its folder; ``number`` is as in :attr:`masks`."""
        return f"masks/{file_name(f'{self.sample.id}-{noun}-{number}')}.png"


def open_photo(
    image: AnyImage,
    prompt: str,
    priors: Mapping[str, Prior | list[Prior]],
    backbone: Backbone | int,
    fit: Fit = "crop",
    name: str | None = None,
) -> Photo:
    """Open a photograph of any size for a model, with its prompt and priors.

    Args:
        image: a file, a PIL image, a (3, H, W) tensor or an (H, W, 3) array.
        prompt: the source prompt.
        priors: for every noun a mask of the photograph's own size, or a box (x, y, w, h) in its own pixels; a list of
            n where the noun stands n times in the prompt.
        backbone: the model, or the side in pixels of the images that it takes.
        fit: "crop" shows the centred square, "pad" the whole image between black bars, "native" keeps its shape.
        name: of the photograph; by default that of its file.

    Raises:
        InputError: the image or a mask can't be read, a noun isn't in the prompt, or a prior is empty, of another size,
            or outside the part of the photograph that is shown.

    >>> import torch
    >>> photo = open_photo(torch.zeros(3, 60, 80), "a cat on grass", {"cat": (20, 10, 40, 30)}, 32)
    >>> photo.sample.nouns[0].word, tuple(photo.sample.image.shape), int(photo.sample.nouns[0].mask.sum())
    ('cat', (3, 32, 32), 350)
    """
    pixels = as_image(image)
    opened = open_image(pixels, backbone, fit)
    size = (pixels.shape[-1], pixels.shape[-2])
    own = {
        noun: [_own(prior, size, noun) for prior in (given if are_several(given) else [cast("Prior", given)])]
        for noun, given in priors.items()
    }
    planes: dict[str, Prior | list[Prior]] = {}
    for noun, given in own.items():
        framed: list[Prior] = [
            opened.frame.plane(prior) if isinstance(prior, Tensor) else opened.frame.box_plane(cast("tuple", prior))
            for prior in given
        ]
        if not all(inside(cast("Tensor", plane)).any() for plane in framed):
            raise InputError(
                f"noun {noun!r}: the part of the image that is shown has nothing of its prior; "
                f"use fit=pad or native, or draw it there"
            )
        planes[noun] = framed if len(framed) > 1 else framed[0]
    name = name or (Path(image).stem if isinstance(image, (str, Path)) else "photo")
    sample = make_sample(opened.image, prompt, planes, id=name)
    sample = EditSample(
        id=f"{name}-{sample.fingerprint[:8]}",
        image=sample.image,
        prompt=sample.prompt,
        nouns=sample.nouns,
        adjectives=sample.adjectives,
        frame=opened.frame,
    )
    return Photo(name, pixels, own, fit, sample)


def save_photo(photo: Photo, folder: Path, edits: Iterable[str] = ()) -> Path:
    """Write a photograph as a folder that ``data=folder`` reads: the image, its masks, and samples.yaml.

    Args:
        photo: to write.
        folder: where; a samples.yaml that is there is written anew.
        edits: target prompts, which samples.yaml then names.

    Returns:
        the path of samples.yaml. Its one sample has the photograph's ``sample.id``, and there the run's own pixels and
        priors with the same ``data.fit``.

    >>> from tempfile import TemporaryDirectory
    >>> import torch
    >>> photo = open_photo(torch.zeros(3, 60, 80), "a cat on grass", {"cat": (20, 10, 40, 30)}, 32, name="cat")
    >>> with TemporaryDirectory() as folder:
    ...     print(save_photo(photo, Path(folder)).read_text().replace(photo.sample.id, "ID"))
    - id: ID
      image: ID.png
      prompt: a cat on grass
      priors:
        cat: [20, 10, 40, 30]
      edits: []
    <BLANKLINE>
    """
    id = photo.sample.id
    write_atomically(folder / photo.image_file, to_png(Image.fromarray(to_array(photo.pixels))))
    priors: dict[str, object] = {}
    for noun, given in photo.priors.items():
        told: list[object] = []
        for number, prior in enumerate(given, start=1):
            if isinstance(prior, Tensor):
                told.append(photo.mask_file(noun, number))
                grey = Image.fromarray((prior.numpy() * 255).round().astype(np.uint8))
                write_atomically(folder / str(told[-1]), to_png(grey))
            else:
                told.append(_Box(int(x) if x == int(x) else float(x) for x in prior))
        priors[noun] = told if len(told) > 1 else told[0]
    rows = [{"id": id, "image": photo.image_file, "prompt": photo.prompt, "priors": priors, "edits": list(edits)}]
    path = folder / "samples.yaml"
    write_atomically(path, yaml.dump(rows, Dumper=_Dumper, sort_keys=False, allow_unicode=True).encode())
    return path


class _Box(list):  # type: ignore[type-arg]
    """A box, which YAML has on one line."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _Box, lambda dumper, box: dumper.represent_sequence("tag:yaml.org,2002:seq", box, flow_style=True)
)


def _own(prior: Prior, size: Size, noun: str) -> Tensor | tuple[float, ...]:
    """A prior in the photograph's own pixels: a mask (H, W) of 0 and 1, or a box."""
    where = f"noun {noun!r}"
    given = read_prior(prior, size, where)
    if not isinstance(given, Tensor):
        return given
    mask = inside(given)
    if tuple(mask.shape) != size[::-1]:
        raise InputError(
            f"{where}: its mask is {mask.shape[1]}x{mask.shape[0]} but the image is {size[0]}x{size[1]}; "
            f"make both the same size"
        )
    if not mask.any():
        raise InputError(f"{where}: its mask is empty; draw it where the {noun} is")
    return mask.float()
