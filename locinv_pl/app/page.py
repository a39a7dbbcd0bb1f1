"""The page: what its buttons do; :mod:`locinv_pl.app.layout` says where they are.

What a tab works on is a few keys and texts; images, inversions and edits lie in the :class:`Store`. Everything that
computes runs in the :class:`Worker`'s one thread, whose generators the handlers pass on.
"""

from __future__ import annotations

import asyncio
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
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image
from torch import Tensor

from locinv_pl.api import OpenedImage, invert_sample, nouns
from locinv_pl.app import results, views
from locinv_pl.app.finding import Finder
from locinv_pl.app.layout import METHODS, NO_CHIPS, SIDE_BY_SIDE, STRENGTHS, Layout, default
from locinv_pl.app.places import REGION, Places, shrunk
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
from locinv_pl.networks.options import OPTIONS
from locinv_pl.photo import Photo, open_photo
from locinv_pl.scenes.drawing import draw_scene
from locinv_pl.types import Inversion
from locinv_pl.words import tidy

SEEDS = (19, 14, 8, 23)  # of the drawn examples
MOST_HISTORY = 12
ONLY = "Only what has a place is kept in it."
FREE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
LAST: dict[str, Any] = {**FREE, "trigger_mode": "always_last"}
DEVICE: dict[str, Any] = {**FREE, "concurrency_id": "device"}


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
        resolution: R, side of the attention grid in cells.
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
        resolution: int = 16,
    ):
        if cache is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="locinv-app-")
            cache = self._temporary.name
        self.store = Store(Path(cache), side=max(1024, 2 * backbone.image_size))
        self.backbone, self.worker = backbone, worker or Worker()
        self.dtype = str(backbone.dtype).removeprefix("torch.")
        self.finder = None if models is None else Finder(models)
        self.resolution, self.report = resolution, lru_cache(maxsize=4)(lambda key: results.report_of(self._kept(key)))
        self.first: dict[str, Any] = {"steps": steps, "method": method}
        self.methods = list(dict.fromkeys([method, *METHODS]))
        self.scenes = [
            draw_scene(random.Random(seed), size=max(128, min(512, backbone.image_size)), num_objects=2)
            for seed in SEEDS
        ]

    def build(self) -> Blocks:
        """Gradio's Blocks, ready to be launched."""
        loaded = [self.backbone.name, *map(str, self.backbone.origin.values())]
        with Blocks(title="LocInv", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as blocks:
            self.ui = Layout(
                [*(Path(name).name for name in loaded), str(self.backbone.device)],
                self.scenes,
                self.methods,
                **self.first,
                has_finder=self.finder is not None,
            )
            self._events(blocks)
        blocks.queue(max_size=64, default_concurrency_limit=None)
        return blocks

    def _events(self, blocks: Blocks) -> None:
        ui = self.ui
        asked = [ui.photo, ui.prompt, ui.canvas, ui.fit, ui.method, ui.steps]
        right = [ui.target, ui.strength, *ui.settings.values()]
        looked = {
            "inputs": [*asked, *right, ui.shown, ui.history],
            "outputs": [ui.canvas, ui.status, ui.invert, ui.edit, ui.diff, ui.chips, ui.memory],
        }
        watched = [part.change for part in (ui.prompt, ui.fit, ui.method, ui.steps, ui.target, ui.tick)]
        gr.on([*watched, ui.canvas.input, ui.strength.input], self.look, **looked, **LAST)  # one after the other
        opened = [ui.photo, ui.canvas, ui.prompt, ui.status]
        ui.upload.upload(self.take_upload, ui.upload, opened, **FREE)
        ui.examples.input(self.take_example, ui.examples, opened, **LAST)
        ui.open.upload(self.take_inversion, [ui.open, ui.fit], [*opened, ui.method, ui.steps, ui.progress], **DEVICE)
        if self.finder is not None:
            ui.canvas.find(self.find, asked, [ui.canvas, ui.status], **DEVICE)
            ui.canvas.point(self.point, asked, [ui.canvas, ui.status], **DEVICE)
            ui.caption.click(self.describe, ui.photo, [ui.prompt, ui.status], **DEVICE)
        running = [ui.invert, ui.edit, ui.cancel, ui.tick]
        ui.invert.click(self.do_invert, [*asked, ui.target], [*running, ui.progress, ui.maps, ui.target], **DEVICE)
        results = [
            ui.shown, ui.compare, ui.results, ui.many, ui.difference, ui.explained, ui.edit_maps, *ui.downloads,
            ui.python, ui.command, ui.past,
        ]  # fmt: skip
        ui.edit.click(
            self.do_edit, [*asked, *right, ui.history], [*running, ui.editing, ui.history, *results], **DEVICE
        )
        ui.cancel.click(self.do_cancel, None, None, queue=False, **FREE)
        ui.chips.input(lambda value: value, ui.chips, ui.target, **LAST)
        ui.reset.click(lambda: [default(name) for name in ui.settings], None, [*ui.settings.values()], **FREE)
        ui.many.input(self.choose, [ui.many, ui.shown, ui.history], results, **LAST)
        again = [*opened, ui.fit, ui.method, ui.steps, *right, ui.history, *results]
        ui.past.input(self.reopen, [ui.past, ui.photo, ui.history], again, **LAST)
        blocks.load(self.remember, ui.memory, again, **FREE)
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
        usual = {"dtype": "float32", "resolution": 16}
        settings |= self.backbone.origin
        settings |= {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}
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
            return {self.ui.status: views.said(told(error), "error"), self.ui.invert: off, self.ui.edit: off}
        is_made = bool(asked.key) and self.store.has_inversion(asked.key)
        is_free = not self.worker.is_busy(request.session_hash or "")
        can = {"find": self.finder is not None, "point": self.finder is not None and self.finder.takes_points}
        frame = list(asked.opened.frame.window) if asked.opened else None
        words = {"nouns": asked.nouns, "colours": COLORS, "frame": frame, "can": can}
        source, target = asked.prompt, tidy(target or "")
        return {
            self.ui.canvas: gr.HTML(words=json.dumps(words)),
            self.ui.status: self._status(asked, is_made),
            self.ui.invert: gr.Button(interactive=bool(asked.key) and not is_made and is_free),
            self.ui.edit: gr.Button(interactive=is_made and is_free and is_edit(source, target)),
            self.ui.diff: views.diff(source, target) if target != source else "",
            self.ui.chips: gr.HTML(content=views.chips(suggest(source)) if source else views.said(NO_CHIPS)),
            self.ui.memory: {
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
        unseen = [noun for noun in missing if asked.places.has(noun)]
        if unseen:
            text = f"Outside the part that is shown: {', '.join(unseen)}. {ONLY}"
        elif missing:
            text = f"Not drawn yet: {', '.join(missing)}. {ONLY}"
        elif not asked.nouns:
            text = "No noun was found in the prompt, so nothing can be given a place."
        else:
            text = "Every noun has its place."
        return views.said(text)

    def _open(self, photo: str, prompt: str | None = None, load: Places | None = None) -> dict[Any, Any]:
        """Another photograph on the canvas."""
        image = self.store.shown(photo)
        shown = {"id": photo, "src": views.picture(image), "w": image.width, "h": image.height, "frame": None}
        loaded: dict[str, Any] = {} if load is None else {"load": again(load.to_json())}
        updates = {self.ui.photo: photo, self.ui.canvas: gr.HTML(photo=json.dumps(shown), **loaded), self.ui.status: ""}
        return updates if prompt is None else {**updates, self.ui.prompt: prompt}

    def take_upload(self, path: str) -> dict[Any, Any]:
        """Open an uploaded photograph."""
        try:
            if os.path.getsize(path) > MEGABYTES * 10**6:
                raise InputError(f"photograph: has more than {MEGABYTES} MB; save it smaller")
            return self._open(self.store.add_photo(Path(path).read_bytes()))
        except InputError as error:
            return {self.ui.status: views.said(told(error, path), "error")}

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
            keys = {"backbone": "backbone", **{key: f"model.{key}" for key in OPTIONS}}
            made, own = inversion.settings, {"backbone": self.backbone.name, **self.backbone.origin}
            if any(made.get(key) != own.get(key) for key in keys):
                words = [f"{keys[key]}={Path(str(made[key])).name}" for key in keys if key in made]
                raise InputError(f"inversion: made with another model; start the page with {' '.join(words)}")
            image = self.backbone.decode(inversion.trajectory[:1])[0].cpu()
            yield inversion, Image.fromarray(to_array(image))

        updates: dict[Any, Any] = {}
        async for kind, item in self._run(job, request):
            if kind != "item":
                yield {self.ui.progress: item}
            else:
                inversion, image = item
                photo = self.store.add_image(image)
                method = str(inversion.settings["method"]["name"])
                method = method if method in self.methods else self.methods[0]
                asked = self.ask(photo, inversion.prompt, "", fit, method, inversion.num_steps)
                self.store.add_inversion(asked.key, inversion)
                updates = {
                    **self._open(photo, inversion.prompt, Places(photo)),
                    self.ui.method: method,
                    self.ui.steps: inversion.num_steps,
                    self.ui.progress: "",
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
                yield {self.ui.status: item}
                continue
            asked, found = item
            drawn = Places(asked.photo, {}, {noun: shrunk(mask) for noun, mask in found.items()})
            missing = [] if by_points else [noun for noun in asked.nouns if noun not in found]
            news = f"not found: {', '.join(missing)}; draw where it matters" if missing else ""
            yield {self.ui.canvas: gr.HTML(load=again(drawn.to_json(list(found)))), self.ui.status: views.said(news)}

    async def describe(self, request: gr.Request, photo: str) -> AsyncIterator[dict[Any, Any]]:
        """A caption in the prompt's place."""

        def job() -> Iterator[Any]:
            assert self.finder is not None
            yield self.finder.caption(self.store.shown(photo))

        async for kind, item in self._run(job, request):
            yield {self.ui.prompt: item, self.ui.status: ""} if kind == "item" else {self.ui.status: item}

    # ---- what takes a while

    async def _run(self, job: Callable[[], Iterator[Any]], request: gr.Request) -> AsyncIterator[tuple[str, Any]]:
        """A job's items as ("item", it), and what it says of waiting, cancelling and failing as ("said", HTML)."""
        try:
            async with aclosing(self.worker.run(job, request.session_hash or "")) as items:
                async for item in items:
                    if isinstance(item, Waiting):
                        news = f"waiting: {item.before} before this one" if item.before else "starting"
                        yield "said", views.said(news)
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
        try:
            asked = self.ask(*left)
        except InputError as error:
            yield self._idle({self.ui.progress: views.said(told(error), "error")})
            return
        assert asked.opened is not None
        opened, clock = asked.opened, Clock()

        def job() -> Iterator[Any]:
            began, sample = time.monotonic(), self.shot(asked).sample
            words = [noun.word for noun in sample.nouns]
            for step in invert_sample(self.backbone, sample, asked.method, asked.steps, self.resolution):
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
            yield self._busy({self.ui.progress: last, self.ui.maps: maps})
        yield self._idle({self.ui.target: asked.prompt if not tidy(target or "") else gr.skip()})

    async def do_edit(self, request: gr.Request, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        """Edit, at one strength or at several as one batch."""
        left, (target, strength, *chosen), history = values[:6], values[6:-1], list(values[-1])
        try:
            asked, target = self.ask(*left), tidy(target or "")
            own = dict(zip(self.ui.settings, chosen, strict=True))
            for name in (name for name, value in own.items() if value is None):
                raise InputError(f"edit.{name}: is empty; give a number")
            settings = EditSettings(**own)
            each = strengths_of(strength, settings)
            assert asked.opened is not None
            region = asked.places.prior(REGION, asked.opened.frame)
        except InputError as error:
            yield self._idle({self.ui.editing: views.said(told(error), "error")})
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
        about |= {"backbone": self.backbone.name, "model": dict(self.backbone.origin), "dtype": self.dtype}
        about |= {"region": region is not None, "resolution": self.resolution}

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
            yield self._busy({self.ui.editing: item})
        if not self.store.has_edit(key):
            yield self._idle({})
            return
        history = [key, *(other for other in history if other != key)][:MOST_HISTORY]
        chosen_n = about["labels"].index("normal") if "normal" in about["labels"] else 0
        made = self.store.edit(key)
        shown = await asyncio.to_thread(self._results, key, chosen_n, history)
        news = views.said(f"edited in {made.about['seconds']:.1f} s", "good")
        yield self._idle({self.ui.editing: news, self.ui.history: history, **shown})

    def _busy(self, more: Mapping[Any, Any]) -> dict[Any, Any]:
        """Said again with every step: a look that began before the job may be answered after its start."""
        off = gr.Button(interactive=False)
        return {self.ui.invert: off, self.ui.edit: off, self.ui.cancel: gr.Button(interactive=True), **more}

    def _idle(self, more: Mapping[Any, Any]) -> dict[Any, Any]:
        return {self.ui.cancel: gr.Button(interactive=False), self.ui.tick: time.time_ns(), **more}

    def do_cancel(self, request: gr.Request) -> None:
        """Cancel what this tab has asked for; it ends after its present step."""
        self.worker.cancel(request.session_hash or "")

    def leave(self, request: gr.Request) -> None:
        """A closed tab frees the device."""
        self.worker.cancel(request.session_hash or "")

    # ---- results

    def _kept(self, key: str) -> results.Kept:
        """An edit with all that it was made of."""
        made = self.store.edit(key)
        page, inversion = made.about["page"], made.about["inversion"]
        asked = self.ask(*(page[name] for name in ("photo", "prompt", "drawing", "fit", "method", "steps")))
        is_there = self.store.has_inversion(inversion)
        return results.Kept(made, self.shot(asked), self.store.inversion(inversion) if is_there else None, asked)

    def _results(self, key: str, n: int, history: Sequence[str]) -> dict[Any, Any]:
        """An edit on the right side: the n-th of its strengths."""
        edit = self._kept(key)
        made, about, labels = edit.made, edit.made.about, edit.made.about["labels"]
        n = min(max(n, 0), len(labels) - 1)
        before, after = to_array(made.before), to_array(made.images[n])
        photograph, whole = edit.before_and_after(n)
        code, files = edit.codes[n], results.written(edit, n, whole, self.report(key), download_folder())
        apart = views.thumbnail(Image.fromarray(difference(after, to_array(made.reconstruction))), 384)
        tiles = [views.figure(apart, "what the edit changed, times 4")]
        mask = made.masks[n].float().numpy() if len(made.masks) else None
        if mask is not None:
            wide = np.asarray(Image.fromarray(mask).resize(before.shape[1::-1], Image.Resampling.BILINEAR))
            where = views.thumbnail(views.mask_over(before, wide), 384)
            tiles.append(views.figure(where, f"bright: where it was allowed to, {mask.mean():.0%} of the image"))
        explained = views.explained(about["prompt"], about["target"], about["settings"][n], is_masked=mask is not None)
        images = [views.thumbnail(Image.fromarray(to_array(image)), 384) for image in made.images]
        maps = [views.maps(made.images[n], plane[None], [word]) for word, plane in made.maps[n].items()]
        return {
            self.ui.shown: (key, n),
            self.ui.compare: views.compare(
                views.picture(Image.fromarray(to_array(photograph))),
                views.picture(Image.fromarray(to_array(whole))),
                about["target"],
            ),
            self.ui.results: gr.Column(visible=True),
            self.ui.many: gr.HTML(content=views.choices(images, labels, n)),
            self.ui.difference: f'<div class="tiles">{"".join(tiles)}</div>',
            self.ui.explained: explained,
            self.ui.edit_maps: "".join(maps) or views.said("attention was taken over in no step, so there are no maps"),
            **{
                button: gr.DownloadButton(value=str(file) if file.exists() else None, interactive=file.exists())
                for button, file in zip(self.ui.downloads, files, strict=True)
            },
            self.ui.python: code.python,
            self.ui.command: code.command,
            self.ui.past: gr.HTML(content=self._history(history, key)),
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
            return {self.ui.many: gr.HTML(content=views.said(told(error), "error"))}

    def reopen(self, number: str, photo: str, history: list[str]) -> dict[Any, Any]:
        """An edit of the history, and the page as it was made from."""
        try:
            key = history[int(number)]
            return self._restore(self.store.edit(key).about["page"], photo, (key, -1), history)
        except (InputError, IndexError, ValueError) as error:
            return {self.ui.status: views.said(told(error), "error")}

    def remember(self, memory: Any) -> dict[Any, Any]:
        """What this browser's last tab has left behind."""
        if not isinstance(memory, dict) or not memory.get("photo"):
            return {self.ui.history: []}
        try:
            history = [str(key) for key in memory.get("history") or [] if self.store.has_edit(str(key))]
            shown = memory.get("shown") or ["", 0]
            return self._restore(memory, "", (str(shown[0]), int(shown[1])), history[:MOST_HISTORY])
        except (InputError, KeyError, ValueError, TypeError, IndexError):
            return {self.ui.history: []}  # of another version, or no longer kept

    def _restore(
        self, page: Mapping[str, Any], photo: str, shown: tuple[str, int], history: list[str]
    ) -> dict[Any, Any]:
        """The page as it was."""
        places = Places.of(page["drawing"])
        if page["photo"] == photo:
            updates: dict[Any, Any] = {self.ui.canvas: gr.HTML(load=again(places.to_json()))}
        else:
            updates = self._open(page["photo"], None, places if places.photo == page["photo"] else None)
        names = ("prompt", "fit", "method", "steps", "target", "strength")
        updates |= {getattr(self.ui, name): page[name] for name in names}
        settings = dict(zip(self.ui.settings, page["settings"], strict=True))
        EditSettings(**settings)  # refuses what is none
        updates |= {self.ui.settings[name]: value for name, value in settings.items()}
        updates[self.ui.history] = history
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
