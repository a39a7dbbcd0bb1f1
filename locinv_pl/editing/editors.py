"""What all editors of diffusers share: what can be chosen, and how an image and a prior go in and come out."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import sqrt
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from locinv_pl.editing.recipes import PAINTERS
from locinv_pl.errors import InputError, check_choices
from locinv_pl.method.progress import nothing
from locinv_pl.networks.backbone import Backbone
from locinv_pl.words.alignment import edit_kind
from locinv_pl.words.tokens import tokenize

Name = Literal[
    "inpaint",
    "instruct_pix2pix",
    "diffedit",
    "ledits_pp",
    "kontext",
    "kontext_inpaint",
    "qwen_edit",
    "qwen_edit_plus",
    "qwen_inpaint",
    "klein",
    "klein_inpaint",
    "z_image_inpaint",
]
NUMBERS = (int, float)  # and bool, which is an int
NO_OPTIONS = {"num_images_per_prompt", "return_dict", "decode_latents", "callback_steps"}  # these change the answer
NO_OPTIONS |= {"reverse_editing_direction", "source_guidance_scale"}  # ours to say; acts on a prompt that we don't give
NO_OPTIONS |= {"max_area", "_auto_resize"}  # follow from the size


class Editor(Protocol):
    """Edits an image as two prompts say."""

    def __call__(self, image: Tensor, source: str, target: str, prior: Tensor | None = None) -> Tensor:
        """Edit one image; the same call gives the same image.

        Args:
            image: (3, H, W) in [0, 1], fp32, on the CPU.
            source: the prompt that describes the image.
            target: the prompt that describes what the image is to become.
            prior: where the edit may change the image, (H, W) in [0, 1] or bool. Only editors that paint need it.

        Returns:
            (3, H, W) in [0, 1], fp32, on the CPU.

        Raises:
            InputError: the prompts say the same or are too long, the editor can't take an image or a prior of this
                size, it needs a prior and there is none, or an option has a value that it can't have.
        """


@dataclass(frozen=True)
class EditorSettings:
    """Which of diffusers' editors edits, with which model and how.

    Args:
        editor: "inpaint", "instruct_pix2pix", "diffedit", "ledits_pp", or one of
            :data:`~locinv_pl.editing.recipes.RECIPES`.
        model: a local folder in diffusers' layout, a hub id, or "embedded"; null for the backbone's networks, which
            the first four can take.
        num_steps: denoising steps T, 1 or more; as many steps invert the image where the editor inverts it.
        guidance_scale: how strongly the target prompt guides the edit; null for the pipeline's own default.
        seed: where the noise begins; the same seed gives the same edit.
        dtype: the type of the model's weights, such as "float16"; without a model they stay the backbone's.
        options: other numbers and switches of the pipeline's calls, by their names in diffusers:
            ``{"strength": 0.8}``.
        size: the side in pixels of a square whose area the image is scaled to for the editor, and back, 32 or more.
            An editor that paints then leaves the image as it is, to the last bit, outside the prior. Null edits the
            image in its own size.

    Raises:
        InputError: there is no such editor, or no such number of steps or size.
    """

    editor: Name
    model: str | None = None
    num_steps: int = 50
    guidance_scale: float | None = None
    seed: int = 0
    dtype: str = "float32"
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        for key, value, least in (("num_steps", self.num_steps, 1), ("size", self.size, 32)):
            if not (isinstance(value, int) and value >= least or key == "size" and value is None):
                raise InputError(f"editor={self.editor}: {key}={value} must be {least} or more")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, as edits.json has them; without a size where there is none."""
        return {key: value for key, value in asdict(self).items() if (key, value) != ("size", None)}


