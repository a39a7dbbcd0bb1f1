"""The YAML files that a command line names: looked at before a parser reads them, and never quoted if they are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from locinv_pl.errors import InputError, one_line
from locinv_pl.io.arguments import is_file, read_words
from locinv_pl.io.reading import yaml_of

LARGEST = 1 << 20  # bytes
QUOTED = 30  # characters of a file that show where it is quoted


def check_config_files(words: Sequence[str]) -> None:
    """Refuse files of a command line that are no configuration.

    Args:
        words: the command line, without the program's name.

    Raises:
        InputError: as :func:`check_config_file` does.
    """
    for word in read_words(words):
        if word.value is not None and (word.content == "file" or word.content == "group" and is_file(word.value)):
            check_config_file(Path(word.value))


def check_config_file(path: Path) -> None:
    """Refuse a file that is no configuration: a regular one of a sensible size that holds a mapping or a list.

    Raises:
        InputError: it is something else, and then its content isn't quoted; one of its keys stands there twice; or it
            names a class of this package by the path that it had outside of it.
    """
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise InputError(f"{path}: no such file, or no configuration's; give a YAML file of keys and values")
        text = path.read_text()
        content = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        content = None
    if not isinstance(content, (dict, list)):
        raise InputError(f"{path}: holds no configuration; give a YAML file of keys and values")
    try:
        yaml_of(text)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {one_line(str(error))}; mend it") from None
    for old in filter(_has_moved, _class_paths(content)):
        raise InputError(f"{path}: class_path {old} lies in this package now; write locinv_pl.{old}")


def _class_paths(content: Any) -> Iterator[str]:
    """Every ``class_path`` at any depth."""
    if isinstance(content, dict) and isinstance(content.get("class_path"), str):
        yield content["class_path"]
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _class_paths(value)


def _has_moved(class_path: str) -> bool:
    """Whether it is the path of one of our classes from before datamodules and callbacks were parts of the package."""
    module, _, name = class_path.rpartition(".")
    if not module.startswith(("datamodules.", "callbacks.")):
        return False
    with suppress(ImportError):
        return hasattr(import_module(f"locinv_pl.{module}"), name)
    return False


def without_contents(message: str, words: Sequence[str]) -> str:
    """A message; one that quotes a file that is no configuration, as jsonargparse's do, becomes one that names it.

    Args:
        message: what a command was refused with.
        words: the command line, without the program's name.

    Returns:
        the message, or the one of :func:`check_config_file` in its place.
    """
    for path in {Path(word.partition("=")[2] or word) for word in words}:
        start = ""
        with suppress(OSError, ValueError):
            if path.is_file() and path.stat().st_size <= LARGEST:
                start = one_line(path.read_text())[:QUOTED]
        if start and start in message:
            try:
                check_config_file(path)
            except InputError as problem:
                return str(problem)
    return message
