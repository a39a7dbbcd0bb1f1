"""The words of a command line: ``key=value``, and what the keys stand for.

``key=value`` is ``--key=value``. A word of :data:`KEYS` stands for a longer key, and its value for a file of
configs/<word>/ where there is one of that name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from locinv_pl.configs import CONFIGS, presets
from locinv_pl.errors import InputError

Content = Literal["value", "group", "file"]
KEYS: dict[str, tuple[str, Content]] = {
    "backbone": ("model.backbone", "value"),
    "c": ("config", "file"),
    "callbacks": ("trainer.callbacks", "group"),
    "config": ("config", "file"),
    "data": ("data", "group"),
    "edit": ("model.edit", "group"),
    "editor": ("model.editor", "group"),
    "experiment": ("experiment", "group"),
    "measures": ("model.measures", "value"),
    "method": ("model.method", "group"),
    "model": ("model", "group"),
    "output": ("trainer.default_root_dir", "value"),
    "prior": ("data.prior", "value"),
    "recipe": ("recipe", "group"),
    "store": ("model.store", "value"),
    "trainer": ("trainer", "group"),
}
"""What a word stands for: its key, and whether its value is a value, one of a group of files in configs/, or a file."""
WITHOUT_VALUE = {"-h", "--help", "--print_config"}


@dataclass(frozen=True)
class Word:
    """One word of a command line, or the two of ``--key value``.

    Args:
        texts: the one or two of them, as they were written.
        key: without dashes; empty for a word that is neither a flag nor ``key=value``.
        value: what the key is given; None for a flag by itself, and for a word without a key.
    """

    texts: tuple[str, ...]
    key: str = ""
    value: str | None = None

    @property
    def name(self) -> str:
        """The word of :data:`KEYS` that it is, whether written short or whole; empty for any other."""
        return next((name for name, (key, _) in KEYS.items() if self.key in (name, key)), "")

    @property
    def content(self) -> Content:
        """What its value is."""
        return KEYS[self.name][1] if self.name else "value"

    def argument(self, roots: Collection[str]) -> list[str]:
        """As arguments of a parser.

        Args:
            roots: what the command's keys begin with; a word that is none of them stands for a longer key if that
                begins with one.

        Raises:
            InputError: the value names no file of its group.
        """
        if len(self.texts) > 1 or self.value is None:
            return list(self.texts)
        first, dot, below = self.key.partition(".")
        long = KEYS[first][0] if first in KEYS else first
        key = long if first not in roots and long.partition(".")[0] in roots else first
        return [f"--{key}{dot}{below}={group_file(self.name, self.value) if self.content == 'group' else self.value}"]


def read_words(words: Sequence[str]) -> Iterator[Word]:
    """The words of a command line, one after the other.

    Args:
        words: the command line, without the program's and the command's names.

    >>> [(word.key, word.value) for word in read_words(["run", "edit.keep=none", "--image", "cat", "--help"])]
    [('', None), ('edit.keep', 'none'), ('image', 'cat'), ('help', None)]
    """
    rest = list(words)
    while rest:
        text = rest.pop(0)
        key, equals, value = text.partition("=")
        if equals:
            yield Word((text,), key.lstrip("-"), value)
        elif not text.startswith("-"):
            yield Word((text,))
        elif text in WITHOUT_VALUE or not rest or rest[0].startswith("-"):
            yield Word((text,), key.lstrip("-"))
        else:
            yield Word((text, rest[0]), key.lstrip("-"), rest.pop(0))


def arguments(words: Iterable[Word], roots: Collection[str] = ("data", "model", "trainer")) -> list[str]:
    """The words as arguments of a parser: files first, then groups, then all others, so that these win.

    Args:
        words: what :func:`read_words` has read of a command line.
        roots: what the command's keys begin with; those of runs by default.

    Raises:
        InputError: a value names no file of its group.

    >>> arguments(read_words(["prior=box", "model.num_steps=5", "--config", "my.yaml"]))
    ['--config', 'my.yaml', '--data.prior=box', '--model.num_steps=5']
    """
    order = ["file", "group", "value"]
    read = sorted(words, key=lambda word: order.index(word.content))
    return [text for word in read for text in word.argument(roots)]


def group_file(group: str, value: str) -> str:
    """The file of configs/<group>/ that ``value`` names, or ``value`` where it is a file or content itself.

    Args:
        group: a folder of configs/.
        value: a file's name there without .yaml, the path of a YAML file, "null", or content in braces or brackets.

    Raises:
        InputError: it is none of these.
    """
    named = str(CONFIGS / group / f"{value}.yaml")
    if is_file(named):
        return named
    if is_file(value) or value == "null" or value[:1] in ("{", "["):
        return value
    raise InputError(f"{group}={value}: no such config; use one of {', '.join(presets(group))}, or a YAML file")


def is_file(path: str) -> bool:
    """Whether there is such a file; False for what can't be a path, too."""
    with suppress(OSError, ValueError):
        return Path(path).is_file()
    return False
