"""Files that others wrote: only regular files are read, types are checked first, and every error is one line."""

from __future__ import annotations

import codecs
import json
import re
import stat
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from locinv_pl.errors import InputError, one_line

T = TypeVar("T")
LARGEST = 4 << 30  # bytes: COCO's files have a tenth of it
LARGE = 10_000_000  # bytes that take seconds to parse
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a character beyond the first plane
MOST = 20_000_000  # values of a file, aliases written out
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def expanded(path: str | Path) -> Path:
    """A path that may begin with ``~``.

    Raises:
        InputError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path}: no such home folder; give the whole path") from None


def regular_file(path: Path) -> Path:
    """The path itself, where it is a file that has an end: no folder, pipe or device.

    Raises:
        FileNotFoundError: it is not there.
        IsADirectoryError: it is a folder.
        OSError: it is a pipe, a socket or a device, or no file can have such a name.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # NUL, or half a character
        raise OSError(22, f"no name of a file: {error}") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "Is a directory")
    if not stat.S_ISREG(mode):
        raise OSError(22, "it is a pipe or a device, no regular file")
    return path


def read_text(path: Path, missing: str) -> str:
    """The text of a regular file, in UTF-8 or UTF-16, without its byte order mark.

    Args:
        path: the text file, of 4 GiB at most.
        missing: the mend that the error names where the file isn't there.

    Raises:
        InputError: the file is missing, can't be read, or has more than 4 GiB.
        ValueError: its bytes are neither UTF-8 nor UTF-16.
    """
    try:
        size = regular_file(path).stat().st_size
        if size > LARGEST:
            raise InputError(f"{path}: has {size >> 30} GiB, too much for a list; split it")
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {missing}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); mend it or name another file") from None
    if len(content) > LARGE:
        print(f"reading {path} ({len(content) / 1e6:.0f} MB)", file=sys.stderr, flush=True)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig")


def read_dataset_json(path: Path, missing: str = "a data set of this format needs it") -> Any:
    """Parse a JSON file of a data set; :func:`locinv_pl.io.files.read_json` reads what this package wrote.

    Args:
        path: the file, in UTF-8 or UTF-16, of 4 GiB at most.
        missing: the mend that the error names where the file isn't there.

    Returns:
        Its content in Python's plain types, unchecked; see :func:`validated`.

    Raises:
        InputError: the file is missing, can't be read, or isn't valid JSON.
    """
    return _parsed(path, "JSON", json_of, missing, "write it again")


def read_yaml(path: Path, missing: str) -> Any:
    """Parse a YAML file.

    Args:
        path: the file, in UTF-8 or UTF-16, of 4 GiB at most.
        missing: the mend that the error names where the file isn't there.

    Returns:
        Its content in Python's plain types.

    Raises:
        InputError: the file is missing, can't be read, or isn't valid YAML.
    """
    return _parsed(path, "YAML", yaml_of, missing, "write it again")


def read_list(path: Path, missing: str = "name the list of your images in data.samples=") -> list[Any]:
    """The rows of a YAML, JSON or JSONL file.

    Args:
        path: the file; the suffixes ``.json`` and ``.jsonl`` name their formats, any other suffix means YAML.
        missing: the mend that the error names where the file isn't there.

    Returns:
        The list's items in Python's plain types, unchecked.

    Raises:
        InputError: the file is missing, malformed, or doesn't hold a list.
    """
    kinds: dict[str, tuple[str, Callable[[str], Any]]] = {".jsonl": ("JSONL", _jsonl), ".json": ("JSON", json_of)}
    rows = _parsed(path, *kinds.get(path.suffix.lower(), ("YAML", yaml_of)), missing, "mend it")
    if not isinstance(rows, list):
        raise InputError(f"{path}: is no list of images; begin every image with '- image:'")
    return rows


def _parsed(path: Path, kind: str, parse: Callable[[str], Any], missing: str, mend: str) -> Any:
    try:
        return parse(read_text(path, missing))
    except InputError:
        raise
    except Exception as error:  # PyYAML raises all kinds
        problem = one_line(str(error))[:300] or type(error).__name__
        raise InputError(f"{path}: not valid {kind} ({problem}); {mend}") from None


def json_of(text: str) -> Any:
    """JSON as a value: no key twice, no half of a character, not nested without end.

    Raises:
        ValueError: the text isn't JSON, repeats a key, holds a lone surrogate, or is nested too deep.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once)
        if HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a character, a lone surrogate") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return found


def _jsonl(text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            rows += [json_of(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return rows


class _PlainLoader(Loader):
    """YAML's plain types, every key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys if len(set(keys)) < len(keys) else ():
            if keys.count(key) > 1:
                raise ValueError(f"line {node.start_mark.line + 1}: key {key!r} stands there twice")
        return super().construct_mapping(node, deep)


def yaml_of(text: str) -> Any:
    """YAML as a value of plain types: no key twice, no aliases that stand for more than a list can hold.

    Raises:
        ValueError: a key is repeated, aliases stand for too many values, or it is nested too deep.
        yaml.YAMLError: the text isn't YAML.
    """
    try:
        value = yaml.load(text, Loader=_PlainLoader)  # a safe one
        if "*" in text:
            _count(value, {})
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return value


def _count(value: Any, counted: dict[int, int]) -> int:
    """How many values it is, each alias written out; ``counted`` are lists and mappings by their identity."""
    if not isinstance(value, (list, dict)):
        return 1
    if id(value) not in counted:
        counted[id(value)] = MOST  # until it is known: one that holds itself has no end
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        counted[id(value)] = 1 + sum(_count(item, counted) for item in items)
    if counted[id(value)] >= MOST:
        raise ValueError("its aliases (*) stand for millions of values; write them out")
    return counted[id(value)]


def validated(
    schema: TypeAdapter[T], value: Any, where: Callable[[tuple[int | str, ...], Any], str], strict: bool = True
) -> T:
    """A value by its schema, or one line about the first thing that is wrong with it.

    Args:
        schema: pydantic's adapter of the type that the value must have.
        value: plain values, as JSON and YAML give them.
        where: makes the error's message of the keys and indices that lead to the first wrong value, and that value.
        strict: True (the default) converts nothing; False takes a list where the schema has a tuple.

    Returns:
        The value as the schema's type.

    Raises:
        InputError: the value doesn't fit the schema.
    """
    try:
        return schema.validate_python(value, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(where(first["loc"], first["input"])) from None
