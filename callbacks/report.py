"""All edits of a run on one static page, which needs nothing but itself and a browser.

The page is the template ``templates/report.html.j2``, which escapes what it is given, with ``report.css`` and
``report.js`` inside it.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image
from pydantic import Field
from typing_extensions import TypedDict

from locinv_pl.callbacks.explanation import changed_words, edit_command, weights_of
from locinv_pl.drawing import COLORS, difference, to_jpeg, to_png
from locinv_pl.errors import InputError, all_of
from locinv_pl.io.files import read_image, read_json, write_atomically
from locinv_pl.measures.display import MEASURES
from locinv_pl.run.edit_files import CandidateRow, EditedImage, EditRow, edited_images, files_of
from locinv_pl.run.names import file_name
from locinv_pl.run.store import RunFolder
from locinv_pl.words.alignment import common_words

MAPS = "maps"  # folder of an image's edits, see locinv_pl.callbacks.edits.save_maps
TERMS = ("success", "clip_target", "background_mse", "structure_distance")  # measures behind a candidate's score
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


def holdable(text: Any) -> Any:
    r"""A text with U+FFFD in place of each character that HTML can't hold; anything else as it is.

    >>> ascii(holdable("a cat\x01"))
    "'a cat\\ufffd'"
    """
    if not isinstance(text, str) or isinstance(text, Markup):
        return text
    return re.sub("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def open_image(path: Path) -> Image.Image:
    """An image of a run, in RGB.

    Raises:
        InputError: it is missing or damaged.
    """
    return read_image(path, "run predict again")


def write_report(run: RunFolder, commands: Mapping[str, Sequence[str]] | None = None) -> Path:
    """Write ``report.html`` from the files of the run alone.

    Every image is inside the page as a data URI, and a policy in its head lets browsers load nothing else.

    Args:
        run: the folder of a run whose images have been edited.
        commands: by file of an edit, texts that say how it is made again; by default the command of ``locinv edit``.

    Returns:
        The report's path.

    Raises:
        InputError: the folder is no run, or some of its files are damaged; the error names all of them.
    """
    settings, edited = run.settings, edited_images(run)
    scores = {score["id"]: score for score in run.scores()}
    side = next((side for most, side in SIDES if len(edited) <= most), SMALLEST)
    common, varying = _split([edit["settings"] for row in edited for edit in row["edits"]])
    images, problems = [], []
    for n, row in enumerate(edited):
        score, method = scores.get(row["id"], {}), settings["method"]["name"]
        shown = _Image(run, row, score, f"p{n}", side, method, varying, commands or {})
        try:
            images.append(shown.content())
        except InputError as problem:
            problems.append(str(problem))
    if problems:
        raise InputError(all_of(problems))
    facts = {
        "method": settings["method"]["name"],
        "prior": settings["data"].get("prior"),
        "steps": settings["num_steps"],
        "backbone": settings["backbone"],
        "images": len(edited),
        "edits": sum(len(row["edits"]) for row in edited),
    }
    tables = {"Settings of the edits": common, "Settings of the run": settings}
    path = run.place("report.html")
    write_atomically(path, _page(facts=facts, tables=tables, images=images).encode())
    return path


def _page(**content: Any) -> str:
    """The template filled in; the policy in its head allows its own script, by the script's hash, and no other."""
    folder = files("locinv_pl.callbacks") / "templates"
    environment = Environment(
        autoescape=True, finalize=holdable, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters["json"] = json.dumps
    script = (folder / "report.js").read_text("utf-8")
    return environment.from_string((folder / "report.html.j2").read_text("utf-8")).render(
        style=Markup((folder / "report.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **content,
    )


def marked(source: str, target: str) -> Markup:
    """The target prompt as HTML: new words are marked, and the source's words that are gone stand struck out.

    Args:
        source: the prompt of the image.
        target: the prompt of the edit.

    >>> print(marked("a red cat", "a blue cat"))
    a <del>red</del> <mark>blue</mark> cat
    """
    source, target = holdable(source), holdable(target)
    mine, yours = (list(re.finditer(r"\w+", prompt)) for prompt in (source, target))
    pairs = common_words([word[0].lower() for word in mine], [word[0].lower() for word in yours])
    html, at, i, j = Markup(), 0, 0, 0
    for m, n in [*pairs, (len(mine), len(yours))]:
        place = yours[j].start() if j < len(yours) else len(target)
        html += target[at:place]
        if i < m:
            gap = " " if place == len(target) else ""
            html += Markup("{}<del>{}</del> ").format(gap, source[mine[i].start() : mine[m - 1].end()])
        at = yours[n - 1].end() if j < n else place
        html += Markup("<mark>{}</mark>").format(target[place:at]) if j < n else ""
        i, j = m + 1, n + 1
    return html + target[at:]


@dataclass(frozen=True)
class _Image:
    """One image's part of the page.

    Args:
        run: the folder with the image's files.
        edited: the content of its edits.json.
        scores: the scores of its inversion, as far as they are known.
        key: the start of the ids of its elements, as "p0"; unique on the page.
        side: width and height in pixels that a large image is reduced to.
        method: name of the method that made its maps.
        varying: keys of the edit settings that aren't the same for all edits of the run.
        commands: by file of an edit, how it is made again, where that isn't a command of ``locinv edit``.
    """

    run: RunFolder
    edited: EditedImage
    scores: Json
    key: str
    side: int
    method: str
    varying: Sequence[str]
    commands: Mapping[str, Sequence[str]]

    def content(self) -> Json:
        """What the template shows of the image."""
        id, prompt, edits = self.edited["id"], self.edited["prompt"], self.edited["edits"]
        width, height = self._images["source.png"].size
        psnr = self.scores.get("psnr")
        return {
            "id": id,
            "prompt": prompt,
            "find": "\n".join([id, prompt, *(edit["prompt"] for edit in edits)]),
            "key": self.key,
            "ratio": f"{width}/{height}",
            "source": self._data("source.png"),
            "reconstruction": self._data("reconstruction.png"),
            "difference": self._difference("reconstruction.png", "source.png"),
            "psnr": None if psnr is None else MEASURES["psnr"].caption(psnr),
            "edits": [self._edit(edit, f"{self.key}-e{n}") for n, edit in enumerate(edits)],
            **self._maps(),
        }

    def _edit(self, edit: EditRow, key: str) -> Json:
        command = edit_command(self.run.root, self.edited["id"], edit)
        return {
            "key": key,
            "prompt": edit["prompt"],
            "kind": edit["kind"],
            "marked": marked(self.edited["prompt"], edit["prompt"]),
            "settings": " · ".join(f"{key} {_value(edit['settings'].get(key))}" for key in self.varying),
            "image": self._data(edit["file"]),
            "difference": self._difference(edit["file"], "reconstruction.png"),
            "candidates": [self._candidate(candidate) for candidate in edit.get("candidates", ())],
            "mask": self._mask(edit["mask"]) if "mask" in edit else None,
            "photo": f"edits/{file_name(self.edited['id'])}/{edit['photo']}" if "photo" in edit else None,
            "changed": changed_words(self.edited["prompt"], edit["prompt"]),
            "weights": [(word, f"{factor:g}") for word, _, _, factor in weights_of(edit)],
            "all_settings": edit["settings"],
            "commands": self.commands.get(edit["file"], [] if command is None else [command]),
        }

    def _mask(self, name: str) -> Json:
        """The mask as a data URI, and the share of the image that it covers."""
        grey = self._images[name].convert("L")
        return {"image": _uri(to_png(grey)), "share": f"{np.asarray(grey).mean() / 255:.0%}"}

    def _candidate(self, candidate: CandidateRow) -> Json:
        """One strength of an edit; the kept one has the edit's image."""
        measured = {key: candidate.get(key) for key in TERMS}
        return {
            "kept": candidate["kept"],
            "image": None if candidate["kept"] else self._data(candidate["file"]),
            "strength": f"{candidate['strength']:g}",
            "score": f"{candidate['score']:.3f}",
            "terms": " · ".join(
                f"{MEASURES[key].title} {MEASURES[key].cell(value)}"
                for key, value in measured.items()
                if isinstance(value, (int, float))
            ),
        }

    def _maps(self) -> Json:
        path = self._path(MAPS, "maps.json")
        maps: Json = read_json(path, Maps) if path.exists() else {"nouns": []}
        if not maps["nouns"]:
            return {"nouns": []}
        count = maps["num_steps"]
        return {
            "steps": [f"mean of all {count}", *(f"{step + 1} of {count}" for step in maps["steps"])],
            "nouns": [self._noun(k, noun) for k, noun in enumerate(maps["nouns"])],
        }

    def _noun(self, k: int, noun: Json) -> Json:
        panels = []
        for name, label in (("ddim", "plain DDIM"), ("inversion", self.method)):
            path = self._path(MAPS, f"{k + 1}-{name}.jpg")
            open_image(path)
            iou = MEASURES["attention_iou"].caption(noun[name][0])
            panels.append({"maps": _uri(path.read_bytes()), "label": label, "iou": iou, "ious": noun[name]})
        return {"word": noun["word"], "color": COLORS[k % len(COLORS)], "panels": panels}

    def _data(self, name: str) -> str:
        """An image as a data URI: the file as it is, or a JPEG of ``side`` pixels where that is large."""
        image, content = self._images[name], self._path(name).read_bytes()
        return _uri(content if len(content) <= LARGE else to_jpeg(_within(image, self.side)))

    def _difference(self, one: str, other: str) -> str:
        """The difference × 4 of two images' files as a data URI."""
        apart = difference(np.asarray(self._images[one]), np.asarray(self._images[other]))
        grey = _within(Image.fromarray(apart).convert("L"), self.side // 2)
        return _uri(to_jpeg(grey) if max(grey.size) > 128 else to_png(grey))

    @cached_property
    def _images(self) -> dict[str, Image.Image]:
        made = [name for edit in self.edited["edits"] for name in files_of(edit) if name != edit.get("photo")]
        names = ["source.png", "reconstruction.png", *made]
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


def _split(settings: Sequence[Json]) -> tuple[Json, list[str]]:
    """What all edits' settings have in common, and the keys in which they differ."""
    keys = list(dict.fromkeys(key for one in settings for key in one))
    varying = [key for key in keys if any(one.get(key) != settings[0].get(key) for one in settings)]
    return {key: settings[0][key] for key in keys if key not in varying}, varying


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
