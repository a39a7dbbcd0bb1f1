"""What the page is made of, without a browser: drawings as priors, the worker's queue, suggestions, the guard."""

from __future__ import annotations

import ast
import asyncio
import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from locinv_pl.app.places import PNG, REGION, Places, shrunk
from locinv_pl.app.store import Store
from locinv_pl.app.suggestions import suggest, without
from locinv_pl.app.worker import Cancelled, Waiting, Worker
from locinv_pl.cli.main import main
from locinv_pl.errors import InputError
from locinv_pl.io.frames import Frame
from locinv_pl.words import Word

ROOT = Path(__file__).resolve().parents[2]


def drawn(**parts: Any) -> str:
    return json.dumps({"photo": "p", "boxes": [], "masks": {}, "points": [], **parts})


def png(mask: np.ndarray) -> str:
    image = Image.new("RGBA", mask.shape[::-1])
    image.putalpha(Image.fromarray(mask))
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return PNG + base64.b64encode(buffer.getvalue()).decode()


def test_gradio_is_imported_in_the_room_alone() -> None:
    for path in sorted((ROOT / "locinv_pl").rglob("*.py")):
        tree = ast.parse(path.read_text())
        nodes = list(tree.body if path.name == "__init__.py" else ast.walk(tree))  # there, when it is needed
        modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        if any(str(module).split(".")[0] == "gradio" for module in modules):
            assert path.parent.name == "app" and path.name != "__init__.py"


def test_boxes_and_brush_make_one_prior() -> None:
    mask = np.zeros((50, 100), bool)
    mask[40:, 90:] = True
    places = Places.of(drawn(boxes=[{"noun": "cat", "x": 20, "y": 0, "w": 40, "h": 20}], masks={"cat": png(mask)}))
    plane = places.prior("cat", Frame.whole(200, 100))
    assert plane is not None and plane[:20, 20:60].all() and plane[80:, 180:].all()
    assert int(plane.sum()) == 40 * 20 + 20 * 20
    assert torch.equal(torch.from_numpy(places.whole("cat", (200, 100))).float(), plane)
    assert places.prior("dog", Frame.whole(200, 100)) is None and not places.has(REGION)
    square = places.prior("cat", Frame.fitting(200, 100, 50))  # the middle: half of the box is seen
    assert square is not None and bool(square[:10, :5].all()) and int(square.sum()) == 50
    assert Places.of(places.to_json().replace('"some": null', '"points": []')).boxes == places.boxes


