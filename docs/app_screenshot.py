"""The picture of docs/app.md: the page after an edit of its first example.

``python docs/app_screenshot.py`` writes docs/app.png; it needs ``locinv_pl[app]``, Playwright and a Chromium.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from locinv_pl.app import build
from locinv_pl.networks.loading import load_backbone

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
TARGET = "a blue bird and a red cat on the grass"


def draw(path: Path) -> None:
    """Start the page, edit, and photograph it."""
    blocks = build(load_backbone("embedded"), steps=30)
    _, url, _ = blocks.launch(server_port=7999, prevent_thread_lock=True)
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1230})
        page.set_default_timeout(300_000)
        page.goto(url)
        page.click("#examples-choice button >> nth=0")
        page.wait_for_selector("#canvas canvas:visible")
        page.wait_for_timeout(1500)
        page.click("#invert:enabled")
        page.wait_for_selector("#status .good")
        page.fill("#target :is(textarea, input)", TARGET)
        page.check("#strength input[value='side by side']")
        page.click("#edit:enabled")
        page.wait_for_selector("#editing .good")
        page.click("#suggestions button >> nth=0")  # folds them
        page.wait_for_timeout(1000)
        page.mouse.move(0, 0)
        page.screenshot(path=path)
        browser.close()
    blocks.close()


if __name__ == "__main__":
    draw(Path(__file__).with_name("app.png"))
