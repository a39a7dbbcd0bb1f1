"""Other editors to compare with, through diffusers' pipelines: an image and two prompts in, an image out.

:func:`load_editor` reads the presets in configs/editor/*.yaml. An editor's networks are those of a
:class:`~locinv_pl.networks.backbone.Backbone`, which a pipeline leaves as they were.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, get_args

import torch
import yaml
from torch import Tensor

from locinv_pl.errors import InputError, check_choices
from locinv_pl.method.policies import preset_file
from locinv_pl.method.progress import nothing
from locinv_pl.networks.architectures.stable_diffusion import StableDiffusion
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import load_backbone
from locinv_pl.types import Span, overlap
from locinv_pl.words import load_words
from locinv_pl.words.alignment import edit_kind, word_changes
from locinv_pl.words.tokens import tokenize

Name = Literal["inpaint", "instruct_pix2pix", "diffedit", "ledits_pp"]
NUMBERS = (int, float)  # and bool, which is an int
NO_OPTIONS = {"num_images_per_prompt", "return_dict", "decode_latents", "callback_steps"}  # these change the answer
NO_OPTIONS |= {"reverse_editing_direction", "source_guidance_scale"}  # ours to say; acts on a prompt that we don't give
LOOSE = {"a", "an", "the", "and", "with"}  # say nothing at the ends of a phrase


class Editor(Protocol):
    """Edits an image as two prompts say."""

    def __call__(self, image: Tensor, source: str, target: str, prior: Tensor | None = None) -> Tensor:
        """Edit one image; the same call gives the same image.

        Args:
            image: (3, H, W) in [0, 1], fp32, on the CPU.
            source: the prompt that describes the image.
            target: the prompt that describes what the image is to become.
            prior: where the edit may change the image, (H, W) in [0, 1] or bool. Only inpainting needs it.

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
        editor: "inpaint", "instruct_pix2pix", "diffedit" or "ledits_pp".
        model: a local folder in diffusers' layout, a hub id, or "embedded"; null for the backbone's networks.
        num_steps: denoising steps T, 1 or more; as many steps invert the image where the editor inverts it.
        guidance_scale: how strongly the target prompt guides the edit; null for the pipeline's own default.
        seed: where the noise begins; the same seed gives the same edit.
        dtype: the type of the model's weights, such as "float16"; without a model they stay the backbone's.
        options: other numbers and switches of the pipeline's calls, by their names in diffusers:
            ``{"strength": 0.8}``.

    Raises:
        InputError: there is no such editor, or no such number of steps.
    """

    editor: Name
    model: str | None = None
    num_steps: int = 50
    guidance_scale: float | None = None
    seed: int = 0
    dtype: str = "float32"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choices(self)
        if not isinstance(self.num_steps, int) or self.num_steps < 1:
            raise InputError(f"editor={self.editor}: num_steps={self.num_steps} must be 1 or more")


def load_editor(name_or_path: str | Path, backbone: Backbone) -> Editor:
    """Load an editor by a preset's name ("inpaint", "instruct_pix2pix", "diffedit", "ledits_pp") or a YAML file.

    Args:
        name_or_path: the preset, or the file with the values of an :class:`EditorSettings`.
        backbone: gives the networks where no model is named, and the device.

    Returns:
        an editor that edits images one by one.

    Raises:
        InputError: no such preset or file, a key, value or option that the editor hasn't, or the model can't be
            loaded or isn't one for this editor.
    """
    path = preset_file("editor", name_or_path)
    known = [f.name for f in fields(EditorSettings)]
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputError(f"{path}: is no YAML; give a file with the values of an editor") from None
    if not isinstance(values, dict) or "editor" not in values:
        raise InputError(f"{path}: names no editor; give editor: one of {', '.join(get_args(Name))}")
    for key in values:
        if key not in known:
            raise InputError(f"{path}: unknown key {key!r}; an editor has {', '.join(known)}")
    settings = EditorSettings(**values | {"options": values.get("options") or {}})
    return make_editor(settings, backbone)


def make_editor(settings: EditorSettings, backbone: Backbone, on_pass: Callable[[], None] = nothing) -> Editor:
    """Make the editor that settings describe.

    Args:
        settings: which editor, model and options.
        backbone: gives the networks where the settings name no model, and the device.
        on_pass: called before every pass of the editor's UNet.

    Returns:
        an editor that edits images one by one.

    Raises:
        InputError: an option that the pipeline hasn't, or the model can't be loaded or isn't one for this editor.
    """
    return EDITORS[settings.editor](settings, backbone, on_pass)


class PipelineEditor(ABC):
    """An :class:`Editor` that runs a pipeline of diffusers.

    Args:
        settings: which editor, model and options.
        backbone: gives the networks where the settings name no model, and the device.
        on_pass: called before every pass of the UNet.

    Raises:
        InputError: an option that the pipeline hasn't, or the model can't be loaded or isn't one for it.
    """

    pipeline: ClassVar[str]  # diffusers' class
    calls: ClassVar[tuple[str, ...]] = ("__call__",)  # its methods that run
    channels: ClassVar[tuple[tuple[int, int], ...]] = ((1, 0),)  # (a, b): its UNet may take a C + b, C a latent's
    multiple: ClassVar[int] = 8  # of pixels along the image's sides

    def __init__(self, settings: EditorSettings, backbone: Backbone, on_pass: Callable[[], None] = nothing):
        import diffusers

        self.on_pass = on_pass

        self.settings, self._name = settings, f"editor={settings.editor}"
        if settings.model is not None:
            try:
                backbone = load_backbone(settings.model, settings.dtype, backbone.device, for_editors=True)
            except InputError as error:
                raise InputError(f"{self._name}: {error}") from error
        if backbone.offload:
            raise InputError(f"{self._name}: needs the whole model on the device; leave out model.offload")
        if type(backbone) is not StableDiffusion:
            raise InputError(
                f"{self._name}: model {backbone.name!r} isn't of Stable Diffusion 1.x's or 2.x's layout; give another"
            )
        self.unet, takes = backbone.unet, backbone.unet.config.in_channels
        allowed = [a * backbone.vae.config.latent_channels + b for a, b in self.channels]
        if takes not in allowed:
            needs = " or ".join(str(n) for n in allowed)
            raise InputError(
                f"{self._name}: the UNet of model {backbone.name!r} takes {takes} channels, this editor needs one "
                f"that takes {needs}; give another model"
            )
        parts = {name: getattr(backbone, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        schedulers = self._schedulers(backbone.scheduler.config)
        self.pipe = getattr(diffusers, self.pipeline)(**parts, **schedulers)
        self.pipe.set_progress_bar_config(disable=True)
        self._check_options()

    def __call__(self, image: Tensor, source: str, target: str, prior: Tensor | None = None) -> Tensor:
        """See :class:`Editor`."""
        _refuse_same(source, target)
        h, w = image.shape[-2:]
        if h % self.multiple or w % self.multiple:
            raise InputError(f"{self._name}: the image is {w}x{h}; its sides must be multiples of {self.multiple}")
        if prior is not None and prior.shape != (h, w):
            raise InputError(f"{self._name}: the prior's shape is {tuple(prior.shape)}, the image's {(h, w)}")
        for prompt in (source, target):
            tokenize(self.pipe.tokenizer, prompt)
        with _attention_restored(self.unet), _before_passes(self.unet, self.on_pass):
            try:
                edited = self._edit(image[None], source, target, prior)
            except InputError:
                raise
            except ValueError as error:  # diffusers' own check of an option's value
                raise InputError(f"{self._name}: {error}") from error
        return edited[0].float().clamp(0, 1).cpu()

    @abstractmethod
    def _edit(self, image: Tensor, source: str, target: str, prior: Tensor | None) -> Tensor:
        """Edit an image of shape (1, 3, H, W); gives the same shape."""

    def _schedulers(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The pipeline's kind of schedulers, with the model's noise levels."""
        from diffusers import DDIMScheduler

        return {"scheduler": DDIMScheduler.from_config(config)}

    @property
    def _common(self) -> dict[str, Any]:
        steps, scale = self.settings.num_steps, self.settings.guidance_scale
        noise = torch.Generator().manual_seed(self.settings.seed)
        common = {"num_inference_steps": steps, "num_inversion_steps": steps, "generator": noise, "output_type": "pt"}
        return common if scale is None else {**common, "guidance_scale": scale, "edit_guidance_scale": scale}

    def _run(self, call: str, **given: Any) -> Any:
        """Call a method of the pipeline with what is given and, of the settings, what it takes."""
        method = getattr(self.pipe, call)
        takes = inspect.signature(method).parameters
        settings = {key: value for key, value in {**self._common, **self.settings.options}.items() if key in takes}
        return method(**{**settings, **given})

    def _check_options(self) -> None:
        calls = [inspect.signature(getattr(self.pipe, call)).parameters for call in self.calls]
        numbers = {name for call in calls for name, p in call.items() if isinstance(p.default, NUMBERS)}
        known = sorted(numbers - NO_OPTIONS - {"guidance_scale", "edit_guidance_scale", *self._common})
        for key, value in self.settings.options.items():
            if key not in known:
                raise InputError(f"{self._name}: unknown option {key!r}; {self.pipeline} has {', '.join(known)}")
            if not isinstance(value, NUMBERS):
                raise InputError(f"{self._name}: option {key}={value} must be a number, true or false")


