"""Models that aren't Stable Diffusion 1.x or 2.x in diffusers' layout: what they are, in one line, and fp16 files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from locinv_pl.cli.main import main
from locinv_pl.editing.pipelines import EditorSettings, make_editor
from locinv_pl.errors import InputError
from locinv_pl.networks.loading import load_backbone


def refusal(folder: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        load_backbone(str(folder))
    message = str(caught.value)
    assert message.startswith(f"backbone={folder}: ") and "\n" not in message
    return message


def write_unet(folder: Path, **values: Any) -> None:
    """A tiny UNet of diffusers' own class in place of the folder's."""
    from diffusers import UNet2DConditionModel

    kind: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": [16, 32],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    UNet2DConditionModel(**{**kind, **values}).save_pretrained(folder / "unet")


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("unet", "says"),
    [
        (
            {"in_channels": 9},
            "takes 9 channels, latents have 4: it is an inpainting model; edit by it with editor=inpaint",
        ),
        ({"in_channels": 8}, "it is an instruction model; edit by it with editor=instruct_pix2pix editor.model="),
        ({"in_channels": 5}, "takes 5 channels, latents have 4; give a folder of Stable Diffusion"),
        ({"out_channels": 8}, "gives 8 channels, its VAE's latents have 4"),
        ({"cross_attention_dim": 48}, "takes text of width 48, its text encoder gives 32"),
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 80,
            },
            "is Stable Diffusion XL's, its folder isn't",
        ),
        ({"time_cond_proj_dim": 9}, "unet/config.json: time_cond_proj_dim: Input should be a multiple of 2"),
        ({"num_class_embeds": 10}, "takes more than an image and a prompt (num_class_embeds)"),
    ],
)
def test_unets_of_other_models(own_folder: Path, unet: dict[str, Any], says: str) -> None:
    write_unet(own_folder, **unet)
    assert says in refusal(own_folder)


def _part(folder: Path, name: str) -> Any:
    import diffusers
    import transformers

    kinds = {
        "vae": diffusers.AutoencoderKL,
        "unet": diffusers.UNet2DConditionModel,
        "text_encoder": transformers.CLIPTextModel,
        "tokenizer": transformers.CLIPTokenizer,
        "scheduler": diffusers.DDIMScheduler,
    }
    return kinds[name].from_pretrained(folder, subfolder=name)


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("FluxFillPipeline", "is FLUX"),
        ("LuminaPipeline", "is a diffusion transformer (LuminaPipeline), not a UNet"),
    ],
)
def test_transformers(own_folder: Path, family: str, says: str) -> None:
    from diffusers import SD3Transformer2DModel

    (own_folder / "unet").rename(own_folder / "transformer")
    SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        in_channels=4,
    ).save_pretrained(own_folder / "transformer")
    (own_folder / "model_index.json").write_text(json.dumps({"_class_name": family}))
    assert says in refusal(own_folder)


@pytest.mark.parametrize(
    ("file", "values", "says"),
    [
        ("unet/config.json", {"sample_size": "64"}, "unet/config.json: sample_size: Input should be a valid integer"),
        ("unet/config.json", {"down_block_types": 3}, "unet/config.json: down_block_types"),
        ("unet/config.json", {"block_out_channels": ["a"]}, "unet/config.json: block_out_channels.0"),
        ("unet/config.json", {"cross_attention_dim": True}, "unet/config.json: cross_attention_dim"),
        ("unet/config.json", {"_class_name": "UNetMotionModel"}, "its unet is a UNetMotionModel"),
        ("unet/config.json", {"attention_head_dim": "x"}, "can't be loaded"),
        ("vae/config.json", {"scaling_factor": None}, "vae/config.json: scaling_factor"),
        ("vae/config.json", {"shift_factor": 0.1}, "its VAE shifts latents"),
        ("vae/config.json", {"_class_name": "VQModel"}, "its vae is a VQModel"),
        ("text_encoder/config.json", {"model_type": "t5"}, "its text encoder is a t5, not CLIP's"),
        ("text_encoder/config.json", {"hidden_size": 10**30}, "text_encoder/config.json: hidden_size"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "prediction_type: Input should be"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}, "num_train_timesteps"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "is a flow model"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "many"}, "tokenizer_config.json: model_max_length"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": -1}, "tokenizer_config.json: model_max_length"),
    ],
)
def test_configurations(own_folder: Path, file: str, values: dict[str, Any], says: str) -> None:
    change(own_folder / file, **values)
    assert says in refusal(own_folder)


@pytest.mark.parametrize("content", [b"[]", b"1", b"\xff", b"[" * 100_000, b'{"a": ' + b" " * (1 << 20) + b"1}"])
def test_no_configuration(own_folder: Path, content: bytes) -> None:
    (own_folder / "unet/config.json").write_bytes(content)
    assert "unet/config.json is missing or damaged" in refusal(own_folder)


@pytest.mark.parametrize("length", [1e9, 10**30, 77])
def test_prompts_are_as_long_as_the_text_encoder_takes(own_folder: Path, length: float) -> None:
    change(own_folder / "tokenizer/tokenizer_config.json", model_max_length=length)
    assert load_backbone(str(own_folder)).encode_null().keys.shape == (1, 20, 32)


def test_a_tokenizer_of_another_model(own_folder: Path) -> None:
    """Its words would lie beyond the text encoder's table."""
    tokenizer = _part(own_folder, "tokenizer")
    tokenizer.add_tokens(["zebra", "owl"])
    tokenizer.save_pretrained(own_folder / "tokenizer")
    assert "words, its text encoder" in refusal(own_folder)


