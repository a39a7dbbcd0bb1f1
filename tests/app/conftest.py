"""One server and one browser for all tests of the page, which are one module.

Playwright keeps an event loop running in the thread of the tests, in which no other test could start its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 30_000  # milliseconds


def chromium() -> str | None:
    """The browser of $CHROMIUM or of the PATH."""
    return os.environ.get("CHROMIUM") or next((path for name in CHROMIUM if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")  # all of them are in one
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    program = chromium()
    if program is None:
        pytest.skip(f"no Chromium: apt-get install chromium, or name it in $CHROMIUM; looked for {', '.join(CHROMIUM)}")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")  # all of them are in one
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page of the embedded model with two steps; ``asked`` keeps what it was asked for last."""
    pytest.importorskip("gradio", reason='no Gradio: pip install "locinv_pl[app]"')
    from locinv_pl.app.page import Asked, Page
    from locinv_pl.grounding import FoundationModels
    from locinv_pl.networks.loading import load_backbone

    class Recording(Page):
        asked: Asked
        url: str

        def ask(self, *values: Any) -> Asked:
            self.asked = super().ask(*values)
            return self.asked

    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("gradio"))
    page = Recording(
        load_backbone("embedded"), tmp_path_factory.mktemp("store"), method="direct", steps=2, models=FoundationModels()
    )
    blocks = page.build()
    _, url, _ = blocks.launch(prevent_thread_lock=True)
    page.url = url
    yield page
    blocks.close()


# A tab begins with nothing remembered, and remembers over reloads.
FORGET = "if (!sessionStorage.begun) { localStorage.clear(); sessionStorage.begun = 1; }"


class Tab:
    """A tab of the browser with the page in it, and what its console and network said."""

    def __init__(self, context: Any, page: Any):
        self.context, self.url, self.server = context, page.url, page
        self.complaints: list[str] = []
        self.at = context.new_page()
        self.at.on("console", self._console)
        self.at.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.at.on("request", self._request)
        self.at.goto(self.url)
        self.at.wait_for_selector("#examples-choice button")

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.complaints.append(request.url)

    def text(self, selector: str) -> str:
        """What an element says."""
        return str(self.at.inner_text(selector)).strip()

    def say(self, where: str, text: str) -> None:
        """Write a prompt."""
        self.at.fill(f"#{where} :is(textarea, input)", text)

    def said(self, where: str) -> str:
        """The prompt that stands there."""
        return str(self.at.input_value(f"#{where} :is(textarea, input)"))

    def wait(self, selector: str, text: str) -> None:
        """Wait until an element says something."""
        self.at.wait_for_function(
            "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)", arg=[selector, text]
        )

    def until(self, is_true: Any) -> None:
        """Wait until something holds on the server's side."""
        for _ in range(PATIENCE // 20):
            if is_true():
                return
            self.at.wait_for_timeout(20)
        raise AssertionError("it never came true")

    def upload(self, path: Path) -> None:
        """Give the page a photograph, and wait until it is on the canvas."""
        self.give("#upload", path)
        self.at.wait_for_selector("#canvas canvas:visible")

    def give(self, button: str, path: Path) -> None:
        """Choose a file."""
        with self.at.expect_file_chooser() as chooser:
            self.at.click(button)
        chooser.value.set_files(str(path))

    def example(self, number: int = 0) -> None:
        """Take a drawn scene, and wait until its boxes are on the canvas."""
        self.at.click(f"#examples-choice button >> nth={number}")
        self.wait("#canvas [data-part=nouns]", "✓")
        self.until(lambda: self.server.asked.priors)

    def drag(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """Drag the mouse over the canvas, in shares of its sides."""
        self.at.locator("#canvas canvas").scroll_into_view_if_needed()
        box = self.at.locator("#canvas canvas").bounding_box()
        self.at.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        self.at.mouse.down()
        self.at.mouse.move(box["x"] + to_x * box["width"], box["y"] + to_y * box["height"], steps=4)
        self.at.mouse.up()

    def invert(self) -> None:
        """Invert, and wait until it is done."""
        self.at.click("#invert:enabled")
        self.wait("#status", "inverted")

    def edit(self, target: str) -> None:
        """Edit, and wait until it is done."""
        self.say("target", target)
        self.at.click("#edit:enabled")
        self.wait("#editing", "edited in")

    def close(self) -> None:
        """Close it."""
        self.at.close()


@pytest.fixture(scope="module")
def contexts(browser: Any) -> Iterator[Any]:
    """Makes windows; those without a wish are one, which has the page's files already."""
    known: dict[str, Any] = {}

    def context(**options: Any) -> Any:
        if str(options) not in known:
            made = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
            made.set_default_timeout(PATIENCE)
            made.add_init_script(FORGET)
            known[str(options)] = made
        return known[str(options)]

    yield context


@pytest.fixture
def tabs(contexts: Any, served: Any) -> Iterator[Any]:
    """Opens tabs, in a window of the wishes given, which are closed at the end."""
    opened: list[Tab] = []

    def new(**options: Any) -> Tab:
        opened.append(Tab(contexts(**options), served))
        return opened[-1]

    yield new
    for tab in opened:
        tab.close()


@pytest.fixture
def tab(tabs: Any) -> Tab:
    """One tab."""
    return tabs()