class Inpaint(PipelineEditor):
    """Paints the target prompt where the prior is above one half.

    A UNet of 9 channels, in general of 2 C + 1, sees the mask and the image around it (Rombach et al., arXiv
    2112.10752). With one of 4, or C, the rest is put back at every step, as in Blended Latent Diffusion (Avrahami et
    al., arXiv 2206.02779).
    """

    pipeline, channels = "StableDiffusionInpaintPipeline", ((1, 0), (2, 1))

    def __init__(self, settings: EditorSettings, backbone: Backbone, on_pass: Callable[[], None] = nothing):
        super().__init__(settings, backbone, on_pass)
        unet = copy(self.unet)  # with the same networks; the pipeline tells the two kinds apart by the numbers 4 and 9
        unet.register_to_config(in_channels=4 if unet.config.in_channels == self.pipe.vae.config.latent_channels else 9)
        self.pipe.unet = unet

    def _edit(self, image: Tensor, source: str, target: str, prior: Tensor | None) -> Tensor:
        if prior is None:
            raise InputError(f"{self._name}: needs a prior that says where to paint; give one")
        mask, (h, w) = (prior.float() > 0.5).float()[None, None], image.shape[-2:]
        return self._run("__call__", prompt=target, image=image, mask_image=mask, height=h, width=w).images


