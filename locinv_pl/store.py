"""A run's folder: one set of files for every picture, each written whole or not at all.

settings.json               what makes the run; another configuration is refused
inversions/<id>.safetensors the inversion
inversions/<id>.json        its scores; written last, it marks the picture as finished
running/<batch>/<i>         one record per timestep of a batch that isn't finished
validation/<id>.json        scores of the reconstruction from the files
edits/<id>/                 its source, its reconstruction, its edits, and edits.json
edits.json                  all of these
test/<id>.json              scores of its edits
skipped/<id>.json           why a picture was left out
summary.json, validation.json, test.json  the whole run
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
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

    def is_finished(self, id: str) -> bool:
        """Whether picture ``id`` is done; its files' headers are read, so that damage shows here."""
        path = self.inversion_path(id)
        if not (path.exists() and path.with_suffix(".json").exists()):
            return False
        read_json(path.with_suffix(".json"))
        read_tensors(path, names=())
        return True

    def pending(self, ids: Sequence[str]) -> list[str]:
        """Of a batch, the pictures to run: all of a batch that was begun, else the unfinished."""
        unfinished = [id for id in ids if not self.is_finished(id)]
        if not unfinished:
            shutil.rmtree(self._running(ids), ignore_errors=True)  # where a run ended between mark and clearing
        return list(ids) if unfinished and self._running(ids).is_dir() else unfinished

    def save_record(self, ids: Sequence[str], i: int, record: StepRecord) -> None:
        """Keep the record of timestep i of a running batch."""
        record.save(self._running(ids) / f"{i:04d}.safetensors")

    def load_records(self, ids: Sequence[str]) -> list[StepRecord]:
        """The records of a batch that was begun, from step 0 without a gap."""
        records: list[StepRecord] = []
        while (path := self._running(ids) / f"{len(records):04d}.safetensors").exists():
            records.append(StepRecord.load(path))
        return records

    def finish(self, scores: Mapping[str, Mapping[str, Any]]) -> None:
        """Mark a batch's pictures as finished, with their scores by id."""
        for id, score in scores.items():
            self.save_scores("inversions", id, score)
        shutil.rmtree(self._running(list(scores)), ignore_errors=True)

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

    def _running(self, ids: Sequence[str]) -> Path:
        return self.root / "running" / hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


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
