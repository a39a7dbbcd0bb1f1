"""A data set of Hugging Face's ``datasets``: from the hub, or from local Parquet, Arrow, JSON or image files.

Its columns: ``image``; ``prompt``; ``nouns``, a list of the prompt's nouns, with ``masks``, an image for each, or
``boxes``, [x, y, width, height] in pixels for each; ``edits``, a list of target prompts; ``id``. All but image and
prompt may be missing; other names are given by ``columns``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from locinv_pl.datamodules.streams import Row, StreamDataModule
from locinv_pl.errors import InputError, one_line
from locinv_pl.io.files import located

COLUMNS = ("id", "image", "prompt", "nouns", "masks", "boxes", "edits")
PART = 256  # rows of a data set with random access that a process claims at once


class HFDatasetDataModule(StreamDataModule):
    """Rows of a data set of Hugging Face's, read on demand or as a stream.

    Args:
        path: as ``datasets.load_dataset`` takes it: a hub id, a folder, or a builder, as "parquet" or "imagefolder"; or
            a folder that ``Dataset.save_to_disk`` has written.
        files: the builder's files, as load_dataset's data_files; none by default.
        config: the data set's configuration, where it has several.
        split: its split; "train" by default.
        streaming: True reads the files as they come, and downloads nothing whole; a process then claims a file at a
            time. False (the default) claims 256 rows at a time.
        columns: names of columns that aren't the usual ones, by the usual name: {prompt: caption}.
        kwargs: what every source of images takes.
    """

    name = "hf_dataset"

    def __init__(
        self,
        path: str,
        files: str | list[str] | None = None,
        config: str | None = None,
        split: str = "train",
        streaming: bool = False,
        columns: dict[str, str] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if unknown := set(columns or ()) - set(COLUMNS):
            raise InputError(f"data.columns: no column is called {sorted(unknown)[0]!r}; use {', '.join(COLUMNS)}")
        self.path, self.files, self.config, self.split = path, files, config, split
        self.streaming, self.columns = streaming, {name: name for name in COLUMNS} | (columns or {})
        self._rows: Any = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the samples depend on."""
        own = {"path": self.path, "files": self.files, "config": self.config, "split": self.split}
        return {**super().settings, **own, "columns": self.columns}

    def parts(self) -> Sequence[str]:
        """The data set's files, or stretches of its rows."""
        if self._rows is None:
            self._rows = self._load()
        count = self._rows.num_shards if self.streaming else -(-len(self._rows) // PART)
        return [f"{self.path}[{self.split}] part {number}" for number in range(count)]

    def rows(self, number: int) -> Iterator[Row]:
        """The rows of a part."""
        if self.streaming:
            rows, first = self._rows.shard(num_shards=self._rows.num_shards, index=number), 0
        else:
            first = PART * number
            rows = self._rows.select(range(first, min(first + PART, len(self._rows))))
        try:
            for position, row in enumerate(rows, start=first):
                name = f"{number}-{position}" if self.streaming else str(position)
                try:
                    yield self._row(row, name)
                except OSError as error:  # an image that is named and not there
                    yield Row(
                        name, {}, {}, f"an image's file can't be read ({one_line(str(error))[:200]}); put it there"
                    )
        except InputError:
            raise
        except Exception as error:  # its readers raise all kinds
            problem = one_line(str(error))[:200] or type(error).__name__
            raise InputError(f"{self._parts[number]}: can't be read ({problem}); get it again") from None

    def _load(self) -> Any:
        """The data set, its images as they are in their files."""
        try:
            import datasets
        except ImportError:
            raise InputError('data=hf_dataset: pip install "locinv_pl[scale]" reads such data sets') from None
        try:
            if Path(self.path, "state.json").is_file():
                found = datasets.load_from_disk(self.path)
                found = found.to_iterable_dataset() if self.streaming else found
            else:
                found = datasets.load_dataset(
                    self.path, self.config, data_files=self.files, split=self.split, streaming=self.streaming
                )
        except Exception as error:  # as many kinds as there are builders
            problem = one_line(str(error))[:200] or type(error).__name__
            raise InputError(f"data.path={self.path}: no data set that can be read ({problem}); name another") from None
        for name, feature in dict(found.features or {}).items():
            if isinstance(feature, datasets.Image):
                found = found.cast_column(name, datasets.Image(decode=False))
            elif isinstance(getattr(feature, "feature", None), datasets.Image):
                found = found.cast_column(name, type(feature)(datasets.Image(decode=False)))
        return found

    def _row(self, found: Mapping[str, Any], name: str) -> Row:
        """A row as a list of images has it."""
        row = {key: found.get(column) for key, column in self.columns.items()}
        nouns, masks, boxes = row["nouns"] or [], row["masks"] or [], row["boxes"] or []
        files = {"image": _content(row["image"])} if row["image"] is not None else {}
        priors: dict[str, list[Any]] = {noun: [] for noun in nouns}
        for k, noun in enumerate(nouns):
            if k < len(masks) and masks[k] is not None:
                files[f"mask-{k}"] = _content(masks[k])
                priors[noun].append(f"mask-{k}")
            elif k < len(boxes) and boxes[k] is not None:
                priors[noun].append([float(number) for number in boxes[k]])
        values: dict[str, Any] = {"prompt": row["prompt"], "priors": priors, "edits": row["edits"] or []}
        if files.get("image") is not None:
            values["image"] = "image"
        return Row(name if row["id"] in (None, "") else str(row["id"]), values, files)


def _content(image: Any) -> bytes:
    """An image's file, from its bytes, its path, or its pixels."""
    if isinstance(image, Mapping):
        return image["bytes"] if image.get("bytes") is not None else located(image["path"]).read_bytes()
    page = BytesIO()
    image.save(page, "PNG")
    return page.getvalue()
