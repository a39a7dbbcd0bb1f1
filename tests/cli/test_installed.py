"""The command line from an editable installation; the wheel has .ci/wheel, a checkout without one test_cli.py."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from processes import write_namesakes


def test_an_editable_install(tmp_path: Path) -> None:
    try:
        editable = "dir_info" in (distribution("locinv_pl").read_text("direct_url.json") or "")
    except PackageNotFoundError:
        editable = False
    if not editable:
        pytest.skip("no editable install")
    write_namesakes(tmp_path)
    command = [Path(sysconfig.get_path("scripts")) / "locinv", "--help"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    assert "validate" in subprocess.run(command, cwd=tmp_path, env=environment, check=True, text=True, stdout=-1).stdout


def test_help_and_the_package_s_names_wait_for_no_heavy_library() -> None:
    code = """import sys, locinv_pl.cli.main
locinv_pl.cli.main.main(["--help"])
dir(locinv_pl)
print("HEAVY", *{"torch", "lightning", "diffusers", "numpy"} & set(sys.modules))"""
    told = subprocess.run([sys.executable, "-c", code], check=True, text=True, stdout=-1).stdout
    assert told.splitlines()[-1] == "HEAVY"