def test_a_lone_box_stays_a_box() -> None:
    places = Places.of(drawn(boxes=[{"noun": "cat", "x": 1, "y": 2, "w": 3, "h": 4}]))
    assert places.own("cat", (20, 10)) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "nonsense",
        drawn(masks={"cat": "data:image/png;base64,AAAA"}),
        drawn(masks={"cat": png(np.ones((4, 2000), bool))}),
        drawn(masks={"cat": "data:image/gif;base64,R0lGODlhAQABAAAAACw="}),
        drawn(boxes=[{"noun": "cat", "x": "left", "y": 0, "w": 1, "h": 1}]),
        drawn(boxes=[{"noun": "cat", "x": 0, "y": 0, "w": 1, "h": 1}] * 65),
    ],
)
def test_other_drawings_are_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Places.of(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-5", "1e12"])
def test_numbers_that_are_no_box_are_refused(number: str) -> None:
    text = drawn(boxes=[{"noun": "cat", "x": 0, "y": 0, "w": 7, "h": 7}]).replace("7", number, 1)
    with pytest.raises(InputError):
        Places.of(text).prior("cat", Frame.whole(20, 20))


def test_masks_are_shrunk() -> None:
    mask = np.zeros((2048, 512), bool)
    mask[:1024] = True
    assert shrunk(mask).shape == (1024, 256) and shrunk(mask)[:512].all() and not shrunk(mask)[512:].any()


@pytest.mark.parametrize(
    ("prompt", "word", "left"),
    [
        ("a cat, a dog, and a bird", "dog", "a cat, and a bird"),
        ("a cat on grass", "grass", "a cat"),
        ("a cat on grass", "cat", "on grass"),
        ("a crowd of cats", "cats", "a crowd of cats"),
    ],
)
def test_words_are_removed(prompt: str, word: str, left: str) -> None:
    at = prompt.index(word)
    assert without(prompt, Word(word, (at, at + len(word)))) == left


def test_backdrops_are_swapped_for_backdrops() -> None:
    grass = [s for s in suggest("a cat on grass") if s.noun == "grass"]
    assert {s.kind for s in grass} == {"swap", "remove"} and "a cat on sand" in {s.prompt for s in grass}


# ---- the worker


def counting(go: threading.Semaphore, upto: int, closed: list[str], name: str) -> Iterator[int]:
    try:
        for number in range(upto):
            assert go.acquire(timeout=20)
            yield number
    finally:
        closed.append(name)


async def collected(worker: Worker, make: Any, owner: str) -> list[Any]:
    return [item async for item in worker.run(make, owner)]


def test_jobs_take_turns_and_say_how_many_are_before() -> None:
    worker, go, closed = Worker(), threading.Semaphore(0), []

    async def all_three() -> list[list[Any]]:
        names = ("0", "1", "2")
        jobs = [asyncio.create_task(collected(worker, lambda n=n: counting(go, 2, closed, n), n)) for n in names]
        while worker.count < 3:
            await asyncio.sleep(0.01)
        go.release(6)
        return await asyncio.gather(*jobs)

    first, second, third = asyncio.run(all_three())
    assert first == [Waiting(0), 0, 1] and closed == ["0", "1", "2"]
    assert second == [Waiting(1), 0, 1] and third == [Waiting(2), Waiting(1), 0, 1]


def test_cancelling_ends_after_the_step_and_lets_the_next_in() -> None:
    worker, go, closed = Worker(), threading.Semaphore(0), []

    async def both() -> list[Any]:
        one = asyncio.create_task(collected(worker, lambda: counting(go, 99, closed, "one"), "one"))
        other = asyncio.create_task(collected(worker, lambda: counting(go, 1, closed, "other"), "other"))
        while worker.count < 2:
            await asyncio.sleep(0.01)
        assert worker.owner == "one" and worker.is_busy("other") and worker.cancel("one") == 1
        with pytest.raises(Cancelled):
            await one
        go.release(2)
        return await other

    assert asyncio.run(both()) == [Waiting(1), 0] and closed == ["one", "other"]
    assert not worker.cancel("one")


def test_leaving_the_queue_and_a_full_queue() -> None:
    worker, go, closed = Worker(most=1), threading.Semaphore(0), []

    async def three() -> None:
        one = asyncio.create_task(collected(worker, lambda: counting(go, 1, closed, "one"), "one"))
        other = asyncio.create_task(collected(worker, lambda: counting(go, 1, closed, "other"), "other"))
        while worker.count < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(InputError, match="busy: 1 others"):
            await collected(worker, lambda: iter(()), "third")
        other.cancel()  # its tab was closed
        with pytest.raises(asyncio.CancelledError):
            await other
        assert worker.count == 1
        go.release()
        assert await one == [Waiting(0), 0]

    asyncio.run(three())
    assert closed == ["one"]


def test_errors_come_through_and_the_worker_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    worker = Worker(seconds=0)

    def failing(error: Exception) -> Iterator[int]:
        yield from ()
        raise error

    with pytest.raises(InputError, match="a line"):
        asyncio.run(collected(worker, lambda: failing(InputError("a line")), ""))
    with pytest.raises(RuntimeError, match="^KeyError$"):
        asyncio.run(collected(worker, lambda: failing(KeyError("/secret/path")), ""))
    assert "/secret/path" in capsys.readouterr().err  # for the server's log alone
    with pytest.raises(InputError, match="stopped: took longer than 0 s"):
        asyncio.run(collected(worker, lambda: iter([1, 2]), ""))


# ---- files, doors


def test_the_store_keeps_the_newest_and_knows_no_paths(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", gigabytes=3e-6)
    noise = np.random.default_rng(0).integers(0, 255, (2, 24, 24, 3), dtype=np.uint8)
    one, other = (store.add_image(Image.fromarray(image)) for image in noise)
    assert store.photo_path(other).exists()
    for key in (one, "../photos/" + other, "/etc/passwd", ""):
        with pytest.raises(InputError, match="photograph: is no longer kept"):
            store.photo_path(key)
    assert not store.has_inversion("../photos/" + other) and not store.has_edit(other)


def test_large_photographs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match="has 21 MB"):
        store.add_photo(bytes(21_000_000))
    monkeypatch.setattr("locinv_pl.app.store.MEGAPIXELS", 0.0001)
    with pytest.raises(InputError, match="megapixels") as caught:
        store.add_image(Image.new("RGB", (20, 20)))
    assert str(tmp_path) not in str(caught.value) and not list(store.folder.glob("photos/*"))


def test_what_no_model_sees_is_reduced(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", side=32)
    assert store.shown(store.add_image(Image.new("RGB", (96, 64)))).size == (48, 32)
    assert store.shown(store.add_image(Image.new("RGB", (96, 30)))).size == (96, 30)


def test_the_guard() -> None:
    pytest.importorskip("gradio")
    from locinv_pl.app.server import LOOPBACK, Guard

    own, open_to_all = Guard(None, LOOPBACK), Guard(None, None)
    for host in (b"127.0.0.1:7860", b"localhost:7860", b"[::1]:7860"):
        assert own.allows({b"host": host}) and own.allows({b"host": host, b"origin": b"http://" + host})
    for host in (b"evil.example", b"127.0.0.1.evil.example:7860", b""):
        assert not own.allows({b"host": host})
    assert not own.allows({b"host": b"localhost:7860", b"origin": b"http://localhost:8888"})
    assert not own.allows({b"host": b"localhost:7860", b"origin": b"null"})
    assert open_to_all.allows({b"host": b"a.example"})
    assert not open_to_all.allows({b"host": b"a.example", b"origin": b"https://b.example"})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["host=0.0.0.0"], "host=0.0.0.0 lets others in"),
        (["auth=me"], "auth is not NAME:PASSWORD"),
        (["method=none"], "none"),
        (["find=eyes"], "find"),
    ],
)
def test_the_command_refuses(words: list[str], said: str) -> None:
    pytest.importorskip("gradio")
    with pytest.raises(SystemExit) as end:
        main(["app", *words])
    assert said in str(end.value.code) and "\n" not in str(end.value.code)


def test_without_gradio_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from locinv_pl.app import build

    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(InputError, match=r'pip install "locinv_pl\[app\]"'):
        build(None)  # type: ignore[arg-type]