class InstructPix2Pix(PipelineEditor):
    """Follows an instruction, written from the two prompts (Brooks et al., arXiv 2211.09800)."""

    pipeline, channels = "StableDiffusionInstructPix2PixPipeline", ((2, 0),)

    def _edit(self, image: Tensor, source: str, target: str, prior: Tensor | None) -> Tensor:
        order = instruction(source, target)
        tokenize(self.pipe.tokenizer, order)
        return self._run("__call__", prompt=order, image=image).images

    def _schedulers(self, config: Mapping[str, Any]) -> dict[str, Any]:
        from diffusers import EulerAncestralDiscreteScheduler

        return {"scheduler": EulerAncestralDiscreteScheduler.from_config(config, timestep_spacing="linspace")}


class DiffEdit(PipelineEditor):
    """Inverts without a prompt, and edits where the two prompts' noise differs (Couairon et al., arXiv 2210.11427)."""

    pipeline, calls = "StableDiffusionDiffEditPipeline", ("generate_mask", "invert", "__call__")

    def _edit(self, image: Tensor, source: str, target: str, prior: Tensor | None) -> Tensor:
        mask = self._run("generate_mask", image=image, source_prompt=source, target_prompt=target)
        latents = self._run("invert", prompt="", image=image, guidance_scale=1.0).latents
        return self._run("__call__", prompt=target, mask_image=mask, image_latents=latents).images

    def _schedulers(self, config: Mapping[str, Any]) -> dict[str, Any]:
        from diffusers import DDIMInverseScheduler

        return {**super()._schedulers(config), "inverse_scheduler": DDIMInverseScheduler.from_config(config)}


