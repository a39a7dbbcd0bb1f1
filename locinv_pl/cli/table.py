"""The command line's words for what can be done, and where the functions behind them are."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

SUBCOMMANDS = {
    "fit": "Invert images; what an earlier run has done is kept, and gone on with.",
    "validate": "Reconstruct images from their inversions, and score the reconstructions.",
    "predict": "Edit inverted images by the prompts that their data names.",
    "test": "Score the edits that predict made.",
}
"""What LightningCLI does."""
COMMANDS = {
    "app": "locinv_pl.cli.app",
    "benchmark": "locinv_pl.benchmark.command",
    "compare": "locinv_pl.cli.commands",
    "data build-coco-edit": "locinv_pl.datamodules.commands",
    "data check": "locinv_pl.datamodules.commands",
    "data preview": "locinv_pl.datamodules.commands",
    "edit": "locinv_pl.cli.edit",
    "evaluate-backbone": "locinv_pl.cli.commands",
    "photo": "locinv_pl.cli.photo",
    "pretrain": "locinv_pl.cli.commands",
    "status": "locinv_pl.cli.commands",
    "table": "locinv_pl.cli.commands",
}
"""The commands beside these, and the modules of their functions, which are imported when they are asked for."""
OF_WORDS = {"compare": "methods=NAME,NAME KEY=VALUE...", "table": "RUN..."}
"""The commands that take all words as they are, and how these are written."""
REPEATED = {"photo": {"edit": "edits+"}}
"""Keys of a command that may be given several times, and the argument that takes each of their values."""
DEFAULT_DATA = {"data check": "scenes", "data preview": "scenes", "data build-coco-edit": "coco_edit"}
"""The data of a command where its words name none."""


def function_of(command: str) -> Callable[..., None]:
    """The function of a command, which has its name."""
    return getattr(import_module(COMMANDS[command]), _name(command))


def summary_of(command: str) -> str:
    """What a command does: the first line of its function's docstring, read without the module's imports."""
    spec = find_spec(COMMANDS[command])
    assert spec is not None and spec.origin is not None
    functions = (node for node in ast.parse(Path(spec.origin).read_text()).body if isinstance(node, ast.FunctionDef))
    function = next(node for node in functions if node.name == _name(command))
    return (ast.get_docstring(function) or "").splitlines()[0]


def _name(command: str) -> str:
    return command.removeprefix("data ").replace("-", "_")
