"""The report of a run's edits: one page, that needs nothing else, read by a parser and by a real browser."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shlex
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_image
from PIL import Image
from test_types import SETTINGS, make_scores

from locinv_pl.callbacks.report import MAPS, marked, write_report
from locinv_pl.drawing import heat_strip, to_array, to_jpeg, to_png
from locinv_pl.errors import InputError
from locinv_pl.io.files import read_json, write_atomically, write_json
from locinv_pl.run.store import RunFolder

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
EVIL = '<script>document.title="evil"</script>"\'&amp; <img src=x onerror="document.title=\'evil\'">'
CHROMIUM = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome")


def save(path: Path, seed: int, size: int) -> None:
    write_atomically(path, to_png(Image.fromarray(to_array(make_image(size, seed)))))


def add_image(run: RunFolder, id: str, prompt: str, edits: Sequence[str], size: int = 64, **given: Any) -> None:
    """What predict writes of an image with a cat and a dog."""
    folder, rows = run.edits_path(id), []
    settings = {"cross_replace_steps": 0.8, "blend": "none"} | given.get("settings", {})
    for n, name in enumerate(("source", "reconstruction")):
        save(folder / f"{name}.png", n, size)
    for n, text in enumerate(edits, start=1):
        kind = given.get("kind", "word_swap")
        save(folder / f"{n}-edit.png", 10 + n, size)
        rows.append({"file": f"{n}-edit.png", "kind": kind, "prompt": text, "settings": settings})
    nouns = [{"word": word, "ddim": [0.25, 0.125], "inversion": [0.75, 0.5]} for word in given.get("nouns", ("cat",))]
    for k in range(len(nouns)):
        for name in ("ddim", "inversion"):
            strip = heat_strip(torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(k)).unbind())
            write_atomically(folder / MAPS / f"{k + 1}-{name}.jpg", to_jpeg(strip))
    write_json(folder / MAPS / "maps.json", {"num_steps": 50, "steps": [49], "nouns": nouns})
    write_json(folder / "edits.json", {"id": id, "prompt": prompt, "edits": rows})


def new_run(root: Path) -> RunFolder:
    write_json(root / "settings.json", {**SETTINGS, "num_steps": 50, "data": {"prior": "box"}})
    return RunFolder(root)


@pytest.fixture(scope="module", autouse=True)
def coarse_figures() -> None:
    """None: sheets are drawn as they are."""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two images, three edits."""
    run = new_run(tmp_path)
    add_image(run, "one", "a red cat on grass", ["a red tiger on grass", "a cat on grass"], nouns=("cat", "grass"))
    add_image(run, "two", "a dog", ["a big dog"], nouns=())
    run.save_scores("inversions", "one", make_scores("one", psnr=31.26))
    return run


