"""Checkpoints in one file, and LoRAs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ids_of, make_image, write_tiny_model
from runs import METHOD, Toy, make_samples, make_trainer
from safetensors.torch import save_file

from locinv_pl.api import edit_run, invert
from locinv_pl.editing.prompt_to_prompt import reconstruct
from locinv_pl.errors import InputError
from locinv_pl.io.files import read_json
from locinv_pl.networks.loading import load_as, load_backbone
from locinv_pl.run.module import LocInvModule

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
RESNET |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
UNET = {
    r"conv_in\.": "input_blocks.0.0.",
    r"time_embedding\.linear_1": "time_embed.0",
    r"time_embedding\.linear_2": "time_embed.2",
    r"add_embedding\.linear_1": "label_emb.0.0",
    r"add_embedding\.linear_2": "label_emb.0.2",
    r"down_blocks\.0\.resnets\.0": "input_blocks.1.0",
    r"down_blocks\.0\.downsamplers\.0\.conv": "input_blocks.2.0.op",
    r"down_blocks\.1\.resnets\.0": "input_blocks.3.0",
    r"down_blocks\.1\.attentions\.0": "input_blocks.3.1",
    r"mid_block\.resnets\.0": "middle_block.0",
    r"mid_block\.attentions\.0": "middle_block.1",
    r"mid_block\.resnets\.1": "middle_block.2",
    r"up_blocks\.0\.resnets\.(\d)": r"output_blocks.\1.0",
    r"up_blocks\.0\.attentions\.(\d)": r"output_blocks.\1.1",
    r"up_blocks\.0\.upsamplers\.0\.conv": "output_blocks.1.2.conv",
    r"up_blocks\.1\.resnets\.0": "output_blocks.2.0",
    r"up_blocks\.1\.resnets\.1": "output_blocks.3.0",
    r"conv_norm_out": "out.0",
    r"conv_out": "out.2",
}
VAE = {
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0\.group_norm": "mid.attn_1.norm",
    r"mid_block\.attentions\.0\.to_out\.0": "mid.attn_1.proj_out",
    r"mid_block\.attentions\.0\.to_": "mid.attn_1.",
    r"down_blocks\.(\d)\.resnets\.(\d)": r"down.\1.block.\2",
    r"down_blocks\.(\d)\.downsamplers\.0": r"down.\1.downsample",
    r"up_blocks\.0\.resnets\.(\d)": r"up.1.block.\1",
    r"up_blocks\.1\.resnets\.(\d)": r"up.0.block.\1",
    r"up_blocks\.0\.upsamplers\.0": "up.1.upsample",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
}


def renamed(name: str, names: dict[str, str]) -> str:
    for pattern, other in names.items():
        name = re.sub(pattern, other, name, count=1)
    return name


def unet_weights(unet: Any) -> dict[str, torch.Tensor]:
    weights = {}
    for name, weight in unet.state_dict().items():
        if "resnets" in name:
            for part, other in RESNET.items():
                name = name.replace(f".{part}.", f".{other}.")
        weights[renamed(name, UNET)] = weight
    return weights


OPENCLIP = {
    r"text_model\.embeddings\.position_embedding\.weight": "positional_embedding",
    r"text_model\.embeddings\.token_embedding": "token_embedding",
    r"text_model\.final_layer_norm": "ln_final",
    r"text_model\.encoder\.layers": "transformer.resblocks",
    "layer_norm": "ln_",
    r"mlp\.fc1": "mlp.c_fc",
    r"mlp\.fc2": "mlp.c_proj",
    r"self_attn\.qkv_proj\.": "attn.in_proj_",
    r"self_attn": "attn",
    r"text_projection\.weight": "text_projection",
}


def openclip_weights(encoder: Any) -> dict[str, torch.Tensor]:
    mine, weights = encoder.state_dict(), {}
    for name, weight in mine.items():
        if "q_proj" in name:
            weight = torch.cat([mine[name.replace("q_proj", f"{x}_proj")] for x in "qkv"])
        if "k_proj" not in name and "v_proj" not in name:
            named = renamed(name.replace("q_proj", "qkv_proj"), OPENCLIP)
            weights[named] = weight.T if named == "text_projection" else weight
    return weights


def write_checkpoint(backbone: Any, path: Path) -> None:
    """The tiny model under the names of its authors' own code."""
    own = unet_weights(backbone.denoiser)
    weights = {f"model.diffusion_model.{name}": weight for name, weight in own.items()}
    for name, weight in backbone.vae.state_dict().items():
        weights["first_stage_model." + renamed(name, VAE)] = weight
    first, *second = backbone.text.networks
    start = "conditioner.embedders.0.transformer." if second else "cond_stage_model.transformer."
    for name, weight in first.state_dict().items():
        weights[f"{start}text_model." + name.removeprefix("text_model.")] = weight
    for each in second:
        weights |= {f"conditioner.embedders.1.model.{name}": weight for name, weight in openclip_weights(each).items()}
    save_file({name: weight.clone().contiguous() for name, weight in weights.items()}, path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a model_index.json, as its pipeline saves it."""
    import json

    folder = write_tiny_model(tmp_path_factory.mktemp("whole"))
    parts = {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel", "scheduler": "DDIMScheduler"}
    index: dict[str, Any] = {name: ["diffusers", kind] for name, kind in parts.items()}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30.0"}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_checkpoint_in_one_file_is_the_model(whole: Path, tmp_path: Path) -> None:
    path, there = tmp_path / "model.safetensors", load_backbone(str(whole))
    write_checkpoint(there, path)
    layout = Path(shutil.copytree(whole, tmp_path / "layout", ignore=shutil.ignore_patterns("*.safetensors")))
    here = load_backbone(str(path), layout=str(layout))
    for one, other in ((here.denoiser, there.denoiser), (here.vae, there.vae)):
        ours, same = one.state_dict(), other.state_dict()
        assert ours.keys() == same.keys() and all(torch.equal(ours[name], same[name]) for name in same)
    assert torch.equal(here.encode_null().keys, there.encode_null().keys)
    assert here.origin == {"layout": str(layout)} and here.name == str(path)
    assert torch.equal(here.schedule(5).signal, there.schedule(5).signal)


def test_a_checkpoint_of_xl_in_one_file_is_the_model(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    path, there = tmp_path / "model.safetensors", load_backbone(str(folder_of("xl")))
    write_checkpoint(there, path)
    layout = shutil.copytree(folder_of("xl"), tmp_path / "layout", ignore=shutil.ignore_patterns("*.safetensors"))
    here = load_backbone(str(path), layout=str(layout))
    assert type(here) is type(there)
    for one, other in ((here.denoiser, there.denoiser), (here.vae, there.vae)):
        ours, same = one.state_dict(), other.state_dict()
        assert ours.keys() == same.keys() and all(torch.equal(ours[name], same[name]) for name in same)
    text, same = (each.encode_text(ids_of(each, "a red cat")) for each in (here, there))
    assert torch.equal(text.keys, same.keys) and torch.equal(text.pooled, same.pooled)


def test_a_checkpoint_without_its_layout_says_what_lacks(whole: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import huggingface_hub

    path = tmp_path / "model.safetensors"
    write_checkpoint(load_backbone(str(whole)), path)

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(InputError, match="stable-diffusion-v1-5; give model.layout=FOLDER"):
        load_backbone(str(path))


LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "down_blocks.0.resnets.0.conv1"


def factors(rank: int, out: int, into: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(rank, into, generator=generator), torch.randn(out, rank, generator=generator)


def write_lora(path: Path, style: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A LoRA of a projection and of a layer of the text encoder; returns how they change."""
    (A, B), (C, D) = factors(2, 32, 32), factors(3, 32, 32)
    text = "encoder.layers.0.self_attn.q_proj"
    if style == "kohya":
        names = [f"lora_unet_{LAYER}".replace(".", "_"), f"lora_te_text_model_{text}".replace(".", "_")]
        weights = {f"{names[0]}.lora_down.weight": A, f"{names[0]}.lora_up.weight": B}
        weights |= {f"{names[1]}.lora_down.weight": C, f"{names[1]}.lora_up.weight": D}
        weights |= {f"{name}.alpha": torch.tensor(1.0) for name in names}
        save_file(weights, path)
        return B @ A / 2, D @ C / 3
    names = [f"unet.{LAYER}", f"text_encoder.text_model.{text}"]
    save_file(
        {
            f"{names[0]}.lora_A.weight": A,
            f"{names[0]}.lora_B.weight": B,
            f"{names[1]}.lora_A.weight": C,
            f"{names[1]}.lora_B.weight": D,
        },
        path,
        {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 4}'},
    )
    return 2 * B @ A, D @ C


@pytest.mark.parametrize("style", ["kohya", "diffusers"])
def test_a_lora_is_added_to_the_weights(tiny_folder: Path, tiny: Any, tmp_path: Path, style: str) -> None:
    change, text = write_lora(tmp_path / "a.safetensors", style)
    there = load_backbone(str(tiny_folder), lora=str(tmp_path / "a.safetensors"))
    weight, before = (each.denoiser.get_submodule(LAYER).weight for each in (there, tiny))
    torch.testing.assert_close(weight, before + change)
    layers = [dict(each.text_encoder.named_modules()) for each in (there, tiny)]
    (name,) = [name for name in layers[0] if name.endswith("layers.0.self_attn.q_proj")]
    torch.testing.assert_close(layers[0][name].weight, layers[1][name].weight + text)


def test_a_lora_is_kept_in_settings(tiny_folder: Path, tiny: Any, tmp_path: Path) -> None:
    lora = str(tmp_path / "a.safetensors")
    write_lora(Path(lora), "kohya")
    module = LocInvModule(str(tiny_folder), METHOD, num_steps=2, resolution=8, lora=lora)
    trainer = make_trainer(tmp_path / "run")
    trainer.fit(module, datamodule=Toy(make_samples(1)))
    settings = read_json(tmp_path / "run/settings.json", dict)
    assert settings["lora"] == lora and "layout" not in settings
    assert torch.equal(
        load_as(settings).denoiser.get_submodule(LAYER).weight, module.backbone.denoiser.get_submodule(LAYER).weight
    )
    assert edit_run(tmp_path / "run", "p0", "a red dog and a dog")
    inversion = invert(tiny, make_image(), "a cat", method="ddim", num_steps=1, resolution=8)
    with pytest.raises(InputError, match="made with model.lora=None, not "):
        reconstruct(load_as({**settings, "backbone": inversion.settings["backbone"]}), [inversion])


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"unet.nowhere.lora_A.weight": 2, "unet.nowhere.lora_B.weight": 2}, "no layer unet.nowhere"),
        ({f"unet.{LAYER}.lora_A.weight": 2}, "or half of it lacks"),
        ({f"unet.{LAYER}.lora_A.weight": 2, f"unet.{LAYER}.lora_B.weight": 2}, "is of another model: unet.down_blocks"),
        ({"transformer.x.lora_A.weight": 2, "transformer.x.lora_B.weight": 2}, "no layer transformer.x"),
        ({"unet.x.weight": 2}, "unet.x.weight is no part of a LoRA"),
    ],
)
def test_other_files_are_no_lora(tiny_folder: Path, tmp_path: Path, weights: dict[str, int], says: str) -> None:
    save_file({name: torch.zeros(size, size) for name, size in weights.items()}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=f"^model.lora=.*{re.escape(says)}"):
        load_backbone(str(tiny_folder), lora=str(tmp_path / "a.safetensors"))
    shutil.rmtree(tmp_path)
    with pytest.raises(InputError, match="^model.lora=.*no such file"):
        load_backbone(str(tiny_folder), lora=str(tmp_path / "a.safetensors"))
