"""How a run stands, from its folder alone."""

import os
import re
import sys
import time
from pathlib import Path

import pytest
from runs import make_samples, run_stage
from test_types import SETTINGS, make_record, make_scores

from locinv_pl.callbacks.progress import InversionProgress
from locinv_pl.cli.main import main
from locinv_pl.errors import InputError
from locinv_pl.io.files import write_json
from locinv_pl.run.status import duration, status, to_text
from locinv_pl.run.store import RunFolder

NOW = 1_000_000.0


def touch(path: Path, ago: float) -> None:
    os.utime(path, (NOW - ago, NOW - ago))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Started an hour ago; 10 of 20 images done, 4 of them before that; one failed, two under way."""
    folder = RunFolder(tmp_path / "run")
    write_json(folder.root / "settings.json", {**SETTINGS, "num_steps": 50})
    folder.announce(20)
    for n in range(10):
        folder.save_scores("inversions", f"p{n}", make_scores(f"p{n}"))
        touch(folder.root / f"inversions/p{n}.json", 9000 if n < 4 else 3000 - 300 * n)
    folder.save_scores("skipped", "p10", {"id": "p10", "problem": "image 'p10': torn"})
    folder.save_scores("skipped", "p0", {"id": "p0", "problem": "was mended"})
    for id, count in (("a/b", 3), ("p12", 1)):
        for i in range(count):
            folder.save_record([id], i, make_record().pick([0]))
    for i, ago in enumerate((12, 7, 2)):
        touch(folder.root / f"running/a%2Fb/{i:04d}.safetensors", ago)
    touch(folder.root / "running/p12/0000.safetensors", 20)
    for name in ("settings", "pictures"):
        touch(folder.root / f"{name}.json", 3602)
    return folder.root


def test_counts(run: Path) -> None:
    now = status(run, NOW)
    assert (now.total, now.done, now.failed, now.num_steps) == (20, 10, ["p10"], 50)
    assert now.running == {"a/b": 3, "p12": 1}
    assert now.reasons == {"p10": "image 'p10': torn"}


def test_speed_is_since_the_last_start(run: Path) -> None:
    now = status(run, NOW)
    assert now.per_hour == pytest.approx(6)
    assert now.hours_left == pytest.approx((20 - 10 - 1) / 6)


@pytest.mark.parametrize("ago, state", [(0, "running"), (290, "running"), (310, "dead")])
def test_a_run_that_writes_nothing_is_dead(run: Path, ago: float, state: str) -> None:
    now = status(run, NOW - 2 + ago)
    assert (now.state, now.silence, now.step) == (state, ago, 5.0)


def test_slow_timesteps_are_waited_for(run: Path) -> None:
    touch(run / "running/a%2Fb/0000.safetensors", 2002)
    assert status(run, NOW + 9000).state == "running"
    assert status(run, NOW + 11000).state == "dead"


def test_all_done_or_failed_is_finished(run: Path) -> None:
    RunFolder(run).announce(11)
    assert status(run, NOW + 1e6).state == "finished"


def test_text(run: Path) -> None:
    assert to_text("run", status(run, NOW)).splitlines() == [
        "run: running, last sign of life 2 s ago",
        "done     10 of 20",
        "running  2  a/b 3/50  p12 1/50",
        "failed   1",
        "         image 'p10': torn",
        "speed    6.0 images per hour since the last start, 1 h 30 min left",
    ]
    dead = to_text("run", status(run, NOW + 90000)).splitlines()
    assert dead[0] == "run: dead, last sign of life 1 d 1 h ago; run the same command to go on"
    assert dead[-1] == "speed    6.0 images per hour since the last start"


def test_before_the_first_image(tmp_path: Path) -> None:
    write_json(tmp_path / "settings.json", {**SETTINGS, "num_steps": 50})
    assert to_text("run", status(tmp_path)).splitlines()[1:] == ["done     0", "running  0", "failed   0", "speed    -"]


def test_many_names_are_cut(run: Path) -> None:
    for n in range(30):
        RunFolder(run).save_scores("skipped", f"q{n:02}", {"id": f"q{n:02}", "problem": f"image 'q{n:02}': torn"})
    assert "  and 11 more" in to_text("run", status(run, NOW)).splitlines()[-2]


@pytest.mark.parametrize(
    "seconds, text", [(0, "0 s"), (59, "59 s"), (90, "1 min 30 s"), (7500, "2 h 5 min"), (273600, "3 d 4 h")]
)
def test_duration(seconds: int, text: str) -> None:
    assert duration(seconds / 3600) == text


def test_the_command(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = [InversionProgress()]
    run_stage(tiny_folder, tmp_path, count=3, callbacks=bar, enable_progress_bar=True)
    printed = "".join(capsys.readouterr())
    assert "done=0/3" in printed
    main(["status", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path}: finished, last sign of life ")
    assert lines[1:4] == ["done     3 of 3", "running  0", "failed   0"]
    assert re.fullmatch(r"speed    \d+\.\d images per hour since the last start", lines[4])


def test_the_bar_counts_the_images_of_all_processes(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("locinv_pl.callbacks.progress.LOOK", 0.0)
    folder = RunFolder(tmp_path)
    folder.save_scores("skipped", "p9", {"id": "p9", "problem": "torn"})

    class Other(InversionProgress):
        """Another process finishes images in the meantime."""

        def on_train_batch_end(self, *args: object) -> None:  # type: ignore[override]
            """One for every timestep."""
            folder.save_scores("other", str(time.monotonic()), {})
            super().on_train_batch_end(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(
        RunFolder, "count", lambda self, kind: len([*self._files({"inversions": "other"}.get(kind, kind))])
    )
    run_stage(tiny_folder, tmp_path, samples=make_samples(4), callbacks=[Other()], enable_progress_bar=True)
    printed = "".join(capsys.readouterr())
    assert re.search(r"done=[1-6]/4, failed=1, per_hour=\d+, left=\d+ s", printed)


def test_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["locinv"])
    with pytest.raises(InputError, match="nowhere: no run's folder"):
        status(tmp_path / "nowhere")
    with pytest.raises(SystemExit, match="locinv: .*nowhere: no run's folder"):
        main(["status", str(tmp_path / "nowhere")])
