"""A benchmark's results as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from locinv_pl.benchmark.bench import OURS, OURS_PRESET, REFERENCE, REFERENCE_PRESET, SHIPPED
from locinv_pl.benchmark.phases import PHASES
from locinv_pl.benchmark.reference import ladder, without
from locinv_pl.run.summary import markdown_table


def to_markdown(result: Mapping[str, Any]) -> str:
    """The tables of a benchmark's result.

    Args:
        result: as :meth:`Benchmark.run` answers it, with "growth" where that was measured.
    """
    parts = [_about(result), _phases(result), _inversions(result), _memory(result["memory"])]
    if result["ablation"]:
        parts += [_ladder(result["inversions"]), _without(result["inversions"])]
    if "growth" in result:
        parts.append(_growth(result["growth"]))
    return "\n\n".join(parts)


def _about(result: Mapping[str, Any]) -> str:
    size, peaks = result["size"], [number(result[f"{of}peak_memory_gib"]) for of in ("", "reference_")]
    lines = [
        f"{result['backbone']} on {result['device_name']}, {result['dtype']}, {size}x{size} pixels, "
        f"{result['batch_size']} at a time, T = {result['num_steps']}, method {result['method']}. "
        f"Reference: float32, one at a time.",
        f"Memory: at most {peaks[0]} GiB, {number(result['weights_gib'])} of them weights; reference {peaks[1]} GiB.",
        f"Operations at equal steps, reference / ours: {result['flops_ratio']:.2f}; "
        f"{result['flops_ratio_nominal']:.2f} if the reference's gradient steps count as 3 and 6 passes.",
    ]
    if result["matmul_tflops"]:
        lines += [
            f"Matrix products: {result['matmul_tflops']:.3g} TFLOP/s at best; an inversion at equal steps reaches "
            f"{result['share_of_matmul_ceiling']:.0%} of that.",
            f"Timed at {result['timesteps']} of the {result['num_steps']} timesteps and scaled"
            f"{', as shipped at all of them' if result['default_seconds'] else ''}; runs: {result['repeats']}.",
        ]
    return "  \n".join(lines)


def _phases(result: Mapping[str, Any]) -> str:
    timed = bool(result["matmul_tflops"])
    head = [
        "part, of one image",
        "reference [passes]",
        "ours [passes]",
        "ours [GFLOP]",
        "reference [GiB]",
        "ours [GiB]",
    ]
    rows = [head + (["reference [ms]", "ours [ms]", "ours [TFLOP/s]", "of the ceiling"] if timed else [])]
    reference, ours = result["phases"][REFERENCE], result["phases"][OURS]
    for name, title in PHASES.items():
        a, b = reference[name], ours[name]
        row = [title, f"{a['passes']:.2f}", f"{b['passes']:.2f}", number(b["gflop"])]
        row += [number(a["activations_gib"]), number(b["activations_gib"])]
        if timed:
            rate = b["gflop"] / b["seconds"] / 1e3
            share = rate / result["matmul_tflops"]
            theirs = number(a["seconds"] * 1e3) if a["seconds"] else ""
            row += [theirs, number(b["seconds"] * 1e3), number(rate), f"{share:.0%}"]
        rows.append(row)
    return markdown_table(rows)


def _inversions(result: Mapping[str, Any]) -> str:
    inversions = result["inversions"]
    rows = [["inversion", "gradient steps", "TFLOP", "reference / it", "seconds", "reference / it"]]
    for name in (REFERENCE, OURS, REFERENCE_PRESET, OURS_PRESET, SHIPPED):
        row = inversions[name]
        known = row["token_steps"] is not None
        steps = f"{row['token_steps']:.3g} + {row['null_steps']:.3g}" if known else "depends on the image"
        rows.append([name, steps, *_compared(row, inversions[REFERENCE])])
    return _as_timed(rows, inversions)


def _memory(memory: Mapping[str, Any]) -> str:
    weights, kept = (
        ", ".join(f"{name} {number(size)}" for name, size in memory[f"{of}_gib"].items()) for of in ("weights", "kept")
    )
    rows = [["memory, counted", "activations [GiB]", "all on the device [GiB]", "what it needs [GiB]"]]
    for title, stage in memory["stages"].items():
        rows.append([title, *(number(stage[f"{key}_gib"]) for key in ("activations", "whole", "offload"))])
    return f"Weights [GiB]: {weights}. Kept [GiB]: {kept}.\n\n{markdown_table(rows)}"


def _ladder(inversions: Mapping[str, Any]) -> str:
    rows = [["savings, one more in every row", "TFLOP", "reference / it", "seconds", "reference / it"]]
    for name in (REFERENCE, *ladder(), OURS, OURS_PRESET, SHIPPED):
        rows.append([name, *_compared(inversions[name], inversions[REFERENCE])])
    return _as_timed(rows, inversions)


def _without(inversions: Mapping[str, Any]) -> str:
    base = inversions[list(ladder())[-1]]
    rows = [["ours, one saving less", "TFLOP", "it / all", "seconds", "it / all"]]
    for name in without():
        rows.append([name, *_compared(inversions[name], base, inverse=True)])
    return _as_timed(rows, inversions)


def _growth(growth: Mapping[str, Any]) -> str:
    rows = [["growth with", "from", "to", "seconds", "R² of a line", "memory [GiB]"]]
    for name, found in growth.items():
        ends = [f"{number(found[key][0])} → {number(found[key][-1])}" for key in ("seconds", "memory_gib")]
        rows.append([name, str(found["x"][0]), str(found["x"][-1]), ends[0], f"{found['r2']:.4f}", ends[1]])
    return markdown_table(rows)


def _as_timed(rows: list[list[str]], inversions: Mapping[str, Any]) -> str:
    """Without the two columns of seconds where there are none."""
    return markdown_table([row if inversions[OURS]["seconds"] else row[:-2] for row in rows])


def _compared(row: Mapping[str, Any], base: Mapping[str, Any], inverse: bool = False) -> list[str]:
    """Operations and seconds, each with its ratio to the base's."""
    cells = []
    for key in ("tflop", "seconds"):
        value, other = row[key], base[key]
        ratio = "" if not value or not other else f"{value / other if inverse else other / value:.2f}"
        cells += [number(value) if value else "", ratio]
    return cells


def number(value: float) -> str:
    """A number to three digits.

    >>> number(1234.5), number(0.012345)
    ('1234', '0.0123')

    Args:
        value: at least 0.
    """
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