def test_a_folder_with_fp16_files_only(own_folder: Path, tiny_folder: Path) -> None:
    for part in ("vae", "unet", "text_encoder"):
        (file,) = (own_folder / part).glob("*.safetensors")
        file.rename(file.with_suffix(".fp16.safetensors"))
    here, there = load_backbone(str(own_folder)), load_backbone(str(tiny_folder))
    assert all(torch.equal(a, b) for a, b in zip(here.unet.parameters(), there.unet.parameters(), strict=True))
    assert here.dtype == torch.float32


def write_lora(path: Path) -> None:
    save_file({"unet.down_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(1)}, path)


def write_checkpoint(path: Path) -> None:
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}, path)


def write_part(path: Path) -> None:
    save_file({"conditioner.embedders.0.x": torch.zeros(1)}, path)


def test_a_folder_with_a_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.safetensors")
    assert f"holds a checkpoint in one file; give backbone={tmp_path / 'a.safetensors'}" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("a.ckpt", lambda path: path.write_bytes(b"\x80\x04."), "P.from_single_file("),
        (
            "a.safetensors",
            write_lora,
            "is a LoRA, a change to a model and none itself; give the model's",
        ),
        ("a.safetensors", write_part, "is no checkpoint of Stable Diffusion"),
        ("a.safetensors", lambda path: path.write_bytes(b"x"), "is no safetensors file, or a damaged one"),
        ("a.png", lambda path: path.write_bytes(b"x"), "is a file, not a model's folder"),
    ],
)
def test_one_file(tmp_path: Path, name: str, write: Callable[[Path], Any], says: str) -> None:
    write(tmp_path / name)
    assert says in refusal(tmp_path / name)
    if name != "a.png":
        assert says in refusal(tmp_path)


def test_a_lora_s_folder_and_a_part(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "is a LoRA" in refusal(tmp_path)
    assert "is a single UNet2DConditionModel, one part of a model" in refusal(tiny_folder / "unet")
    assert "is a single clip_text_model" in refusal(tiny_folder / "text_encoder")


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_zero_terminal_snr(own_folder: Path, spacing: str) -> None:
    """ᾱ is 0 at the last timestep, which not every spacing takes."""
    change(own_folder / "scheduler/scheduler_config.json", rescale_betas_zero_snr=True, timestep_spacing=spacing)
    backbone = load_backbone(str(own_folder))
    if spacing == "leading":
        assert (backbone.schedule(10).signal > 0).all()
    else:
        with pytest.raises(InputError, match="ends without a signal .rescale_betas_zero_snr."):
            backbone.schedule(10)


def test_an_editor_takes_its_own_kind(own_folder: Path, tiny: Any) -> None:
    write_unet(own_folder, in_channels=9)
    editor = make_editor(EditorSettings("inpaint", str(own_folder), 2), tiny)
    prior = torch.zeros(32, 32)
    prior[:16] = 1
    assert editor(torch.rand(3, 32, 32), "a cat", "a dog", prior).shape == (3, 32, 32)
    with pytest.raises(InputError, match="takes 9 channels, this editor needs one that takes 4"):
        make_editor(EditorSettings("diffedit", str(own_folder), 2), tiny)


@pytest.mark.parametrize("in_channels", [9, 8])
def test_the_run_s_folder_is_left_alone(
    own_folder: Path, in_channels: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_unet(own_folder, in_channels=in_channels)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit, match="latents have 4: it is an in"):
        main(["fit", "data=scenes", "data.num_images=1", f"backbone={own_folder}", f"output={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()
