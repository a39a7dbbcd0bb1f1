"""The direction of the imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "locinv_pl").rglob("*.py"))


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: p.stem)
def test_package_knows_neither_data_nor_callbacks(path):
    assert not roots(path) & {"datamodules", "callbacks"}


@pytest.mark.parametrize("name", ["types", "schedule", "losses", "metrics", "priors"])
def test_plain_files_know_torch_only(name):
    assert not roots(ROOT / "locinv_pl" / f"{name}.py") & {"diffusers", "transformers", "lightning"}


DIFFUSERS = {"backbone", "attention", "fused", "judge", "editors", "sd15", "sd3"}


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: p.stem)
def test_lightning_and_diffusers_have_their_places(path):
    if path.parent.name != "pretrain":
        assert "lightning" not in roots(path) or path.stem in {"module", "strategy", "cli"}
        assert "diffusers" not in roots(path) or path.stem in DIFFUSERS


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: p.stem)
def test_pretraining_is_needed_by_nobody(path):
    needed = any(name.startswith("locinv_pl.pretrain") for name in imports(path))
    assert not needed or path.parent.name == "pretrain" or path.stem == "commands"


@pytest.mark.parametrize("path", sorted((ROOT / "locinv_pl/scenes").glob("*.py")), ids=lambda p: p.stem)
def test_scenes_are_drawn_without_torch(path):
    assert not roots(path) & {"torch", "lightning", "diffusers", "transformers"}
