"""Where the files of a run's images lie: each by itself in a folder, or many in a shard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from locinv_pl.errors import InputError
from locinv_pl.io.files import is_local, written_at

StoreKind = Literal["folder", "shards"]
PER_IMAGE = ("inversions", "sheets", "strips", "reconstructions", "validation", "edits", "edit_sheets", "test")
"""The folders of a run whose files belong to one image each, and are written when it is finished."""


class Store(Protocol):
    """What a run asks of the place where its images' files lie."""

    def place(self, *names: str) -> Path:
        """The path of a file or folder, by the names that lead to it; they have been checked."""

    def names(self, kind: str, suffix: str = ".json") -> Iterator[str]:
        """The names of a folder's files with this suffix, sorted."""

    def times(self, kind: str, suffix: str = ".json") -> Iterator[tuple[str, float]]:
        """The same, with the seconds since 1970 at which they were written."""

    def folders(self, kind: str) -> Iterator[str]:
        """The names of a folder's folders, sorted."""

    def recover(self) -> None:
        """Mend what dead processes have left."""

    def keep(self) -> None:
        """Bring to the disk what has been written."""

    def close(self) -> None:
        """Let everybody see what this process has written."""


class FolderStore:
    """A file for each name, below a folder or a URL."""

    def __init__(self, root: Path):
        self.root = root

    def place(self, *names: str) -> Path:
        """The file's or the folder's own path."""
        return self.root.joinpath(*names)

    def names(self, kind: str, suffix: str = ".json") -> Iterator[str]:
        """What the directory lists; hidden files are those that are being written."""
        yield from sorted(name for name in _listed(self.root / kind) if name.endswith(suffix) and name[0] != ".")

    def times(self, kind: str, suffix: str = ".json") -> Iterator[tuple[str, float]]:
        """The directory's names and times; what is gone in the meantime is left out."""
        for name in self.names(kind, suffix):
            try:
                yield name, written_at(self.root / kind / name)
            except FileNotFoundError:
                continue

    def folders(self, kind: str) -> Iterator[str]:
        """The folders that the directory lists."""
        yield from sorted(name for name in _listed(self.root / kind) if (self.root / kind / name).is_dir())

    def recover(self) -> None:
        """Nothing: every file is whole."""

    def keep(self) -> None:
        """Nothing: every file has been brought to the disk."""

    def close(self) -> None:
        """Nothing: everybody sees every file."""


class ShardStore:
    """Files in the shards of :mod:`locinv_pl.io.shards`; one object for each run and rank in a process."""

    def __init__(self, root: Path, scratch: Path, rank: int):
        try:
            from locinv_pl.io.shards import ShardPath, ShardsFileSystem
        except ImportError as error:
            raise InputError(
                f'{root}: its images are in shards, and {error.name} is missing; pip install "locinv_pl[scale]"'
            ) from None
        where: dict[str, Any] = {"root": _text(root), "scratch": str(scratch), "rank": rank}
        self._files = ShardsFileSystem(**where)
        self._path = ShardPath(f"shards:///{self._files.prefix}", **where)

    def place(self, *names: str) -> Path:
        """A path of the shards' filesystem."""
        return cast(Path, self._path.joinpath(*names))

    def names(self, kind: str, suffix: str = ".json") -> Iterator[str]:
        """What the index lists."""
        return (name for name, _ in self._files.names(kind, suffix))

    def times(self, kind: str, suffix: str = ".json") -> Iterator[tuple[str, float]]:
        """What the index lists, and when it was written."""
        return self._files.names(kind, suffix)

    def folders(self, kind: str) -> Iterator[str]:
        """What the index lists."""
        return self._files.folders(kind)

    def recover(self) -> None:
        """Close the open parts of processes that were killed."""
        self._files.recover()

    def keep(self) -> None:
        """Bring the open part to the disk."""
        self._files.keep()

    def close(self) -> None:
        """Close the open part."""
        self._files.close()


def _text(root: Path) -> str:
    return str(root.absolute()) if is_local(root) else str(root)


def _listed(folder: Path) -> list[str]:
    if is_local(folder):
        return os.listdir(folder) if folder.is_dir() else []
    return [path.name for path in folder.iterdir()] if folder.exists() else []
