"""Methods side by side on the same images: runs, one after the other, and a table of all.

Every run is ``train.py``'s own fit, predict and test in a process of its own, in a folder of its own under ``runs/``;
what is measured comes from the images' files. A run that ended is not made again. Below the runs' rows stand those of
:mod:`locinv_pl.comparison.references`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import TypedDict

import locinv_pl
from locinv_pl.comparison.references import GENERATED, SOURCES, References
from locinv_pl.comparison.statistics import compare
from locinv_pl.comparison.tables import kinds_of, to_csv, to_markdown
from locinv_pl.configs import CONFIGS, presets
from locinv_pl.editing.recipes import PAINTERS
from locinv_pl.errors import DamagedError, InputError
from locinv_pl.io.arguments import read_words
from locinv_pl.io.files import read_json, write_atomically, write_json
from locinv_pl.run.contents import OPEN, EditScores, InversionScores
from locinv_pl.run.names import file_name
from locinv_pl.run.store import RunFolder

OF_EDITORS = {"model.num_steps": "editor.num_steps", "method.guidance_scale": "editor.guidance_scale"}
"""What the words say of the methods, and the keys by which another editor is told the same."""


@dataclass(frozen=True)
class Variant:
    """What one row of a comparison runs: ``method[:prior][+edit]``, or another editor, with values of its own.

    Args:
        name: a preset of configs/method or configs/editor, or a method's YAML file.
        prior: the localization prior, in place of the comparison's.
        edit: a preset of configs/edit, in place of the default settings.
        vary: a key of the configuration and the value that it has in this row.
    """

    name: str
    prior: str | None = None
    edit: str | None = None
    vary: tuple[str, Any] | None = None

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read a word of ``methods=``.

        Raises:
            InputError: there is no such method, editor or edit.

        >>> Variant.parse("locinv:box+p2p")
        Variant(name='locinv', prior='box', edit='p2p', vary=None)
        """
        head, _, edit = text.strip().partition("+")
        name, _, prior = head.partition(":")
        if not Path(name).is_file() and name not in presets("method") + presets("editor"):
            known = ", ".join(presets("method") + presets("editor"))
            raise InputError(f"methods={text}: no method or editor {name!r}; use some of {known}, or a YAML file")
        if edit and edit not in presets("edit"):
            raise InputError(f"methods={text}: no edit {edit!r}; use one of {', '.join(presets('edit'))}")
        return cls(name, prior or None, edit or None)

    @property
    def is_editor(self) -> bool:
        """Whether it edits without an inversion of ours."""
        return self.name in presets("editor")

    @property
    def knows_place(self) -> bool:
        """Whether it sees the localization priors."""
        if not self.is_editor:
            return True
        preset = yaml.safe_load((CONFIGS / "editor" / f"{self.name}.yaml").read_text())
        return preset["editor"] in PAINTERS

    @property
    def inversion(self) -> str:
        """What it inverts with; variants that differ by ``edit`` alone share their inversions."""
        name = Path(self.name).stem if Path(self.name).is_file() else self.name
        varied = "" if self.vary is None else f" {self.vary[0].removeprefix('method.')}={self.vary[1]}"
        return name + (f":{self.prior}" if self.prior else "") + varied

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        return self.inversion + (f"+{self.edit}" if self.edit else "")

    @property
    def words(self) -> list[str]:
        """The words that it adds to the command line of a run."""
        words = [f"editor={self.name}" if self.is_editor else f"method={self.name}"]
        words += [f"prior={self.prior}"] if self.prior else []
        words += [f"edit={self.edit}"] if self.edit else []
        return words + ([f"{self.vary[0]}={self.vary[1]}"] if self.vary else [])


