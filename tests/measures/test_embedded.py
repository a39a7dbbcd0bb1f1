"""End to end on the model inside the package: maps go to their objects, images come back."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from locinv_pl import Method, invert, load_method, reconstruct
from locinv_pl.measures.metrics import attention_iou, psnr
from locinv_pl.method.policies import NullTextPolicy, TokenPolicy
from locinv_pl.method.task import prepare
from locinv_pl.method.timestep import invert_step
from locinv_pl.scenes.drawing import draw_scene

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scene():
    """Two objects side by side, image (3, H, W), prompt and masks by noun."""
    drawn = draw_scene(random.Random(4), 128, 2)
    image = torch.tensor(list(drawn.image.getdata())).float().view(128, 128, 3).permute(2, 0, 1) / 255
    return image, drawn.caption, {thing.noun: torch.from_numpy(thing.mask) for thing in drawn.objects}


def test_locinv_puts_maps_on_objects_and_brings_the_image_back(embedded, scene):
    image, prompt, masks = scene
    locinv = load_method("locinv")
    few = replace(locinv, null_text=replace(locinv.null_text, max_steps=10))  # five do at fifty timesteps
    inversion = invert(embedded, image, prompt, masks, method=few, num_steps=8)
    truth = torch.stack([masks[noun] for noun in inversion.nouns])
    before = attention_iou(inversion.initial_maps.mean(0), truth)
    after = attention_iou(inversion.maps.mean(0), truth)
    assert after.mean() > before.mean() + 0.1 and after.mean() > 0.5
    ceiling = psnr(embedded.decode(embedded.encode(image[None]))[0], image)
    assert psnr(reconstruct(embedded, [inversion])[0], image) > ceiling - 3


def test_the_same_noun_twice_goes_to_two_places(embedded, scene):
    image, _, masks = scene
    one, other = masks.values()
    inversion = invert(embedded, image, "a ball and a ball", {"ball": [one, other]}, num_steps=2)
    truth = torch.stack([one, other])
    assert inversion.nouns == ("ball", "ball") and len(inversion.dynamic) == 2
    right = attention_iou(inversion.maps.mean(0), truth)
    swapped = attention_iou(inversion.maps.mean(0), truth.flip(0))
    assert (right > swapped).all() and (right - swapped).mean() > 0.1


def walk(backbone, scene, how, num_steps, stop):
    image, prompt, _ = scene
    from locinv_pl.api import make_sample

    task = prepare(backbone, [make_sample(image, prompt, {})], how, num_steps, 16)
    records = [task.start()]
    for i in range(stop):
        records.append(invert_step(backbone, task, i, records[-1]))
    return task, records[1:]


def test_null_text_brings_the_latents_back(embedded, scene):
    task, plain = walk(embedded, scene, load_method("ddim"), 4, 4)
    _, fitted = walk(embedded, scene, load_method("nti"), 4, 4)
    target = task.trajectory[0]
    assert F.mse_loss(fitted[-1].latent, target) < 0.4 * F.mse_loss(plain[-1].latent, target)


def test_null_text_stops_early_below_its_tolerance(embedded, scene):
    how = Method("test", 7.5, TokenPolicy("fixed"), NullTextPolicy(max_steps=100))
    _, records = walk(embedded, scene, how, 50, 3)
    for i, record in enumerate(records):
        assert record.null_loss[0] < 1e-5 + i * 2e-5 and record.null_steps[0] < 100
    assert sum(int(r.null_steps[0]) for r in records) > 0


def test_half_precision_keeps_the_image(embedded, scene):
    image, prompt, masks = scene
    how = Method("test", 3.0, TokenPolicy("fixed"), NullTextPolicy(max_steps=2))  # slow without bfloat16 instructions
    common = {"method": how, "num_steps": 3}
    full = invert(embedded, image, prompt, masks, **common)
    with torch.autocast("cpu", torch.bfloat16):
        half = invert(embedded, image, prompt, masks, **common)
    images = embedded.decode(torch.stack([full.latent, half.latent]))
    assert psnr(images[1], image) > psnr(images[0], image) - 1
    assert half.maps.dtype == torch.float32
