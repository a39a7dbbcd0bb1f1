"""WebDataset's shards: tar files of images, each with a JSON file of its prompt, its priors and its edits.

A sample of a shard is the files of one key:

    tom.jpg         the image: .jpg, .png, .webp, …
    tom.json        {"prompt": "a cat and a dog", "priors": {"cat": "cat.png", "dog": [310, 120, 200, 260]}}
    tom.cat.png     a mask, which the JSON names by what follows the key

The JSON is an image of samples.yaml, see datamodules/folder.py, with the names of the sample's own files.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from locinv_pl.datamodules.folder import IMAGES
from locinv_pl.datamodules.streams import Row, StreamDataModule
from locinv_pl.errors import InputError, one_line
from locinv_pl.io.files import is_local, located
from locinv_pl.io.reading import json_of


class WebDatasetDataModule(StreamDataModule):
    """Shards of WebDataset's, read in sequence; a process claims one at a time.

    Args:
        shards: a folder of .tar files, one such file, or several by braces, "images-{000..099}.tar"; each may be a URL
            of any filesystem that fsspec knows, as s3://bucket/images-{000..099}.tar.
        kwargs: what every source of images takes.
    """

    name = "webdataset"

    def __init__(self, shards: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.shards = shards

    @property
    def settings(self) -> dict[str, Any]:
        """What the samples depend on."""
        return {**super().settings, "shards": self.shards}

    def parts(self) -> Sequence[str]:
        """The shards' names."""
        try:
            from webdataset.shardlists import expand_urls
        except ImportError:
            raise InputError('data=webdataset: pip install "locinv_pl[scale]" reads such shards') from None
        found = [str(path) for name in expand_urls(self.shards) for path in _tars(located(name))]
        if not found:
            raise InputError(f"{self.shards}: no .tar file; name shards in data.shards=")
        return found

    def rows(self, number: int) -> Iterator[Row]:
        """The samples of a shard."""
        from webdataset.tariterators import group_by_keys, tar_file_iterator

        shard, last = self._parts[number], ""

        def members(file: Any) -> Iterator[dict[str, Any]]:
            nonlocal last
            for member in tar_file_iterator(file):
                last = member["fname"]
                yield {**member, "__url__": shard}

        try:
            with located(shard).open("rb") as file:
                for sample in group_by_keys(members(file), lcase=False):
                    yield _row(sample)
        except FileNotFoundError:
            raise InputError(f"{shard}: no such shard; put it there or leave it out of data.shards=") from None
        except (OSError, ValueError, EOFError, tarfile.TarError) as error:
            after = f" after {last}" if last else ""
            problem = one_line(str(error)) or type(error).__name__
            raise InputError(f"{shard}{after}: can't be read ({problem[:200]}); get it again") from None


def _tars(path: Path) -> list[Path]:
    if path.suffix == ".tar" and not (is_local(path) and path.is_dir()):
        return [path]
    return sorted((each for each in path.iterdir() if each.suffix == ".tar"), key=str) if path.is_dir() else []


def _row(sample: dict[str, Any]) -> Row:
    """A sample of a shard, whose JSON is its row; what is wrong with it is told where the row is read."""
    key = sample["__key__"].rpartition("/")[2]
    files = {name: found for name, found in sample.items() if isinstance(found, bytes) and not {"/", "\0"} & set(name)}
    try:
        values = json_of(files.pop("json", b"{}").decode())
    except ValueError as error:
        return Row(key, {}, {}, f"its JSON is damaged ({one_line(str(error))[:100]}); write it again")
    if not isinstance(values, dict):
        return Row(key, {}, {}, "its JSON is no object; write {...}")
    files = {name: content for name, content in files.items() if name.strip(".")}
    images = [name for name in files if f".{name.lower()}" in IMAGES]
    return Row(key, {"image": images[0], **values} if images else values, files)
