"""The command that starts the page in the browser."""

from __future__ import annotations

from pathlib import Path

from locinv_pl.app import build
from locinv_pl.cli.photo import Finder, device_of
from locinv_pl.errors import InputError, check_choice, tell
from locinv_pl.grounding.models import FoundationModels
from locinv_pl.method.policies import load_method
from locinv_pl.networks.loading import load_backbone
from locinv_pl.networks.options import LoadOptions


def app(
    backbone: str = "embedded",
    device: str = "auto",
    dtype: str = "float32",
    model: LoadOptions = LoadOptions(),
    method: str = "locinv_direct",
    num_steps: int | None = None,
    resolution: int = 16,
    find: Finder | None = None,
    models: FoundationModels = FoundationModels(),
    cache: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: str | None = None,
    open: bool = False,
) -> None:
    """Open a page in the browser: one photograph, inverted and edited by its words, with boxes and brush.

    Args:
        backbone: "embedded", a folder in diffusers' layout, a checkpoint in one file, or a hub id.
        device: the device to compute on: auto, cpu, cuda, mps.
        dtype: of the weights: float32, bfloat16 or float16.
        model: what the model is loaded with, as in train.py: model.lora=FILE, model.layout=FOLDER.
        method: the method that the page begins with.
        num_steps: T that it begins with, denoising timesteps; the method's own by default.
        resolution: side of the attention grid in cells; Stable Diffusion XL has 32 at its own size, SD3 64.
        find: finds nouns, points' masks and a caption on request: grounded_sam or sam3.
        models: the models behind find; models.segmenter=NAME and so on.
        cache: the folder in which photographs, inversions and edits are kept; by default one that goes with the page.
        host: the address that the page is served at; another than this machine's own needs auth.
        port: where it is served.
        auth: NAME:PASSWORD, asked of everyone who opens the page.
        open: whether the browser shows it.

    Raises:
        InputError: Gradio isn't installed, there is no such model or method, the port is taken, or others could come
            in without auth.
    """
    name, colon, password = (auth or "").partition(":")
    if auth is not None and not (name and colon and password):
        raise InputError("app: auth is not NAME:PASSWORD; give both")
    load_method(method)
    if find is not None:
        check_choice("find", find, Finder)
        models = models.without_detector() if find == "sam3" else models
    page = build(
        load_backbone(backbone, dtype, device_of(device), **model.given),
        cache,
        method=method,
        steps=num_steps or 0,
        resolution=resolution,
        models=models if find else None,
    )
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            auth=(name, password) if auth else None,
            inbrowser=open,
            prevent_thread_lock=True,
        )
    except OSError:
        raise InputError(f"app: port {port} is taken, or host {host} is not this machine's; give another") from None
    tell(f"the page is at {url}; Ctrl+C ends it")
    page.block_thread()
