"""Stable Diffusion XL against diffusers' own pipeline, and folders that aren't one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ids_of, make_two_objects

from locinv_pl.editing.pipelines import EditorSettings, make_editor
from locinv_pl.errors import InputError
from locinv_pl.method.dynamic_tokens import optimize_tokens
from locinv_pl.method.policies import Method, TokenPolicy
from locinv_pl.method.task import prepare
from locinv_pl.networks.architectures.sdxl import StableDiffusionXL
from locinv_pl.networks.loading import load_backbone

PROMPT = "a red cat and a dog"


@pytest.fixture(scope="session")
def xl_folder(folder_of: Callable[[str], Path]) -> Path:
    return folder_of("xl")


@pytest.fixture(scope="session")
def xl(xl_folder: Path) -> Any:
    return load_backbone(str(xl_folder))


@pytest.fixture(scope="session")
def pipe(xl_folder: Path) -> Any:
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(xl_folder, local_files_only=True, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_what_it_says_of_itself(xl, xl_folder):
    assert isinstance(xl, StableDiffusionXL) and xl.name == str(xl_folder)
    assert (xl.image_size, xl.widths, xl.coarsest((16, 16))) == (32, (48, 4), 8)
    assert xl.map_grid((16, 16), 8) == (8, 8)


@pytest.mark.parametrize("prompt", [PROMPT, "zebra", "", "a " * 18])
@torch.no_grad()
def test_prompts_are_encoded_as_by_the_pipeline(xl, pipe, prompt):
    states, null, pooled, pooled_null = pipe.encode_prompt(prompt, do_classifier_free_guidance=True)
    ours, empty = xl.encode_text(ids_of(xl, prompt.strip())), xl.encode_null()
    assert torch.equal(ours.keys, states) and torch.equal(ours.pooled, pooled)
    assert torch.equal(empty.keys, null) and torch.equal(empty.pooled, pooled_null) and not empty.keys.any()


@torch.no_grad()
def test_the_null_text_of_models_that_encode_it(xl_folder, tmp_path, pipe):
    folder = Path(shutil.copytree(xl_folder, tmp_path / "xl"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": False}))
    states, _, pooled, _ = pipe.encode_prompt("", do_classifier_free_guidance=False)
    empty = load_backbone(str(folder)).encode_null()
    assert torch.equal(empty.keys, states) and torch.equal(empty.pooled, pooled)


@torch.no_grad()
def test_four_steps_are_the_pipeline_s(xl, pipe):
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = pipe(PROMPT, latents=z, num_inference_steps=4, guidance_scale=5.0, output_type="latent").images
    schedule, context, null = xl.schedule(4), xl.encode_text(ids_of(xl, PROMPT)), xl.encode_null()
    for i, t in enumerate(schedule.timesteps):
        z = schedule.step(z, xl.guide(xl.predict(z, t, context), z, t, null, 5.0), i)
    assert (z - expected).abs().max() < 1e-5 * expected.abs().max()


def test_half_precision_leaves_the_vae_in_fp32(xl_folder):
    half = load_backbone(str(xl_folder), "bfloat16")
    assert (half.dtype, half.vae.dtype) == (torch.bfloat16, torch.float32)
    z = half.encode(torch.rand(1, 3, 32, 32))
    context = half.encode_text(ids_of(half, PROMPT))
    assert half.predict(z, torch.tensor(500), context).isfinite().all()
    assert half.decode(z).dtype == torch.float32


def test_embeddings_move_by_a_share_of_their_table(xl):
    units = xl.text.units
    tables = [network.get_input_embeddings().weight for network in xl.text.networks]
    for part, table in zip(units.split([32, 16], dim=-1), tables, strict=True):
        assert part.shape == (20, table.shape[1])
        torch.testing.assert_close(part, 10 * table.square().mean().sqrt().expand_as(part))


def test_a_gradient_step_moves_every_encoder_by_its_own_unit(xl):
    tokens = TokenPolicy(max_steps=1, lr=1e-2, weight_decay=0.0)
    task = prepare(xl, [make_two_objects("two", seed=0)], Method(tokens=tokens), 2, 8)
    V, _ = optimize_tokens(xl, task, task.ddim_latent(0), 0, task.embeddings)
    moved = (V - task.embeddings)[task.prompts.dynamic].abs() / xl.text.units[0]
    for part in moved.split([32, 16], dim=-1):  # Adam's first step is the learning rate, whatever the gradient
        assert part.median().item() == pytest.approx(1e-2, rel=1e-2)


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_backbone(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_folders_are_refused(xl_folder, tmp_path, tiny_folder, tiny):
    refiner = Path(shutil.copytree(xl_folder, tmp_path / "refiner"))
    shutil.rmtree(refiner / "text_encoder")
    shutil.rmtree(refiner / "tokenizer")
    assert "is Stable Diffusion XL's refiner" in refusal(refiner)
    mixed = Path(shutil.copytree(xl_folder, tmp_path / "mixed"))
    shutil.rmtree(mixed / "unet")
    shutil.copytree(tiny_folder / "unet", mixed / "unet")
    assert "isn't told the image's size" in refusal(mixed)
    narrow = Path(shutil.copytree(xl_folder, tmp_path / "narrow"))
    shutil.rmtree(narrow / "text_encoder_2")
    assert "text_encoder_2/config.json is missing" in refusal(narrow)
    shutil.copytree(tiny_folder / "text_encoder", narrow / "text_encoder_2")
    assert "takes text of width 48, its text encoders give 64" in refusal(narrow)
    with pytest.raises(InputError, match="isn't of Stable Diffusion 1.x's or 2.x's layout"):
        make_editor(EditorSettings("diffedit", str(xl_folder), 2), tiny)