class LeditsPP(PipelineEditor):
    """LEDITS++: inverts into the noise of every step, then guides from what goes to what comes.

    Brack et al., arXiv 2311.16711. What is replaced is guided away from; what is only described anew is not.
    """

    pipeline, calls = "LEditsPPPipelineStableDiffusion", ("invert", "__call__")
    multiple = 32

    def __init__(self, settings: EditorSettings, backbone: Backbone, on_pass: Callable[[], None] = nothing):
        super().__init__(settings, backbone, on_pass)
        if (latent := self.pipe.vae.config.latent_channels) != 4:
            raise InputError(
                f"{self._name}: diffusers' pipeline knows latents of 4 channels alone, those of this model have "
                f"{latent}; give another in editor.model="
            )
        encode = self.pipe.encode_prompt

        def encode_prompt(*args: Any, editing_prompt: Sequence[str], **kwargs: Any) -> tuple[Any, ...]:
            edits, null, _ = encode(*args, editing_prompt=editing_prompt, **kwargs)
            return edits, null, [len(self.pipe.tokenizer(phrase).input_ids) - 2 for phrase in editing_prompt]

        # It adds up the attention to a phrase's tokens, and transformers' fast tokenizers count the padding as well.
        self.pipe.encode_prompt = encode_prompt

    def _edit(self, image: Tensor, source: str, target: str, prior: Tensor | None) -> Tensor:
        phrases = changed_phrases(source, target)
        gone = [p.old for p in phrases if p.old and not (p.new and p.noun)]
        come = [f"{p.new} {p.noun}".strip() for p in phrases if p.new]
        away = [True] * len(gone) + [False] * len(come)
        self._run("invert", image=image)
        return self._run("__call__", editing_prompt=gone + come, reverse_editing_direction=away).images

    def _schedulers(self, config: Mapping[str, Any]) -> dict[str, Any]:
        from diffusers import DPMSolverMultistepScheduler

        solver = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}
        return {"scheduler": DPMSolverMultistepScheduler.from_config(config, **solver)}


EDITORS: dict[str, type[PipelineEditor]] = {
    "inpaint": Inpaint,
    "instruct_pix2pix": InstructPix2Pix,
    "diffedit": DiffEdit,
    "ledits_pp": LeditsPP,
}


class Phrases(NamedTuple):
    """One change that a target prompt makes.

    Args:
        old: the words of the source prompt that go; "" where words are only added.
        new: the words of the target prompt that come in their place; "" where words are only removed.
        noun: the noun that both describe, "" where they are more than adjectives.
    """

    old: str
    new: str
    noun: str


def changed_phrases(source: str, target: str) -> list[Phrases]:
    """What a target prompt changes, in its order, without words that say nothing by themselves.

    >>> changed_phrases("a red cat and a dog", "a blue cat and a fox")
    [Phrases(old='red', new='blue', noun='cat'), Phrases(old='dog', new='fox', noun='')]
    """
    found = []
    for change in word_changes(source, target):
        sides = [(source, _telling(source, change.source)), (target, _telling(target, change.target))]
        nouns = [_described(prompt, spans) for prompt, spans in sides if spans]
        if nouns and not change.is_equal:
            old, new = (prompt[spans[0][0] : spans[-1][1]] if spans else "" for prompt, spans in sides)
            found.append(Phrases(old, new, nouns[-1] if all(nouns) else ""))
    return found


def instruction(source: str, target: str) -> str:
    """How to get from one prompt to the other, as one would tell a person.

    Words in the place of others are replaced, new ones added, old ones removed. Where only adjectives change, the
    instruction says what becomes of their noun. Several changes are joined by "and"; none give "".

    >>> instruction("a red cat and a dog", "a blue cat and a fox")
    'make the cat blue and replace dog with fox'
    >>> instruction("a cat", "a cat with a hat")
    'add hat'
    """
    orders = []
    for old, new, noun in changed_phrases(source, target):
        if noun:
            orders.append(f"make the {noun} {new or f'not {old}'}")
        elif old and new:
            orders.append(f"replace {old} with {new}")
        else:
            orders.append(f"add {new}" if new else f"remove {old}")
    return " and ".join(orders)


def _telling(prompt: str, spans: Sequence[Span]) -> Sequence[Span]:
    """Words, without those at their ends that say nothing by themselves, such as "a" and "with"."""
    said = [n for n, (a, b) in enumerate(spans) if prompt[a:b].isalnum() and prompt[a:b].lower() not in LOOSE]
    return spans[said[0] : said[-1] + 1] if said else ()


def _described(prompt: str, spans: Sequence[Span]) -> str:
    """The noun that all of these words describe; "" if they aren't adjectives of one noun."""
    pairs = load_words().pairs(prompt)
    nouns = {next((n.text for a, n in pairs if overlap(a.span, span)), "") for span in spans}
    return nouns.pop() if len(nouns) == 1 else ""


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


@contextmanager
def _attention_restored(unet: Any) -> Iterator[None]:
    """Let a pipeline put its own processors on a UNet's attention, and take them off again, whatever happens."""
    before = unet.attn_processors
    try:
        yield
    finally:
        unet.set_attn_processor(before)
