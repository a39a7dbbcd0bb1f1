"""Images that come in a stream: parts of a data set that a process claims, and reads from their beginning to their end.

Nothing is listed before a run starts. The item of the queue is a part, as a shard of about a thousand images, so no
image goes to two processes, whatever their number. The rows are those of :mod:`locinv_pl.datamodules.folder`, with the
names of the row's own files in place of paths.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from locinv_pl.datamodules.base import EditDataModule
from locinv_pl.datamodules.completion import Completion
from locinv_pl.datamodules.entries import Entry, EntrySamples, MaskFile, Problems
from locinv_pl.datamodules.folder import RowReader
from locinv_pl.errors import InputError
from locinv_pl.run.loader import Opened, TimestepLoader, local_queue
from locinv_pl.types import EditSample
from locinv_pl.words import load_words


@dataclass(frozen=True)
class Row:
    """An image of a stream.

    Args:
        key: the image's name, which is its id where the values say none.
        values: the row as a list of images has it; "image" and priors name files.
        files: the contents of these files, by name.
        problem: what is wrong with it, where it can't be used.
    """

    key: str
    values: Mapping[str, Any]
    files: Mapping[str, bytes]
    problem: str = ""


class StreamDataModule(EditDataModule):
    """Images that are read part by part, as they come.

    Args:
        kwargs: what every source of images takes; ``num_workers`` stays 0, and ``shard`` takes every n-th part.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        if self.num_workers:
            raise InputError(f"data.num_workers={self.num_workers}: a stream is read where it is used; leave it out")

    @abstractmethod
    def parts(self) -> Sequence[str]:
        """The names of the data set's parts, in an order that is always the same."""

    @abstractmethod
    def rows(self, number: int) -> Iterator[Row]:
        """The images of a part, by its number.

        Raises:
            InputError: the part can't be read; the error names it.
        """

    def entries(self, side: int, problems: Problems) -> Sequence[Entry]:
        """Nothing: what a stream holds isn't known before it is read."""
        return ()

    def count_batches(self) -> int:
        """How many parts there are: a process claims one at a time."""
        with suppress(InputError):  # which setup raises
            return len(self.parts()[self._shard])
        return 0

    def setup(self, stage: str) -> None:
        """Find the data set's parts, and what completes its rows."""
        if self.size is None:
            self.size = self._model.backbone.image_size
        self._reads = partial(RowReader, words=load_words(self.words), completes=self._needs_models)
        self._complete = Completion(self._finds_priors, self.caption, self.models, self.words)
        self._parts = list(self.parts())

    def train_dataloader(self) -> TimestepLoader:
        """The images of the parts that this process claims, T timesteps each; how many there are isn't known."""
        return self._streamed(self._model.num_steps, None if self.trainer is None else self._unfinished)

    def _loader(self, num_steps: int, pending: Callable[[Sequence[str]], Sequence[str]]) -> TimestepLoader:
        return self._streamed(num_steps, lambda samples: pending([sample.id for sample in samples]))

    def _streamed(self, num_steps: int, pending: Pending | None) -> StreamLoader:
        new_queue = local_queue if self.trainer is None else getattr(self.trainer.strategy, "new_queue", local_queue)
        return StreamLoader(
            [partial(self._samples, number) for number in range(len(self._parts))[self._shard]],
            self.batch_size,
            num_steps,
            new_queue(),
            pending or (lambda samples: [sample.id for sample in samples]),
            report=self._report if self.on_error == "skip" else None,
            accept=self._accept,
        )

    def _unfinished(self, samples: Sequence[EditSample]) -> Sequence[str]:
        ids = [sample.id for sample in samples]
        return self._model.unfinished(_Listed(samples, ids))(ids)

    def _samples(self, number: int) -> Iterator[tuple[str, EditSample | InputError]]:
        """The images of a part by id, opened, or what is wrong with them."""
        part = self._parts[number]
        rows, count = self.rows(number), 0
        while True:
            try:
                row = next(rows, None)
            except InputError as problem:  # the rest of the part can't be read
                yield f"{Path(part).name} after {count} images", problem
                return
            if row is None:
                return
            count += 1
            try:
                sample = self._opened(part, row, count)
            except InputError as problem:
                yield row.key, problem
            else:
                yield sample.id, sample

    def _opened(self, part: str, row: Row, number: int) -> EditSample:
        """An image of a stream; its files lie in a folder for a moment, where they are read as any others."""
        assert self.size is not None
        if row.problem:
            raise InputError(f"{part}: image {row.key}: {row.problem}")
        with TemporaryDirectory(prefix="locinv-") as folder:
            for name, content in row.files.items():
                Path(folder, name).write_bytes(content)
            try:
                entry = self._reads(Path(folder), Path(part)).entry({"id": row.key, **row.values}, number)
                if foreign := {path for path in _files_of(entry) if path.parent != Path(folder)}:
                    raise InputError(f"names {min(foreign)}, which isn't a file of its own; put it into the stream")
                return EntrySamples([entry], self.prior, self.size, self.fit, self._complete)[0]
            except InputError as problem:
                said = str(problem).replace(f"{folder}/", f"{part}: ")
                named = said if part in said else f"{part}: image {row.key}: {said}"
                raise InputError(named) from None


