"""Drawn scenes as arrays on disk: images, captions, and what stands in every cell of a coarse grid."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locinv_pl.scenes.drawing import CORE, Scene, World, draw_scene, world
from locinv_pl.scenes.faults import FAULTS, with_faults

CELL = 4  # pixels


@dataclass(frozen=True)
class Corpus:
    """A corpus of N drawn scenes.

    Attributes:
        images: (N, H, W, 3) uint8.
        captions: one caption for each of the N images.
        nouns, colors: (N, H / 4, W / 4) uint8, the noun and the look of the object that covers most of a cell
            of 4x4 pixels, counted from 1 in the world's; 0 is background.
    """

    images: NDArray[np.uint8]
    captions: list[str]
    nouns: NDArray[np.uint8]
    colors: NDArray[np.uint8]


def draw_corpus(
    root: Path,
    num_scenes: int,
    seed: str = "train",
    size: int = 128,
    world_name: str = "core",
    counts: Mapping[int, float] | None = None,
    fault_rate: float = 0.0,
    processes: int | None = None,
) -> Corpus:
    """Draw scenes once and keep them under ``root``; scene i depends on (seed, i) alone.

    Args:
        root: the folder that keeps the arrays; scenes of the same settings are read from it, not drawn again.
        num_scenes: N, 1 or more.
        seed: any text; each seed draws other scenes. "train" by default; demo sets have numbers for seeds.
        size: side of the images in pixels.
        world_name: the world to draw from, "core" (the default) or "full".
        counts: how often a scene has one object, two, and so on; as the world has it by default.
        fault_rate: share of the objects that are half gone, gone or smudged (:mod:`locinv_pl.scenes.faults`); of
            those that aren't whole, only what is left has labels.
        processes: how many draw; as many as there are cores by default, one where that is quicker than starting more.
    """
    root, processes = Path(root), processes or min(os.cpu_count() or 1, 1 + num_scenes // FEW)
    what = _What(seed, size, world_name, tuple((counts or {}).items()), fault_rate)
    settings = json.loads(json.dumps({"num_scenes": num_scenes, **asdict(what)}))
    done = root / "corpus.json"
    if not done.is_file() or json.loads(done.read_text())["settings"] != settings:
        _draw(root, num_scenes, what, processes)
        captions = json.loads((root / "captions.json").read_text())
        done.write_text(json.dumps({"settings": settings, "captions": captions}))
    captions = json.loads(done.read_text())["captions"]
    arrays = {name: np.load(root / f"{name}.npy", mmap_mode="c") for name in ("images", "nouns", "colors")}
    return Corpus(captions=captions, **arrays)


FEW = 500  # scenes are drawn in the time that another process takes to start


@dataclass(frozen=True)
class _What:
    """The settings that, with its number, decide a scene of a corpus."""

    seed: str
    size: int
    world: str
    counts: tuple[tuple[int, float], ...]
    fault_rate: float


def _draw(root: Path, num_scenes: int, what: _What, processes: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    size, grid = what.size, what.size // CELL
    shapes = {
        "images": (num_scenes, size, size, 3),
        "nouns": (num_scenes, grid, grid),
        "colors": (num_scenes, grid, grid),
    }
    arrays = {
        name: np.lib.format.open_memmap(root / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)
        for name, shape in shapes.items()
    }
    captions = []
    with multiprocessing.get_context("spawn").Pool(processes) if processes > 1 else nullcontext() as pool:
        draw, numbers = partial(_scene, what), range(num_scenes)
        scenes = pool.imap(draw, numbers, chunksize=64) if pool else map(draw, numbers)
        for index, (image, caption, nouns, colors) in enumerate(scenes):
            arrays["images"][index] = image
            arrays["nouns"][index] = nouns
            arrays["colors"][index] = colors
            captions.append(caption)
    for array in arrays.values():
        array.flush()
    (root / "captions.json").write_text(json.dumps(captions))


def _scene(what: _What, index: int) -> tuple[NDArray, str, NDArray, NDArray]:
    rng, drawn = random.Random(f"{what.seed}/{index}"), world(what.world)
    counts = dict(what.counts)
    scene = draw_scene(rng, what.size, rng.choices([*counts], [*counts.values()])[0] if counts else None, drawn)
    faults = {k: rng.choice(FAULTS) for k in range(len(scene.objects)) if rng.random() < what.fault_rate}
    scene = with_faults(scene, faults, rng) if faults else scene
    return np.asarray(scene.image), scene.caption, *label_grids(scene, drawn)


def label_grids(scene: Scene, world: World = CORE) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Noun and look of the object that covers most of each cell, from 1; 0 where background does; (h, w) each."""
    nouns, looks = [*world.nouns], [*world.looks]
    height, width = scene.image.height // CELL, scene.image.width // CELL
    masks = np.stack([thing.mask for thing in scene.objects]).astype(np.float32)
    cover = masks.reshape(-1, height, CELL, width, CELL).mean((2, 4))
    cover = np.concatenate([1 - cover.sum(0, keepdims=True), cover])
    winner = cover.argmax(0)
    noun_of = np.array([0, *(nouns.index(thing.noun) + 1 for thing in scene.objects)], dtype=np.uint8)
    color_of = np.array([0, *(looks.index(thing.look) + 1 for thing in scene.objects)], dtype=np.uint8)
    return noun_of[winner], color_of[winner]
