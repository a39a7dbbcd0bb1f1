"""A disk that is full, and one that can't be written to: one line, and nothing lost."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
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


def start(model: Path, images: Path, count: int, output: Path, *more: str) -> str | None:
    """Inverts the first ``count`` of three images; returns the line that it ends with, if it does."""
    words = [f"backbone={model}", "model.num_steps=2", "model.resolution=8", "method.tokens.max_steps=1"]
    words += ["method.null_text.max_steps=1", "data=folder", f"data.root={images}", "data.batch_size=1"]
    words += ["data.size=32", f"data.num_images={count}", "trainer.accelerator=cpu", "trainer.devices=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py"])
        try:
            main([*words, f"output={output}", *more])
        except SystemExit as end:
            assert isinstance(end.code, str) and "\n" not in end.code
            return end.code
    return None


@dataclass
class Made:
    """Images, and what a disk with room gets of them: the first one's run, and the whole one's inversions."""

    start: Callable[..., str | None]
    one: Path
    undisturbed: dict[str, bytes]


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The runs that all tests begin with and compare with; copy the first one's before going on with it."""
    root = tmp_path_factory.mktemp("made")
    write_images(root / "mine", 3)
    run = partial(start, tiny_folder, root / "mine")
    assert run(1, root / "one", "callbacks=plain") is None
    assert run(3, root / "whole", "callbacks=plain") is None
    return Made(run, root / "one", inversions(root / "whole"))


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("room, callbacks", [(0, "plain"), (70_000, "plain"), (70_000, "full"), (260_000, "full")])
def test_full(made: Made, disk: Path, room: int, callbacks: str) -> None:
    run, words = Path(shutil.copytree(made.one, disk / "run")), f"callbacks={callbacks}"
    finished = {path: path.read_bytes() for path in (run / "inversions").iterdir()}
    filler = fill(disk, room)
    line = made.start(3, run, words)
    assert line is not None
    assert re.match(rf"train.py: {run}/\S+: can't be written \(No space left on device\); make room, then run", line)
    assert {path: path.read_bytes() for path in finished} == finished
    assert not list(run.rglob("*.tmp"))
    filler.unlink()
    assert made.start(3, run, "callbacks=plain") is None
    assert inversions(run) == made.undisturbed
    assert not list((run / "running").iterdir())


def test_read_only(made: Made, disk: Path) -> None:
    run = Path(shutil.copytree(made.one, disk / "run"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    remount(disk, "ro")
    for output in (run, disk / "another"):
        line = made.start(3, output)
        assert line is not None and "can't be written (Read-only file system); let it be written, or give" in line
        assert f"train.py: {output}/" in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    remount(disk, "rw")
    assert made.start(3, run, "callbacks=plain") is None
    assert len(RunFolder(run).scores()) == 3


def test_a_file_in_the_place_of_the_folder(made: Made, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    assert "taken/settings.json: can't be written" in str(made.start(1, tmp_path / "taken"))


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
