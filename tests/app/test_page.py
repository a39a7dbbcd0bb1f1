"""The page in a real browser: everything that a person does there, and what must not happen."""

from __future__ import annotations

import io
import json
import re
import threading
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from locinv_pl.app.places import REGION
from locinv_pl.drawing import to_array
from locinv_pl.method.progress import Progress
from locinv_pl.types import Inversion

pytest_plugins = ["tabs"]

pytestmark = pytest.mark.slow


def photograph(path: Path, size: tuple[int, int], orientation: int = 1) -> Path:
    """A file whose every corner has another colour."""
    corners = Image.fromarray(np.array([[[200, 40, 40], [40, 200, 40]], [[40, 40, 200], [220, 220, 40]]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    corners.resize(size, Image.Resampling.BILINEAR).save(path, quality=95, exif=exif)
    return path


def bounds(plane: torch.Tensor) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a prior."""
    rows, columns = np.flatnonzero((plane >= 0.5).any(1)), np.flatnonzero((plane >= 0.5).any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def downloaded(tab: Any, button: str) -> bytes:
    with tab.at.expect_download() as waiting:
        tab.at.click(button)
    return Path(waiting.value.path()).read_bytes()


def test_the_whole_way_by_mouse(tab: Any, served: Any, tmp_path: Path) -> None:
    tab.upload(photograph(tmp_path / "corners.jpg", (128, 128)))
    tab.say("prompt", "a blue bird and a cat")
    tab.wait("#canvas [data-part=nouns]", "cat")
    tab.drag(0.1, 0.1, 0.5, 0.5)
    tab.at.click("#canvas [data-key=noun-1]")
    tab.drag(0.6, 0.6, 0.9, 0.9)
    tab.wait("#status", "Every noun has its place")
    tab.invert()
    assert "2/2" not in tab.text("#progress") and "inverted in" in tab.text("#progress")
    assert tab.at.locator("#maps figure").all_inner_texts() == ["bird", "cat"]
    assert tab.said("target") == "a blue bird and a cat"  # to be changed

    tab.at.click("#chips button[title='a red bird and a cat']")
    tab.wait("#diff", "red")
    assert tab.at.locator("#diff del").all_inner_texts() == ["blue"]
    assert tab.at.locator("#diff mark").all_inner_texts() == ["red"]
    tab.at.check("#strength input[value='side by side']")
    tab.edit("a red bird and a cat")
    assert tab.at.locator("#strengths figure").all_inner_texts() == ["gentle", "normal", "strong"]
    shown = tab.at.get_attribute("#compare img.after", "src")
    tab.at.click("#strengths button >> nth=2")
    tab.at.wait_for_selector("#strengths button[data-value='2'][aria-pressed=true]")
    assert tab.at.get_attribute("#compare img.after", "src") != shown

    png = Image.open(io.BytesIO(downloaded(tab, "#get-png")))
    assert png.format == "PNG" and png.size == (128, 128)
    assert png.text["target"] == "a red bird and a cat" and json.loads(png.text["settings"])
    report = downloaded(tab, "#get-report").decode()
    assert report.startswith("<!DOCTYPE html>") and report.count("mask: where the edit may change the image") == 3
    assert "locinv photo image=photo-" in report and "PhotoRun(" in report and "self_replace_steps" in report
    assert str(served.store.folder) not in report
    tab.at.click("[role=tab]:has-text('How it was made')")
    changed = tab.at.locator("#explained .changed").all_inner_texts()  # the third strength's
    assert any(text.startswith("attribute_steps") and text.endswith("not the default") for text in changed)
    assert tab.at.locator("#explained mark").all_inner_texts() == ["red"]
    (tmp_path / "image.safetensors").write_bytes(downloaded(tab, "#get-inversion"))
    assert Inversion.load(tmp_path / "image.safetensors").nouns == ("bird", "cat")
    tab.at.click("[role=tab]:has-text('Command')")
    command = tab.at.text_content("#command .cm-content") or ""
    assert "locinv photo image=photo-" in command and "box.bird=13,13,51,51" in command
    assert not tab.complaints


@pytest.mark.parametrize(
    "how",
    [
        {"size": (96, 160)},
        {"size": (160, 96), "orientation": 6},
        {"size": (300, 300), "viewport": {"width": 700, "height": 500}},
        {"size": (128, 96), "device_scale_factor": 3},
        {"size": (128, 128), "has_touch": True, "is_mobile": True, "viewport": {"width": 390, "height": 800}},
    ],
    ids=["portrait", "EXIF", "small window", "pixel ratio 3", "touch"],
)
def test_a_drawn_rectangle_is_the_prior(tabs: Any, served: Any, tmp_path: Path, how: dict[str, Any]) -> None:
    size, orientation = how.pop("size"), how.pop("orientation", 1)
    path = photograph(tmp_path / "corners.jpg", size, orientation)
    upright = size[::-1] if orientation == 6 else size
    tab = tabs(**how)
    tab.at.click("text=Fit, method, steps")
    tab.at.check("#fit input[value=pad]")
    tab.upload(path)
    tab.say("prompt", "a cat")
    tab.wait("#canvas [data-part=nouns]", "cat")
    if how.get("has_touch"):
        touch(tab, 0.25, 0.125, 0.75, 0.625)
    else:
        tab.drag(0.25, 0.125, 0.75, 0.625)
    tab.wait("#status", "Every noun has its place")
    longest, (width, height) = max(upright), upright
    scale = 128 / longest
    left, top = (longest - width) / 2, (longest - height) / 2
    meant = [left + 0.25 * width, top + 0.125 * height, left + 0.75 * width, top + 0.625 * height]
    found = bounds(served.asked.priors["cat"])
    assert np.abs(np.array(found) - scale * np.array(meant)).max() <= max(1, scale)
    assert served.asked.opened.frame.image == upright


def touch(tab: Any, x: float, y: float, to_x: float, to_y: float) -> None:
    """Draw with a finger, in the protocol's own events."""
    tab.at.locator("#canvas canvas").scroll_into_view_if_needed()
    box = tab.at.locator("#canvas canvas").bounding_box()
    session = tab.context.new_cdp_session(tab.at)
    for n, kind in enumerate(["touchStart", "touchMove", "touchMove", "touchEnd"]):
        share = n / 2
        at = {"x": box["x"] + (x + (to_x - x) * share) * box["width"]}
        at |= {"y": box["y"] + (y + (to_y - y) * share) * box["height"]}
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [] if n == 3 else [at]})


def test_brush_and_eraser(tab: Any, served: Any, tmp_path: Path) -> None:
    tab.upload(photograph(tmp_path / "corners.png", (128, 128)))
    tab.say("prompt", "a cat")
    tab.wait("#canvas [data-part=nouns]", "cat")
    tab.at.click("[data-tool=brush]")
    tab.at.evaluate(
        "e => { e.value = 20; e.dispatchEvent(new Event('input')) }", tab.at.query_selector("[data-part=size]")
    )
    tab.drag(0.25, 0.5, 0.75, 0.5)
    tab.until(lambda: "cat" in served.asked.priors)
    brushed = served.asked.priors["cat"]
    left, top, right, bottom = bounds(brushed)
    assert abs(left - 19) <= 2 and abs(right - 109) <= 2  # round ends
    assert abs(top - 51) <= 2 and abs(bottom - 77) <= 2
    tab.at.click("[data-tool=eraser]")
    tab.drag(0.75, 0.3, 0.75, 0.7)
    tab.until(lambda: served.asked.priors["cat"].sum() < brushed.sum())
    assert bounds(served.asked.priors["cat"])[2] < 90 and bounds(served.asked.priors["cat"])[0] == left
    tab.at.click("[data-part=undo]")
    tab.until(lambda: torch.equal(served.asked.priors.get("cat", torch.zeros(())), brushed))
    tab.at.click("[data-part=clear]")
    tab.until(lambda: not served.asked.priors)
    tab.at.click("[data-part=undo]")
    tab.until(lambda: torch.equal(served.asked.priors.get("cat", torch.zeros(())), brushed))


def test_keyboard_alone(tab: Any, served: Any) -> None:
    press = tab.at.keyboard.press

    def walk(selector: str) -> None:
        for _ in range(80):
            press("Tab")
            if tab.at.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"{selector}: Tab doesn't lead there")

    walk("#examples-choice button")
    press("Enter")
    tab.wait("#status", "Not drawn yet")
    walk("#prompt :is(textarea, input)")
    press("Control+A")
    tab.at.keyboard.type("a boat")
    tab.wait("#canvas [data-part=nouns]", "boat")
    walk("#canvas canvas")
    for key in ("1", "Enter", "ArrowRight", "Shift+ArrowDown"):
        press(key)
    tab.until(lambda: served.asked.places.boxes.get("boat") == [(33, 32, 64, 65)])
    press("Control+z")
    tab.until(lambda: served.asked.places.boxes.get("boat") == [(33, 32, 64, 64)])
    walk("#invert")
    press("Enter")
    tab.wait("#status", "inverted")
    walk("#target :is(textarea, input)")
    press("End")
    tab.at.keyboard.type(" and a dog")
    tab.at.wait_for_selector("#edit:enabled")
    walk("#edit")
    press("Enter")
    tab.wait("#editing", "edited in")
    before = tab.at.evaluate("getComputedStyle(document.querySelector('#compare .after')).clipPath")
    walk("#compare input")
    press("End")
    tab.at.wait_for_function(
        "before => getComputedStyle(document.querySelector('#compare .after')).clipPath !== before", arg=before
    )