@OPEN
class VariantScores(TypedDict):
    """The content of a variant's file in scores/."""

    label: str
    name: str
    prior: str | None
    edit: str | None
    vary: list[Any] | None
    words: list[str]
    edits: bool
    inversions: list[InversionScores]
    tests: list[EditScores]


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how.

    Args:
        methods: the variants, as :meth:`Variant.parse` reads them.
        words: what stands on every run's command line: data=, trainer.devices=, ….
        output: the comparison's folder.
        edits: whether images are edited, too, or inverted only.
        vary: values by key; every variant is run with each of them.
        reference: the label of the row that others are compared with.
        resamples: how often the bootstrap draws the images again, 1 or more.
        generate: how many images each target prompt is drawn to from noise, for the row "generated"; 0 leaves it out.
    """

    methods: Sequence[str]
    words: Sequence[str] = ()
    output: Path = Path("outputs/compare")
    edits: bool = True
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    reference: str = "nti"
    resamples: int = 2000
    generate: int = 2

    @classmethod
    def parse(cls, words: Sequence[str]) -> Comparison:
        """Read a command line's words; ``experiment=NAME`` takes configs/experiment/NAME.yaml.

        Args:
            words: key=value each; what isn't the comparison's own goes to every run.

        Raises:
            InputError: a word isn't understood, or names something that isn't there.
        """
        given: dict[str, Any] = {}
        for word in read_words(words):
            if word.value is None:
                raise InputError(f"{word.texts[0]}: not understood; write key=value")
            given |= _experiment(word.value) if word.key == "experiment" else {word.key: word.value}
        own = {key: given.pop(key) for key in list(given) if key in _OPTIONS}
        if not own.get("methods"):
            raise InputError("compare: no methods; name some in methods=ddim,nti,locinv, or take an experiment=")
        options = {key: _OPTIONS[key](key, value) for key, value in own.items()}
        return cls(words=tuple(f"{key}={value}" for key, value in given.items()), **options)

    @property
    def variants(self) -> list[Variant]:
        """The rows: every method, with each of the values that vary."""
        variants = [Variant.parse(text) for text in self.methods]
        varied = [(key, value) for key, values in self.vary.items() for value in values]
        return [replace(variant, vary=vary) for variant in variants for vary in varied] if varied else variants

    @property
    def references(self) -> list[Variant]:
        """The rows that no run makes, see :mod:`locinv_pl.comparison.references`."""
        names = [GENERATED] * (self.generate > 0) + [SOURCES]
        return [Variant(name) for name in names] if self.edits else []

    def run(self, tell: Callable[[str], None] = print) -> dict[str, Any]:
        """Make what isn't made yet; write comparison.json, .csv and .md, and comparison_kinds.csv of kinds of edits.

        Args:
            tell: called with what runs next.

        Returns:
            the content of comparison.json.

        Raises:
            InputError: a run failed.
        """
        variants = self.variants
        for number, variant in enumerate(variants, start=1):
            self._make(variant, f"[{number}/{len(variants)}] {variant.label}", tell)
        self._make_references(tell)
        scores = [self.scores(variant) for variant in (*variants, *self.references)]
        rows = [score for score in scores if score["inversions"] or score["tests"]]
        content = compare(rows, self.reference, self.resamples)
        content |= {"words": list(self.words)}
        write_json(self.output / "comparison.json", content)
        write_atomically(self.output / "comparison.csv", to_csv(content["rows"]).encode())
        if self.edits:
            write_atomically(self.output / "comparison_kinds.csv", to_csv(kinds_of(content["rows"])).encode())
        write_atomically(self.output / "comparison.md", (to_markdown(content) + "\n").encode())
        return content

    def folder(self, variant: Variant) -> RunFolder:
        """The run's folder, in which a variant's inversions and edits lie."""
        return RunFolder(self.output / "runs" / file_name(variant.inversion, safe=":= "))

    def scores_path(self, variant: Variant) -> Path:
        """The file of a variant's scores, image by image; there once it has ended."""
        return self.output / "scores" / f"{file_name(variant.label, safe=':= +')}.json"

    def scores(self, variant: Variant) -> VariantScores:
        """A variant's scores, image by image.

        Raises:
            InputError: their file is missing or damaged.
        """
        return read_json(self.scores_path(variant), VariantScores)

    def _make(self, variant: Variant, title: str, tell: Callable[[str], None]) -> None:
        run, stages = self.folder(variant), ["predict", "test"] if self.edits else []
        about = self._about(variant)
        if self.scores_path(variant).exists():
            with suppress(DamagedError):  # which is made again
                done = self.scores(variant)
                if done["words"] == about["words"] and done["edits"] == self.edits:
                    return
        shutil.rmtree(run.root / "test", ignore_errors=True)  # an edit's scores replace those of another
        for stage in stages if variant.is_editor else ["fit", *stages]:
            tell(f"\n{title}: {stage}")
            words = ["callbacks=plain", *about["words"], f"output={run.root}"]
            if code := subprocess.run(
                [sys.executable, "-P", "-m", "locinv_pl", stage, *words], env=_environment()
            ).returncode:
                raise InputError(
                    f"compare: {variant.label}: {stage} ended with exit code {code}, its reason stands above; "
                    f"mend it and run the same command again, which goes on from there"
                )
        about["prior"] = run.settings["data"].get("prior") if variant.knows_place else None
        measured = {"inversions": run.scores(), "tests": run.scores("test")}
        write_json(self.scores_path(variant), {**about, **measured}, sealed=True)

    def _make_references(self, tell: Callable[[str], None]) -> None:
        """Make the references' rows from the edits of the first variant, one that inverts where there is one."""
        first = min(self.variants, key=lambda variant: variant.is_editor)
        for variant in self.references:
            tell(f"\n{variant.label}")
            made, out = References(self.folder(first), self.scores(first)["tests"]), self.folder(variant)
            tests = made.generated(out, self.generate) if variant.name == GENERATED else made.sources(out)
            about = {**self._about(variant), "words": [*self.words], "inversions": [], "tests": tests}
            write_json(self.scores_path(variant), about, sealed=True)

    def _about(self, variant: Variant) -> dict[str, Any]:
        """What a variant's scores say of how they are made; words such as kontext.model=… are that editor's alone."""
        words = [word for word in self.words if word.partition(".")[0] not in presets("editor")] + variant.words
        if variant.is_editor:
            given = dict(word.split("=", 1) for word in words)
            words += [f"{to}={given[key]}" for key, to in OF_EDITORS.items() if key in given]
            own = f"{variant.name}."
            words += [f"editor.{word.removeprefix(own)}" for word in self.words if word.startswith(own)]
        about = {"label": variant.label, "words": words, "edits": self.edits}
        return about | {"name": variant.name, "prior": variant.prior, "edit": variant.edit, "vary": variant.vary}


