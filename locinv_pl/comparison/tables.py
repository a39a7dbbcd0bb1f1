"""A comparison as tables, from the content of comparison.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from locinv_pl.comparison.statistics import COMPARED, OF_EDITS
from locinv_pl.measures.display import MEASURES
from locinv_pl.run.summary import markdown_table

ABOUT = ("method", "prior", "edit", "kind", "num_images", "num_edits")
"""The columns of a CSV that say what a line is about, as far as its rows have them."""
IN_FILES_ONLY = {"ssim", "background_mse", "dino_similarity", "clip_edited"}
"""Measures that the printed tables leave out, so that they fit a page."""


def kinds_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows' means of every kind of edit, kind by kind.

    Args:
        rows: those of comparison.json.

    Returns:
        for each kind and row its "method", its "kind", "num_edits", the means and their intervals.
    """
    kinds = sorted({kind for row in rows for kind in row["kinds"]})
    return [
        {"method": row["method"], "kind": kind, **row["kinds"][kind]}
        for kind in kinds
        for row in rows
        if kind in row["kinds"]
    ]


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per row, with the bounds of the intervals.

    Args:
        rows: those of comparison.json, or what :func:`kinds_of` makes of them.

    Returns:
        CSV with a line of titles; unscaled values.
    """
    keys = [key for key in COMPARED if any(row.get(key) is not None for row in rows)]
    about = [key for key in ABOUT if any(key in row for row in rows)]
    out = io.StringIO()
    writer = csv.writer(out)
    bounds = [f"{key}{end}" for key in keys for end in ("", "_low", "_high")]
    writer.writerow([*about, *bounds])
    for row in rows:
        cells = [cell for key in keys for cell in (row[key], *(row[f"{key}_ci95"] or (None, None)))]
        writer.writerow([row[key] for key in about] + cells)
    return out.getvalue()


def to_markdown(content: Mapping[str, Any]) -> str:
    """The tables that a comparison prints and writes to comparison.md.

    First the means, those of which more is better with half the width of their intervals; then those of every kind of
    edit; last the differences to the reference, with the numbers of images on which they are for the better and for
    the worse.

    Args:
        content: that of comparison.json.

    Returns:
        up to three Markdown tables, a blank line between them.
    """
    rows = content["rows"]
    shown = [key for key in COMPARED if key not in IN_FILES_ONLY and any(row[key] is not None for row in rows)]
    measured = [key for key in shown if not key.startswith("seconds")]
    tables = [_means([(row["method"], row["prior"] or "-") for row in rows], rows, shown, ("method", "prior"))]
    if kinds := kinds_of(rows):
        about = [(row["kind"], row["method"], str(row["num_edits"])) for row in kinds]
        tables.append(_means(about, kinds, [key for key in measured if key in OF_EDITS], ("edits", "method", "n")))
    if content["reference"]:
        tables.append(_differences(rows, measured, content["reference"]))
    return "\n\n".join(tables)


def _means(
    about: Sequence[Sequence[str]], rows: Sequence[Mapping[str, Any]], keys: Sequence[str], titles: Sequence[str]
) -> str:
    table = [[*titles, *_titles(keys)]]
    for first, row in zip(about, rows, strict=True):
        intervals = [row[f"{key}_ci95"] if MEASURES[key].higher_is_better else None for key in keys]
        cells = [_cell(key, row[key], interval) for key, interval in zip(keys, intervals, strict=True)]
        table.append([*first, *cells])
    return markdown_table(table)


def _differences(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], reference: str) -> str:
    table = [[f"against {reference}", *_titles(keys)]]
    for row in rows:
        if row["paired"]:
            table.append([row["method"], *(_difference(key, row["paired"].get(key)) for key in keys)])
    return markdown_table(table)


def _titles(keys: Sequence[str]) -> list[str]:
    return [MEASURES[key].title for key in keys]


def _cell(key: str, value: float | None, interval: Sequence[float] | None = None, sign: str = "") -> str:
    """A value with half the width of its interval."""
    measure = MEASURES[key]
    half = f" ± {measure.cell((interval[1] - interval[0]) / 2)}" if value is not None and interval else ""
    return measure.cell(value, sign) + half


def _difference(key: str, paired: Mapping[str, Any] | None) -> str:
    if paired is None:
        return "-"
    return f"{_cell(key, paired['difference'], paired['ci95'], '+')} ({paired['better']} : {paired['worse']})"
