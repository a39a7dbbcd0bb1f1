"""What a predict run shows: sheets, contact sheet, TensorBoard, edits.json, and files for the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import make_image, make_two_objects
from lightning.pytorch import Trainer
from PIL import Image
from runs import METHOD, T, Toy, make_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from locinv_pl.callbacks.edits import EditSheets
from locinv_pl.callbacks.report import MAPS
from locinv_pl.editing.settings import EditSettings
from locinv_pl.io.files import read_json
from locinv_pl.measures.metrics import attention_iou
from locinv_pl.run.module import LocInvModule
from locinv_pl.run.store import RunFolder
from locinv_pl.types import Edit, EditSample, Inversion

EDITS = (Edit("a red dog and a dog", "word_swap"), Edit("a cat and a dog on $5 or $6 grass", "add"))
IDS = ["bare", "p0", "p1"]


def make_samples() -> list[EditSample]:
    """Two edits, no edit, and one edit without nouns."""
    two, none = (make_two_objects(f"p{n}", seed=n) for n in range(2))
    bare = EditSample("bare", make_image(), "a dog", edits=(Edit("a red dog", "attribute"),))
    return [replace(two, edits=EDITS), none, bare]


def run(model: Path, root: Path, stage: str, samples: list[EditSample]) -> tuple[Trainer, LocInvModule]:
    trainer = make_trainer(root, callbacks=[EditSheets(map_steps=2)])
    module, options = LocInvModule(str(model), METHOD, num_steps=T, resolution=8), {}
    if stage == "predict":
        options["return_predictions"] = False
    getattr(trainer, stage)(module, datamodule=Toy(samples), **options)
    return trainer, module


@pytest.fixture(scope="module", autouse=True)
def coarse_figures() -> None:
    """None: sheets are drawn as they are."""


@pytest.fixture(scope="module")
def inverted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images, inverted."""
    root = tmp_path_factory.mktemp("edited")
    run(tiny_folder, root, "fit", make_samples())
    assert not (root / "report.html").exists() and not (root / "edits.json").exists()
    return root


@pytest.fixture(scope="module")
def edited(tiny_folder: Path, inverted: Path) -> tuple[Path, Trainer, LocInvModule]:
    """And edited: the last two images by another run than the first, as by another process."""
    for samples in (make_samples()[:1], make_samples()[1:]):
        trainer, module = run(tiny_folder, inverted, "predict", samples)
    return inverted, trainer, module


def colors(path: Path) -> int:
    with Image.open(path) as image:
        return len(image.convert("RGB").getcolors(10**6))


def test_every_image_has_a_sheet(edited: Any) -> None:
    root = edited[0]
    assert sorted(path.name for path in (root / "edit_sheets").iterdir()) == [f"{id}.png" for id in IDS]
    for id in IDS:
        assert colors(root / f"edit_sheets/{id}.png") > 100
    assert not list(root.rglob("*.tmp"))


def test_images_say_what_made_them(edited: Any) -> None:
    root = edited[0]
    with Image.open(root / "edit_sheets/p0.png") as sheet:
        assert sheet.text["source_prompt"] == "a red cat and a dog"
        assert sheet.text["prompt 2"] == EDITS[1].prompt
        assert json.loads(sheet.text["settings"]) == EditSettings().to_dict()
    for row in read_json(root / "edits/p0/edits.json")["edits"]:
        with Image.open(root / "edits/p0" / row["file"]) as image:
            assert image.text["prompt"] == row["prompt"]


def test_edits_json_has_what_any_process_wrote(edited: Any) -> None:
    root = edited[0]
    together = read_json(root / "edits.json")
    assert together == [read_json(root / f"edits/{id}/edits.json") for id in IDS]
    assert [len(row["edits"]) for row in together] == [1, 2, 0]


def test_the_contact_sheet_has_a_row_for_each(edited: Any) -> None:
    path = edited[0] / "edits_contact_sheet.png"
    assert colors(path) > 100
    with Image.open(path) as sheet:
        assert sheet.width == 4 * (160 + 4)
        assert sheet.height > 3 * 160


def test_the_report_shows_all_of_it(edited: Any) -> None:
    page = (edited[0] / "report.html").read_text()
    assert page.count("<article") == 3
    assert page.count('class="cut"') == 3 + 3
    assert page.count('class="heat"') == 2 * 2 * 2


def test_maps_come_with_the_iou_of_every_step(edited: Any) -> None:
    root = edited[0]
    maps = read_json(root / f"edits/p0/{MAPS}/maps.json")
    assert (maps["num_steps"], maps["steps"]) == (T, [0, T - 1])
    assert [noun["word"] for noun in maps["nouns"]] == ["cat", "dog"]
    inversion, masks = Inversion.load(root / "inversions/p0.safetensors"), make_samples()[0].masks
    for name, of in (("ddim", inversion.initial_maps), ("inversion", inversion.maps)):
        expected = [attention_iou(A, masks) for A in (of.mean(0), of[0], of[T - 1])]
        for k, noun in enumerate(maps["nouns"]):
            assert noun[name] == pytest.approx([iou[k].item() for iou in expected], abs=1e-4)
            with Image.open(root / f"edits/p0/{MAPS}/{k + 1}-{name}.jpg") as strip:
                assert strip.size == (4 * 8, 3 * 4 * 8)
    assert read_json(root / f"edits/bare/{MAPS}/maps.json")["nouns"] == []


def test_tensorboard(edited: Any) -> None:
    events = EventAccumulator(str(edited[0] / "tensorboard/p0"), {"images": 0})
    events.Reload()
    kinds = ["edit/1_word_swap", "edit/2_add", "edit_difference/1_word_swap", "edit_difference/2_add"]
    assert sorted(events.Tags()["images"]) == ["edit/0_reconstruction", "edit/0_source", *kinds]


def test_only_the_first_process_sums_up_and_only_after_predict(edited: Any) -> None:
    root, trainer, module = edited
    report, callback = root / "report.html", EditSheets()
    before = report.stat().st_mtime_ns
    callback.teardown(SimpleNamespace(is_global_zero=False), module, "predict")  # type: ignore[arg-type]
    callback.teardown(trainer, module, "validate")
    assert report.stat().st_mtime_ns == before
    callback.teardown(trainer, module, "predict")
    assert report.stat().st_mtime_ns > before


def test_nothing_edited_is_no_error(edited: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, trainer, module = edited
    monkeypatch.setattr(trainer, "_default_root_dir", str(tmp_path))
    RunFolder(tmp_path).claim(module.settings)
    EditSheets().teardown(trainer, module, "predict")
    assert read_json(tmp_path / "edits.json") == []
    assert "No image of this run" in (tmp_path / "report.html").read_text()
