"""The picture of docs/architecture.md: the package's rooms by level, and the way of an image through them.

``python docs/architecture.py`` writes docs/architecture.svg.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

# From the top: a room imports from lower levels only, and those of one level don't know each other.
LEVELS: tuple[dict[str, str], ...] = (
    {"cli": "words of the command line", "callbacks": "sheets, curves, report"},
    {
        "datamodules": "images, priors",
        "comparison": "methods side by side",
        "benchmark": "speed and memory",
        "pipeline": "for diffusers",
        "app": "the page",
        "pretrain": "the embedded model",
    },
    {"photo": "one photograph: opened, inverted once, edited"},
    {"run": "many images, over processes, kept in a folder"},
    {"measures": "maps, reconstructions and edits as numbers"},
    {"editing": "Prompt-to-Prompt, blending, other editors"},
    {"method": "one timestep: dynamic tokens, then null text"},
    {"grounding": "nouns, boxes and points to masks, by foundation models"},
    {"networks": "the frozen model: schedule, attention, speed"},
    {"words": "nouns, adjectives, tokens, alignment"},
    {"scenes": "drawn worlds", "io": "files, images, frames"},
    {"configs": "presets", "assets": "shipped weights"},
)
# Where an image comes by, in order: the room, and what happens to the image there.
WAY = (
    ("datamodules", "reads image, prompt and a prior for every noun"),
    ("run", "a process claims it, with others as a batch"),
    ("networks", "image to latent, prompt to context; DDIM inversion"),
    ("method", "T times: dynamic tokens, then the null text"),
    ("run", "writes each timestep, and the inversion at the end"),
    ("editing", "source and target prompt denoise together"),
    ("measures", "IoU, PSNR, SSIM, CLIP score of what came out"),
    ("callbacks", "contact sheet, curves and report are drawn"),
)
LEFT, TOP, WIDTH, HEIGHT, GAP = 20, 20, 660, 52, 16
BADGE, SIDE = "#b3402a", 700


def draw() -> str:
    """The picture as SVG."""
    numbers: dict[str, list[int]] = {}
    for number, (room, _) in enumerate(WAY, start=1):
        numbers.setdefault(room, []).append(number)
    parts = []
    for level, rooms in enumerate(LEVELS):
        width = (WIDTH - GAP * (len(rooms) - 1)) / len(rooms)
        for column, (room, text) in enumerate(rooms.items()):
            x, y = LEFT + column * (width + GAP), TOP + level * (HEIGHT + GAP)
            parts += box(x, y, width, room, text, numbers.get(room, []))
    for step, (room, text) in enumerate(WAY, start=1):
        y = TOP + 40 + step * 56
        parts += [badge(SIDE + 12, y, step), label(SIDE + 32, y - 3, room, 14, "bold")]
        parts += [label(SIDE + 32, y + 14, text, 12)]
    height = TOP + len(LEVELS) * (HEIGHT + GAP) + 4
    parts += [label(SIDE, TOP + 30, "The way of an image", 16, "bold")]
    parts += [label(SIDE, TOP + 52, "Rooms import from below alone.", 12)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1060 {height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="1060" height="{height}" fill="#ffffff"/>', *parts, "</svg>\n"])


def box(x: float, y: float, width: float, room: str, text: str, numbers: list[int]) -> list[str]:
    """A room: its name, what it does, and the steps of the way that lead there."""
    fill = "#fdece8" if numbers else "#eef2f5"
    frame = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{HEIGHT}" rx="6" fill="{fill}" stroke="#7a8791"/>'
    texts = [label(x + 12, y + 21, f"{room}/", 15, "bold"), label(x + 12, y + 40, text, 11)]
    return [frame, *texts, *(badge(x + width - 18 - 28 * n, y + 34, k) for n, k in enumerate(reversed(numbers)))]


def badge(x: float, y: float, number: int) -> str:
    """A numbered disc."""
    text = f'<text x="{x:g}" y="{y + 4.5:g}" font-size="13" fill="#ffffff" text-anchor="middle">{number}</text>'
    return f'<circle cx="{x:g}" cy="{y:g}" r="12" fill="{BADGE}"/>{text}'


def label(x: float, y: float, text: str, size: int, weight: str = "normal") -> str:
    """A line of text."""
    place = f'x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}"'
    return f'<text {place} fill="#1f2a33">{escape(text)}</text>'


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw())
