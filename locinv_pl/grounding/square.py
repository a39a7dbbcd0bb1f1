"""Images and nouns as SAM 2 and SAM 3 take them, prepared with Pillow: transformers' own needs torchvision for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


class SquareProcessor:
    """Stretches images to the square that SAM 2 takes, and its masks back; interface of transformers' SamProcessor.

    Args:
        values: of the model's preprocessor_config.json: ``size``, ``image_mean``, ``image_std``, ``resample``
            (2, bilinear, by default) and ``rescale_factor`` (1/255 by default).
    """

    def __init__(self, values: Mapping[str, Any]):
        self.size: tuple[int, int] = (values["size"]["height"], values["size"]["width"])
        self.mean, self.std = (np.array(values[name], dtype=np.float32) for name in ("image_mean", "image_std"))
        self.resample, self.scale = values.get("resample", 2), values.get("rescale_factor", 1 / 255)

    @classmethod
    def from_pretrained(cls, where: str, local_files_only: bool, backend: str = "pil") -> SquareProcessor:
        """Read a model's folder or hub id, as transformers' processors do."""
        return cls(_values(where, local_files_only))

    def __call__(self, images: Image.Image, return_tensors: str = "pt") -> Any:
        """One image as ``pixel_values`` (1, 3, S, S), with its own size and the square's, (H, W), as (1, 2) each."""
        from transformers import BatchFeature

        small = np.asarray(images.resize(self.size[::-1], Image.Resampling(self.resample)), dtype=np.float32)
        pixels = torch.from_numpy((small * np.float32(self.scale) - self.mean) / self.std).movedim(-1, 0)[None]
        sizes = [[images.size[::-1]], [self.size]]
        original, reshaped = (torch.tensor(size) for size in sizes)
        return BatchFeature({"pixel_values": pixels, "original_sizes": original, "reshaped_input_sizes": reshaped})

    def post_process_masks(self, masks: Sequence[Tensor], original_sizes: Tensor, reshaped_input_sizes: Any) -> Any:
        """Logits of masks (n, C, h, w), by image, as bool masks (n, C, H, W) of the image's size."""
        sizes = original_sizes.tolist()
        return [F.interpolate(logits, size, mode="bilinear") > 0 for logits, size in zip(masks, sizes, strict=True)]


class SquareTextProcessor(SquareProcessor):
    """The same with a tokenizer, for SAM 3.

    Args:
        values: as for :class:`SquareProcessor`.
        tokenizer: of transformers, CLIP's.
    """

    def __init__(self, values: Mapping[str, Any], tokenizer: Any):
        super().__init__(values)
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, where: str, local_files_only: bool, backend: str = "pil") -> SquareTextProcessor:
        """Read a model's folder or hub id, as transformers' processors do."""
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(where, local_files_only=local_files_only)
        return cls(_values(where, local_files_only), tokenizer)


def _values(where: str, local_files_only: bool) -> Mapping[str, Any]:
    from transformers import BaseImageProcessor

    return BaseImageProcessor.get_image_processor_dict(where, local_files_only=local_files_only)[0]
