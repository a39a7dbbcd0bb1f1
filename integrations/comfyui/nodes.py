"""The nodes. Images are ComfyUI's: IMAGE is (B, H, W, 3) in [0, 1], MASK (B, H, W) in [0, 1].

Links of types of their own carry the engine's objects: a model, priors by noun, an inversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor

from locinv_pl import EditSettings, InputError, find_priors, iter_edit, load_backbone
from locinv_pl.api import invert_sample
from locinv_pl.drawing import overlay
from locinv_pl.grounding import FoundationModels
from locinv_pl.io.frames import Fit
from locinv_pl.networks.options import LoadOptions
from locinv_pl.photo import open_photo

MODEL, PRIORS, INVERSION = "LOCINV_MODEL", "LOCINV_PRIORS", "LOCINV_INVERSION"
DEVICES = ["auto", "cpu", "cuda", "mps"]
USUAL = EditSettings()


class Node:
    """What all nodes have in common: their place in the menu, and that ComfyUI's inference mode ends at them."""

    CATEGORY = "LocInv"
    FUNCTION = "execute"
    run: Callable[..., tuple[Any, ...]]

    def execute(self, **inputs: Any) -> tuple[Any, ...]:
        """Run the node; an inversion needs gradients."""
        with torch.inference_mode(False):
            return self.run(**inputs)


class Load(Node):
    """A model: a folder in diffusers' layout, a checkpoint in one file, a hub id, or "embedded"."""

    RETURN_TYPES, RETURN_NAMES = (MODEL,), ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Its name, the type of its weights, its device, and what else it is loaded with; "" for what isn't given."""
        return {
            "required": {
                "name": ("STRING", {"default": "embedded"}),
                "dtype": (["float32", "bfloat16", "float16"],),
                "device": (DEVICES,),
            },
            "optional": {name: _input(kind) for name, kind in get_type_hints(LoadOptions).items()},
        }

    def run(self, name: str, dtype: str, device: str, **options: Any) -> tuple[Any, ...]:
        """Load it."""
        given = {key: value for key, value in options.items() if value}
        return (load_backbone(name, dtype, _device(device), **given),)


