"""Answers of foundation models on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from locinv_pl.drawing import to_array
from locinv_pl.errors import InputError
from locinv_pl.grounding.models import FoundationModels
from locinv_pl.io.files import write_json
from locinv_pl.io.images import AnyImage, as_image

FORMAT = 1  # of the cache's files; a new one when their content or its making changes


class Cache:
    """Answers on disk, one JSON file for each question, named by the question's hash; written whole or not at all.

    A file that is damaged, down to a single digit, counts as absent: it holds its answer's hash.

    Args:
        models: whose ``cache`` is the folder of all answers.
        kind: the folder in it for these, as "masks".
    """

    def __init__(self, models: FoundationModels, kind: str):
        self._key, self._folder = f"{models.KEY}.cache={models.cache}", Path(models.cache).expanduser() / kind

    def recall(self, asked: Mapping[str, Any], answer: Callable[[], Any]) -> Any:
        """The answer to a question, from its file, or else computed and written there.

        Args:
            asked: the question: all that the answer depends on, as JSON keeps it.
            answer: computes what JSON keeps as it is.

        Raises:
            InputError: the folder can't be written.
        """
        question = {"format": FORMAT, **asked}
        path = self._folder / f"{_digest(question)}.json"
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_bytes())
            if _digest(kept["answer"]) == kept["sha256"]:
                return kept["answer"]
        new = answer()
        try:
            write_json(path, {"asked": question, "answer": new, "sha256": _digest(new)})
        except InputError:
            raise InputError(f"{self._key}: can't be written; give a folder that can") from None
        return new


def as_rgb(image: AnyImage) -> Image.Image:
    """An image of any kind in RGB, with the pixels, and so the answers, that its file has in a data module.

    Args:
        image: what :func:`~locinv_pl.io.images.as_image` takes.

    Raises:
        InputError: as there.
    """
    return Image.fromarray(to_array(as_image(image)))


def fingerprint(image: Image.Image) -> str:
    """SHA-256 of an RGB image's size and pixels."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
