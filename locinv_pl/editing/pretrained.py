"""Editors that diffusers' pipelines of today are: a pipeline as a whole, from a folder or the hub."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from PIL import Image
from torch import Tensor

from locinv_pl.drawing import to_array
from locinv_pl.editing.editors import PipelineEditor
from locinv_pl.editing.instructions import instruction
from locinv_pl.editing.recipes import RECIPES
from locinv_pl.errors import InputError
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.hub import from_disk_or_hub, reason, weights_type


class Pretrained(PipelineEditor):
    """A pipeline with networks of its own, called as its :class:`~locinv_pl.editing.recipes.Recipe` says.

    FLUX.1 Kontext (arXiv 2506.15742), FLUX.2 klein, Qwen-Image-Edit (arXiv 2508.02324) and Z-Image.
    """

    multiple = 32
    limits_prompts = False

    def _load(self, backbone: Backbone) -> Any:
        self.recipe = RECIPES[self.settings.editor]
        self.guidances = (self.recipe.guidance,)
        if self.settings.model is None:
            raise InputError(
                f"{self._name}: has networks of its own; give editor.model=, a folder or a hub id of a "
                f"{self.recipe.folders[0]}"
            )
        key = f"{self._name}: editor.model={self.settings.model}"
        return from_disk_or_hub(key, self.settings.model, partial(self._read, key)).to(backbone.device)

    def _read(self, key: str, where: str, local_files_only: bool) -> Any:
        import diffusers

        kind = getattr(diffusers, self.recipe.pipeline)
        there = kind.load_config(where, local_files_only=local_files_only).get("_class_name")
        if there not in self.recipe.folders:
            raise InputError(f"{key}: is a {there}; give a {' or '.join(self.recipe.folders)}")
        weights = weights_type(f"{key}: dtype", self.settings.dtype)
        try:
            return kind.from_pretrained(where, torch_dtype=weights, local_files_only=local_files_only)
        except ImportError as error:  # Qwen's processor of images and videos needs torchvision
            raise InputError(f"{key}: needs another library ({reason(error)}); install it") from error

    def _edit(self, image: Tensor, source: str, target: str, mask: Tensor | None) -> Tensor:
        h, w = image.shape[-2:]
        offered: dict[str, Any] = {"height": h, "width": w, "max_area": h * w, "_auto_resize": False}
        offered["negative_prompt"] = self.recipe.negative
        takes = inspect.signature(self.pipe.__call__).parameters
        given = {key: value for key, value in offered.items() if key in takes}
        if self.recipe.paints and mask is not None:
            given["mask_image"] = Image.fromarray(to_array(mask.expand(3, -1, -1))).convert("L")
        prompt = instruction(source, target) if self.recipe.instructed else target
        return self._run("__call__", prompt=prompt, image=Image.fromarray(to_array(image[0])), **given).images
