"""Five hundred bad inputs over all entry points: no traceback, no hang, nothing written elsewhere, nothing wrong taken.

``GENERATORS`` has a row for every entry point: how many inputs, and a function that makes one from a random generator
in a folder of its own. An input is a call; it has to end in one clear line, or, where :attr:`Input.is_right` says what
the right result is, in that.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from test_types import SETTINGS, make_inversion, make_scores

from locinv_pl.api import make_sample
from locinv_pl.cli.main import main
from locinv_pl.datamodules.coco_edit import CocoEditDataModule
from locinv_pl.datamodules.entries import Problems
from locinv_pl.datamodules.folder import FolderDataModule
from locinv_pl.datamodules.pie_bench import PieBenchDataModule
from locinv_pl.errors import InputError
from locinv_pl.io.frames import Frame, frame_mask
from locinv_pl.io.images import as_image, as_mask, open_image, open_mask
from locinv_pl.run.edit_files import edited_images
from locinv_pl.run.edits import save_edits
from locinv_pl.run.status import Status, status
from locinv_pl.run.store import RunFolder
from locinv_pl.types import Edit

SIZE = WIDTH, HEIGHT = 64, 48
SECONDS = 5
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
Json = Any


@dataclass(frozen=True)
class Input:
    """A bad input: what it is, how it is given, and when what comes out is right (never, by default)."""

    what: str
    give: Callable[[], Any]
    is_right: Callable[[Any], bool] = lambda result: False


Make = Callable[[random.Random, Path], Input]


# --- values that are wrong, by what they stand for ---

NO_TEXT: list[Json] = [None, True, 3, 1.5, [], ["a"], {}, {"a": 1}, float("nan")]
BLANK: list[Json] = ["", "  ", "\n", "\t \u3000"]
NO_FILE: list[Json] = [
    "gone.png",
    "no/such/a.png",
    "..",
    ".",
    "pipe",
    "/dev/zero",
    "/dev/null",
    "a\0b",
    "n" * 300,
    "~",
    "text",
]
NO_ID: list[Json] = [True, 1.5, ["a"], {"a": 1}, ".", "..", "...", " ", "\x1b[2J", "a\0", "a\nb", "\u202eb", "\x7f"]
NO_BOX: list[Json] = [
    [1, 2, 3],
    [1, 2, 3, 4, 5],
    [True, True, True, True],
    [1, 2, True, 4],
    ["1", 2, 3, 4],
    [None, 1, 2, 3],
    [[1], 2, 3, 4],
    [float("nan"), 1, 9, 9],
    [1, 1, float("inf"), 9],
    [1, 1, 10**400, 9],
    [1, 1, 1e300, 9],
    [0.1, 0.1, 0.5, 0.5],
    [0, 0, 1, 1],
    [0.3, 0.2, 1, 1],
    [1, 1, 0, 9],
    [1, 1, 9, -9],
    [-20, 1, 30, 9],
    [60, 1, 30, 9],
    [1, 47, 9, 30],
    [30, 20, 60, 40],
    [10**6, 10**6, 5, 5],
]
NO_RLE: list[Json] = [
    {"size": [HEIGHT, WIDTH], "counts": counts}
    for counts in ("", "zz", "~~~", [1], [-5, 9], [10**30], ["a"], None, True, 3)
] + [{"size": size, "counts": "0"} for size in ([WIDTH, HEIGHT], None, [1], "x", [0, 0], [10**9, 10**9])]
NO_POLYGONS: list[Json] = [
    [[]],
    [[1, 2]],
    [[1, 2, 3, 4]],
    [[1] * 7],
    [["a"] * 6],
    [[float("nan")] * 6],
    [[1e9] * 6],
    "x",
    7,
]
NO_POLYGONS += [[1, 2, 30, 2, 30, 30], [[[1, 2], [3, 4], [5, 6]]], [None], [[True] * 6], {"a": 1}]
NO_PRIOR: list[Json] = [
    None,
    True,
    3,
    1.5,
    {},
    {"mask": "m.png"},
    {"value": 3},
    {"index": "m.png"},
    [],
    *NO_FILE,
    *NO_BOX,
    *NO_RLE,
]
NO_EDIT: list[Json] = [
    3,
    True,
    [3],
    [None],
    [" "],
    [["a"]],
    [{"kind": "x"}],
    [{"prompt": 3}],
    [{"prompt": "a", "typ": 1}],
    {"a": "b"},
]
NO_PAIR: list[Json] = [
    3,
    "red",
    ["red", "cat"],
    [["red"]],
    [["red", 3]],
    [["blue", "cat"]],
    [["a", "dog"]],
    {"red": "cat"},
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an image and a mask, a text and a pipe."""
    root = tmp_path_factory.mktemp("hostile") / "bench"
    root.mkdir()
    Image.fromarray(NOISE).save(root / "a.png")
    rectangle(random.Random(0))[0].save(root / "m.png")
    (root / "text").write_text("no image")
    os.mkfifo(root / "pipe")
    yield root


