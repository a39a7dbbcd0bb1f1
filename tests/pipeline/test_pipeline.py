"""The pipeline of diffusers: the engine's own results under the names that diffusers has for things."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ids_of, make_image
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.utils import logging
from PIL import Image
from refusals import refused
from safetensors.torch import save_file
from tiny_pipelines import WRITERS

import locinv_pl
from locinv_pl import EditSettings, Inversion, edit, invert, load_backbone, load_method
from locinv_pl.drawing import to_array
from locinv_pl.editing.settings import strengths
from locinv_pl.pipeline import LocInvPipeline

T, R = 3, 8
PROMPT, TARGETS = "a red cat and a dog", ["a red dog and a dog", "a cat and a dog"]
PRIORS: Any = {"cat": (2, 4, 14, 10), "dog": (20, 18, 10, 12)}
QUICK = load_method("locinv")
QUICK = replace(QUICK, tokens=replace(QUICK.tokens, max_steps=1), null_text=replace(QUICK.null_text, max_steps=1))
DIRECT = load_method("locinv_direct")
DIRECT = replace(DIRECT, tokens=replace(DIRECT.tokens, max_steps=1))  # which every architecture takes
logging.disable_progress_bar()


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(to_array(make_image()))


@pytest.fixture(scope="module", params=["sd", *WRITERS])
def each(request: pytest.FixtureRequest, folder_of: Callable[[str], Path], tmp_path_factory: Any) -> LocInvPipeline:
    """A tiny model of every architecture, as diffusers' own pipeline has saved it."""
    folder = folder_of(request.param)
    return opened(folder, tmp_path_factory) if request.param == "sd" else quiet(LocInvPipeline.from_pretrained(folder))


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LocInvPipeline:
    return opened(tiny_folder, tmp_path_factory)


