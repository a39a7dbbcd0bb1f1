"""COCO-format folders: pictures, instances, captions, and edits where there are some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from datamodules.base import EditDataModule
from datamodules.coco import CocoSamples
from locinv_pl.types import EditSample


class CocoEditDataModule(EditDataModule):
    """Every picture of a COCO-format folder whose caption names an object annotated on it.

    Args:
        root: the folder.
        prior: "segment" for the masks, "box" for the bounding boxes.
        batch_size: pictures that are inverted together.
        size: side of the square that pictures are cropped and resized to; the backbone's by default.
        num_images: the first so many; all by default.
        instances, captions, edits: annotation files, relative to ``root``; ``edits`` may be missing.
        images: the folder of the pictures, relative to ``root``.
    """

    name = "coco_edit"

    def __init__(
        self,
        root: str,
        prior: Literal["segment", "box"] = "segment",
        batch_size: int = 4,
        size: int | None = None,
        num_images: int | None = None,
        instances: str = "annotations/instances.json",
        captions: str = "annotations/captions.json",
        edits: str = "annotations/edits.json",
        images: str = "images",
    ):
        super().__init__(prior, batch_size, size)
        self.root, self.num_images = root, num_images
        self.files = {"instances": instances, "captions": captions, "edits": edits, "images": images}

    @property
    def settings(self) -> dict[str, Any]:
        """What the samples depend on."""
        return {**super().settings, "root": str(self.root), **self.files}

    def load(self, size: int) -> tuple[Sequence[EditSample], Sequence[str]]:
        """Read the annotations; pictures are opened one by one."""
        samples = CocoSamples(self.root, self.prior, size, **self.files)  # type: ignore[arg-type]
        return samples, samples.ids[: self.num_images]
