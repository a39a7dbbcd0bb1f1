"""Any COCO-format folder as a sequence of edit samples.

The annotations are read and checked at once (annotations.py); pictures are opened one by one, when
they are asked for (pictures.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from pycocotools import mask as mask_utils
from torch import Tensor

from datamodules.annotations import AnnotationReader, Entry, Instance, Mention, PriorKind
from datamodules.pictures import SquareCrop, read_picture
from locinv_pl.errors import InputError
from locinv_pl.priors import box_mask
from locinv_pl.types import Adjective, EditSample, Noun


class CocoSamples(Sequence[EditSample]):
    """The pictures of a COCO-format folder that have a caption naming an annotated object.

    The prompt is a picture's first caption that names a category annotated on it; every mention of
    such a category is a noun. Where a prompt mentions a category as often as the picture shows it,
    mention j belongs to instance j (by annotation id), else every mention to all its instances, or to
    those that its adjectives describe.

    Args:
        root: the folder.
        prior: "segment" for segmentation maps, "box" for filled boxes.
        size: pictures are cropped to their centre square and resized to size x size.
        instances, captions: COCO's annotation files, relative to ``root``.
        edits: a list of {"image_id", "kind", "prompt"}; may be missing.
        images: the folder of the pictures, relative to ``root``.

    Attributes:
        ids: the names of the pictures' files without suffix, in order.

    Raises:
        InputError: a file or annotation is missing or wrong. Pictures are opened, and their
            problems found, by indexing.
    """

    def __init__(
        self,
        root: str | Path,
        prior: PriorKind = "segment",
        size: int = 512,
        instances: str = "annotations/instances.json",
        captions: str = "annotations/captions.json",
        edits: str = "annotations/edits.json",
        images: str = "images",
    ) -> None:
        root = Path(root)
        if prior not in ("segment", "box"):
            raise InputError(f"prior={prior}: no such prior; choose segment or box")
        if size < 1:
            raise InputError(f"size={size}: not a picture's side; give a number of pixels")
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; give the folder of a COCO-format dataset")
        if not (root / images).is_dir():
            raise InputError(f"{root / images}: no such folder; say in images= where the pictures are")
        self.prior = prior
        self.size = size
        self._entries = AnnotationReader(root / instances, root / captions, root / edits, prior).entries(root / images)
        self.ids: list[str] = [entry.id for entry in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> EditSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[EditSample]: ...
    def __getitem__(self, index: int | slice) -> EditSample | list[EditSample]:
        if isinstance(index, slice):
            return [self._load(entry) for entry in self._entries[index]]
        return self._load(self._entries[index])

    def _load(self, entry: Entry) -> EditSample:
        crop = SquareCrop.centre(entry.width, entry.height)
        image = crop.picture(read_picture(entry.path, entry.width, entry.height), self.size)
        nouns = tuple(self._noun(mention, crop) for mention in entry.mentions)
        adjectives = tuple(
            Adjective(entry.prompt[slice(*mention.adjective)], mention.adjective, noun=k)
            for k, mention in enumerate(entry.mentions)
            if mention.adjective is not None
        )
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return EditSample(entry.id, pixels, entry.prompt, nouns, adjectives, entry.edits)

    def _noun(self, mention: Mention, crop: SquareCrop) -> Noun:
        segments = [instance.rle for instance in mention.instances if instance.rle is not None]
        unsegmented = [instance for instance in mention.instances if instance.rle is None]
        planes = [self._box_plane(instance, crop) for instance in unsegmented]
        if segments:
            union = torch.from_numpy(mask_utils.decode(mask_utils.merge(segments)))
            planes.append(crop.plane(union, self.size))
        shape = torch.stack(planes).amax(0)
        prior = shape
        if self.prior == "box":
            prior = torch.stack([self._box_plane(i, crop) for i in mention.instances]).amax(0)
        return Noun(mention.word, mention.span, prior, mask=shape >= 0.5)

    def _box_plane(self, instance: Instance, crop: SquareCrop) -> Tensor:
        assert instance.box is not None  # the reader asks for a box where no segmentation can do
        return box_mask(crop.box(instance.box, self.size), (self.size, self.size))
