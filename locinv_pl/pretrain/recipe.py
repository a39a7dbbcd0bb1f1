"""The whole recipe: drawn scenes in, the embedded model and its judge out.

    scenes -> tokenizer -> vae -> clip -> recognizer -> diffusion

Every stage is a Lightning training with its own folder of checkpoints and TensorBoard curves. A stage
whose networks are exported is done; one with a checkpoint goes on from it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from transformers import CLIPTextModel, CLIPTokenizer

from locinv_pl.backbone import EMBEDDED
from locinv_pl.errors import InputError
from locinv_pl.pretrain.clip import ClipModule, build_clip, text_config
from locinv_pl.pretrain.corpus import Corpus, draw_corpus
from locinv_pl.pretrain.diffusion import DiffusionModule, build_unet, noise_scheduler
from locinv_pl.pretrain.optimization import Optimization, PretrainModule
from locinv_pl.pretrain.recognizer import RecognizerModule, build_recognizer
from locinv_pl.pretrain.tokenizer import train_tokenizer
from locinv_pl.pretrain.vae import VaeModule, build_vae
from locinv_pl.scenes.drawing import world
from locinv_pl.scenes.words import all_words
from locinv_pl.store import write_json

STAGES = ("vae", "clip", "recognizer", "diffusion")


@dataclass(frozen=True)
class VaeStage:
    """The VAE's training; ``start`` is a folder of an earlier VAE to go on from."""

    optimization: Optimization
    channels: tuple[int, ...] = (16, 32, 64)
    crop: int = 64
    kl_weight: float = 2e-6
    train_encoder: bool = True
    start: str | None = None


@dataclass(frozen=True)
class ClipStage:
    """CLIP's training."""

    optimization: Optimization
    patch: int = 16
    hidden: int = 128
    layers: int = 4


@dataclass(frozen=True)
class RecognizerStage:
    """The recogniser's training."""

    optimization: Optimization
    channels: tuple[int, ...] = (32, 64, 128)


@dataclass(frozen=True)
class DiffusionStage:
    """The UNet's training.

    ``text_encoder``: "joint" trains one along, "clip" takes CLIP's text tower as it is. ``start``: "embedded" or
    the folder of an earlier model whose UNet, text encoder and tokenizer to go on from.
    """

    optimization: Optimization
    channels: tuple[int, ...] = (32, 64, 128)
    heads: int = 4
    text_encoder: str = "joint"
    text_layers: int = 3
    null_probability: float = 0.1
    snr_bounds: tuple[float, float] = (0.25, 5.0)
    noise_offset: float = 0.1
    start: str | None = None


@dataclass(frozen=True)
class Recipe:
    """All settings of a pretraining.

    Args:
        vae, clip, recognizer, diffusion: the stages.
        world: what is drawn, "core" or "full".
        num_scenes: how many scenes.
        size: side of the pictures in pixels.
        seed: of weights, batches and noise.
        max_length: positions of a prompt.
        trainer: arguments of Lightning's Trainer.
        num_workers: processes that read pictures, for each training process.
    """

    vae: VaeStage
    clip: ClipStage
    recognizer: RecognizerStage
    diffusion: DiffusionStage
    world: str = "core"
    num_scenes: int = 48000
    size: int = 128
    seed: int = 0
    max_length: int = 24
    trainer: Mapping[str, Any] = field(default_factory=dict)
    num_workers: int = 0