def opened(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LocInvPipeline:
    """The tiny model with a model_index.json."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("pipe") / "model"))
    index = '{"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"], '
    index += '"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"], '
    index += '"unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "DDIMScheduler"], '
    index += '"safety_checker": [null, null], "feature_extractor": [null, null]}'
    (folder / "model_index.json").write_text(index)
    return quiet(LocInvPipeline.from_pretrained(folder))


def quiet(pipe: LocInvPipeline) -> LocInvPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def inversion(pipe: LocInvPipeline, image: Image.Image) -> Inversion:
    return pipe.invert(image, PROMPT, PRIORS, method=QUICK, num_inference_steps=T, resolution=R)


@pytest.fixture(scope="module")
def each_inversion(each: LocInvPipeline, image: Image.Image) -> Inversion:
    return each.invert(image, PROMPT, PRIORS, method=DIRECT, num_inference_steps=T, resolution=R)


def test_it_inverts_and_edits_as_the_package_does(each, each_inversion, image):
    backbone = load_backbone(each.config.name)
    assert type(each.backbone) is type(backbone) and each.backbone is each.backbone
    own = invert(backbone, image, PROMPT, PRIORS, method=DIRECT, num_steps=T, resolution=R)
    for name in ("trajectory", "tokens", "null", "maps", "latent"):
        assert torch.equal(getattr(own, name), getattr(each_inversion, name)), name
    images = edit(backbone, own, TARGETS)
    made = each(TARGETS, each_inversion, output_type="pt")
    assert torch.equal(made.images, images)
    assert made.edited.reconstruction.shape == (3, 32, 32) and made.edited.changed[0] == (("cat", "dog"),)
    latents = each(TARGETS, each_inversion, output_type="latent").images
    assert torch.equal(backbone.decode(latents), images)


def test_images_come_as_diffusers_gives_them(pipe, inversion, image):
    own = invert(pipe.backbone, image, PROMPT, PRIORS, method=QUICK, num_steps=T, resolution=R)
    assert torch.equal(own.null, inversion.null) and torch.equal(own.latent, inversion.latent)
    images = pipe(TARGETS, inversion, output_type="pt").images
    arrays = pipe(prompt=TARGETS, inversion=inversion, output_type="np", return_dict=False)[0]
    assert np.array_equal(arrays, images.movedim(1, -1).numpy())
    (first, _) = pipe(TARGETS, inversion).images
    assert np.array_equal(np.asarray(first), (images[0].movedim(0, -1).numpy() * 255).round().astype(np.uint8))


def test_images_of_any_size_are_framed(pipe):
    large = Image.fromarray(to_array(make_image(64))).crop((0, 0, 64, 48))
    inversion = pipe.invert(
        large, PROMPT, {"cat": (10, 5, 20, 20)}, method="direct", num_inference_steps=1, resolution=R, fit="pad"
    )
    assert inversion.trajectory.shape[-2:] == (16, 16)


def test_callbacks_see_every_timestep_and_can_interrupt(pipe, inversion, image):
    seen: list[tuple[int, int]] = []

    def look(own: Any, i: int, t: Any, told: dict[str, Any]) -> dict[str, Any]:
        assert own is pipe and told["latents"].shape == (1, 4, 16, 16)
        seen.append((i, int(t)))
        own._interrupt = stop == i
        return told

    stop = -1
    whole = pipe(TARGETS[0], inversion, output_type="latent", callback_on_step_end=look).images
    order = pipe.backbone.schedule(T).timesteps.tolist()
    assert seen == list(enumerate(order))
    stop, seen[:] = 1, []
    part = pipe(TARGETS[0], inversion, output_type="latent", callback_on_step_end=look)
    assert [i for i, _ in seen] == [0, 1] and part.edited is None and not torch.equal(part.images, whole)
    seen[:] = []
    pipe.invert(
        image,
        PROMPT,
        PRIORS,
        method="direct",
        num_inference_steps=T,
        resolution=R,
        callback_on_step_end=lambda own, i, t, told: seen.append((i, int(t))),
    )
    assert seen == list(enumerate([*reversed(order), *order]))


def test_several_images_of_a_prompt_are_its_strengths(pipe, inversion):
    images = pipe(TARGETS, inversion, num_images_per_prompt=2, output_type="pt").images
    ways = [way for _, way in strengths(EditSettings(candidates=2))]
    assert torch.equal(images, edit(pipe.backbone, inversion, [t for t in TARGETS for _ in ways], ways * 2))


def test_what_says_nothing_here_is_refused(pipe, inversion):
    refused(
        lambda: pipe(TARGETS, inversion, num_inference_steps=50),
        "num_inference_steps=50: the inversion was made with 3",
    )
    refused(lambda: pipe(TARGETS, inversion, guidance_scale=3.0), "guidance_scale=3.0: the inversion was made with 7.5")
    refused(lambda: pipe(TARGETS, inversion, negative_prompt="ugly"), "negative_prompt: has no meaning here")
    refused(lambda: pipe(TARGETS, inversion, output_type="gif"), "output_type=gif: no such output_type")
    refused(
        lambda: pipe(TARGETS, inversion, callback_on_step_end_tensor_inputs=["prompt_embeds"]),
        "callback_on_step_end_tensor_inputs: there is no 'prompt_embeds'",
    )
    with pytest.raises(TypeError, match="unexpected keyword argument 'no_such'"):
        pipe(TARGETS, inversion, no_such=1)
    same = pipe(TARGETS, inversion, num_inference_steps=T, guidance_scale=7.5, generator=None, output_type="pt")
    assert torch.equal(same.images, pipe(TARGETS, inversion, output_type="pt").images)


def test_saved_and_loaded_it_makes_the_same_images(each, each_inversion, tmp_path, monkeypatch):
    wanted = each(TARGETS, each_inversion, output_type="pt").images
    each.save_pretrained(tmp_path / "saved")
    again = quiet(LocInvPipeline.from_pretrained(tmp_path / "saved"))
    assert torch.equal(again(TARGETS, each_inversion, output_type="pt").images, wanted)
    read = load_backbone(str(tmp_path / "saved"))  # and the command line reads it
    text, same = (model.encode_text(ids_of(model, PROMPT)) for model in (read, each.backbone))
    assert type(read) is type(each.backbone) and torch.equal(text.keys, same.keys)
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    room = Path(locinv_pl.__file__).parent / "pipeline"
    custom = DiffusionPipeline.from_pretrained(tmp_path / "saved", custom_pipeline=str(room), trust_remote_code=True)
    assert type(custom).__name__ == "LocInvPipeline" and type(custom) is not LocInvPipeline
    assert torch.equal(quiet(custom)(TARGETS, each_inversion, output_type="pt").images, wanted)


def test_a_loaded_model_is_taken_as_it_is(each, each_inversion):
    backbone = load_backbone(each.config.name)
    own = quiet(LocInvPipeline.of(backbone))
    assert own.backbone is backbone and own.config.name == backbone.name
    wanted = each(TARGETS[0], each_inversion, output_type="pt").images
    assert torch.equal(own(TARGETS[0], each_inversion, output_type="pt").images, wanted)
    own.scheduler = type(own.scheduler).from_config(own.scheduler.config)  # made anew of the same
    assert own.backbone is not backbone
    assert torch.equal(own(TARGETS[0], each_inversion, output_type="pt").images, wanted)


def test_a_lora_is_part_of_the_model(pipe, inversion, tmp_path):
    lora, layer = str(tmp_path / "lora.safetensors"), "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file({f"{layer}.lora_{x}.weight": torch.full((1, 32)[:: 1 if x == "A" else -1], 0.1) for x in "AB"}, lora)
    own = quiet(LocInvPipeline.from_pretrained(pipe.config.name, lora=lora))
    refused(lambda: own(TARGETS[0], inversion), "made with model.lora=None, not ", "lora.safetensors")
    own.scheduler = DDIMScheduler.from_config(own.scheduler.config)
    assert own.backbone.origin == {"lora": lora} and own.backbone.name == pipe.config.name
    own.save_pretrained(tmp_path / "saved")  # its weights are others than the model's: it has a name of its own
    again = LocInvPipeline.from_pretrained(tmp_path / "saved")
    refused(lambda: again(TARGETS[0], inversion), "made with backbone ", "saved")


def test_exchanged_and_cast_components_are_used(pipe, inversion, image):
    own = LocInvPipeline(**pipe.components, name=pipe.config.name)
    own.set_progress_bar_config(disable=True)
    first = own.backbone
    assert own.backbone is first
    own.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    assert own.backbone is not first and own.backbone.schedule(T).timesteps[0] == 999
    half = LocInvPipeline.from_pretrained(pipe.config.name, torch_dtype=torch.bfloat16)
    assert half.backbone.dtype == torch.bfloat16
    made = half(TARGETS[0], inversion, output_type="pt").images
    assert made.dtype == torch.float32 and made.shape == (1, 3, 32, 32)


def test_offloaded_networks_are_on_the_device_in_calls_alone(pipe, inversion, monkeypatch):
    moves: list[str] = []
    own = LocInvPipeline(**pipe.components, name=pipe.config.name)
    own.set_progress_bar_config(disable=True)
    monkeypatch.setattr(own, "to", lambda device: moves.append(str(device)))
    own.enable_model_cpu_offload(device="cpu")
    own(TARGETS[0], inversion)
    assert moves == ["cpu", "cpu", "cpu"]
    own.enable_model_cpu_offload(gpu_id=1)
    assert str(own._away) == "cuda:1"


def test_another_model_is_refused(pipe):
    unet = type(pipe.unet).from_config({**pipe.unet.config, "cross_attention_dim": 48})
    other = LocInvPipeline(**{**pipe.components, "unet": unet})
    refused(lambda: other.backbone, "backbone=", "its UNet takes text of width 48, its text encoder gives 32")
