"""Stable Diffusion 1.x and 2.x: a UNet, one CLIP text encoder, DDIM."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor

from locinv_pl.errors import InputError
from locinv_pl.networks.attention import AttentionHook, Context, Grid, control_attention
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.folder import TAKEN, check_channels, check_unet
from locinv_pl.networks.schedule import Schedule, guidance_embedding
from locinv_pl.networks.text import Encoder, TextEncoders
from locinv_pl.networks.tuning import Tuning, set_memory_format, tune

LEAST_SIGNAL = 1e-6  # of ᾱ


class StableDiffusion(Backbone):
    """A model of Stable Diffusion's layout.

    Args:
        name: what it was loaded from.
        vae, text_encoder, tokenizer, unet, scheduler: as diffusers and transformers load them;
            ``scheduler`` is a DDIMScheduler, or an LCMScheduler for its timesteps.
        tuning: how the networks are run.
    """

    PARTS: ClassVar[dict[str, str]] = {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "DDIMScheduler",
    }

    def __init__(
        self,
        name: str,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        tuning: Tuning = Tuning(),
    ):
        super().__init__(name, vae, TextEncoders([Encoder(text_encoder, tokenizer)]), unet, scheduler, tuning)
        tune(unet, vae, tuning)

    @classmethod
    def check(cls, configs: Mapping[str, Any], key: str, for_editors: bool) -> None:
        """See :meth:`Backbone.check`."""
        unet, vae, text = configs["unet"], configs["vae"], configs["text_encoder"]
        if unet.addition_embed_type is not None:
            raise InputError(f"{key}: its UNet is Stable Diffusion XL's, its folder isn't; {TAKEN}")
        check_unet(unet, vae, configs["scheduler"], key)
        widths = unet.cross_attention_dim if isinstance(unet.cross_attention_dim, list) else [unet.cross_attention_dim]
        if set(widths) != {text.hidden_size}:
            raise InputError(
                f"{key}: its UNet takes text of width {widths[0]}, its text encoder gives {text.hidden_size}: the two "
                f"are of different models; {TAKEN}"
            )
        check_channels(unet, vae, key, for_editors)

    @staticmethod
    def make_scheduler(config: Mapping[str, Any]) -> Any:
        """See :func:`ddim_scheduler`."""
        return ddim_scheduler(config)

    @property
    def unet(self) -> Any:
        """The denoiser."""
        return self.denoiser

    @property
    def text_encoder(self) -> Any:
        """The text encoder, the first of several."""
        return self.text.networks[0]

    @property
    def widths(self) -> tuple[int, int]:
        """D of the text's states, and C, the channels of a latent."""
        return self.text_encoder.config.hidden_size, self.denoiser.config.in_channels

    @property
    def latent_size(self) -> int:
        """Side of the latents that the model was trained on."""
        return self.denoiser.config.sample_size

    def _moved(self) -> None:
        set_memory_format(self.denoiser, self.vae, self.tuning)

    def _states(self, ids: Tensor, embeddings: Tensor | None) -> tuple[Tensor, ...]:
        ((answer,),) = self.text(ids, embeddings)
        return (answer.last_hidden_state.float(),)

    def _control(self, context: Context, hook: AttentionHook | None) -> AbstractContextManager[None]:
        return control_attention(self.denoiser, context, hook)

    def _denoise(self, z: Tensor, t: Tensor, context: Context) -> Tensor:
        cond = None if self._guidance is None else self._guidance.expand(len(z), -1)
        return self.denoiser(z, t, timestep_cond=cond, encoder_hidden_states=context.keys, return_dict=False)[0]

    @property
    def is_distilled(self) -> bool:
        """Whether the UNet has learned guidance and is told its scale."""
        return self.denoiser.config.time_cond_proj_dim is not None

    def _guidance_of(self, w: float) -> Tensor | None:
        width = self.denoiser.config.time_cond_proj_dim
        return guidance_embedding(w, width).to(self.device, self.dtype)

    def map_grid(self, latent: Sequence[int], resolution: int) -> Grid:
        """See :meth:`Backbone.map_grid`."""
        h, w = latent[-2:]
        factor = min(h, w) // max(resolution, 1)
        levels = [2**n for n, kind in enumerate(self.denoiser.config.down_block_types) if "CrossAttn" in kind]
        if factor not in levels or resolution * factor != min(h, w):
            sizes = ", ".join(str(min(h, w) // n) for n in levels)
            raise InputError(
                f"model.resolution={resolution}: backbone {self.name!r} has no cross-attention of that size "
                f"for latents of {h}x{w}; use one of {sizes}"
            )
        return h // factor, w // factor

    def coarsest(self, latent: Sequence[int]) -> int:
        """See :meth:`Backbone.coarsest`."""
        return min(latent[-2:]) // 2 ** (len(self.denoiser.config.block_out_channels) - 1)

    def schedule(self, num_steps: int) -> Schedule:
        """See :meth:`Backbone.schedule`; zero terminal SNR can't be inverted."""
        config = self.scheduler.config  # of LCM's the timesteps that it was distilled at, else those of its training
        trained = config.get("original_inference_steps", config.num_train_timesteps)
        if not 1 <= num_steps <= trained:
            raise InputError(f"model.num_steps={num_steps}: must lie between 1 and {trained}")
        self.scheduler.set_timesteps(num_steps)
        timesteps = self.scheduler.timesteps.to(self.device)
        alphas = self.scheduler.alphas_cumprod[self.scheduler.timesteps.cpu()]
        if not alphas.min() > LEAST_SIGNAL:
            raise InputError(
                f"backbone={self.name}: its noise schedule ends without a signal (rescale_betas_zero_snr), and DDIM "
                f"inversion divides by it; take a model without zero terminal SNR, or timestep_spacing: leading in "
                f"its scheduler/scheduler_config.json"
            )
        last = torch.as_tensor(self.scheduler.final_alpha_cumprod).reshape(1)
        alphas = torch.cat([alphas, last]).float().to(self.device)
        return Schedule.of_alphas(timesteps, alphas, self.scheduler.config.prediction_type)


def ddim_scheduler(config: Mapping[str, Any]) -> Any:
    """A model's timesteps and noise levels as DDIM's scheduler of diffusers, or as LCM's where it is one.

    What the configuration leaves out is as in its own class; a class that counts in σ ends at σ = 0 or, if its
    ``final_sigmas_type`` says so, at the least σ of the training.

    Args:
        config: the content of scheduler_config.json.
    """
    named = getattr(diffusers, str(config.get("_class_name")), None)
    own = named if isinstance(named, type) and issubclass(named, diffusers.SchedulerMixin) else diffusers.DDIMScheduler
    kind = diffusers.LCMScheduler if own is diffusers.LCMScheduler else diffusers.DDIMScheduler
    ours, theirs = (inspect.signature(each).parameters for each in (kind, own))
    missing = {name: theirs[name].default for name in ours.keys() & theirs.keys() - config.keys()}
    values = {**config, **{name: value for name, value in missing.items() if value != ours[name].default}}
    if "set_alpha_to_one" not in theirs:
        values["set_alpha_to_one"] = config.get("final_sigmas_type", "zero") == "zero"
    return kind.from_config(values, clip_sample=False)
