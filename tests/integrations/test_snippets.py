"""The Python of docs/integrations.md, run as it stands there, one block after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/integrations.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    (tmp_path / "integrations").symlink_to(ROOT / "integrations")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/integrations.md", "exec"), names)
    assert (tmp_path / "house.png").is_file() and names["priors"] == {"cat": (23, 52, 35, 35)}
