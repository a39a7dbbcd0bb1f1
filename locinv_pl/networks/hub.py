"""Models of transformers from a folder, the hub's cache or the hub, and what is wrong with them in one line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from locinv_pl.errors import InputError

Read = TypeVar("Read")
MOST_MISSING = 0.1  # share of a network's weights that a download may lack, after a library's renamings


class Loaded(NamedTuple):
    """A network, frozen, with what prepares its inputs and reads its outputs.

    Args:
        network: of transformers, in fp32 and in evaluation mode.
        processor: of transformers.
    """

    network: Any
    processor: Any


def weights_type(key: str, dtype: torch.dtype | str) -> torch.dtype:
    """The type of a network's weights.

    Args:
        key: names it in the error, as in "model.dtype".
        dtype: itself or its name.

    Raises:
        InputError: it isn't one of floating-point numbers.

    >>> weights_type("model.dtype", "bfloat16")
    torch.bfloat16
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise InputError(f"{key}={dtype}: no such weights; use float32, bfloat16 or float16")
    return found


def load_pretrained(key: str, name: str, network: Any, processor: Any) -> Loaded:
    """Load a network in fp32 and its processor.

    Args:
        key: names the model in errors, as in "measures.vit=NAME".
        name: a folder or a hub id.
        network: transformers' class of the network, such as CLIPModel.
        processor: transformers' class of what prepares its inputs, such as CLIPProcessor.

    Raises:
        InputError: the folder is missing, incomplete, damaged or of another kind, or the hub has no such model.
    """
    return from_disk_or_hub(key, name, partial(_read_model, key, network, processor))


def model_kind(key: str, name: str) -> str:
    """What a model's configuration says it is, in transformers' terms, such as "sam2"; its weights aren't read.

    Weights of a video model hold those of its image model: "sam2_video" is of kind "sam2".

    Args:
        key: names the model in errors, as in "models.segmenter=NAME".
        name: a folder or a hub id.

    Raises:
        InputError: the folder is missing or has no configuration that can be read, or the hub has no such model.
    """
    return from_disk_or_hub(key, name, _read_kind)


def ask_hub(key: str, name: str) -> None:
    """Whether the hub has a model, asked without the loaders' minute of retries.

    Args:
        key: names the model in the error, as in "backbone=NAME".
        name: the hub id.

    Raises:
        InputError: it has none of that name, or can't be reached.
    """
    from huggingface_hub import model_info
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        model_info(name, timeout=10)
    except (GatedRepoError, RepositoryNotFoundError, ValueError):
        raise InputError(
            f"{key}: no such folder, and the hub has no such model, or not without a login; check the name"
        ) from None
    except Exception:  # every way that a network connection fails
        raise InputError(
            f"{key}: no such folder, not in the hub's cache, and the hub can't be reached; "
            f"download the model and give its folder, or try again with a network connection"
        ) from None


def from_disk_or_hub(key: str, name: str, read: Callable[[str, bool], Read]) -> Read:
    """What ``read`` makes of a model's folder or hub id.

    Args:
        key: names the model in errors, as in "measures.vit=NAME".
        name: the folder or the hub id.
        read: called with the folder or hub id, and whether the network is forbidden.

    Raises:
        InputError: the folder is missing, or what it holds can't be read, or the hub has no such model.
    """
    folder = Path(name).expanduser()
    where = str(folder)
    if not folder.is_dir() and (folder.exists() or folder.is_absolute() or name[:1] == "." or where.count("/") > 1):
        raise InputError(f"{key}: no such folder; download the model and give its folder, or give a hub id")
    try:
        if folder.is_dir():
            return read(where, True)
        with suppress(OSError):  # a model in the hub's cache needs no network connection
            return read(where, True)
        ask_hub(key, where)
        return read(where, False)
    except InputError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds for one damaged download
        raise InputError(
            f"{key}: can't be loaded ({reason(error)}); download it again, whole, or give another folder or hub id"
        ) from error


def _read_kind(where: str, local_files_only: bool) -> str:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(where, local_files_only=local_files_only).model_type.removesuffix("_video")


def _read_model(key: str, network: Any, processor: Any, where: str, local_files_only: bool) -> Loaded:
    """Load a model, and check what transformers would make up: a network of another kind, weights, a vocabulary.

    Images are prepared with Pillow, also where torchvision is installed: it rounds otherwise.
    """
    there, wanted = _read_kind(where, local_files_only), network.config_class.model_type
    if there != wanted:
        raise InputError(f"{key}: is a model of kind {there}; give one of kind {wanted}")
    net, report = network.from_pretrained(
        where, local_files_only=local_files_only, dtype=torch.float32, output_loading_info=True
    )
    if len(report["missing_keys"]) > MOST_MISSING * len(net.state_dict()):
        raise InputError(f"{key}: lacks the weights of a {network.__name__}; download it again, whole, or give another")
    tools = processor.from_pretrained(where, local_files_only=local_files_only, backend="pil")
    tokenizer = getattr(tools, "tokenizer", None)
    if tokenizer is not None and len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(f"{key}: has no vocabulary; download the model again, whole")
    return Loaded(net.requires_grad_(False).eval(), tools)


def reason(error: Exception) -> str:
    """The first line of what a library complains of; the exception's name where it says nothing.

    >>> reason(ValueError())
    'ValueError'

    Args:
        error: that the library raised.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
