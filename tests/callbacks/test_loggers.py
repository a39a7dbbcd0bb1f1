"""A run's curves and drawings in every logger: TensorBoard, CSV, W&B offline, MLflow."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from runs import METHOD, T, Toy, make_samples, make_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from locinv_pl.callbacks.attention_maps import AttentionMapSheets
from locinv_pl.callbacks.edits import EditSheets
from locinv_pl.callbacks.loggers import log_image
from locinv_pl.run.module import LocInvModule
from locinv_pl.types import Edit

NAMES = {"picture/1_original_and_priors", "picture/2_reconstruction", "prior/1_cat", "prior/2_dog"}
STEPS = {f"{kind}/{noun}" for kind in ("ddim", "maps") for noun in ("1_cat", "2_dog")}
EDITS = {"edit/0_source", "edit/0_reconstruction", "edit/1_word_swap", "edit_difference/1_word_swap"}


def run(model: Path, root: Path, logger: Logger) -> None:
    """An image inverted and edited."""
    samples = [replace(make_samples(1)[0], edits=(Edit("a red dog and a dog", "word_swap"),))]
    for stage, drawing in (("fit", AttentionMapSheets(tensorboard_steps=2)), ("predict", EditSheets(map_steps=2))):
        trainer = make_trainer(root, callbacks=[drawing], logger=logger, log_every_n_steps=1)
        getattr(trainer, stage)(LocInvModule(str(model), METHOD, num_steps=T, resolution=8), datamodule=Toy(samples))


def files(folder: Path) -> set[str]:
    """What lies in a folder, without suffixes; every image opens."""
    found = set()
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            image.load()
        found.add(str(path.relative_to(folder).with_suffix("")))
    return found


WANTED = {f"p0/{tag}" for tag in NAMES | EDITS} | {f"p0/{tag}/{i:03d}" for tag in STEPS for i in (0, T - 1)}


def test_csv(tiny_folder: Path, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "logs")
    run(tiny_folder, tmp_path / "run", logger)
    with open(Path(logger.log_dir) / "metrics.csv", newline="") as file:
        assert [float(row["timestep"]) for row in csv.DictReader(file)] == [0, 1, 2]
    assert files(Path(logger.log_dir) / "images") == WANTED


def test_tensorboard(tiny_folder: Path, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path / "logs")
    run(tiny_folder, tmp_path / "run", logger)
    seen = EventAccumulator(logger.log_dir).Reload()
    assert set(seen.Tags()["images"]) == {f"p0/{tag}" for tag in NAMES | STEPS | EDITS}
    assert [event.step for event in seen.Images("p0/maps/1_cat")] == [0, T - 1]
    assert len(seen.Scalars("iou/mean")) == T
    (own,) = {path.parent for path in (tmp_path / "run" / "tensorboard").rglob("*tfevents*")}
    assert set(EventAccumulator(str(own)).Reload().Tags()["images"]) == NAMES | STEPS | EDITS  # the image's own run


@pytest.mark.slow
def test_wandb(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, project="locinv", offline=True)
    run(tiny_folder, tmp_path / "run", logger)
    summary = dict(logger.experiment.summary)
    assert summary["timestep"] == T - 1 and 0 <= summary["iou/mean"] <= 1
    assert {f"p0/{tag}" for tag in NAMES | STEPS | EDITS} <= summary.keys()
    assert summary["p0/maps/1_cat"]["captions"] == [f"timestep {T - 1}"]
    wandb.finish()
    (made,) = (tmp_path / "wandb").glob("offline-run-*")
    assert len(files(made / "files" / "media" / "images")) == len(WANTED)


@pytest.mark.slow
def test_mlflow(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger("locinv", tracking_uri=(tmp_path / "mlruns").as_uri())
    run(tiny_folder, tmp_path / "run", logger)
    history = logger.experiment.get_metric_history(logger.run_id, "iou/mean")
    assert [metric.step for metric in history] == [0, 1, 2]
    where = logger.experiment.download_artifacts(logger.run_id, "images", str(tmp_path))
    assert files(Path(where)) == WANTED


def test_a_logger_without_images_is_left_alone() -> None:
    class Plain(Logger):
        name, version = "plain", 0

        def log_metrics(self, *_: Any, **__: Any) -> None:
            """Nothing."""

        log_hyperparams = log_metrics

    log_image(Plain(), "a/b", np.zeros((2, 2, 3), np.uint8))
