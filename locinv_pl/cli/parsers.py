"""Parsers of arguments that complain in one line."""

from __future__ import annotations

import re
from argparse import RawDescriptionHelpFormatter
from typing import NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from locinv_pl.errors import InputError, one_line

HINT = "; --print_config shows every key and its value"


class Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """A help text that keeps the description's lines."""


class Parser(ArgumentParser):
    """jsonargparse's, whose complaint is an InputError."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse the arguments.

        Raises:
            InputError: always; it says where all keys can be seen.
        """
        complaint, _, _ = readable(message).partition(HINT)  # that about a key inside another's value ends with it
        raise InputError(complaint + HINT)


def readable(text: str) -> str:
    """A message of jsonargparse's on one line; of its account of a Union complaints and a plain value are kept."""

    def kept(match: re.Match[str]) -> str:
        complaints, value = match[1].rstrip(), match[2].strip()
        is_plain = bool(value) and not value.startswith(("NestedArg(", "Namespace(", "{"))
        return f"{complaints}. Given value: {value}" if is_plain else complaints

    union = r"Does not validate against any of the Union subtypes\s+Subtypes:.*?Errors:(.*?)"
    union += r"Given value type:[^\n]*\s*(?:Given value:)?(.*)"
    text = re.sub(union, kept, text, flags=re.DOTALL)
    text = re.sub(r"\s*- Expected a <class 'NoneType'>", "", text)
    return one_line(text).removeprefix("- ").replace(": - ", ": ")
