"""Loading a text-to-image model: a folder in diffusers' layout, or the hub's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from locinv_pl.assets import EMBEDDED
from locinv_pl.errors import InputError
from locinv_pl.networks.architectures import architecture_of
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.folder import check_configs, check_folder, pipeline_of, refuse_file, variant_of
from locinv_pl.networks.hub import ask_hub, reason
from locinv_pl.networks.tuning import Tuning


def model_folder(name: str) -> Path:
    """The folder of "embedded" or "embedded_sd3" in this package; of any other name the path that it is."""
    return EMBEDDED.with_name(name) if name in ("embedded", "embedded_sd3") else Path(name).expanduser()


def load_backbone(
    name_or_path: str = "embedded",
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
    variant: str | None = None,
    tuning: Tuning = Tuning(),
    for_editors: bool = False,
) -> Backbone:
    """Load a model in diffusers' layout.

    Args:
        name_or_path: "embedded" (the small model inside this package), a local folder, or a hub id.
        dtype: of the weights; a torch dtype or its name.
        device: where to put them.
        variant: weight variant of the files, such as "fp16"; of a folder that has no others it is taken unasked.
        tuning: how the networks are run.
        for_editors: whether the UNet may take the channels of an editor's, besides its latents'.

    Raises:
        InputError: the folder is missing, incomplete or damaged, holds another kind of model, or the hub has none of
            that name.
    """
    import diffusers
    import transformers

    weights = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not (isinstance(weights, torch.dtype) and weights.is_floating_point):
        raise InputError(f"model.dtype={dtype}: no such weights; use float32, bfloat16 or float16")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device={device}: can't be used ({reason(error)}); use cpu, or cuda where there is one"
        ) from None
    where = str(model_folder(name_or_path))
    is_folder, key = Path(where).is_dir(), f"backbone={name_or_path}"
    if is_folder:
        check_folder(Path(where), key, architecture_of(pipeline_of(Path(where))), for_editors)
    elif Path(where).is_file():
        refuse_file(Path(where), key)
    elif Path(where).exists() or Path(where).is_absolute() or where.startswith(".") or where.count("/") > 1:
        raise InputError(f"{key}: no such folder; give a diffusers folder or a hub id")

    def load(local_files_only: bool) -> Backbone:
        def files(part: str) -> dict[str, Any]:
            found = variant_of(Path(where) / part, variant)
            return {"subfolder": part, "variant": found, "local_files_only": local_files_only}

        index = pipeline_of(Path(where)) if is_folder else _hub_index(where, local_files_only)
        architecture = architecture_of(index)
        networks: dict[str, Any] = {}
        for part, kind in architecture.PARTS.items():
            if part == "scheduler":
                config = diffusers.DDIMScheduler.load_config(where, subfolder=part, local_files_only=local_files_only)
            elif part.startswith("tokenizer"):
                local = {"subfolder": part, "local_files_only": local_files_only}
                networks[part] = getattr(transformers, kind).from_pretrained(where, **local)
            elif part.startswith("text_encoder"):
                networks[part] = getattr(transformers, kind).from_pretrained(where, dtype=weights, **files(part))
            else:
                networks[part] = getattr(diffusers, kind).from_pretrained(where, torch_dtype=weights, **files(part))
        configs = {part: _config_of(network) for part, network in networks.items() if hasattr(network, "config")}
        check_configs({**configs, "scheduler": config}, key, architecture, for_editors)
        for part, network in networks.items():
            if part.startswith("tokenizer"):
                fit_tokenizer(network, networks[part.replace("tokenizer", "text_encoder")].config, key)
        networks["scheduler"] = architecture.make_scheduler(config)
        options = architecture.options(index)
        return architecture(name_or_path, **networks, **options, tuning=tuning).to(device)

    try:
        if is_folder:
            return load(local_files_only=True)
        try:
            return load(local_files_only=True)  # a model in the hub's cache needs no network
        except InputError:
            raise
        except Exception:  # not in the cache, or not whole
            ask_hub(key, name_or_path)
        return load(local_files_only=False)
    except InputError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds for one damaged download
        raise InputError(
            f"{key}: can't be loaded ({reason(error)}); download it again, whole, or check the name"
        ) from error


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
    tokenizer.model_max_length = int(min(tokenizer.model_max_length, config.max_position_embeddings))


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
