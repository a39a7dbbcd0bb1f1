"""Odd inputs, through the page's own handlers and without a browser: each is right, or one clear line."""

from __future__ import annotations

import asyncio
import json
import re
import struct
import zlib
from collections.abc import Callable
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_parts import drawn, png

REQUEST = SimpleNamespace(session_hash="odd")
SIDE = 32


@pytest.fixture(scope="module")
def page(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The page of the tiny model, with one step."""
    pytest.importorskip("gradio", reason='no Gradio: pip install "locinv_pl[app]"')
    from locinv_pl.app.page import Page

    page = Page(tiny, tmp_path_factory.mktemp("store"), method="direct", steps=1, resolution=8)
    page.build()
    return page


class Side:
    """What stands on the page, and what its buttons change of it."""

    def __init__(self, page: Any, path: Path):
        self.page, self.ui, self.photo = page, page.ui, ""
        self.history: list[str] = []
        self.prompt, self.drawing, self.fit, self.target, self.strength = "a cat", "", "crop", "", "normal"
        self.take(page.take_upload(str(path)))

    def take(self, updates: dict[Any, Any]) -> dict[Any, Any]:
        self.photo = updates.get(self.ui.photo, self.photo)
        self.history = updates.get(self.ui.history, self.history)
        return updates

    def draw(self, **parts: Any) -> None:
        self.drawing = json.loads(drawn(**parts))
        self.drawing = json.dumps({**self.drawing, "photo": self.photo})

    @property
    def left(self) -> list[Any]:
        return [self.photo, self.prompt, self.drawing, self.fit, "direct", 1]

    @property
    def right(self) -> list[Any]:
        from locinv_pl.app.layout import default

        return [self.target, self.strength, *(default(name) for name in self.ui.settings)]

    def look(self) -> str:
        """What the page says."""
        return self.text(self.page.look(REQUEST, *self.left, *self.right, ("", 0), self.history), self.ui.status)

    def invert(self) -> str:
        return self.text(self._last(self.page.do_invert(REQUEST, *self.left, self.target)), self.ui.progress)

    def edit(self, target: str) -> str:
        self.target = target
        return self.text(self._last(self.page.do_edit(REQUEST, *self.left, *self.right, self.history)), self.ui.editing)

    def _last(self, steps: Any) -> dict[Any, Any]:
        async def all_of() -> dict[Any, Any]:
            return {key: value for step in [step async for step in steps] for key, value in step.items()}

        return self.take(asyncio.run(all_of()))

    @staticmethod
    def text(updates: dict[Any, Any], part: Any) -> str:
        html = str(updates.get(part, ""))
        assert "\n" not in html and html.count("<p") <= 1
        return unescape(re.sub("<[^>]+>", "", html))

    @property
    def seen(self) -> np.ndarray:
        """The photograph as the model sees it."""
        return (self.page.ask(*self.left).opened.image.movedim(0, -1).numpy() * 255).round().astype(int)


@pytest.fixture
def opened(page: Any, tmp_path: Path) -> Callable[..., Side]:
    """Opens an image that was saved under a name."""

    def side(image: Image.Image, name: str = "image.png", **options: Any) -> Side:
        image.save(tmp_path / name, **options)
        return Side(page, tmp_path / name)

    return side


def plain(mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE), value: Any = 90) -> Image.Image:
    return Image.new(mode, size, value if mode in ("L", "I;16") else (value,) * 3)


def test_buttons_stay_off_while_a_job_runs(opened: Any, page: Any) -> None:
    """A look that began before the job can be answered after its start; the job's next step says it again."""
    side, ui = opened(plain(value=97)), page.ui

    async def updates() -> list[tuple[bool, dict[Any, Any]]]:
        run = page.do_invert(REQUEST, *side.left, "")
        return [(page.worker.is_busy(REQUEST.session_hash), update) async for update in run]

    *during, (_, last) = asyncio.run(updates())
    assert len(during) >= 3 and during[0][0]  # the worker has the job before the page says so
    for _, update in during:
        assert not update[ui.invert].interactive and not update[ui.edit].interactive and update[ui.cancel].interactive
    assert not last[ui.cancel].interactive and last[ui.tick]  # the tick brings the next look


@pytest.mark.parametrize(
    ("side", "says"),
    [(8_000, "photograph: has 64 megapixels; 40 at most, so save it smaller"), (30_000, "900000000 pixels")],
)
def test_a_huge_image_is_refused_by_its_header(page: Any, tmp_path: Path, side: int, says: str) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT")
    assert says in Side.text(page.take_upload(str(tmp_path / "huge.png")), page.ui.status)


@pytest.mark.parametrize("fit", ["crop", "pad", "native"])
def test_a_strip_is_no_larger_than_its_frame(opened: Any, page: Any, fit: str) -> None:
    """Padded, an image of 30000 x 8 would be one of 30000 x 30000."""
    side = opened(plain("L", (30_000, 8)))
    side.fit = fit
    assert max(page.store.shown(side.photo).size) <= 8 * page.store.side
    assert max(side.seen.shape) <= 256


def test_grey_with_alpha_is_over_white(opened: Any) -> None:
    image = plain("L").convert("LA")
    image.putalpha(Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), SIDE // 2, 1).repeat(SIDE, 0)))
    seen = opened(image).seen
    assert (seen[:, :12] == 255).all() and (seen[:, 20:] == 90).all()


def test_sixteen_bits_are_scaled(opened: Any) -> None:
    pixels = np.full((SIDE, SIDE), 90 * 257, np.uint16)
    assert np.abs(opened(Image.fromarray(pixels)).seen - 90).max() <= 1


def test_an_animation_s_first_frame_is_the_image(opened: Any) -> None:
    frames = [plain(value=90), plain(value=200)]
    side = opened(frames[0], "moving.gif", save_all=True, append_images=frames[1:], duration=50)
    assert np.abs(side.seen - 90).max() <= 2


def test_a_turned_image_is_upright_to_boxes_and_files(opened: Any, page: Any) -> None:
    image = plain(size=(40, 60))
    image.paste((255, 0, 0), (0, 0, 40, 20))  # the top of what is stored is the right side of what is seen
    exif = Image.Exif()
    exif[0x0112] = 6
    side = opened(image, "turned.jpg", exif=exif, quality=95)
    side.fit = "pad"
    side.draw(boxes=[{"noun": "cat", "x": 40, "y": 0, "w": 20, "h": 40}])
    assert page.store.shown(side.photo).size == (60, 40) and side.look() == "Every noun has its place."
    inside = page.ask(*side.left).priors["cat"] >= 0.5
    red = torch.from_numpy(side.seen[..., 0] - side.seen[..., 1] > 100)
    assert (inside == red).float().mean() > 0.95


def test_a_word_twice_has_its_place_twice(opened: Any) -> None:
    side = opened(plain())
    side.prompt = "a cat and a cat"
    side.draw(
        boxes=[{"noun": "cat", "x": 2, "y": 2, "w": 12, "h": 12}, {"noun": "cat", "x": 18, "y": 18, "w": 9, "h": 9}]
    )
    assert side.look() == "Every noun has its place."
    shot = side.page.shot(side.page.ask(*side.left))
    assert [noun.word for noun in shot.sample.nouns] == ["cat", "cat"]
    assert all(int(noun.mask.sum()) == 12 * 12 + 9 * 9 for noun in shot.sample.nouns)
    assert side.invert().startswith("inverted in") and side.edit("a dog and a cat").startswith("edited in")


def test_the_same_edit_again_is_found(opened: Any, page: Any) -> None:
    side = opened(plain(value=91))
    side.draw(boxes=[{"noun": "cat", "x": 2, "y": 2, "w": 12, "h": 12}])
    side.invert()
    side.edit("a dog")
    (first,) = side.history
    made = page.store.edit(first).about["seconds"]
    assert side.edit(" a   dog ") == f"edited in {made:.1f} s" and side.history == [first]


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ({"w": 0, "h": 9}, "noun 'cat': "),
        ({"x": 400, "w": 9, "h": 9}, "noun 'cat': "),
        ({"w": 1e9, "h": 9}, "noun 'cat': "),
    ],
)
def test_a_box_that_is_none_is_one_line(opened: Any, box: dict[str, float], says: str) -> None:
    side = opened(plain())
    side.draw(boxes=[{"noun": "cat", "x": 0, "y": 0, **box}])
    assert side.look().startswith(says) and side.invert().startswith(says)


