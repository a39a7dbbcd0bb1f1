"""Stable Diffusion 3 and 3.5: a transformer with joint attention, two CLIP encoders and T5, rectified flow."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from locinv_pl.errors import InputError
from locinv_pl.networks.architectures.joint import JointBackbone
from locinv_pl.networks.attention import AttentionHook, Context
from locinv_pl.networks.folder import TAKEN
from locinv_pl.networks.joint_attention import control_joint_attention, text_values
from locinv_pl.networks.text import Encoder, TextEncoders
from locinv_pl.networks.tuning import Tuning

CLIP_LENGTH, T5_LENGTH = 77, 256
BEST_BLOCKS = {(24, 0): (4, 5, 7, 8, 9), (24, 13): (5, 7, 8, 9, 10), (38, 0): (16, 18, 20, 21, 24)}
"""The blocks whose maps ground words best, by the numbers of blocks and of those with an attention of the image alone:
Stable Diffusion 3 medium, 3.5 medium and 3.5 large (arXiv 2508.07519)."""


class StableDiffusion3(JointBackbone):
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
        L = tokenizer.model_max_length
        self._zeros = 0 if text_encoder_3 is not None else T5_LENGTH if L == CLIP_LENGTH else L

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
        cls.check_flow(configs["scheduler"], key)

    @property
    def widths(self) -> tuple[int, int]:
        """D of the text's states, and C, the channels of a latent."""
        return self.denoiser.config.joint_attention_dim, self.denoiser.config.in_channels

    @property
    def latent_size(self) -> int:
        """Side of the latents that the model was trained on."""
        return self.denoiser.config.sample_size

    @property
    def _text_values(self) -> tuple[nn.Module, ...]:
        return text_values(self.denoiser)

    @property
    def map_layers(self) -> frozenset[str] | None:
        """The blocks that ground words best; all where nobody has looked."""
        config = self.denoiser.config
        best = BEST_BLOCKS.get((config.num_layers, len(config.dual_attention_layers)))
        return None if best is None else frozenset(f"transformer_blocks.{n}.attn" for n in best)

    def _states(self, ids: Tensor, embeddings: Tensor | None) -> tuple[Tensor, ...]:
        clip, *t5 = self.text(ids, embeddings, output_hidden_states=True)
        words = torch.cat([answer.hidden_states[-2] for answer in clip], dim=-1)
        words = F.pad(words, (0, self.widths[0] - words.shape[-1])).float()
        pooled = torch.cat([answer.text_embeds for answer in clip], dim=-1).float()
        return torch.cat([words, *(answer.last_hidden_state.float() for (answer,) in t5)], dim=1), pooled

    def _control(self, context: Context, hook: AttentionHook | None) -> AbstractContextManager[None]:
        return control_joint_attention(self.denoiser, context.keys.shape[1], hook)

    def _denoise(self, z: Tensor, t: Tensor, context: Context) -> Tensor:
        text = F.pad(context.keys, (0, 0, 0, self._zeros))
        told = {"encoder_hidden_states": text, "pooled_projections": context.pooled}
        return self.denoiser(z, timestep=t.expand(len(z)), **told, return_dict=False)[0]
