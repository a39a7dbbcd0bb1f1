"""How a run stands, from its folder alone: while it goes, from anywhere that sees the folder, and after its death."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from locinv_pl.errors import InputError, printable
from locinv_pl.io.files import written_at
from locinv_pl.run.store import RunFolder
from locinv_pl.run.stores import FolderStore

SHOWN = 20  # names and reasons at most
PATIENCE = 300.0  # seconds without a new file before a run may count as dead


@dataclass(frozen=True)
class Status:
    """A run at one moment.

    Args:
        total: images to invert; None before the first start has counted them.
        done: how many images are finished.
        running: images under way, with the timesteps that are kept of them.
        num_steps: T, the timesteps of an image.
        failed: ids of the images left out.
        reasons: of the first of these.
        per_hour: images finished per hour since the last start; None before the first.
        silence: seconds since the newest file of the run.
        step: seconds that a timestep takes, the slowest of those under way; None where that can't be told.
    """

    total: int | None
    done: int
    running: dict[str, int]
    num_steps: int
    failed: list[str]
    reasons: dict[str, str]
    per_hour: float | None
    silence: float
    step: float | None

    @property
    def state(self) -> str:
        """Whether it is "finished", "running", or "dead": longer silent than ten timesteps take."""
        if self.total is not None and self.done + len(self.failed) >= self.total:
            return "finished"
        return "running" if self.silence < max(PATIENCE, 10 * (self.step or 0)) else "dead"

    @property
    def hours_left(self) -> float | None:
        """At the speed so far."""
        if self.total is None or not self.per_hour:
            return None
        return max(self.total - self.done - len(self.failed), 0) / self.per_hour


def status(run: str | Path, now: float | None = None) -> Status:
    """Look at a run's folder; of finished images only the directory is read, no file.

    Args:
        run: the run's folder, its output=.
        now: seconds since 1970, the clock's by default.

    Raises:
        InputError: no run's folder.
    """
    folder, now = RunFolder(run), time.time() if now is None else now
    if not folder.place("settings.json").exists():
        raise InputError(f"{folder.root}: no run's folder, it has no settings.json; give the output= of a run")
    finished = {name.removesuffix(".json"): written for name, written in folder.store.times("inversions")}
    left_out = {name.removesuffix(".json") for name in FolderStore(folder.root).names("skipped")} - finished.keys()
    failed = sorted(folder.id_of("skipped", name) for name in left_out)
    starts = (folder.place(f"{name}.json") for name in ("settings", "pictures"))
    began = max(written_at(path) for path in starts if path.exists())
    steps: dict[str, list[float]] = {}
    for under_way in _listed(folder.place("running")):
        if under_way.name not in finished.keys() | left_out:
            id = folder.id_of("running", under_way.name)
            steps[id] = sorted(_times(Path(under_way.path)))
    newest = max([began, *finished.values(), *(times[-1] for times in steps.values() if times)])
    since = sum(written >= began for written in finished.values())
    spans = [(times[-1] - times[0]) / (len(times) - 1) for times in steps.values() if len(times) > 1]
    return Status(
        total=folder.total,
        done=len(finished),
        running={id: len(times) for id, times in sorted(steps.items())},
        num_steps=folder.settings["num_steps"],
        failed=failed,
        reasons={id: folder.problem(id) for id in failed[:SHOWN]},
        per_hour=3600 * since / (newest - began) if since and newest > began else None,
        silence=max(now - newest, 0.0),
        step=max(spans, default=None),
    )


def to_text(run: str | Path, status: Status) -> str:
    """A status as lines for people.

    Args:
        run: the folder that it is of, as it was named.
        status: what :func:`status` has found.
    """
    names = [f"{id} {steps}/{status.num_steps}" for id, steps in status.running.items()]
    left = "" if status.hours_left is None or status.state != "running" else f", {duration(status.hours_left)} left"
    speed = "-" if status.per_hour is None else f"{status.per_hour:.1f} images per hour since the last start"
    mend = "; run the same command to go on" if status.state == "dead" else ""
    lines = [
        f"{run}: {status.state}, last sign of life {duration(status.silence / 3600)} ago{mend}",
        f"done     {status.done}" + ("" if status.total is None else f" of {status.total}"),
        f"running  {len(names)}" + "".join(f"  {name}" for name in names[:SHOWN]) + _more(names),
        f"failed   {len(status.failed)}",
        *(
            f"         {reason}" if id in reason else f"         {id}: {reason}"
            for id, reason in status.reasons.items()
        ),
        *(["        " + _more(status.failed)] if _more(status.failed) else []),
        f"speed    {speed}{left}",
    ]
    return "\n".join(map(printable, lines))


def duration(hours: float) -> str:
    """Hours in the two units that matter.

    Args:
        hours: 0 or more.

    >>> duration(76), duration(2.09), duration(0.125), duration(0.0033)
    ('3 d 4 h', '2 h 5 min', '7 min 30 s', '12 s')
    """
    seconds = round(3600 * hours)
    days, hour, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hour} h"
    if hour:
        return f"{hour} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def _more(names: list[str]) -> str:
    return f"  and {len(names) - SHOWN} more" if len(names) > SHOWN else ""


def _times(folder: Path) -> Iterator[float]:
    """When the records of an image's timesteps were written, in seconds since 1970."""
    for entry in _listed(folder):
        if entry.name.endswith(".safetensors") and entry.name[0] != ".":
            with suppress(FileNotFoundError):  # an image that has just been finished
                yield entry.stat().st_mtime


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except FileNotFoundError:
        return []
