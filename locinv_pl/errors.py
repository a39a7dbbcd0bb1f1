"""The one exception that a user's input can raise, and what the terminal is told."""

import sys
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

SHOWN = 20


def printable(text: str) -> str:
    """A text with escapes in place of what a terminal would obey, line breaks too, or couldn't show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(text: str, most: int = 160) -> str:
    """A text in quotes for a message; the middle of a long one is left out.

    >>> quoted("a cat"), quoted("a cat and a dog and a bird", 14)
    ("'a cat'", "'a cat … a bird'")

    Args:
        text: such as a prompt.
        most: characters that are shown of it.
    """
    if len(text) <= most:
        return repr(text)
    half = (most - 3) // 2
    return repr(f"{text[:half].rstrip()} … {text[-half - 1 :].lstrip()}")


def one_line(text: str) -> str:
    """A message on one line, printable."""
    return printable(" ".join(text.split()))


def tell(text: str) -> None:
    """Say something in one line, on the standard error output."""
    print(one_line(text), file=sys.stderr, flush=True)


def all_of(problems: Sequence[str], mend: str = "") -> str:
    """Several problems in one message, with what mends them all; of many the first ones."""
    shown = [*problems[:SHOWN], *([f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else [])]
    return "; ".join([*shown, *([mend] if mend else [])])


class InputError(ValueError):
    """Bad input: one line that names the file or key, the problem and the mend.

    The command line prints it without a traceback and exits with a non-zero code. Line breaks in the values that
    it quotes become spaces, control characters their escapes.
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))

    @property
    def problem(self) -> str:
        """The message without its mend, which stands behind the last semicolon."""
        return str(self).rpartition(";")[0] or str(self)


class DamagedError(InputError):
    """A file whose content isn't what has been written."""


def check_choice(key: str, value: object, choices: Any) -> None:
    """Refuse a value that is none of a ``Literal``'s.

    >>> check_choice("edit.blend", "none", Literal["none", "prior"])
    >>> check_choice("edit.blend", "all", Literal["none", "prior"])
    Traceback (most recent call last):
    locinv_pl.errors.InputError: edit.blend=all: no such blend; choose one of none, prior

    Args:
        key: names the value in the message; what stands behind its last dot says what the value is.
        value: to check.
        choices: a ``Literal`` type.

    Raises:
        InputError: the value is none of them.
    """
    allowed = get_args(choices)
    if value not in allowed:
        what = key.rpartition(".")[2]
        raise InputError(f"{key}={value}: no such {what}; choose one of {', '.join(map(str, allowed))}")


def check_choices(instance: object, where: str = "") -> None:
    """Check every field of a dataclass whose type is a ``Literal``, by :func:`check_choice`.

    A dataclass calls it in its ``__post_init__``.

    Args:
        instance: of a dataclass.
        where: the key of the whole, such as "edit"; a field is named "edit.blend" in messages, "blend" by default.

    Raises:
        InputError: a field's value is none of its choices.
    """
    for name, kind in get_type_hints(type(instance)).items():
        if get_origin(kind) is Literal:
            check_choice(f"{where}.{name}" if where else name, getattr(instance, name), kind)
