"""Runs of three processes that are killed and stopped at random moments, and go on by the same command.

Between two of them files of the run are truncated, zeroed, or have a bit turned.

More of them: ``CHAOS_RUNS=20 python -m pytest tests/test_chaos.py``.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import write_images
from processes import Run
from runs import inversions

from locinv_pl.io.files import read_json
from locinv_pl.run.store import RunFolder

COUNT, RUNS = 12, int(os.environ.get("CHAOS_RUNS", "3"))
WORDS = """
    data=folder data.size=32 data.batch_size=2 model.num_steps=2 model.resolution=8 method.tokens.max_steps=1
    method.null_text.max_steps=1 callbacks=plain trainer.accelerator=cpu
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tiny_folder: Path, tmp_path: Path) -> list[str]:
    """A short run over images of one's own; its devices and its output are still to name."""
    write_images(tmp_path / "mine", COUNT)
    return [*WORDS.split(), f"backbone={tiny_folder}", f"data.root={tmp_path / 'mine'}"]


def scores(root: Path) -> list[dict[str, Any]]:
    return [{**score, "seconds": 0} for score in RunFolder(root).scores()]


def is_whole(root: Path, like: Path) -> None:
    """The run has what the other one has, bit for bit, and no more."""
    assert inversions(root) == inversions(like)
    assert scores(root) == scores(like)
    assert [image["id"] for image in read_json(root / "summary.json")["images"]] == [s["id"] for s in scores(like)]
    assert not list((root / "running").iterdir())


def damage(draw: random.Random, root: Path) -> None:
    """Spoil up to three of the run's files, its own and those of its images."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix in (".json", ".safetensors"))
    for path in draw.sample(files, min(len(files), draw.randint(1, 3))):
        content = bytearray(path.read_bytes())
        how, at = draw.choice(["truncated", "zeroed", "flipped"]), draw.randrange(len(content) or 1)
        if how == "truncated":
            content = content[:at]
        elif how == "zeroed":
            content[at:] = bytes(len(content) - at)
        elif content:
            content[at] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        print(f"{path.relative_to(root)}: {how} at {at}")


def disturb(seed: int, root: Path, log: Path, words: list[str], life: float) -> None:
    """Runs ended once or twice at a random moment, with files damaged, and then one that is left alone.

    The moments lie all over a run's life; SIGKILL or SIGTERM goes to some of its processes or to all, and those that
    are left have up to half a second before they are killed, as a scheduler does.
    """
    draw = random.Random(seed)
    for _ in range(draw.choice([1, 1, 1, 2])):
        run, moment = Run(log, words), draw.random() * life
        if run.wait(moment) is None and (processes := run.processes()):
            victims = draw.sample(processes, draw.randint(1, len(processes)))
            signum = draw.choice([signal.SIGKILL, signal.SIGTERM])
            numbers = [processes.index(pid) for pid in victims]
            print(f"seed {seed}: {signum.name} to {numbers} of {len(processes)} after {moment:.2f} s")
            for pid in victims:
                with suppress(ProcessLookupError):
                    os.kill(pid, signum)
            run.wait(draw.random() / 2)
        run.kill()
        damage(draw, root)
    run = Run(log, words)
    code = run.wait(100)
    run.kill()
    assert code == 0, log.read_text()


def test_killed_and_stopped_runs_end_as_undisturbed_ones(command: list[str], tmp_path: Path) -> None:
    alone, log = tmp_path / "undisturbed", tmp_path / "undisturbed.txt"
    run, began = Run(log, [*command, "trainer.devices=1", f"output={alone}"]), time.monotonic()
    assert run.wait(100) == 0, log.read_text()
    life = time.monotonic() - began
    assert len(inversions(alone)) == COUNT
    for seed in range(RUNS):
        root, log = tmp_path / str(seed), tmp_path / f"{seed}.txt"
        disturb(seed, root, log, [*command, "trainer.devices=3", f"output={root}"], life)
        try:
            is_whole(root, alone)
        except AssertionError:
            print(log.read_text())
            raise


@pytest.mark.parametrize("rank", [0, 2])
def test_one_process_that_is_told_to_end_ends_the_run(command: list[str], tmp_path: Path, rank: int) -> None:
    root, log = tmp_path / "stopped", tmp_path / "stopped.txt"
    run = Run(log, [*command, "trainer.devices=3", "model.num_steps=16", f"output={root}"])
    while run.wait(0.01) is None and len(list((root / "running").glob("*/0001*"))) < 3 * 2:  # batches of two
        pass
    assert run.wait(0) is None, log.read_text()
    os.kill(run.processes()[rank], signal.SIGTERM)
    assert run.wait(20) == 0 and not run.processes(), log.read_text()
    running = {folder.name: len(list(folder.iterdir())) for folder in (root / "running").iterdir()}
    assert len(running) >= 6 and min(running.values()) >= 1
    assert not list(root.rglob("*.tmp"))
    assert not (root / "summary.json").exists()
