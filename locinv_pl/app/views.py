"""What the page shows, as HTML: every text from outside is escaped, images are data URLs, so that none is a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from locinv_pl.app.places import data_url
from locinv_pl.app.suggestions import PALETTE, Suggestion, changes
from locinv_pl.drawing import overlay
from locinv_pl.editing.settings import as_word, changed

SMALL = 192  # pixels of a map's or a thumbnail's longer side
PHASES = {"invert": "finding the noise", "optimize": "moving the words to their places", "edit": "editing"}


def said(text: str, kind: str = "note") -> str:
    """A line of text: a "note", an "error", or "good" news."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="said {kind}" role="{role}">{escape(text)}</p>' if text else ""


def progress(phase: str, step: int, total: int, left: float | None) -> str:
    """A bar and a line: what is done, how far, and the seconds that are left."""
    name = PHASES.get(phase, phase)
    rest = "" if left is None else f" · {_span(left)} left"
    return (
        f'<progress value="{step}" max="{total}" aria-label="{escape(name)}"></progress>'
        f'<p class="said note">{escape(name)} <b class="count">{step}/{total}</b>{rest}</p>'
    )


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 100 else f"{max(1, round(seconds))} s"


def picture(image: Image.Image, side: int = 1024) -> str:
    """An image to look at closely: as it is where it is small, else as JPEG."""
    if max(image.size) <= 256:
        return data_url(image)
    small = image.copy()
    small.thumbnail((side, side))
    return data_url(small, "jpeg", quality=90)


def thumbnail(image: Image.Image, side: int = SMALL) -> str:
    """A small copy of an image, as JPEG."""
    small = image.convert("RGB")
    if max(small.size) > side:
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return data_url(small, "jpeg", quality=88)


def figure(source: str, caption: str) -> str:
    """An image with a caption."""
    text = escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def maps(image: Tensor, planes: Tensor | None, words: Sequence[str]) -> str:
    """Attention maps (K, r, c) over an image (3, H, W), one for each of K words."""
    if planes is None or not len(planes):
        return ""
    stride = max(1, max(image.shape[-2:]) // SMALL)
    small = image[:, ::stride, ::stride]
    drawn = [thumbnail(Image.fromarray(overlay(small, plane.float().cpu()))) for plane in planes]
    return f'<div class="tiles">{"".join(figure(*pair) for pair in zip(drawn, words, strict=False))}</div>'


def diff(source: str, target: str) -> str:
    """The target prompt with its new words marked, and the source's words that are gone struck out."""
    if not source or not target:
        return ""
    tags = {"same": "span", "new": "mark", "gone": "del"}
    pieces = [f"<{tags[kind]}>{escape(text)}</{tags[kind]}>" for kind, text in changes(source, target)]
    return f'<p class="diff">{" ".join(pieces)}</p>'


def explained(source: str, target: str, settings: Mapping[str, Any], is_masked: bool) -> str:
    """What an edit was made of: its words, its settings, those that differ from the defaults first, and its mask.

    Args:
        source: the source prompt.
        target: the target prompt.
        settings: of the edit, as plain values.
        is_masked: whether a mask said where it may change the image.
    """
    differs = changed(settings)
    rows = [(name, settings[name], name in differs) for name in [*differs, *(settings.keys() - differs.keys())]]
    told = "".join(
        f"<tr{' class=changed' if is_changed else ''}><th scope=row>{escape(name)}</th>"
        f"<td>{escape(as_word(value))}{' · not the default' if is_changed else ''}</td></tr>"
        for name, value, is_changed in sorted(rows, key=lambda row: (not row[2], row[0]))
    )
    where = "the bright part under <i>Difference</i> alone" if is_masked else "all of the image: no mask held it back"
    return f'{diff(source, target)}<p class="said note">It could change {where}.</p><table>{told}</table>'


def chips(suggestions: Iterable[Suggestion]) -> str:
    """Suggestions as buttons, a row for each noun."""
    rows = []
    for noun, mine in groupby(suggestions, key=lambda suggestion: suggestion.noun):
        buttons = []
        for one in mine:
            style, text = f'class="chip {one.kind}"', one.label
            if one.kind == "colour":
                style, text = (
                    f'class="dot" style="--dot: {PALETTE[one.label]}" aria-label="{one.label} {escape(noun)}"',
                    "",
                )
            elif one.kind == "swap":
                text = f"→ {one.label}"
            elif one.kind == "add":
                text = f"+ {one.label}"
            buttons.append(
                f'<button type="button" {style} title="{escape(one.prompt)}" data-value="{escape(one.prompt)}">'
                f"{escape(text)}</button>"
            )
        rows.append(f'<div class="chips"><b>{escape(noun or "add")}</b>{"".join(buttons)}</div>')
    return "".join(rows)


def compare(before: str, after: str, caption: str) -> str:
    """Two images over each other, with a slider between them."""
    return (
        f'<div class="compare"><img src="{before}" alt="before"><img class="after" src="{after}" alt="after: '
        f'{escape(caption)}"><i></i><span>before</span><span>after</span>'
        '<input type="range" min="0" max="100" step="1" value="50" aria-label="from before to after"></div>'
    )


def choices(images: Sequence[str], captions: Sequence[str], chosen: int | None = None) -> str:
    """Images to choose one of, as buttons whose values are their numbers."""
    tiles = [
        f'<button type="button" class="tile" data-value="{n}" aria-pressed="{str(n == chosen).lower()}">'
        f"{figure(image, caption)}</button>"
        for n, (image, caption) in enumerate(zip(images, captions, strict=True))
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def mask_over(image: np.ndarray, mask: np.ndarray) -> Image.Image:
    """An image (H, W, 3) uint8 dimmed where a mask (H, W) is 0."""
    return Image.fromarray((image * (0.25 + 0.75 * (mask > 0.5))[..., None]).astype(np.uint8))
