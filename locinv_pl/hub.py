"""Asking the model hub, once and clearly."""

from __future__ import annotations

from locinv_pl.errors import InputError


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
