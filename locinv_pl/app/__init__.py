"""A page for the browser: one photograph is inverted and edited by its words, with boxes and brush.

``locinv app`` starts it. Gradio, which it needs, is imported by :func:`build` and by nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from locinv_pl.errors import InputError

if TYPE_CHECKING:
    from locinv_pl.networks.backbone import Backbone


def build(backbone: Backbone, cache: str | Path | None = None, **options: Any) -> Any:
    """The page as Gradio's Blocks, for a notebook: ``build(load_backbone("embedded")).launch()``.

    Args:
        backbone: the frozen networks; the page's one worker thread owns them from now on.
        cache: the folder for photographs, inversions and edits; one of this process, which goes with it, by default.
        options: further ones of :class:`~locinv_pl.app.page.Page`.

    Raises:
        InputError: Gradio isn't installed.
    """
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise InputError('app: Gradio is not installed; pip install "locinv_pl[app]" brings it') from None
    from locinv_pl.app.page import Page

    return Page(backbone, cache, **options).build()
