"""The page's layout: all its parts, by the names that the handlers know them by."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import gradio as gr

from locinv_pl.app import views
from locinv_pl.editing.settings import EditSettings
from locinv_pl.scenes.scene import Scene

HERE = Path(__file__).parent
METHODS = {
    "locinv_direct": "recommended for edits",
    "locinv_fast": "the same in nine steps",
    "locinv": "the paper's tokens and null text",
    "direct": "no tokens move",
    "nti": "null text alone",
    "ddim": "DDIM inversion alone",
}
STRENGTHS = ("gentle", "normal", "strong")
SIDE_BY_SIDE = "side by side"
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


class Layout:
    """The parts of the page; made inside the Blocks that show them.

    Args:
        loaded: what the page's head says of the model: its name and device.
        scenes: the drawn examples.
        methods: names of presets to choose from.
        method: the one that the page begins with.
        steps: T that it begins with; 0 for the method's own.
        has_finder: whether something finds places and captions.
    """

    def __init__(
        self,
        loaded: Sequence[str],
        scenes: Sequence[Scene],
        methods: Sequence[str],
        method: str,
        steps: int,
        has_finder: bool,
    ):
        gr.HTML(
            "<h1>LocInv</h1><p>Edit one photograph by its words; what the words leave alone stays as it is. "
            f"{' · '.join(f'<code>{escape(text)}</code>' for text in loaded)}</p>",
            elem_id="head",
        )
        self.photo, self.tick = gr.State(""), gr.State(0)
        self.shown, self.history = gr.State(("", 0)), gr.State([])
        self.memory = gr.BrowserState({}, storage_key="locinv_pl", secret="locinv_pl")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=340):
                self._left(scenes, methods, method, steps, has_finder)
            with gr.Column(min_width=340):
                self._right()

    def _left(self, scenes: Sequence[Scene], methods: Sequence[str], method: str, steps: int, has_finder: bool) -> None:
        gr.HTML("<h2>1 · image, words, places</h2>", elem_classes="step")
        with gr.Row():
            self.upload = gr.UploadButton(
                "Upload a photograph", file_types=["image"], size="sm", min_width=130, elem_id="upload"
            )
            self.open = gr.UploadButton(
                "Open an inversion", file_types=[".safetensors"], size="sm", min_width=130, elem_id="open"
            )
        with gr.Accordion("Examples", open=True, elem_id="examples"):
            captions = [scene.caption for scene in scenes]
            images = [views.thumbnail(scene.image) for scene in scenes]
            self.examples = choices(views.choices(images, captions), "examples-choice")
        self.prompt = gr.Textbox(label="What is on it", placeholder="a cat and a dog on the grass", elem_id="prompt")
        self.caption = gr.Button("Caption", size="sm", visible=has_finder, elem_id="caption")
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
            told = [(f"{name} · {METHODS[name]}" if name in METHODS else name, name) for name in methods]
            self.method = gr.Dropdown(told, value=method, label="Method", elem_id="method")
            self.steps = gr.Number(
                steps, label="Steps", info="0 for the method's own", minimum=0, maximum=1000, precision=0,
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
                with gr.Tab("How it was made"):
                    self.explained = gr.HTML("", elem_id="explained", elem_classes="wide")
                with gr.Tab("Maps"):
                    self.edit_maps = gr.HTML("", elem_id="edit-maps", elem_classes="wide")
            with gr.Row():
                names = {
                    "get-png": "PNG",
                    "get-photo": "Photograph",
                    "get-inversion": "Inversion",
                    "get-report": "Report",
                    "get-data": "Data folder",
                }
                self.downloads = [
                    gr.DownloadButton(text, size="sm", min_width=90, elem_id=id) for id, text in names.items()
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
