"""The command line: a short grammar in front of LightningCLI.

    python train.py [fit|validate|predict|test] data=scenes method=nti trainer.devices=2 output=DIR
    locinv table RUN...
    locinv status RUN
    locinv compare methods=ddim,nti,locinv data=scenes trainer.devices=2 output=DIR
    locinv benchmark [backbone=sd15-random] [device=cuda] [dtype=bfloat16] [ablation=true] [json=FILE]
    locinv evaluate-backbone BACKBONE [json=FILE] [sheet=FILE]
    locinv pretrain recipe=core_cpu [output=DIR]
    locinv data check|preview|build-coco-edit data=NAME [output=DIR]

``key=value`` is ``--key=value``. Where configs/<group>/ exists, ``group=name`` takes the file
configs/<group>/name.yaml; groups are put before dotted overrides, so that overrides win.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, auto_cli
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.strategies import ParallelStrategy

from locinv_pl.cli.commands import COMMANDS, DATA_COMMANDS, compare, table
from locinv_pl.configs import CONFIGS
from locinv_pl.errors import InputError, one_line
from locinv_pl.io.files import write_atomically
from locinv_pl.io.reading import yaml_of
from locinv_pl.networks.backbone import silence_loading
from locinv_pl.run.module import LocInvModule
from locinv_pl.run.strategy import ImageParallelStrategy

SUBCOMMANDS = ("fit", "validate", "predict", "test")
ALIASES = {
    "method": "model.method",
    "backbone": "model.backbone",
    "prior": "data.prior",
    "callbacks": "trainer.callbacks",
    "edit": "model.edit",
    "editor": "model.editor",
    "measures": "model.measures",
    "output": "trainer.default_root_dir",
}
GROUPS = {"data", "model", "method", "edit", "editor", "trainer", "callbacks"}
LARGEST_CONFIG = 1 << 20  # bytes
QUOTED = 30  # characters of a file that show where it is quoted
LONGEST = 2000  # characters of a message
WITHOUT_VALUE = {"-h", "--help", "--print_config"}


def translate(words: list[str]) -> list[str]:
    """Rewrite the command line's words for LightningCLI; translating twice changes nothing.

    Args:
        words: without the program's name.

    Raises:
        InputError: a group has no such file.
    """
    words = list(words)
    if words in (["--help"], ["-h"]):
        return words
    subcommand = words.pop(0) if words and words[0] in SUBCOMMANDS else "fit"
    configs: list[str] = []
    groups: list[str] = []
    rest: list[str] = []
    while words:
        word = words.pop(0)
        is_flag = word.startswith("-")
        if is_flag and "=" not in word:
            takes_value = word not in WITHOUT_VALUE and words and not words[0].startswith("-")
            pair = [word, words.pop(0)] if takes_value else [word]
            (configs if word in ("--config", "-c") else rest).extend(pair)
            continue
        key, equals, value = word.lstrip("-").partition("=")
        if not equals:
            raise InputError(f"{word}: not understood; write key=value, or one of {', '.join(SUBCOMMANDS)} first")
        group = next((g for g in GROUPS if key in (g, ALIASES.get(g))), None)
        first, _, below = key.partition(".")
        if not is_flag and first in ALIASES:
            key = ALIASES[first] + ("." + below if below else "")
        if group is not None:
            value = _group_file(group, value)
        target = configs if key == "config" else groups if group else rest
        target.append(f"--{key}={value}")
    return [subcommand, *configs, *groups, *rest]


def _group_file(group: str, value: str) -> str:
    named = CONFIGS / group / f"{value}.yaml"
    if named.is_file():
        return str(named)
    if Path(value).is_file() or value == "null" or value[:1] in ("{", "["):
        return value
    names = ", ".join(sorted(p.stem for p in (CONFIGS / group).glob("*.yaml")))
    raise InputError(f"{group}={value}: no such config; use one of {names}, or a YAML file")


class _Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the description's lines."""


