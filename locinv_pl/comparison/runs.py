"""Methods side by side on the same images: runs, one after the other, and a table of all.

Every run is ``train.py``'s own fit, predict and test in a process of its own, in a folder of its own under ``runs/``;
what is measured comes from the images' files. A run that ended is not made again.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml
from scipy.stats import bootstrap
from typing_extensions import TypedDict

import locinv_pl
from locinv_pl.configs import CONFIGS
from locinv_pl.errors import DamagedError, InputError
from locinv_pl.io.arguments import read_words
from locinv_pl.io.files import read_json, write_atomically, write_json
from locinv_pl.method.policies import presets
from locinv_pl.run.contents import OPEN, EditScores, InversionScores
from locinv_pl.run.names import file_name
from locinv_pl.run.store import RunFolder
from locinv_pl.run.summary import markdown


@dataclass(frozen=True)
class Measure:
    """A column of the table.

    Args:
        key: in comparison.json.
        title: in the table.
        form: of its numbers.
        per_edit: whether every edit has it, or else every inversion.
        sign: 1 if more is better, -1 if less is.
        factor: in the table.
        in_table: whether the printed table has it; the files have all.
    """

    key: str
    title: str
    form: str = "{:.2f}"
    per_edit: bool = True
    sign: int = 1
    factor: float = 1
    in_table: bool = True


MEASURES = (
    Measure("attention_iou", "IoU", "{:.3f}", per_edit=False),
    Measure("psnr", "PSNR [dB]", per_edit=False),
    Measure("ssim", "SSIM", "{:.3f}", per_edit=False, in_table=False),
    Measure("lpips", "LPIPS × 10³", per_edit=False, sign=-1, factor=1e3),
    Measure("background_psnr", "background PSNR [dB]"),
    Measure("background_ssim", "background SSIM", "{:.4f}"),
    Measure("background_mse", "background MSE × 10⁴", sign=-1, factor=1e4, in_table=False),
    Measure("background_lpips", "background LPIPS × 10³", sign=-1, factor=1e3),
    Measure("structure_distance", "structure × 10³", sign=-1, factor=1e3),
    Measure("dino_similarity", "ViT similarity", "{:.3f}", in_table=False),
    Measure("clip_target", "CLIP"),
    Measure("clip_edited", "CLIP, edited part", in_table=False),
    Measure("success", "success"),
    Measure("seconds_per_image", "s / image", "{:.1f}", per_edit=False, sign=-1),
)
OF_INVERSIONS = {"attention_iou": "iou", "psnr": "psnr", "ssim": "ssim", "seconds_per_image": "seconds"}


@dataclass(frozen=True)
class Entry:
    """One row: ``method[:prior][+edit]``, or the name of another editor, and values that vary.

    Args:
        name: a preset of configs/method or configs/editor, or a method's YAML file.
        prior: in place of the comparison's.
        edit: a preset of configs/edit.
        vary: a key and its value.
    """

    name: str
    prior: str | None = None
    edit: str | None = None
    vary: tuple[str, Any] | None = None

    @classmethod
    def parse(cls, text: str) -> Entry:
        """From ``locinv:box+p2p``.

        Raises:
            InputError: no such method, editor or edit.
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
    def inversion(self) -> str:
        """What it inverts with; entries that differ by ``edit`` alone share their inversions."""
        name = Path(self.name).stem if Path(self.name).is_file() else self.name
        varied = "" if self.vary is None else f" {self.vary[0].removeprefix('method.')}={self.vary[1]}"
        return name + (f":{self.prior}" if self.prior else "") + varied

    @property
    def label(self) -> str:
        """Names it in tables and figures."""
        return self.inversion + (f"+{self.edit}" if self.edit else "")

    @property
    def words(self) -> list[str]:
        """What it adds to the command line of a run."""
        words = [f"editor={self.name}" if self.is_editor else f"method={self.name}"]
        words += [f"prior={self.prior}"] if self.prior else []
        words += [f"edit={self.edit}"] if self.edit else []
        return words + ([f"{self.vary[0]}={self.vary[1]}"] if self.vary else [])


