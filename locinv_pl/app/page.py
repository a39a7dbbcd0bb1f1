"""The page: its layout, and what its buttons do.

What a tab works on is a few keys and texts; images, inversions and edits lie in the :class:`Store`. Everything that
computes runs in the :class:`Worker`'s one thread, whose generators the handlers pass on.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import random
import re
import secrets
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import fields, replace
from html import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image
from torch import Tensor

from locinv_pl.api import OpenedImage, invert_sample, nouns
from locinv_pl.app import results, views
from locinv_pl.app.finding import Finder
from locinv_pl.app.places import REGION, Places, data_url, shrunk, url_of
from locinv_pl.app.server import Blocks
from locinv_pl.app.store import MEGABYTES, Store, key_of
from locinv_pl.app.suggestions import suggest
from locinv_pl.app.worker import Cancelled, Waiting, Worker
from locinv_pl.drawing import COLORS, difference, to_array
from locinv_pl.editing.prompt_to_prompt import iter_edit
from locinv_pl.editing.rows import as_edit
from locinv_pl.editing.settings import EditSettings, strengths
from locinv_pl.errors import InputError
from locinv_pl.grounding import FoundationModels
from locinv_pl.io.frames import Fit
from locinv_pl.method.policies import load_method
from locinv_pl.networks.backbone import Backbone
from locinv_pl.photo import Photo, open_photo
from locinv_pl.scenes.drawing import draw_scene
from locinv_pl.types import Inversion
from locinv_pl.words import tidy

HERE = Path(__file__).parent
METHODS = {
    "locinv_direct": "recommended for edits",
    "locinv_fast": "the same in eight steps",
    "locinv": "the paper's tokens and null text",
    "direct": "no tokens move",
    "nti": "null text alone",
    "ddim": "DDIM inversion alone",
}
STRENGTHS = ("gentle", "normal", "strong")
SIDE_BY_SIDE = "side by side"
SEEDS = (19, 14, 8, 23)  # of the drawn examples
MOST_HISTORY = 12
FREE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
LAST: dict[str, Any] = {**FREE, "trigger_mode": "always_last"}
DEVICE: dict[str, Any] = {**FREE, "concurrency_id": "device"}
CHOOSE = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-value]');
  if (!button) return;
  props.value = button.dataset.value;
  trigger('input');
});
"""
SLIDE = """
element.addEventListener('input', event => element.style.setProperty('--at', `${event.target.value}%`));
"""
NO_CHIPS = "They come with the first nouns of the prompt."
HELP = """
**Too little changes.** Take *strong*, or *side by side* and choose. Lower `self_replace_steps` (shapes) and
`cross_replace_steps` (places). Give the new word weight: `a (snowy:2) road`. For something larger than what was
there, lower `blend_growth`, or draw the *region of the edit*.

**Too much changes.** Take *gentle*. Give every noun a place, also those that are to stay: they are protected. Draw
boxes tightly, or brush. Keep all other words as they are. Set `blend` to `prior`, which allows changes in the changed
nouns' places alone.

**The object ends up elsewhere.** Look at *Maps*: the map of each noun should lie on it. If it doesn't, its place was
missing or wrong when the photograph was inverted.

**The photograph itself looks wrong before any edit.** More steps, or the method `locinv_direct`.
"""


class Asked(NamedTuple):
    """What the left side of the page asks for.

    Args:
        photo: the photograph's key; "" before there is one.
        prompt: the source prompt.
        nouns: of the prompt.
        places: what was drawn.
        fit: how the photograph is cut to the model's size.
        method: a preset's name.
        steps: T.
        opened: the photograph as the model sees it; None before there is one.
        priors: by noun (H, W), of those that have a place.
        key: of the inversion.
    """

    photo: str
    prompt: str
    nouns: tuple[str, ...]
    places: Places
    fit: Fit
    method: str
    steps: int
    opened: OpenedImage | None
    priors: Mapping[str, Tensor]
    key: str


