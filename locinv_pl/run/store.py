"""A run's folder: one set of files for every image, each written whole or not at all.

No id, and nothing that is read from a run's folder, is ever a path: :func:`~locinv_pl.run.names.file_name` makes one
name of an id, and :meth:`RunFolder.place` alone puts names together, without following links. So whatever the ids are,
files are written, read and deleted strictly below the folder that is meant for them.

store.json                  says that the images' files are in shards, see locinv_pl/io/shards.py
settings.json               what makes the run; another configuration is refused
pictures.json               how many images it is to invert; written at every start
inversions/<id>.safetensors the inversion
inversions/<id>.json        its scores; written last, it marks the image as finished
running/<id>/<i>            one record per timestep of an image that isn't finished
sheets/<id>.png, strips/<id>.png, reconstructions/<id>.png  drawings of a finished image, where they are asked for
validation/<id>.json        scores of the reconstruction from the files
edits/<id>/                 source, reconstruction, edits with their masks, edits.json, and seconds.json: what each took
edits.json                  all of these
test/<id>.json              scores of its edits
skipped/<id>.json           why an image was left out; gone once it is finished after all
summary.json, validation.json, test.json  the whole run

Scores and records say what they were made of: the image's fingerprint, that of the settings, and which images
went together. What was made of something else, or is damaged, counts as not there, with all images of its batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from locinv_pl.errors import InputError, all_of, tell
from locinv_pl.io.files import (
    digest,
    is_local,
    located,
    read_image,
    read_json,
    read_tensors,
    to_json,
    write_atomically,
    write_json,
)
from locinv_pl.run.contents import KINDS, Origin, Settings, Skipped, Total
from locinv_pl.run.names import file_name, id_of
from locinv_pl.run.stores import PER_IMAGE, FolderStore, ShardStore, Store, StoreKind
from locinv_pl.types import Inversion, MadeOf, StepRecord

Score = dict[str, Any]
Scores = list[Score]
DRAWINGS = ("sheets", "strips", "reconstructions")


class RunFolder:
    """The files of one run under ``root``; any number of processes may share it.

    Args:
        root: a folder, or a URL of any filesystem that fsspec knows.
        store: where the files of images lie: "folder", a file for each name, or "shards", see
            :mod:`locinv_pl.io.shards`; by default as the run has it, and "folder" for a new one.
        rank: number of the process, which shards have in their names.
    """

    def __init__(self, root: str | Path, store: StoreKind | None = None, rank: int = 0):
        self.root, self._asked, self._rank = located(root), store, rank
        self.local = self.root if is_local(self.root) else Path("outputs") / file_name(str(self.root))

    @cached_property
    def store(self) -> Store:
        """Where the files of images lie."""
        if self._kind == "folder":
            return FolderStore(self.root)
        return ShardStore(self.root, self.local, self._rank)

    @property
    def _kind(self) -> StoreKind:
        return "shards" if (self.root / "store.json").exists() else "folder"

    def place(self, *names: str) -> Path:
        """Where something of the run lies: ``names`` under each other, below its root.

        Raises:
            InputError: one of them is no name, or a link, which could lead anywhere.
        """
        path = self.local if names[:1] in (("running",), ("tensorboard",)) else self.root
        for name in names:
            if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
                raise InputError(f"{name!r}: no file's name in {path}; delete what names it, and run again")
            path = path / name if is_local(path) else path
            if is_local(path) and path.is_symlink():
                raise InputError(
                    f"{path}: a link, which could lead out of the run's folder; put the files in its place"
                )
        if names[:1] and names[0] in PER_IMAGE:
            return self.store.place(*names)
        return path if is_local(path) else self.root.joinpath(*names)

    def inversion_path(self, id: str) -> Path:
        """Where the inversion of image ``id`` is kept."""
        return self.place("inversions", f"{file_name(id)}.safetensors")

    def image_path(self, kind: str, id: str) -> Path:
        """Where an image made of ``id`` is kept.

        Args:
            kind: the folder: "sheets", "strips", "reconstructions" or "edit_sheets".
            id: the image's.
        """
        return self.place(kind, f"{file_name(id)}.png")

    def edits_path(self, id: str, *names: str) -> Path:
        """The folder of the edits of image ``id``, or what has a name in it."""
        return self.place("edits", file_name(id), *names)

    def curves_path(self, id: str) -> Path:
        """The folder of TensorBoard's files of image ``id``."""
        return self.place("tensorboard", file_name(id))

    @property
    def settings(self) -> dict[str, Any]:
        """What :meth:`claim` said.

        Raises:
            InputError: it is missing or damaged.
        """
        return read_json(self.place("settings.json"), Settings)

    def claim(self, settings: Mapping[str, Any], but_for: str = "") -> None:
        """Say what configuration this run has.

        Args:
            settings: what makes its results, as plain values.
            but_for: settings below this key needn't be those of the results that are there.

        Raises:
            InputError: the folder holds results of another one.
        """
        self._settle()
        here = json.loads(to_json(settings))
        if not self._has_results():
            return write_json(self.place("settings.json"), here, sealed=True)
        try:
            there = _flat(self.settings)
        except InputError as error:
            if self._results_settings() - {settings_digest(here)}:
                mend = "run with the settings that made it, give another output=, or delete the folder"
                raise InputError(f"{error.problem}; the folder holds results, {mend}") from None
            tell(f"{error.problem}; written again, no result that can be read was made with others")
            return write_json(self.place("settings.json"), here, sealed=True)
        now = _flat(here)
        for key in sorted(there.keys() | now.keys()):
            if there.get(key) != now.get(key) and not (but_for and key.startswith(f"{but_for}.")):
                raise InputError(
                    f"{self.root}: holds results made with {key}={there.get(key)}, this run has "
                    f"{key}={now.get(key)}; give another output=, or delete the folder"
                )
        return None

    def _settle(self) -> None:
        """Lay out a new run as it is asked for, and mend what dead processes have left."""
        if self._asked not in (None, self._kind):
            if self._has_results():
                raise InputError(
                    f"{self.root}: its images are in store={self._kind}, not {self._asked}; leave store= out, or give "
                    f"another output="
                )
            if self._asked == "shards":
                write_json(self.place("store.json"), {"store": "shards"}, sealed=True)
            else:
                self.place("store.json").unlink()
            self.__dict__.pop("store", None)
        self.store.recover()

    def close(self) -> None:
        """Let every process see what this one has written."""
        self.store.close()

    def announce(self, total: int) -> None:
        """Say how many images the run is to invert."""
        write_json(self.place("pictures.json"), {"total": total}, sealed=True)

    @property
    def total(self) -> int | None:
        """What :meth:`announce` said."""
        path = self.place("pictures.json")
        return read_json(path, Total)["total"] if path.exists() else None

    def count(self, kind: str) -> int:
        """How many images there are of a kind."""
        return sum(1 for _ in self._files(kind))

    def problem(self, id: str) -> str:
        """Why image ``id`` was left out."""
        try:
            return read_json(self._skipped(id), Skipped)["problem"]
        except InputError as problem:
            return str(problem)

    def id_of(self, kind: str, name: str) -> str:
        """The id that a file or folder has its name of; where that is shortened, the id stands in it.

        Args:
            kind: the folder that it lies in.
            name: its name, without suffix.
        """
        id = id_of(name)
        with suppress(InputError, KeyError, TypeError):
            if id is None and kind == "running":
                id = read_tensors(next(self.place(kind, name).glob("*.safetensors")))[1]["made_of"]["id"]
            elif id is None:
                id = read_json(self.place(kind, f"{name}.json"), KINDS[kind])["id"]
        return name if id is None or file_name(id) != name else id

    def is_marked(self, id: str) -> bool:
        """Whether image ``id`` has the files of a finished one, whatever is in them."""
        return self.inversion_path(id).exists() and self._scores_path("inversions", id).exists()

    def damage(self, id: str) -> str | None:
        """What is wrong with the files of a finished image, which are read for it; None if nothing is."""
        try:
            score = self._read_score("inversions", self._scores_path("inversions", id).name)
            inversion = Inversion.load(self.inversion_path(id))
            for path in (self.image_path(kind, id) for kind in DRAWINGS):
                if path.exists():
                    read_image(path)
        except InputError as error:
            return error.problem
        if inversion.id != id:
            return f"{self.inversion_path(id)}: of another image, {inversion.id!r}"
        if inversion.fingerprint != score.get("made_of", {}).get("sample", inversion.fingerprint):
            return f"{self.inversion_path(id)}: of other data than its scores"
        return None

    def pending(self, ids: Sequence[str], made_of: Callable[[str], MadeOf] | None = None) -> list[str]:
        """Of a batch, the images to run: the unfinished, and those that belong to them.

        Finished images whose files are damaged, or were made of other data, are unfinished. With an unfinished one
        belong those that an earlier run was finishing with it, and those that were inverted with it: results depend on
        a batch's size, if by rounding alone, and are to be those of an undisturbed run.

        Args:
            ids: those of the batch's images.
            made_of: answers what an image's results are to be made of; may raise an InputError where that can't be
                known, and then results that are whole are kept.
        """
        unfinished, together = set(), {}
        for id in ids:
            if not self.is_marked(id):
                unfinished.add(id)
            elif problem := self.damage(id) or self._change(id, made_of):
                tell(f"image {id!r} is inverted again, with its batch: {problem}")
                unfinished.add(id)
            else:
                together[id] = set(self._origin(id)["batch"])
        begun = {id for id in ids if self._running(id).is_dir()}
        if not unfinished & begun:
            self._clear(begun)  # where a run ended between mark and clearing
            begun = set()
        belong = {id for id, batch in together.items() if batch & unfinished}
        return [id for id in ids if id in unfinished | begun | belong]

    def unskipped(self, ids: Sequence[str]) -> list[str]:
        """Of a batch, the images that weren't left out."""
        return [id for id in ids if not self._skipped(id).exists()]

    def unfinished(self, ids: Iterable[str]) -> list[str]:
        """The images that are neither finished nor left out."""
        return [id for id in ids if not (self.is_marked(id) or self._skipped(id).exists())]

    def inversion(self, id: str, fingerprint: str) -> Inversion:
        """The inversion of image ``id``.

        Args:
            id: the image's.
            fingerprint: that of the image with its prompt and priors, as they are now.

        Raises:
            InputError: it is missing or damaged, and then all others of the run that are damaged are named, too; or
                the image with its prompt and priors isn't the one that was inverted.
        """
        try:
            inversion = Inversion.load(self.inversion_path(id))
        except InputError as error:
            problems = dict.fromkeys([error.problem, *self._damages()])
            raise InputError(all_of(list(problems), "run the inversion first (fit), which makes it again")) from None
        if not inversion.fingerprint:
            raise InputError(
                f"{self.inversion_path(id)}: an earlier version's, which doesn't say what was inverted; give another "
                f"output=, and run the inversion (fit) again"
            )
        if inversion.fingerprint != fingerprint or inversion.id != id:
            raise InputError(
                f"image {id!r}: its prompt, nouns, priors or pixels aren't those that were inverted in {self.root}; "
                f"run the inversion (fit) again, which inverts it again"
            )
        return inversion

    def save_record(
        self, ids: Sequence[str], i: int, record: StepRecord, made_of: Mapping[str, MadeOf] | None = None
    ) -> None:
        """Keep the record of timestep i of images that run together, a file for each.

        Args:
            ids: those of the B images.
            i: step, 0 the noisiest.
            record: that of the B images.
            made_of: what the record is made of, by id.
        """
        for b, id in enumerate(ids):
            record.pick([b]).save(self._running(id, i), (made_of or {}).get(id))

    def load_records(self, ids: Sequence[str], made_of: Mapping[str, MadeOf] | None = None) -> list[StepRecord]:
        """The records that all of these images have, from step 0 up to the first that one of them lacks.

        A record that is damaged, or made of something else, counts as lacking.

        Args:
            ids: those of the images, which run together.
            made_of: what their records are to be made of, by id.
        """
        found = []
        with suppress(InputError):
            for each in zip(*(self._kept(id, (made_of or {}).get(id)) for id in ids), strict=False):
                found.append(StepRecord.join(each))
        return found

    def finish(self, scores: Mapping[str, Mapping[str, Any]], made_of: Mapping[str, MadeOf] | None = None) -> None:
        """Mark a batch's images as finished, and delete their records.

        Args:
            scores: their scores, by id.
            made_of: what they were made of, by id.
        """
        for id, score in scores.items():
            for path in (self.image_path(kind, id) for kind in DRAWINGS):
                if path.exists() and not _is_image(path):
                    path.unlink()  # damaged, and nobody has drawn it again
            origin = {**(made_of or {}).get(id, {}), "batch": [*scores]}
            self.save_scores("inversions", id, {**score, "made_of": origin})
            self._skipped(id).unlink(missing_ok=True)
        self.store.keep()
        self._clear(scores)

    def save_scores(self, kind: str, id: str, scores: Mapping[str, Any]) -> None:
        """Keep the scores of an image.

        Args:
            kind: the folder: "inversions", "validation", "test" or "skipped".
            id: the image's.
            scores: plain values, as :mod:`locinv_pl.run.contents` has them for that folder.
        """
        write_json(self._scores_path(kind, id), scores, sealed=True)

    def scores(self, kind: str = "inversions") -> Scores:
        """The scores of all images of a kind, by id.

        Raises:
            InputError: some are damaged; names all of them.
        """
        return sorted(self.each_score(kind), key=lambda score: score["id"])

    def each_score(self, kind: str = "inversions") -> Iterator[Score]:
        """The scores of all images of a kind one by one: by id, and those in shards by their files' names.

        Raises:
            InputError: some are damaged; names all of them, at the end.
        """
        files = self._files(kind)
        if self._kind == "folder":
            files = iter(sorted(files, key=lambda file: self.id_of(kind, file.removesuffix(".json"))))
        return self._read_scores(kind, files)

    def score_of(self, id: str) -> Score | None:
        """The scores of an image's inversion; None where it has none.

        Raises:
            InputError: they are damaged.
        """
        path = self._scores_path("inversions", id)
        return self._read_score("inversions", path.name) if path.exists() else None

    def sum_up(
        self,
        file: str,
        kind: str,
        summarize: Callable[[Iterable[Score]], dict[str, Any]],
        belongs: Callable[[Score], bool] = lambda score: True,
    ) -> dict[str, Any]:
        """Write what ``summarize`` makes of the scores of a kind into ``file``, and give it back.

        The scores pass by once, and in a folder go to the file's "images" on their way; in shards, where there may be
        too many for a file, they stay where they are.

        Jobs that share the folder may come to their ends together, so what is written is compared with what is there
        afterwards: the last one to write has seen all. While images are running, the last one is still to come.

        Args:
            file: its name in the run's folder.
            kind: the folder of the scores.
            summarize: makes the file's content, all but the images, of them.
            belongs: which scores are meant; all by default.
        """
        while True:
            seen = self._seen(kind)
            with TemporaryFile() as images:
                listed = images if self._kind == "folder" else None
                content = summarize(_passing(filter(belongs, self.each_score(kind)), listed))
                head = to_json(content, indent=1)
                if listed is not None:
                    key = ',\n "images": [' if content else '\n "images": ['
                    end = b"\n ]\n}\n" if images.tell() else b"]\n}\n"
                    write_atomically(self.place(file), [head[:-1].rstrip().encode(), key.encode(), images, end])
                else:
                    write_atomically(self.place(file), f"{head}\n".encode())
            if self._seen(kind) == seen or any(self.place("running").glob("*")):
                return content

    def _seen(self, kind: str) -> str:
        """What there is of a kind, in one number."""
        sha = sha256()
        for name in self._files(kind):
            sha.update(f"{name}/".encode())
        return sha.hexdigest()

    def _files(self, kind: str) -> Iterator[str]:
        """The names of a folder's JSON files, sorted."""
        store = self.store if kind in PER_IMAGE else FolderStore(self.root)
        return store.names(kind)

    def _scores_path(self, kind: str, id: str) -> Path:
        return self.place(kind, f"{file_name(id)}.json")

    def _read_scores(self, kind: str, files: Iterable[str]) -> Iterator[Score]:
        problems = []
        for file in files:
            try:
                score = self._read_score(kind, file)
            except InputError as problem:
                problems.append(str(problem))
            else:
                yield {key: value for key, value in score.items() if key != "made_of"}
        if problems:
            raise InputError(all_of(problems))

    def _read_score(self, kind: str, file: str) -> dict[str, Any]:
        path = self.place(kind, file)
        score = read_json(path, KINDS.get(kind, Any))
        if f"{file_name(score['id'])}.json" != file:
            raise InputError(f"{path}: of another image, {score['id']!r}; delete it and run again")
        return score

    def _origin(self, id: str) -> Origin:
        """What a finished image was made of."""
        score = self._read_score("inversions", self._scores_path("inversions", id).name)
        return score.get("made_of", {"batch": [id]})

    def _change(self, id: str, made_of: Callable[[str], MadeOf] | None) -> str | None:
        """Whether a finished image was made of something else than it is to be made of."""
        if made_of is None:
            return None
        try:
            now = made_of(id)
        except InputError as problem:
            tell(f"image {id!r}: its inversion is kept, though it can't be compared with its data: {problem}")
            return None
        if {**self._origin(id), **now} == self._origin(id):
            return None
        return "its prompt, nouns, priors or pixels have changed since"

    def _damages(self) -> Iterator[str]:
        """What is wrong with the files of all finished images."""
        for file in self._files("inversions"):
            try:
                problem = self.damage(self._read_score("inversions", file)["id"])
            except InputError as error:
                problem = error.problem
            if problem is not None:
                yield problem

    def _results_settings(self) -> set[str | None]:
        """The digests of the settings that all results were made with, finished or not; damaged ones don't say."""
        found: set[str | None] = set()
        for file in self._files("inversions"):
            with suppress(InputError):
                found.add(self._read_score("inversions", file).get("made_of", {}).get("settings"))
        for path in self.place("running").glob("*/*.safetensors"):
            with suppress(InputError):
                found.add((read_tensors(path)[1].get("made_of") or {}).get("settings"))
        return found

    def _has_results(self) -> bool:
        kept = chain(self.place("running").glob("*"), self.store.names("inversions", ""))
        return next(kept, None) is not None

    def _kept(self, id: str, made_of: MadeOf | None) -> Iterator[StepRecord]:
        for i in count():
            path = self._running(id, i)
            if not path.exists():
                return
            try:
                record = StepRecord.load(path, made_of)
            except InputError as error:
                return tell(f"image {id!r} goes on from timestep {i + 1}: {error.problem}")
            yield record

    def _clear(self, ids: Iterable[str]) -> None:
        """Delete the records of these images, and what writing them has left; any other file stays."""
        for folder in map(self._running, ids):
            with suppress(OSError):  # there is none, or another process clears it or fills it again
                for path in [*folder.glob("*.safetensors"), *folder.glob(".*.tmp")]:
                    path.unlink(missing_ok=True)
                folder.rmdir()

    def _running(self, id: str, i: int | None = None) -> Path:
        """The folder of an image's records, or the record of timestep i."""
        return self.place("running", file_name(id), *([] if i is None else [f"{i:04d}.safetensors"]))

    def _skipped(self, id: str) -> Path:
        return self.place("skipped", f"{file_name(id)}.json")


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Names a run's settings in its results."""
    return digest(json.dumps(json.loads(to_json(settings)), sort_keys=True), {})


def _passing(scores: Iterable[Score], file: IO[bytes] | None) -> Iterator[Score]:
    """The scores, which are written into an open file as items of a JSON list, where there is one."""
    for number, score in enumerate(scores):
        if file is not None:
            text = to_json(score, indent=1).replace("\n", "\n  ")
            file.write(f"{',' if number else ''}\n  {text}".encode())
        yield score


def _is_image(path: Path) -> bool:
    try:
        read_image(path)
    except InputError:
        return False
    return True


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
