"""The command that starts the page."""

from __future__ import annotations

from pathlib import Path

from locinv_pl.errors import InputError, tell


def app(
    backbone: str = "embedded",
    device: str = "cpu",
    dtype: str = "float32",
    port: int = 7860,
    host: str = "127.0.0.1",
    auth: str | None = None,
    cache: Path | None = None,
    browser: bool = False,
    method: str = "locinv_direct",
    steps: int = 0,
) -> None:
    """Open a page in the browser: one photograph, inverted and edited by its words.

    Args:
        backbone: "embedded", a folder in diffusers' layout, or a hub id, as for a run.
        device: the device to compute on, as torch names it: cpu, cuda, cuda:1.
        dtype: type of the weights: float32, bfloat16, float16.
        port: where the page is served.
        host: the address that it is served at; another than this machine's own needs auth.
        auth: NAME:PASSWORD, asked of everyone who opens the page.
        cache: the folder in which photographs, inversions and edits are kept; by default one that goes with the page.
        browser: whether a browser is opened with it.
        method: the preset that the page begins with.
        steps: the number of steps that the page begins with; 0 for the method's own.

    Raises:
        InputError: Gradio isn't installed, there is no such model or method, the port is taken, or others could come
            in without auth.
    """
    from locinv_pl.app import build
    from locinv_pl.method.policies import load_method
    from locinv_pl.networks.backbone import load_backbone

    name, colon, password = (auth or "").partition(":")
    if auth is not None and not (name and colon and password):
        raise InputError("app: auth is not NAME:PASSWORD; give both")
    load_method(method)
    page = build(load_backbone(backbone, dtype, device), cache, method=method, steps=steps)
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            auth=(name, password) if auth else None,
            inbrowser=browser,
            prevent_thread_lock=True,
        )
    except OSError:
        raise InputError(f"app: port {port} is taken, or host {host} is not this machine's; give another") from None
    tell(f"the page is at {url}; Ctrl+C ends it")
    page.block_thread()
