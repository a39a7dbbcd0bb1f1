"""A run's folder: one set of files for every picture, each written whole or not at all.

settings.json               what makes the run; another configuration is refused
pictures.json               how many pictures it is to invert; written at every start
inversions/<id>.safetensors the inversion
inversions/<id>.json        its scores; written last, it marks the picture as finished
running/<id>/<i>            one record per timestep of a picture that isn't finished
validation/<id>.json        scores of the reconstruction from the files
edits/<id>/                 its source, its reconstruction, its edits, and edits.json
edits.json                  all of these
test/<id>.json              scores of its edits
skipped/<id>.json           why a picture was left out; gone once it is finished after all
summary.json, validation.json, test.json  the whole run
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from locinv_pl.errors import InputError
from locinv_pl.types import StepRecord, read_tensors, write_atomically

Scores = list[dict[str, Any]]


class RunFolder:
    """The files of one run under ``root``; any number of processes may share it."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def inversion_path(self, id: str) -> Path:
        """Where the inversion of picture ``id`` is kept."""
        return self.root / "inversions" / f"{quote(id, safe='')}.safetensors"

    def image_path(self, kind: str, id: str) -> Path:
        """Where a picture made of ``id`` is kept; ``kind`` names the folder."""
        return self.root / kind / f"{quote(id, safe='')}.png"

    def edits_path(self, id: str) -> Path:
        """The folder of the edits of picture ``id``."""
        return self.root / "edits" / quote(id, safe="")

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Say what configuration this run has.

        Raises:
            InputError: the folder holds results of another one.
        """
        path = self.root / "settings.json"
        if not path.exists() or not self._has_results():
            write_json(path, settings)
        there, here = _flat(read_json(path)), _flat(settings)
        for key in sorted(there.keys() | here.keys()):
            if there.get(key) != here.get(key):
                raise InputError(
                    f"{self.root}: holds results made with {key}={there.get(key)}, this run has "
                    f"{key}={here.get(key)}; give another output=, or delete the folder"
                )

    def announce(self, total: int) -> None:
        """Say how many pictures the run is to invert."""
        write_json(self.root / "pictures.json", {"total": total})

    @property
    def total(self) -> int | None:
        """What :meth:`announce` said."""
        path = self.root / "pictures.json"
        return read_json(path)["total"] if path.exists() else None

    def count(self, kind: str) -> int:
        """How many pictures there are of a kind."""
        return len(self._files(kind))

    def problem(self, id: str) -> str:
        """Why picture ``id`` was left out."""
        return read_json(self._skipped(id))["problem"]

    def is_finished(self, id: str) -> bool:
        """Whether picture ``id`` is done; its files' headers are read, so that damage shows here."""
        path = self.inversion_path(id)
        if not (path.exists() and path.with_suffix(".json").exists()):
            return False
        read_json(path.with_suffix(".json"))
        read_tensors(path, names=())
        return True

    def pending(self, ids: Sequence[str]) -> list[str]:
        """Of a batch, the pictures to run: the unfinished, and those that an earlier run was finishing with them."""
        unfinished = {id for id in ids if not self.is_finished(id)}
        begun = {id for id in ids if self._running(id).is_dir()}
        if not unfinished & begun:
            self._clear(begun)  # where a run ended between mark and clearing
            begun = set()
        return [id for id in ids if id in unfinished | begun]

    def unskipped(self, ids: Sequence[str]) -> list[str]:
        """Of a batch, the pictures that weren't left out."""
        return [id for id in ids if not self._skipped(id).exists()]

    def save_record(self, ids: Sequence[str], i: int, record: StepRecord) -> None:
        """Keep the record of timestep i of pictures that run together, a file for each."""
        for b, id in enumerate(ids):
            record.pick([b]).save(self._running(id) / f"{i:04d}.safetensors")

    def load_records(self, ids: Sequence[str]) -> list[StepRecord]:
        """The records that all of these pictures have, from step 0 without a gap; one that is damaged is one."""
        return [StepRecord.join(each) for each in zip(*map(self._kept, ids), strict=False)]

    def finish(self, scores: Mapping[str, Mapping[str, Any]]) -> None:
        """Mark a batch's pictures as finished, with their scores by id."""
        for id, score in scores.items():
            self.save_scores("inversions", id, score)
            self._skipped(id).unlink(missing_ok=True)
        self._clear(scores)

    def save_scores(self, kind: str, id: str, scores: Mapping[str, Any]) -> None:
        """Keep the scores of picture ``id``; ``kind`` names the folder."""
        write_json(self.root / kind / f"{quote(id, safe='')}.json", scores)

    def scores(self, kind: str = "inversions") -> Scores:
        """The scores of all pictures of a kind, by id."""
        return self._read_scores(kind, self._files(kind))

    def sum_up(self, file: str, kind: str, summarize: Callable[[Scores], dict[str, Any]]) -> dict[str, Any]:
        """Write what ``summarize`` makes of the scores of a kind into ``file``, and give it back.

        Jobs that share the folder may come to their ends together, so what is written is compared with what is there
        afterwards: the last one to write has seen all. While pictures are running, the last one is still to come.
        """
        while True:
            seen = self._files(kind)
            content = summarize(self._read_scores(kind, seen))
            write_json(self.root / file, content)
            if self._files(kind) == seen or any((self.root / "running").glob("*")):
                return content

    def _files(self, kind: str) -> set[str]:
        folder = self.root / kind
        return {name for name in os.listdir(folder) if name.endswith(".json")} if folder.is_dir() else set()

    def _read_scores(self, kind: str, files: Iterable[str]) -> Scores:
        return sorted((read_json(self.root / kind / file) for file in files), key=lambda score: score["id"])

    def _has_results(self) -> bool:
        return any(path for kind in ("inversions", "running") for path in (self.root / kind).glob("*"))

    def _kept(self, id: str) -> Iterator[StepRecord]:
        with suppress(InputError):
            for i in count():
                yield StepRecord.load(self._running(id) / f"{i:04d}.safetensors")

    def _clear(self, ids: Iterable[str]) -> None:
        for id in ids:
            shutil.rmtree(self._running(id), ignore_errors=True)

    def _running(self, id: str) -> Path:
        return self.root / "running" / quote(id, safe="")

    def _skipped(self, id: str) -> Path:
        return self.root / "skipped" / f"{quote(id, safe='')}.json"


def read_json(path: Path) -> Any:
    """Read a JSON file that this package wrote."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the inversion first") from None
    except (OSError, ValueError):
        raise InputError(f"{path}: truncated or not JSON; delete it and run again") from None


def write_json(path: Path, content: Any) -> None:
    """Write JSON, atomically."""
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
