"""Runs of three processes that are killed and stopped at random moments, and go on by the same command.

More of them: ``CHAOS_RUNS=20 python -m pytest tests/test_chaos.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import write_pictures
from runs import inversions

from locinv_pl.store import RunFolder, read_json

ROOT = Path(__file__).parent.parent
COUNT, RUNS = 12, int(os.environ.get("CHAOS_RUNS", "4"))
WORDS = """
    data.size=32 data.batch_size=2 model.num_steps=2 model.resolution=8 method.tokens.max_steps=1
    method.null_text.max_steps=1 callbacks=plain trainer.accelerator=cpu trainer.devices=3
"""


@pytest.fixture
def chaos(tiny_folder: Path, tmp_path: Path) -> Any:
    """Runs tests/chaos.py; returns what it prints."""
    write_pictures(tmp_path / "mine", COUNT)

    def run(what: str, number: object) -> str:
        script = [sys.executable, str(Path(__file__).with_name("chaos.py")), what, str(number), str(tmp_path)]
        words = [str(tmp_path / "mine"), f"backbone={tiny_folder}", *WORDS.split()]
        path = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
        ended = subprocess.run([*script, *words], env=path, capture_output=True, text=True, timeout=600)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    return run


def scores(root: Path) -> list[dict[str, Any]]:
    return [{**score, "seconds": 0} for score in RunFolder(root).scores()]


def is_whole(root: Path, like: Path) -> None:
    """The run has what the other one has, bit for bit, and no more."""
    assert inversions(root) == inversions(like)
    assert scores(root) == scores(like)
    assert [image["id"] for image in read_json(root / "summary.json")["images"]] == [s["id"] for s in scores(like)]
    assert not list((root / "running").iterdir())


def test_killed_and_stopped_runs_end_as_undisturbed_ones(chaos: Any, tmp_path: Path) -> None:
    told = chaos("disturb", RUNS)
    assert len(inversions(tmp_path / "undisturbed")) == COUNT
    for seed in range(RUNS):
        try:
            is_whole(tmp_path / str(seed), tmp_path / "undisturbed")
        except AssertionError:
            print(told, (tmp_path / f"{seed}.txt").read_text())
            raise


def test_one_process_that_is_told_to_end_ends_the_run(chaos: Any, tmp_path: Path) -> None:
    assert chaos("stop", "0,2").splitlines() == ["0 []", "0 []"]  # the exit code, and nobody is left
    for output in (tmp_path / "stopped0", tmp_path / "stopped2"):
        running = {folder.name: len(list(folder.iterdir())) for folder in (output / "running").iterdir()}
        assert len(running) >= 6 and min(running.values()) >= 1
        assert not list(output.rglob("*.tmp"))
        assert not (output / "summary.json").exists()
