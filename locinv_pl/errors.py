"""The one exception that a user's input can raise, and what the terminal is told."""

import sys
from collections.abc import Sequence

SHOWN = 20


def printable(text: str) -> str:
    """A text with escapes in place of what a terminal would obey, line breaks too, or couldn't show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
