"""Samples per second of a recipe's trainings on this machine, by precision and threads.

    python benchmarks/pretrain_rates.py configs/recipe/core_gpu.yaml

Random images and prompts stand in for drawn scenes, which costs the same. A step is forward, backward and fused
AdamW; each cell is the rate of the median step of those that fit into ``SECONDS``, after two that warm up.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
import yaml
from torch import Tensor
from transformers import CLIPTextModel

from locinv_pl.pretrain.clip import text_config
from locinv_pl.pretrain.diffusion import DiffusionModule, build_unet
from locinv_pl.pretrain.flow import FlowModule, build_towers, build_transformer
from locinv_pl.pretrain.optimization import Optimization, PretrainModule
from locinv_pl.pretrain.recognizer import RecognizerModule, build_recognizer
from locinv_pl.pretrain.tokenizer import train_tokenizer
from locinv_pl.pretrain.vae import VaeModule, build_vae
from locinv_pl.scenes.words import all_words

SECONDS, LENGTH, SIZE = 6.0, 24, 128
BATCH = {"vae": 16, "recognizer": 12, "diffusion": 24, "flow": 24}
Stage = tuple[PretrainModule, Callable[[], tuple[Tensor, ...]]]


def stages(recipe: dict) -> dict[str, Stage]:
    """A recipe's networks, each with what makes a batch for it."""
    tokenizer, o = train_tokenizer(all_words(), LENGTH), Optimization(max_steps=1, batch_size=1)
    ids = tokenizer(["a red cat and a dog on grass"] * 64, padding="max_length", return_tensors="pt").input_ids
    texts, null = text_config(tokenizer, 128, 3), ids[0] * 0 + tokenizer.eos_token_id
    side = SIZE // 2 ** (len(recipe["vae"]["channels"]) - 1)
    channels, flow_channels = recipe["vae"].get("latent_channels", 4), recipe["flow"]["vae"]["latent_channels"]

    def images(stage: str) -> Tensor:
        return torch.rand(BATCH[stage], 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)

    def latents(stage: str, channels: int) -> tuple[Tensor, Tensor]:
        return torch.randn(BATCH[stage], channels, side, side), ids[: BATCH[stage]]

    def labels() -> Tensor:
        return torch.randint(1, 5, (BATCH["recognizer"], SIZE // 4, SIZE // 4))

    vae = build_vae(tuple(recipe["vae"]["channels"]), SIZE, channels)
    recognizer = build_recognizer(24, 12, SIZE, tuple(recipe["recognizer"]["channels"]))
    unet = build_unet(tuple(recipe["diffusion"]["channels"]), side, 128, 4, channels)
    transformer = build_transformer(flow_channels, side)
    return {
        "vae": (VaeModule(vae, o), lambda: (images("vae"),)),
        "recognizer": (RecognizerModule(recognizer, o), lambda: (images("recognizer"), labels(), labels())),
        "diffusion": (DiffusionModule(unet, CLIPTextModel(texts), null, o), lambda: latents("diffusion", channels)),
        "flow": (FlowModule(transformer, build_towers(texts), null, o), lambda: latents("flow", flow_channels)),
    }


def rate(stage: Stage, batch_size: int, bf16: bool) -> float:
    """Samples per second of one stage's training."""
    module, batch = stage
    module.log = module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]  # no trainer listens
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 1e-4, fused=True)
    times, began = [], time.perf_counter()
    while len(times) < 4 or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = module.training_step(batch(), 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return batch_size / statistics.median(times[2:])


def main(recipe: Path) -> None:
    """Print the table."""
    print("| samples/s | " + " | ".join(BATCH) + " |\n|---|" + "---|" * len(BATCH))
    for bf16, threads in product((False, True), (1, 2)):
        torch.set_num_threads(threads)
        made = stages(yaml.safe_load(recipe.read_text()))
        cells = [f"{rate(made[stage], size, bf16):.1f}" for stage, size in BATCH.items()]
        name = f"{'bf16' if bf16 else 'fp32'}, {threads} thread{'s' * (threads > 1)}"
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
