"""FLUX.1 against diffusers' own pipeline: text, steps, maps, values of their own, files, LoRAs, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LENGTH, make_image
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from runs import run_stage
from safetensors.torch import save_file
from tiny_pipelines import write_tiny_flux

from locinv_pl.api import invert
from locinv_pl.configs import presets
from locinv_pl.editing.prompt_to_prompt import edit, reconstruct
from locinv_pl.editing.settings import EditSettings, strengths
from locinv_pl.errors import InputError
from locinv_pl.method.policies import load_method
from locinv_pl.networks.architectures.flux import Flux
from locinv_pl.networks.loading import load_backbone
from locinv_pl.networks.text import BITS
from locinv_pl.words.alignment import align
from locinv_pl.words.tokens import tokenize

PROMPT, GRID, T5_TOKENS = "a red cat and a dog", (8, 8), 24


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="session")
def flux(flux_folder: Path) -> Any:
    return load_backbone(str(flux_folder))


@pytest.fixture(scope="session")
def schnell_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_flux(tmp_path_factory.mktemp("schnell"), guidance=False)


@pytest.fixture(scope="session")
def inputs(flux: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return z, flux.schedule(4).timesteps[1], flux.encode_text(ids_of(flux, PROMPT)).expand(2)


def pipeline(folder: Path) -> Any:
    from diffusers import FluxPipeline

    none = dict.fromkeys(("image_encoder", "feature_extractor"))
    pipe = FluxPipeline.from_pretrained(folder, local_files_only=True, **none)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ids_of(backbone: Any, prompt: str) -> torch.Tensor:
    return tokenize(backbone.tokenizer, prompt).ids[None]


def test_what_it_says_of_itself(flux, schnell_folder):
    assert isinstance(flux, Flux) and (flux.image_size, flux.widths) == (32, (24, 4))
    assert flux.tokenizer.model_max_length == T5_TOKENS and not flux.needs_null(7.5)
    assert flux.map_grid((16, 16), 8) == GRID and flux.coarsest((16, 16)) == 8
    assert flux.text.units.shape == (T5_TOKENS, 24)  # T5's table has another scale than CLIP's
    assert flux.is_distilled and not load_backbone(str(schnell_folder)).is_distilled
    with pytest.raises(InputError, match="model.resolution=4: .* has no attention of that size .*; use 8"):
        flux.map_grid((16, 16), 4)


@pytest.mark.parametrize("prompt", [PROMPT, "zebra", "", "zebra zebra zebra zebr"])
@torch.no_grad()
def test_prompts_are_encoded_as_by_the_pipeline(flux, flux_folder, prompt):
    """The last is too long for CLIP, which leaves out its end."""
    states, pooled, _ = pipeline(flux_folder).encode_prompt(prompt, max_sequence_length=T5_TOKENS)
    ours = flux.encode_text(ids_of(flux, prompt))
    assert torch.equal(ours.keys, states) and torch.equal(ours.pooled, pooled)


@pytest.mark.parametrize("kind", ["flux_folder", "schnell_folder"])
@torch.no_grad()
def test_four_steps_are_the_pipeline_s(kind, request):
    folder = request.getfixturevalue(kind)
    backbone, pipe = load_backbone(str(folder)), pipeline(folder)
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    size = {"height": 32, "width": 32, "max_sequence_length": T5_TOKENS}
    how = {"num_inference_steps": 4, "guidance_scale": 3.5, "output_type": "latent"}
    packed = pipe(PROMPT, latents=pipe._pack_latents(z, 1, 4, 16, 16), **size, **how).images
    schedule, context, guided = backbone.schedule(4), backbone.encode_text(ids_of(backbone, PROMPT)), []
    for w in (3.5, 1.0):
        guided.append(z)
        for i, t in enumerate(schedule.timesteps):
            guided[-1] = schedule.step(guided[-1], backbone.guided_by(w).predict(guided[-1], t, context), i)
    torch.testing.assert_close(guided[0], pipe._unpack_latents(packed, 32, 32, 2), rtol=0, atol=1e-5)
    assert torch.equal(*guided) == (kind == "schnell_folder")


@torch.no_grad()
def test_maps_are_the_image_to_text_block_renormalised(flux, inputs):
    """Computed by hand, with queries and keys caught in diffusers' own pass; the mean over heads and blocks."""
    z, t, context = inputs
    caught: dict[str, dict[str, torch.Tensor]] = {}
    handles = []
    for name, module in flux.denoiser.named_modules():
        block, _, part = name.rpartition(".")
        if part in ("norm_q", "norm_k", "norm_added_k", "pos_embed"):
            into = caught.setdefault(block, {})
            handles.append(
                module.register_forward_hook(lambda m, x, out, into=into, part=part: into.update({part: out}))
            )
    flux.predict(z, t, context)
    for handle in handles:
        handle.remove()
    places, maps = caught.pop("")["pos_embed"], []
    assert len(caught) == 3
    for each in caught.values():
        text, image = each.get("norm_added_k", each["norm_k"][:, :T5_TOKENS]), each["norm_q"][:, -64:]
        q = apply_rotary_emb(image, tuple(x[T5_TOKENS:] for x in places), sequence_dim=1).transpose(1, 2)
        maps.append((q @ text.transpose(1, 2).mT / 8**0.5).softmax(-1).mean(1))
    A = flux.predict_with_maps(z, t, context, GRID)[1]
    torch.testing.assert_close(A, torch.stack(maps).mean(0).unflatten(1, GRID), rtol=1e-4, atol=1e-6)


