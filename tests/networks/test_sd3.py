"""Stable Diffusion 3 against diffusers' own pipeline: text, steps, maps, values of their own, and what is refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LENGTH, ids_of, make_image
from safetensors.torch import save_file

from locinv_pl.api import invert
from locinv_pl.editing.prompt_to_prompt import edit, reconstruct
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError
from locinv_pl.method.policies import InversionPolicy, load_method
from locinv_pl.method.task import ddim_invert
from locinv_pl.networks.architectures.sd3 import StableDiffusion3
from locinv_pl.networks.loading import load_backbone
from locinv_pl.networks.schedule import Solver
from locinv_pl.words.tokens import tokenize

PROMPT, GRID, T5_TOKENS = "a red cat and a dog", (8, 8), 12


@pytest.fixture(scope="session")
def sd3_folder(folder_of: Callable[[str], Path]) -> Path:
    return folder_of("sd3")


@pytest.fixture(scope="session")
def sd3(sd3_folder: Path) -> Any:
    return load_backbone(str(sd3_folder))


@pytest.fixture(scope="session")
def pipe(sd3_folder: Path) -> Any:
    from diffusers import StableDiffusion3Pipeline

    none = dict.fromkeys(("image_encoder", "feature_extractor"))
    pipe = StableDiffusion3Pipeline.from_pretrained(sd3_folder, local_files_only=True, **none)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def inputs(sd3: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return z, sd3.schedule(4).timesteps[1], sd3.encode_text(ids_of(sd3, PROMPT)).expand(2)


def test_what_it_says_of_itself(sd3):
    assert isinstance(sd3, StableDiffusion3) and (sd3.image_size, sd3.widths) == (32, (56, 4))
    assert sd3.tokenizer.model_max_length == LENGTH + T5_TOKENS
    assert sd3.map_grid((16, 16), 8) == GRID and sd3.coarsest((16, 16)) == 8
    with pytest.raises(InputError, match="model.resolution=4: .* has no attention of that size .*; use 8"):
        sd3.map_grid((16, 16), 4)


def test_a_word_s_tokens_are_those_of_every_tokenizer(sd3):
    tokens = tokenize(sd3.tokenizer, PROMPT)
    (cat,) = [(n, n + 3) for n in [PROMPT.index("cat")]]
    assert tokens.positions(cat) == (3, LENGTH + 2)
    assert [*tokenize(sd3.tokenizer, "zebra").positions((0, 5))] == [1, 2, 3, 4, 5, *range(LENGTH, LENGTH + 6)]
    with pytest.raises(InputError, match="has 35 tokens, the text encoder takes 32"):
        tokenize(sd3.tokenizer, "a cat and a dog and a cat and a cat and a dog")


@pytest.mark.parametrize("prompt", [PROMPT, "zebra", ""])
@torch.no_grad()
def test_prompts_are_encoded_as_by_the_pipeline(sd3, pipe, prompt):
    states, null, pooled, pooled_null = pipe.encode_prompt(prompt, None, None, max_sequence_length=T5_TOKENS)
    ours, empty = sd3.encode_text(ids_of(sd3, prompt)), sd3.encode_null()
    assert torch.equal(ours.keys, states) and torch.equal(ours.pooled, pooled)
    assert torch.equal(empty.keys, null) and torch.equal(empty.pooled, pooled_null)


@torch.no_grad()
def test_four_steps_are_the_pipeline_s(sd3, pipe):
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    size = {"height": 32, "width": 32, "max_sequence_length": T5_TOKENS}
    how = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "latent"}
    expected = pipe(PROMPT, latents=z, **size, **how).images
    schedule, context, null = sd3.schedule(4), sd3.encode_text(ids_of(sd3, PROMPT)), sd3.encode_null()
    for i, t in enumerate(schedule.timesteps):
        z = schedule.step(z, sd3.guide(sd3.predict(z, t, context), z, t, null, 5.0), i)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_maps_are_the_image_to_text_block_renormalised(sd3, inputs):
    """Computed by hand, with queries and keys caught in diffusers' own pass; the mean over heads and blocks."""
    z, t, context = inputs
    caught: dict[str, dict[str, torch.Tensor]] = {}
    handles = []
    for name, module in sd3.denoiser.named_modules():
        block, _, part = name.rpartition(".")
        if part in ("norm_q", "norm_added_k") and block.endswith(".attn"):
            into = caught.setdefault(block, {})
            handles.append(
                module.register_forward_hook(lambda m, x, out, into=into, part=part: into.update({part: out}))
            )
    sd3.denoiser(z, context.keys, context.pooled, t.expand(2))
    for handle in handles:
        handle.remove()
    assert len(caught) == 3
    maps = [(q["norm_q"] @ q["norm_added_k"].mT / 8**0.5).softmax(-1).mean(1) for q in caught.values()]
    A = sd3.predict_with_maps(z, t, context, GRID)[1]
    torch.testing.assert_close(A, torch.stack(maps).mean(0).unflatten(1, GRID), rtol=1e-4, atol=1e-6)