def test_the_table_alone(tab: Any, served: Any) -> None:
    tab.example()
    tab.say("prompt", "a boat")
    tab.wait("#canvas [data-part=nouns]", "boat")
    tab.at.click("#canvas summary")
    for side, value in {"left": 10, "top": 20, "width": 50, "height": 60}.items():
        tab.at.fill(f"#canvas input[aria-label='boat {side}']", str(value))
        tab.at.keyboard.press("Tab")
    tab.until(lambda: served.asked.places.boxes.get("boat") == [(10, 20, 50, 60)])
    assert bounds(served.asked.priors["boat"]) == (10, 20, 60, 80)


class Eyes:
    """Stands in for the foundation models."""

    takes_points = True

    def nouns(self, image: Image.Image, nouns: Any) -> dict[str, np.ndarray]:
        mask = np.zeros((image.height, image.width), bool)
        mask[30:60, 20:50] = True
        return {nouns[0]: mask}

    def points(self, key: str, image: Image.Image, points: Any) -> dict[str, np.ndarray]:
        mask = np.zeros((image.height, image.width), bool)
        for some in points.values():
            for x, y, inside in some:
                mask[int(y) - 5 : int(y) + 5, int(x) - 5 : int(x) + 5] = inside
        return dict.fromkeys(points, mask)

    def caption(self, image: Image.Image) -> str:
        return "a boat near a cup"