def test_gradients_are_those_without_checkpoints(flux, flux_folder, inputs):
    from locinv_pl.networks.tuning import Tuning

    z, t, context = inputs
    each = []
    for backbone in (flux, load_backbone(str(flux_folder), tuning=Tuning(gradient_checkpointing=True))):
        keys = (context.keys + 0.3).requires_grad_()
        moved = context.with_states(keys, context.values)
        backbone.attention_maps(z, t, moved, GRID, backbone.prefix(z, t))[..., 2].sum().backward()
        each.append(keys.grad)
    assert each[0].abs().max() > 0
    torch.testing.assert_close(*each)


def test_a_prompt_s_first_word_is_no_mark(flux):
    """T5 has no start mark, whose state a target would have from the source."""
    kept = align(*(tokenize(flux.tokenizer, prompt) for prompt in ("cat on grass", "dog on grass"))).kept
    assert kept[:5].tolist() == [-1, 1, 2, 3, 4]


def test_the_inversion_is_made_without_guidance_and_the_rest_with_it(flux):
    """At guidance 1 it leads back; z_T doesn't depend on w."""

    def made(w: float) -> Any:
        how = load_method("ddim").from_dict({**load_method("ddim").to_dict(), "guidance_scale": w})
        return invert(flux, make_image(), PROMPT, method=how, num_steps=10, resolution=8)

    one, three = made(1.0), made(3.5)
    assert torch.equal(one.trajectory, three.trajectory) and not torch.equal(one.latent, three.latent)
    images = [reconstruct(flux, [each])[0] for each in (one, three)]
    errors = [(image - flux.decode(one.trajectory[:1])[0]).square().mean() for image in images]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("name", presets("method"))
def test_methods_without_a_null_text_run(flux, name):
    image, box = make_image(), {"cat": [0, 0, 16, 16]}
    run = partial(invert, flux, image, PROMPT, box, method=name, num_steps=2, resolution=8)
    if load_method(name).null_text.policy in ("none", "direct"):
        assert run().trajectory.shape == (3, 4, 16, 16)
        return
    with pytest.raises(InputError, match=f"^method={name}: .*take method=locinv_direct, or method=direct$"):
        run()


def test_a_run_by_another_method_is_refused_before_it_begins(flux, tmp_path):
    with pytest.raises(InputError, match="needs a null text"):
        run_stage(Path(flux.name), tmp_path / "run", count=1, method=load_method("locinv"))
    assert not (tmp_path / "run").exists()


def test_edits_take_over_the_image_s_queries_and_keys(flux):
    inversion = invert(flux, make_image(), PROMPT, method="direct", num_steps=3, resolution=8)
    ways = [settings for _, settings in strengths(EditSettings(blend="none", candidates=2))]
    none = EditSettings(blend="none", self_replace_steps=0.0, keep="nothing")
    prompts = ["a red dog and a dog"] * (1 + len(ways))
    images = edit(flux, inversion, prompts, [none, *ways])
    assert images.shape == (3, 3, 32, 32) and (images[0] - images[1]).abs().max() > 1e-4
    for prompt, settings in (("a (red:2) cat and a dog", {}), ("a red dog and a dog", {"word_steps": {"dog": 0.5}})):
        with pytest.raises(InputError, match="act on cross-attention, which backbone .* hasn't"):
            edit(flux, inversion, prompt, EditSettings(**settings))


