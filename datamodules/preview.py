"""A sample drawn: the image as the model sees it, its prompt, and every noun's prior."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from locinv_pl.drawing import COLORS, outline, overlay, to_array, to_png
from locinv_pl.io.files import write_atomically
from locinv_pl.types import EditSample

TILE = 256  # pixels, height of the drawn images
LINE = 20  # pixels, height of a line of text


def draw_sample(sample: EditSample) -> Image.Image:
    """One strip: the image, the image with outlines, each noun's prior over it; prompt and edits above."""
    tiles = {f"{sample.image.shape[-1]}x{sample.image.shape[-2]}": to_array(sample.image)}
    tiles["priors"] = outline(sample.image, [noun.prior for noun in sample.nouns], side=2 * TILE)
    for noun in sample.nouns:
        adjectives = [adjective.word for adjective in sample.adjectives if sample.nouns[adjective.noun] is noun]
        tiles[f"{' '.join([*adjectives, noun.word])}: {noun.prior.mean():.1%}"] = overlay(sample.image, noun.prior)
    if sample.region is not None:
        tiles[f"edit region: {sample.region.float().mean():.1%}"] = overlay(sample.image, sample.region.float())
    texts = [f"{sample.id}: {sample.prompt}", *(f"{edit.kind}: {edit.prompt}" for edit in sample.edits)]
    width = max(1, round(TILE * sample.image.shape[-1] / sample.image.shape[-2]))
    font = ImageFont.load_default(13)
    lines = max(font.getlength(text) for text in texts)
    page = Image.new(
        "RGB", (max(len(tiles) * (width + 4), int(lines) + 8), TILE + LINE * (len(texts) + 1) + 6), "white"
    )
    draw = ImageDraw.Draw(page)
    for n, text in enumerate(texts):
        draw.text((4, n * LINE + 2), text, fill="black" if n == 0 else "#666666", font=font)
    for n, (title, array) in enumerate(tiles.items()):
        color = COLORS[(n - 2) % len(COLORS)] if 2 <= n < 2 + len(sample.nouns) else "#444444"
        left, top = n * (width + 4), len(texts) * LINE
        draw.text((left + 4, top + 2), _clipped(title, width, font), fill=color, font=font)
        page.paste(Image.fromarray(array).resize((width, TILE)), (left, top + LINE))
    return page


def write_preview(sample: EditSample, folder: Path) -> Image.Image:
    """Write ``<id>.png``, the drawing, and ``<id>.<noun>.png``, each prior in grey at the image's size.

    A noun that stands in the prompt again is numbered: ``<id>.cat-2.png``. Returns the drawing.
    """
    drawing = draw_sample(sample)
    write_atomically(folder / f"{_name(sample.id)}.png", to_png(drawing))
    words = [noun.word for noun in sample.nouns]
    for k, noun in enumerate(sample.nouns):
        again = words[:k].count(noun.word)
        name = f"{_name(sample.id)}.{_name(noun.word)}{f'-{again + 1}' if again else ''}.png"
        grey = Image.fromarray((noun.prior.clamp(0, 1).numpy() * 255).round().astype(np.uint8))
        write_atomically(folder / name, to_png(grey))
    return drawing


def _name(text: str) -> str:
    """A word as part of a file's name."""
    return quote(text, safe=" ")


def _clipped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while text and font.getlength(text) > width - 8:
        text = text[:-1]
    return text
