"""Photographs, inversions and edits on the disk, by keys that are hashes of what they are: nobody guesses one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from locinv_pl.api import OpenedImage, open_image
from locinv_pl.drawing import to_png
from locinv_pl.editing.prompt_to_prompt import Edited
from locinv_pl.errors import InputError
from locinv_pl.io.files import digest, read_tensors, write_atomically, write_tensors
from locinv_pl.io.frames import Fit
from locinv_pl.io.images import image_size
from locinv_pl.io.images import open_image as open_file
from locinv_pl.networks.backbone import Backbone
from locinv_pl.types import Inversion

KEY = re.compile(r"[0-9a-f]{64}")
GONE = "is no longer kept; open the photograph again"
MEGAPIXELS = 40
MEGABYTES = 20
LONGEST = 8  # times the side that a photograph's longer one may have: padded, it is as large as its square


@dataclass(frozen=True, eq=False)
class MadeEdit:
    """An edit as it was made, at one strength or several.

    Args:
        about: inversion, page, target, labels, settings and changed words, as plain values.
        before: what the model was shown, (3, H, W).
        reconstruction: of the source prompt, (3, H, W).
        images: (n, 3, H, W).
        masks: where each may differ from the reconstruction, (n, h, w); n is 0 where nothing was blended.
        maps: for each edit, by the words of ``about["words"]``, (r, c).
    """

    about: Mapping[str, Any]
    before: Tensor
    reconstruction: Tensor
    images: Tensor
    masks: Tensor
    maps: tuple[Mapping[str, Tensor], ...]


class Store:
    """A folder for what the page works on. It keeps the newest files, up to a size.

    Args:
        folder: made where it isn't there, for its owner alone.
        gigabytes: that it may hold.
        side: pixels to which the shorter side of a photograph is reduced, where it has more: a model sees less; the
            longer one to eight times as many.
    """

    def __init__(self, folder: Path, gigabytes: float = 4, side: int = 1024):
        self.folder, self.most, self.side = folder, int(gigabytes * 2**30), side
        for kind in ("photos", "inversions", "edits"):
            (folder / kind).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.opened = lru_cache(maxsize=8)(self._opened)
        self.shown = lru_cache(maxsize=8)(self._shown)

    def add_photo(self, content: bytes) -> str:
        """Keep a photograph's file.

        Returns:
            its key.

        Raises:
            InputError: it is too large, or no image.
        """
        if len(content) > MEGABYTES * 10**6:
            raise InputError(f"photograph: has {len(content) / 1e6:.0f} MB; {MEGABYTES} MB at most, so save it smaller")
        path = self._path("photos", key := sha256(content).hexdigest())
        write_atomically(path, content, lasting=False)
        try:
            width, height = image_size(path)
            if width * height > MEGAPIXELS * 10**6:
                raise InputError(
                    f"photograph: has {width * height / 1e6:.0f} megapixels; {MEGAPIXELS} at most, so save it smaller"
                )
            image = open_file(path)
        except InputError as error:
            path.unlink(missing_ok=True)
            raise InputError(str(error).replace(str(path), "photograph")) from None
        if (k := min(self.side / min(image.size), LONGEST * self.side / max(image.size))) < 1:
            size = (max(1, round(k * image.width)), max(1, round(k * image.height)))
            small = image.resize(size, Image.Resampling.LANCZOS)
            write_atomically(path, to_png(small), lasting=False)
        self._trim()
        return key

    def add_image(self, image: Image.Image) -> str:
        """Keep an image as a photograph."""
        return self.add_photo(to_png(image))

    def _opened(self, key: str, backbone: Backbone, fit: Fit) -> OpenedImage:
        """A photograph as a backbone sees it."""
        return open_image(self._there("photos", key), backbone, fit)

    def _shown(self, key: str) -> Image.Image:
        """A photograph upright and in sRGB, of its own size."""
        return open_file(self._there("photos", key))

    def photo_path(self, key: str) -> Path:
        """The photograph's file."""
        return self._there("photos", key)

    def has_inversion(self, key: str) -> bool:
        """Whether an inversion is kept."""
        return bool(KEY.fullmatch(key)) and self._path("inversions", key).exists()

    def add_inversion(self, key: str, inversion: Inversion) -> None:
        """Keep an inversion."""
        inversion.save(self._path("inversions", key))
        self._trim()

    def inversion(self, key: str) -> Inversion:
        """A kept inversion."""
        return Inversion.load(self._there("inversions", key))

    def inversion_path(self, key: str) -> Path:
        """The inversion's file."""
        return self._there("inversions", key)

    def has_edit(self, key: str) -> bool:
        """Whether an edit is kept."""
        return bool(KEY.fullmatch(key)) and self._path("edits", key).exists()

    def add_edit(self, key: str, about: Mapping[str, Any], before: Tensor, made: Edited) -> None:
        """Keep an edit."""
        words = [list(maps) for maps in made.maps]
        tensors = {"before": before, "reconstruction": made.reconstruction, "images": made.images, "masks": made.masks}
        tensors |= {f"map {n} {k}": each for n, maps in enumerate(made.maps) for k, each in enumerate(maps.values())}
        header = {"about": json.dumps({**about, "words": words, "changed": made.changed})}
        write_tensors(self._path("edits", key), tensors, header, lasting=False)
        self._trim()

    def edit(self, key: str) -> MadeEdit:
        """A kept edit."""
        tensors, header = read_tensors(self._there("edits", key))
        usual = {"model": {}, "dtype": "float32", "resolution": 16}  # older files don't have them
        about = {**usual, **json.loads(header["about"])}
        maps = tuple(
            {word: tensors[f"map {n} {k}"] for k, word in enumerate(words)} for n, words in enumerate(about["words"])
        )
        return MadeEdit(about, tensors["before"], tensors["reconstruction"], tensors["images"], tensors["masks"], maps)

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / (key if kind == "photos" else f"{key}.safetensors")

    def _there(self, kind: str, key: str) -> Path:
        what = {"photos": "photograph", "inversions": "inversion", "edits": "edit"}[kind]
        if not KEY.fullmatch(key) or not self._path(kind, key).exists():
            raise InputError(f"{what}: {GONE}")
        return self._path(kind, key)

    def _trim(self) -> None:
        """Delete the oldest files where all are too many bytes."""
        files = [path for path in self.folder.glob("*/*") if path.is_file()]
        stats = sorted(((path.stat().st_mtime, path.stat().st_size, path) for path in files), reverse=True)
        total = 0
        for _, size, path in stats:
            total += size
            if total > self.most:
                path.unlink(missing_ok=True)


def key_of(image: Tensor, prompt: str, priors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """What an inversion or an edit depends on, as a key."""
    planes = {f"prior {word}": plane.float() for word, plane in priors.items()}
    return digest(json.dumps([prompt, dict(settings)], sort_keys=True), {"image": image.to(torch.float32), **planes})
