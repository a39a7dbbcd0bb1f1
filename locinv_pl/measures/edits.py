"""What an edit keeps of an image, and how well it does what the target prompt asks for.

The measures are those of PIE-Bench's evaluation (Ju et al., PnP Inversion, arXiv 2310.01506), with two more: the
similarity of a ViT's features, DINO's for photographs, and whether the judge of the drawn world sees what the prompt
names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from locinv_pl.drawing import to_array
from locinv_pl.editing.rows import changed_nouns
from locinv_pl.errors import InputError
from locinv_pl.measures.judge import Judge, load_judge
from locinv_pl.measures.metrics import (
    background_lpips,
    background_mse,
    background_psnr,
    background_ssim,
    check_lpips,
    fp32,
    lpips,
    psnr,
    ssim,
    structure_distance,
    with_border,
)
from locinv_pl.networks.hub import load_pretrained
from locinv_pl.types import Edit, EditSample
from locinv_pl.words.alignment import align
from locinv_pl.words.tokens import tokenize

JUDGE = "judge"


@dataclass(frozen=True)
class MeasureSettings:
    """Which networks look at edits. The embedded judge's know drawn scenes only; for photographs name others.

    Args:
        clip: the CLIP that compares images with prompts: "judge" for the embedded judge's, a hub id, or a local
            folder in transformers' layout. PIE-Bench's is openai/clip-vit-large-patch14.
        vit: the ViT whose features compare edits with their sources: "judge" for the image tower of the judge's
            CLIP, a hub id, or a local folder. PIE-Bench's is facebook/dino-vitb8.
        vit_range: the value of white as the ViT sees it, more than 0, before its mean and deviation are taken off.
            DINO learned with 1; PIE-Bench's own code doesn't scale images for it: give 255 to compare with its
            tables.
        lpips: whether LPIPS of reconstructions and backgrounds is measured, which needs torchvision.

    Raises:
        InputError: the range isn't positive, or LPIPS is asked for and torchvision is missing.
    """

    clip: str = JUDGE
    vit: str = JUDGE
    vit_range: float = 1.0
    lpips: bool = False

    def __post_init__(self) -> None:
        if not self.vit_range > 0:
            raise InputError(f"measures.vit_range={self.vit_range}: must be more than 0; give 1 or 255")
        if self.lpips:
            check_lpips()


class Measures:
    """Measures edits, one by one.

    Args:
        settings: which networks look at the edits.
        device: the device of these networks.

    Raises:
        InputError: a network can't be loaded.
    """

    def __init__(self, settings: MeasureSettings, device: torch.device | str = "cpu"):
        self.settings, self.device = settings, torch.device(device)
        judge, white = load_judge(device=device), settings.vit_range
        self.clip = judge if settings.clip == JUDGE else Clip.load(settings.clip, self.device)
        self.vit = ViT.of_judge(judge, white) if settings.vit == JUDGE else ViT.load(settings.vit, white, self.device)

    @torch.no_grad()
    def score(
        self, source: Tensor, edited: Tensor, target_prompt: str, region: Tensor | None = None
    ) -> dict[str, float | None]:
        """Measure one edit.

        Args:
            source: the image before the edit, (3, H, W) in [0, 1].
            edited: the image after the edit, (3, H, W) in [0, 1].
            target_prompt: the prompt that describes what the image is to become.
            region: where the edit changes the image, (H, W), bool; its outermost frame of one pixel counts as
                edited in any case.

        Returns:
            The measures by name.

            - structure_distance: see :func:`~locinv_pl.measures.metrics.structure_distance`;
            - background_psnr in dB, background_mse, background_ssim, and background_lpips where asked for: of what
              lies outside the region; None without a region or without anything outside of it;
            - clip_target: 100 max(0, cos) of the edited image with the target prompt;
            - clip_edited: the same with all black but the region; None without a region;
            - dino_similarity: cosine of the ViT's CLS features of both images;
            - success: 1 if the judge sees what the prompt names, else 0; None if it knows nothing of that, or
              where ``settings.clip`` is another network.
        """
        source, edited = source.to(self.device), edited.to(self.device)
        region = None if region is None else with_border(region.to(self.device))
        with fp32(self.device.type):
            keys, features = self.vit(torch.stack([source, edited]))
            fit = self.fit(edited, target_prompt)
            return {
                "structure_distance": structure_distance(keys[1], keys[0]).item(),
                **self._background(source, edited, region),
                "clip_target": fit["clip_target"],
                "clip_edited": None if region is None else self._clip_score(edited * region, target_prompt),
                "dino_similarity": F.cosine_similarity(features[0], features[1], dim=0).item(),
                "success": fit["success"],
            }

    @torch.no_grad()
    def fit(self, image: Tensor, prompt: str) -> dict[str, float | None]:
        """Measure how well an image shows what a prompt names.

        Args:
            image: (3, H, W) in [0, 1].
            prompt: the prompt.

        Returns:
            ``clip_target`` and ``success``, as :meth:`score` has them.
        """
        image = image.to(self.device)
        with fp32(self.device.type):
            agrees = self.clip.agrees(image[None], [prompt])[0] if isinstance(self.clip, Judge) else None
            clip_target = self._clip_score(image, prompt)
        return {"clip_target": clip_target, "success": None if agrees is None else float(agrees)}

    @torch.no_grad()
    def reconstruction(self, source: Tensor, reconstruction: Tensor) -> dict[str, float]:
        """Measure one reconstruction.

        Args:
            source: the image, (3, H, W) in [0, 1].
            reconstruction: what came back, (3, H, W) in [0, 1].

        Returns:
            psnr in dB, ssim, and lpips where the settings ask for it.
        """
        measures = {"psnr": psnr, "ssim": ssim, **({"lpips": lpips} if self.settings.lpips else {})}
        images = reconstruction.to(self.device), source.to(self.device)
        with fp32(self.device.type):
            return {name: measure(*images).item() for name, measure in measures.items()}

    def _background(self, source: Tensor, edited: Tensor, region: Tensor | None) -> dict[str, float | None]:
        measures = {
            "background_psnr": background_psnr,
            "background_mse": background_mse,
            "background_ssim": background_ssim,
            **({"background_lpips": background_lpips} if self.settings.lpips else {}),
        }
        if region is None or region.all():
            return dict.fromkeys(measures)
        return {name: measure(edited, source, region).item() for name, measure in measures.items()}

    def _clip_score(self, image: Tensor, prompt: str) -> float:
        return self.clip.clip_score(image[None], [prompt]).item()


class Clip:
    """A CLIP that compares images with prompts.

    Args:
        network: transformers' CLIPModel.
        processor: transformers' CLIPProcessor, which prepares its images and prompts.
    """

    def __init__(self, network: Any, processor: Any):
        self.network, self.processor = network, processor

    @classmethod
    def load(cls, name: str, device: torch.device) -> Clip:
        """Load a CLIP.

        Args:
            name: a local folder in transformers' layout, or a hub id.
            device: where to put the network.

        Raises:
            InputError: it can't be loaded, or isn't a CLIP.
        """
        from transformers import CLIPModel, CLIPProcessor

        network, processor = load_pretrained(f"measures.clip={name}", name, CLIPModel, CLIPProcessor)
        return cls(network.to(device), processor)

    @torch.no_grad()
    def clip_score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """As :meth:`locinv_pl.measures.judge.Judge.clip_score`; long prompts are cut where the text encoder ends.

        Args:
            images: (B, 3, H, W) in [0, 1].
            prompts: B of them.

        Returns:
            (B,), 0 to 100, on the CPU.
        """
        inputs = self.processor(
            text=list(prompts),
            images=[to_array(image) for image in images],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.network.config.text_config.max_position_embeddings,
        )
        out = self.network(**inputs.to(self.network.device))
        cosine = F.cosine_similarity(out.image_embeds, out.text_embeds)
        return 100 * cosine.clamp(min=0).cpu()


class ViT:
    """A ViT whose last features compare two images.

    Args:
        network: transformers' ViTModel, or the image tower of a CLIP; takes images (B, 3, side, side).
        side: side of its images in pixels; images of another size or shape are resized to it.
        mean: mean of its images' three channels, which is taken off.
        std: standard deviation of these channels, by which the rest is divided.
        white: the value of white before the mean is taken off, more than 0.
    """

    def __init__(self, network: Any, side: int, mean: Sequence[float], std: Sequence[float], white: float = 1.0):
        self.network, self.side, self.white = network, side, white
        self.mean, self.std = (torch.tensor(v, device=network.device).view(3, 1, 1) for v in (mean, std))
        self.is_clip = network.config.model_type == "clip_vision_model"
        # The last block's keys: "key" in the first versions of transformers 5.
        self.key = [m for name, m in network.named_modules() if name.rpartition(".")[2] in ("k_proj", "key")][-1]

    @classmethod
    def load(cls, name: str, white: float, device: torch.device) -> ViT:
        """Load a ViT.

        Args:
            name: a local folder in transformers' layout, or a hub id.
            white: the value of white before the mean is taken off, more than 0.
            device: where to put the network.

        Raises:
            InputError: it can't be loaded, or isn't a ViT.
        """
        from transformers import AutoImageProcessor, ViTModel

        network, processor = load_pretrained(f"measures.vit={name}", name, ViTModel, AutoImageProcessor)
        return cls(network.to(device), network.config.image_size, processor.image_mean, processor.image_std, white)

    @classmethod
    def of_judge(cls, judge: Judge, white: float) -> ViT:
        """The image tower of the judge's CLIP.

        Args:
            judge: the judge.
            white: the value of white before the mean is taken off, more than 0.
        """
        tower = judge.clip.vision_model
        return cls(tower, tower.config.image_size, [0.5] * 3, [0.5] * 3, white)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Look at images.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            the keys of the last block, the heads side by side, of the CLS token and all patches, (B, 1 + patches, D);
            and the features of the CLS token after the last layer norm, (B, D).
        """
        pixels = F.interpolate(images, size=(self.side, self.side), mode="bilinear", antialias=True)
        keys: list[Tensor] = []
        with self.key.register_forward_hook(lambda module, args, output: keys.append(output)):
            out = self.network(pixel_values=(self.white * pixels - self.mean) / self.std)
        return keys[0], out.pooler_output if self.is_clip else out.last_hidden_state[:, 0]


def edit_region(sample: EditSample, tokenizer: Any, edit: Edit, by_prior: bool = False) -> Tensor | None:
    """Where an edit changes the image: what the data says, else the masks of the nouns that the prompt changes.

    Args:
        sample: the image, its prompt and its nouns.
        tokenizer: the text encoder's tokenizer, by whose tokens the prompts are compared.
        edit: the edit, with its target prompt.
        by_prior: whether to take the nouns' priors, which an editor may know, in place of their ground truth.

    Returns:
        (H, W), bool, or in [0, 1] with ``by_prior``; None where the data names no region and no noun changes.
    """
    if sample.region is not None:
        return sample.region
    source, target = (tokenize(tokenizer, text, sample.id) for text in (sample.prompt, edit.prompt))
    places = [source.positions(noun.span) for noun in sample.nouns]
    weighted = [span for span, _ in edit.weights]
    changed = changed_nouns(places, source, target, align(source, target), weighted)
    planes = [sample.nouns[k].prior if by_prior else sample.nouns[k].mask for k in changed]
    return torch.stack(planes).amax(0) if planes else None
