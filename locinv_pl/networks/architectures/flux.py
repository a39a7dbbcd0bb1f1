"""FLUX.1 dev and schnell: a transformer of double and single blocks, T5 and a pooled CLIP, rectified flow, no ∅."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from locinv_pl.errors import InputError
from locinv_pl.networks.architectures.joint import JointBackbone
from locinv_pl.networks.attention import AttentionHook, Context
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.folder import TAKEN
from locinv_pl.networks.joint_attention import TextValues, control_flux_attention, flux_layers
from locinv_pl.networks.prefix import Prefix
from locinv_pl.networks.text import Encoder, TextEncoders
from locinv_pl.networks.tuning import Tuning

T5_LENGTH, T5_LENGTH_OF_SCHNELL = 512, 256
BEST_BLOCKS = {(19, 38): (11, 12, 14, 17, 18)}
"""The double blocks whose maps ground words best, by the numbers of double and of single blocks: FLUX.1 dev and schnell
(arXiv 2508.07519)."""


class Flux(JointBackbone):
    """A model of FLUX.1's layout.

    A context is T5's states; the pooled ones are CLIP's output, whose tokens stand nowhere else. FLUX.1 dev has learned
    guidance and is told its scale, schnell has learned to do without. Neither has a null text: there is no
    classifier-free guidance, and nothing to optimise ∅ for.

    Four pixels of a latent, 2 x 2, are one token of the image.

    Source: Black Forest Labs, FLUX.1, and diffusers' FluxPipeline.

    Args:
        name: what it was loaded from.
        vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, transformer, scheduler: as diffusers and transformers
            load them; the first text encoder is CLIP, the second T5.
        tuning: how the networks are run; of it, gradient_checkpointing counts here.
    """

    PIPELINES: ClassVar[tuple[str, ...]] = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
    PARTS: ClassVar[dict[str, str]] = {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "T5EncoderModel",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "T5TokenizerFast",
        "transformer": "FluxTransformer2DModel",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    has_null: ClassVar[bool] = False

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
        tuning: Tuning = Tuning(),
    ):
        limit = T5_LENGTH if transformer.config.guidance_embeds else T5_LENGTH_OF_SCHNELL
        tokenizer_2.model_max_length = max(min(tokenizer_2.model_max_length, limit), tokenizer.model_max_length)
        text = TextEncoders([Encoder(text_encoder_2, tokenizer_2)], pooling=Encoder(text_encoder, tokenizer))
        super().__init__(name, vae, text, transformer, scheduler, tuning)
        self._layers = flux_layers(transformer)
        self._values = {name: TextValues(layer) for name, layer in self._layers.items()}

    @classmethod
    def check(cls, configs: Mapping[str, Any], key: str, for_editors: bool) -> None:
        """See :meth:`Backbone.check`."""
        net, vae, clip, t5 = (configs[part] for part in ("transformer", "vae", "text_encoder", "text_encoder_2"))
        if net.in_channels != 4 * vae.latent_channels:
            raise InputError(
                f"{key}: its transformer takes {net.in_channels} channels, four pixels of its VAE's latents have "
                f"{4 * vae.latent_channels}; {TAKEN}"
            )
        if (clip.hidden_size, t5.d_model) != (net.pooled_projection_dim, net.joint_attention_dim):
            raise InputError(f"{key}: its transformer and its text encoders are of different models; {TAKEN}")
        cls.check_flow(configs["scheduler"], key)

    @property
    def widths(self) -> tuple[int, int]:
        """D of the text's states, and C, the channels of a latent."""
        return self.denoiser.config.joint_attention_dim, self.denoiser.config.in_channels // 4

    @property
    def latent_size(self) -> int:
        """Side of the latents that the model was trained on, which its VAE knows."""
        return self.vae.config.sample_size // self.downsampling

    @property
    def patch_size(self) -> int:
        """See :meth:`PatchBackbone.patch_size`; the transformer's own is 1, of latents that are packed."""
        return 2

    @property
    def is_distilled(self) -> bool:
        """Whether the transformer has learned guidance and is told its scale, as dev is."""
        return self.denoiser.config.guidance_embeds

    def needs_null(self, w: float) -> bool:
        """Never.

        Args:
            w: guidance scale.
        """
        return False

    def inverting(self, w: float) -> Backbone:
        """See :meth:`Backbone.inverting`: at guidance 1, since a guided flow doesn't lead to noise.

        Args:
            w: guidance scale of the reconstruction.
        """
        return self.guided_by(1.0)

    def _guidance_of(self, w: float) -> Tensor:
        return torch.tensor([w], device=self.device)

    @property
    def map_layers(self) -> frozenset[str] | None:
        """The blocks that ground words best; all where nobody has looked."""
        config = self.denoiser.config
        best = BEST_BLOCKS.get((config.num_layers, config.num_single_layers))
        return None if best is None else frozenset(f"transformer_blocks.{n}.attn" for n in best)

    @property
    def _text_values(self) -> tuple[nn.Module, ...]:
        return tuple(self._values.values())

    def _states(self, ids: Tensor, embeddings: Tensor | None) -> tuple[Tensor, ...]:
        ((answer,),) = self.text(ids, embeddings)
        return answer.last_hidden_state.float(), self.text.pool(ids).float()

    def prefix(self, z: Tensor, t: Tensor) -> Prefix:
        """See :meth:`Backbone.prefix`; the places' rotations, which all images have in common, stay out of it.

        Args:
            z: z_t, (B, C, h, w).
            t: timestep, scalar or (B,).
        """
        found = super().prefix(z, t)
        return Prefix([module for module in found.modules if module is not self.denoiser.pos_embed])

    def _control(self, context: Context, hook: AttentionHook | None) -> AbstractContextManager[None]:
        return control_flux_attention(self._layers, self._values, context.keys.shape[1], hook)

    def _denoise(self, z: Tensor, t: Tensor, context: Context) -> Tensor:
        h, w = (side // self.patch_size for side in z.shape[-2:])
        rows, columns = (torch.arange(n, device=z.device, dtype=z.dtype) for n in (h, w))
        places = torch.cartesian_prod(torch.zeros_like(rows[:1]), rows, columns)  # (h w, 3)
        guidance = None
        if self.is_distilled:
            guidance = (self._guidance_of(1.0) if self._guidance is None else self._guidance).expand(len(z))
        out = self.denoiser(
            F.pixel_unshuffle(z, self.patch_size).flatten(2).mT,
            timestep=t.expand(len(z)).to(z.dtype) / 1000,
            guidance=guidance,
            encoder_hidden_states=context.keys,
            pooled_projections=context.pooled,
            img_ids=places,
            txt_ids=places.new_zeros(context.keys.shape[1], 3),
            return_dict=False,
        )[0]
        return F.pixel_shuffle(out.mT.unflatten(2, (h, w)), self.patch_size)

    def _spacing(self, num_steps: int) -> dict[str, Any]:
        return {"sigmas": np.linspace(1.0, 1 / num_steps, num_steps)}
