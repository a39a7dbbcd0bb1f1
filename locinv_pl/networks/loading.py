"""Loading a text-to-image model: a folder in diffusers' layout, or the hub's."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download

from locinv_pl.assets import EMBEDDED
from locinv_pl.errors import InputError
from locinv_pl.networks.architectures import architecture_of
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.folder import (
    TRANSFORMERS,
    check_configs,
    check_file,
    check_folder,
    pipeline_of,
    pipeline_of_file,
    variant_of,
)
from locinv_pl.networks.hub import ask_hub, from_disk_or_hub, reason, weights_type
from locinv_pl.networks.lora import add_lora
from locinv_pl.networks.offload import LARGE, quantization
from locinv_pl.networks.options import ORIGIN, LoadOptions
from locinv_pl.networks.tuning import Tuning

OWN = ("embedded", "embedded_lcm", "embedded_sd3")
"""What this package brings: two models, and a LoRA of the first for few steps."""
LORA = "pytorch_lora_weights.safetensors"
"""Diffusers' name for a LoRA's file."""


def model_folder(name: str) -> Path:
    """The folder of "embedded" or another of this package's; of any other name the path that it is."""
    return EMBEDDED.with_name(name) if name in OWN else Path(name).expanduser()


def lora_file(name: str) -> Path:
    """A LoRA's file. A folder and a hub id have it by diffusers' name; "embedded_lcm" is in this package.

    Args:
        name: the file, the folder or the hub id.

    Raises:
        InputError: there is no such folder, or the hub has no LoRA of that name.
    """
    where = model_folder(name)
    if where.is_file() or where.suffix == ".safetensors":
        return where

    def find(where: str, local_files_only: bool) -> Path:
        if Path(where).is_dir():
            return Path(where) / LORA
        return Path(hf_hub_download(where, LORA, local_files_only=local_files_only))

    return from_disk_or_hub(f"model.lora={name}", str(where), find)


