"""Rows that a comparison is read by: what the model makes of the target prompts alone, and how the sources are judged.

An edit fails because of the editing, because its model can't draw what is asked for, or because the judge is wrong.
``generated`` shows the model's part: every target prompt drawn from noise, with the model, the number of steps and the
guidance of the first method's run. ``sources`` shows the judge's: every edit's source, measured with its own prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from locinv_pl.drawing import to_array, to_png
from locinv_pl.errors import InputError
from locinv_pl.io.files import read_image, read_json, write_atomically
from locinv_pl.measures.edits import Measures, MeasureSettings
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.generation import generate
from locinv_pl.networks.loading import load_as
from locinv_pl.networks.tuning import Tuning, use_one_thread
from locinv_pl.run.contents import EditScores
from locinv_pl.run.edit_files import list_edits
from locinv_pl.run.names import file_name
from locinv_pl.run.store import RunFolder, Scores

GENERATED, SOURCES = "generated", "sources"

Score = Callable[[RunFolder, Mapping[str, Any], Mapping[str, Any]], Scores]
"""Scores an image's edits: where its files go, its scores in the run, and what they are made by."""


class References:
    """Makes the reference rows for a run's edits.

    An image that was scored by the same prompts, noise and settings isn't made again.

    Args:
        run: a run whose edits are scored; gives the model, how it runs, and the sources.
        tests: the scores of its edits, one entry per image; give the prompts, and the networks that measure.
    """

    def __init__(self, run: RunFolder, tests: Sequence[Mapping[str, Any]]):
        self.run, self.settings = run, run.settings
        self.tests = [test for test in tests if test["edits"]]
        self.device = self.settings["rounding"]["device"]
        if self.device == "cpu":
            use_one_thread()  # as every process of a run has, so that seconds compare

    def generated(self, out: RunFolder, num_images: int) -> Scores:
        """Draw every target prompt from noise, as plain text.

        Args:
            out: where images and scores lie.
            num_images: how many images an edit has, 1 or more. The seeds are 0, 1, 2, … over all edits in their order.

        Returns:
            scores of edits: ``clip_target`` and ``success``, means over an edit's images, and ``seconds_per_edit``
            for one of them. There is no background to measure.

        Raises:
            InputError: the model can't be loaded.
        """
        seeds = accumulate((num_images * len(test["edits"]) for test in self.tests), initial=0)
        seed_of = {test["id"]: seed for test, seed in zip(self.tests, seeds, strict=False)}
        model = {key: self.settings[key] for key in ("backbone", "dtype", "num_steps")}
        model |= {"guidance_scale": self.settings["method"]["guidance_scale"], "num_images": num_images}
        return self._scored(out, lambda id: {**model, "seed": seed_of[id]}, self._draw)

    def sources(self, out: RunFolder) -> Scores:
        """Measure every edit's source with its own prompt.

        Args:
            out: where the scores lie.

        Returns:
            scores of edits, so that every source counts as often as in other rows: ``clip_target`` and ``success``.

        Raises:
            InputError: a source is missing.
        """
        return self._scored(out, lambda id: {"fingerprint": list_edits(self.run, id).get("fingerprint")}, self._look)

    def _scored(self, out: RunFolder, made_by: Callable[[str], dict[str, Any]], score: Score) -> Scores:
        """The scores of all images, those that ``out`` has and those that are made now."""
        made = []
        for test in self.tests:
            id, edits = test["id"], [{"kind": edit["kind"], "prompt": edit["prompt"]} for edit in test["edits"]]
            about = {"id": id, "prompt": test["prompt"], "reconstruction": {}}
            about["made_by"] = {**made_by(id), "edits": edits, "measures": test["measures"]}
            found: dict[str, Any] = {}
            with suppress(InputError):  # there is none, or a damaged one
                found = read_json(out.place("test", f"{file_name(id)}.json"), EditScores)
            if not about.items() <= found.items():
                scored = score(out, test, about["made_by"])
                found = {**about, "edits": [edit | one for edit, one in zip(edits, scored, strict=True)]}
                out.save_scores("test", id, found)
            made.append(found)
        return made

    def _draw(self, out: RunFolder, test: Mapping[str, Any], how: Mapping[str, Any]) -> Scores:
        """An image's target prompts from noise, all in a batch; a file for each prompt, its images side by side."""
        prompts = [edit["prompt"] for edit in test["edits"] for _ in range(how["num_images"])]
        backbone, began = self._backbone, time.perf_counter()
        images = generate(backbone, prompts, how["guidance_scale"], how["num_steps"], how["seed"])
        seconds = (time.perf_counter() - began) / len(prompts)
        scored: Scores = []
        for edit, some in zip(test["edits"], images.split(how["num_images"]), strict=True):
            file, arrays = f"{len(scored) + 1}-{file_name(edit['kind'])}.png", [to_array(image) for image in some]
            page = to_png(Image.fromarray(np.concatenate(arrays, axis=1)), {"prompt": edit["prompt"]})
            write_atomically(out.edits_path(test["id"], file), page)
            fits = [self._measures.fit(_pixels(array), edit["prompt"]) for array in arrays]
            known = {key: [value for fit in fits if (value := fit[key]) is not None] for key in fits[0]}
            means = {key: fmean(values) if values else None for key, values in known.items()}
            scored.append({"file": file, **means, "seconds_per_edit": seconds})
        return scored

    def _look(self, out: RunFolder, test: Mapping[str, Any], how: Mapping[str, Any]) -> Scores:
        """An image as it was, for each of its edits."""
        source = np.array(read_image(self.run.edits_path(test["id"], "source.png")))
        fit = self._measures.fit(_pixels(source), test["prompt"])
        return [{"prompt": test["prompt"], "file": "source.png", **fit}] * len(test["edits"])

    @cached_property
    def _backbone(self) -> Backbone:
        tuning = Tuning(**self.settings["rounding"]["tuning"])
        return load_as(self.settings, self.device, tuning)

    @cached_property
    def _measures(self) -> Measures:
        return Measures(MeasureSettings(**self.tests[0]["measures"]), self.device)


def _pixels(image: np.ndarray) -> Tensor:
    """An image of a file, (H, W, 3), as (3, H, W) in [0, 1]."""
    return torch.from_numpy(image).movedim(-1, 0) / 255
