"""Stable Diffusion 3 and 3.5: a transformer with joint attention, two CLIP encoders and T5, rectified flow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import diffusers
import torch
import torch.nn.functional as F
from torch import Tensor

from locinv_pl.errors import InputError
from locinv_pl.networks.attention import AttentionHook, Context, Grid
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.folder import TAKEN
from locinv_pl.networks.joint_attention import control_joint_attention, text_values
from locinv_pl.networks.prefix import Prefix
from locinv_pl.networks.schedule import Schedule
from locinv_pl.networks.text import Encoder, TextEncoders
from locinv_pl.networks.tuning import Tuning, checkpoint_blocks

CLIP_LENGTH, T5_LENGTH = 77, 256
BEST_BLOCKS = {(24, 0): (4, 5, 7, 8, 9), (24, 13): (5, 7, 8, 9, 10), (38, 0): (16, 18, 20, 21, 24)}
"""The blocks whose maps ground words best, by the numbers of blocks and of those with an attention of the image alone:
Stable Diffusion 3 medium, 3.5 medium and 3.5 large (arXiv 2508.07519)."""


class StableDiffusion3(Backbone):
    """A model of Stable Diffusion 3's layout.

    A context is the penultimate states of both CLIP encoders side by side, then T5's states; pooled ones are both CLIP
    encoders' outputs. Where there is no T5, zeros stand in its place, which nobody moves or reads.

    Source: Esser et al., arXiv 2403.03206, and diffusers' StableDiffusion3Pipeline.

    Args:
        name: what it was loaded from.
        vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, transformer, scheduler: as diffusers and transformers
            load them.
        text_encoder_3, tokenizer_3: T5's, or None.
        tuning: how the networks are run; of it, gradient_checkpointing counts here.
    """

    PIPELINES: ClassVar[tuple[str, ...]] = (
        "StableDiffusion3Pipeline",
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
    )
    PARTS: ClassVar[dict[str, str]] = {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "CLIPTokenizer",
        "tokenizer_3": "T5TokenizerFast",
        "transformer": "SD3Transformer2DModel",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    is_joint: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        vae: Any,
        text_encoder: Any,
        text_encoder_2: Any,
        tokenizer: Any,
        tokenizer_2: Any,
        transformer: Any,
        scheduler: Any,
        text_encoder_3: Any = None,
        tokenizer_3: Any = None,
        tuning: Tuning = Tuning(),
    ):
        stretches = [[Encoder(text_encoder, tokenizer), Encoder(text_encoder_2, tokenizer_2)]]
        if text_encoder_3 is not None:
            tokenizer_3.model_max_length = min(tokenizer_3.model_max_length, T5_LENGTH)
            stretches.append([Encoder(text_encoder_3, tokenizer_3)])
        super().__init__(name, vae, TextEncoders(*stretches), transformer, scheduler, tuning)
        self._graphs = None  # joint attention was never recorded
        L = tokenizer.model_max_length
        self._zeros = 0 if text_encoder_3 is not None else T5_LENGTH if L == CLIP_LENGTH else L
        checkpoint_blocks(transformer, tuning)

    @classmethod
    def parts(cls, index: Mapping[str, Any]) -> dict[str, str]:
        """All, or those without T5."""
        missing = {part for part, kind in index.items() if isinstance(kind, (list, tuple)) and kind[0] is None}
        return {part: kind for part, kind in cls.PARTS.items() if part not in missing}

    @classmethod
    def check(cls, configs: Mapping[str, Any], key: str, for_editors: bool) -> None:
        """See :meth:`Backbone.check`."""
        net, vae = configs["transformer"], configs["vae"]
        texts = [configs[part] for part in ("text_encoder", "text_encoder_2")]
        if net.in_channels != vae.latent_channels:
            raise InputError(
                f"{key}: its transformer takes {net.in_channels} channels, its VAE's latents have "
                f"{vae.latent_channels}; {TAKEN}"
            )
        if sum(text.hidden_size for text in texts) > net.joint_attention_dim or net.pooled_projection_dim != sum(
            text.projection_dim for text in texts
        ):
            raise InputError(f"{key}: its transformer and its text encoders are of different models; {TAKEN}")
        if "FlowMatch" not in configs["scheduler"].kind:
            raise InputError(f"{key}: its scheduler is a {configs['scheduler'].kind}, not one of a flow; {TAKEN}")

    @staticmethod
    def make_scheduler(config: Mapping[str, Any]) -> Any:
        """Euler's scheduler."""
        return diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)

    @property
    def widths(self) -> tuple[int, int]:
        """D of the text's states, and C, the channels of a latent."""
        return self.denoiser.config.joint_attention_dim, self.denoiser.config.in_channels

    @property
    def latent_size(self) -> int:
        """Side of the latents that the model was trained on."""
        return self.denoiser.config.sample_size

    @property
    def map_layers(self) -> frozenset[str] | None:
        """The blocks that ground words best; all where nobody has looked."""
        config = self.denoiser.config
        best = BEST_BLOCKS.get((config.num_layers, len(config.dual_attention_layers)))
        return None if best is None else frozenset(f"transformer_blocks.{n}.attn" for n in best)

    def _moved(self) -> None:
        pass

    def _states(self, ids: Tensor, embeddings: Tensor | None) -> tuple[Tensor, ...]:
        clip, *t5 = self.text(ids, embeddings, output_hidden_states=True)
        words = torch.cat([answer.hidden_states[-2] for answer in clip], dim=-1)
        words = F.pad(words, (0, self.widths[0] - words.shape[-1])).float()
        pooled = torch.cat([answer.text_embeds for answer in clip], dim=-1).float()
        return torch.cat([words, *(answer.last_hidden_state.float() for (answer,) in t5)], dim=1), pooled

    def _run(
        self, z: Tensor, t: Tensor, context: Context, hook: AttentionHook | None = None, prefix: Prefix | None = None
    ) -> Tensor:
        """Values of their own are those of a pass of theirs: in joint attention a text's states see the image."""
        if context.values is context.keys:
            return super()._run(z, t, context, hook, prefix)
        values = Prefix(text_values(self.denoiser)) if prefix is None else prefix.beside(text_values(self.denoiser))
        if not values.outputs:
            with torch.no_grad(), values.replay():
                super()._run(z, t, context.with_states(context.values), None, prefix)
        with values.replay():
            return super()._run(z, t, context.with_states(context.keys), hook, prefix)

    @contextmanager
    def _control(self, context: Context, hook: AttentionHook | None) -> Iterator[None]:
        with control_joint_attention(self.denoiser, context.keys.shape[1], hook):
            yield

    def _denoise(self, z: Tensor, t: Tensor, context: Context) -> Tensor:
        text = F.pad(context.keys, (0, 0, 0, self._zeros))
        told = {"encoder_hidden_states": text, "pooled_projections": context.pooled}
        return self.denoiser(z, timestep=t.expand(len(z)), **told, return_dict=False)[0]

    def map_grid(self, latent: Sequence[int], resolution: int) -> Grid:
        """See :meth:`Backbone.map_grid`; there is one grid."""
        h, w = (side // self.denoiser.config.patch_size for side in latent[-2:])
        if resolution != min(h, w):
            raise InputError(
                f"model.resolution={resolution}: backbone {self.name!r} has no attention of that size "
                f"for latents of {latent[-2]}x{latent[-1]}; use {min(h, w)}"
            )
        return h, w

    def coarsest(self, latent: Sequence[int]) -> int:
        """See :meth:`Backbone.coarsest`."""
        return min(latent[-2:]) // self.denoiser.config.patch_size

    def schedule(self, num_steps: int) -> Schedule:
        """See :meth:`Backbone.schedule`: Euler's steps from σ = 1 to 0, shifted as the model's scheduler says."""
        config = self.scheduler.config
        if not 1 <= num_steps <= config.num_train_timesteps:
            raise InputError(f"model.num_steps={num_steps}: must lie between 1 and {config.num_train_timesteps}")
        shift = {}
        if config.use_dynamic_shifting:  # by the number of image tokens, as the pipeline does
            tokens = (self.latent_size // self.denoiser.config.patch_size) ** 2
            share = (tokens - config.base_image_seq_len) / (config.max_image_seq_len - config.base_image_seq_len)
            shift = {"mu": config.base_shift + share * (config.max_shift - config.base_shift)}
        self.scheduler.set_timesteps(num_steps, **shift)
        timesteps, sigmas = (x.float().to(self.device) for x in (self.scheduler.timesteps, self.scheduler.sigmas))
        return Schedule(timesteps, 1 - sigmas, sigmas, "flow", order=2)