class PriorFromMask(Node):
    """Where a noun of the prompt is: a mask of the image's size."""

    RETURN_TYPES, RETURN_NAMES = (PRIORS,), ("priors",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The noun, its mask, and the priors of other nouns."""
        return {"required": {"noun": ("STRING", {"default": "cat"}), "mask": ("MASK",)}, "optional": _before()}

    def run(self, noun: str, mask: Tensor, priors: dict[str, Any] | None = None) -> tuple[Any, ...]:
        """Add it."""
        return ({**(priors or {}), noun: _one(mask, "mask").cpu()},)


class PriorFromBox(Node):
    """Where a noun of the prompt is: a box in the image's pixels."""

    RETURN_TYPES, RETURN_NAMES = (PRIORS,), ("priors",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The noun, the box's corner and size, and the priors of other nouns."""
        numbers = {name: ("INT", {"default": 0, "min": 0, "max": 16384}) for name in ("x", "y")}
        numbers |= {name: ("INT", {"default": 64, "min": 1, "max": 16384}) for name in ("width", "height")}
        return {"required": {"noun": ("STRING", {"default": "cat"}), **numbers}, "optional": _before()}

    def run(
        self, noun: str, x: int, y: int, width: int, height: int, priors: dict[str, Any] | None = None
    ) -> tuple[Any, ...]:
        """Add it."""
        return ({**(priors or {}), noun: (x, y, width, height)},)


class PriorsBySam(Node):
    """Where nouns of the prompt are, by Grounding DINO and SAM or SAM 2, or by SAM 3 without a detector."""

    RETURN_TYPES, RETURN_NAMES = (PRIORS, "MASK"), ("priors", "masks")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The image, the nouns with commas between them, the models, and the priors of other nouns."""
        usual = FoundationModels()
        return {
            "required": {
                "image": ("IMAGE",),
                "nouns": ("STRING", {"default": "cat, dog"}),
                "detector": ("STRING", {"default": usual.detector}),
                "segmenter": ("STRING", {"default": usual.segmenter}),
                "box_threshold": ("FLOAT", {"default": usual.box_threshold, "min": 0.0, "max": 1.0, "step": 0.01}),
                "cache": ("STRING", {"default": usual.cache}),
                "device": (DEVICES,),
            },
            "optional": _before(),
        }

    def run(
        self,
        image: Tensor,
        nouns: str,
        detector: str,
        segmenter: str,
        box_threshold: float,
        cache: str,
        device: str,
        priors: dict[str, Any] | None = None,
    ) -> tuple[Any, ...]:
        """Find them; the masks come in the nouns' order."""
        models = FoundationModels(
            detector=detector, segmenter=segmenter, box_threshold=box_threshold, cache=cache, device=_device(device)
        )
        words = [word.strip() for word in nouns.split(",") if word.strip()]
        found = {noun: mask.float() for noun, mask in find_priors(_image(image), words, models).items()}
        return {**(priors or {}), **found}, torch.stack(list(found.values()))


class Invert(Node):
    """An image inverted: what edits start from. It takes minutes for a large model, and is worth keeping."""

    RETURN_TYPES, RETURN_NAMES = (INVERSION, "IMAGE"), ("inversion", "image")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The model, the image with its prompt and priors, the method, T (0 for the method's own), R, the frame."""
        methods = sorted(p.name.removesuffix(".yaml") for p in (files("locinv_pl.configs") / "method").iterdir())
        return {
            "required": {
                "model": (MODEL,),
                "image": ("IMAGE",),
                "prompt": ("STRING", {"default": "a cat on grass", "multiline": True}),
                "priors": (PRIORS,),
                "method": (methods, {"default": "locinv_direct"}),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1000}),
                "resolution": ("INT", {"default": 16, "min": 1, "max": 128}),
                "fit": (list(get_args(Fit)), {"default": "crop"}),
            }
        }

    def run(
        self,
        model: Any,
        image: Tensor,
        prompt: str,
        priors: dict[str, Any],
        method: str,
        steps: int,
        resolution: int,
        fit: Fit,
    ) -> tuple[Any, ...]:
        """Invert it; the image comes back as the model sees it."""
        sample = open_photo(_image(image), prompt, priors, model, fit).sample
        with torch.enable_grad():
            inversion = _run(invert_sample(model, sample, method, steps or None, resolution), 2)
        return inversion, _images(sample.image[None])


class EditImage(Node):
    """An inverted image edited by prompts."""

    RETURN_TYPES = ("IMAGE", "IMAGE", "MASK")
    RETURN_NAMES = ("images", "reconstruction", "masks")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The model, the inversion, a target prompt on each line, how they are made, and where they may change it."""
        shares = ("cross_replace_steps", "swap_steps", "self_replace_steps", "attribute_steps")
        choices = {name: list(get_args(kind)) for name, kind in get_type_hints(EditSettings).items()}
        return {
            "required": {
                "model": (MODEL,),
                "inversion": (INVERSION,),
                "prompts": ("STRING", {"default": "a dog on grass", "multiline": True}),
                **{
                    name: ("FLOAT", {"default": getattr(USUAL, name), "min": 0.0, "max": 1.0, "step": 0.05})
                    for name in shares
                },
                "blend": (choices["blend"], {"default": USUAL.blend}),
                "keep": (choices["keep"], {"default": USUAL.keep}),
            },
            "optional": {"region": ("MASK",)},
        }

    def run(
        self, model: Any, inversion: Any, prompts: str, region: Tensor | None = None, **settings: Any
    ) -> tuple[Any, ...]:
        """Edit it; all prompts run as one batch."""
        lines = [line.strip() for line in prompts.splitlines() if line.strip()]
        if not lines:
            raise InputError("prompts: is empty; give a target prompt on each line")
        place = None if region is None else _one(region, "region").cpu()
        edited = _run(iter_edit(model, inversion, lines, EditSettings(**settings), place), 1)
        masks = F.interpolate(edited.masks[:, None], edited.images.shape[-2:], mode="nearest")[:, 0]
        return _images(edited.images), _images(edited.reconstruction[None]), masks


class Maps(Node):
    """Where the nouns' tokens look: the mean attention maps over the image, before and after the optimisation."""

    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "IMAGE"), ("maps", "ddim_maps")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inversion, and the image as the model sees it."""
        return {"required": {"inversion": (INVERSION,), "image": ("IMAGE",)}}

    def run(self, inversion: Any, image: Tensor) -> tuple[Any, ...]:
        """Draw an image for each noun."""
        if not inversion.nouns:
            raise InputError("maps: the inversion has no noun with a prior; add one")
        under = _image(image)
        return tuple(
            torch.stack([torch.from_numpy(overlay(under, plane)).float() / 255 for plane in maps.mean(0)])
            for maps in (inversion.maps, inversion.initial_maps)
        )


def _input(kind: Any) -> tuple[Any, ...]:
    """An option that may stay away, as ComfyUI's: a choice, a switch, or a text."""
    choices = [value for each in (kind, *get_args(kind)) if get_origin(each) is Literal for value in get_args(each)]
    if choices:
        return (["", *choices],)
    return ("BOOLEAN", {"default": False}) if kind is bool else ("STRING", {"default": ""})


