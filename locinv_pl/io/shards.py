"""Finished images in WebDataset's tar shards, as a filesystem of fsspec: files by name, in few objects.

A run of a million images is a million of small files in a folder, and a thousand in shards. Every process appends
to a shard of its own, ``shard-RANK-NUMBER-TOKEN.tar.part``, and closes it where it has enough images or bytes: then it
is ``shard-….tar``, a whole tar file, with its index beside it, ``shard-….json``. An entry has WebDataset's name,
KEY.EXTENSION: the file ``inversions/tom.json`` is ``tom.inversions.json``, and ``edits/tom/1-add.png`` is
``tom.edits.1-add.png``. What the inversion of an image leaves is held back until its scores are there, and then
written in a row, so that WebDataset reads it as one sample.

A process that is killed leaves an open part, which is locked as long as its process lives. Whoever comes next cuts the
part after its last whole entry and closes it. Of two entries of one name that of the higher number counts; an empty one
says that the file is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from threading import RLock
from typing import IO, Any, cast
from uuid import uuid4

from fsspec import AbstractFileSystem, register_implementation
from upath import UPath
from upath.registry import register_implementation as register_path

from locinv_pl.io.files import filesystem, is_local, located, write_atomically, writing

MOST_IMAGES = 1000
MOST_BYTES = 4 << 30
HELD = (
    "inversions",
    "sheets",
    "strips",
    "reconstructions",
)  # what an inversion leaves, held until its scores are there
PATIENCE = 30.0  # seconds that what other processes have written may be unknown
BLOCK = tarfile.BLOCKSIZE
PART, WHOLE, INDEX = ".tar.part", ".tar", ".json"

Row = tuple[str, int, int, float]  # name, offset, size and seconds since 1970


class ShardsFileSystem(AbstractFileSystem):
    """The files of a run that lie in shards.

    Args:
        root: the run's folder, or a URL; the shards lie in ``shards/`` below it.
        scratch: the folder of this machine where open parts lie; the shards' own where that is a folder.
        rank: number of the process.
        most_images: a shard is closed when it has so many images.
        most_bytes: or so many bytes.
    """

    protocol = "shards"

    def __init__(
        self,
        root: str,
        scratch: str,
        rank: int = 0,
        most_images: int = MOST_IMAGES,
        most_bytes: int = MOST_BYTES,
        **options: Any,
    ):
        super().__init__(**options)
        self.shards = located(root) / "shards"
        self.parts = self.shards if is_local(self.shards) else Path(scratch) / "shards"
        self.prefix = prefix_of(root)
        self.rank, self.most_images, self.most_bytes = rank, most_images, most_bytes
        self._lock = RLock()
        self._part: _Part | None = None
        self._held: dict[str, bytes] = {}
        self._forget()

    # What fsspec asks of a filesystem.

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size, time and kind of a file or folder."""
        name = self._name(path)
        with self._lock:
            for age in (PATIENCE, None):
                if name in self._held:
                    return {"name": path, "size": len(self._held[name]), "type": "file", "mtime": time.time()}
                if (row := self._row(name)) is not None:
                    return {"name": path, "size": row[2], "type": "file", "mtime": row[3]}
                if not name or next(self._rows(f"{name}/"), None) is not None:
                    return {"name": path, "size": 0, "type": "directory"}
                if age is not None and not self._refresh(age):
                    break
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The files and folders in a folder."""
        folder = f"{self._name(path)}/".lstrip("/")
        with self._lock:
            self._refresh(0.0)
            rows = [*self._rows(folder), *((name, 0, len(held), time.time()) for name, held in self._held.items())]
        found: dict[str, dict[str, Any]] = {}
        for name, _offset, size, written in rows:
            below, slash, _rest = name.removeprefix(folder).partition("/")
            if name.startswith(folder):
                kind = "directory" if slash else "file"
                about = {"name": f"{self.prefix}/{folder}{below}", "size": size, "type": kind, "mtime": written}
                found[below] = about
        if not found:
            raise FileNotFoundError(path)
        return [*found.values()] if detail else [about["name"] for about in found.values()]

    def modified(self, path: str) -> float:
        """When a file was written, in seconds since 1970."""
        return cast(float, self.info(path)["mtime"])

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The content of a file, or a stretch of it."""
        name = self._name(path)
        self.info(path)
        with self._lock:
            if (content := self._held.get(name)) is None:
                shard, offset, size, _written = cast(tuple[str, int, int, float], self._row(name))
                content = self._read(shard, offset, size)
        return content[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Write a file; what belongs to an inversion is held until its scores are written."""
        name = self._name(path)
        with self._lock:
            kind, _slash, file = name.partition("/")
            if kind in HELD and not (kind == HELD[0] and file.endswith(".json")):
                self._held[name] = bytes(value)
                return
            key = _key(name)
            together = [held for held in self._held if kind == HELD[0] and _key(held) == key]
            for held in together:
                self._append(held, self._held.pop(held))
            self._append(name, bytes(value))
            self._open_part().file.flush()
            self._part_is_full()

    def rm_file(self, path: str) -> None:
        """Say that a file is gone."""
        self.info(path)
        with self._lock:
            if self._held.pop(self._name(path), None) is None:
                self._append(self._name(path), b"")
                self._open_part().file.flush()

    _rm = rm_file

    def _open(self, path: str, mode: str = "rb", *_: Any, **__: Any) -> Any:
        if mode != "rb":
            raise ValueError("files in shards are written by pipe_file")
        return BytesIO(self.cat_file(path))

    # What a run asks of its store.

    def names(self, kind: str, suffix: str) -> Iterator[tuple[str, float]]:
        """The files of a folder by name, with the seconds since 1970 at which they were written; none is in memory."""
        with self._lock:
            self._refresh(0.0)
        for name, _offset, _size, written in self._rows(f"{kind}/"):
            file = name.partition("/")[2]
            if "/" not in file and file.endswith(suffix):
                yield file, written

    def folders(self, kind: str) -> Iterator[str]:
        """The folders in a folder, by name."""
        with self._lock:
            self._refresh(0.0)
        last = ""
        for name, _offset, _size, _written in self._rows(f"{kind}/"):
            folder, slash, _rest = name.partition("/")[2].partition("/")
            if slash and folder != last:
                last = folder
                yield folder

    def keep(self) -> None:
        """Bring what is written to the disk."""
        with self._lock:
            if self._part is not None:
                self._part.file.flush()
                os.fsync(self._part.file.fileno())

    def close(self) -> None:
        """Close this process's part, so that everybody sees a whole shard; what is still held is dropped."""
        with self._lock:
            part, self._part, self._held = self._part, None, {}
            if part is not None:
                part.tar.close()  # its last blocks
                part.file.flush()
                self._publish(part.file, part.path)

    def recover(self) -> int:
        """Close the parts of dead processes after their last whole entry; answers how many there were."""
        count = 0
        for path in sorted(self.parts.glob(f"*{PART}")):
            with suppress(FileNotFoundError), open(path, "r+b") as file:
                if not _is_ours(file, path, wait=False):
                    continue
                end = max((end for _, end in _members(file)), default=0)
                if not end:
                    path.unlink()
                    continue
                file.truncate(end)
                file.seek(end)
                file.write(b"\0" * 2 * BLOCK)
                file.flush()
                self._publish(file, path)
                count += 1
        return count

    # How it does that.

    def _name(self, path: str) -> str:
        return self._strip_protocol(path).strip("/").removeprefix(self.prefix).strip("/")

    def _forget(self) -> None:
        """Begin a new index, in a file without a name, which is in memory as far as it fits into two megabytes."""
        self._shards: dict[str, int] = {}  # stem: how far it is known; -1 a whole one
        self._looked, self._files = -PATIENCE, cast(dict[str, IO[bytes]], {})
        self._index = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._index.execute("PRAGMA journal_mode = OFF")
        self._index.execute(
            "CREATE TABLE files (name TEXT PRIMARY KEY, shard TEXT, number INT, offset INT, size INT, written REAL)"
            " WITHOUT ROWID"
        )

    def _add(self, stem: str, rows: list[Row]) -> None:
        number = _number(stem)
        self._index.execute("BEGIN")
        self._index.executemany(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET shard = excluded.shard,"
            " number = excluded.number, offset = excluded.offset, size = excluded.size, written = excluded.written"
            " WHERE excluded.number >= number",
            [(name, stem, number, offset, size, written) for name, offset, size, written in rows],
        )
        self._index.execute("COMMIT")

    def _row(self, name: str) -> tuple[str, int, int, float] | None:
        """Shard, offset, size and time of a file."""
        found = self._index.execute("SELECT shard, offset, size, written FROM files WHERE name = ?", (name,)).fetchone()
        return found if found is not None and found[2] else None  # an empty one is gone

    def _rows(self, start: str) -> Iterator[Row]:
        """All files whose names start with a folder's, by name."""
        select = "SELECT name, offset, size, written FROM files WHERE name >= ? AND name < ? AND size > 0 ORDER BY name"
        yield from self._index.execute(select, (start, start[:-1] + "0" if start else "\U0010ffff"))

    def _refresh(self, age: float) -> bool:
        """Look at what other processes have written since, where the last look is older; answers whether it looked."""
        now = time.monotonic()
        if now - self._looked < age:
            return False
        self._looked = now
        whole, parts = self._listed()
        if self._shards.keys() - whole - parts:  # the folder was deleted
            self._forget()
            self._looked = now
        own = "" if self._part is None else self._part.stem
        for stem in sorted(whole | parts - {own}, key=_number):
            known = self._shards.get(stem, 0)
            if stem in whole and known >= 0:
                self._add(stem, self._indexed(stem))
                self._shards[stem] = -1
                if (file := self._files.pop(stem, None)) is not None:
                    file.close()
            elif known >= 0:
                with suppress(FileNotFoundError), open(self.parts / f"{stem}{PART}", "rb") as file:
                    found = [*_members(file, known)]
                    self._add(stem, [row for row, _ in found])
                    self._shards[stem] = max((end for _, end in found), default=known)
        return True

    def _listed(self) -> tuple[set[str], set[str]]:
        """The stems of whole shards and of open parts."""
        if not is_local(self.shards):
            filesystem(self.shards)[0].invalidate_cache()
        names = [path.name for path in self.shards.iterdir()] if self.shards.exists() else []
        here = names if is_local(self.shards) else [path.name for path in self.parts.glob(f"*{PART}")]
        stems = [
            {name.removesuffix(end) for name in of if name.endswith(end)} for of, end in ((names, WHOLE), (here, PART))
        ]
        return stems[0], stems[1] - stems[0]

    def _indexed(self, stem: str) -> list[Row]:
        """What is in a whole shard: its index says, or where that is missing or damaged, the shard."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            rows = json.loads((self.shards / f"{stem}{INDEX}").read_bytes())["files"]
            return [(str(name), int(offset), int(size), float(written)) for name, offset, size, written in rows]
        with (self.shards / f"{stem}{WHOLE}").open("rb") as file:
            return [row for row, _ in _members(file)]

    def _read(self, stem: str, offset: int, size: int) -> bytes:
        for path in (self.shards / f"{stem}{WHOLE}", self.parts / f"{stem}{PART}"):
            with suppress(FileNotFoundError):
                if not is_local(path):
                    files, name = filesystem(path)
                    return cast(bytes, files.cat_file(name, start=offset, end=offset + size))
                if stem not in self._files:
                    while len(self._files) >= 16:
                        self._files.pop(next(iter(self._files))).close()
                    self._files[stem] = open(path, "rb")  # noqa: SIM115 (kept for what is read next)
                return os.pread(self._files[stem].fileno(), size, offset)
        raise FileNotFoundError(f"{self.shards / stem}{WHOLE}")

    def _open_part(self) -> _Part:
        """This process's part, a new one where there is none; its number is higher than those of all shards."""
        while self._part is None:
            self._refresh(0.0)
            number = 1 + max(map(_number, self._shards), default=0)
            path = self.parts / f"shard-{self.rank:03d}-{number:06d}-{uuid4().hex[:6]}{PART}"
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = open(path, "w+b")  # noqa: SIM115 (open until it is full)
                if _is_ours(file, path, wait=True):
                    self._part = _Part(path, file)
                    self._shards[self._part.stem] = 0
        return self._part

    def _append(self, name: str, content: bytes) -> None:
        part = self._open_part()
        with writing(part.path):
            info = tarfile.TarInfo(_entry(name))
            info.size, info.mtime = len(content), int(time.time())
            part.tar.addfile(info, BytesIO(content))
        part.tar.members = []  # type: ignore[attr-defined]  # of no use, and they add up
        self._add(part.stem, [(name, part.tar.offset - _blocks(len(content)), len(content), info.mtime)])
        part.keys.add(_key(name))

    def _part_is_full(self) -> None:
        part = self._open_part()
        if len(part.keys) >= self.most_images or part.tar.offset >= self.most_bytes:
            self.close_part()

    def close_part(self) -> None:
        """Close this process's part; what is held goes into the next one."""
        held = self._held
        self.close()
        self._held = held

    def _publish(self, file: IO[bytes], path: Path) -> None:
        """Make a finished part a whole shard, its index first."""
        stem = path.name.removesuffix(PART)
        rows = [row for row, _ in _members(file)]
        write_atomically(self.shards / f"{stem}{INDEX}", json.dumps({"files": rows}).encode())
        with writing(path):
            os.fsync(file.fileno())
            if is_local(self.shards):
                os.replace(path, self.shards / f"{stem}{WHOLE}")
            else:
                files, name = filesystem(self.shards / f"{stem}{WHOLE}")
                files.put_file(str(path), name)
                path.unlink()
        file.close()
        if self._shards.get(stem) is not None:
            self._shards[stem] = -1


class _Part:
    """An open shard of this process."""

    def __init__(self, path: Path, file: IO[bytes]):
        self.path, self.file, self.stem = path, file, path.name.removesuffix(PART)
        self.tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self.keys: set[str] = set()


class ShardPath(UPath):
    """A path of :class:`ShardsFileSystem`."""

    __slots__ = ()


def prefix_of(root: str) -> str:
    """What the paths of a run's shards begin with.

    >>> prefix_of("/runs/a"), prefix_of("s3://bucket/a")
    ('runs/a', 's3/bucket/a')
    """
    return root.replace("://", "/").strip("/")


def _is_ours(file: IO[bytes], path: Path, wait: bool) -> bool:
    """Lock a part; False where its process lives, or where another one has just closed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _members(file: IO[bytes], start: int = 0) -> Iterator[tuple[Row, int]]:
    """The whole entries of a shard from an offset on, and where each ends."""
    size = file.seek(0, os.SEEK_END)
    file.seek(start)
    with suppress(tarfile.ReadError), tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            end = info.offset_data + _blocks(info.size)
            if end > size:
                return
            tar.members = []  # type: ignore[attr-defined]
            with suppress(ValueError):
                yield (_name_of(info.name), info.offset_data, info.size, float(info.mtime)), end


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _number(stem: str) -> int:
    number = stem.split("-")[-2] if stem.count("-") > 1 else ""
    return int(number) if number.isdecimal() else 0


def _key(name: str) -> str:
    """The name that all files of an image have in common."""
    kind, _, file = name.partition("/")
    key, slash, _ = file.partition("/")
    return key if slash else file.rpartition(".")[0]


def _entry(name: str) -> str:
    """A file's name as that of an entry, as WebDataset divides it into key and extension at its first dot.

    >>> _entry("inversions/a.b.json"), _entry("edits/a.b/1-add.png")
    ('a%2Eb.inversions.json', 'a%2Eb.edits.1-add.png')
    """
    kind, _, file = name.partition("/")
    key = _key(name)
    return f"{key[:1]}{key[1:].replace('.', '%2E')}.{kind}.{file[len(key) + 1 :].replace('/', '+')}"


def _name_of(entry: str) -> str:
    """The name that :func:`_entry` has made an entry's of.

    >>> _name_of("a%2Eb.inversions.json"), _name_of("a%2Eb.edits.1-add.png")
    ('inversions/a.b.json', 'edits/a.b/1-add.png')
    """
    key, kind, rest = entry.split(".", 2)
    key = key[:1] + key[1:].replace("%2E", ".")
    return f"edits/{key}/{rest.replace('+', '/')}" if kind == "edits" else f"{kind}/{key}.{rest}"


register_implementation("shards", ShardsFileSystem, clobber=True)
register_path("shards", ShardPath, clobber=True)
