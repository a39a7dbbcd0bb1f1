"""An independent judge of images from the drawn world: what is on them, in which colour, and how they fit a text.

Both of its networks learned from drawn images only, never from generated ones, and share nothing with the
text-to-image model but the tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from locinv_pl.assets import JUDGE
from locinv_pl.errors import InputError
from locinv_pl.words import inflect

CELL = 4  # image pixels to a side of the recogniser's cells


class Recognizer(nn.Module):
    """A small U-Net that names the noun and the colour of every cell of 4x4 pixels.

    Args:
        unet: diffusers' UNet2DModel; takes (B, 48, h, w), gives (B, 1 + num_nouns + num_colors, h, w).
        num_nouns: how many nouns it tells apart; the logits of "none of them" come first.
    """

    def __init__(self, unet: Any, num_nouns: int):
        super().__init__()
        self.unet, self.num_nouns = unet, num_nouns

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Name what is in every cell.

        Args:
            images: (B, 3, 4h, 4w) in [0, 1].

        Returns:
            logits of "none of them" and the nouns, (B, 1 + num_nouns, h, w), and of colours, (B, num_colors, h, w).
        """
        cells = F.pixel_unshuffle(images * 2 - 1, CELL)
        logits = self.unet(cells, 0).sample
        return logits[:, : 1 + self.num_nouns], logits[:, 1 + self.num_nouns :]


@dataclass(frozen=True)
class Sighting:
    """A noun that the judge sees on an image.

    Args:
        noun: the noun, in the singular.
        color: the likeliest colour over the cells that it covers.
        area: the share of the image that it covers, 0 to 1.
    """

    noun: str
    color: str
    area: float


class Judge:
    """Says what is on an image.

    Args:
        recognizer: the network for nouns and colours.
        clip: transformers' CLIPModel, which compares images with texts.
        tokenizer: the tokenizer of ``clip``.
        nouns: the words for the recogniser's classes of nouns, in their order.
        colors: the words for its classes of colours, in their order.
        world: the name of the drawn world that the networks know, "core" or "full".
        min_area: the smallest share of an image, 0 to 1, that counts as an object.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        clip: Any,
        tokenizer: Any,
        nouns: Sequence[str],
        colors: Sequence[str],
        world: str = "core",
        min_area: float = 0.012,
    ):
        self.recognizer, self.clip, self.tokenizer = recognizer, clip, tokenizer
        self.nouns, self.colors, self.world, self.min_area = tuple(nouns), tuple(colors), world, min_area
        for net in (recognizer, clip):
            net.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.clip.device

    @torch.no_grad()
    def see(self, images: Tensor) -> list[tuple[Sighting, ...]]:
        """Name the nouns on images.

        A noun is on an image if it is the likeliest in at least ``min_area`` of the cells; its colour is the
        likeliest over those cells.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            for each image its nouns, each of them once, the largest first.
        """
        nouns, colors = self.recognizer(self._resized(images.to(self.device)))
        winner, color_scores = nouns.argmax(1), colors.float().log_softmax(1)
        seen = []
        for cells, scores in zip(winner, color_scores, strict=True):
            sightings = []
            for index, noun in enumerate(self.nouns, start=1):
                region = cells == index
                area = region.float().mean().item()
                if area >= self.min_area:
                    color = self.colors[int(scores[:, region].sum(1).argmax())]
                    sightings.append(Sighting(noun, color, area))
            seen.append(tuple(sorted(sightings, key=lambda s: -s.area)))
        return seen

    @torch.no_grad()
    def clip_score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """How well each image fits its prompt: 100 max(0, cos(image, text)) (CLIPScore, arXiv 2104.08718).

        Args:
            images: (B, 3, H, W) in [0, 1].
            prompts: B of them.

        Returns:
            (B,), 0 to 100, on the CPU.
        """
        images = images.to(self.device)
        vision = self.clip.config.vision_config.image_size
        pixels = F.interpolate(images, size=(vision, vision), mode="bilinear", antialias=True) * 2 - 1
        tokens = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
        out = self.clip(input_ids=tokens.input_ids.to(images.device), pixel_values=pixels)
        cosine = (out.image_embeds * out.text_embeds).sum(-1)
        return 100 * cosine.clamp(min=0).cpu()

    def agrees(self, images: Tensor, prompts: Sequence[str]) -> list[bool | None]:
        """Whether each image shows what its prompt names, every noun in its colour where the prompt says one.

        A noun that the prompt doesn't name must not be there: an old object beside a new one is no swap.

        Args:
            images: (B, 3, H, W) in [0, 1].
            prompts: B of them.

        Returns:
            B answers; None for a prompt that names none of the judge's nouns, or one noun in two colours, since
            :meth:`see` sees each noun once.
        """
        return [self._agrees(prompt, seen) for prompt, seen in zip(prompts, self.see(images), strict=True)]

    def _agrees(self, prompt: str, seen: Sequence[Sighting]) -> bool | None:
        wanted: dict[str, set[str]] = {}
        words = re.findall(r"\w+", prompt.lower())
        for before, word in zip(["", *words], words, strict=False):
            if word in self._forms:
                wanted.setdefault(self._forms[word], set()).update({before} & {*self.colors})
        if not wanted or any(len(colors) > 1 for colors in wanted.values()):
            return None
        there = {sighting.noun: sighting.color for sighting in seen}
        return there.keys() == wanted.keys() and all(colors <= {there[noun]} for noun, colors in wanted.items())

    @cached_property
    def _forms(self) -> Mapping[str, str]:
        """Every noun by its singular and its plural."""
        return {form: noun for noun in self.nouns for form in (noun, inflect(noun, plural=True))}

    def _resized(self, images: Tensor) -> Tensor:
        side = self.recognizer.unet.config.sample_size * CELL
        if images.shape[-2:] == (side, side):
            return images
        return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def load_judge(folder: Path | str | None = None, device: torch.device | str = "cpu") -> Judge:
    """Load the judge of the embedded model's world, or one from another folder.

    Args:
        folder: a judge's folder as pretraining writes it; the package's own by default.
        device: where to put the networks.

    Raises:
        InputError: the folder holds no judge.
    """
    from diffusers import UNet2DModel
    from transformers import CLIPModel, CLIPTokenizer

    where = Path(folder or JUDGE)
    try:
        words = json.loads((where / "judge.json").read_text(encoding="utf-8"))
        unet = UNet2DModel.from_pretrained(where / "recognizer", torch_dtype=torch.float32)
        clip: Any = CLIPModel.from_pretrained(where / "clip", dtype=torch.float32)
        tokenizer = CLIPTokenizer.from_pretrained(where / "tokenizer")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"judge={where}: holds no judge ({error}); give a folder that pretraining wrote") from None
    return Judge(Recognizer(unet, len(words["nouns"])).to(device), clip.to(device), tokenizer, **words)