class _OneLineErrors(ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(f"{_readable(message)}; --print_config shows every key and its value")


class _Parser(_OneLineErrors, LightningArgumentParser):
    """Lightning's, likewise."""


class _ConfigFile(SaveConfigCallback):
    """Writes config.yaml once the module has claimed the run's folder; a refused run leaves it alone."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Too early."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After every setup."""
        if trainer.is_global_zero:
            config = self.parser.dump(self.config, skip_none=False, skip_validation=True)
            write_atomically(Path(trainer.default_root_dir) / "config.yaml", config.encode())


class LocInvCLI(LightningCLI):
    """LightningCLI with a run folder named after the data, the method and the prior."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """What a run is asked to do, or all that it can: building a parser takes a while."""
        hidden = {"model", "dataloaders", "datamodule", "train_dataloaders", "val_dataloaders"}
        said = [name for name in sys.argv[1:2] if name in SUBCOMMANDS]
        return {name: hidden for name in said or SUBCOMMANDS}

    def before_instantiate_classes(self) -> None:
        """Name the run's folder where ``output`` doesn't; take out what a run hasn't or is told to leave out."""
        config = self.config[self.subcommand]
        if config.get("ckpt_path"):
            raise InputError(
                f"ckpt_path={config.ckpt_path}: a run has no checkpoints, its folder holds all; leave it out, and the "
                f"same command goes on where it stopped"
            )
        if config.trainer.enable_progress_bar is False:
            config.trainer.callbacks = [entry for entry in config.trainer.callbacks or [] if not _is_bar(entry)]
        if config.trainer.default_root_dir is None:
            data = config.data.class_path.split(".")[-2]  # its file's name, as in data=scenes
            if config.data.init_args.get("world", "core") != "core":
                data += "_" + config.data.init_args.world
            prior = config.data.init_args.get("prior", "none")
            config.trainer.default_root_dir = f"outputs/{data}-{config.model.method.name}-{prior}"

    def instantiate_classes(self) -> None:
        """Build module, data and Trainer; a value that one of them doesn't take is bad input."""
        try:
            super().instantiate_classes()
        except InputError:
            raise
        except (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{error}; check the values of trainer, model and data") from error
        strategy = self.trainer.strategy
        if isinstance(strategy, ParallelStrategy) and not isinstance(strategy, ImageParallelStrategy):
            raise InputError(
                f"trainer.strategy: {type(strategy).__name__} shares out the training of weights, and no "
                f"weight is trained here; leave it out, image_parallel is the default"
            )
        callbacks: list[Any] = getattr(self.trainer, "callbacks", [])
        for callback in callbacks:
            if isinstance(monitored := getattr(callback, "monitor", None), str):
                raise InputError(
                    f"callback {type(callback).__name__}: monitors {monitored!r}, and a run logs no such figure; "
                    f"take the callback out of trainer.callbacks"
                )


def _is_bar(entry: Any) -> bool:
    """Whether a callback's configuration names a progress bar."""
    module, _, name = entry.class_path.rpartition(".")
    return issubclass(getattr(import_module(module), name), ProgressBar)


def main(words: list[str] | None = None) -> None:
    """Run the command line; bad input ends the program with one line and exit code 1."""
    words = sys.argv[1:] if words is None else words
    try:
        for path in _configs(words):
            _check_config(path)
        if words[:1] in (["table"], ["compare"]):
            return {"table": table, "compare": compare}[words[0]](words[1:])
        if words[:1] == ["data"]:
            return _run_data_command(*words[1:])
        if words and words[0] in COMMANDS:
            return _run_command(words[0], COMMANDS[words[0]], [_option(word) for word in words[1:]])
        sys.argv[1:] = translate(words)  # processes that Lightning starts read it again
        with warnings.catch_warnings():
            _quiet()
            _run()
    except (InputError, MisconfigurationException) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {_without_contents(_readable(str(error)), words)}")


def _configs(words: Sequence[str]) -> Iterator[Path]:
    """The files that are named by --config."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        key, equals, value = word.partition("=")
        if key.lstrip("-") in ("config", "c") and (equals or word.startswith("-")):
            yield Path(value if equals else after)


def _check_config(path: Path) -> None:
    """A configuration's file must be a regular one of a sensible size, and hold a mapping, or a list of them.

    Raises:
        InputError: it is something else, and then its content isn't quoted; or one of its keys stands there twice.
    """
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_CONFIG:
            raise InputError(f"{path}: no such file, or no configuration's; give a YAML file of keys and values")
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        content = None
    if not isinstance(content, (dict, list)):
        raise InputError(f"{path}: holds no configuration; give a YAML file of keys and values")
    try:
        yaml_of(path.read_text())
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {one_line(str(error))}; mend it") from None


def _without_contents(message: str, words: Sequence[str]) -> str:
    """A message; jsonargparse's, where it quotes a file that is no configuration, becomes one that names the file."""
    for path in {Path(word.partition("=")[2] or word) for word in words}:
        start = ""
        with suppress(OSError, ValueError):
            if path.is_file() and path.stat().st_size <= LARGEST_CONFIG:
                start = one_line(path.read_text())[:QUOTED]
        if start and start in message:
            try:
                _check_config(path)
            except InputError as problem:
                return str(problem)
    return message if len(message) <= LONGEST else f"{message[:LONGEST]}…"


def _run_data_command(action: str = "", *words: str) -> None:
    """``data ACTION``: the commands of ``datamodules``, which the package knows by name alone."""
    if action not in DATA_COMMANDS:
        raise InputError(f"data {action}: no such command; use data {' or '.join(DATA_COMMANDS)}")
    name, default = DATA_COMMANDS[action]
    options = [_option(word) for word in (default, *words)]
    files = [option for option in options if option.startswith("--data=")]
    command = getattr(import_module("locinv_pl.datamodules.commands"), name)
    _run_command(f"data {action}", command, [files[-1], *(option for option in options if option not in files)])


def _run_command(name: str, command: Callable[..., None], options: list[str]) -> None:
    """Call a command's function with the options as its arguments."""
    with warnings.catch_warnings():
        _quiet()
        auto_cli(
            command,
            args=options,
            as_positional=not name.startswith("data "),
            prog=f"{Path(sys.argv[0]).name} {name}",
            parser_class=_OneLineErrors,
        )


def _option(word: str) -> str:
    """``key=value`` as ``--key=value``, where a group's name stands for its file."""
    key, equals, value = word.partition("=")
    if not equals or word.startswith("-"):
        return word
    key = {"prior": "data.prior"}.get(key, key)
    return f"--{key}={_group_file(key, value) if (CONFIGS / key).is_dir() else value}"


def _run() -> None:
    defaults: dict[str, Any] = {"default_config_files": [str(CONFIGS / "default.yaml")]}
    parsers: dict[str, Any] = {name: defaults for name in LocInvCLI.subcommands()}
    LocInvCLI(
        LocInvModule,
        LightningDataModule,
        subclass_mode_data=True,
        save_config_callback=_ConfigFile,
        parser_class=_Parser,
        seed_everything_default=0,
        parser_kwargs={"description": __doc__, "formatter_class": _Help, **parsers},
        auto_configure_optimizers=False,
    )


def _quiet() -> None:
    """Silence what the libraries tell about themselves."""
    silence_loading()
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "fabric.utilities.seed"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", "The `local_dir_use_symlinks` argument is deprecated")
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")


def _readable(text: str) -> str:
    """A message on one line; of jsonargparse's account of a Union only the complaints are kept."""
    union = r"Does not validate against any of the Union subtypes\s+Subtypes:.*?Errors:(.*?)Given value type:.*"
    text = re.sub(union, r"\1", text, flags=re.DOTALL)
    text = re.sub(r"\s*- Expected a <class 'NoneType'>", "", text)
    return one_line(text).removeprefix("- ").replace(": - ", ": ")