class Reader(HTMLParser):
    """Elements of a page; every element must be closed, in order."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """It must be the last one that was opened."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Remember it with its element."""
        if self.open and data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a name."""
        return [attributes for name, attributes in self.elements if name == tag]


def read(run: RunFolder) -> tuple[str, Reader]:
    page = write_report(run).read_text()
    return page, Reader(page)


class TestPage:
    """The file alone."""

    def test_it_needs_nothing_else(self, run: RunFolder) -> None:
        page, reader = read(run)
        assert "://" not in page and "url(" not in page and "@import" not in page
        sources = [a[key] for _, a in reader.elements for key in ("src", "href", "data", "srcset") if key in a]
        assert sources and all(source.startswith("data:") for source in sources)
        assert "default-src 'none'; img-src data:" in page
        assert {tag for tag, _ in reader.elements} & {"iframe", "object", "embed"} == set()

    def test_it_has_every_image_once(self, run: RunFolder) -> None:
        _, reader = read(run)
        images = reader.of("img")
        uris = [a["src"] for a in images if "src" in a]
        assert len(uris) == (2 + 2 + 3 + 2 * 2) + (2 + 1 + 2)  # images, differences and maps
        assert all(a["loading"] == "lazy" and "alt" in a for a in images)
        ids = {a["id"] for a in images if "id" in a}
        assert {a["data-copy"] for a in images if "data-copy" in a} <= ids
        assert len({a["id"] for _, a in reader.elements if "id" in a}) == len(ids) + 2

    def test_it_says_what_made_them(self, run: RunFolder) -> None:
        page, reader = read(run)
        facts = [text for tag, text in reader.texts if tag == "dd"]
        assert facts == ["locinv", "box", "50", "tiny", "2", "3"]
        texts = [text for _, text in reader.texts]
        assert "PSNR 31.3 dB" in texts and "IoU 0.25" in texts and "IoU 0.75" in texts
        assert ("mark", "tiger") in reader.texts and ("del", "cat") in reader.texts
        assert json.dumps(["mean of all 50", "50 of 50"]) in [a.get("data-texts") for a in reader.of("input")]

    def test_settings_that_differ_stand_with_their_edits(self, run: RunFolder) -> None:
        add_image(run, "three", "a dog", ["a cat"], settings={"blend": "prior"})
        _, reader = read(run)
        texts = [text for _, text in reader.texts]
        assert texts.count("blend none") == 3 and texts.count("blend prior") == 1
        assert not any(text.startswith("cross_replace_steps") for text in texts)

    def test_it_explains_every_edit(self, tmp_path: Path) -> None:
        run = new_run(tmp_path / "my run")
        add_image(run, "one", "a red cat on grass", ["a red dog on wet grass", "a cat on grass"])
        listed = read_json(run.edits_path("one") / "edits.json")
        first, second = listed["edits"]
        first |= {"mask": "1.mask-edit.png", "settings": {"swap_steps": 0.5, "weights": [["red", 2, 5, 1.5], [None]]}}
        second["settings"] = {"strength": 0.5}
        write_json(run.edits_path("one") / "edits.json", listed)
        mask = Image.new("L", (16, 16))
        mask.paste(255, (0, 0, 8, 8))
        write_atomically(run.edits_path("one") / "1.mask-edit.png", to_png(mask))
        _, reader = read(run)
        texts = [text for _, text in reader.texts]
        told = [texts[n + 1 : n + 3] for n, text in enumerate(texts) if text == "replaced"]
        assert told == [["cat", "dog"]] and texts[texts.index("added") + 1] == "wet"
        assert texts[texts.index("removed") + 1] == "red" and texts[texts.index("weight") + 1] == "red × 1.5"
        assert "The edit may change 25% of the image, the bright part." in texts
        assert [a["class"] for a in reader.of("img") if "mask" in (a["alt"] or "")] == ["over"]
        (command,) = [text for text in texts if text.startswith("locinv edit")]  # none for the other editor's
        words = [str(run.root), "image=one", "prompt=a (red:1.5) dog on wet grass", "edit.swap_steps=0.5"]
        assert shlex.split(command) == ["locinv", "edit", *words]

    def test_texts_are_escaped(self, tmp_path: Path) -> None:
        run = new_run(tmp_path)
        add_image(run, EVIL, EVIL, [EVIL + " x"], kind=EVIL, nouns=(EVIL,), settings={"blend": EVIL})
        add_image(run, "other", "a cat", ["a dog"])
        path = tmp_path / "settings.json"
        write_json(path, {**read_json(path), "backbone": EVIL})
        _, reader = read(run)
        assert len(reader.of("script")) == 1
        assert not [a for _, a in reader.elements for key in a if key.startswith("on")]
        texts = [text for _, text in reader.texts]
        assert texts.count(EVIL) == 6  # backbone, prompt, id, kind, noun, and in the marked prompt
        assert all(src is None or src.startswith("data:") for src in (a.get("src") for _, a in reader.elements))

    def test_large_images_are_made_light(self, tmp_path: Path) -> None:
        run = new_run(tmp_path)
        noise = torch.rand(3, 700, 900, generator=torch.Generator().manual_seed(0))
        add_image(run, "large", "a cat", ["a dog"], nouns=())
        for name in ("source", "reconstruction", "1-edit"):
            write_atomically(run.edits_path("large") / f"{name}.png", to_png(Image.fromarray(to_array(noise))))
        page, reader = read(run)
        kinds = [str(a["src"])[:15] for a in reader.of("img") if "src" in a]
        assert kinds == 5 * ["data:image/jpeg"]
        assert len(page) < 1_200_000 < sum(p.stat().st_size for p in run.edits_path("large").glob("*.png"))

    def test_a_run_without_edits_and_maps(self, tmp_path: Path) -> None:
        run = new_run(tmp_path)
        assert "No image" in read(run)[0]
        add_image(run, "bare", "a cat", [])
        shutil.rmtree(run.edits_path("bare") / MAPS)
        assert len(read(run)[1].of("article")) == 1

    @pytest.mark.parametrize("name", ["source.png", "1-edit.png"])
    @pytest.mark.parametrize("is_there", [True, False])
    def test_a_damaged_image_is_named(self, run: RunFolder, name: str, is_there: bool) -> None:
        path = run.edits_path("one") / name
        path.unlink()
        if is_there:
            path.write_bytes(b"nothing")
        with pytest.raises(InputError, match=f"{name}: (can't be read|no such file).*; run predict again"):
            write_report(run)


@pytest.mark.parametrize(
    ("source", "target", "html"),
    [
        ("a cat", "a cat", "a cat"),
        ("a cat", "a dog", "a <del>cat</del> <mark>dog</mark>"),
        ("A Cat", "a cat.", "a cat."),
        ("a red cat, here", "a cat, here", "a <del>red</del> cat, here"),
        ("a cat", "a big, red cat", "a <mark>big, red</mark> cat"),
        ("a cat on grass", "a cat", "a cat <del>on grass</del> "),
        ("cat", "the cat", "<mark>the</mark> cat"),
        ("big cat", "cat", "<del>big</del> cat"),
        ("", "a cat", "<mark>a cat</mark>"),
        ("a <b>", "a <i> & more", "a &lt;<del>b</del> <mark>i&gt; &amp; more</mark>"),
    ],
)
def test_changed_words_are_marked(source: str, target: str, html: str) -> None:
    assert marked(source, target) == html


class Browser:
    """Headless Chromium, spoken to in the DevTools protocol through two pipes; the standard library is enough."""

    PATIENCE = 120  # seconds

    def __init__(self, program: str, folder: Path):
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (theirs_in, theirs_out)]
        words = [program, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
        words += ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]
        self.log = folder / "chromium.log"
        self.pid = os.posix_spawnp(
            program,
            words,
            {**os.environ, "HOME": str(folder)},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, high[0], 3),
                (os.POSIX_SPAWN_DUP2, high[1], 4),
                (os.POSIX_SPAWN_OPEN, 1, self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_OPEN, 2, self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            ],
        )
        for fd in (theirs_in, theirs_out, *high):
            os.close(fd)
        self.input, self.output, self.buffer, self.number = ours_in, ours_out, b"", 0
        self.events: list[dict[str, Any]] = []
        self.session = ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and wait for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.output, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + self.PATIENCE
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.input], [], [], max(0, deadline - time.monotonic()))
            part = os.read(self.input, 1 << 20) if ready else b""
            assert part, f"Chromium says nothing: {self.log.read_text()[-2000:]}"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return dict(json.loads(message))

    def open(self, path: Path, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """Show a page, and wait until it is there."""
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def run(self, script: str) -> Any:
        """The value of an expression; promises are awaited."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def middle(self, selector: str) -> tuple[float, float]:
        """Where an element is, scrolled into view."""
        x, y = self.run(
            f"(e => {{ e.scrollIntoView({{block: 'center', behavior: 'instant'}}); const r = e.getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        return x, y

    def drag(self, selector: str, by: float) -> None:
        """Press the mouse in the middle of an element, and drag it to the right."""
        x, y = self.middle(selector)
        for kind, at in (("mousePressed", x), ("mouseMoved", x + by), ("mouseReleased", x + by)):
            self.send("Input.dispatchMouseEvent", type=kind, x=at, y=y, button="left", buttons=1, clickCount=1)

    def press(self, key: str, code: int) -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def complaints(self) -> list[dict[str, Any]]:
        """What the console would show in red or yellow, and what was asked of a network."""
        self.run("new Promise(resolve => setTimeout(resolve, 50))")
        said = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        found = [event for event in self.events if event.get("method") in said]
        for event in self.events:
            if event.get("method") == "Network.requestWillBeSent":
                is_own = event["params"]["request"]["url"].startswith(("data:", "file:"))
                found += [] if is_own else [event]
        return found

    def close(self) -> None:
        """End it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.input)
        os.close(self.output)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium of $CHROMIUM or of the PATH."""
    named = os.environ.get("CHROMIUM")
    program = named or next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no Chromium: apt-get install chromium, or name it in $CHROMIUM; looked for {', '.join(CHROMIUM)}")
    browser = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


CLIP = "getComputedStyle(document.querySelectorAll('.after')[1]).clipPath"
SECOND = ".card:nth-child(2) .cut"
LOADED = """
(async () => {
  const sizes = [];
  for (const img of document.images) {
    img.scrollIntoView();
    await img.decode();
    sizes.push(Math.min(img.naturalWidth, img.getBoundingClientRect().width));
  }
  return sizes;
})()
"""


class TestBrowser:
    """The page in Chromium."""

    @pytest.fixture
    def page(self, browser: Browser, run: RunFolder) -> Iterator[Browser]:
        """The report, opened; it must have no complaint to the end."""
        browser.open(write_report(run))
        yield browser
        assert browser.complaints() == []

    def test_all_images_are_there(self, page: Browser) -> None:
        sizes = page.run(LOADED)
        assert len(sizes) == 16 + 2 * 3 + 2 * 2 and min(sizes) > 0

    def test_the_mouse_moves_the_cut(self, page: Browser) -> None:
        before = page.run(CLIP)
        assert before == "inset(0px 0px 0px 8%)"
        page.drag(SECOND, by=60)
        after = page.run(CLIP)
        width = page.run(f"document.querySelector({json.dumps(SECOND)}).offsetWidth")
        assert float(re.findall(r"([\d.]+)%", after)[0]) == pytest.approx(50 + 100 * 60 / width, abs=1.5)
        bar = page.run("document.querySelector('.card:nth-child(2) .bar').offsetLeft + 1")
        assert bar == pytest.approx(width / 2 + 60, abs=4)

    def test_the_keyboard_moves_the_cut(self, page: Browser) -> None:
        page.run(f"document.querySelector({json.dumps(SECOND)}).focus()")
        for _ in range(3):
            page.press("ArrowRight", 39)
        assert page.run(CLIP) == "inset(0px 0px 0px 11%)"

    def test_the_image_before_is_chosen(self, page: Browser) -> None:
        seen = (
            "[...document.querySelectorAll('.of-back, .of-source')]"
            ".filter(e => getComputedStyle(e).visibility == 'visible').map(e => e.className)"
        )
        assert set(page.run(seen)) == {"of-back"}
        page.run("document.querySelector('[value=source]').click()")
        assert set(page.run(seen)) == {"of-source"}

    def test_the_timestep_moves_the_maps(self, page: Browser) -> None:
        state = (
            "[document.querySelector('.maps output').textContent,"
            " ...[...document.querySelectorAll('.panel b')].map(b => b.textContent),"
            " getComputedStyle(document.querySelector('.heat')).transform.split(' ').pop()]"
        )
        *before, top = page.run(state)
        assert before == ["mean of all 50", *2 * ["IoU 0.25", "IoU 0.75"]] and top == "0)"
        page.run("document.querySelector('.pick').focus()")
        page.press("ArrowRight", 39)
        *after, top = page.run(state)
        assert after == ["50 of 50", *2 * ["IoU 0.13", "IoU 0.50"]]
        height = page.run("document.querySelector('.frame').getBoundingClientRect().height")
        assert float(top.rstrip(")")) == pytest.approx(-height, abs=0.5)

    def test_the_filter(self, page: Browser) -> None:
        def shown(text: str) -> list[str]:
            page.run(
                f"(i => {{ i.value = {json.dumps(text)}; i.dispatchEvent(new Event('input', {{bubbles: true}})); }})"
                "(document.getElementById('filter'))"
            )
            return page.run(
                "[document.getElementById('found').textContent,"
                " ...[...document.querySelectorAll('article')].filter(a => a.offsetHeight)"
                ".map(a => a.querySelector('.id').textContent)]"
            )

        assert shown("BIG  dog") == ["1 of 2", "two"]
        assert shown("tiger") == ["1 of 2", "one"]
        assert shown("cat dog") == ["0 of 2"]
        assert shown("") == ["2 of 2", "one", "two"]

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [360, 1500])
    def test_it_fits_a_phone_and_a_desk(self, page: Browser, run: RunFolder, width: int, scheme: str) -> None:
        page.open(run.root / "report.html", width=width, scheme=scheme)
        assert page.run("document.documentElement.scrollWidth") <= width
        red = int(page.run("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
        assert (red < 64) == (scheme == "dark")

    def test_a_script_in_a_prompt_does_not_run(self, browser: Browser, tmp_path: Path) -> None:
        run = new_run(tmp_path)
        add_image(run, EVIL, EVIL, [EVIL + " x"], kind=EVIL, nouns=(EVIL,))
        browser.open(write_report(run))
        assert min(browser.run(LOADED)) > 0
        assert browser.run("document.title") == "Edited images"
        assert browser.complaints() == []