def test_a_transformer_in_one_file_takes_the_place_of_its_layout_s(flux, flux_folder, tmp_path):
    layout, path = Path(shutil.copytree(flux_folder, tmp_path / "layout")), tmp_path / "model.safetensors"
    (file,) = (layout / "transformer").glob("*.safetensors")
    file.rename(path)
    here = load_backbone(str(path), layout=str(layout))
    assert here.origin == {"layout": str(layout)} and here.name == str(path)
    ours, same = here.denoiser.state_dict(), flux.denoiser.state_dict()
    assert ours.keys() == same.keys() and all(torch.equal(ours[name], same[name]) for name in same)
    assert torch.equal(here.encode_null().keys, flux.encode_null().keys)


RENAMED = {
    r"time_text_embed\.timestep_embedder\.linear_": "time_in.linear_",
    r"time_text_embed\.text_embedder\.linear_": "vector_in.linear_",
    r"time_text_embed\.guidance_embedder\.linear_": "guidance_in.linear_",
    r"_in\.linear_1": "_in.in_layer",
    r"_in\.linear_2": "_in.out_layer",
    r"^context_embedder": "txt_in",
    r"^x_embedder": "img_in",
    r"^proj_out": "final_layer.linear",
    r"^norm_out\.linear": "final_layer.adaLN_modulation.1",
    r"^transformer_blocks": "double_blocks",
    r"^single_transformer_blocks": "single_blocks",
    r"norm1\.linear": "img_mod.lin",
    r"norm1_context\.linear": "txt_mod.lin",
    r"(single_blocks\.\d+)\.norm\.linear": r"\1.modulation.lin",
    r"(single_blocks\.\d+)\.proj_out": r"\1.linear2",
    r"(single_blocks\.\d+)\.attn\.norm_q\.weight": r"\1.norm.query_norm.scale",
    r"(single_blocks\.\d+)\.attn\.norm_k\.weight": r"\1.norm.key_norm.scale",
    r"attn\.norm_q\.weight": "img_attn.norm.query_norm.scale",
    r"attn\.norm_k\.weight": "img_attn.norm.key_norm.scale",
    r"attn\.norm_added_q\.weight": "txt_attn.norm.query_norm.scale",
    r"attn\.norm_added_k\.weight": "txt_attn.norm.key_norm.scale",
    r"attn\.to_out\.0": "img_attn.proj",
    r"attn\.to_add_out": "txt_attn.proj",
    r"ff\.net\.0\.proj": "img_mlp.0",
    r"ff\.net\.2": "img_mlp.2",
    r"ff_context\.net\.0\.proj": "txt_mlp.0",
    r"ff_context\.net\.2": "txt_mlp.2",
}
"""Diffusers' names of FLUX's weights, in this order, to those of Black Forest Labs' files."""
TOGETHER = {
    "double_blocks.0.img_attn.qkv": (
        "double_blocks.0.attn.to_q",
        "double_blocks.0.attn.to_k",
        "double_blocks.0.attn.to_v",
    ),
    "double_blocks.0.txt_attn.qkv": tuple(f"double_blocks.0.attn.add_{name}_proj" for name in "qkv"),
    "single_blocks.0.linear1": (*(f"single_blocks.0.attn.to_{name}" for name in "qkv"), "single_blocks.0.proj_mlp"),
}
"""What these keep as one matrix."""