def test_models_find_places_and_words(tab: Any, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "finder", Eyes())
    tab.example(1)
    tab.at.click("#caption")
    tab.until(lambda: served.asked.prompt == "a boat near a cup" and len(served.asked.priors) == 2)
    tab.at.click("[data-part=find]")
    tab.wait("#status", "not found: cup")
    tab.until(lambda: "boat" in served.asked.places.masks)
    assert tab.said("prompt") == "a boat near a cup" and bounds(served.asked.priors["boat"]) == (20, 30, 50, 60)
    assert "cup" in served.asked.places.boxes  # what isn't found stays as it was
    tab.at.click("#canvas [data-key=noun-1]")
    tab.at.click("[data-tool=point]")
    tab.drag(0.25, 0.5, 0.25, 0.5)
    tab.until(lambda: "cup" in served.asked.places.masks)
    assert np.abs(np.array(bounds(served.asked.priors["cup"])) - [27, 59, 37, 69]).max() <= 1


class Slow:
    """Stands in for the engine's generator: a step is done when it is let go."""

    def __init__(self) -> None:
        self.go, self.runs, self.closed, self.owner = threading.Semaphore(0), 0, 0, ""

    def __call__(self, backbone: Any, *_: Any, **__: Any) -> Any:
        self.runs += 1
        try:
            for step in range(1, 5):
                assert self.go.acquire(timeout=30)
                yield Progress("optimize", step, 4, 0.0)
        finally:
            self.closed += 1


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    """The inversion goes step by step."""
    made = Slow()
    monkeypatch.setattr("locinv_pl.app.page.invert_sample", made)
    return made


