"""Files that this package writes: each is written whole or not at all, and what is read is checked first.

A file may be damaged or foreign when it is read again. A file that isn't regular is refused; JSON is checked against a
schema; tensors with their header, and sealed JSON, are checked against the digest that was written with them.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast
from uuid import uuid4

import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from torch import Tensor

from locinv_pl.errors import DamagedError, InputError, one_line
from locinv_pl.io.reading import regular_file

FORMAT = 1
DIGEST = "sha256"
TRIES = 100  # of writing into a folder that others clear at the same time
AGAIN = "delete it and run again"
MENDS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room")
"""What a disk can refuse, and the mend, where it isn't the usual one."""
URL = re.compile("([a-z][a-z0-9+.-]+):/+")  # a Path of it has lost a slash


def located(place: str | Path) -> Path:
    """A path, or a place below a URL of any filesystem that fsspec knows, which is used as a path.

    Args:
        place: a path, a URL as ``s3://bucket/runs/a``, or what this function has answered.

    Raises:
        InputError: the URL's filesystem isn't known or isn't installed.

    >>> located("runs/a"), located("file:///runs/a")
    (PosixPath('runs/a'), PosixPath('/runs/a'))
    """
    if not isinstance(place, (str, Path)):
        return place
    url = URL.match(str(place))
    if url is None:
        return Path(place)
    protocol, rest = url[1], str(place)[url.end() :]
    if protocol in ("file", "local"):
        return Path("/") / rest
    try:
        from upath import UPath

        found = UPath(f"{protocol}://{rest}")
        found.fs  # noqa: B018 (which makes it, or says what is missing)
    except (ImportError, ValueError) as error:
        mend = 'pip install "locinv_pl[scale]" and the filesystem\'s own package, or name a folder'
        raise InputError(f"{place}: its filesystem can't be used ({one_line(str(error))}); {mend}") from None
    return cast(Path, found)


def is_local(path: Path) -> bool:
    """Whether a path is one of this machine's disk, not one below a URL or in shards."""
    return isinstance(path, Path)


def filesystem(path: Path) -> tuple[Any, str]:
    """The fsspec filesystem of a path that isn't local, and what it calls the path."""
    return path.fs, path.path  # type: ignore[attr-defined]


def written_at(path: Path) -> float:
    """When a file was written, in seconds since 1970.

    Raises:
        FileNotFoundError: it isn't there.
    """
    if is_local(path):
        return path.stat().st_mtime
    files, name = filesystem(path)
    when = files.modified(name)
    return float(when.timestamp() if hasattr(when, "timestamp") else when)


def write_atomically(path: Path, content: bytes | Sequence[bytes | IO[bytes]], lasting: bool = True) -> None:
    """Write a file under a temporary name and rename it: readers see all of it or nothing.

    Args:
        path: the file; its folder is made where it is missing.
        content: the file's whole new content, or its parts: bytes and open files.
        lasting: True (the default) makes the file survive a power cut: content and name are brought to the disk, which
            takes it some milliseconds. False saves these for files that show their damage and can be made again.

    Below a URL one request writes the file, which object stores take whole or not at all.

    Raises:
        InputError: the disk is full, or the folder can't be written to.
    """
    if not is_local(path):
        files, name = filesystem(path)
        with writing(path):
            files.pipe_file(name, b"".join(_chunks(content)))
        return
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")  # process numbers repeat on other machines
    is_new = not path.parent.exists()
    with writing(path):
        try:
            for left in reversed(range(TRIES)):
                with suppress(FileNotFoundError) if left else nullcontext():  # another process has cleared the folder
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with open(temporary, "wb") as file:
                        file.writelines(_chunks(content))
                        file.flush()
                        if lasting:
                            os.fsync(file.fileno())
                    os.replace(temporary, path)
                    break
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    if lasting:
        _sync_folder(path.parent)
    if lasting and is_new:
        _sync_folder(path.parent.parent)


def _chunks(content: bytes | Sequence[bytes | IO[bytes]]) -> Iterator[bytes]:
    for part in [content] if isinstance(content, bytes) else content:
        if isinstance(part, bytes):
            yield part
        else:
            part.seek(0)
            yield from iter(partial(part.read, 1 << 20), b"")


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that writes ``path``: an error of the disk in it becomes an :class:`InputError` that names the mend."""
    try:
        yield
    except OSError as error:
        mend = MENDS.get(error.errno or 0, "let it be written, or give another output=")
        raise InputError(
            f"{path}: can't be written ({error.strerror or error}); {mend}, then run the same command to go on"
        ) from None


def read_file(path: Path, mend: str = "run the inversion first") -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        mend: the end of the error where the file doesn't exist.

    Raises:
        InputError: it is missing, can't be read, or is a folder, a device or a pipe.
    """
    if is_local(path):
        _require_file(path, mend)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {mend}") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); {AGAIN}") from None


