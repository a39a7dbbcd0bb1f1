"""What a run logs through Lightning: to any logger, and for callbacks that monitor it."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_image
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.loggers import CSVLogger
from runs import METHOD, T, inversions, make_samples, run_stage

from locinv_pl.callbacks.attention_iou import AttentionIoUCurves
from locinv_pl.errors import InputError
from locinv_pl.io.files import read_json
from locinv_pl.measures.metrics import attention_iou
from locinv_pl.method.policies import LOSSES, LossTerm
from locinv_pl.run.batch import MicroBatch
from locinv_pl.run.logging import metric_names
from locinv_pl.types import EditSample, StepRecord

NAMES = ["timestep", "iou/mean", "loss/null_text"]
NAMES += [f"{kind}/{name}" for kind in ("loss", "threshold") for name in ("similarity", "overlap", "adjective")]


class Records(Callback):
    """Keeps the record of every timestep, with its images."""

    def __init__(self) -> None:
        self.seen: list[tuple[tuple[EditSample, ...], StepRecord]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep it."""
        (one,) = outputs["micro_batches"]
        assert isinstance(one, MicroBatch)
        self.seen.append((one.task.samples, one.records[outputs["i"]]))


class EveryStep(EarlyStopping):
    """Lightning's, in the middle of an epoch, as its documentation proposes."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look."""
        self._run_early_stopping_check(trainer)


def logged(tiny_folder: Path, root: Path, **options: Any) -> tuple[list[dict[str, str]], Records]:
    """The rows of metrics.csv, and the records that they tell of."""
    records, logger = Records(), CSVLogger(root / "logs")
    run_stage(tiny_folder, root / "run", callbacks=[records], logger=logger, log_every_n_steps=1, **options)
    with open(Path(logger.log_dir) / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file)), records


def test_names() -> None:
    assert metric_names(METHOD) == NAMES
    without = replace(METHOD, tokens=replace(METHOD.tokens, overlap=LossTerm(1.0), similarity=LossTerm(0.0)))
    gone = {"loss/similarity", "threshold/similarity", "threshold/overlap"}
    assert metric_names(without) == [name for name in NAMES if name not in gone]


def test_a_csv_logger_writes_the_values_of_the_records(tiny_folder: Path, tmp_path: Path) -> None:
    rows, records = logged(tiny_folder, tmp_path)
    assert set(rows[0]) == {*NAMES, "epoch", "step"} and len(rows) == len(records.seen) == 2 * T
    assert [int(row["step"]) for row in rows] == list(range(2 * T))
    assert [float(row["timestep"]) for row in rows] == [*range(T), *range(T)]
    for row, (samples, record) in zip(rows, records.seen, strict=True):
        for n, name in enumerate(LOSSES):
            if name in METHOD.tokens.active:
                assert float(row[f"loss/{name}"]) == pytest.approx(record.losses[:, n].nanmean().item(), rel=1e-6)
                assert float(row[f"threshold/{name}"]) == pytest.approx(record.thresholds[n].item(), rel=1e-6)
        assert float(row["loss/null_text"]) == pytest.approx(record.null_loss.mean().item(), rel=1e-6)
        ious = [attention_iou(maps[: len(s.nouns)], s.masks) for s, maps in zip(samples, record.maps, strict=True)]
        assert float(row["iou/mean"]) == pytest.approx(torch.cat(ious).mean().item(), rel=1e-6)


def test_what_applies_to_no_image_is_not_a_number(tiny_folder: Path, tmp_path: Path) -> None:
    """The first batch has a noun, the second none."""
    samples = [*make_samples(1), EditSample("bare", make_image(), "a dog")]
    rows, _ = logged(tiny_folder, tmp_path, samples=samples, data={"batch_size": 1})
    assert all(math.isfinite(float(row["loss/similarity"]) + float(row["iou/mean"])) for row in rows[:T])
    assert all(row["loss/similarity"] == row["iou/mean"] == "nan" for row in rows[T:])
    assert all(math.isfinite(float(row["loss/null_text"])) for row in rows)


def test_nothing_is_logged_where_nobody_listens(tiny_folder: Path, tmp_path: Path) -> None:
    deaf: list[Callback] = [AttentionIoUCurves(), Timer()]
    trainer, _ = run_stage(tiny_folder, tmp_path / "deaf", count=1, callbacks=deaf)
    assert not trainer.callback_metrics
    trainer, _ = run_stage(tiny_folder, tmp_path / "heard", count=1, callbacks=[*deaf, Records()])
    assert trainer.callback_metrics.keys() == set(NAMES)


def test_logging_changes_no_result(tiny_folder: Path, tmp_path: Path) -> None:
    logged(tiny_folder, tmp_path)
    run_stage(tiny_folder, tmp_path / "plain")
    assert inversions(tmp_path / "run") == inversions(tmp_path / "plain")


def test_early_stopping_at_the_end_of_an_epoch(tiny_folder: Path, tmp_path: Path) -> None:
    """All images are inverted in the first of them."""
    stopping = EarlyStopping("loss/similarity", stopping_threshold=1e9, check_on_train_epoch_end=True)
    trainer, _ = run_stage(tiny_folder, tmp_path, callbacks=[stopping], max_epochs=5)
    assert trainer.should_stop and trainer.current_epoch == 1
    assert read_json(tmp_path / "summary.json")["num_images"] == 3


@pytest.mark.parametrize("name", NAMES)
def test_early_stopping_in_the_middle(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    """The run says that it is unfinished, and the same one goes on."""
    stopping = EveryStep(name, stopping_threshold=1e9, mode="min")
    with pytest.raises(InputError, match="2 of 2 images are unfinished: .* or a callback of the Trainer ended it"):
        run_stage(tiny_folder, tmp_path, count=2, callbacks=[stopping])
    assert sorted(path.name for path in (tmp_path / "running").glob("*/*")) == ["0000.safetensors"] * 2
    if name == NAMES[0]:
        run_stage(tiny_folder, tmp_path, count=2)
        assert read_json(tmp_path / "summary.json")["num_images"] == 2


def test_a_timer(tiny_folder: Path, tmp_path: Path) -> None:
    timer = Timer()
    run_stage(tiny_folder, tmp_path, callbacks=[timer])
    assert timer.time_elapsed("train") > 0
    with pytest.raises(InputError, match="unfinished: .*max_time"):
        run_stage(tiny_folder, tmp_path / "short", callbacks=[Timer({"microseconds": 1}, interval="step")])
