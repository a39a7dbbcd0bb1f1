"""A disk that is full, and one that can't be written to: one line, and nothing lost."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import write_images
from runs import inversions

from locinv_pl.cli.main import main
from locinv_pl.errors import InputError
from locinv_pl.io.files import write_atomically
from locinv_pl.run.store import RunFolder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    where = tmp_path / "disk"
    where.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", where], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no disk can be mounted here: {made.stderr.strip()}")
    yield where
    subprocess.run(["umount", "--lazy", where], check=True)


def fill(disk: Path, room: int = 0) -> Path:
    """Fill the disk up to ``room`` bytes; returns the file that does."""
    there = os.statvfs(disk)
    (filler := disk / "filler").write_bytes(bytes(there.f_bavail * there.f_frsize - room))
    return filler


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)


@pytest.fixture
def start(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    """Inverts the first ``count`` of three images; returns the line that it ends with, if it does."""
    write_images(tmp_path / "mine", 3)
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def run(count: int, output: Path, *more: str) -> str | None:
        words = [f"backbone={tiny_folder}", "model.num_steps=2", "model.resolution=8", "method.tokens.max_steps=1"]
        words += ["method.null_text.max_steps=1", "data=folder", f"data.root={tmp_path / 'mine'}", "data.batch_size=1"]
        words += ["data.size=32", f"data.num_images={count}", "trainer.accelerator=cpu", "trainer.devices=1"]
        try:
            main([*words, f"output={output}", *more])
        except SystemExit as end:
            assert isinstance(end.code, str) and "\n" not in end.code
            return end.code
        return None

    return run


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("room, callbacks", [(0, "plain"), (70_000, "plain"), (70_000, "full"), (260_000, "full")])
def test_full(start: Callable[..., str | None], disk: Path, tmp_path: Path, room: int, callbacks: str) -> None:
    run, words = disk / "run", f"callbacks={callbacks}"
    assert start(1, run, "callbacks=plain") is None
    finished = {path: path.read_bytes() for path in (run / "inversions").iterdir()}
    filler = fill(disk, room)
    line = start(3, run, words)
    assert line is not None
    assert re.match(rf"train.py: {run}/\S+: can't be written \(No space left on device\); make room, then run", line)
    assert {path: path.read_bytes() for path in finished} == finished
    assert not list(run.rglob("*.tmp"))
    filler.unlink()
    assert start(3, run, "callbacks=plain") is None
    assert start(3, tmp_path / "undisturbed", "callbacks=plain") is None
    assert inversions(run) == inversions(tmp_path / "undisturbed")
    assert not list((run / "running").iterdir())


def test_read_only(start: Callable[..., str | None], disk: Path, tmp_path: Path) -> None:
    run = disk / "run"
    assert start(1, run, "callbacks=plain") is None
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    remount(disk, "ro")
    for output in (run, disk / "another"):
        line = start(3, output)
        assert line is not None and "can't be written (Read-only file system); let it be written, or give" in line
        assert f"train.py: {output}/" in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    remount(disk, "rw")
    assert start(3, run, "callbacks=plain") is None
    assert len(RunFolder(run).scores()) == 3


def test_a_file_in_the_place_of_the_folder(start: Callable[..., str | None], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    assert "taken/settings.json: can't be written" in str(start(1, tmp_path / "taken"))


@pytest.mark.parametrize("refusal", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("call", ["mkdir", "fsync", "replace"])
def test_what_was_there_stays(call: str, refusal: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, b"before")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(Path if call == "mkdir" else os, call, refuse)
    with pytest.raises(InputError, match=f"x.json: can't be written \\({os.strerror(refusal)}\\)"):
        write_atomically(path, b"after")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x.json", b"before")]


def test_the_disk_has_the_content_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def sync(number: int) -> None:
        calls.append(f"sync {Path(os.readlink(f'/proc/self/fd/{number}')).name.rpartition('.')[2]}")

    def rename(source: Path, target: Path) -> None:
        calls.append("rename")
        os.rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    write_atomically(tmp_path / "new" / "x", b"")
    assert calls == ["sync tmp", "rename", "sync new", f"sync {tmp_path.name}"]
    write_atomically(tmp_path / "new" / "x", b"", lasting=False)
    assert calls[4:] == ["rename"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), FileNotFoundError(errno.ENOENT, "broken")])
def test_any_other_error_is_one_line_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="x: can't be written .broken."):
        write_atomically(tmp_path / "x", b"")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_can_never_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^/proc/run/settings.json: can't be written \(No such file or directory\)"):
        RunFolder("/proc/run").claim({})