def test_progress_and_cancel(tab: Any, served: Any, slow: Slow) -> None:
    tab.example()
    tab.say("prompt", "a white cat")
    tab.wait("#canvas [data-part=nouns]", "cat")
    tab.at.click("#invert:enabled")
    for step in (1, 2):
        slow.go.release()
        tab.wait("#progress", f"{step}/4")
        tab.at.wait_for_selector("#invert:disabled")
    assert tab.at.get_attribute("#progress progress", "value") == "2"
    tab.at.click("#cancel")
    tab.wait("#progress", "cancelled")
    slow.go.release()  # the step that was under way
    tab.until(lambda: slow.closed == 1 and not served.worker.count)
    tab.at.wait_for_selector("#invert:enabled")
    assert tab.at.is_disabled("#cancel") and not served.store.has_inversion(served.asked.key)


def test_tabs_wait_for_each_other(tabs: Any, served: Any, slow: Slow) -> None:
    one, other = tabs(), tabs()
    for number, tab in enumerate((one, other)):
        tab.example(number)
        tab.say("prompt", f"a photo of {number} cats")
        tab.wait("#canvas [data-part=nouns]", "cats")
        tab.at.click("#invert:enabled")
        tab.until(lambda wanted=number + 1: served.worker.count == wanted)
    other.wait("#progress", "waiting: 1 before")
    slow.go.release()
    one.wait("#progress", "1/4")
    assert slow.runs == 1
    slow.owner = served.worker.owner
    one.close()  # frees the device
    other.until(lambda: not served.worker.is_busy(slow.owner))
    slow.go.release(2)
    other.wait("#progress", "1/4")
    assert slow.runs == 2 and slow.closed == 1 and other.said("prompt") == "a photo of 1 cats"
    other.at.click("#cancel")
    other.wait("#progress", "cancelled")
    slow.go.release(2)
    other.until(lambda: not served.worker.count)


