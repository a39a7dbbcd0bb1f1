"""The docstrings of this project as mkdocstrings understands them.

Sphinx roles such as :func:`~locinv_pl.api.invert` become links, and an argument line for several arguments,
``width, height: …``, becomes a line for each. Examples become a section. A NamedTuple takes its fields as arguments.
"""

from __future__ import annotations

import re
from textwrap import indent
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`(~?)([\w.]+)`")
SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+)(:.*(?:\n\1 +.*)*)", re.MULTILINE)

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Roles(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Take the docstring of an object that was loaded."""
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj, obj.docstring.value)
        if isinstance(obj, griffe.Class) and any(str(base).endswith("NamedTuple") for base in obj.bases):
            obj.set_member("__init__", constructor(obj))


def constructor(named_tuple: griffe.Class) -> griffe.Function:
    """What makes a NamedTuple: its fields as parameters."""
    kind = griffe.ParameterKind.positional_or_keyword
    fields = [griffe.Parameter("self", kind=kind)]
    for name, field in named_tuple.attributes.items():
        fields.append(griffe.Parameter(name, kind=kind, annotation=field.annotation, default=field.value))
    return griffe.Function("__init__", parameters=griffe.Parameters(*fields), parent=named_tuple)


def rewritten(obj: griffe.Object, text: str) -> str:
    """The docstring ``text`` of ``obj`` with links, an argument a line, and its examples in sections."""
    text = EXAMPLE.sub(lambda example: "Examples:\n" + indent(example[0], "    "), text)
    text = SEVERAL.sub(lambda line: "\n".join(f"{line[1]}{name}{line[3]}" for name in line[2].split(", ")), text)
    return ROLE.sub(lambda role: link(obj, *role.groups()), text)


def link(obj: griffe.Object, shortened: str, name: str) -> str:
    """The link of a role in the docstring of ``obj``; where its target has no page, it stays a name in code."""
    try:
        path = name if name.startswith("locinv_pl.") else obj.resolve(name)
    except griffe.NameResolutionError:
        path = name
    shown = name.rpartition(".")[2] if shortened else name
    return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'
