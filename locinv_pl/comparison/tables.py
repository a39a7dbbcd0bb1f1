"""A comparison as tables, from the content of comparison.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from locinv_pl.comparison.statistics import COMPARED, OF_EDITS
from locinv_pl.measures.display import MEASURES
from locinv_pl.run.summary import markdown_table

IN_FILES_ONLY = {"ssim", "background_mse", "dino_similarity", "clip_edited"}
"""Measures that the printed tables leave out, so that they fit a page."""


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per row, with the bounds of the intervals.

    Args:
        rows: those of comparison.json.

    Returns:
        CSV with a line of titles; unscaled values.
    """
    keys = [key for key in COMPARED if any(row[key] is not None for row in rows)]
    out = io.StringIO()
    writer = csv.writer(out)
    bounds = [f"{key}{end}" for key in keys for end in ("", "_low", "_high")]
    writer.writerow(["method", "prior", "edit", "num_images", "num_edits", *bounds])
    for row in rows:
        cells = [cell for key in keys for cell in (row[key], *(row[f"{key}_ci95"] or (None, None)))]
        writer.writerow([row[k] for k in ("method", "prior", "edit", "num_images", "num_edits")] + cells)
    return out.getvalue()


def to_markdown(content: Mapping[str, Any]) -> str:
    """The tables that a comparison prints and writes to comparison.md.

    First the means, those of which more is better with half the width of their intervals; then the differences to the
    reference, with the numbers of images on which they are for the better and for the worse; last the means of every
    kind of edit.

    Args:
        content: that of comparison.json.

    Returns:
        up to three Markdown tables, a blank line between them.
    """
    rows = content["rows"]
    shown = [key for key in COMPARED if key not in IN_FILES_ONLY and any(row[key] is not None for row in rows)]
    tables = [_means(rows, shown)]
    if content["reference"]:
        tables.append(_differences(rows, [key for key in shown if key != "seconds_per_image"], content["reference"]))
    if any(row["kinds"] for row in rows):
        tables.append(_kinds(rows, [key for key in shown if key in OF_EDITS]))
    return "\n\n".join(tables)


def _means(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    table = [["method", "prior", *_titles(keys)]]
    for row in rows:
        intervals = [row[f"{key}_ci95"] if MEASURES[key].higher_is_better else None for key in keys]
        cells = [_cell(key, row[key], interval) for key, interval in zip(keys, intervals, strict=True)]
        table.append([row["method"], row["prior"] or "-", *cells])
    return markdown_table(table)


def _differences(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], reference: str) -> str:
    table = [[f"against {reference}", *_titles(keys)]]
    for row in rows:
        if row["paired"]:
            table.append([row["method"], *(_difference(key, row["paired"].get(key)) for key in keys)])
    return markdown_table(table)


def _kinds(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    table = [["edits", "method", *_titles(keys)]]
    for kind in sorted({kind for row in rows for kind in row["kinds"]}):
        for row in rows:
            if kind in row["kinds"]:
                means = row["kinds"][kind]
                cells = [_cell(key, means[key]) for key in keys]
                table.append([f"{kind} ({means['num_edits']})", row["method"], *cells])
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