def load_backbone(
    name_or_path: str = "embedded",
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
    variant: str | None = None,
    tuning: Tuning = Tuning(),
    for_editors: bool = False,
    lora: str | None = None,
    scheduler: Mapping[str, Any] | None = None,
    layout: str | None = None,
    offload: bool = False,
    quantize: str | None = None,
) -> Backbone:
    """Load a model in diffusers' layout, or a checkpoint in one file.

    Args:
        name_or_path: "embedded" (the small model inside this package), a local folder, a checkpoint in one .safetensors
            file, or a hub id. Of Stable Diffusion 3's and FLUX's files the transformer alone is taken.
        dtype: of the weights; a torch dtype or its name.
        device: where to put them.
        variant: weight variant of the files, such as "fp16"; of a folder that has no others it is taken unasked.
        tuning: how the networks are run.
        for_editors: whether the UNet may take the channels of an editor's, besides its latents'.
        lora: as of :class:`~locinv_pl.networks.options.LoadOptions`.
        scheduler: as of :class:`~locinv_pl.networks.options.LoadOptions`.
        layout: as of :class:`~locinv_pl.networks.options.LoadOptions`.
        offload: as of :class:`~locinv_pl.networks.options.LoadOptions`.
        quantize: as of :class:`~locinv_pl.networks.options.LoadOptions`.

    Raises:
        InputError: the folder is missing, incomplete or damaged, holds another kind of model, or the hub has none of
            that name.
    """
    import diffusers
    import transformers

    weights = weights_type("model.dtype", dtype)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device={device}: can't be used ({reason(error)}); use cpu, or cuda where there is one"
        ) from None
    quantized: dict[str, Any] = {} if quantize is None else {"quantization_config": quantization(quantize, weights)}
    where = str(model_folder(name_or_path))
    is_folder, is_file, key = Path(where).is_dir(), Path(where).is_file(), f"backbone={name_or_path}"
    if is_folder:
        check_folder(Path(where), key, architecture_of(pipeline_of(Path(where))), for_editors)
    elif is_file:
        check_file(Path(where), key)
    elif Path(where).exists() or Path(where).is_absolute() or where.startswith(".") or where.count("/") > 1:
        raise InputError(f"{key}: no such folder; give a diffusers folder or a hub id")
    file = Path(where) if is_file and pipeline_of_file(Path(where)) in TRANSFORMERS.values() else None
    if file is not None:  # its transformer takes the place of its layout's
        where, _ = _layout_of(file, key, layout)
        is_folder, is_file = Path(where).is_dir(), False

    def load(local_files_only: bool) -> Backbone:
        def files(part: str) -> dict[str, Any]:
            found = variant_of(Path(where) / part, variant)
            return {"subfolder": part, "variant": found, "local_files_only": local_files_only}

        if is_file:
            index, networks, config = _from_one_file(Path(where), key, weights, layout)
            return assemble(index, networks, config)
        index = pipeline_of(Path(where)) if is_folder else dict(_hub_index(where, local_files_only))
        if file is not None and index and pipeline_of_file(file) not in architecture_of(index).PIPELINES:
            raise InputError(
                f"{key}: is a checkpoint of {pipeline_of_file(file)}, its layout {where} is of "
                f"{index.get('_class_name')}; give model.layout=FOLDER, a model of its kind in diffusers' layout"
            )
        networks = {}
        for part, kind in architecture_of(index).parts(index).items():
            if part == "scheduler":
                config = diffusers.DDIMScheduler.load_config(where, subfolder=part, local_files_only=local_files_only)
            elif part == "transformer" and file is not None:
                like = {"config": where, "subfolder": part, "local_files_only": local_files_only}
                networks[part] = getattr(diffusers, kind).from_single_file(str(file), torch_dtype=weights, **like)
            elif part.startswith("tokenizer"):
                local = {"subfolder": part, "local_files_only": local_files_only}
                networks[part] = getattr(transformers, kind).from_pretrained(where, **local)
            elif part.startswith("text_encoder"):
                how = {**files(part), **(quantized if kind == LARGE else {})}
                networks[part] = getattr(transformers, kind).from_pretrained(where, dtype=weights, **how)
            else:
                networks[part] = getattr(diffusers, kind).from_pretrained(where, torch_dtype=weights, **files(part))
        return assemble(index, networks, config)

    def assemble(index: Mapping[str, Any], networks: dict[str, Any], config: Mapping[str, Any]) -> Backbone:
        if scheduler:
            config = changed_scheduler(config, scheduler)
        architecture = check_components(networks, index, config, key, for_editors)
        if quantize is not None and LARGE not in architecture.parts(index).values():
            raise InputError(f"model.quantize={quantize}: {key} has no T5, which is what it quantises; leave it out")
        if lora is not None:
            add_lora(networks, lora_file(lora), f"model.lora={lora}")
        networks["scheduler"] = architecture.make_scheduler(config)
        backbone = architecture(name_or_path, **networks, **architecture.options(index), tuning=tuning)
        backbone.components, backbone.index = networks, index
        backbone.origin = LoadOptions(lora, scheduler, layout, quantize=quantize).given
        backbone.offload = offload
        return backbone.to(device)

    try:
        if is_folder or is_file:
            return load(local_files_only=True)
        try:
            return load(local_files_only=True)  # a model in the hub's cache needs no network
        except InputError:
            raise
        except Exception:  # not in the cache, or not whole
            ask_hub(key, where)
        return load(local_files_only=False)
    except InputError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds for one damaged download
        raise InputError(
            f"{key}: can't be loaded ({reason(error)}); download it again, whole, or check the name"
        ) from error


def load_as(settings: Mapping[str, Any], device: torch.device | str = "cpu", tuning: Tuning = Tuning()) -> Backbone:
    """The model that made a run's results.

    Args:
        settings: the run's, as in settings.json.
        device: where to put it.
        tuning: how the networks are run.

    Raises:
        InputError: as :func:`load_backbone` does.
    """
    origin = {key: settings[key] for key in ORIGIN if key in settings}
    offload = bool(settings.get("rounding", {}).get("offload", False))
    return load_backbone(settings["backbone"], settings["dtype"], device, tuning=tuning, offload=offload, **origin)