@OPEN
class EntryScores(TypedDict):
    """The content of an entry's file in scores/."""

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
        methods: entries as :meth:`Entry.parse` reads them.
        words: of every run's command line: data=, trainer.devices=, ….
        output: the folder.
        edits: whether images are edited, too, or inverted only.
        vary: values by key; every entry is run with each of them.
        reference: the label of the row that others are compared with.
        resamples: of the bootstrap.
    """

    methods: Sequence[str]
    words: Sequence[str] = ()
    output: Path = Path("outputs/compare")
    edits: bool = True
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    reference: str = "nti"
    resamples: int = 2000

    @classmethod
    def parse(cls, words: Sequence[str]) -> Comparison:
        """From a command line's words; ``experiment=NAME`` takes configs/experiment/NAME.yaml.

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
    def entries(self) -> list[Entry]:
        """The rows."""
        entries = [Entry.parse(text) for text in self.methods]
        varied = [(key, value) for key, values in self.vary.items() for value in values]
        return [Entry(e.name, e.prior, e.edit, v) for e in entries for v in varied] if varied else entries

    def run(self, tell: Callable[[str], None] = print) -> dict[str, Any]:
        """Make what isn't made yet; write comparison.json, .csv and .md.

        Returns:
            the content of comparison.json.

        Raises:
            InputError: a run failed.
        """
        entries = self.entries
        for number, entry in enumerate(entries, start=1):
            self._make(entry, f"[{number}/{len(entries)}] {entry.label}", tell)
        content = compare([self.scores(entry) for entry in entries], self.reference, self.resamples)
        content |= {"words": list(self.words)}
        write_json(self.output / "comparison.json", content)
        write_atomically(self.output / "comparison.csv", to_csv(content["rows"]).encode())
        write_atomically(self.output / "comparison.md", (to_markdown(content) + "\n").encode())
        return content

    def folder(self, entry: Entry) -> RunFolder:
        """Where an entry's inversions and edits lie."""
        return RunFolder(self.output / "runs" / file_name(entry.inversion, safe=":= "))

    def scores_path(self, entry: Entry) -> Path:
        """The file of an entry's scores, image by image; there once it has ended."""
        return self.output / "scores" / f"{file_name(entry.label, safe=':= +')}.json"

    def scores(self, entry: Entry) -> EntryScores:
        """An entry's scores, image by image.

        Raises:
            InputError: their file is missing or damaged.
        """
        return read_json(self.scores_path(entry), EntryScores)

    def _make(self, entry: Entry, title: str, tell: Callable[[str], None]) -> None:
        run, stages = self.folder(entry), ["predict", "test"] if self.edits else []
        about = {"label": entry.label, "words": [*self.words, *entry.words], "edits": self.edits}
        about |= {"name": entry.name, "prior": entry.prior, "edit": entry.edit, "vary": entry.vary}
        if self.scores_path(entry).exists():
            with suppress(DamagedError):  # which is made again
                done = self.scores(entry)
                if done["words"] == about["words"] and done["edits"] == self.edits:
                    return
        shutil.rmtree(run.root / "test", ignore_errors=True)  # an edit's scores replace those of another
        for stage in stages if entry.is_editor else ["fit", *stages]:
            tell(f"\n{title}: {stage}")
            words = ["callbacks=plain", *self.words, *entry.words, f"output={run.root}"]
            if code := subprocess.run(
                [sys.executable, "-P", "-m", "locinv_pl", stage, *words], env=_environment()
            ).returncode:
                raise InputError(
                    f"compare: {entry.label}: {stage} ended with exit code {code}, its reason stands above; "
                    f"mend it and run the same command again, which goes on from there"
                )
        about["prior"] = None if entry.is_editor else run.settings["data"].get("prior")
        measured = {"inversions": run.scores(), "tests": run.scores("test")}
        write_json(self.scores_path(entry), {**about, **measured}, sealed=True)


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


