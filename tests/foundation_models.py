"""Tiny random foundation models, of the classes and in the layouts that the real ones have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import (
    BertConfig,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    BlipTextConfig,
    BlipVisionConfig,
    CLIPTextConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
    Sam3Config,
    Sam3DETRDecoderConfig,
    Sam3DETREncoderConfig,
    Sam3GeometryEncoderConfig,
    Sam3MaskDecoderConfig,
    Sam3Model,
    Sam3VisionConfig,
    Sam3ViTConfig,
    SamConfig,
    SamImageProcessorPil,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
    SwinConfig,
)

from locinv_pl.grounding.models import FoundationModels

SQUARE = 64
WORDS = ["a", "cat", "dog", "##s", "teddy", "bear", "hot", "zebra"]
MARKS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}  # as in BERT
QUERIES = 12


def make_tokenizer(folder: Path) -> BertTokenizer:
    """WordPiece with BERT's ids for the marks, which Grounding DINO knows by number."""
    vocab = [f"[unused{n}]" for n in range(max(MARKS) + 1)]
    vocab[200 : 200 + len(WORDS)] = WORDS
    for n, mark in MARKS.items():
        vocab[n] = mark
    (folder / "vocab.txt").write_text("\n".join(vocab))
    return BertTokenizer(vocab=str(folder / "vocab.txt"))


def write_detector(folder: Path, tokenizer: BertTokenizer) -> None:
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=32,
            patch_size=4,
            embed_dim=8,
            depths=[1] * 4,
            num_heads=[1, 1, 2, 2],
            window_size=2,
            out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        ),
        num_queries=QUERIES,
        d_model=64,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_text_len=32,
    )
    network = GroundingDinoForObjectDetection(config)
    for layer in network.bbox_embed[0].layers:
        layer.weight.data.normal_(std=0.5)  # random boxes; they are the proposals otherwise
    network.save_pretrained(folder)
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 48, "longest_edge": 96})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)


def write_segmenter(folder: Path) -> None:
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=16,
            output_channels=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=64,
            patch_size=8,
            window_size=4,
            global_attn_indexes=[0],
            num_pos_feats=8,
            mlp_dim=32,
            initializer_range=0.2,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
        ),
        initializer_range=0.2,
    )
    SamModel(config).save_pretrained(folder)
    images = SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    SamProcessor(images).save_pretrained(folder)


def write_preprocessor(folder: Path, mean: float, std: float) -> None:
    """As the hub's folders of SAM 2 and SAM 3 have it; transformers' classes write it where torchvision is."""
    values = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [mean] * 3,
        "image_std": [std] * 3,
        "mask_size": {"height": SQUARE // 4, "width": SQUARE // 4},
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": SQUARE, "width": SQUARE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


def write_sam2(folder: Path) -> None:
    """Hiera of five blocks, in place of twelve, and a decoder of one."""
    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SQUARE, SQUARE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 2, 2, 2],
        window_positional_embedding_background_size=[2, 2],
        global_attention_blocks=[3],
        initializer_range=0.2,
    )
    config = Sam2Config(
        vision_config=Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
            fpn_hidden_size=32,
            initializer_range=0.2,
        ),
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=32, image_size=SQUARE, patch_size=16),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=32, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
        ),
        initializer_range=0.2,
    )
    Sam2Model(config).save_pretrained(folder)
    write_preprocessor(folder, 0.45, 0.225)


def write_sam3(folder: Path, tokenizer: Any) -> None:
    """One layer of each kind."""
    layer = {"hidden_size": 32, "num_attention_heads": 2, "initializer_range": 0.2}
    small = {**layer, "num_layers": 1, "intermediate_size": 32, "dropout": 0.0}
    config = Sam3Config(
        vision_config=Sam3VisionConfig(
            backbone_config=Sam3ViTConfig(
                **layer,
                intermediate_size=32,
                num_hidden_layers=1,
                image_size=SQUARE,
                patch_size=16,
                window_size=2,
                global_attn_indexes=[0],
                pretrain_image_size=32,
            ),
            fpn_hidden_size=32,
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
            initializer_range=0.2,
        ),
        text_config=CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            initializer_factor=4.0,
        ),
        geometry_encoder_config=Sam3GeometryEncoderConfig(**small),
        detr_encoder_config=Sam3DETREncoderConfig(**small),
        detr_decoder_config=Sam3DETRDecoderConfig(**small, num_queries=QUERIES),
        mask_decoder_config=Sam3MaskDecoderConfig(**layer),
        initializer_range=0.2,
    )
    Sam3Model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_preprocessor(folder, 0.5, 0.5)


def write_captioner(folder: Path, tokenizer: BertTokenizer) -> None:
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = BlipTextConfig(
        **size,
        vocab_size=len(tokenizer) + 2,  # BLIP's own marks are not in the tokenizer
        bos_token_id=len(tokenizer),
        sep_token_id=102,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    vision = BlipVisionConfig(**size, image_size=32, patch_size=8, initializer_range=0.5)
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), initializer_range=0.5)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


def write_models(root: Path, text_tokenizer: Any) -> Path:
    """All of them under ``root``: detector, segmenter, sam2, sam3, captioner."""
    tokenizer = make_tokenizer(root)
    torch.manual_seed(0)
    write_detector(root / "detector", tokenizer)
    write_segmenter(root / "segmenter")
    write_captioner(root / "captioner", tokenizer)
    write_sam2(root / "sam2")
    write_sam3(root / "sam3", text_tokenizer)
    return root


def settings(folder: Path, cache: Path, **changes) -> FoundationModels:
    """Every box counts, if not said otherwise."""
    parts = {part: str(folder / part) for part in ("detector", "segmenter", "captioner")}
    return FoundationModels(**{**parts, "box_threshold": 0.0, "text_threshold": 0.0, "cache": str(cache), **changes})


def into_hub_cache(folder: str | Path, cache: Path) -> Path:
    """A model's files as the hub's own, in a cache of the hub under me/tiny; the folder with them."""
    model = cache / "models--me--tiny"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text("0" * 40)
    return Path(shutil.copytree(folder, model / "snapshots" / ("0" * 40)))


def use_hub_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hub names are looked up in ``cache``."""
    for module in (huggingface_hub.constants, huggingface_hub.file_download, transformers.utils.hub):
        for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
            monkeypatch.setattr(module, name, str(cache), raising=False)


def make_photo(width: int = 70, height: int = 40, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
