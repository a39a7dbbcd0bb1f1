"""All edits of a run on one static page, which needs nothing but itself and a browser."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape as escape_html
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field
from typing_extensions import TypedDict

from locinv_pl.drawing import COLORS, difference, to_jpeg, to_png
from locinv_pl.errors import InputError, all_of
from locinv_pl.io.files import read_image, read_json, write_atomically
from locinv_pl.measures.display import MEASURES
from locinv_pl.run.edits import EditedImage, EditRow, edited_images
from locinv_pl.run.store import RunFolder
from locinv_pl.words.alignment import common_words

MAPS = "maps"  # folder of an image's edits, see locinv_pl.callbacks.edits.save_maps
LARGE = 48_000  # bytes; larger images go into the report as JPEG
SIDES = ((100, 512), (400, 384))  # up to so many images, they have so many pixels at most
SMALLEST = 256  # where there are more

Json = dict[str, Any]


class _NounMaps(TypedDict):
    word: str
    ddim: Annotated[list[float], Field(min_length=1)]
    inversion: Annotated[list[float], Field(min_length=1)]


class Maps(TypedDict):
    """The content of maps.json."""

    num_steps: int
    steps: list[int]
    nouns: list[_NounMaps]


def escape(text: str) -> str:
    """A text as HTML; what HTML can't hold is replaced."""
    return escape_html(re.sub("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text))


def open_image(path: Path) -> Image.Image:
    """An image of a run, in RGB.

    Raises:
        InputError: it is missing or damaged.
    """
    return read_image(path, "run predict again")


def write_report(run: RunFolder) -> Path:
    """Write ``report.html`` from the files of the run alone.

    Every image is inside the page as a data URI, and a policy in its head lets browsers load nothing else.

    Raises:
        InputError: the folder is no run, or one of its files is damaged.
    """
    settings, edited = run.settings, edited_images(run)
    scores = {score["id"]: score for score in run.scores()}
    side = next((side for most, side in SIDES if len(edited) <= most), SMALLEST)
    common, varying = _split([edit["settings"] for row in edited for edit in row["edits"]])
    images, problems = [], []
    for n, row in enumerate(edited):
        shown = _Image(run, row, scores.get(row["id"], {}), f"p{n}", side, settings["method"]["name"], varying)
        try:
            images.append(shown.html())
        except InputError as problem:
            problems.append(str(problem))
    if problems:
        raise InputError(all_of(problems))
    path = run.place("report.html")
    write_atomically(path, _page(_header(settings, edited, common), images).encode())
    return path


def marked(source: str, target: str) -> str:
    """The target prompt as HTML, with new words marked, and before them the source's words that are gone."""
    mine, yours = (list(re.finditer(r"\w+", prompt)) for prompt in (source, target))
    pairs = common_words([word[0].lower() for word in mine], [word[0].lower() for word in yours])
    html, at, i, j = "", 0, 0, 0
    for m, n in [*pairs, (len(mine), len(yours))]:
        place = yours[j].start() if j < len(yours) else len(target)
        html += escape(target[at:place])
        if i < m:
            gap = " " if place == len(target) else ""
            html += f"{gap}<del>{escape(source[mine[i].start() : mine[m - 1].end()])}</del> "
        at = yours[n - 1].end() if j < n else place
        html += f"<mark>{escape(target[place:at])}</mark>" if j < n else ""
        i, j = m + 1, n + 1
    return html + escape(target[at:])


@dataclass(frozen=True)
class _Image:
    """One image's part of the page.

    Args:
        run: where its files are.
        edited: the content of its edits.json.
        scores: of its inversion, as far as they are known.
        key: starts the ids of its elements.
        side: pixels that an image has at most.
        method: what made its maps.
        varying: the edit settings that aren't the same for all edits of the run.
    """

    run: RunFolder
    edited: EditedImage
    scores: Json
    key: str
    side: int
    method: str
    varying: Sequence[str]

    def html(self) -> str:
        """The whole of it."""
        id, prompt, edits = self.edited["id"], self.edited["prompt"], self.edited["edits"]
        find = escape("\n".join([id, prompt, *(edit["prompt"] for edit in edits)]))
        cards = [self._source(), *(self._edit(edit) for edit in edits)]
        width, height = self._images["source.png"].size
        return f"""<article data-find="{find}" style="--ratio:{width}/{height}">
<h2 dir="auto">{escape(prompt)}</h2><p class="id">{escape(id)}</p>
<div class="body">
<div class="cards">
{"".join(cards)}</div>
{self._maps()}</div>
</article>"""

    def _source(self) -> str:
        source = _img(self._data("source.png"), "source", id=f"{self.key}-source")
        back = _img(self._data("reconstruction.png"), "reconstruction", id=f"{self.key}-back", of="after")
        psnr = self.scores.get("psnr")
        decibels = "" if psnr is None else MEASURES["psnr"].caption(psnr)
        return _card(
            _compare(source, back, ("source", "reconstruction"), "source and reconstruction", cut=92),
            self._difference("reconstruction.png", "source.png", "the reconstruction from the source"),
            f'<span class="kind">reconstruction</span><p>{decibels}</p>',
        )

    def _edit(self, edit: EditRow) -> str:
        prompt, name = edit["prompt"], edit["file"]
        before = _copy(f"{self.key}-source", "source", "of-source")
        before += _copy(f"{self.key}-back", "reconstruction", "of-back")
        after = _img(self._data(name), prompt, of="after")
        settings = " · ".join(f"{key} {_value(edit['settings'].get(key))}" for key in self.varying)
        return _card(
            _compare(before, after, ("", "edit"), f"before and after: {prompt}", cut=8),
            self._difference(name, "reconstruction.png", "the edit from the reconstruction"),
            f'<span class="kind">{escape(edit["kind"])}</span>'
            f'<p dir="auto">{marked(self.edited["prompt"], prompt)}</p><p class="id">{escape(settings)}</p>',
        )

    def _maps(self) -> str:
        path = self._path(MAPS, "maps.json")
        maps: Json = read_json(path, Maps) if path.exists() else {"nouns": []}
        if not maps["nouns"]:
            return ""
        texts = [f"mean of all {maps['num_steps']}", *(f"{step + 1} of {maps['num_steps']}" for step in maps["steps"])]
        nouns = "".join(self._noun(k, noun) for k, noun in enumerate(maps["nouns"]))
        return f"""<section class="maps" style="--count:{len(texts)}">
<h3>Where the words look</h3>
<label class="step">timestep<input type="range" class="pick" min="0" max="{len(texts) - 1}" value="0"
 autocomplete="off" data-texts="{escape(json.dumps(texts))}"><output>{escape(texts[0])}</output></label>
<div class="nouns">
{nouns}</div>
</section>
"""

    def _noun(self, k: int, noun: Json) -> str:
        panels = ""
        for name, label in (("ddim", "plain DDIM"), ("inversion", self.method)):
            path = self._path(MAPS, f"{k + 1}-{name}.jpg")
            open_image(path)
            strip = _img(_uri(path.read_bytes()), "", of="heat")
            mean = MEASURES["attention_iou"].caption(noun[name][0])
            panels += (
                f'<div class="panel"><div class="frame">{_copy(f"{self.key}-source", "", "under")}{strip}</div>'
                f'{escape(label)}<b data-ious="{escape(json.dumps(noun[name]))}">IoU {mean}</b></div>'
            )
        color = COLORS[k % len(COLORS)]
        return f"""<figure><figcaption style="--color:{color}">{escape(noun["word"])}</figcaption>
<div class="pair">{panels}</div></figure>
"""

    def _data(self, name: str) -> str:
        """An image as a data URI: the file as it is, or a JPEG of ``side`` pixels where that is large."""
        image, content = self._images[name], self._path(name).read_bytes()
        return _uri(content if len(content) <= LARGE else to_jpeg(_within(image, self.side)))

    def _difference(self, one: str, other: str, what: str) -> str:
        apart = difference(np.asarray(self._images[one]), np.asarray(self._images[other]))
        grey = _within(Image.fromarray(apart).convert("L"), self.side // 2)
        uri = _uri(to_jpeg(grey) if max(grey.size) > 128 else to_png(grey))
        return f'<div class="difference">{_img(uri, f"difference × 4 of {what}")}difference × 4</div>'

    @cached_property
    def _images(self) -> dict[str, Image.Image]:
        names = ["source.png", "reconstruction.png", *(edit["file"] for edit in self.edited["edits"])]
        return {name: open_image(self._path(name)) for name in names}

    def _path(self, *names: str) -> Path:
        return self.run.edits_path(self.edited["id"], *names)


def _within(image: Image.Image, side: int) -> Image.Image:
    """The image, of ``side`` pixels at most."""
    small = image.copy()
    small.thumbnail((side, side))
    return small


def _uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _img(uri: str, text: str, id: str = "", of: str = "") -> str:
    names = "".join(f' {key}="{value}"' for key, value in (("id", id), ("class", of)) if value)
    return f'<img{names} loading="lazy" decoding="async" alt="{escape(text)}" src="{uri}">'


def _copy(id: str, text: str, of: str) -> str:
    """Another element's image again; the script puts it there."""
    return f'<img class="{of}" loading="lazy" decoding="async" alt="{escape(text)}" data-copy="{id}">'


def _compare(before: str, after: str, names: tuple[str, str], label: str, cut: int) -> str:
    """Two images over each other, and a slider that says where one ends and the other begins, in percent."""
    return (
        f'<div class="compare" style="--cut:{cut}%">{before}{after}'
        f'<span class="tag left">{names[0]}</span><span class="tag right">{names[1]}</span>'
        f'<input class="cut" type="range" min="0" max="100" value="{cut}" autocomplete="off"'
        f' aria-label="{escape(label)}"><span class="bar"></span></div>'
    )


def _card(compare: str, difference: str, text: str) -> str:
    return f'<div class="card">{compare}<div class="about">{difference}<div>{text}</div></div></div>\n'


def _split(settings: Sequence[Json]) -> tuple[Json, list[str]]:
    """What all edits' settings have in common, and the keys in which they differ."""
    keys = list(dict.fromkeys(key for one in settings for key in one))
    varying = [key for key in keys if any(one.get(key) != settings[0].get(key) for one in settings)]
    return {key: settings[0][key] for key in keys if key not in varying}, varying


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _header(settings: Mapping[str, Any], edited: Sequence[EditedImage], common: Json) -> str:
    count = sum(len(row["edits"]) for row in edited)
    facts = {
        "method": settings["method"]["name"],
        "prior": settings["data"].get("prior"),
        "steps": settings["num_steps"],
        "backbone": settings["backbone"],
        "pictures": len(edited),
        "edits": count,
    }
    shown = "".join(
        f"<div><dt>{key}</dt><dd>{escape(str(value))}</dd></div>" for key, value in facts.items() if value is not None
    )
    tables = {"Settings of the edits": common, "Settings of the run": settings}
    details = "".join(
        f"<details><summary>{name}</summary><pre>{escape(json.dumps(table, indent=1))}</pre></details>"
        for name, table in tables.items()
    )
    return f"""<header>
<h1>Edited images</h1>
<dl>{shown}</dl>
{details}</header>
<nav>
<input type="search" id="filter" placeholder="filter by words of a prompt" aria-label="filter by words of a prompt"
 autocomplete="off">
<output id="found">{len(edited)} of {len(edited)}</output>
<fieldset><legend>before</legend>
<label><input type="radio" name="before" value="back" checked autocomplete="off">reconstruction</label>
<label><input type="radio" name="before" value="source" autocomplete="off">source</label>
</fieldset>
</nav>"""


def _page(header: str, images: Sequence[str]) -> str:
    script = b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    body = "\n".join(images) or '<p class="id">No image of this run has been edited yet.</p>'
    return f"""<!DOCTYPE html>
<html lang="en" data-before="back">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Edited images</title>
<style>{STYLE}</style>
</head>
<body>
{header}
<main>
{body}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f5f2; --card: #fff; --text: #1c1c1a; --faint: #6d6d67; --line: #e0e0da; --accent: #2e6f95;
  --new: #d7f0c8; --gone: #b3412a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #141413; --card: #1f1f1d; --text: #ecece6; --faint: #9c9c94; --line: #34342f; --accent: #7fbfe0;
    --new: #2f5a24; --gone: #ee9a86;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 90rem; padding: 0 clamp(.75rem, 3vw, 2rem) 4rem;
  background: var(--page); color: var(--text); font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { margin: 1.5rem 0 .5rem; font-size: 1.6rem; letter-spacing: -.01em; }
h2 { margin: 0; font-size: 1.15rem; }
h3 { margin: 0; font-size: .95rem; }
p { margin: .15rem 0; }
dl { display: flex; flex-wrap: wrap; gap: .25rem 1.75rem; margin: 0 0 .75rem; }
dt, .id, legend { color: var(--faint); font-size: .8rem; }
dd { margin: 0; font-weight: 600; }
summary { cursor: pointer; color: var(--faint); font-size: .85rem; }
pre {
  margin: .5rem 0; padding: .75rem; border-radius: .5rem; background: var(--card); font-size: .75rem; overflow: auto;
}
nav {
  position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; align-items: center; gap: .35rem 1rem;
  margin: .75rem 0 1rem; padding: .6rem 0; background: var(--page); border-bottom: 1px solid var(--line);
  font-size: .9rem;
}
nav input[type=search] {
  flex: 1 1 12rem; max-width: 24rem; min-width: 0; padding: .4rem .7rem; border: 1px solid var(--line);
  border-radius: .5rem; background: var(--card); color: inherit; font: inherit;
}
#found { color: var(--faint); font-variant-numeric: tabular-nums; }
fieldset { display: flex; flex-wrap: wrap; gap: .25rem .75rem; margin: 0; padding: 0; border: 0; }
legend { float: left; padding: 0 .75rem 0 0; font-size: inherit; }
nav label { cursor: pointer; }
input { accent-color: var(--accent); }
article {
  margin: 0 0 1.5rem; padding: clamp(.75rem, 2vw, 1.25rem); border: 1px solid var(--line); border-radius: .9rem;
  background: var(--card); content-visibility: auto; contain-intrinsic-size: auto 40rem;
}
article[hidden] { display: none; }
.body, .cards, .nouns { display: flex; flex-wrap: wrap; gap: 1rem 1.25rem; }
.body { margin-top: .75rem; align-items: flex-start; }
.card { width: 17rem; }
.maps { flex: 1 1 19.5rem; padding: .75rem 1rem 1rem; border-radius: .6rem; background: var(--page); }
figure { width: 17.5rem; margin: 0; }
@media (max-width: 40rem) { .card, figure { width: 100%; } }
img { display: block; }
.compare { position: relative; aspect-ratio: var(--ratio); border-radius: .5rem; overflow: hidden; background: #0003; }
.compare img { position: absolute; inset: 0; width: 100%; height: 100%; }
.compare .after { clip-path: inset(0 0 0 var(--cut)); }
[data-before=source] .of-back, [data-before=back] .of-source { visibility: hidden; }
.tag {
  position: absolute; z-index: 1; top: .5rem; padding: .05rem .5rem; border-radius: 1rem; background: #000a;
  color: #fff; font-size: .72rem; pointer-events: none;
}
.tag.left { left: .5rem; }
.tag.right { right: .5rem; }
[data-before=source] .tag.left:empty::after { content: "source"; }
[data-before=back] .tag.left:empty::after { content: "reconstruction"; }
.cut {
  position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize;
  touch-action: pan-y; appearance: none;
}
.cut::-webkit-slider-thumb { appearance: none; width: 1px; height: 100%; }
.cut::-moz-range-thumb { width: 1px; height: 100%; border: 0; }
.bar {
  position: absolute; inset: 0 auto 0 var(--cut); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 3px #0009; pointer-events: none;
}
.bar::after {
  content: "\\2039\\a0\\203a"; position: absolute; top: 50%; left: 50%; translate: -50% -50%; width: 2rem; height: 2rem;
  border-radius: 50%; background: #fff; color: #222; font: 600 1rem/1.8rem system-ui, sans-serif; text-align: center;
  box-shadow: 0 0 4px #0009;
}
.cut:focus-visible + .bar::after { outline: 3px solid var(--accent); outline-offset: 2px; }
.about { display: grid; grid-template-columns: 6rem 1fr; gap: .75rem; margin-top: .5rem; align-items: start; }
.difference, .kind { color: var(--faint); font-size: .8rem; }
.difference img { width: 100%; border-radius: .35rem; background: #000; }
mark { padding: 0 .2em; border-radius: .25em; background: var(--new); color: inherit; }
del { color: var(--gone); text-decoration-thickness: 1px; }
.step {
  display: grid; grid-template-columns: auto minmax(6rem, 22rem) auto; justify-content: start; align-items: center;
  gap: .75rem; margin: .35rem 0 .75rem; color: var(--faint); font-size: .85rem;
}
.step input { width: 100%; }
.step output { min-width: 8.5em; color: var(--text); font-variant-numeric: tabular-nums; }
figcaption { margin-bottom: .3rem; font-size: .9rem; font-weight: 600; }
figcaption::before {
  content: ""; display: inline-block; width: .7em; height: .7em; margin-right: .45em; border-radius: 50%;
  background: var(--color);
}
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; }
.panel { color: var(--faint); font-size: .8rem; }
.panel b { float: right; color: var(--text); font-variant-numeric: tabular-nums; }
.frame {
  position: relative; aspect-ratio: var(--ratio); margin-bottom: .2rem; border-radius: .5rem; overflow: hidden;
  background: #000;
}
.under { width: 100%; height: 100%; filter: grayscale(1); }
.heat {
  position: absolute; inset: 0 auto auto 0; width: 100%; height: calc(100% * var(--count)); opacity: .7;
  transform: translateY(calc(-100% * var(--at, 0) / var(--count)));
}
"""

SCRIPT = """
"use strict";
const page = document.documentElement, found = document.getElementById("found");
const articles = [...document.querySelectorAll("article")];
for (const img of document.querySelectorAll("[data-copy]")) img.src = document.getElementById(img.dataset.copy).src;

function pickStep(input) {
  const maps = input.closest(".maps"), at = Number(input.value);
  const text = JSON.parse(input.dataset.texts)[at];
  maps.style.setProperty("--at", at);
  maps.querySelector("output").textContent = text;
  input.setAttribute("aria-valuetext", text);
  for (const b of maps.querySelectorAll("[data-ious]")) {
    b.textContent = "IoU " + JSON.parse(b.dataset.ious)[at].toFixed(2);
  }
}

function filterBy(text) {
  const words = text.toLowerCase().split(/\\s+/);
  for (const article of articles) {
    const said = article.dataset.find.toLowerCase();
    article.hidden = !words.every((word) => said.includes(word));
  }
  found.textContent = articles.filter((article) => !article.hidden).length + " of " + articles.length;
}

document.addEventListener("input", ({ target }) => {
  if (target.matches(".cut")) target.parentElement.style.setProperty("--cut", target.value + "%");
  else if (target.matches(".pick")) pickStep(target);
  else if (target.name === "before") page.dataset.before = target.value;
  else if (target.id === "filter") filterBy(target.value);
});
"""