def check_components(
    components: Mapping[str, Any],
    index: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    key: str,
    for_editors: bool = False,
) -> type[Backbone]:
    """The architecture of a model's components, which must fit each other; tokenizers get their encoders' lengths.

    Args:
        components: of diffusers and transformers, by the names in the architecture's ``PARTS``, without the scheduler.
        index: the content of the model's model_index.json.
        scheduler: the scheduler's configuration.
        key: names the model in errors, as in "backbone=NAME".
        for_editors: whether the denoiser may take the channels of an editor's, besides its latents'.

    Raises:
        InputError: they are no model that can be inverted, or of different ones.
    """
    architecture = architecture_of(index)
    configs = {part: _config_of(each) for part, each in components.items() if hasattr(each, "config")}
    check_configs({**configs, "scheduler": scheduler}, key, architecture, architecture.parts(index), for_editors)
    for part, tokenizer in components.items():
        if part.startswith("tokenizer"):
            fit_tokenizer(tokenizer, components[part.replace("tokenizer", "text_encoder")].config, key)
    return architecture


def changed_scheduler(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's configuration with other values or of another class, as diffusers' ``from_config`` takes them.

    Args:
        config: the content of scheduler_config.json.
        changes: by the same names.

    Raises:
        InputError: diffusers has no such scheduler, or this one has no such setting.
    """
    import diffusers

    name = str({**config, **changes}.get("_class_name"))
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise InputError(
            f"model.scheduler._class_name={name}: diffusers has no such scheduler; give one, such as LCMScheduler"
        )
    known = inspect.signature(kind).parameters
    for key in changes.keys() - known.keys() - {"_class_name"}:
        raise InputError(f"model.scheduler.{key}: no setting of {name}; choose from {', '.join(known)}")
    return {**config, **changes}


def fit_tokenizer(tokenizer: Any, config: Any, key: str) -> None:
    """Let a tokenizer's prompts be as long as its text encoder takes; some say no length, or any.

    Args:
        tokenizer: of transformers; its ``model_max_length`` is set.
        config: the text encoder's.
        key: names the model in the error.

    Raises:
        InputError: it has more words than the text encoder.
    """
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"{key}: its tokenizer has {len(tokenizer)} words, its text encoder {config.vocab_size}: the two are of "
            f"different models; give one model's folder"
        )
    longest = getattr(config, "max_position_embeddings", None)  # T5 has no such limit
    tokenizer.model_max_length = int(min(tokenizer.model_max_length, longest or 512))


def _layout_of(path: Path, key: str, layout: str | None) -> tuple[str, bool]:
    """The folder or hub id with what a checkpoint in one file lacks, and whether it is on this machine.

    Raises:
        InputError: it is neither given, nor in the hub's cache, nor to be had.
    """
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint
    from huggingface_hub import try_to_load_from_cache

    like = layout or fetch_diffusers_config(load_single_file_checkpoint(str(path)))["pretrained_model_name_or_path"]
    is_here = Path(like).is_dir() or isinstance(try_to_load_from_cache(like, "model_index.json"), str)
    if not is_here:
        try:
            ask_hub(key, like)
        except InputError:
            raise InputError(
                f"{key}: is a checkpoint in one file, without the configurations and the tokenizer of its kind, "
                f"{like}; give model.layout=FOLDER, a model of that kind in diffusers' layout"
            ) from None
    return like, is_here


def _from_one_file(
    path: Path, key: str, weights: torch.dtype, layout: str | None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A checkpoint's model_index.json as it would be, its components by name, and its scheduler's configuration."""
    import diffusers

    like, is_here = _layout_of(path, key, layout)
    name = pipeline_of_file(path)
    options: dict[str, Any] = {"config": like, "torch_dtype": weights, "local_files_only": is_here}
    pipeline = getattr(diffusers, name).from_single_file(str(path), **options)
    index = {**pipeline.config, "_class_name": name}
    parts = [part for part in architecture_of(index).PARTS if part != "scheduler"]
    scheduler = {**pipeline.scheduler.config, "_class_name": type(pipeline.scheduler).__name__}
    return index, {part: getattr(pipeline, part) for part in parts}, scheduler


def _hub_index(name: str, local_files_only: bool) -> Mapping[str, Any]:
    """The content of the model_index.json of a model of the hub; nothing where there is none."""
    from diffusers import DiffusionPipeline

    with suppress(OSError):
        return dict(DiffusionPipeline.load_config(name, local_files_only=local_files_only))
    return {}


def _config_of(part: Any) -> dict[str, Any]:
    """A component's configuration as plain values."""
    return part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)


def silence_loading() -> None:
    """Keep diffusers and transformers from reporting on what they load."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
