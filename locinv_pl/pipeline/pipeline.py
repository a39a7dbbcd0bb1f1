"""A pipeline of diffusers over the engine; this file alone is a ``custom_pipeline``, too.

It computes nothing of its own: :meth:`LocInvPipeline.invert` is :func:`locinv_pl.iter_invert`, and the call is
:func:`locinv_pl.iter_edit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from locinv_pl.api import Prior, invert_sample, make_sample
from locinv_pl.editing.prompt_to_prompt import Edited, iter_edit
from locinv_pl.editing.settings import EditSettings, strengths
from locinv_pl.errors import InputError, check_choice
from locinv_pl.io.frames import Fit
from locinv_pl.io.images import AnyImage
from locinv_pl.method.policies import Method
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import check_components, load_backbone, model_folder
from locinv_pl.networks.options import OPTIONS
from locinv_pl.photo import open_photo
from locinv_pl.types import Edit, Inversion

OutputType = Literal["pil", "np", "pt", "latent"]
Callback = Callable[["LocInvPipeline", int, Any, dict[str, Any]], Any]
REFUSED = {
    "generator": "an edit draws no numbers, it starts from the inversion's noise",
    "latents": "an edit starts from the inversion's noise",
    "image": "the inversion holds the image; call invert first",
    "mask_image": "say where the edit may change the image by region=",
    "strength": "say how much is taken over from the source by settings=",
    "negative_prompt": "the inversion's null text stands in its place",
    "eta": "edits follow DDIM, where it is 0",
    "height": "an edit has the inversion's size",
    "width": "an edit has the inversion's size",
    "timesteps": "an edit goes through the inversion's",
    "sigmas": "an edit goes through the inversion's timesteps",
    "guidance_rescale": "the inversion's null text is made without it",
    "clip_skip": "the inversion's tokens are made without it",
    "prompt_embeds": "words are aligned, which embeddings don't have; give prompt=",
    "negative_prompt_embeds": "the inversion's null text stands in their place",
    "ip_adapter_image": "the engine has no image prompts",
    "ip_adapter_image_embeds": "the engine has no image prompts",
    "cross_attention_kwargs": "the engine has attention in its own hands",
}
"""Arguments of other pipelines that say nothing here, and why."""


@dataclass
class LocInvPipelineOutput(BaseOutput):
    """What a call returns.

    Args:
        images: n PIL images, or as ``output_type`` says: an array (n, H, W, 3) or a tensor (n, 3, H, W) in [0, 1], or
            latents (n, C, h, w).
        edited: the engine's own result, with the reconstruction, the masks and the changed words; None where a
            callback interrupted the edit.
    """

    images: Any
    edited: Edited | None = None


class LocInvPipeline(DiffusionPipeline):
    """Inverts images, and edits them by prompts, with the argument names of diffusers.

    Args:
        vae, text_encoder, tokenizer, scheduler: what a model of any architecture in
            :mod:`locinv_pl.networks.architectures` has.
        unet, transformer, text_encoder_2, tokenizer_2, text_encoder_3, tokenizer_3: what some have; None for others.
        force_zeros_for_empty_prompt: whether Stable Diffusion XL's ∅ is zeros.
        name: what the model is called in inversions, which another model's pipeline refuses; by default the folder or
            hub id that it was loaded from. :meth:`save_pretrained` keeps it.
    """

    _optional_components = ["unet", "transformer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        unet: Any = None,
        transformer: Any = None,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        text_encoder_3: Any = None,
        tokenizer_3: Any = None,
        force_zeros_for_empty_prompt: bool = True,
        name: str | None = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            unet=unet,
            transformer=transformer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
        )
        self.register_to_config(force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, name=name)
        self._made: tuple[Any, Backbone] | None = None
        self._loaded_from: tuple[str, Mapping[str, str]] = "", {}
        self._away: torch.device | None = None
        self._interrupt = False

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[Any] = "embedded", **kwargs: Any
    ) -> LocInvPipeline:
        """Load a model, as any pipeline of diffusers.

        Args:
            pretrained_model_name_or_path: a folder in diffusers' layout, a hub id, a checkpoint in one file, or
                "embedded", the small model inside this package.
            kwargs: those of DiffusionPipeline.from_pretrained, such as ``torch_dtype`` and ``variant``. With one of
                :class:`~locinv_pl.networks.options.LoadOptions`, such as ``lora``, or a checkpoint in one file, those
                of :func:`locinv_pl.load_backbone`, with ``torch_dtype`` for ``dtype``.

        Raises:
            InputError: as :func:`locinv_pl.load_backbone` does.
        """
        name = str(pretrained_model_name_or_path)
        if Path(name).is_file() or not kwargs.keys().isdisjoint(OPTIONS):
            return cls.of(load_backbone(name, kwargs.pop("torch_dtype", torch.float32), **kwargs))
        pipe = super().from_pretrained(str(model_folder(name)), **kwargs)
        pipe.register_to_config(name=pipe.config["name"] or name)
        return pipe

    @classmethod
    def of(cls, backbone: Backbone) -> LocInvPipeline:
        """A pipeline of a model that is loaded already.

        Args:
            backbone: from :func:`locinv_pl.load_backbone`.
        """
        zero = {key: backbone.index[key] for key in ("force_zeros_for_empty_prompt",) if key in backbone.index}
        pipe = cls(**backbone.components, **zero, name=None if backbone.origin else backbone.name)
        pipe._loaded_from = backbone.name, backbone.origin
        pipe._made = pipe._state, backbone
        return pipe

    @property
    def backbone(self) -> Backbone:
        """The components as the engine takes them; made anew when one is exchanged, moved or cast.

        Raises:
            InputError: they are no model that can be inverted.
        """
        if self._made is None or self._made[0] != self._state:
            name, origin = self._loaded_from
            name = name or self.config["name"] or self.config.get("_name_or_path") or type(self).__name__
            parts = {part: each for part, each in self.components.items() if each is not None and part != "scheduler"}
            config = {**self.scheduler.config, "_class_name": type(self.scheduler).__name__}
            architecture = check_components(parts, self.config, config, f"backbone={name}")
            scheduler = architecture.make_scheduler(config)
            backbone = architecture(name, **parts, scheduler=scheduler, **architecture.options(self.config))
            backbone.origin = origin
            self._made = self._state, backbone  # a network may have been cast
        return self._made[1]

    @property
    def _state(self) -> list[Any]:
        """What the backbone depends on."""
        networks = [each for each in self.components.values() if isinstance(each, torch.nn.Module)]
        return [*map(id, self.components.values()), *((each.device, each.dtype) for each in networks)]

    def invert(
        self,
        image: AnyImage,
        prompt: str,
        priors: Mapping[str, Prior | list[Prior]] | None = None,
        *,
        method: Method | str = "locinv",
        num_inference_steps: int | None = None,
        resolution: int = 16,
        fit: Fit | None = "crop",
        callback_on_step_end: Callback | None = None,
    ) -> Inversion:
        """Invert one image.

        Args:
            image: a PIL image, a file, a (3, H, W) tensor or an (H, W, 3) array, of any size.
            prompt: what it shows, the source prompt.
            priors: for every noun a mask of the image's size, or a box (x, y, w, h) in its pixels.
            method: a preset's name, a method's YAML file, or a Method.
            num_inference_steps: T; by default those that the method is made for.
            resolution: R, side of the attention grid in cells.
            fit: how the image becomes one of the model's size: "crop", "pad" or "native"; None takes it as it is.
            callback_on_step_end: called after every timestep with this pipeline, its number 0 to 2 T - 1 (T of the DDIM
                inversion, then T of the optimisation), the model's timestep, and {"maps": the nouns' mean maps so far}.

        Returns:
            The inversion; :meth:`__call__` and :func:`locinv_pl.edit` take it.

        Raises:
            InputError: as :func:`locinv_pl.invert` does.
        """
        with self._on_device():
            backbone = self.backbone
            if fit is None:
                sample = make_sample(image, prompt, priors or {})
            else:
                sample = open_photo(image, prompt, priors or {}, backbone, fit).sample
            steps = invert_sample(backbone, sample, method, num_inference_steps, resolution)
            bar: Any = None
            for number, progress in enumerate(steps):
                bar = bar or self.progress_bar(total=2 * progress.total)
                bar.update()
                if callback_on_step_end is not None:
                    order = backbone.schedule(progress.total).timesteps
                    t = order[-progress.step if progress.phase == "invert" else progress.step - 1]
                    callback_on_step_end(self, number, t, {"maps": progress.maps})
            bar.close()
            assert progress.result is not None
            return progress.result

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Edit | Sequence[str | Edit],
        inversion: Inversion,
        settings: EditSettings | Sequence[EditSettings] = EditSettings(),
        region: Tensor | None = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **others: Any,
    ) -> LocInvPipelineOutput | tuple[Any, ...]:
        """Edit an inverted image; all prompts run as one batch.

        Args:
            prompt: what the edited image shows, or several of them.
            inversion: the image's, from :meth:`invert` or a run's file.
            settings: how Prompt-to-Prompt edits; all prompts alike, or each by its own.
            region: where edits may change the image, (H, W), in place of the priors.
            num_inference_steps: the inversion's, which is the default; another number is refused.
            guidance_scale: the inversion's, which is the default; another one is refused.
            num_images_per_prompt: N, 1 to 16. An edit draws nothing, so N images of a prompt are its N
                :func:`~locinv_pl.editing.settings.strengths`, weakest first.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False returns a tuple, the images first.
            callback_on_step_end: called after every timestep with this pipeline, its number 0 to T - 1, the model's
                timestep, and the named tensors. It may set ``_interrupt`` to True: the edit ends there.
            callback_on_step_end_tensor_inputs: "latents" or nothing. What the callback returns isn't taken over.
            others: arguments of other pipelines are refused in one line that says why.

        Raises:
            InputError: as :func:`locinv_pl.edit` does, or an argument has no meaning here.
        """
        for name, value in others.items():
            if name not in REFUSED:
                raise TypeError(f"LocInvPipeline() got an unexpected keyword argument {name!r}")
            if value is not None:
                raise InputError(f"{name}: has no meaning here ({REFUSED[name]}); leave it out")
        check_choice("output_type", output_type, OutputType)
        self._same("num_inference_steps", num_inference_steps, inversion.num_steps)
        self._same("guidance_scale", guidance_scale, inversion.settings["method"]["guidance_scale"])
        for name in callback_on_step_end_tensor_inputs:
            if name not in self._callback_tensor_inputs:
                raise InputError(f"callback_on_step_end_tensor_inputs: there is no {name!r}; give latents")
        prompts = [prompt] if isinstance(prompt, (str, Edit)) else list(prompt)
        ways = [settings] * len(prompts) if isinstance(settings, EditSettings) else list(settings)
        N = num_images_per_prompt
        each = [way for one in ways for _, way in strengths(replace(one, candidates=N))] if N > 1 else ways
        prompts = [one for one in prompts for _ in range(N)]
        self._interrupt = False
        with self._on_device():
            timesteps = self.backbone.schedule(inversion.num_steps).timesteps
            steps = iter_edit(self.backbone, inversion, prompts, each, region)
            bar = self.progress_bar(total=inversion.num_steps)
            for progress in steps:
                bar.update()
                if callback_on_step_end is not None:
                    told = {name: progress.latents for name in callback_on_step_end_tensor_inputs}
                    callback_on_step_end(self, progress.step - 1, timesteps[progress.step - 1], told)
                if self._interrupt:
                    break
            bar.close()
            latents, edited = progress.latents, progress.result
            assert latents is not None
            if output_type == "latent":
                images: Any = latents
            else:
                pixels = self.backbone.decode(latents).cpu() if edited is None else edited.images
                images = as_output(pixels, output_type)
        output = LocInvPipelineOutput(images, edited)
        return output if return_dict else output.to_tuple()

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """Keep the networks on the CPU between calls; a call takes all of them to the device.

        Inverting needs text encoder and UNet together at every timestep, so that they can't take turns.

        Args:
            gpu_id: number of the GPU; 0 by default.
            device: torch's name of the device; "cuda" by default.
        """
        where = torch.device("cuda" if device is None else device)
        self._away = torch.device(where.type, gpu_id) if gpu_id is not None else where
        self.to("cpu")

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """The networks on the device that computes, where they are kept elsewhere."""
        if self._away is None:
            yield
            return
        try:
            self.to(self._away)
            yield
        finally:
            self.to("cpu")

    @staticmethod
    def _same(name: str, asked: float | None, own: float) -> None:
        if asked is not None and asked != own:
            raise InputError(f"{name}={asked}: the inversion was made with {own}; leave it out, or invert again")


def as_output(images: Tensor, output_type: OutputType) -> list[Image.Image] | Any:
    """Images as diffusers gives them.

    Args:
        images: (n, 3, H, W) in [0, 1], on the CPU.
        output_type: "pil", "np" or "pt".
    """
    if output_type == "pt":
        return images
    pixels = VaeImageProcessor.pt_to_numpy(images)
    return pixels if output_type == "np" else VaeImageProcessor.numpy_to_pil(pixels)