def read_image(path: Path, mend: str = "run again") -> Image.Image:
    """Read an image that this package wrote, in RGB.

    Args:
        path: the image's file.
        mend: the end of the error.

    Raises:
        InputError: the file is missing or damaged.
    """
    content = read_file(path, mend)
    try:
        Image.open(BytesIO(content)).verify()  # the sums of a PNG's parts
        return Image.open(BytesIO(content)).convert("RGB")
    except Exception as error:  # PIL's readers raise all kinds
        raise InputError(f"{path}: can't be read ({type(error).__name__}: {error}); {mend}") from None


def _require_file(path: Path, mend: str = "run the inversion first") -> None:
    try:
        regular_file(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; {mend}") from None
    except OSError:
        raise InputError(f"{path}: no regular file; {AGAIN}") from None


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a text and of tensors with their names, types and shapes."""
    sha = sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def to_json(content: Any, indent: int | None = None) -> str:
    """A content as JSON; null stands for NaN and infinities, which JSON doesn't have."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path, content: Any, sealed: bool = False) -> None:
    """Write JSON, atomically; ``sealed`` adds the content's digest, by which :func:`read_json` notices damage."""
    if sealed:
        content = json.loads(to_json(content))
        content |= {DIGEST: _seal(content)}
    write_atomically(path, (to_json(content, indent=1) + "\n").encode())


def read_json(path: Path, kind: Any = Any) -> Any:
    """Read JSON that :func:`write_json` wrote; a digest in it is checked and left out.

    Args:
        path: the JSON file.
        kind: the type that its content must have, one that pydantic knows: a TypedDict, ``list[str]``, …; anything
            by default.

    Raises:
        InputError: the file is missing, damaged, not JSON, or of another kind.
    """
    content = read_file(path)
    try:
        found = _unsealed(_parse(content))
    except (ValueError, RecursionError):
        raise DamagedError(f"{path}: truncated or damaged, or not JSON; {AGAIN}") from None
    check(found, kind, str(path))
    return found


def check(content: Any, kind: Any, what: str) -> None:
    """Check that a content has a type.

    Args:
        content: plain values, as JSON gives them.
        kind: the type, see :func:`read_json`.
        what: the start of the error, which names the file.

    Raises:
        InputError: the content has another type.
    """
    try:
        _adapter(kind).validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the content"
        raise InputError(f"{what}: {where}: {first['msg'].lower()}; {AGAIN}") from None


def _parse(content: str | bytes) -> Any:
    """JSON in which every number is finite.

    Raises:
        ValueError, RecursionError: it is something else.
    """

    def number(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is not finite")
        return value

    return json.loads(content, parse_constant=number, parse_float=number)


def _seal(content: Mapping[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _unsealed(content: Any) -> Any:
    if isinstance(content, dict) and DIGEST in content:
        given = content.pop(DIGEST)
        if given != _seal(content):
            raise ValueError("the digest is another one")
    return content


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], lasting: bool = True) -> None:
    """Write tensors and a JSON header to one safetensors file, with a digest of both; see :func:`write_atomically`."""
    own = {key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    plain = json.loads(to_json({"format": FORMAT, **header}))
    plain[DIGEST] = digest(json.dumps(plain, sort_keys=True), own)
    write_atomically(path, serialize(own, metadata={"locinv": json.dumps(plain, sort_keys=True)}), lasting)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_tensors` wrote: the tensors and the header.

    Raises:
        InputError: the file is missing, damaged or foreign.
    """
    content: bytes | None = None
    if is_local(path):
        _require_file(path)
    else:
        content = read_file(path)
    try:
        header, tensors = _opened_tensors(path) if content is None else _sent_tensors(content)
        given = header.pop(DIGEST, None)
        is_whole = given in (None, digest(json.dumps(header, sort_keys=True), tensors))
        written_as = header.pop("format")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: truncated or damaged, or not a file of locinv_pl; {AGAIN}") from None
    if written_as != FORMAT:
        raise InputError(f"{path}: written by another version of locinv_pl; {AGAIN}")
    if not is_whole:
        raise InputError(f"{path}: damaged, its digest is another one; {AGAIN}")
    return tensors, header


def _opened_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file of this machine."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        return _parse((file.metadata() or {})["locinv"]), tensors


def _sent_tensors(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file's content: its first eight bytes are the length of the JSON that follows."""
    tensors = deserialize(content)
    about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return _parse(about["__metadata__"]["locinv"]), tensors
