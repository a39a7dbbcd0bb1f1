"""Images from text: as diffusers' own pipeline makes them."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from locinv_pl.networks.generation import generate


def noise(backbone, n: int, seed: int) -> torch.Tensor:
    side = backbone.unet.config.sample_size
    return torch.randn(4, side, side, generator=torch.Generator().manual_seed(seed + n))


def test_images_are_those_of_diffusers_pipeline(tiny):
    pipeline = StableDiffusionPipeline(
        vae=tiny.vae,
        text_encoder=tiny.text_encoder,
        tokenizer=tiny.tokenizer,
        unet=tiny.unet,
        scheduler=tiny.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["a red cat", "a dog on grass"]
    latents = torch.stack([noise(tiny, n, 7) for n in range(2)])
    expected = pipeline(prompts, num_inference_steps=6, guidance_scale=4.0, latents=latents, output_type="pt").images
    ours = generate(tiny, prompts, guidance_scale=4.0, num_steps=6, seed=7)
    assert torch.allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_change_nothing(tiny, batch_size):
    prompts = ["a cat", "a dog", "a red dog"]
    together = generate(tiny, prompts, num_steps=3, batch_size=3)
    assert torch.allclose(generate(tiny, prompts, num_steps=3, batch_size=batch_size), together, atol=1e-5)


def test_another_seed_is_another_image(tiny):
    one, other = (generate(tiny, ["a cat"], num_steps=2, seed=seed) for seed in (0, 1))
    assert not torch.allclose(one, other)
