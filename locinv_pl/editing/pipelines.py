"""Other editors to compare with, through diffusers' pipelines: an image and two prompts in, an image out.

:func:`load_editor` reads the presets in configs/editor/*.yaml. The networks of the editors of Stable Diffusion, which
stand here, are those of a :class:`~locinv_pl.networks.backbone.Backbone`, which a pipeline leaves as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, get_args

import yaml
from torch import Tensor

from locinv_pl.editing.editors import Editor, EditorSettings, Name, PipelineEditor
from locinv_pl.editing.instructions import changed_phrases, instruction
from locinv_pl.editing.pretrained import Pretrained
from locinv_pl.editing.recipes import RECIPES
from locinv_pl.errors import InputError
from locinv_pl.method.policies import preset_file
from locinv_pl.method.progress import nothing
from locinv_pl.networks.architectures.sdxl import StableDiffusionXL
from locinv_pl.networks.architectures.stable_diffusion import StableDiffusion
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import load_backbone
from locinv_pl.words.tokens import tokenize


def load_editor(name_or_path: str | Path, backbone: Backbone) -> Editor:
    """Load an editor by a preset's name, such as "inpaint" or "kontext", or a YAML file.

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
        on_pass: called before every pass of the editor's denoiser.

    Returns:
        an editor that edits images one by one.

    Raises:
        InputError: an option that the pipeline hasn't, or the model can't be loaded or isn't one for this editor.
    """
    return EDITORS[settings.editor](settings, backbone, on_pass)


class StableDiffusionEditor(PipelineEditor):
    """An editor whose networks are a backbone's."""

    pipelines: ClassVar[Mapping[type[Backbone], str]]  # diffusers' classes
    channels: ClassVar[tuple[tuple[int, int], ...]] = ((1, 0),)  # (a, b): its UNet may take a C + b, C a latent's

    def _load(self, backbone: Backbone) -> Any:
        import diffusers

        if self.settings.model is not None:
            try:
                backbone = load_backbone(self.settings.model, self.settings.dtype, backbone.device, for_editors=True)
            except InputError as error:
                raise InputError(f"{self._name}: {error}") from error
        if backbone.offload:
            raise InputError(f"{self._name}: needs the whole model on the device; leave out model.offload")
        if not isinstance(backbone, StableDiffusion) or type(backbone) not in self.pipelines:
            layouts = "1.x's, 2.x's or XL's" if StableDiffusionXL in self.pipelines else "1.x's or 2.x's"
            raise InputError(
                f"{self._name}: model {backbone.name!r} isn't of Stable Diffusion {layouts} layout; give another"
            )
        self.unet, takes = backbone.unet, backbone.unet.config.in_channels
        allowed = [a * backbone.vae.config.latent_channels + b for a, b in self.channels]
        if takes not in allowed:
            needs = " or ".join(str(n) for n in allowed)
            raise InputError(
                f"{self._name}: the UNet of model {backbone.name!r} takes {takes} channels, this editor needs one "
                f"that takes {needs}; give another model"
            )
        parts = {"vae": backbone.vae, "unet": backbone.unet, **self._schedulers(backbone.scheduler.config)}
        for n, encoder in enumerate(backbone.text.stretches[0]):
            number = f"_{n + 1}" if n else ""
            parts |= {f"text_encoder{number}": encoder.network, f"tokenizer{number}": encoder.tokenizer}
        if isinstance(backbone, StableDiffusionXL):
            parts |= {"add_watermarker": False, "force_zeros_for_empty_prompt": backbone.zero_null}
        else:
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return getattr(diffusers, self.pipelines[type(backbone)])(**parts)

    def _schedulers(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The pipeline's kind of schedulers, with the model's noise levels."""
        from diffusers import DDIMScheduler

        return {"scheduler": DDIMScheduler.from_config(config)}

    @contextmanager
    def _ready(self) -> Iterator[None]:
        with _attention_restored(self.unet), _of_one_type(self.pipe.vae, self.unet), super()._ready():
            yield


class Inpaint(StableDiffusionEditor):
    """Paints the target prompt where the prior is above one half.

    A UNet of 9 channels, in general of 2 C + 1, sees the mask and the image around it (Rombach et al., arXiv
    2112.10752). With one of 4, or C, the rest is put back at every step, as in Blended Latent Diffusion (Avrahami et
    al., arXiv 2206.02779).
    """

    pipelines: ClassVar = {
        StableDiffusion: "StableDiffusionInpaintPipeline",
        StableDiffusionXL: "StableDiffusionXLInpaintPipeline",
    }
    channels = ((1, 0), (2, 1))

    def __init__(self, settings: EditorSettings, backbone: Backbone, on_pass: Callable[[], None] = nothing):
        super().__init__(settings, backbone, on_pass)
        unet = copy(self.unet)  # with the same networks; the pipeline tells the two kinds apart by the numbers 4 and 9
        unet.register_to_config(in_channels=4 if unet.config.in_channels == self.pipe.vae.config.latent_channels else 9)
        self.pipe.unet = unet

    def _edit(self, image: Tensor, source: str, target: str, mask: Tensor | None) -> Tensor:
        assert mask is not None  # as it paints
        h, w = image.shape[-2:]
        return self._run("__call__", prompt=target, image=image, mask_image=mask[None, None], height=h, width=w).images


class InstructPix2Pix(StableDiffusionEditor):
    """Follows an instruction, written from the two prompts (Brooks et al., arXiv 2211.09800)."""

    pipelines: ClassVar = {StableDiffusion: "StableDiffusionInstructPix2PixPipeline"}
    channels = ((2, 0),)

    def _edit(self, image: Tensor, source: str, target: str, mask: Tensor | None) -> Tensor:
        order = instruction(source, target)
        tokenize(self.pipe.tokenizer, order)
        return self._run("__call__", prompt=order, image=image).images

    def _schedulers(self, config: Mapping[str, Any]) -> dict[str, Any]:
        from diffusers import EulerAncestralDiscreteScheduler

        return {"scheduler": EulerAncestralDiscreteScheduler.from_config(config, timestep_spacing="linspace")}


class DiffEdit(StableDiffusionEditor):
    """Inverts without a prompt, and edits where the two prompts' noise differs (Couairon et al., arXiv 2210.11427)."""

    pipelines: ClassVar = {StableDiffusion: "StableDiffusionDiffEditPipeline"}
    calls = ("generate_mask", "invert", "__call__")

    def _edit(self, image: Tensor, source: str, target: str, mask: Tensor | None) -> Tensor:
        found = self._run("generate_mask", image=image, source_prompt=source, target_prompt=target)
        latents = self._run("invert", prompt="", image=image, guidance_scale=1.0).latents
        return self._run("__call__", prompt=target, mask_image=found, image_latents=latents).images

    def _schedulers(self, config: Mapping[str, Any]) -> dict[str, Any]:
        from diffusers import DDIMInverseScheduler

        return {**super()._schedulers(config), "inverse_scheduler": DDIMInverseScheduler.from_config(config)}


class LeditsPP(StableDiffusionEditor):
    """LEDITS++: inverts into the noise of every step, then guides from what goes to what comes.

    Brack et al., arXiv 2311.16711. What is replaced is guided away from; what is only described anew is not.
    """

    pipelines: ClassVar = {
        StableDiffusion: "LEditsPPPipelineStableDiffusion",
        StableDiffusionXL: "LEditsPPPipelineStableDiffusionXL",
    }
    calls = ("invert", "__call__")
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
            *states, _ = encode(*args, editing_prompt=editing_prompt, **kwargs)
            return *states, [len(self.pipe.tokenizer(phrase).input_ids) - 2 for phrase in editing_prompt]

        # It adds up the attention to a phrase's tokens, and transformers' fast tokenizers count the padding as well.
        self.pipe.encode_prompt = encode_prompt

    def _edit(self, image: Tensor, source: str, target: str, mask: Tensor | None) -> Tensor:
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
    **dict.fromkeys(RECIPES, Pretrained),
}


@contextmanager
def _attention_restored(unet: Any) -> Iterator[None]:
    """Let a pipeline put its own processors on a UNet's attention, and take them off again, whatever happens."""
    before = unet.attn_processors
    try:
        yield
    finally:
        unet.set_attn_processor(before)


@contextmanager
def _of_one_type(vae: Any, unet: Any) -> Iterator[None]:
    """A block in which a VAE's weights are of a UNet's type, as pipelines that upcast it by themselves need it."""
    before = vae.dtype
    vae.to(unet.dtype)
    try:
        yield
    finally:
        vae.to(before)
