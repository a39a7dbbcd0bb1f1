"""PixArt-Σ: a transformer with cross-attention, T5 alone, DDIM. docs/extending.md walks through this file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from tokenizers import normalizers
from torch import Tensor

from locinv_pl.errors import InputError
from locinv_pl.networks.architectures.patches import PatchBackbone
from locinv_pl.networks.architectures.stable_diffusion import StableDiffusion
from locinv_pl.networks.attention import AttentionHook, Context, control_attention
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.folder import TAKEN
from locinv_pl.networks.text import Encoder, TextEncoders
from locinv_pl.networks.tuning import Tuning, checkpoint_blocks


class PixArtSigma(PatchBackbone, StableDiffusion):
    """A model of PixArt-Σ's layout: T5's states are the context, the prompt's mask stands where others pool.

    Source: Chen et al., PixArt-Σ, arXiv 2403.04692, and diffusers' PixArtSigmaPipeline.
    """

    PIPELINES: ClassVar[tuple[str, ...]] = ("PixArtSigmaPipeline",)
    PARTS: ClassVar[dict[str, str]] = {
        "vae": "AutoencoderKL",
        "text_encoder": "T5EncoderModel",
        "tokenizer": "T5TokenizerFast",
        "transformer": "PixArtTransformer2DModel",
        "scheduler": "DPMSolverMultistepScheduler",
    }
    is_distilled = False

    def __init__(
        self, name: str, vae: Any, text_encoder: Any, tokenizer: Any, transformer: Any, scheduler: Any, **how: Tuning
    ):
        before = tokenizer.backend_tokenizer.normalizer  # the pipeline's prompts are in lower case
        steps = [normalizers.Lowercase(), *([] if before is None else [before])]
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.model_max_length = min(tokenizer.model_max_length, 300)
        text = TextEncoders([Encoder(text_encoder, tokenizer)])
        Backbone.__init__(self, name, vae, text, transformer, scheduler, **how)
        self._graphs = None  # its passes were never recorded
        checkpoint_blocks(transformer, self.tuning)

    @classmethod
    def check(cls, configs: Mapping[str, Any], key: str, for_editors: bool) -> None:
        """See :meth:`Backbone.check`; half of the output's channels are a variance."""
        net, C = configs["transformer"], configs["vae"].latent_channels
        sizes = (net.in_channels, net.out_channels, net.caption_channels)
        if sizes != (C, 2 * C, configs["text_encoder"].d_model):
            raise InputError(f"{key}: its transformer, VAE and text encoder are of different models; {TAKEN}")

    @property
    def widths(self) -> tuple[int, int]:
        """D of the text's states, and C, the channels of a latent."""
        return self.denoiser.config.caption_channels, self.denoiser.config.in_channels

    def _moved(self) -> None:
        pass

    def _states(self, ids: Tensor, embeddings: Tensor | None) -> tuple[Tensor, ...]:
        mask = ids != self.tokenizer.pad_token_id
        ((answer,),) = self.text(ids, embeddings, attention_mask=mask.long())
        return answer.last_hidden_state.float(), mask.float()

    def _control(self, context: Context, hook: AttentionHook | None) -> AbstractContextManager[None]:
        project = self.denoiser.caption_projection  # comes before every layer's keys and values
        values = None if context.values is context.keys else project(context.values)
        return control_attention(self.denoiser, context.with_states(project(context.keys), values), hook)

    def _denoise(self, z: Tensor, t: Tensor, context: Context) -> Tensor:
        assert context.pooled is not None
        padding = -1e4 * (1 - context.pooled)[:, None, None]  # (B, 1, 1, L), is added to the scores
        text = {"encoder_hidden_states": context.keys, "encoder_attention_mask": padding}
        sizes = {"resolution": None, "aspect_ratio": None}
        out = self.denoiser(z, timestep=t.expand(len(z)), added_cond_kwargs=sizes, **text, return_dict=False)[0]
        return out.chunk(2, dim=1)[0]