def rectangle(rng: random.Random) -> tuple[Image.Image, np.ndarray]:
    """A mask and its truth."""
    x, y, w, h = rng.randrange(4, 20), rng.randrange(4, 14), rng.randrange(20, 40), rng.randrange(16, 30)
    truth = np.zeros((HEIGHT, WIDTH), dtype=bool)
    truth[y : y + h, x : x + w] = True
    return Image.fromarray(truth * np.uint8(255)), truth


def is_like(truth: np.ndarray) -> Callable[[Any], bool]:
    """Whether a mask has an IoU above 0.9 with its truth."""

    def check(found: Any) -> bool:
        mask = np.asarray(found) >= 0.5
        return bool((mask & truth).sum() > 0.9 * (mask | truth).sum())

    return check


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A file cut off, or of nothing but zeros from somewhere on, or of something else."""
    at = rng.randrange(1, max(2, int(len(content) * 0.8)))
    return rng.choice(
        [content[:at], content[:at] + bytes(len(content) - at), b"", b"<html>", rng.randbytes(99), bytes(500)]
    )


# --- data=folder ---


def make_list(rng: random.Random, root: Path) -> Input:
    """A list of one image with one thing wrong."""
    key, values = rng.choice(
        [
            ("image", [*NO_TEXT, *NO_FILE, *BLANK[:1]]),
            ("id", NO_ID),
            ("prompt", [*NO_TEXT, *BLANK, "a dog"]),
            ("priors", [*NO_TEXT[:-3], ["cat"], {"dog": [9, 9, 9, 9]}, {"": [9, 9, 9, 9]}, {" ": "m.png"}]),
            *[("priors", [{"cat": prior} for prior in NO_PRIOR])] * 4,
            ("edits", NO_EDIT),
            ("adjectives", NO_PAIR),
            ("region", [prior for prior in NO_PRIOR if prior is not None]),
            ("promt", ["a cat"]),
        ]
    )
    value = rng.choice(values)
    row = {"image": "a.png", "prompt": "a cat", "priors": {"cat": [9, 9, 20, 20]}, key: value}
    name = rng.choice(["list.yaml", "list.json", "list.jsonl"])
    text = {"list.yaml": yaml.safe_dump([row]), "list.json": json.dumps([row]), "list.jsonl": json.dumps(row)}[name]
    if rng.random() < 0.25:
        key, text = (
            "text",
            rng.choice(
                [
                    text[: rng.randrange(1, len(text) - 2)],
                    "{" + text,
                    "[" * 50_000,
                    text.replace("cat", "\x00", 1),
                    '[{"image": "a.png", "image": "a.png", "prompt": "a cat", "priors": {}}]',
                    '[{"image": "a.png", "prompt": "a cat \\ud800", "priors": {}}]',
                    '[{"image": "a.png", "id": ' + "7" * 5000 + ', "prompt": "a cat", "priors": {}}]',
                    "3",
                    "{}",
                    "",
                ]
            ),
        )
    (root / name).write_bytes(text.encode(errors="surrogatepass"))

    def give() -> Any:
        return list(FolderDataModule(str(root), samples=name).read(32, Problems()))

    return Input(f"{name}, {key}: {value!r}"[:200], give)


# --- COCO and PIE-Bench ---


def make_coco(rng: random.Random, root: Path) -> Input:
    """A folder of COCO's format with one thing wrong."""
    polygon = [5.0, 5.0, 40.0, 5.0, 40.0, 40.0, 5.0, 40.0]
    tables: Json = {
        "images": [{"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "segmentation": [polygon], "bbox": [5, 5, 35, 35]}],
    }
    captions: Json = {"annotations": [{"id": 1, "image_id": 7, "caption": "a cat"}]}
    (annotation,), (image,), (caption,) = tables["annotations"], tables["images"], captions["annotations"]
    no_number = [None, True, 1.5, "x", [], {}]
    of, key, values = rng.choice(
        [
            *[(annotation, "bbox", [box for box in NO_BOX if box])] * 2,
            *[(annotation, "segmentation", [*NO_RLE, *NO_POLYGONS])] * 2,
            (annotation, "category_id", [*no_number, 99]),
            (annotation, "image_id", [None, True, 1.5, [], 99]),
            (image, "id", [None, True, 1.5, [], "7"]),
            (image, "file_name", [*NO_TEXT, *NO_FILE, ".", "a\x1b.png"]),
            (image, "width", [*no_number, 0, -1, 10**9, HEIGHT]),
            (image, "height", [*no_number, 0, -1, 10**9]),
            (caption, "caption", [*NO_TEXT, *BLANK, "a bird"]),
            (tables["categories"][0], "name", [*NO_TEXT, "bird"]),
            (tables["categories"][0], "id", [*no_number, 2]),
            (tables, "images", [*no_number, [3], [image, image], []]),
            (tables, "annotations", [*no_number, [3], [None]]),
            (captions, "annotations", [*no_number, [3], []]),
        ]
    )
    value = rng.choice(values)
    of[key] = value
    folder = root / "coco"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images/a.png").write_bytes((root / "a.png").read_bytes())
    for name, content in (("instances", tables), ("captions", captions)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return Input(f"COCO, {key}: {value!r}"[:200], lambda: list(CocoEditDataModule(str(folder)).read(32, Problems())))


def make_pie(rng: random.Random, root: Path) -> Input:
    """A mapping of PIE-Bench's with one thing wrong."""
    folder = root / "pie"
    (folder / "annotation_images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (512, 512)).save(folder / "annotation_images/a.png")
    row = {"image_path": "a.png", "original_prompt": "a [cat]", "editing_prompt": "a [dog]", "editing_type_id": "1"}
    row |= {"blended_word": "cat dog", "mask": [9, 100]}  # type: ignore[dict-item]
    id, key = "000000000000", rng.choice([*row, "id", "row"])
    if key == "id":
        value = id = rng.choice([id for id in NO_ID if isinstance(id, str)])
    elif key == "mask":
        value = rng.choice(
            [None, 3, "x", [1], [-1, 5], [1.0, 5], [True, 5], [[1, 5]], {"a": 1}, [10**9, 5], [10**30, 5]]
        )
    else:
        value = rng.choice(
            {"image_path": [*NO_TEXT, *NO_FILE], "editing_type_id": [None, [], {}, 1.5]}.get(key, NO_TEXT)
        )
    rows: Json = (
        {id: row | ({key: value} if key in row else {})} if key != "row" else rng.choice([{id: value}, [], 3, {}])
    )
    (folder / "mapping_file.json").write_text(json.dumps(rows))
    return Input(
        f"PIE-Bench, {key}: {value!r}"[:200], lambda: list(PieBenchDataModule(str(folder)).read(32, Problems()))
    )


# --- masks, images, boxes ---


def make_mask(rng: random.Random, root: Path) -> Input:
    """A mask's file: of an odd kind, which has to be read right, or one that is none."""
    image, truth = rectangle(rng)
    byte = np.asarray(image)
    kinds: dict[str, tuple[Image.Image, str]] = {
        "0 and 1": (Image.fromarray(byte // 255), "png"),
        "JPEG": (image, "jpg"),
        "JPEG of colour": (image.convert("RGB"), "jpg"),
        "WebP": (image.convert("RGB"), "webp"),
        "GIF": (image, "gif"),
        "palette": (image.convert("P"), "png"),
        "white first": (Image.fromarray(255 - byte).convert("P"), "gif"),
        "16 bit": (Image.fromarray(byte.astype(np.uint16) * 257), "png"),
        "float": (Image.fromarray(byte.astype(np.float32) / 255), "tif"),
        "alpha": (Image.merge("LA", [Image.new("L", SIZE, rng.choice([0, 255])), image]), "png"),
        "cut out": (Image.merge("RGBA", [*Image.fromarray(NOISE).split(), image]), "png"),
        "bit": (image.convert("1"), "png"),
    }
    bad: dict[str, tuple[Image.Image, str]] = {
        "labels": (Image.fromarray((NOISE[..., 0] % 5).astype(np.uint8)), "png"),
        "colours": (Image.fromarray(NOISE), "png"),
        "empty": (Image.new("L", SIZE), "png"),
        "not finite": (Image.fromarray(np.full((HEIGHT, WIDTH), np.nan, np.float32)), "tif"),
        "negative": (Image.fromarray(byte.astype(np.float32) - 300), "tif"),
        "size": (image.resize((rng.randrange(1, 60), rng.randrange(1, 40))), "png"),
        "turned": (image.transpose(Image.Transpose.ROTATE_90), "png"),
    }
    kind = rng.choice([*kinds, *bad, "damaged"])
    made, suffix = (kinds | bad).get(kind, (image, "png"))
    path = root / f"mask.{suffix}"
    if suffix == "gif" and kind == "white first":
        made.putpalette([n for value in range(255, -1, -1) for n in (value,) * 3])
    made.save(path)
    if kind == "damaged":
        path.write_bytes(damaged(path.read_bytes(), rng))
    right = is_like(truth) if kind in [*kinds, "damaged"] else lambda found: False  # only its end may be damaged
    read = rng.choice([lambda: open_mask(path, SIZE), lambda: as_mask(str(path), SIZE, "cat")])
    return Input(f"mask, {kind}", read, right)


def make_image(rng: random.Random, root: Path) -> Input:
    """An image's file that is none."""
    kind = rng.choice(["png", "jpg", "webp", "tif", "gif", "bmp"])
    path = root / f"image.{kind}"
    Image.fromarray(NOISE).save(path)
    whole = path.read_bytes()
    header = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">IIBBBBB", 10**6, 10**6, 8, 2, 0, 0, 0)
    )
    content = rng.choice(
        [
            whole[: int(len(whole) * rng.uniform(0, 0.6))],
            rng.randbytes(300),
            header + bytes(4),
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            b"%PDF-1.7\n",
            b"",
        ]
    )
    path.write_bytes(content)
    path = rng.choice(
        [path, path, path, root / rng.choice(["pipe", "text", "gone", "."]), Path("/dev/zero"), root / "a\0"]
    )
    return Input(f"image {path.name}", rng.choice([lambda: open_image(path), lambda: as_image(str(path))]))


def make_box(rng: random.Random, root: Path) -> Input:
    """A box that is none, in a notebook, as a tuple or in a list."""
    box = rng.choice(NO_BOX)
    kind = rng.choice([tuple, list])
    return Input(f"box {box!r}"[:200], lambda: make_sample(NOISE, "a cat", {"cat": kind(box)}))


# --- a notebook ---


def make_notebook(rng: random.Random, root: Path) -> Input:
    """Arguments of ``invert``, one of them wrong."""
    image, truth = rectangle(rng)
    byte = np.asarray(image)
    images: list[Any] = [
        NOISE.astype(np.float32),
        NOISE / 127.5 - 1,
        NOISE.astype(np.int32) * 256,
        -NOISE.astype(np.int16) - 1,
        np.full(NOISE.shape, np.nan),
        np.full(NOISE.shape, np.inf),
        NOISE.astype(complex),
        NOISE.astype(object),
        NOISE[None],
        NOISE[..., :2],
        NOISE[:0],
        torch.zeros(1, 3, 8, 8),
        torch.zeros(8, 8),
        torch.full((3, 8, 8), -1.0),
        torch.full((3, 8, 8), 255.0),
        [[1, 2], [3, 4]],
        None,
        3,
        b"",
        "gone.png",
        root / "pipe",
        root / "text",
        Image.fromarray(np.full((9, 9), np.nan, np.float32)),
    ]
    masks: list[Any] = [
        None,
        object(),
        b"x",
        {"a": 1},
        "gone.png",
        root / "pipe",
        byte[:9],
        byte.T,
        byte * 0,
        byte / -255.0,
    ]
    masks += [
        byte * np.nan,
        byte.astype(complex),
        byte.astype(object),
        Image.fromarray(NOISE),
        [byte, byte],
        3,
        True,
        [],
    ]
    right: list[Any] = [
        byte,
        byte // 255,
        byte / 255,
        byte.astype(float),
        byte > 0,
        torch.from_numpy(byte.copy()),
        image,
    ]
    right += [
        image.convert("RGB"),
        image.convert("1"),
        byte[..., None],
        byte.astype(np.uint16) * 257,
        root / "right.png",
    ]
    kind = rng.choice(["image", "image", "mask", "mask", "right", "prompt", "adjectives", "nouns"])
    given: dict[str, Any] = {"image": NOISE, "prompt": "a cat", "priors": {"cat": byte}}
    if kind == "image":
        given["image"] = rng.choice(images)
    elif kind == "mask":
        given["priors"] = {"cat": rng.choice(masks)}
    elif kind == "prompt":
        given["prompt"] = rng.choice(["", "  ", "\n", "a dog", "category"])
    elif kind == "adjectives":
        given["adjectives"] = rng.choice([[("red", "cat")], [("a", "dog")]])
    elif kind == "nouns":
        given["nouns"] = rng.choice([["dog"], ["cat", "dog"], [""]])
    else:
        image.save(root / "right.png")
        given["priors"] = {"cat": rng.choice(right)}
    is_right = (lambda sample: is_like(truth)(sample.nouns[0].prior)) if kind == "right" else (lambda sample: False)
    return Input(
        f"notebook, {kind}: {given[kind] if kind in given else given['priors']!r}"[:200],
        lambda: make_sample(**given),
        is_right,
    )


# --- the command line ---


def make_region(rng: random.Random, root: Path) -> Input:
    """A region of ``locinv edit``: of the image's size, and then framed as it is, or of another."""
    frame = Frame.fitting(WIDTH, HEIGHT, rng.choice([32, 48]), rng.choice(["crop", "pad"]))
    image, truth = rectangle(rng)
    kind = rng.choice(["right", "size", "empty", "damaged", "colours", "pipe", "gone"])
    path = root / ("pipe" if kind == "pipe" else "gone" if kind == "gone" else "region.png")
    made = {
        "size": image.resize((WIDTH + 1, HEIGHT)),
        "empty": image.point(lambda n: 0),
        "colours": Image.fromarray(NOISE),
    }
    if path.name == "region.png":
        made.get(kind, image).save(path)
        if kind == "damaged":
            path.write_bytes(damaged(path.read_bytes(), rng))
    expected = frame.plane(torch.from_numpy(truth)).numpy() >= 0.5
    return Input(
        f"region, {kind}",
        lambda: frame_mask(path, frame),
        is_like(expected) if kind in ("right", "damaged") else lambda _: False,
    )


def make_words(rng: random.Random, root: Path) -> Input:
    """Words of the command line, one of them wrong."""
    bad = [
        ["data=nothing"],
        [f"data.root={root}/gone"],
        ["data.root=~nobody-of-this-name/x"],
        ["data.samples=pipe"],
        ["data.samples=../../etc/passwd"],
        ["data.fit=stretch"],
        ["data.prior=mask"],
        ["data.batch_size=0"],
        ["data.size=-1"],
        ["data.shard=9/8"],
        ["data.num_images=0"],
        ["data.on_error=ignore"],
        ["data.words=spacy:gone"],
        ["data.unknown=1"],
        ["backbone=/no/such/model"],
        ["--data.batch_size=x"],
        ["\x1b[2J=1"],
    ]
    words = ["data", "check", "data=folder", f"data.root={root}", "data.samples=good.yaml", *rng.choice(bad)]
    (root / "good.yaml").write_text("- {image: a.png, prompt: a cat, priors: {}}\n")
    return Input(" ".join(words), lambda: main(words))


def make_run(rng: random.Random, root: Path) -> Input:
    """A run's folder of which one file holds what this package wouldn't have written."""
    run = RunFolder(root / f"run{rng.getrandbits(40)}")
    run.claim(SETTINGS)
    run.announce(1)
    make_inversion("a").save(run.inversion_path("a"))
    run.save_scores("inversions", "a", make_scores("a"))
    image, edit = torch.rand(3, 8, 8), Edit("a dog", "word_swap")
    about: Any = {"prompt": "a cat", "fingerprint": "f" * 16, "settings": {"steps": 1}}
    save_edits(run, "a", **about, source=image, reconstruction=image, edits=[edit], images=image[None])
    readers: dict[str, Callable[[], Any]] = {
        "settings.json": lambda: status(run.root),
        "pictures.json": lambda: status(run.root),
        "summary.json": lambda: main(["table", str(run.root)]),
        "inversions/a.json": lambda: run.scores("inversions"),
        "inversions/a.safetensors": lambda: run.inversion("a", make_inversion("a").fingerprint),
        "edits/a/edits.json": lambda: edited_images(run),
    }
    name = rng.choice([*readers])
    path = run.root / name
    whole = path.read_bytes() if path.exists() else b"{}"
    kind = rng.choice(["type", "cut", "zeroed", "bit", "pipe", "link", "key"])
    if kind == "cut":
        path.write_bytes(whole[: rng.randrange(max(len(whole) - 2, 1))])
    elif kind == "zeroed":
        path.write_bytes(bytes(len(whole)))
    elif kind == "bit" and len(whole) > 9:
        at = rng.randrange(9, len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
    elif kind in ("pipe", "link"):
        path.unlink(missing_ok=True)
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/etc/hostname")
    elif kind == "key" and name.endswith("json") and len(whole) > 2:
        content = json.loads(whole)
        content.pop("sha256", None)
        content[rng.choice([*content])] = rng.choice([*NO_TEXT[:3], {"a": [1]}, "../../x", 10**400])
        path.write_text(json.dumps(content))
    else:
        path.write_text(json.dumps(rng.choice([[], 3, "a", None, {}, [[]] * 3, {"id": "../.."}, {"edits": 10**400}])))
    rebuilt = name.startswith("edits/") and kind in ("cut", "zeroed", "bit")  # from what the images say of themselves
    same = kind == "key" or kind == "bit"  # of the right kind after all, or where nothing reads
    return Input(
        f"{name}, {kind}",
        readers[name],
        lambda result: (rebuilt and result[0]["edits"][0]["prompt"] == "a dog") or (same and _is_plausible(result)),
    )


def _is_plausible(result: Any) -> bool:
    """What was read is what the schemas allow."""
    if isinstance(result, Status):
        return isinstance(result.num_steps, int) and (result.total is None or result.total >= 0)
    if isinstance(result, list):
        return all(isinstance(row["id"], str) and isinstance(row["prompt"], str) for row in result)
    return False


GENERATORS: dict[str, tuple[int, Make]] = {
    "data=folder": (120, make_list),
    "COCO": (80, make_coco),
    "PIE-Bench": (40, make_pie),
    "masks": (80, make_mask),
    "images": (60, make_image),
    "boxes": (40, make_box),
    "notebook": (60, make_notebook),
    "region": (30, make_region),
    "command": (20, make_words),
    "run folder": (90, make_run),
}
"""Entry points: how many inputs, and what makes one. A new entry point is a row."""


# --- what becomes of them ---


class Hang(BaseException):
    """An input that takes too long; no ``except Exception`` stops it."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """A block that ends by then, whatever it waits for."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(bad: Input) -> str:
    """ "refused" or "right", or what is wrong about what became of an input."""
    try:
        with at_most(SECONDS):
            result = bad.give()
    except InputError as error:
        return "refused" if _is_clear(str(error)) else f"unclear: {error}"
    except SystemExit as end:
        if end.code == 1:  # data check has told the problem
            return "refused"
        return "refused" if isinstance(end.code, str) and _is_clear(end.code) else f"unclear: {end.code!r}"
    except Hang:
        return "hang"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {error}"
    return "right" if bad.is_right(result) else "taken"


def _is_clear(message: str) -> bool:
    """One line that names what is wrong and, after a semicolon or colon, what to do."""
    return "\n" not in message and len(message) > 20 and (";" in message or ":" in message)


def files_of(root: Path, but_for: Path) -> dict[str, bytes]:
    """All files below a folder, but for those of another."""
    return {str(p): p.read_bytes() for p in root.rglob("*") if p.is_file() and but_for not in p.parents}


@pytest.mark.filterwarnings("ignore")
def test_five_hundred_bad_inputs(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guarded = bench.parent
    (guarded / "victim.txt").write_text("mine")
    before = files_of(guarded, bench)
    monkeypatch.chdir(bench)
    monkeypatch.setattr(sys, "argv", ["locinv"])
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for entry, (number, make) in GENERATORS.items():
        rng = random.Random(f"hostile/{entry}")
        for n in range(number):
            bad = make(rng, bench)
            became = outcome(bad)
            counts[became.partition(":")[0]] += 1
            if became not in ("refused", "right"):
                wrong.append(f"{entry} {n}, {bad.what}: {became}")
            if files_of(guarded, bench) != before:
                wrong.append(f"{entry} {n}, {bad.what}: wrote outside")
                before = files_of(guarded, bench)
    with capsys.disabled():
        told = ", ".join(f"{count} {became}" for became, count in counts.most_common())
        print(f"\n{counts.total()} bad inputs over {len(GENERATORS)} entry points: {told}; {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
    assert counts.total() >= 500
