"""Images that aren't square, and images that can't be opened, through a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from runs import make_trainer

from locinv_pl.callbacks.attention_maps import AttentionMapSheets
from locinv_pl.datamodules.base import batches_of
from locinv_pl.datamodules.folder import FolderDataModule
from locinv_pl.editing.prompt_to_prompt import reconstruct
from locinv_pl.errors import InputError
from locinv_pl.io.files import read_json
from locinv_pl.io.frames import Frame
from locinv_pl.method.policies import Method, NullTextPolicy, TokenPolicy
from locinv_pl.run.module import LocInvModule
from locinv_pl.run.store import RunFolder
from locinv_pl.types import Inversion

METHOD = Method(tokens=TokenPolicy(max_steps=1), null_text=NullTextPolicy(max_steps=1))
SIZES = {"wide": (120, 60), "square": (64, 64), "wide2": (128, 64), "tall": (60, 120), "cut": (64, 64)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images, the last of them truncated."""
    root = tmp_path / "mine"
    root.mkdir()
    rows = []
    for n, (name, (width, height)) in enumerate(SIZES.items()):
        pixels = np.random.default_rng(n).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{name}.png")
        box = [width // 4, height // 4, width // 2, height // 2]
        rows.append({"image": f"{name}.png", "prompt": "a cat", "priors": {"cat": box}})
    (root / "samples.yaml").write_text(yaml.safe_dump(rows))
    content = (root / "cut.png").read_bytes()
    (root / "cut.png").write_bytes(content[: len(content) // 2])
    return root


def run(tiny_folder: Path, root: Path, output: Path, size: int = 32, **options: Any) -> RunFolder:
    data = FolderDataModule(str(root), size=size, batch_size=2, **options)
    module = LocInvModule(str(tiny_folder), METHOD, num_steps=2, resolution=size // 4)
    trainer = make_trainer(output, callbacks=[AttentionMapSheets(tensorboard_steps=0)])
    trainer.fit(module, datamodule=data)
    return RunFolder(output)


def test_native_shapes_in_one_run(tiny_folder: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    folder = run(tiny_folder, images, tmp_path / "run", size=64, fit="native", on_error="skip")
    found = {name: Inversion.load(folder.inversion_path(name)) for name in SIZES if name != "cut"}
    grids = {name: tuple(inversion.maps.shape[-2:]) for name, inversion in found.items()}
    assert grids == {"wide": (16, 32), "square": (16, 16), "wide2": (16, 32), "tall": (32, 16)}
    for name, inversion in found.items():
        assert inversion.priors.shape == inversion.maps.shape[1:], name
        with Image.open(folder.image_path("reconstructions", name)) as image:
            assert image.size == tuple(8 * n // 2 for n in grids[name][::-1])
    pair = reconstruct(LocInvModule(str(tiny_folder)).backbone, [found["wide"], found["wide2"]])
    assert pair.shape == (2, 3, 64, 128)


def test_a_damaged_image_is_skipped_and_recorded(
    tiny_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tiny_folder, images, tmp_path / "run", on_error="skip")
    assert [score["id"] for score in folder.scores()] == sorted(name for name in SIZES if name != "cut")
    record = read_json(folder.root / "skipped/cut.json")
    assert record["id"] == "cut" and "cut.png: cannot be read as an image" in record["problem"]
    assert "skipped cut: " in capsys.readouterr().err
    again = run(tiny_folder, images, tmp_path / "run", on_error="skip")
    assert len(again.scores()) == 4


def test_a_damaged_image_stops_the_run_and_loses_nothing(tiny_folder: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cut.png: cannot be read"):
        run(tiny_folder, images, tmp_path / "run")
    assert len(RunFolder(tmp_path / "run").scores()) == 4


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"fit": "pad"}])
def test_workers_and_padding(options: dict[str, Any], tiny_folder: Path, images: Path, tmp_path: Path) -> None:
    folder = run(tiny_folder, images, tmp_path / "run", on_error="skip", **options)
    assert len(folder.scores()) == 4


def test_batches_hold_one_size_each_in_order() -> None:
    frames = [Frame.fitting(*size, 64, "native") for size in [(64, 64), (128, 64), (60, 64), (64, 128), (130, 64)]]
    assert batches_of(dict(enumerate(frames)), 2) == [[0, 2], [1, 4], [3]]
    assert batches_of({number: frames[0] for number in (1, 4, 7, 10, 13)}, 2) == [[1, 4], [7, 10], [13]]


def test_any_cell_that_is_touched_counts_with_the_authors_rule(tiny: Any) -> None:
    from conftest import make_image

    from locinv_pl.api import make_sample
    from locinv_pl.method.task import prepare

    mask = torch.zeros(32, 32)
    mask[0, 0] = 1
    sample = make_sample(make_image(), "a cat", {"cat": mask})
    soft, hard = (
        prepare(tiny, [sample], Method(tokens=TokenPolicy(rasterize=rule)), 1, 8).priors  # type: ignore[arg-type]
        for rule in ("area", "any")
    )
    assert soft[0, 0, 0, 0] == 1 / 16 and hard[0, 0, 0, 0] == 1
    assert soft.sum() == 1 / 16 and hard.sum() == 1