def test_a_mask_of_one_pixel(opened: Any) -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[5, 7] = True
    side = opened(plain(value=92))
    side.draw(masks={"cat": png(mask)})
    assert side.look() == "Every noun has its place." and side.invert().startswith("inverted in")
    large = opened(plain(size=(256, 256)))
    fine = np.zeros((256, 256), bool)
    fine[5, 7] = True
    large.draw(masks={"cat": png(fine)})
    assert large.look() == "Every noun has its place."
    assert int((large.page.ask(*large.left).priors["cat"] >= 0.5).sum()) >= 1  # what is small isn't lost


def test_a_place_outside_the_part_that_is_shown(opened: Any) -> None:
    side = opened(plain(size=(64, 32)))
    side.draw(boxes=[{"noun": "cat", "x": 0, "y": 4, "w": 9, "h": 9}])
    assert side.look() == "Outside the part that is shown: cat. Only what has a place is kept in it."
    side.fit = "pad"
    assert side.look() == "Every noun has its place."


def test_a_chinese_prompt(opened: Any) -> None:
    side = opened(plain(value=93))
    side.prompt = "一只猫在草地上"
    assert side.look() == f"Not drawn yet: {side.prompt}. Only what has a place is kept in it."  # it is one word
    side.draw(boxes=[{"noun": side.prompt, "x": 2, "y": 2, "w": 12, "h": 12}])
    assert side.look() == "Every noun has its place."
    for said in (side.invert(), side.edit("一只狗在草地上")):
        assert said and not said.startswith("failed")  # which no input may lead to


@pytest.mark.parametrize("target", ["", "!!", "<b>a dog</b>", "a cat " * 40])
def test_targets_that_are_none_are_one_line(opened: Any, target: str) -> None:
    side = opened(plain(value=94))
    side.draw(boxes=[{"noun": "cat", "x": 2, "y": 2, "w": 12, "h": 12}])
    side.invert()
    said = side.edit(target)
    assert said and not said.startswith("failed")


def test_a_number_that_was_cleared_is_one_line(opened: Any, page: Any) -> None:
    side = opened(plain(value=95))
    side.draw(boxes=[{"noun": "cat", "x": 2, "y": 2, "w": 12, "h": 12}])
    side.invert()
    values = dict(zip(page.ui.settings, side.right[2:], strict=True)) | {"self_resolution": None}
    steps = page.do_edit(REQUEST, *side.left, "a dog", "normal", *values.values(), [])
    said = side.text(side._last(steps), page.ui.editing)
    assert said == "edit.self_resolution: is empty; give a number"


@pytest.mark.parametrize(("name", "content"), [("a.svg", b"<svg/>"), ("a.png", b""), ("a.jpg", b"\xff\xd8\xff")])
def test_no_images_are_one_line(page: Any, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    said = Side.text(page.take_upload(str(tmp_path / name)), page.ui.status)
    assert said.startswith("photograph") and str(tmp_path) not in said