def _files_of(entry: Entry) -> Iterator[Path]:
    """The files that an entry reads."""
    yield entry.path
    shapes = [shape for mention in entry.mentions for shape in mention.shapes]
    for shape in [*shapes, *([] if entry.region is None else [entry.region])]:
        if isinstance(shape.mask, MaskFile):
            yield shape.mask.path


Pending = Callable[[Sequence[EditSample]], Sequence[str]]


class _Listed:
    """Samples with their ids, as a run asks for them."""

    def __init__(self, samples: Sequence[EditSample], ids: Sequence[str]):
        self.samples, self.ids = samples, ids

    def __getitem__(self, number: int) -> EditSample:
        return self.samples[number]


class StreamLoader(TimestepLoader):
    """The batches of the parts that this process claims; images of one size that follow each other are a batch.

    Args:
        parts: for each part, what gives its images by id, opened, or what is wrong with them.
        batch_size: the most images of a batch.
        num_steps, claim, report, accept: as in :class:`~locinv_pl.run.loader.TimestepLoader`; the queue counts parts.
        pending: of a batch's images, the ids of those that are still to do.
    """

    def __init__(
        self,
        parts: Sequence[Callable[[], Iterator[tuple[str, EditSample | InputError]]]],
        batch_size: int,
        num_steps: int,
        claim: Callable[[], int],
        pending: Pending,
        report: Callable[[str, InputError], None] | None = None,
        accept: Callable[[EditSample], EditSample] = lambda sample: sample,
    ):
        super().__init__([], [], [[]] * len(parts), num_steps, claim, list, report, accept=accept)
        self.parts, self.batch_size, self.still_to_do = parts, batch_size, pending
        self._is_within = False

    @property
    def is_through(self) -> bool:
        """Whether every part has been claimed, and this process has read its own to their ends."""
        return not self._is_within and self.claim() >= len(self.parts)

    @property
    def ids_to_do(self) -> None:
        """Nobody knows them before the stream has been read."""

    def _opened(self) -> Iterator[Callable[[], Opened]]:
        while (number := self.claim()) < len(self.parts):
            self._is_within = True
            for batch in self._batches(self.parts[number]()):
                todo = set(self.still_to_do([found for _, found in batch if isinstance(found, EditSample)]))
                left = [(id, found) for id, found in batch if id in todo or isinstance(found, InputError)]
                if left:
                    yield partial(list, left)
            self._is_within = False

    def _batches(self, images: Iterator[tuple[str, EditSample | InputError]]) -> Iterator[Opened]:
        alike: dict[tuple[int, ...], Opened] = defaultdict(list)
        for id, found in images:
            if isinstance(found, InputError):
                yield [(id, found)]
                continue
            batch = alike[tuple(found.image.shape)]
            batch.append((id, found))
            if len(batch) == self.batch_size:
                yield alike.pop(tuple(found.image.shape))
        yield from alike.values()
