"""The whole recipe: drawn scenes in, the embedded models and their judge out.

    scenes -> tokenizer -> vae -> clip -> recognizer -> diffusion -> consistency -> flow_vae -> flow

Every stage is a Lightning training with its own folder of checkpoints and TensorBoard curves. A stage
whose networks are exported is done; one with a checkpoint goes on from it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_state_dict_to_diffusers
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from locinv_pl.errors import InputError
from locinv_pl.io.files import write_json
from locinv_pl.networks.loading import model_folder
from locinv_pl.pretrain.batches import Batches, Column, images, rows
from locinv_pl.pretrain.clip import ClipModule, build_clip, text_config
from locinv_pl.pretrain.consistency import ConsistencyModule
from locinv_pl.pretrain.corpus import Corpus, draw_corpus
from locinv_pl.pretrain.diffusion import DiffusionModule, build_unet, noise_scheduler
from locinv_pl.pretrain.flow import FlowModule, build_towers, build_transformer, flow_scheduler
from locinv_pl.pretrain.optimization import Optimization, PretrainModule
from locinv_pl.pretrain.recognizer import RecognizerModule, build_recognizer
from locinv_pl.pretrain.settings import Recipe, VaeStage
from locinv_pl.pretrain.tokenizer import train_tokenizer
from locinv_pl.pretrain.vae import VaeModule, build_vae
from locinv_pl.scenes.drawing import world
from locinv_pl.scenes.words import all_words

STAGES = ("vae", "clip", "recognizer", "diffusion", "consistency", "flow_vae", "flow")


class Pretraining:
    """One pretraining in its folder.

    Args:
        recipe: the settings of all stages.
        output: the folder; ``embedded/``, ``embedded_lcm/``, ``embedded_sd3/`` and ``judge/`` appear in it as the
            package ships them.
    """

    def __init__(self, recipe: Recipe, output: Path):
        self.recipe, self.output = recipe, Path(output)
        self.world = world(recipe.world)
        self.model, self.flow_model = self.output / "embedded", self.output / "embedded_sd3"
        self.judge, self.lora = self.output / "judge", self.output / "embedded_lcm"
        accelerator = recipe.trainer.get("accelerator", "auto")
        self.device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that the recipe has settings for, in their order."""
        return tuple(stage for stage in STAGES if getattr(self.recipe, stage.removesuffix("_vae")) is not None)

    def run(self, stages: Sequence[str] = ()) -> None:
        """Train the stages that aren't done, in their order; all of them by default.

        Raises:
            InputError: no such stage, or an earlier one isn't done.
        """
        unknown = [stage for stage in stages if stage not in self.stages]
        if unknown:
            raise InputError(f"stages={unknown[0]}: no such stage; choose from {', '.join(self.stages)}")
        for stage in self.stages:
            if stage in (stages or self.stages) and not self._exported(stage):
                self._fit(stage)

    def export(self, stage: str) -> None:
        """Write a stage's networks from its last checkpoint, finished or not; their averages where there are any."""
        checkpoint = self._checkpoint(stage)
        if not checkpoint.is_file():
            raise InputError(f"{checkpoint}: no checkpoint of stage {stage!r} yet; train it first")
        module, state = self._module(stage), torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(state["state_dict"])
        module.eval()
        getattr(self, f"_export_{stage}")(module)
        if stage in ("diffusion", "flow"):
            seen = state["global_step"] * self._optimization(stage).batch_size * _world_size()
            folder = self.model if stage == "diffusion" else self.flow_model
            write_json(folder / "training.json", {"samples_seen": seen + self._seen_before(stage)})

    # What the stages learn from. --------------------------------------------------------------

    def _columns(self, stage: str) -> tuple[int, tuple[Column, ...]]:
        """How many rows there are, and what a batch takes of them."""
        if stage.endswith("vae"):
            return len(self.corpus.captions), (images(self.corpus.images, self.device),)
        if stage == "clip":
            ids = self._encode(self.tokenizer, self.corpus.captions)
            return len(ids), (images(self.corpus.images, self.device), rows(ids, self.device))
        if stage == "recognizer":
            faulty = self.faulty_corpus
            labels = (rows(array, self.device) for array in (faulty.nouns, faulty.colors))
            return len(faulty.captions), (images(faulty.images, self.device), *labels)
        latents, ids = self.latents(stage), self._encode(self._prompt_tokenizer(stage), self.corpus.captions)
        halves, both = rows(latents, self.device), torch.cat([ids, ids])
        return len(latents), (lambda numbers: halves(numbers).float(), rows(both, self.device))

    @cached_property
    def corpus(self) -> Corpus:
        """The drawn scenes."""
        return self._draw("scenes", self.recipe.num_scenes, "train", 0.0)

    @cached_property
    def faulty_corpus(self) -> Corpus:
        """The recogniser's scenes, some of whose objects aren't whole."""
        stage = self.recipe.recognizer
        return self._draw("faulty_scenes", stage.num_scenes, "train/faulty", stage.fault_rate)

    def _draw(self, folder: str, num_scenes: int, seed: str, fault_rate: float) -> Corpus:
        recipe = self.recipe

        def draw() -> Corpus:
            where = self.output / folder
            return draw_corpus(where, num_scenes, seed, recipe.size, recipe.world, recipe.counts, fault_rate)

        self._once(draw)
        return draw()

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """Trained on the words of all worlds, so that models of each can read the others' prompts."""
        return train_tokenizer(all_words(), self.recipe.max_length)

    def _prompt_tokenizer(self, stage: str) -> CLIPTokenizer:
        """The tokenizer of a text-to-image model: that of an earlier model where the training goes on from one."""
        start = self._start(stage)
        return self.tokenizer if start is None else CLIPTokenizer.from_pretrained(start / "tokenizer")

    def _start(self, stage: str) -> Path | None:
        """The folder of the model that a text-to-image model's training goes on from."""
        start = getattr(getattr(self.recipe, stage), "start", None)
        return None if start is None else model_folder(start)

    def latents(self, stage: str) -> Tensor:
        """The latents that a stage trains on, computed once and kept on disk.

        Args:
            stage: "diffusion", "consistency" or "flow", each with the VAE of its model.

        Returns:
            Shape (2 N, C, h, w), half precision: the means of the VAE's posteriors, scaled to zero mean and unit
            variance, for every scene and its mirror image.

        Raises:
            InputError: the stage's VAE hasn't been trained yet.
        """
        model = {"consistency": self._teacher, "flow": self.flow_model}.get(stage, self.model)
        folder = model / "vae"
        if not folder.is_dir():
            raise InputError(f"{folder}: not there yet; run the stage {'flow_' * (stage == 'flow')}vae first")
        path = self.output / f"latents-{'diffusion' if model == self.model else stage}.pt"
        self._once(lambda: self._write_latents(path, folder))
        return torch.load(path, mmap=True)

    def _write_latents(self, path: Path, folder: Path) -> None:
        if path.is_file():
            return
        vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
        vae.to(self.device, memory_format=torch.channels_last)
        read, parts = images(self.corpus.images, self.device), []
        scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
        with torch.no_grad(), torch.autocast(self.device, torch.bfloat16):
            for mirrored in (False, True):
                for numbers in torch.arange(len(self.corpus.captions)).split(256):
                    batch = read(numbers)
                    z = vae.encode((batch.flip(-1) if mirrored else batch) * 2 - 1).latent_dist.mean
                    parts.append(((z.float() - shift) * scale).half().contiguous().cpu())
        temporary = path.with_suffix(".tmp")
        torch.save(torch.cat(parts), temporary)
        temporary.rename(path)

    @staticmethod
    def _encode(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
        return tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids

    # What learns. -----------------------------------------------------------------------------

    def _module(self, stage: str) -> PretrainModule:
        seed_everything(self.recipe.seed, verbose=False)
        return self._vae_module(stage) if stage.endswith("vae") else getattr(self, f"_{stage}_module")()

    def _vae_module(self, stage: str) -> VaeModule:
        config = self._vae_stage(stage)
        vae: Any = build_vae(config.channels, self.recipe.size, config.latent_channels)
        if config.start is not None:
            vae = AutoencoderKL.from_pretrained(config.start, torch_dtype=torch.float32).train()
        return VaeModule(vae, config.optimization, config.crop, config.kl_weight, config.train_encoder)

    def _clip_module(self) -> ClipModule:
        config = self.recipe.clip
        clip = build_clip(self.tokenizer, self.recipe.size, config.patch, config.hidden, config.layers)
        return ClipModule(clip, config.optimization)

    def _recognizer_module(self) -> RecognizerModule:
        nouns, looks = (len(words) for words in (self.world.nouns, self.world.looks))
        config = self.recipe.recognizer
        return RecognizerModule(build_recognizer(nouns, looks, self.recipe.size, config.channels), config.optimization)

    def _diffusion_module(self) -> DiffusionModule:
        config, text_encoder = self.recipe.diffusion, self._text_encoder()
        channels, side = self._latent_shape(self.model)
        unet = build_unet(config.channels, side, text_encoder.config.hidden_size, config.heads, channels)
        if (start := self._start("diffusion")) is not None:
            unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32).train()
            unet.to(memory_format=torch.channels_last)
        return DiffusionModule(
            unet,
            text_encoder,
            self._encode(self._prompt_tokenizer("diffusion"), [""])[0],
            config.optimization,
            train_text_encoder=config.text_encoder == "joint",
            null_probability=config.null_probability,
            snr_bounds=config.snr_bounds,
            noise_offset=config.noise_offset,
        )

    def _text_encoder(self) -> CLIPTextModel:
        config, clip = self.recipe.diffusion, self.recipe.clip
        if (start := self._start("diffusion")) is not None:
            return CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32).train()
        if config.text_encoder == "joint":
            return CLIPTextModel(text_config(self.tokenizer, clip.hidden, config.text_layers))
        if config.text_encoder != "clip":
            raise InputError(f"diffusion.text_encoder={config.text_encoder}: no such kind; choose joint or clip")
        if not self._exported("clip"):
            raise InputError(f"{self.judge / 'clip'}: not there yet; run the stage clip first")
        return CLIPTextModel.from_pretrained(self.judge / "clip", dtype=torch.float32)

    @property
    def _teacher(self) -> Path:
        """The folder of the model that is distilled."""
        return self._start("consistency") or self.model

    def _consistency_module(self) -> ConsistencyModule:
        config, teacher = self.recipe.consistency, self._teacher
        assert config is not None
        if not (teacher / "unet").is_dir():
            raise InputError(f"{teacher / 'unet'}: not there yet; run the stage diffusion first")
        unet = UNet2DConditionModel.from_pretrained(teacher / "unet", torch_dtype=torch.float32)
        return ConsistencyModule(
            unet.to(memory_format=torch.channels_last),
            CLIPTextModel.from_pretrained(teacher / "text_encoder", dtype=torch.float32),
            self._encode(self._prompt_tokenizer("consistency"), [""])[0],
            config.optimization,
            rank=config.rank,
            guidance_scale=config.guidance_scale,
            num_steps=config.num_steps,
        )

    def _flow_module(self) -> FlowModule:
        config, hidden = self.recipe.flow, self.recipe.clip.hidden
        assert config is not None
        channels, side = self._latent_shape(self.flow_model)
        transformer = build_transformer(channels, side, 2 * hidden, config.width, config.layers, config.heads)
        towers = build_towers(text_config(self.tokenizer, hidden, config.text_layers))
        if (start := self._start("flow")) is not None:
            transformer = SD3Transformer2DModel.from_pretrained(
                start / "transformer", torch_dtype=torch.float32
            ).train()
            towers = tuple(
                CLIPTextModelWithProjection.from_pretrained(start / part, dtype=torch.float32).train()
                for part in ("text_encoder", "text_encoder_2")
            )
        null_ids = self._encode(self._prompt_tokenizer("flow"), [""])[0]
        return FlowModule(transformer, towers, null_ids, config.optimization, config.null_probability)

    def _latent_shape(self, model: Path) -> tuple[int, int]:
        """Channels and side of a model's latents."""
        vae = json.loads((model / "vae" / "config.json").read_text())
        return vae["latent_channels"], self.recipe.size // 2 ** (len(vae["block_out_channels"]) - 1)

    def _vae_stage(self, stage: str) -> VaeStage:
        if stage == "vae":
            return self.recipe.vae
        assert self.recipe.flow is not None
        return self.recipe.flow.vae

    def _optimization(self, stage: str) -> Optimization:
        return (self._vae_stage(stage) if stage.endswith("vae") else getattr(self.recipe, stage)).optimization

    def _fit(self, stage: str) -> None:
        length, columns = self._columns(stage)
        module, optimization = self._module(stage), self._optimization(stage)
        folder, last = self.output / stage, self._checkpoint(stage)
        callbacks: list[Callback] = [
            ModelCheckpoint(
                folder, train_time_interval=timedelta(minutes=2), save_last=True, enable_version_counter=False
            )
        ]
        if optimization.ema_decay:
            callbacks.append(Average(optimization.ema_decay, min(1000, optimization.max_steps // 10)))
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
        if optimization.max_minutes is not None and trainer.world_size > 1:
            raise InputError(
                f"recipe.{stage}.optimization.max_minutes: several processes would end apart; give max_steps"
            )
        began = torch.load(last, weights_only=True)["global_step"] if last.is_file() else 0
        seed = hash((self.recipe.seed, _rank(), began))
        batches: Any = Batches(length, columns, optimization.batch_size, seed, self.device)
        trainer.fit(module, batches, ckpt_path=last if last.is_file() else None, weights_only=True)
        if trainer.interrupted:
            raise SystemExit(130)
        trainer.save_checkpoint(last, weights_only=False)
        self._once(lambda: self.export(stage))

    def _checkpoint(self, stage: str) -> Path:
        return self.output / stage / "last.ckpt"

    def _exported(self, stage: str) -> bool:
        folders = {
            "vae": self.model / "vae",
            "diffusion": self.model / "unet",
            "consistency": self.lora,
            "flow_vae": self.flow_model / "vae",
            "flow": self.flow_model / "transformer",
        }
        return folders.get(stage, self.judge / stage).is_dir()

    def _seen_before(self, stage: str) -> int:
        """The number of samples that the model had seen from which the training started."""
        start = self._start(stage)
        card = None if start is None else start / "training.json"
        return json.loads(card.read_text())["samples_seen"] if card is not None and card.is_file() else 0

    def _once(self, work: Callable[[], Any]) -> None:
        """Let the first process do it while the others wait; those that it starts later find it done."""
        if _rank() == 0:
            work()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()

    # What is shipped. -------------------------------------------------------------------------

    def _export_vae(self, module: VaeModule) -> None:
        self._write_vae(module, self.model / "vae", centred=False)

    def _export_flow_vae(self, module: VaeModule) -> None:
        self._write_vae(module, self.flow_model / "vae", centred=True)

    def _write_vae(self, module: VaeModule, folder: Path, centred: bool) -> None:
        vae = module.vae
        vae.to(self.device)
        sample = images(self.corpus.images[:512], self.device)(torch.arange(min(512, len(self.corpus.captions))))
        with torch.no_grad():
            latents = torch.cat([vae.encode(batch * 2 - 1).latent_dist.mean for batch in sample.split(32)])
        if module.train_encoder:
            shift = latents.mean().item() if centred else None
            vae.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=shift)
        _replace(folder, vae.half().save_pretrained)
        _forget_origin(folder / "config.json")

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
            tokenizer=self._prompt_tokenizer("diffusion"),
            unet=module.unet.half(),
            scheduler=noise_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(self.model)
        for part in ("vae", "unet"):
            _forget_origin(self.model / part / "config.json")

    def _export_consistency(self, module: ConsistencyModule) -> None:
        from peft import get_peft_model_state_dict

        weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(module.unet))
        half = {name: weight.half() for name, weight in weights.items()}
        _replace(self.lora, lambda folder: StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=half))

    def _export_flow(self, module: FlowModule) -> None:
        pipeline: Any = StableDiffusion3Pipeline(
            transformer=module.transformer.half(),
            scheduler=flow_scheduler(),
            vae=AutoencoderKL.from_pretrained(self.flow_model / "vae", torch_dtype=torch.float16),
            text_encoder=module.text_encoder.half(),
            tokenizer=self._prompt_tokenizer("flow"),
            text_encoder_2=module.text_encoder_2.half(),
            tokenizer_2=self._prompt_tokenizer("flow"),
            text_encoder_3=None,
            tokenizer_3=None,
        )
        pipeline.save_pretrained(self.flow_model)
        for part in ("vae", "transformer"):
            _forget_origin(self.flow_model / part / "config.json")


class Average(WeightAveraging):
    """The exponential moving average of the weights, from step ``start`` on."""

    def __init__(self, decay: float, start: int):
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.start = start

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After every step from ``start`` on; the average starts as that step's weights."""
        return step_idx is not None and step_idx >= self.start


def _forget_origin(config: Path) -> None:
    """Drop the path that a network was loaded from."""
    content = json.loads(config.read_text())
    content.pop("_name_or_path", None)
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


def _world_size() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def _replace(folder: Path, write: Callable[[Path], Any]) -> None:
    """Write a folder whole: it is there, or it isn't."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    write(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
