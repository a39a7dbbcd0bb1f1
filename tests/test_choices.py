"""Fields with few values: whichever class of the project has one, another value is refused in one line."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from typing import Any, Literal, get_args, get_origin

import pytest
from test_structure import FILES

from locinv_pl.errors import InputError

MADE = {"Photo", "Progress"}  # what functions answer: their values are checked where they come in


def choices(of: Any) -> dict[str, tuple[Any, ...]]:
    """The names that are annotated with a ``Literal``, and their values."""
    found = {}
    for name, written in of.__annotations__.items():
        with suppress(NameError):  # a name that type checkers alone import
            kind = eval(written, vars(import_module(of.__module__))) if isinstance(written, str) else written
            found |= {name: get_args(kind)} if get_origin(kind) is Literal else {}
    return found


def dataclasses() -> list[type]:
    """Every dataclass of the project with a ``Literal`` field."""
    found = []
    for name, path in FILES.items():
        if "@dataclass" in path.read_text():
            found += [c for c in vars(import_module(name)).values() if is_dataclass(c) and c.__module__ == name]
    return [c for c in found if isinstance(c, type) and choices(c) and c.__name__ not in MADE]


def refuse(make: Any, values: dict[str, Any], name: str, allowed: tuple[Any, ...]) -> None:
    with pytest.raises(InputError) as caught:
        make(**values, **{name: "nonsense"})
    message = str(caught.value)
    assert "\n" not in message and f"{name}=nonsense" in message
    assert all(str(value) in message.partition("nonsense")[2] for value in allowed)


def test_every_dataclass_refuses_other_values() -> None:
    found = dataclasses()
    known = {"EditSettings", "EditorSettings", "TokenPolicy", "NullTextPolicy", "Problems"}
    assert known <= {kind.__name__ for kind in found}
    for kind in found:
        needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
        for name, allowed in choices(kind).items():
            refuse(kind, {n: choices(kind)[n][0] for n in needed if n != name}, name, allowed)


def test_every_source_of_data_refuses_other_values() -> None:
    from locinv_pl.datamodules.base import EditDataModule

    class Data(EditDataModule):
        name = "data"

        def entries(self, *_: Any) -> list[Any]:
            return []

    found = choices(EditDataModule.__init__)
    assert {"prior", "fit", "on_error", "caption"} <= set(found)
    for name, allowed in found.items():
        refuse(Data, {}, name, allowed)
        for value in allowed:
            assert getattr(Data(**{name: value}), name) == value
