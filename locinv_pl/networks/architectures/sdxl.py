"""Stable Diffusion XL: two CLIP text encoders side by side, pooled states, and the image's size beside the timestep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from locinv_pl.errors import InputError
from locinv_pl.networks.architectures.stable_diffusion import StableDiffusion
from locinv_pl.networks.attention import Context
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.folder import TAKEN, check_channels, check_unet
from locinv_pl.networks.text import Encoder, TextEncoders
from locinv_pl.networks.tuning import Tuning, tune


class StableDiffusionXL(StableDiffusion):
    """A model of Stable Diffusion XL's layout.

    A context is the penultimate states of both text encoders side by side, and the second one's pooled output.

    Source: Podell et al., SDXL, arXiv 2307.01952, and diffusers' StableDiffusionXLPipeline.

    Args:
        name: what it was loaded from.
        vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, scheduler: as diffusers and transformers load
            them. A VAE that is to be computed in fp32 (``force_upcast``) is.
        zero_null: whether ∅ is zeros, as for the published weights, and not the encoded "".
        tuning: how the networks are run.
    """

    PIPELINES: ClassVar[tuple[str, ...]] = (
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
    )
    PARTS: ClassVar[dict[str, str]] = {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "DDIMScheduler",
    }

    def __init__(
        self,
        name: str,
        vae: Any,
        text_encoder: Any,
        text_encoder_2: Any,
        tokenizer: Any,
        tokenizer_2: Any,
        unet: Any,
        scheduler: Any,
        zero_null: bool = True,
        tuning: Tuning = Tuning(),
    ):
        if vae.config.force_upcast:
            nn.Module.to(vae, torch.float32)  # diffusers' own talks about it
        encoders = [Encoder(text_encoder, tokenizer), Encoder(text_encoder_2, tokenizer_2)]
        Backbone.__init__(self, name, vae, TextEncoders(encoders), unet, scheduler, tuning)
        self.zero_null = zero_null
        self._time_ids: dict[tuple[int, ...], Tensor] = {}
        tune(unet, vae, tuning)

    @classmethod
    def options(cls, index: Mapping[str, Any]) -> dict[str, Any]:
        """Whether ∅ is zeros."""
        return {"zero_null": bool(index.get("force_zeros_for_empty_prompt", True))}

    @classmethod
    def check(cls, configs: Mapping[str, Any], key: str, for_editors: bool) -> None:
        """See :meth:`Backbone.check`."""
        unet, vae, texts = configs["unet"], configs["vae"], (configs["text_encoder"], configs["text_encoder_2"])
        if unet.addition_embed_type != "text_time":
            raise InputError(f"{key}: its UNet isn't told the image's size, as Stable Diffusion XL's is; {TAKEN}")
        check_unet(unet, vae, configs["scheduler"], key)
        width, pooled = sum(text.hidden_size for text in texts), texts[1].projection_dim
        takes = (unet.cross_attention_dim, unet.projection_class_embeddings_input_dim)
        if takes != (width, pooled + 6 * (unet.addition_time_embed_dim or 0)):
            raise InputError(
                f"{key}: its UNet takes text of width {takes[0]}, its text encoders give {width}, or it takes another "
                f"width of pooled states than theirs: they are of different models; {TAKEN}"
            )
        check_channels(unet, vae, key, for_editors)

    @property
    def widths(self) -> tuple[int, int]:
        """D of the text's states, and C, the channels of a latent."""
        config = self.denoiser.config
        return config.cross_attention_dim, config.in_channels

    def _states(self, ids: Tensor, embeddings: Tensor | None) -> tuple[Tensor, ...]:
        (answers,) = self.text(ids, embeddings, output_hidden_states=True)
        states = torch.cat([answer.hidden_states[-2] for answer in answers], dim=-1)
        return states.float(), answers[-1].text_embeds.float()

    def encode_null(self) -> Context:
        """∅, zeros or what stands for the empty prompt: (1, L, D)."""
        null = super().encode_null()
        if not self.zero_null:
            return null
        assert null.pooled is not None
        return Context.of(torch.zeros_like(null.keys), torch.zeros_like(null.pooled))

    def _denoise(self, z: Tensor, t: Tensor, context: Context) -> Tensor:
        added = {"text_embeds": context.pooled, "time_ids": self._size_of(z).expand(len(z), -1)}
        cond = None if self._guidance is None else self._guidance.expand(len(z), -1)
        return self.denoiser(
            z,
            t,
            timestep_cond=cond,
            encoder_hidden_states=context.keys,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]

    def _size_of(self, z: Tensor) -> Tensor:
        """What the UNet is told of an image: its height and width, uncropped, and the same as aims; (1, 6)."""
        size = [side * self.downsampling for side in z.shape[-2:]]
        key = (*size, z.device.index or 0)
        if key not in self._time_ids or self._time_ids[key].device != z.device:
            self._time_ids[key] = torch.tensor([[*size, 0, 0, *size]], dtype=self.dtype, device=z.device)
        return self._time_ids[key]