def _before() -> dict[str, Any]:
    return {"priors": (PRIORS,)}


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _one(batch: Tensor, name: str) -> Tensor:
    """The one image or mask of a batch.

    Raises:
        InputError: it has several.
    """
    if len(batch) != 1:
        raise InputError(f"{name}: has {len(batch)} images; give one")
    return batch[0].clone()  # ComfyUI's tensors are of its inference mode


def _image(batch: Tensor) -> Tensor:
    """ComfyUI's image as the engine's, (3, H, W)."""
    return _one(batch, "image")[..., :3].movedim(-1, 0).float().cpu().clamp(0, 1)


def _images(images: Tensor) -> Tensor:
    """The engine's images (n, 3, H, W) as ComfyUI's."""
    return images.movedim(1, -1).contiguous()


def _run(steps: Iterator[Any], phases: int) -> Any:
    """What has been made, with ComfyUI's progress bar moved and its interrupts seen after every timestep."""
    after_each: Callable[[int], None] | None = None
    result = None
    for progress in steps:
        after_each = after_each or _progress(phases * progress.total)
        after_each(1)
        result = progress.result
    return result


def _progress(total: int) -> Callable[[int], None]:
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted
        from comfy.utils import ProgressBar
    except ImportError:
        return lambda steps: None
    bar = ProgressBar(total)

    def update(steps: int) -> None:
        throw_exception_if_processing_interrupted()
        bar.update(steps)

    return update


NODE_CLASS_MAPPINGS = {
    "LocInvLoad": Load,
    "LocInvPriorFromMask": PriorFromMask,
    "LocInvPriorFromBox": PriorFromBox,
    "LocInvPriorsBySam": PriorsBySam,
    "LocInvInvert": Invert,
    "LocInvEdit": EditImage,
    "LocInvMaps": Maps,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LocInvLoad": "LocInv: load model",
    "LocInvPriorFromMask": "LocInv: prior from mask",
    "LocInvPriorFromBox": "LocInv: prior from box",
    "LocInvPriorsBySam": "LocInv: priors by SAM",
    "LocInvInvert": "LocInv: invert",
    "LocInvEdit": "LocInv: edit",
    "LocInvMaps": "LocInv: attention maps",
}
