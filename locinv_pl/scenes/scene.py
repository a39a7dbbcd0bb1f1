"""What a drawn scene is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from locinv_pl.scenes.captions import Caption, Said

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SceneObject:
    """An object of a scene.

    Attributes:
        noun: its category in the singular, as "cat".
        color: the name of its colour; "" where the material replaces it.
        mask: (H, W), exactly the pixels that show it.
        material: its pattern or material; "" for plain paint.
    """

    noun: str
    color: str
    mask: Mask = field(repr=False)
    material: str = ""

    @property
    def look(self) -> str:
        """Its colour, or the material that replaces it."""
        return self.color or self.material


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn image, RGB, and what is on it.

    Attributes:
        objects: in the order in which the caption names them.
        background: its name, said or not.
        wording: the caption in parts.
    """

    image: Image.Image
    objects: tuple[SceneObject, ...]
    background: str
    wording: Caption

    @property
    def caption(self) -> str:
        """All objects, left out none: "a red cat and a blue car on the grass"."""
        return self.wording.text

    @property
    def said(self) -> tuple[Said, ...]:
        """Where the caption names every object."""
        places = self.wording.said
        return tuple(places[k] for k in range(len(self.objects)))
