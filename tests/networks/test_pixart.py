"""PixArt-Σ against diffusers' own pipeline: text with its mask, steps, maps; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import write_tiny_pixart

from locinv_pl.errors import InputError
from locinv_pl.networks.architectures.pixart import PixArtSigma
from locinv_pl.networks.loading import load_backbone
from locinv_pl.words.tokens import tokenize

PROMPT, L = "a red cat and a dog", 24


@pytest.fixture(scope="session")
def pixart_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pixart(tmp_path_factory.mktemp("pixart"))


@pytest.fixture(scope="session")
def pixart(pixart_folder: Path) -> Any:
    return load_backbone(str(pixart_folder))


@pytest.fixture(scope="session")
def pipe(pixart_folder: Path) -> Any:
    from diffusers import PixArtSigmaPipeline

    pipe = PixArtSigmaPipeline.from_pretrained(pixart_folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ids_of(backbone: Any, prompt: str) -> torch.Tensor:
    return tokenize(backbone.tokenizer, prompt).ids[None]


@pytest.mark.parametrize("prompt", [PROMPT, "Zebra and a CAT", ""])
@torch.no_grad()
def test_prompts_are_encoded_as_by_the_pipeline(pixart, pipe, prompt):
    states, mask, null, null_mask = pipe.encode_prompt(prompt, max_sequence_length=L)
    ours, empty = pixart.encode_text(ids_of(pixart, prompt)), pixart.encode_null()
    assert torch.equal(ours.keys, states) and torch.equal(ours.pooled, mask.float())
    assert torch.equal(empty.keys, null) and torch.equal(empty.pooled, null_mask.float())


def test_a_word_in_capitals_keeps_its_place(pixart):
    assert tokenize(pixart.tokenizer, "a red CAT").positions((6, 9)) == tokenize(
        pixart.tokenizer, "a red cat"
    ).positions((6, 9))


@torch.no_grad()
def test_four_steps_are_the_pipeline_s(pixart, pipe):
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    size = {"height": 32, "width": 32, "max_sequence_length": L, "use_resolution_binning": False}
    how = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "latent", "clean_caption": False}
    expected = pipe(PROMPT, latents=z, **size, **how).images
    schedule, context, null = pixart.schedule(4), pixart.encode_text(ids_of(pixart, PROMPT)), pixart.encode_null()
    for i, t in enumerate(schedule.timesteps):
        z = schedule.step(z, pixart.guide(pixart.predict(z, t, context), z, t, null, 5.0), i)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_nobody_looks_at_the_padding(pixart):
    """Two prompts of different lengths in a batch: each with its own mask."""
    prompts = [ids_of(pixart, PROMPT), ids_of(pixart, "a cat")]
    z, t = torch.randn(2, 4, 16, 16), pixart.schedule(4).timesteps[1]
    A = pixart.attention_maps(z, t, pixart.encode_text(torch.cat(prompts)), (8, 8))
    for maps, (ids,) in zip(A, prompts, strict=True):
        assert maps[..., ids == 0].max() < 1e-6 and maps[..., ids != 0].min() > 0
    alone = pixart.attention_maps(z[1:], t, pixart.encode_text(prompts[1]), (8, 8))
    torch.testing.assert_close(A[1:], alone, rtol=1e-4, atol=1e-6)


def test_what_it_says_of_itself_and_refuses(pixart, pixart_folder):
    assert isinstance(pixart, PixArtSigma) and (pixart.image_size, pixart.widths) == (32, (24, 4))
    assert pixart.coarsest((16, 16)) == 8 and not pixart.is_distilled
    with pytest.raises(InputError, match="model.resolution=4: .* has no attention of that size .*; use 8"):
        pixart.map_grid((16, 16), 4)
    config = pixart_folder / "transformer/config.json"
    before = config.read_text()
    try:
        config.write_text(before.replace('"out_channels": 8', '"out_channels": 4'))
        with pytest.raises(InputError, match="are of different models"):
            load_backbone(str(pixart_folder))
    finally:
        config.write_text(before)