def test_a_model_without_t5_has_zeros_in_its_place(sd3_folder, tmp_path, pipe):
    import json

    folder = Path(shutil.copytree(sd3_folder, tmp_path / "clip"))
    index = json.loads((folder / "model_index.json").read_text())
    gone = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (folder / "model_index.json").write_text(json.dumps({**index, **gone}))
    for part in gone:
        shutil.rmtree(folder / part)
    clip = load_backbone(str(folder))
    z, t = torch.randn(1, 4, 16, 16), clip.schedule(4).timesteps[1]
    context = clip.encode_text(ids_of(clip, PROMPT))
    assert context.keys.shape == (1, LENGTH, 56)
    states = torch.cat([context.keys, torch.zeros(1, LENGTH, 56)], dim=1)
    with torch.no_grad():
        expected = clip.denoiser(z, states, context.pooled, t[None]).sample
        torch.testing.assert_close(clip.predict(z, t, context), expected, rtol=1e-4, atol=1e-5)
        A = clip.attention_maps(z, t, context, GRID)
    torch.testing.assert_close(A.sum(-1), torch.ones(1, *GRID))


ORIGINAL = {
    r"^pos_embed\.pos_embed": "pos_embed",
    r"^pos_embed\.proj": "x_embedder.proj",
    r"^time_text_embed\.timestep_embedder\.linear_": "t_embedder.mlp.",
    r"^time_text_embed\.text_embedder\.linear_": "y_embedder.mlp.",
    r"mlp\.1\.": "mlp.0.",
    r"^transformer_blocks": "joint_blocks",
    r"norm1(?P<context>_context)?\.linear": r"x_block\g<context>.adaLN_modulation.1",
    r"ff(?P<context>_context)?\.net\.0\.proj": r"x_block\g<context>.mlp.fc1",
    r"ff(?P<context>_context)?\.net\.2": r"x_block\g<context>.mlp.fc2",
    r"(?P<attn>attn2?)\.to_out\.0": r"x_block.\g<attn>.proj",
    r"attn\.to_add_out": "x_block_context.attn.proj",
    r"(?P<attn>attn2?)\.norm_(?P<which>[qk])\.": r"x_block.\g<attn>.ln_\g<which>.",
    r"attn\.norm_added_(?P<which>[qk])\.": r"x_block_context.attn.ln_\g<which>.",
    r"(?P<attn>attn2?)\.to_(?P<which>[qkv])\.": r"x_block.\g<attn>.qkv.\g<which>.",
    r"attn\.add_(?P<which>[qkv])_proj\.": r"x_block_context.attn.qkv.\g<which>.",
    r"x_block_context": "context_block",
    r"^proj_out": "final_layer.linear",
    r"^norm_out\.linear": "final_layer.adaLN_modulation.1",
}
"""Names of Stable Diffusion 3's own code for those of diffusers."""


def write_original(transformer: Any, path: Path) -> None:
    """A transformer under the names of Stable Diffusion 3's own code: Q, K and V as one, shift before scale."""
    weights: dict[str, dict[str, torch.Tensor]] = {}
    last = f"joint_blocks.{transformer.config.num_layers - 1}.context_block.adaLN"
    for name, weight in transformer.state_dict().items():
        for pattern, other in ORIGINAL.items():
            name = re.sub(pattern, other, name, count=1)
        if name.startswith((last, "final_layer.adaLN")):
            weight = torch.cat(weight.chunk(2)[::-1])
        part = re.search(r"qkv\.([qkv])\.", name)
        weights.setdefault(re.sub(r"qkv\.[qkv]\.", "qkv.", name), {})[part[1] if part else ""] = weight
    whole = {name: torch.cat([parts[k] for k in ("", *"qkv") if k in parts]) for name, parts in weights.items()}
    save_file({f"model.diffusion_model.{name}": weight for name, weight in whole.items()}, path)


def test_a_transformer_in_one_file_takes_the_place_of_its_layout_s(sd3, sd3_folder, tmp_path):
    layout = Path(shutil.copytree(sd3_folder, tmp_path / "layout"))
    next((layout / "transformer").glob("*.safetensors")).unlink()
    write_original(sd3.denoiser, tmp_path / "model.safetensors")
    here = load_backbone(str(tmp_path / "model.safetensors"), layout=str(layout))
    ours, same = here.denoiser.state_dict(), sd3.denoiser.state_dict()
    assert ours.keys() == same.keys() and all(torch.equal(ours[name], same[name]) for name in same)
    assert torch.equal(here.encode_null().keys, sd3.encode_null().keys) and here.origin == {"layout": str(layout)}