def _number(key: str, value: Any) -> int:
    if not str(value).isdigit() or int(value) < 1:
        raise InputError(f"{key}={value}: give a whole number, 1 or more")
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
}


def compare(scores: Sequence[Mapping[str, Any]], reference: str = "nti", resamples: int = 2000) -> dict[str, Any]:
    """Means, intervals and paired differences of several runs over the same images.

    Every mean is over nouns, reconstructions or edits; its 95% interval is the bootstrap's over images (percentiles).
    A paired difference is that of the same noun or edit to the reference's; ``better`` and ``worse`` count the
    images on which its mean is on the good side or on the bad one.

    Args:
        scores: of each run, with "inversions" and "tests", one entry per image.
        reference: the label of the run that others are compared with; no differences where there is none.
        resamples: of the bootstrap.

    Returns:
        the content of comparison.json.
    """
    values = {run["label"]: {m.key: _values_of(run, m) for m in MEASURES} for run in scores}
    rows = []
    for run in scores:
        row: dict[str, Any] = {"method": run["label"], **{k: run[k] for k in ("name", "prior", "edit", "vary")}}
        row |= {"num_images": len(run["inversions"] or run["tests"])}
        row |= {"num_edits": sum(len(test["edits"]) for test in run["tests"])}
        for measure in MEASURES:
            mine = values[run["label"]][measure.key]
            row[measure.key], row[f"{measure.key}_ci95"] = _mean_and_interval(mine, resamples)
        row["paired"] = {}
        if reference in values and run["label"] != reference:
            for measure in MEASURES:
                paired = _paired(values[run["label"]][measure.key], values[reference][measure.key], measure, resamples)
                row["paired"] |= {measure.key: paired} if paired else {}
        row["kinds"] = _kinds(run)
        row["iou_curve"] = _curve(run)
        rows.append(row)
    return {"reference": reference if reference in values else None, "rows": rows}


Values = dict[str, list[float]]
"""Of every image what was measured on it: on its nouns, its reconstruction, or its edits."""


def _values_of(run: Mapping[str, Any], measure: Measure, kind: str | None = None) -> Values:
    if measure.key == "lpips":
        found = {test["id"]: test.get("reconstruction", {}).get("lpips") for test in run["tests"]}
        return {id: [value] for id, value in found.items() if value is not None}
    if not measure.per_edit:
        found = {s["id"]: s[OF_INVERSIONS[measure.key]] for s in run["inversions"]}
        each = {id: value if isinstance(value, list) else [value] for id, value in found.items()}
        known = {id: [value for value in some if value is not None] for id, some in each.items()}
        return {id: some for id, some in known.items() if some}
    values: Values = {}
    for test in run["tests"]:
        chosen = [edit for edit in test["edits"] if kind in (None, edit["kind"])]
        given = [edit[measure.key] for edit in chosen if edit.get(measure.key) is not None]
        values |= {test["id"]: given} if given else {}
    return values


def _mean(values: Values) -> float | None:
    return fmean(value for each in values.values() for value in each) if values else None


def _mean_and_interval(values: Values, resamples: int) -> tuple[float | None, list[float] | None]:
    mean = _mean(values)
    if len(values) < 2:
        return mean, None
    sums, counts = (np.array([f(v) for v in values.values()], dtype=float) for f in (sum, len))

    def ratio(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums.sum(axis) / counts.sum(axis)

    found = bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        method="percentile",
        random_state=np.random.default_rng(0),
    )
    return mean, [float(found.confidence_interval.low), float(found.confidence_interval.high)]


