"""Captions by BLIP (Li et al., arXiv 2201.12086)."""

from __future__ import annotations

from functools import cached_property, lru_cache

import torch
from PIL import Image

from locinv_pl.grounding.cache import Cache, as_rgb, fingerprint
from locinv_pl.grounding.models import FoundationModels, load
from locinv_pl.io.images import AnyImage
from locinv_pl.networks.hub import Loaded

DECODING = {"do_sample": False, "num_beams": 3, "max_length": 20, "min_length": 5}  # BLIP's own for COCO captions


class Blip:
    """Captions images with BLIP, by beam search: the same image, the same caption.

    Args:
        models: the hub ids, thresholds, cache and device.
    """

    def __init__(self, models: FoundationModels):
        self.models = models
        self._cache = Cache(models, "captions")

    def caption(self, image: Image.Image) -> str:
        """What the image shows, in one short phrase without a full stop.

        Args:
            image: of any size and mode.

        Raises:
            InputError: the model can't be loaded, or the cache can't be written.
        """
        image = image.convert("RGB")
        asked = {"picture": fingerprint(image), "captioner": self.models.captioner, "decoding": DECODING}
        return self._cache.recall(asked, lambda: self._describe(image))

    @cached_property
    def _captioner(self) -> Loaded:
        return load(self.models, "captioner")

    @torch.no_grad()
    def _describe(self, image: Image.Image) -> str:
        network, processor = self._captioner
        inputs = processor(images=image, return_tensors="pt").to(network.device)
        tokens = network.generate(**inputs, **DECODING)
        return processor.decode(tokens[0], skip_special_tokens=True).strip()


def caption(image: AnyImage, models: FoundationModels = FoundationModels()) -> str:
    """What an image shows, in one short phrase without a full stop.

    Args:
        image: a file, a PIL image, a (3, H, W) tensor or an (H, W, 3) array.
        models: BLIP's name, the cache and the device. The network of the last ``models`` stays in memory.

    Raises:
        InputError: the image can't be read, the model can't be loaded, or the cache can't be written.
    """
    return _blip(models).caption(as_rgb(image))


_blip = lru_cache(maxsize=1)(Blip)
