"""A small CLIP, trained from scratch on images and captions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from locinv_pl.pretrain.optimization import Optimization, PretrainModule


def text_config(tokenizer: Any, hidden: int = 128, layers: int = 3, heads: int = 4) -> CLIPTextConfig:
    """CLIP's text tower: causal attention, the end mark's state as the caption's."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=hidden,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_clip(
    tokenizer: Any, size: int = 128, patch: int = 16, hidden: int = 128, layers: int = 4, heads: int = 4
) -> CLIPModel:
    """A CLIP of two small transformers, 128 joint dimensions by default."""
    vision = CLIPVisionConfig(
        image_size=size,
        patch_size=patch,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=hidden,
    )
    text = text_config(tokenizer, hidden, heads=heads)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=hidden))


class ClipModule(PretrainModule):
    """Trains CLIP by its symmetric contrastive loss (arXiv 2103.00020).

    Of a batch only pairs with unlike captions push each other away: equal captions share the target.
    A batch is (images, ids): (B, 3, H, W) in [0, 1] and token ids (B, L).

    Args:
        clip: the model to train, see :func:`build_clip`.
        optimization: steps, batch size, learning rate and the other settings of AdamW.
    """

    def __init__(self, clip: CLIPModel, optimization: Optimization):
        super().__init__(optimization)
        self.clip = clip

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch."""
        images, ids = batch
        out = self.clip(input_ids=ids, pixel_values=images * 2 - 1)
        equal = (ids[:, None] == ids[None]).all(-1).float()
        target = equal / equal.sum(1, keepdim=True)
        text, image = out.logits_per_text.float(), out.logits_per_image.float()
        loss = (F.cross_entropy(text, target) + F.cross_entropy(image, target)) / 2
        accuracy = (equal.gather(1, image.argmax(1, keepdim=True)) > 0).float().mean()
        self.log_dict({"loss": loss, "retrieval": accuracy})
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        """The temperature stays at 100 at most, as in CLIP."""
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=4.6052)