class PipelineEditor(ABC):
    """An :class:`Editor` that runs a pipeline of diffusers.

    Args:
        settings: which editor, model and options.
        backbone: gives the networks where the settings name no model, and the device.
        on_pass: called before every pass of the denoiser.

    Raises:
        InputError: an option that the pipeline hasn't, or the model can't be loaded or isn't one for it.
    """

    calls: ClassVar[tuple[str, ...]] = ("__call__",)  # the pipeline's methods that run
    multiple: ClassVar[int] = 8  # of pixels along the image's sides
    limits_prompts: ClassVar[bool] = True  # to what the text encoder takes
    guidances: tuple[str, ...] = ("guidance_scale", "edit_guidance_scale")  # the arguments that guidance_scale goes to

    def __init__(self, settings: EditorSettings, backbone: Backbone, on_pass: Callable[[], None] = nothing):
        self.on_pass = on_pass
        self.settings, self._name = settings, f"editor={settings.editor}"
        self.paints = settings.editor in PAINTERS
        self.pipe = self._load(backbone)
        self.pipe.set_progress_bar_config(disable=True)
        self._check_options()

    def __call__(self, image: Tensor, source: str, target: str, prior: Tensor | None = None) -> Tensor:
        """See :class:`Editor`."""
        _refuse_same(source, target)
        h, w = image.shape[-2:]
        size = self._size(h, w)
        if prior is not None and prior.shape != (h, w):
            raise InputError(f"{self._name}: the prior's shape is {tuple(prior.shape)}, the image's {(h, w)}")
        if self.paints and prior is None:
            raise InputError(f"{self._name}: needs a prior that says where to paint; give one")
        for prompt in (source, target) if self.limits_prompts else ():
            tokenize(self.pipe.tokenizer, prompt)
        mask = None if prior is None else (prior.float() > 0.5).float()
        scaled = None if mask is None else _scaled(mask[None, None], size, "nearest-exact")[0, 0]
        with self._ready():
            try:
                edited = self._edit(_scaled(image[None], size), source, target, scaled)
            except InputError:
                raise
            except ValueError as error:  # diffusers' own check of an option's value
                raise InputError(f"{self._name}: {error}") from error
        edited = _scaled(edited.float().cpu(), (h, w)).clamp(0, 1)
        if mask is not None and self.paints and self.settings.size is not None:
            edited = torch.where(mask.bool(), edited, image)
        return edited[0]

    @abstractmethod
    def _load(self, backbone: Backbone) -> Any:
        """The pipeline."""

    @abstractmethod
    def _edit(self, image: Tensor, source: str, target: str, mask: Tensor | None) -> Tensor:
        """Edit an image of shape (1, 3, H, W), in a mask (H, W) of 0 and 1; gives the image's shape."""

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """A block in which the networks are as the pipeline needs them."""
        with _before_passes(getattr(self.pipe, "transformer", None) or self.pipe.unet, self.on_pass):
            yield

    def _size(self, h: int, w: int) -> tuple[int, int]:
        """Height and width of what the pipeline edits; no larger than told, as some pipelines would crop it."""
        if self.settings.size is None:
            if h % self.multiple or w % self.multiple:
                raise InputError(f"{self._name}: the image is {w}x{h}; its sides must be multiples of {self.multiple}")
            return h, w
        scale = self.settings.size / sqrt(h * w) / self.multiple * (1 + 1e-9)  # a float's error is no step down
        return max(1, int(h * scale)) * self.multiple, max(1, int(w * scale)) * self.multiple

    @property
    def _common(self) -> dict[str, Any]:
        steps, scale = self.settings.num_steps, self.settings.guidance_scale
        noise = torch.Generator().manual_seed(self.settings.seed)
        common = {"num_inference_steps": steps, "num_inversion_steps": steps, "generator": noise, "output_type": "pt"}
        return common if scale is None else {**common, **dict.fromkeys(self.guidances, scale)}

    def _run(self, call: str, **given: Any) -> Any:
        """Call a method of the pipeline with what is given and, of the settings, what it takes."""
        method = getattr(self.pipe, call)
        takes = inspect.signature(method).parameters
        settings = {key: value for key, value in {**self._common, **self.settings.options}.items() if key in takes}
        return method(**{**settings, **given})

    def _check_options(self) -> None:
        name = type(self.pipe).__name__
        calls = [inspect.signature(getattr(self.pipe, call)).parameters for call in self.calls]
        numbers = {name for call in calls for name, p in call.items() if isinstance(p.default, NUMBERS)}
        known = sorted(numbers - NO_OPTIONS - {*PipelineEditor.guidances, *self.guidances, *self._common})
        for key, value in self.settings.options.items():
            if key not in known:
                raise InputError(f"{self._name}: unknown option {key!r}; {name} has {', '.join(known)}")
            if not isinstance(value, NUMBERS):
                raise InputError(f"{self._name}: option {key}={value} must be a number, true or false")


def _scaled(images: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Images (B, C, H, W) in [0, 1] of another height and width; as they are where they have it."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode=mode, antialias=mode == "bicubic").clamp(0, 1)


def _refuse_same(source: str, target: str) -> None:
    if edit_kind(source, target) == "same":
        raise InputError(f"prompt {target!r}: is the source prompt; change a word of it")


@contextmanager
def _before_passes(net: torch.nn.Module, call: Callable[[], None]) -> Iterator[None]:
    """A block in which ``call`` comes before every pass of a network."""
    handle = net.register_forward_pre_hook(lambda module, args: call())
    try:
        yield
    finally:
        handle.remove()
