"""The command line: runs by LightningCLI, and the commands beside them."""

from __future__ import annotations

import inspect
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jsonargparse import auto_cli

from locinv_pl.cli.config_files import check_config_files, without_contents
from locinv_pl.cli.parsers import Parser, readable
from locinv_pl.cli.table import COMMANDS, DEFAULT_DATA, OF_WORDS, REPEATED, SUBCOMMANDS, function_of, summary_of
from locinv_pl.errors import InputError
from locinv_pl.io.arguments import arguments, group_file, read_words

DESCRIPTION = """Invert images, reconstruct them, edit them and score the edits.

    python train.py [fit|validate|predict|test] data=scenes method=nti trainer.devices=2 output=DIR

key=value is --key=value. Where configs/<group>/ exists, group=name takes the file configs/<group>/name.yaml; other keys
win over what stands in it.

    {subcommands}

Without one of these it is fit. Other commands:

    {commands}

Every one of them says with --help what it takes. --config=FILE takes keys from a YAML file, and --print_config shows
every key and its value.
"""
HELP = {"-h", "--help"}
LONGEST = 2000  # characters of a message


def main(words: list[str] | None = None) -> None:
    """Run the command line; bad input ends the program with one line and exit code 1.

    Args:
        words: the command line's, without the program's name; those of this process by default.
    """
    words = sys.argv[1:] if words is None else words
    if words in (["-h"], ["--help"]):
        print(f"usage: {Path(sys.argv[0]).name} [COMMAND] [KEY=VALUE...]\n\n{description()}")
        return
    try:
        if words[:1] != ["photo"]:  # where edit= is a prompt
            check_config_files(words)
        with warnings.catch_warnings():
            _quiet()
            length = 2 if words[:1] == ["data"] else 1
            name = " ".join(words[:length])
            if name in COMMANDS:
                _run_command(name, words[length:])
            elif length == 2:
                known = " or ".join(name.removeprefix("data ") for name in DEFAULT_DATA)
                raise InputError(f"data {' '.join(words[1:2])}: no such command; use data {known}")
            else:
                from locinv_pl.cli.lightning_cli import run_trainer, translate

                sys.argv[1:] = translate(words)  # processes that Lightning starts read it again
                run_trainer()
    except _refusals() as error:
        message = without_contents(readable(str(error)), words)
        message = message if len(message) <= LONGEST else f"{message[:LONGEST]}…"
        sys.exit(f"{Path(sys.argv[0]).name}: {message}")


def description() -> str:
    """What ``--help`` begins with: the grammar, and every command with the first line of its function."""
    said = {f"locinv {name}": summary_of(name) for name in COMMANDS}
    tables = ("\n    ".join(f"{name:27} {text}" for name, text in table.items()) for table in (SUBCOMMANDS, said))
    return DESCRIPTION.format(**dict(zip(("subcommands", "commands"), tables, strict=True)))


def _refusals() -> tuple[type[Exception], ...]:
    """The exceptions that mean bad input: ours, and Lightning's where Lightning has been imported."""
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    return (InputError, *([lightning.MisconfigurationException] if lightning else []))


def _run_command(name: str, words: Sequence[str]) -> None:
    """Call a command's function with what the words say as its arguments."""
    function = function_of(name)
    if name not in OF_WORDS:
        renamed = REPEATED.get(name, {})
        read = [replace(word, key=renamed.get(word.key, word.key)) for word in read_words(words)]
        roots = inspect.signature(function).parameters
        has_data = name not in DEFAULT_DATA or any(word.key == "data" for word in read)
        default = [] if has_data else [f"--data={group_file('data', DEFAULT_DATA[name])}"]
        auto_cli(
            function,
            args=[*default, *arguments(read, roots)],
            as_positional=name not in DEFAULT_DATA,
            prog=f"{Path(sys.argv[0]).name} {name}",
            parser_class=Parser,
        )
    elif HELP & set(words):
        print(f"usage: locinv {name} {OF_WORDS[name]}\n\n{inspect.getdoc(function)}")
    else:
        function(words)


def _quiet() -> None:
    """Silence what the libraries tell about themselves."""
    from locinv_pl.networks.loading import silence_loading

    silence_loading()
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "fabric.utilities.seed"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", "The `local_dir_use_symlinks` argument is deprecated")
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
