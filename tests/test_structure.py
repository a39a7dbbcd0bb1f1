"""The folders are the architecture: what lies where, and which way the imports run."""

import ast
import graphlib
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TREES = ("locinv_pl", "datamodules", "callbacks", "configs")

ORDER = (
    "errors",
    "assets",
    "configs",
    "drawing",
    "priors",
    "prompt_weights",
    "io",
    "types",
    "scenes",
    "words",
    "networks",
    "grounding",
    "method",
    "editing",
    "measures",
    "run",
    "api",
    "photo",
    "pipeline",
    "locinv_pl",  # its __init__.py, which names the API
    "comparison",
    "pretrain",
    "benchmark",
    "app",
    "cli",
    "__main__",
    "datamodules",
    "callbacks",
)
"""Rooms and single files, bottom to top: each imports from itself and from what stands above it in this list."""

LAZY: set[tuple[str, str]] = set()
"""Imports inside functions that may go upwards, as (file, room), each with its reason. None does."""

LIGHTNING = {"run", "cli", "pretrain"}
DIFFUSERS = {
    "networks/attention.py",
    "networks/joint_attention.py",
    "networks/loading.py",
    "networks/lora.py",
    *(f"networks/architectures/{path.name}" for path in (ROOT / "locinv_pl/networks/architectures").glob("*.py")),
    "networks/fused.py",
    "editing/pipelines.py",
    "editing/pretrained.py",
    "pipeline/pipeline.py",
    "measures/judge.py",
    "benchmark/published.py",
    *(f"pretrain/{path.name}" for path in (ROOT / "locinv_pl/pretrain").glob("*.py")),
}
"""Where diffusers is imported: the networks, its own editors, what is trained and timed."""


def module_of(path: Path) -> str:
    """A file's name as it is imported; the trees beside locinv_pl/ are installed inside it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "locinv_pl" else ("locinv_pl", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for tree in TREES for path in sorted((ROOT / tree).rglob("*.py"))}
PACKAGE = [path for path in FILES.values() if path.is_relative_to(ROOT / "locinv_pl")]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(module: str) -> str:
    """The folder or single file that a module of ours belongs to."""
    return [*module.split("."), "locinv_pl"][1]


def nodes(tree: ast.AST, types_too: bool) -> Iterator[ast.AST]:
    """All of a tree; without what only a type checker reads unless ``types_too``."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if types_too or not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from nodes(child, types_too)


@cache
def imports(path: Path, types_too: bool = True) -> frozenset[str]:
    """What a file imports, inside functions too: modules of ours, and others by name."""
    names: set[str] = set()
    for node in nodes(ast.parse(path.read_text()), types_too):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{path}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inside & FILES.keys() or {node.module}
    return frozenset(names)


def ours(path: Path, types_too: bool = True) -> set[str]:
    found = {module for module in imports(path, types_too) if module.split(".")[0] == "locinv_pl"}
    assert found <= FILES.keys(), f"{path} imports {found - FILES.keys()}"
    return found


def roots(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(path)}


def test_every_room_has_its_place():
    assert set(ORDER) == {room(module) for module in FILES} and len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("path", FILES.values(), ids=name)
def test_no_import_goes_upwards(path):
    here = ORDER.index(room(module_of(path)))
    above = {room(module) for module in ours(path) if ORDER.index(room(module)) > here}
    assert not {there for there in above if (name(path), there) not in LAZY}


def test_no_imports_are_circular():
    """Between files, and between rooms even where only a type checker reads them (by the test before)."""
    try:
        list(graphlib.TopologicalSorter({m: ours(p, types_too=False) - {m} for m, p in FILES.items()}).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_exceptions_are_needed():
    """A file that no longer imports upwards leaves the list."""
    assert all(there in {room(module) for module in ours(ROOT / path)} for path, there in LAZY)


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_package_knows_neither_data_nor_callbacks(path):
    assert not roots(path) & {"datamodules", "callbacks"}
    assert not {room(module) for module in ours(path)} & {"datamodules", "callbacks"}


def test_single_files_are_few():
    assert len(list((ROOT / "locinv_pl").glob("*.py"))) <= 8


def test_the_wheel_holds_the_folders_that_exist():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    inside = {module_of(path) for path in FILES.values() if path.name == "__init__.py"}
    assert set(setup["packages"]) == inside and len(setup["packages"]) == len(inside)
    assert inside == {module_of(path.with_name("__init__.py")) for path in FILES.values()}
    assert setup["package-dir"] == {f"locinv_pl.{tree}": tree for tree in TREES[1:]}


PLAIN: dict[str, set[str]] = {
    "types": {"pydantic", "typing_extensions"},  # records come from files, and are checked
    "measures/metrics": {"torchmetrics"},
    "networks/schedule": set(),
    "method/losses": set(),
    "priors": set(),
}
"""Files that know torch alone, and what each may know besides."""


@pytest.mark.parametrize("plain", PLAIN)
def test_plain_files_know_torch_only(plain):
    known = {"torch", "locinv_pl", *sys.stdlib_module_names} | PLAIN[plain]
    assert roots(ROOT / "locinv_pl" / f"{plain}.py") <= known


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_lightning_and_diffusers_have_their_places(path):
    if "lightning" in roots(path):
        assert room(module_of(path)) in LIGHTNING
    if "diffusers" in roots(path):
        assert str(path.relative_to(ROOT / "locinv_pl")) in DIFFUSERS


@pytest.mark.parametrize("path", FILES.values(), ids=name)
def test_pretraining_is_needed_by_nobody(path):
    needed = "pretrain" in {room(module) for module in ours(path)}
    assert not needed or room(module_of(path)) in ("pretrain", "cli")


@pytest.mark.parametrize("path", sorted((ROOT / "locinv_pl/scenes").glob("*.py")), ids=name)
def test_scenes_are_drawn_without_torch(path):
    assert not roots(path) & {"torch", "lightning", "diffusers", "transformers"}