class Page:
    """The page and its handlers.

    Args:
        backbone: the frozen networks.
        cache: the folder of the store; a temporary one by default.
        worker: computes; one of its own by default.
        models: what finds nouns, points' masks and a caption; None leaves their buttons off.
        steps: T that the page begins with; 0 for the method's own.
        method: the preset that the page begins with.
    """

    def __init__(
        self,
        backbone: Backbone,
        cache: str | Path | None = None,
        *,
        worker: Worker | None = None,
        models: FoundationModels | None = None,
        steps: int = 0,
        method: str = "locinv_direct",
    ):
        if cache is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="locinv-app-")
            cache = self._temporary.name
        self.store = Store(Path(cache), side=max(1024, 2 * backbone.image_size))
        self.backbone, self.worker = backbone, worker or Worker()
        self.finder = None if models is None else Finder(models)
        self.first: dict[str, Any] = {"steps": steps, "method": method}
        self.methods = list(dict.fromkeys([method, *METHODS]))
        self.scenes = [
            draw_scene(random.Random(seed), size=max(128, min(512, backbone.image_size)), num_objects=2)
            for seed in SEEDS
        ]

    # ---- layout

    def build(self) -> Blocks:
        """Gradio's Blocks, ready to be launched."""
        with Blocks(title="LocInv", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as blocks:
            self._layout()
            self._events(blocks)
        blocks.queue(max_size=64, default_concurrency_limit=None)
        return blocks

    def _layout(self) -> None:
        device = self.backbone.device
        gr.HTML(
            "<h1>LocInv</h1><p>Edit one photograph by its words; what the words leave alone stays as it is. "
            f"<code>{escape(Path(self.backbone.name).name)}</code> · <code>{escape(str(device))}</code></p>",
            elem_id="head",
        )
        self.photo, self.tick = gr.State(""), gr.State(0)
        self.shown, self.history = gr.State(("", 0)), gr.State([])
        self.memory = gr.BrowserState({}, storage_key="locinv_pl", secret="locinv_pl")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=340):
                self._left()
            with gr.Column(min_width=340):
                self._right()

    def _left(self) -> None:
        gr.HTML("<h2>1 · image, words, places</h2>", elem_classes="step")
        with gr.Row():
            self.upload = gr.UploadButton(
                "Upload a photograph", file_types=["image"], size="sm", min_width=130, elem_id="upload"
            )
            self.open = gr.UploadButton(
                "Open an inversion", file_types=[".safetensors"], size="sm", min_width=130, elem_id="open"
            )
        with gr.Accordion("Examples", open=True, elem_id="examples"):
            captions = [scene.caption for scene in self.scenes]
            images = [views.thumbnail(scene.image) for scene in self.scenes]
            self.examples = choices(views.choices(images, captions), "examples-choice")
        self.prompt = gr.Textbox(label="What is on it", placeholder="a cat and a dog on the grass", elem_id="prompt")
        self.caption = gr.Button("Caption", size="sm", visible=self.finder is not None, elem_id="caption")
        self.canvas = gr.HTML(
            value="",
            photo="",
            words="",
            load="",
            html_template=(HERE / "canvas.html").read_text(),
            js_on_load=(HERE / "canvas.js").read_text(),
            apply_default_css=False,
            elem_id="canvas",
        )
        self.status = gr.HTML("", elem_id="status")
        with gr.Accordion("Fit, method, steps", open=False):
            fits = [("the middle square", "crop"), ("all of it, with bars", "pad"), ("its own shape", "native")]
            self.fit = gr.Radio(fits, value="crop", label="Fit", elem_id="fit")
            methods = [(f"{name} · {METHODS[name]}" if name in METHODS else name, name) for name in self.methods]
            self.method = gr.Dropdown(methods, value=self.first["method"], label="Method", elem_id="method")
            self.steps = gr.Number(
                self.first["steps"], label="Steps", info="0 for the method's own", minimum=0, maximum=1000, precision=0,
                elem_id="steps",
            )  # fmt: skip
        gr.HTML("<h2>2 · invert</h2>", elem_classes="step")
        with gr.Row():
            self.invert = gr.Button("Invert", variant="primary", interactive=False, min_width=130, elem_id="invert")
            self.cancel = gr.Button("Cancel", variant="stop", interactive=False, min_width=130, elem_id="cancel")
        self.progress = gr.HTML("", elem_id="progress")
        self.maps = gr.HTML("", elem_id="maps")

    def _right(self) -> None:
        gr.HTML("<h2>3 · edit</h2>", elem_classes="step")
        self.target = gr.Textbox(label="What it is to become", placeholder="change a word", elem_id="target")
        self.diff = gr.HTML("", elem_id="diff")
        with gr.Accordion("Suggestions", open=True, elem_id="suggestions"):
            self.chips = choices(views.said(NO_CHIPS), "chips")
        self.strength = gr.Radio([*STRENGTHS, SIDE_BY_SIDE], value="normal", label="Strength", elem_id="strength")
        with gr.Accordion("All edit settings", open=False, elem_id="settings"):
            self.settings = {name: control for name, control in controls()}
            self.reset = gr.Button("Back to the defaults", size="sm")
        self.edit = gr.Button("Edit", variant="primary", interactive=False, elem_id="edit")
        self.editing = gr.HTML("", elem_id="editing")
        self.compare = gr.HTML("", js_on_load=SLIDE, elem_id="compare", apply_default_css=False)
        with gr.Column(visible=False) as self.results:
            with gr.Tabs():
                with gr.Tab("Strengths"):
                    self.many = choices("", "strengths", "wide")
                with gr.Tab("Difference"):
                    self.difference = gr.HTML("", elem_id="difference", elem_classes="wide")
                with gr.Tab("Maps"):
                    self.edit_maps = gr.HTML("", elem_id="edit-maps", elem_classes="wide")
            with gr.Row():
                names = {
                    "get-png": "PNG",
                    "get-inversion": "Inversion",
                    "get-report": "Report",
                    "get-data": "Data folder",
                }
                self.downloads = [
                    gr.DownloadButton(text, size="sm", min_width=110, elem_id=id) for id, text in names.items()
                ]
            gr.HTML("<h2>the same without the page</h2>", elem_classes="step")
            with gr.Tabs():
                with gr.Tab("Python"):
                    self.python = gr.Code(language="python", show_label=False, elem_id="python")
                with gr.Tab("Command"):
                    self.command = gr.Code(language="shell", show_label=False, elem_id="command")
            gr.HTML("<h2>history</h2>", elem_classes="step")
            self.past = choices("", "history")
        with gr.Accordion("Not enough changes, or too much?", open=False):
            gr.Markdown(HELP)

    def _events(self, blocks: Blocks) -> None:
        asked = [self.photo, self.prompt, self.canvas, self.fit, self.method, self.steps]
        right = [self.target, self.strength, *self.settings.values()]
        looked = {
            "inputs": [*asked, *right, self.shown, self.history],
            "outputs": [self.canvas, self.status, self.invert, self.edit, self.diff, self.chips, self.memory],
        }
        watched = [part.change for part in (self.prompt, self.fit, self.method, self.steps, self.target, self.tick)]
        gr.on([*watched, self.canvas.input, self.strength.input], self.look, **looked, **LAST)  # one after the other
        opened = [self.photo, self.canvas, self.prompt, self.status]
        self.upload.upload(self.take_upload, self.upload, opened, **FREE)
        self.examples.input(self.take_example, self.examples, opened, **LAST)
        self.open.upload(
            self.take_inversion, [self.open, self.fit], [*opened, self.method, self.steps, self.progress], **DEVICE
        )
        if self.finder is not None:
            self.canvas.find(self.find, asked, [self.canvas, self.status], **DEVICE)
            self.canvas.point(self.point, asked, [self.canvas, self.status], **DEVICE)
            self.caption.click(self.describe, self.photo, [self.prompt, self.status], **DEVICE)
        running = [self.invert, self.edit, self.cancel, self.tick]
        self.invert.click(
            self.do_invert, [*asked, self.target], [*running, self.progress, self.maps, self.target], **DEVICE
        )
        results = [
            self.shown, self.compare, self.results, self.many, self.difference, self.edit_maps, *self.downloads,
            self.python, self.command, self.past,
        ]  # fmt: skip
        self.edit.click(
            self.do_edit, [*asked, *right, self.history], [*running, self.editing, self.history, *results], **DEVICE
        )
        self.cancel.click(self.do_cancel, None, None, queue=False, **FREE)
        self.chips.input(lambda value: value, self.chips, self.target, **LAST)
        self.reset.click(lambda: [default(name) for name in self.settings], None, [*self.settings.values()], **FREE)
        self.many.input(self.choose, [self.many, self.shown, self.history], results, **LAST)
        again = [*opened, self.fit, self.method, self.steps, *right, self.history, *results]
        self.past.input(self.reopen, [self.past, self.photo, self.history], again, **LAST)
        blocks.load(self.remember, self.memory, again, **FREE)
        blocks.unload(self.leave)

    # ---- the left side

    def ask(self, photo: str, prompt: str, drawing: str, fit: Fit, method: str, steps: float | None) -> Asked:
        """What the left side asks for.

        Raises:
            InputError: the photograph is gone, the drawing or the prompt can't be read.
        """
        if method not in self.methods:
            raise InputError(f"method={method}: no such method; choose one of {', '.join(self.methods)}")
        prompt, places = tidy(prompt or ""), Places.of(drawing)
        if places.photo != photo:
            places = Places(photo)
        found = nouns(prompt) if prompt else ()
        T = int(steps or load_method(method).num_steps)
        if not photo:
            return Asked("", prompt, found, places, fit, method, T, None, {}, "")
        opened = self.store.opened(photo, self.backbone, fit)
        priors = places.priors(found, opened.frame)
        settings = {"method": load_method(method).to_dict(), "steps": T, "backbone": self.backbone.name}
        key = key_of(opened.image, prompt, priors, settings) if prompt else ""
        return Asked(photo, prompt, found, places, fit, method, T, opened, priors, key)

    def shot(self, asked: Asked) -> Photo:
        """The photograph with its prompt and priors, as the engine, a command and Python take it.

        Raises:
            InputError: the photograph is gone.
        """
        image = self.store.shown(asked.photo)
        priors = {noun: asked.places.own(noun, image.size) for noun in asked.priors}
        return open_photo(image, asked.prompt, priors, self.backbone, asked.fit, name="photo")

    def look(self, request: gr.Request, *values: Any) -> dict[Any, Any]:
        """Bring everything that follows from the inputs up to date; nothing is computed on the device."""
        photo, prompt, drawing, fit, method, steps, target, strength, *rest = values
        *chosen, shown, history = rest
        try:
            asked = self.ask(photo, prompt, drawing, fit, method, steps)
        except InputError as error:
            off = gr.Button(interactive=False)
            return {self.status: views.said(told(error), "error"), self.invert: off, self.edit: off}
        is_made = bool(asked.key) and self.store.has_inversion(asked.key)
        is_free = not self.worker.is_busy(request.session_hash or "")
        can = {"find": self.finder is not None, "point": self.finder is not None and self.finder.takes_points}
        frame = list(asked.opened.frame.window) if asked.opened else None
        words = {"nouns": asked.nouns, "colours": COLORS, "frame": frame, "can": can}
        source, target = asked.prompt, tidy(target or "")
        return {
            self.canvas: gr.HTML(words=json.dumps(words)),
            self.status: self._status(asked, is_made),
            self.invert: gr.Button(interactive=bool(asked.key) and not is_made and is_free),
            self.edit: gr.Button(interactive=is_made and is_free and is_edit(source, target)),
            self.diff: views.diff(source, target) if target != source else "",
            self.chips: gr.HTML(content=views.chips(suggest(source)) if source else views.said(NO_CHIPS)),
            self.memory: {
                **{"photo": photo, "prompt": prompt, "drawing": drawing, "fit": fit, "method": method, "steps": steps},
                **{"target": target, "strength": strength, "settings": chosen, "shown": shown, "history": history},
            },
        }

    def _status(self, asked: Asked, is_made: bool) -> str:
        """What is missing, or that it is done."""
        if not asked.photo:
            return ""
        if not asked.prompt:
            return views.said("Say in the prompt what is on the photograph.")
        if is_made:
            return views.said("inverted; say on the right what it is to become", "good")
        missing = [noun for noun in asked.nouns if noun not in asked.priors]
        if missing:
            text = f"Not drawn yet: {', '.join(missing)}. Only what has a place is kept in it."
        elif not asked.nouns:
            text = "No noun was found in the prompt, so nothing can be given a place."
        else:
            text = "Every noun has its place."
        return views.said(text)

    def _open(self, photo: str, prompt: str | None = None, load: Places | None = None) -> dict[Any, Any]:
        """Another photograph on the canvas."""
        image = self.store.shown(photo)
        small = image.copy()
        small.thumbnail((1024, 1024))
        source = data_url(small) if max(image.size) <= 256 else data_url(small, "jpeg", quality=90)
        shown = {"id": photo, "src": source, "w": image.width, "h": image.height, "frame": None}
        loaded: dict[str, Any] = {} if load is None else {"load": again(load.to_json())}
        updates = {self.photo: photo, self.canvas: gr.HTML(photo=json.dumps(shown), **loaded), self.status: ""}
        return updates if prompt is None else {**updates, self.prompt: prompt}

    def take_upload(self, path: str) -> dict[Any, Any]:
        """Open an uploaded photograph."""
        try:
            if os.path.getsize(path) > MEGABYTES * 10**6:
                raise InputError(f"photograph: has more than {MEGABYTES} MB; save it smaller")
            return self._open(self.store.add_photo(Path(path).read_bytes()))
        except InputError as error:
            return {self.status: views.said(told(error, path), "error")}

    def take_example(self, number: str) -> dict[Any, Any]:
        """Open a drawn scene with its caption and its objects' boxes."""
        scene = self.scenes[int(number) % len(self.scenes)]
        photo, boxes = self.store.add_image(scene.image), {}
        for noun, thing in zip(nouns(scene.caption), scene.objects, strict=False):
            rows, columns = np.flatnonzero(thing.mask.any(1)), np.flatnonzero(thing.mask.any(0))
            x, y = int(columns[0]), int(rows[0])
            boxes[noun] = [(x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y)]
        return self._open(photo, scene.caption, Places(photo, boxes))

    async def take_inversion(self, path: str, fit: Fit, request: gr.Request) -> AsyncIterator[dict[Any, Any]]:
        """Open a saved inversion: its image is decoded, its prompt and settings stand on the page."""

        def job() -> Iterator[Any]:
            inversion = Inversion.load(path)
            if inversion.settings["backbone"] != self.backbone.name:
                made = Path(str(inversion.settings["backbone"])).name
                raise InputError(f"inversion: made with {made!r}; start the page with backbone={made}")
            image = self.backbone.decode(inversion.trajectory[:1])[0].cpu()
            yield inversion, Image.fromarray(to_array(image))

        updates: dict[Any, Any] = {}
        async for kind, item in self._run(job, request):
            if kind != "item":
                yield {self.progress: item}
            else:
                inversion, image = item
                photo = self.store.add_image(image)
                method = str(inversion.settings["method"]["name"])
                method = method if method in self.methods else self.methods[0]
                asked = self.ask(photo, inversion.prompt, "", fit, method, inversion.num_steps)
                self.store.add_inversion(asked.key, inversion)
                updates = {
                    **self._open(photo, inversion.prompt, Places(photo)),
                    self.method: method,
                    self.steps: inversion.num_steps,
                    self.progress: "",
                }
                yield updates

    async def find(self, request: gr.Request, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        """Places of all nouns, by a detector."""
        async for update in self._place(request, *values, by_points=False):
            yield update

    async def point(self, request: gr.Request, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        """Places of the nouns that have points, by a segmenter."""
        async for update in self._place(request, *values, by_points=True):
            yield update

    async def _place(self, request: gr.Request, *values: Any, by_points: bool) -> AsyncIterator[dict[Any, Any]]:
        def job() -> Iterator[Any]:
            asked = self.ask(*values)
            image, finder = self.store.shown(asked.photo), self.finder
            assert finder is not None
            points = {noun: some for noun, some in asked.places.points.items() if noun in asked.nouns}
            found = finder.points(asked.photo, image, points) if by_points else finder.nouns(image, asked.nouns)
            yield asked, found

        async for kind, item in self._run(job, request):
            if kind != "item":
                yield {self.status: item}
                continue
            asked, found = item
            drawn = Places(asked.photo, {}, {noun: shrunk(mask) for noun, mask in found.items()})
            missing = [] if by_points else [noun for noun in asked.nouns if noun not in found]
            news = f"not found: {', '.join(missing)}; draw where it matters" if missing else ""
            yield {self.canvas: gr.HTML(load=again(drawn.to_json(list(found)))), self.status: views.said(news)}

    async def describe(self, request: gr.Request, photo: str) -> AsyncIterator[dict[Any, Any]]:
        """A caption in the prompt's place."""

        def job() -> Iterator[Any]:
            assert self.finder is not None
            yield self.finder.caption(self.store.shown(photo))

        async for kind, item in self._run(job, request):
            yield {self.prompt: item} if kind == "item" else {self.status: item}

    # ---- what takes a while

    async def _run(self, job: Callable[[], Iterator[Any]], request: gr.Request) -> AsyncIterator[tuple[str, Any]]:
        """A job's items as ("item", it), and what it says of waiting, cancelling and failing as ("said", HTML)."""
        try:
            async with aclosing(self.worker.run(job, request.session_hash or "")) as items:
                async for item in items:
                    if isinstance(item, Waiting):
                        yield "said", views.said(f"waiting: {item.before} before this one")
                    else:
                        yield "item", item
        except Cancelled:
            yield "said", views.said("cancelled; nothing of it was kept")
        except InputError as error:
            yield "said", views.said(told(error), "error")
        except RuntimeError as error:
            yield "said", views.said(f"failed ({error}); the server's log says more", "error")

    async def do_invert(self, request: gr.Request, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        """Invert, with progress and maps after every step."""
        *left, target = values
        yield self._busy(self.progress)
        try:
            asked = self.ask(*left)
        except InputError as error:
            yield self._idle({self.progress: views.said(told(error), "error")})
            return
        assert asked.opened is not None
        opened, clock = asked.opened, Clock()

        def job() -> Iterator[Any]:
            began, sample = time.monotonic(), self.shot(asked).sample
            words = [noun.word for noun in sample.nouns]
            for step in invert_sample(self.backbone, sample, asked.method, asked.steps):
                left = clock.left(step.phase, step.step, step.total)
                yield (
                    views.progress(step.phase, step.step, step.total, left),
                    views.maps(opened.image, step.maps, words),
                )
                if step.result is not None:
                    self.store.add_inversion(asked.key, step.result)
                    yield views.said(f"inverted in {time.monotonic() - began:.1f} s", "good"), gr.skip()

        last = ""
        async for kind, item in self._run(job, request):
            last, maps = item if kind == "item" else (item, gr.skip())
            yield {self.progress: last, self.maps: maps}
        yield self._idle({self.target: asked.prompt if not tidy(target or "") else gr.skip()})

    async def do_edit(self, request: gr.Request, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        """Edit, at one strength or at several as one batch."""
        left, (target, strength, *chosen), history = values[:6], values[6:-1], list(values[-1])
        yield self._busy(self.editing)
        try:
            asked, target = self.ask(*left), tidy(target or "")
            settings = EditSettings(**dict(zip(self.settings, chosen, strict=True)))
            each = strengths_of(strength, settings)
            assert asked.opened is not None
            region = asked.places.prior(REGION, asked.opened.frame)
        except InputError as error:
            yield self._idle({self.editing: views.said(told(error), "error")})
            return
        opened, clock = asked.opened, Clock()
        plain: dict[str, Any] = {
            "inversion": asked.key,
            "target": target,
            "settings": [way.to_dict() for _, way in each],
        }
        key = key_of(opened.image, target, {} if region is None else {"region": region}, plain)
        ui = dict(zip(("photo", "prompt", "drawing", "fit", "method", "steps"), left, strict=True))
        ui |= {"target": target, "strength": strength, "settings": chosen}
        about: dict[str, Any] = {**plain, "labels": [label for label, _ in each], "page": ui, "prompt": asked.prompt}
        about |= {"backbone": self.backbone.name, "region": region is not None}

        def job() -> Iterator[Any]:
            if self.store.has_edit(key):
                return
            began, inversion = time.monotonic(), self.store.inversion(asked.key)
            for step in iter_edit(self.backbone, inversion, [target] * len(each), [way for _, way in each], region):
                left = clock.left(step.phase, step.step, step.total)
                yield views.progress(step.phase, step.step, step.total, left)
                if step.result is not None:
                    about["seconds"] = round(time.monotonic() - began, 2)
                    self.store.add_edit(key, about, opened.image, step.result)

        async for _, item in self._run(job, request):
            yield {self.editing: item}
        if not self.store.has_edit(key):
            yield self._idle({})
            return
        history = [key, *(other for other in history if other != key)][:MOST_HISTORY]
        chosen_n = about["labels"].index("normal") if "normal" in about["labels"] else 0
        made = self.store.edit(key)
        shown = await asyncio.to_thread(self._results, key, chosen_n, history)
        news = views.said(f"edited in {made.about['seconds']:.1f} s", "good")
        yield self._idle({self.editing: news, self.history: history, **shown})

    def _busy(self, line: Any) -> dict[Any, Any]:
        off = gr.Button(interactive=False)
        return {
            self.invert: off,
            self.edit: off,
            self.cancel: gr.Button(interactive=True),
            line: views.said("starting"),
        }

    def _idle(self, more: Mapping[Any, Any]) -> dict[Any, Any]:
        return {self.cancel: gr.Button(interactive=False), self.tick: time.time_ns(), **more}

    def do_cancel(self, request: gr.Request) -> None:
        """Cancel what this tab has asked for; it ends after its present step."""
        self.worker.cancel(request.session_hash or "")

    def leave(self, request: gr.Request) -> None:
        """A closed tab frees the device."""
        self.worker.cancel(request.session_hash or "")

    # ---- results

    def _results(self, key: str, n: int, history: Sequence[str]) -> dict[Any, Any]:
        """An edit on the right side: the n-th of its strengths."""
        made = self.store.edit(key)
        about, labels = made.about, made.about["labels"]
        n = min(max(n, 0), len(labels) - 1)
        before, after = to_array(made.before), to_array(made.images[n])
        page = about["page"]
        asked = self.ask(*(page[name] for name in ("photo", "prompt", "drawing", "fit", "method", "steps")))
        inversion = self.store.inversion(about["inversion"]) if self.store.has_inversion(about["inversion"]) else None
        code, files = results.written(made, n, self.shot(asked), inversion, asked, download_folder())
        apart = views.thumbnail(Image.fromarray(difference(after, to_array(made.reconstruction))), 384)
        tiles = [views.figure(apart, "what the edit changed, times 4")]
        if len(made.masks):
            mask = made.masks[n].float().numpy()
            wide = np.asarray(Image.fromarray(mask).resize(before.shape[1::-1], Image.Resampling.BILINEAR))
            where = views.thumbnail(views.mask_over(before, wide), 384)
            tiles.append(views.figure(where, "where it was allowed to"))
        images = [views.thumbnail(Image.fromarray(to_array(image)), 384) for image in made.images]
        maps = [views.maps(made.images[n], plane[None], [word]) for word, plane in made.maps[n].items()]
        return {
            self.shown: (key, n),
            self.compare: views.compare(
                data_url(Image.fromarray(before)), url_of(results.png_of(made, n)), about["target"]
            ),
            self.results: gr.Column(visible=True),
            self.many: gr.HTML(content=views.choices(images, labels, n)),
            self.difference: f'<div class="tiles">{"".join(tiles)}</div>',
            self.edit_maps: "".join(maps) or views.said("attention was taken over in no step, so there are no maps"),
            **{
                button: gr.DownloadButton(value=str(file) if file.exists() else None, interactive=file.exists())
                for button, file in zip(self.downloads, files, strict=True)
            },
            self.python: code.python,
            self.command: code.command,
            self.past: gr.HTML(content=self._history(history, key)),
        }

    def _history(self, history: Sequence[str], key: str) -> str:
        """The session's edits, newest first."""
        images, captions, chosen = [], [], None
        for n, other in enumerate(history):
            made = self.store.edit(other)
            images.append(views.thumbnail(Image.fromarray(to_array(made.images[len(made.images) // 2])), 128))
            captions.append(f"{made.about['target']} · {made.about['page']['strength']}")
            chosen = n if other == key else chosen
        return views.choices(images, captions, chosen)

    def choose(self, number: str, shown: tuple[str, int], history: Sequence[str]) -> dict[Any, Any]:
        """Another strength of the edit that is shown."""
        try:
            return self._results(shown[0], int(number), history)
        except InputError as error:
            return {self.many: gr.HTML(content=views.said(told(error), "error"))}

    def reopen(self, number: str, photo: str, history: list[str]) -> dict[Any, Any]:
        """An edit of the history, and the page as it was made from."""
        try:
            key = history[int(number)]
            return self._restore(self.store.edit(key).about["page"], photo, (key, -1), history)
        except (InputError, IndexError, ValueError) as error:
            return {self.status: views.said(told(error), "error")}

    def remember(self, memory: Any) -> dict[Any, Any]:
        """What this browser's last tab has left behind."""
        if not isinstance(memory, dict) or not memory.get("photo"):
            return {self.history: []}
        try:
            history = [str(key) for key in memory.get("history") or [] if self.store.has_edit(str(key))]
            shown = memory.get("shown") or ["", 0]
            return self._restore(memory, "", (str(shown[0]), int(shown[1])), history[:MOST_HISTORY])
        except (InputError, KeyError, ValueError, TypeError, IndexError):
            return {self.history: []}  # of another version, or no longer kept

    def _restore(
        self, page: Mapping[str, Any], photo: str, shown: tuple[str, int], history: list[str]
    ) -> dict[Any, Any]:
        """The page as it was."""
        places = Places.of(page["drawing"])
        if page["photo"] == photo:
            updates: dict[Any, Any] = {self.canvas: gr.HTML(load=again(places.to_json()))}
        else:
            updates = self._open(page["photo"], None, places if places.photo == page["photo"] else None)
        names = ("prompt", "fit", "method", "steps", "target", "strength")
        updates |= {getattr(self, name): page[name] for name in names}
        settings = dict(zip(self.settings, page["settings"], strict=True))
        EditSettings(**settings)  # refuses what is none
        updates |= {self.settings[name]: value for name, value in settings.items()}
        updates[self.history] = history
        if self.store.has_edit(shown[0]):
            labels = self.store.edit(shown[0]).about["labels"]
            n = shown[1] if shown[1] >= 0 else labels.index("normal") if "normal" in labels else 0
            updates |= self._results(shown[0], n, history)
        return updates


class Clock:
    """How long the rest of a phase takes, from the steps so far."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}
        self.last = time.monotonic()

    def left(self, phase: str, step: int, total: int) -> float | None:
        """Seconds; None before two steps are done."""
        now = time.monotonic()
        began, self.last = self.began.setdefault(phase, self.last), now
        return (now - began) / step * (total - step) if 1 < step < total else None


def choices(content: str, elem_id: str, elem_classes: str = "") -> gr.HTML:
    """HTML whose buttons with a data-value are this component's value when they are clicked."""
    return gr.HTML(
        "", content=content, html_template="${content}", js_on_load=CHOOSE, elem_id=elem_id, elem_classes=elem_classes,
        apply_default_css=False,
    )  # fmt: skip


def controls() -> Iterator[tuple[str, Any]]:
    """A control for every setting of an edit that is a number, a choice or a switch, with what its docstring says."""
    kinds = get_type_hints(EditSettings)
    docs = inspect.getdoc(EditSettings) or ""
    for field in fields(EditSettings):
        name, value, kind = field.name, field.default, kinds[field.name]
        found = re.search(rf"^    {name}: (.*?)(?=^    \w+: |^Raises|\Z)", docs, re.DOTALL | re.MULTILINE)
        info = re.split(r"(?<=[a-z\d)])[.:;](?:\s|$)", " ".join(found[1].split()))[0] if found else ""
        info = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`|`+", r"\1", info)
        shared: dict[str, Any] = {"value": value, "label": name, "info": info, "elem_id": f"set-{name}"}
        if name in ("word_steps", "reweight", "candidates"):
            continue
        if get_origin(kind) is Literal:
            yield name, gr.Radio(list(get_args(kind)), **shared)
        elif kind is bool:
            yield name, gr.Checkbox(**shared)
        elif kind is float:
            yield name, gr.Slider(0, 5 if name == "smooth" else 1, step=0.05, **shared)
        else:
            yield name, gr.Number(precision=0, minimum=1, **shared)


def default(name: str) -> Any:
    """A setting's default."""
    return getattr(EditSettings(), name)


def strengths_of(choice: str, settings: EditSettings) -> list[tuple[str, EditSettings]]:
    """The strengths that a choice names, each with its settings."""
    ways = [way for _, way in strengths(replace(settings, candidates=4))]
    each = dict(zip(STRENGTHS, (ways[0], ways[1], ways[3]), strict=True))
    return list(each.items()) if choice == SIDE_BY_SIDE else [(choice, each.get(choice, ways[1]))]


def is_edit(source: str, target: str) -> bool:
    """Whether a target prompt asks for anything."""
    if not target:
        return False
    try:
        edit = as_edit(source, target)
    except InputError:
        return True  # Edit says what is wrong with it
    return edit.kind != "same" or bool(edit.weights)


def download_folder() -> Path:
    """A new folder with a name that nobody guesses, in what Gradio serves."""
    folder = Path(get_upload_folder()) / secrets.token_hex(20)
    folder.mkdir(parents=True, mode=0o700)
    return folder


def again(text: str) -> str:
    """JSON that differs from any before, so that the browser takes it up."""
    return json.dumps({**json.loads(text), "serial": secrets.token_hex(4)})


def told(error: BaseException, path: str = "") -> str:
    """An error as the page tells it: one line, with names of files in place of their paths."""
    text = str(error) if isinstance(error, InputError) else type(error).__name__
    if not isinstance(error, InputError):
        traceback.print_exception(error, file=sys.stderr)
    text = text.replace(path, Path(path).name) if path else text
    return re.sub(r"(?<![\w.])(?:~|\.{1,2})?(?:/[^\s/:;,'\"()]+)+/([^\s/:;,'\"()]*)", r"\1", text)