def _environment() -> dict[str, str]:
    """This process's, where Python finds this package in any folder."""
    paths = [str(Path(locinv_pl.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _experiment(name: str) -> dict[str, Any]:
    path = CONFIGS / "experiment" / f"{name}.yaml"
    path = path if path.is_file() else Path(name)
    if not path.is_file():
        raise InputError(f"experiment={name}: no such file; use one of {', '.join(presets('experiment'))}")
    return yaml.safe_load(path.read_text()) or {}


def _list(key: str, value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else str(value).strip("[]").split(",")


def _values(key: str, value: Any) -> dict[str, list[Any]]:
    values = yaml.safe_load(value) if isinstance(value, str) else value
    if not isinstance(values, dict) or not all(isinstance(v, list) for v in values.values()):
        raise InputError(f"{key}={value}: give lists by key, as in {key}='{{method.tokens.overlap.weight: [0, 1]}}'")
    return values


def _number(key: str, value: Any, least: int = 1) -> int:
    if not str(value).isdigit() or int(value) < least:
        raise InputError(f"{key}={value}: give a whole number, {least} or more")
    return int(value)


def _switch(key: str, value: Any) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise InputError(f"{key}={value}: give true or false")
    return str(value).lower() == "true"


_OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "methods": _list,
    "output": lambda key, value: Path(value),
    "edits": _switch,
    "vary": _values,
    "reference": lambda key, value: str(value),
    "resamples": _number,
    "generate": lambda key, value: _number(key, value, least=0),
}
