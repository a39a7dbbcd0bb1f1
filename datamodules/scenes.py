"""The embedded demo set: drawn scenes written as a COCO-format folder."""

from __future__ import annotations

import json
import random
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as mask_utils

from locinv_pl.datamodules.base import EditDataModule
from locinv_pl.datamodules.coco_edit import CocoEditDataModule
from locinv_pl.datamodules.entries import Entry, Problems
from locinv_pl.errors import InputError
from locinv_pl.scenes.drawing import CORE, Scene, SceneObject, draw_scene
from locinv_pl.scenes.drawing import world as find_world
from locinv_pl.scenes.edits import make_edits

WorldName = Literal["core", "full"]
INSTANCES = "annotations/instances.json"
MIN_SIZE = 16


@dataclass(frozen=True)
class SceneSettings:
    """The arguments of :func:`write_scenes` that decide what is drawn.

    Raises:
        InputError: one of them is out of its range.
    """

    num_images: int
    seed: int
    size: int
    min_objects: int
    max_objects: int
    world: str

    def __post_init__(self) -> None:
        most = find_world(self.world).max_objects
        if self.num_images < 1:
            raise InputError(f"num_images={self.num_images}: no scene to draw; give 1 or more")
        if self.size < MIN_SIZE:
            raise InputError(f"size={self.size}: too small to draw on; give {MIN_SIZE} or more")
        if not 1 <= self.min_objects <= self.max_objects <= most:
            raise InputError(
                f"min_objects={self.min_objects}, max_objects={self.max_objects}: "
                f"give 1 <= min_objects <= max_objects <= {most}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings for JSON; the core world is left out, since older folders don't name it."""
        return {key: value for key, value in asdict(self).items() if (key, value) != ("world", CORE.name)}


def write_scenes(
    root: Path,
    num_images: int,
    seed: int = 0,
    size: int = 128,
    min_objects: int = 1,
    max_objects: int | None = None,
    world: WorldName = "core",
) -> None:
    """Write ``images/``, ``annotations/{instances,captions,edits}.json`` under ``root``.

    Scene i depends on (seed, i) alone, so fewer images are a prefix of more. The folder appears
    complete or not at all; where it is there already, from an earlier run or another process, it stays.

    Args:
        root: the folder to make.
        num_images: the number of scenes, 1 or more.
        seed: any integer; each seed draws other scenes. 0 by default.
        size: side of the images in pixels, 16 or more; 128 by default.
        min_objects: the fewest objects of a scene, 1 or more; 1 by default.
        max_objects: the most objects of a scene, up to 3 in the core world and 4 in the full one; by default as many
            as the world allows.
        world: "core" (the default) for the small world that the embedded model knows, "full" for the large one.

    Raises:
        InputError: a setting is out of its range, or ``root`` holds something else.
    """
    most = find_world(world).max_objects if max_objects is None else max_objects
    settings = SceneSettings(num_images, seed, size, min_objects, most, world)
    root = Path(root)
    if not _is_free(root):
        return _expect(root, settings)
    temporary = root.with_name(f".{root.name}.{uuid.uuid4().hex}.tmp")
    try:
        _write(temporary, settings)
        temporary.rename(root)
    except OSError:
        if _is_free(root):
            raise
        _expect(root, settings)  # another process was first
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_scene(index: int, settings: SceneSettings) -> Scene:
    """Draw a scene of a set.

    Args:
        index: the scene's number in the set, from 0.
        settings: the settings of the set.
    """
    rng = random.Random(f"{settings.seed}/{index}")
    world = find_world(settings.world)
    counts = range(settings.min_objects, settings.max_objects + 1)
    count = rng.choices(counts, [world.counts[n] for n in counts])[0]
    return draw_scene(rng, settings.size, count, world)


def _write(root: Path, settings: SceneSettings) -> None:
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    world = find_world(settings.world)
    category_ids = {noun: number for number, noun in enumerate(world.nouns, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    edits: list[dict[str, Any]] = []
    for index in range(settings.num_images):
        scene = make_scene(index, settings)
        file_name = f"{index:06d}.png"
        scene.image.save(root / "images" / file_name)
        width, height = scene.image.size
        images.append({"id": index, "file_name": file_name, "height": height, "width": width})
        for thing in scene.objects:
            annotations.append({"id": len(annotations) + 1, "image_id": index, **_annotation(thing, category_ids)})
        captions.append({"id": index, "image_id": index, "caption": scene.caption})
        changes = make_edits(scene, random.Random(f"{settings.seed}/{index}/edits"), world)
        edits += [{"image_id": index, "kind": kind, "prompt": prompt} for kind, prompt in changes.items()]

    info = {"description": "Drawn scenes of locinv_pl", "settings": settings.to_dict()}
    categories = [{"id": number, "name": noun} for noun, number in category_ids.items()]
    instances = {"info": info, "images": images, "categories": categories, "annotations": annotations}
    texts = {"info": info, "images": images, "annotations": captions}
    contents = {
        INSTANCES: instances,
        "annotations/captions.json": texts,
        "annotations/edits.json": edits,
    }
    for name, content in contents.items():
        (root / name).write_text(json.dumps(content), encoding="utf-8")


def _annotation(thing: SceneObject, category_ids: Mapping[str, int]) -> dict[str, Any]:
    rle = mask_utils.encode(np.asfortranarray(thing.mask, dtype=np.uint8))
    looks = {"color": thing.color, "material": thing.material}
    return {
        "category_id": category_ids[thing.noun],
        "segmentation": {"size": list(thing.mask.shape), "counts": rle["counts"].decode("ascii")},
        "area": int(mask_utils.area(rle)),
        "bbox": mask_utils.toBbox(rle).tolist(),
        "iscrowd": 0,
        "attributes": {key: word for key, word in looks.items() if word},
    }


def _is_free(root: Path) -> bool:
    return not root.exists() or (root.is_dir() and not any(root.iterdir()))


def _expect(root: Path, settings: SceneSettings) -> None:
    """Accept the folder that is there only if the same settings made it."""
    try:
        found = json.loads((root / INSTANCES).read_text(encoding="utf-8"))["info"]["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{root}: exists but holds no drawn scenes; move it away or name another folder") from None
    wanted = settings.to_dict()
    if found != wanted:
        keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        differing = ", ".join(f"{key}={found.get(key, CORE.name if key == 'world' else None)}" for key in keys)
        raise InputError(f"{root}: holds other scenes ({differing}); delete it or name another folder")


class ScenesDataModule(EditDataModule):
    """Scenes drawn from a seed, with exact masks; those of the core world are the embedded model's own.

    Args:
        num_images: the number of scenes, 1 or more.
        seed: any integer; each seed draws other scenes.
        min_objects, max_objects: how many objects a scene has, 1 to 3 in the core world, 1 to 4 in the full
            one; by default as many as the world allows.
        world: what is drawn: "core" for a dozen nouns apart from each other, "full" for all nouns and
            materials, near and far.
        root: where the COCO-format folder is written; named after the settings by default.
        kwargs: what every source of images takes.
    """

    name = "scenes"

    def __init__(
        self,
        num_images: int = 24,
        seed: int = 0,
        min_objects: int = 1,
        max_objects: int | None = None,
        world: WorldName = "core",
        root: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_images, self.seed, self.root = num_images, seed, root
        self.world: WorldName = world
        most = find_world(world).max_objects
        self.min_objects, self.max_objects = min_objects, most if max_objects is None else max_objects

    @property
    def settings(self) -> dict[str, Any]:
        """What the samples depend on; ``num_images`` isn't among it, since fewer scenes are a prefix of more."""
        objects = {"min_objects": self.min_objects, "max_objects": self.max_objects}
        world = {} if self.world == CORE.name else {"world": self.world}
        return {**super().settings, "seed": self.seed, **objects, **world}

    def entries(self, side: int, problems: Problems) -> Sequence[Entry]:
        """Draw the scenes, where they aren't there yet, and read them like any COCO-format folder."""
        counts = f"{self.min_objects}to{self.max_objects}"
        name = "scenes" if self.world == CORE.name else f"scenes-{self.world}"
        root = Path(self.root or f"data/{name}-{self.num_images}x{side}-{counts}-seed{self.seed}")
        write_scenes(root, self.num_images, self.seed, side, self.min_objects, self.max_objects, self.world)
        folder = CocoEditDataModule(str(root), prior=self.prior, fit=self.fit, words=self.words)
        return folder.entries(side, problems)