class Pretraining:
    """One pretraining in its folder.

    Args:
        recipe: the settings.
        output: the folder; ``embedded/`` and ``judge/`` appear in it as the package ships them.
    """

    def __init__(self, recipe: Recipe, output: Path):
        self.recipe, self.output = recipe, Path(output)
        self.world = world(recipe.world)
        self.model, self.judge = self.output / "embedded", self.output / "judge"

    def run(self, stages: Sequence[str] = STAGES) -> None:
        """Train the stages that aren't done, in their order.

        Raises:
            InputError: no such stage, or an earlier one isn't done.
        """
        unknown = [stage for stage in stages if stage not in STAGES]
        if unknown:
            raise InputError(f"stages={unknown[0]}: no such stage; choose from {', '.join(STAGES)}")
        for stage in STAGES:
            if stage in stages and not self._exported(stage):
                getattr(self, f"_train_{stage}")()

    def export(self, stage: str) -> None:
        """Write a stage's networks from its last checkpoint, finished or not; their averages where there are any."""
        checkpoint = self._checkpoint(stage)
        if not checkpoint.is_file():
            raise InputError(f"{checkpoint}: no checkpoint of stage {stage!r} yet; train it first")
        module = self._module(stage)
        module.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"])
        getattr(self, f"_export_{stage}")(module.eval())

    # The stages. ------------------------------------------------------------------------------

    def _train_vae(self) -> None:
        self._fit("vae", _Arrays(len(self.corpus.captions), pictures(self.corpus)))

    def _train_clip(self) -> None:
        ids = self._encode(self.tokenizer, self.corpus.captions)
        self._fit("clip", _Arrays(len(ids), pictures(self.corpus), ids.__getitem__))

    def _train_recognizer(self) -> None:
        labels = [lambda i, a=array: torch.from_numpy(a[i].copy()) for array in (self.corpus.nouns, self.corpus.colors)]
        self._fit("recognizer", _Arrays(len(self.corpus.captions), pictures(self.corpus), *labels))

    def _train_diffusion(self) -> None:
        if not self._exported("vae"):
            raise InputError(f"{self.model / 'vae'}: not there yet; run the stage vae first")
        latents, ids = self.latents(), self._encode(self.prompt_tokenizer, self.corpus.captions)
        self._fit("diffusion", _Arrays(len(latents), lambda i: latents[i].float(), ids.__getitem__))

    def _module(self, stage: str) -> PretrainModule:
        recipe, config = self.recipe, getattr(self.recipe, stage)
        seed_everything(recipe.seed, verbose=False)
        if stage == "vae":
            vae: Any = build_vae(config.channels, recipe.size)
            if config.start is not None:
                vae = AutoencoderKL.from_pretrained(config.start, torch_dtype=torch.float32).train()
            return VaeModule(vae, config.optimization, config.crop, config.kl_weight, config.train_encoder)
        if stage == "clip":
            clip = build_clip(self.tokenizer, recipe.size, config.patch, config.hidden, config.layers)
            return ClipModule(clip, config.optimization)
        if stage == "recognizer":
            nouns, looks = (len(words) for words in (self.world.nouns, self.world.looks))
            return RecognizerModule(build_recognizer(nouns, looks, recipe.size, config.channels), config.optimization)
        text_encoder = self._text_encoder()
        null_ids = self._encode(self.prompt_tokenizer, [""])[0]
        width = text_encoder.config.hidden_size
        unet = build_unet(config.channels, recipe.size // 2 ** (len(recipe.vae.channels) - 1), width, config.heads)
        if self._start is not None:
            unet = UNet2DConditionModel.from_pretrained(self._start / "unet", torch_dtype=torch.float32).train()
            unet.to(memory_format=torch.channels_last)
        return DiffusionModule(
            unet,
            text_encoder,
            null_ids,
            config.optimization,
            train_text_encoder=config.text_encoder == "joint",
            null_probability=config.null_probability,
            snr_bounds=config.snr_bounds,
            noise_offset=config.noise_offset,
        )

    def _text_encoder(self) -> CLIPTextModel:
        config, clip = self.recipe.diffusion, self.recipe.clip
        if self._start is not None:
            return CLIPTextModel.from_pretrained(self._start / "text_encoder", dtype=torch.float32).train()
        if config.text_encoder == "joint":
            return CLIPTextModel(text_config(self.tokenizer, clip.hidden, config.text_layers))
        if config.text_encoder != "clip":
            raise InputError(f"diffusion.text_encoder={config.text_encoder}: no such kind; choose joint or clip")
        if not self._exported("clip"):
            raise InputError(f"{self.judge / 'clip'}: not there yet; run the stage clip first")
        return CLIPTextModel.from_pretrained(self.judge / "clip", dtype=torch.float32)

    # What the stages share. -------------------------------------------------------------------

    @cached_property
    def corpus(self) -> Corpus:
        """The drawn scenes."""
        settings = (self.output / "scenes", self.recipe.num_scenes, "train", self.recipe.size, self.recipe.world)
        self._once(lambda: draw_corpus(*settings))
        return draw_corpus(*settings)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """Trained on the words of all worlds, so that models of each can read the others' prompts."""
        return train_tokenizer(all_words(), self.recipe.max_length)

    @cached_property
    def prompt_tokenizer(self) -> CLIPTokenizer:
        """The text-to-image model's: the same, unless that goes on from an earlier one."""
        return self.tokenizer if self._start is None else CLIPTokenizer.from_pretrained(self._start / "tokenizer")

    @property
    def _start(self) -> Path | None:
        start = self.recipe.diffusion.start
        return EMBEDDED if start == "embedded" else None if start is None else Path(start)

    def latents(self) -> Tensor:
        """The means of the VAE's posteriors, scaled to unit variance: (N, C, h, w), half precision, kept on disk."""
        path = self.output / "latents.pt"
        self._once(lambda: self._write_latents(path))
        return torch.load(path)

    def _write_latents(self, path: Path) -> None:
        if path.is_file():
            return
        vae = AutoencoderKL.from_pretrained(self.model / "vae", torch_dtype=torch.float32).eval()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        vae.to(device, memory_format=torch.channels_last)
        read, parts = pictures(self.corpus), []
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            for numbers in torch.arange(len(self.corpus.captions)).split(64):
                batch = torch.stack([read(int(i)) for i in numbers]).to(device)
                parts.append(vae.encode(batch * 2 - 1).latent_dist.mean.half().cpu())
        temporary = path.with_suffix(".tmp")
        torch.save(torch.cat(parts) * vae.config.scaling_factor, temporary)
        temporary.rename(path)

    @staticmethod
    def _encode(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
        return tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids

    def _fit(self, stage: str, data: _Arrays) -> None:
        module, optimization = self._module(stage), getattr(self.recipe, stage).optimization
        folder = self.output / stage
        callbacks: list[Callback] = [
            ModelCheckpoint(folder, every_n_train_steps=250, save_last=True, enable_version_counter=False)
        ]
        if optimization.ema_decay:
            start = min(1000, optimization.max_steps // 10)
            average = EMAWeightAveraging(
                decay=optimization.ema_decay, update_every_n_steps=1, update_starting_at_step=start
            )
            callbacks.append(average)
        trainer = Trainer(
            max_steps=optimization.max_steps,
            max_epochs=-1,
            use_distributed_sampler=False,
            gradient_clip_val=1.0,
            callbacks=callbacks,
            logger=TensorBoardLogger(self.output, name=stage, version="curves"),
            log_every_n_steps=25,
            enable_model_summary=False,
            **self.recipe.trainer,
        )
        last, workers = self._checkpoint(stage), self.recipe.num_workers
        began = torch.load(last, weights_only=False)["global_step"] if last.is_file() else 0
        draws = torch.Generator().manual_seed(hash((self.recipe.seed, _rank(), began)))
        loader = DataLoader(
            data,
            optimization.batch_size,
            sampler=RandomSampler(data, replacement=True, num_samples=2**31, generator=draws),
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        trainer.fit(module, loader, ckpt_path=last if last.is_file() else None, weights_only=False)
        if trainer.interrupted:
            raise SystemExit(130)
        trainer.save_checkpoint(last)
        self._once(lambda: self.export(stage))

    def _checkpoint(self, stage: str) -> Path:
        return self.output / stage / "last.ckpt"

    def _exported(self, stage: str) -> bool:
        folders = {"vae": self.model / "vae", "diffusion": self.model / "unet"}
        return folders.get(stage, self.judge / stage).is_dir()

    def _once(self, work: Callable[[], Any]) -> None:
        """Let the first process do it while the others wait; those that it starts later find it done."""
        if _rank() == 0:
            work()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()

    # What is shipped. -------------------------------------------------------------------------

    def _export_vae(self, module: VaeModule) -> None:
        vae, read = module.vae, pictures(self.corpus)
        sample = torch.stack([read(i) for i in range(min(512, len(self.corpus.captions)))])
        with torch.no_grad():
            latents = torch.cat([vae.encode(batch * 2 - 1).latent_dist.mean for batch in sample.split(32)])
        scale = module.vae.config.scaling_factor if not module.train_encoder else 1 / latents.std().item()
        vae.register_to_config(scaling_factor=scale)
        _replace(self.model / "vae", vae.half().save_pretrained)

    def _export_clip(self, module: ClipModule) -> None:
        _replace(self.judge / "clip", module.clip.half().save_pretrained)
        _replace(self.judge / "tokenizer", self.tokenizer.save_pretrained)

    def _export_recognizer(self, module: RecognizerModule) -> None:
        _replace(self.judge / "recognizer", module.recognizer.unet.half().save_pretrained)
        words = {"world": self.world.name, "nouns": [*self.world.nouns], "colors": [*self.world.looks]}
        write_json(self.judge / "judge.json", words)

    def _export_diffusion(self, module: DiffusionModule) -> None:
        pipeline: Any = StableDiffusionPipeline(
            vae=AutoencoderKL.from_pretrained(self.model / "vae", torch_dtype=torch.float16),
            text_encoder=module.text_encoder.half(),
            tokenizer=self.prompt_tokenizer,
            unet=module.unet.half(),
            scheduler=noise_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(self.model)
        for part in ("vae", "unet"):
            _forget_origin(self.model / part / "config.json")


class _Arrays(Dataset):
    """Item i is what every column's function says of i."""

    def __init__(self, length: int, *columns: Callable[[int], Tensor]):
        self.length, self.columns = length, columns

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(column(index) for column in self.columns)


def _forget_origin(config: Path) -> None:
    """Drop the path that a network was loaded from."""
    content = json.loads(config.read_text())
    content.pop("_name_or_path", None)
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


def pictures(corpus: Corpus) -> Callable[[int], Tensor]:
    """Picture i of a corpus, (3, H, W) in [0, 1]."""
    return lambda i: torch.from_numpy(np.array(corpus.pictures[i])).permute(2, 0, 1).float() / 255


def _replace(folder: Path, write: Callable[[Path], Any]) -> None:
    """Write a folder whole: it is there, or it isn't."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    write(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
