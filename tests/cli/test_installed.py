"""The command of an installation.

A checkout without one has test_cli.py, processes of an editable one test_comparison.py, the wheel .ci/wheel.
"""

from importlib.metadata import entry_points

import pytest

from locinv_pl.cli.main import main


def test_the_installed_command() -> None:
    found = list(entry_points(group="console_scripts", name="locinv"))
    if not found:
        pytest.skip("not installed")
    assert all(command.load() is main for command in found)