def _paired(mine: Values, theirs: Values, measure: Measure, resamples: int) -> dict[str, Any] | None:
    both = [id for id in mine if id in theirs and len(mine[id]) == len(theirs[id])]
    differences = {id: [a - b for a, b in zip(mine[id], theirs[id], strict=True)] for id in both}
    mean, interval = _mean_and_interval(differences, resamples)
    if mean is None:
        return None
    gains = [measure.sign * sum(values) for values in differences.values()]
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return {"difference": mean, "ci95": interval, "better": better, "worse": worse, "num_images": len(both)}


def _kinds(run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    kinds = sorted({edit["kind"] for test in run["tests"] for edit in test["edits"]})
    means: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        of_kind = {m.key: _values_of(run, m, kind) for m in MEASURES if m.per_edit}
        means[kind] = {"num_edits": sum(edit["kind"] == kind for test in run["tests"] for edit in test["edits"])}
        means[kind] |= {key: _mean(values) for key, values in of_kind.items()}
    return means


def _curve(run: Mapping[str, Any]) -> list[float] | None:
    """Mean attention IoU over all nouns at every step."""
    curves = [curve for score in run["inversions"] for curve in score["iou_curve"]]
    return np.mean(np.array(curves, dtype=float), axis=0).round(4).tolist() if curves else None


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per row, with the bounds of the intervals."""
    keys = [m.key for m in MEASURES if any(row[m.key] is not None for row in rows)]
    out = io.StringIO()
    writer = csv.writer(out)
    bounds = [f"{key}{end}" for key in keys for end in ("", "_low", "_high")]
    writer.writerow(["method", "prior", "edit", "num_images", "num_edits", *bounds])
    for row in rows:
        cells = [cell for key in keys for cell in (row[key], *(row[f"{key}_ci95"] or (None, None)))]
        writer.writerow([row[k] for k in ("method", "prior", "edit", "num_images", "num_edits")] + cells)
    return out.getvalue()


def to_markdown(content: Mapping[str, Any]) -> str:
    """The tables.

    Means, with half the width of their intervals; the differences to the reference, with the numbers of images on
    which they are for the better and for the worse; the means of every kind of edit.
    """
    rows, reference = content["rows"], content["reference"]
    shown = [m for m in MEASURES if m.in_table and any(row[m.key] is not None for row in rows)]

    def cell(value: float | None, measure: Measure, interval: Sequence[float] | None = None, sign: str = "") -> str:
        if value is None:
            return "-"
        form = measure.form.replace(":", f":{sign}")
        half = f" ± {measure.form.format(measure.factor * (interval[1] - interval[0]) / 2)}" if interval else ""
        return form.format(measure.factor * value) + half

    table = [["method", "prior", *(m.title for m in shown)]]
    for row in rows:
        cells = [cell(row[m.key], m, None if m.sign < 0 else row[f"{m.key}_ci95"]) for m in shown]
        table.append([row["method"], row["prior"] or "-", *cells])
    parts = [markdown(table)]
    if reference:
        told = [m for m in shown if m.key != "seconds_per_image"]
        table = [[f"against {reference}", *(m.title for m in told)]]
        for row in rows:
            paired = [(row["paired"].get(m.key), m) for m in told]
            cells = [
                "-" if p is None else f"{cell(p['difference'], m, p['ci95'], '+')} ({p['better']} : {p['worse']})"
                for p, m in paired
            ]
            table += [[row["method"], *cells]] if row["paired"] else []
        parts.append(markdown(table))
    kinds = sorted({kind for row in rows for kind in row["kinds"]})
    if kinds:
        told = [m for m in shown if m.per_edit]
        table = [["edits", "method", *(m.title for m in told)]]
        for kind in kinds:
            for row in rows:
                if kind in row["kinds"]:
                    means = row["kinds"][kind]
                    table.append(
                        [f"{kind} ({means['num_edits']})", row["method"], *(cell(means[m.key], m) for m in told)]
                    )
        parts.append(markdown(table))
    return "\n\n".join(parts)
