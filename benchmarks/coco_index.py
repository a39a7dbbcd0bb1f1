"""How long the selection of COCO-edit takes on a folder as large as COCO's val2017, and how much memory.

    python benchmarks/coco_index.py [--json FILE] [--keep FOLDER]

Writes annotation files of 5,000 images, 36,781 instances (polygons, one in eighty a crowd in run lengths) and five
captions an image, then runs ``locinv data build-coco-edit`` on them in a process of its own, imports and all.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pycocotools import mask as mask_utils

ROOT = Path(__file__).resolve().parent.parent
IMAGES, INSTANCES, CAPTIONS = 5000, 36781, 5
WIDTH, HEIGHT = 640, 480
TEMPLATES = (
    "a {} standing next to a {}",
    "a close up of a {} on a table",
    "two people looking at a {} and a {}",
    "a {} in front of a white building",
    "some {} that are near a {}",
)


def write_folder(root: Path, seed: int = 0) -> None:
    """Annotation files of val2017's size, with COCO's 80 categories; no images, since none are opened."""
    rng = random.Random(seed)
    words = yaml.safe_load((ROOT / "configs/words/coco.yaml").read_text())
    names = [name for name in words if name != "not_meant"]
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": WIDTH, "height": HEIGHT} for n in range(IMAGES)]
    annotations = [_annotation(rng, n, rng.randrange(IMAGES), rng.randrange(80)) for n in range(INSTANCES)]
    shown: dict[int, list[str]] = {}
    for row in annotations:
        shown.setdefault(row["image_id"], []).append(names[row["category_id"]])
    captions = []
    for image in range(IMAGES):
        for template in rng.choices(TEMPLATES, k=CAPTIONS):
            said = rng.choices(shown.get(image, names), k=template.count("{}"))
            captions.append({"id": len(captions), "image_id": image, "caption": template.format(*said)})
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    categories = [{"id": n, "name": name, "supercategory": "thing"} for n, name in enumerate(names)]
    tables: dict[str, dict[str, Any]] = {
        "instances": {"images": images, "categories": categories, "annotations": annotations},
        "captions": {"images": images, "annotations": captions},
    }
    for name, content in tables.items():
        (root / f"annotations/{name}_val2017.json").write_text(json.dumps(content))


def _annotation(rng: random.Random, id: int, image: int, category: int) -> dict[str, Any]:
    x, y = rng.uniform(90, WIDTH - 90), rng.uniform(90, HEIGHT - 90)
    radius = rng.uniform(10, 85)
    row = {"id": id, "image_id": image, "category_id": category, "iscrowd": int(id % 80 == 0)}
    box = [x - radius, y - radius, 2 * radius, 2 * radius]
    if row["iscrowd"]:
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        mask[int(y - radius) : int(y + radius), int(x - radius) : int(x + radius)] = 1
        runs = np.flatnonzero(np.diff(mask.flatten(order="F"), prepend=0, append=0))
        counts = np.diff(runs, prepend=0, append=mask.size).tolist()
        return {**row, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}, "bbox": box, "area": 4 * radius**2}
    angles = [2 * math.pi * n / 30 for n in range(30)]
    polygon = [round(v, 2) for a in angles for v in (x + radius * math.cos(a), y + radius * math.sin(a))]
    area = float(mask_utils.area(mask_utils.frPyObjects([polygon], HEIGHT, WIDTH))[0])
    return {**row, "segmentation": [polygon], "bbox": box, "area": area}


def measure(root: Path) -> dict[str, Any]:
    """Run the command once; seconds and peak memory of its process, and what it chose."""
    manifest = root / "coco_edit.json"
    command = [sys.executable, str(ROOT / "train.py"), "data", "build-coco-edit", f"data.root={root}"]
    began = time.perf_counter()
    subprocess.run([*command, f"output={manifest}"], check=True, cwd=ROOT)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    chosen = len(json.loads(manifest.read_text())["images"])
    return {"images": IMAGES, "instances": INSTANCES, "chosen": chosen, "seconds": seconds, "peak_memory_gib": peak}


def main() -> None:
    """Write, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--keep", type=Path, help="write the folder there and keep it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary) / "coco"
        if not root.exists():
            write_folder(root)
        figures = measure(root)
    for key, value in figures.items():
        print(f"{key:16} {value:.2f}" if isinstance(value, float) else f"{key:16} {value}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
