"""Sphinx roles of the docstrings, :func:`~locinv_pl.api.invert`, as links that mkdocstrings understands."""

import re

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Rewrites the roles once a module's docstrings are collected."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Make each role a link; where its target has no page, it stays a name in code."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(lambda role: link(obj, *role.groups()), obj.docstring.value)


def link(obj: griffe.Object, shortened: str, name: str) -> str:
    """The link of a role in the docstring of ``obj``."""
    try:
        path = name if name.startswith("locinv_pl.") else obj.resolve(name)
    except griffe.NameResolutionError:
        path = name
    shown = name.rpartition(".")[2] if shortened else name
    return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'
