"""What the code imports, and what the package declares."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "train.py", *(f for d in ("locinv_pl", "datamodules", "callbacks") for f in (ROOT / d).rglob("*.py"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Extras, imported where they are installed.
NOT_REQUIRED = {"gradio", "peft", "pillow_heif", "torchao", "triton", "fsspec", "upath", "webdataset", "datasets"}


def normal(requirement):
    """A distribution's name as the package index compares names, without versions and extras."""
    return re.sub("[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def imported(path):
    """The top-level modules of others that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names - {"locinv_pl"}


IMPORTED = sorted(set().union(*map(imported, FILES)))
INSTALLED = packages_distributions()
DECLARED = {normal(requirement) for requirement in PROJECT["dependencies"]}


@pytest.mark.parametrize("module", [module for module in IMPORTED if module not in NOT_REQUIRED])
def test_every_import_is_declared(module):
    assert {normal(name) for name in INSTALLED[module]} & DECLARED


def test_what_is_declared_is_imported():
    own = {normal(name) for module in IMPORTED for name in INSTALLED.get(module, [])}
    assert DECLARED - own == set()


def test_every_dependency_is_pinned():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pinned = [normal(line) for line in lines]
    assert DECLARED - set(pinned) == set()
    assert len(pinned) == len(set(pinned)) and all("==" in line for line in lines)