@pytest.mark.slow
def test_a_file_of_black_forest_labs_is_the_transformer(flux_folder, tmp_path):
    """One block of each kind at the width of FLUX.1, which diffusers takes for granted: a gigabyte."""
    layout, path = Path(shutil.copytree(flux_folder, tmp_path / "layout")), tmp_path / "flux1-dev.safetensors"
    config = json.loads((layout / "transformer/config.json").read_text())
    config |= {"num_layers": 1, "attention_head_dim": 128, "num_attention_heads": 24, "axes_dims_rope": [16, 56, 56]}
    (layout / "transformer/config.json").write_text(json.dumps(config))
    weights = FluxTransformer2DModel.from_config(config).bfloat16().state_dict()
    theirs = {}
    for name, weight in weights.items():
        for ours, new in RENAMED.items():
            name = re.sub(ours, new, name)
        theirs[name] = torch.cat(weight.chunk(2)[::-1]) if "adaLN" in name else weight  # shift and scale
    for whole, parts in TOGETHER.items():
        for kind in ("weight", "bias"):
            theirs[f"{whole}.{kind}"] = torch.cat([theirs.pop(f"{part}.{kind}") for part in parts])
    assert not [name for name in theirs if "attn.to_" in name or "transformer" in name or "embed" in name]
    save_file(theirs, path)
    here = load_backbone(str(path), "bfloat16", layout=str(layout)).denoiser.state_dict()
    path.unlink()
    assert here.keys() == weights.keys() and all(torch.equal(here[name], weights[name]) for name in weights)


def test_a_layout_of_another_kind_is_refused(flux_folder, tmp_path):
    save_file({"joint_blocks.0.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is a checkpoint of StableDiffusion3Pipeline, its layout .* of FluxPipeline"):
        load_backbone(str(tmp_path / "model.safetensors"), layout=str(flux_folder))


@pytest.mark.parametrize("style", ["kohya", "diffusers"])
def test_a_lora_is_added_to_the_weights(flux, flux_folder, tmp_path, style):
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(2, 16, generator=generator), torch.randn(16, 2, generator=generator)
    if style == "kohya":
        layer, name = "transformer_blocks.0.attn.to_out.0", "lora_unet_double_blocks_0_img_attn_proj"
        weights = {f"{name}.lora_down.weight": A, f"{name}.lora_up.weight": B, f"{name}.alpha": torch.tensor(1.0)}
    else:
        layer = "single_transformer_blocks.0.attn.to_q"
        weights = {f"transformer.{layer}.lora_A.weight": A, f"transformer.{layer}.lora_B.weight": B / 2}
    save_file(weights, tmp_path / "a.safetensors")
    there = load_backbone(str(flux_folder), lora=str(tmp_path / "a.safetensors"))
    weight, before = (each.denoiser.get_submodule(layer).weight for each in (there, flux))
    torch.testing.assert_close(weight, before + B @ A / 2)
    save_file(
        {"transformer.nowhere.lora_A.weight": A, "transformer.nowhere.lora_B.weight": B}, tmp_path / "b.safetensors"
    )
    with pytest.raises(InputError, match="^model.lora=.*no layer transformer.nowhere"):
        load_backbone(str(flux_folder), lora=str(tmp_path / "b.safetensors"))


@pytest.mark.parametrize(
    ("part", "values", "says"),
    [
        (
            "transformer",
            {"in_channels": 24},
            "its transformer takes 24 channels, four pixels of its VAE's latents have",
        ),
        ("transformer", {"pooled_projection_dim": 8}, "its transformer and its text encoders are of different models"),
        ("text_encoder_2", {"d_model": 8}, "its transformer and its text encoders are of different models"),
        ("text_encoder", {"model_type": "t5"}, "its text encoder is a t5, not CLIP's"),
        ("", {"_class_name": "FluxFillPipeline"}, "is FLUX .FluxFillPipeline., which no editor takes"),
    ],
)
def test_other_models_are_refused(flux_folder, tmp_path, part, values, says):
    folder = Path(shutil.copytree(flux_folder, tmp_path / "flux"))
    file = folder / part / "config.json" if part else folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    with pytest.raises(InputError, match=f"^backbone=.*: {says}"):
        load_backbone(str(folder))


def test_ids_carry_those_of_both_tokenizers(flux):
    ids = ids_of(flux, PROMPT)[0]
    encoder = flux.text.pooling.tokenizer
    assert (ids[:LENGTH] >> BITS).tolist() == encoder(PROMPT, padding="max_length", max_length=LENGTH).input_ids
    tokens = flux.tokenizer.convert_ids_to_tokens(ids.tolist())
    assert tokens[:3] == ["▁a", "▁red", "▁cat"]
    assert flux.tokenizer.convert_tokens_to_ids(tokens) == (ids & (1 << BITS) - 1).tolist()