def test_what_joint_attention_cannot_do_is_refused(sd3):
    inversion = invert(sd3, make_image(), PROMPT, method="ddim", num_steps=2, resolution=8)
    for prompt, settings in (("a (red:2) cat and a dog", {}), ("a red dog and a dog", {"word_steps": {"dog": 0.5}})):
        with pytest.raises(InputError, match="act on cross-attention, which backbone .* hasn't"):
            edit(sd3, inversion, prompt, EditSettings(**settings))


@torch.no_grad()
def test_the_inversion_of_a_flow_is_of_second_order(sd3):
    """FireFlow's with half the passes; what is walked back is told the same prompt at guidance 1."""
    z, context = sd3.encode(make_image()[None]), sd3.encode_text(ids_of(sd3, PROMPT))

    def error(num_steps: int, kind: Any) -> float:
        schedule = sd3.schedule(num_steps)
        *_, (back, A) = ddim_invert(sd3, z, context, schedule, GRID, how=InversionPolicy(solver=kind))
        assert A.shape == (1, *GRID, LENGTH + T5_TOKENS)
        solver = Solver(schedule, kind)
        for i in range(num_steps):
            back = solver.step(back, i, lambda z, t: sd3.predict(z, t, context))
        return (back - z).square().mean().sqrt().item()

    for kind in ("midpoint", "fireflow"):
        assert error(10, kind) < 0.2 * error(10, "euler") and error(20, kind) < 0.5 * error(10, kind)


def test_direct_has_fireflow_s_trajectory_at_every_step(sd3):
    """T + 1 latents, of which the source takes one after the other; an edit ends at z̄_0 where it changes nothing."""
    how = replace(load_method("direct"), inversion=InversionPolicy(solver="fireflow"))
    inversion = invert(sd3, make_image(), PROMPT, method=how, num_steps=4, resolution=8)
    assert (
        inversion.trajectory.shape == (5, 4, 16, 16)
        and inversion.settings["method"]["inversion"]["solver"] == "fireflow"
    )
    calls, predict = [], sd3.predict
    with torch.no_grad():
        context = sd3.encode_text(ids_of(sd3, PROMPT))

        def counted(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            calls.append(t)
            return predict(z, t, context)

        solver, z = Solver(sd3.schedule(4), "fireflow"), sd3.encode(make_image()[None])
        for i in reversed(range(4)):
            torch.testing.assert_close(z[0], inversion.trajectory[3 - i], rtol=0, atol=1e-5)
            z = solver.step(z, i, counted, inverse=True)
    assert len(calls) == 5
    (back,) = reconstruct(sd3, [inversion])
    torch.testing.assert_close(back, sd3.decode(inversion.trajectory[:1])[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_refined_steps_of_a_flow_lead_back_and_drawn_ones_edit(sd3):
    z, context, schedule = sd3.encode(make_image()[None]), sd3.encode_text(ids_of(sd3, PROMPT)), sd3.schedule(10)
    errors = []
    for refined in (1, 3):
        *_, (back, _) = ddim_invert(sd3, z, context, schedule, GRID, how=InversionPolicy(renoise=refined))
        for i, t in enumerate(schedule.timesteps):
            back = schedule.step(back, sd3.predict(back, t, context), i)
        errors.append((back - z).square().mean().sqrt().item())
    assert errors[1] < 0.5 * errors[0]

    inversion = invert(sd3, make_image(), PROMPT, method="infedit", num_steps=3, resolution=8)
    same, other = edit(sd3, inversion, [PROMPT, "a red dog and a dog"])
    torch.testing.assert_close(same, sd3.decode(z)[0].cpu(), rtol=0, atol=1e-4)
    assert (other - same).abs().max() > 1e-3


@pytest.mark.slow
def test_the_shipped_model_is_inverted_and_edited():
    """embedded_sd3 by the default method, at its own size."""
    from locinv_pl.benchmark.phases import drawn_samples

    backbone, (sample,) = load_backbone("embedded_sd3"), drawn_samples(1, 128)
    priors: Any = {noun.word: noun.prior for noun in sample.nouns}
    how = ("locinv_direct", "direct")
    ours, plain = (invert(backbone, sample.image, sample.prompt, priors, method=name, num_steps=2) for name in how)
    likeness = [torch.cosine_similarity(each.maps[0].flatten(1), ours.priors.flatten(1)) for each in (ours, plain)]
    assert (likeness[0] > likeness[1]).all()
    inversion = ours
    images = edit(backbone, inversion, sample.prompt.replace(sample.nouns[0].word, "chair"), with_source=True)
    assert images.shape == (2, 3, 128, 128) and (images[0] - images[1]).abs().max() > 0.01
