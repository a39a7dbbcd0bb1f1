"""The command line from a checkout without an installation, and from an editable one; the wheel has .ci/wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(folder: Path, *command: str) -> str:
    """What a command prints; packages of the names of this project's folders lie around it."""
    for name in ("callbacks", "configs", "datamodules"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "__init__.py").write_text(f"raise ImportError('not {name}')")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(command, cwd=folder, env=environment, check=True, text=True, stdout=-1).stdout


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """The Python of an environment that has this one's packages without its .pth files: no editable install."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    (packages,) = (tmp_path / "bare").rglob("site-packages")
    (packages / "all.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return str(tmp_path / "bare/bin/python")


def test_a_checkout_where_nothing_is_installed(tmp_path: Path, bare: str) -> None:
    found = "from importlib.util import find_spec; print(find_spec('locinv_pl'))"
    if run(tmp_path, bare, "-c", found).strip() != "None":
        pytest.skip("the package is installed, and not as an editable one")
    assert "locinv data check" in run(tmp_path, bare, str(ROOT / "train.py"), "--help")


def test_an_editable_install(tmp_path: Path) -> None:
    try:
        editable = "dir_info" in (distribution("locinv_pl").read_text("direct_url.json") or "")
    except PackageNotFoundError:
        editable = False
    if not editable:
        pytest.skip("no editable install")
    assert "validate" in run(tmp_path, str(Path(sysconfig.get_path("scripts")) / "locinv"), "--help")
