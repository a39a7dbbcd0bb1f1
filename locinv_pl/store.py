"""A run's folder: one set of files for every picture, each written whole or not at all.

No id, and nothing that is read from a run's folder, is ever a path: :func:`file_name` makes one name of an id, and
:meth:`RunFolder.place` alone puts names together, without following links. So whatever the ids are, files are
written, read and deleted strictly below the folder that is meant for them.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from locinv_pl.errors import InputError
from locinv_pl.types import StepRecord, read_tensors, write_atomically

Scores = list[dict[str, Any]]
LONGEST = 200  # bytes of a name, so that it has at most 255 with a suffix and while it is temporary
SHORTENED = "%~"  # which no quoted text contains


def file_name(text: str, safe: str = "") -> str:
    """One file's name for an id, or for any other text: distinct for distinct texts, plain ASCII.

    It is the text in percent encoding. A dot at its beginning is encoded, too, so that it is neither a hidden file nor
    a folder above; what is too long for a disk ends with a hash in place of its end, and then the id stands whole
    only inside the files.

    Args:
        text: any.
        safe: characters that stay as they are, as in :func:`urllib.parse.quote`; never a slash.
    """
    name = quote(text, safe=safe, errors="surrogatepass")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > LONGEST:
        digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        name = name[: LONGEST - len(SHORTENED + digest)].rstrip("%") + SHORTENED + digest
    return name or SHORTENED


def id_of(name: str) -> str | None:
    """The text that :func:`file_name` has made ``name`` of; None where that is shortened."""
    if name == SHORTENED:
        return ""
    return None if SHORTENED in name else unquote(name, errors="surrogatepass")


class RunFolder:
    """The files of one run under ``root``; any number of processes may share it."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def place(self, *names: str) -> Path:
        """Where something of the run lies: ``names`` under each other, below its root.

        Raises:
            InputError: one of them is a link, which could lead anywhere.
        """
        path = self.root
        for name in names:
            assert name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name), name
            path = path / name
            if path.is_symlink():
                raise InputError(
                    f"{path}: a link, which could lead out of the run's folder; put the files in its place"
                )
        return path

    def inversion_path(self, id: str) -> Path:
        """Where the inversion of picture ``id`` is kept."""
        return self.place("inversions", f"{file_name(id)}.safetensors")

    def image_path(self, kind: str, id: str) -> Path:
        """Where a picture made of ``id`` is kept; ``kind`` names the folder."""
        return self.place(kind, f"{file_name(id)}.png")

    def edits_path(self, id: str, *names: str) -> Path:
        """The folder of the edits of picture ``id``, or what has a name in it."""
        return self.place("edits", file_name(id), *names)

    def curves_path(self, id: str) -> Path:
        """The folder of TensorBoard's files of picture ``id``."""
        return self.place("tensorboard", file_name(id))

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
            record.pick([b]).save(self._running(id, i))

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
        write_json(self.place(kind, f"{file_name(id)}.json"), scores)

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
                yield StepRecord.load(self._running(id, i))

    def _clear(self, ids: Iterable[str]) -> None:
        """Delete the records of these pictures, and what writing them has left; any other file stays."""
        for folder in map(self._running, ids):
            with suppress(OSError):  # there is none, or another process clears it or fills it again
                for path in [*folder.glob("*.safetensors"), *folder.glob(".*.tmp")]:
                    path.unlink(missing_ok=True)
                folder.rmdir()

    def _running(self, id: str, i: int | None = None) -> Path:
        """The folder of a picture's records, or the record of timestep i."""
        return self.place("running", file_name(id), *([] if i is None else [f"{i:04d}.safetensors"]))

    def _skipped(self, id: str) -> Path:
        return self.place("skipped", f"{file_name(id)}.json")


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