def test_a_prompt_undone_is_found_again(tab: Any, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tab.example(1)
    tab.invert()
    tab.edit("a blue boat and a red cup in the water")
    prompt = tab.said("prompt")
    tab.say("prompt", "a boat and a red cup in the water")
    tab.at.wait_for_selector("#edit:disabled")
    tab.at.wait_for_selector("#invert:enabled")
    monkeypatch.setattr("locinv_pl.app.page.invert_sample", None)  # no step is made any more
    tab.say("prompt", prompt)
    tab.at.wait_for_selector("#edit:enabled")
    assert tab.at.is_disabled("#invert")

    edits = served.worker.done
    tab.say("target", "a white boat and a green cup in the water")
    tab.at.dblclick("#edit:enabled")
    tab.at.wait_for_selector("#history button:nth-child(2)")
    tab.at.wait_for_selector("#edit:enabled")
    assert served.worker.done == edits + 1

    tab.at.click("#history button >> nth=1")
    tab.wait("#diff", "blue")
    assert tab.said("target") == "a blue boat and a red cup in the water"
    assert not tab.complaints
    tab.at.reload()
    tab.wait("#canvas [data-part=nouns]", "✓")
    tab.at.wait_for_selector("#edit:enabled")
    assert tab.said("prompt") == prompt and tab.at.locator("#history button").count() == 2


def test_the_snippet_makes_the_same_image(
    tab: Any, served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab.example(1)
    tab.at.click("#canvas [data-key=noun-1]")
    tab.at.click("[data-tool=brush]")  # what has a box and is brushed is a mask
    tab.drag(0.6, 0.6, 0.8, 0.6)
    tab.until(lambda: "cup" in served.asked.places.masks)
    tab.at.click("#canvas [data-key=noun-3]")  # the region of the edit
    tab.at.click("[data-tool=box]")
    tab.drag(0.4, 0.4, 0.95, 0.95)
    tab.until(lambda: served.asked.places.has(REGION))
    tab.invert()
    tab.at.check("#strength input[value=strong]")
    tab.edit("a white boat and a red ball in the water")
    shown = Image.open(io.BytesIO(downloaded(tab, "#get-png")))
    whole = Image.open(io.BytesIO(downloaded(tab, "#get-photo")))
    zipfile.ZipFile(io.BytesIO(downloaded(tab, "#get-data"))).extractall(tmp_path)
    photograph = Image.open(next(tmp_path.glob("photo-*.png")))
    assert whole.size == photograph.size and whole.text["target"] == "a white boat and a red ball in the water"
    changed = (np.asarray(whole) != np.asarray(photograph)).any(-1)
    assert changed.any() and not changed[: int(0.2 * whole.height)].any()  # far above the region
    snippet = "\n".join(tab.at.locator("#python .cm-line").all_inner_texts())
    assert "PhotoRun" in snippet and "masks/" in snippet and "region=" in snippet
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(snippet, made)
    assert np.array_equal(to_array(made["images"][0]), np.asarray(shown))


def test_an_inversion_is_opened(tabs: Any, served: Any, tmp_path: Path) -> None:
    tab = tabs()
    tab.example(2)
    tab.invert()
    saved = tmp_path / "saved.safetensors"
    saved.write_bytes(served.store.inversion_path(served.asked.key).read_bytes())
    tab = tabs()
    tab.give("#open", saved)
    tab.wait("#status", "inverted")
    assert tab.said("prompt") == "a yellow bird and an orange fish on the sand"
    tab.edit("a red bird and an orange fish on the sand")


def test_errors_are_one_line(tab: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    tab.give("#upload", broken)
    tab.at.wait_for_selector("#status .error")
    text = tab.text("#status .error")
    assert "is no image" in text and "\n" not in text and "/" not in text
    tab.example()
    tab.say("prompt", "a cat " * 40)
    tab.at.click("#invert:enabled")
    tab.at.wait_for_selector("#progress .error")
    text = tab.text("#progress .error")
    assert "\n" not in text and str(tmp_path.parent) not in text and "tokens" in text
    saved = tmp_path / "saved.safetensors"
    saved.write_bytes(b"nothing")
    tab.give("#open", saved)
    tab.wait("#progress", "saved.safetensors")
    assert str(tmp_path) not in tab.text("#progress") and "gradio" not in tab.text("#progress")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(tabs: Any, scheme: str) -> None:
    tab = tabs(viewport={"width": 390, "height": 800}, color_scheme=scheme, is_mobile=True, has_touch=True)
    tab.example(3)
    tab.say("prompt", f"an orange cat and a {scheme} chair")
    tab.invert()
    tab.edit("a blue cat and a black chair")
    assert tab.at.evaluate("document.documentElement.scrollWidth") <= 390
    ink = tab.at.eval_on_selector("#status .said", "e => getComputedStyle(e).color")
    paper = tab.at.eval_on_selector("body", "e => getComputedStyle(e).backgroundColor")
    assert (brightness(ink) > brightness(paper)) == (scheme == "dark")
    assert abs(brightness(ink) - brightness(paper)) > 0.3
    assert not tab.complaints


def brightness(colour: str) -> float:
    """Of a colour as the browser tells it, 0 to 1."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", colour.partition("(")[2])]
    return sum(numbers[:3]) / 3 / (1 if colour.startswith("color(") else 255)


def answer(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_what_is_refused(served: Any, tmp_path: Path) -> None:
    api = f"{served.url}gradio_api/"
    (tmp_path / "secret.txt").write_text("secret")
    assert answer(served.url) == 200
    assert answer(served.url, Host="evil.example") == 403
    assert answer(served.url, Origin="http://evil.example") == 403
    assert answer(f"{api}file={tmp_path / 'secret.txt'}") == 403
    assert answer(f"{api}file=/etc/passwd") == 403
    assert answer(f"{api}file={next(served.store.folder.glob('*/*'), '/none')}") in (403, 404)
    assert answer(f"{served.url}openapi.json") == 404 and answer(f"{served.url}docs") == 404
    with urllib.request.urlopen(f"{api}info") as reply:
        named = json.load(reply)
    assert not named["named_endpoints"] and not named["unnamed_endpoints"]
