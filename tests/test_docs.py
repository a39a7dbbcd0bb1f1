"""The documentation: its links, paths and commands are those of the code, and its pictures of rooms are true."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import locinv_pl
from locinv_pl.cli.main import main
from locinv_pl.comparison.runs import Comparison

ROOT = Path(__file__).resolve().parents[1]
BESIDE = (ROOT / "locinv_pl/assets", ROOT / "integrations/comfyui")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(page for at in BESIDE for page in at.glob("*.md"))]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FOLDERS = (
    "locinv_pl",
    "datamodules",
    "callbacks",
    "configs",
    "docs",
    "tests",
    "benchmarks",
    "integrations",
    ".ci",
    ".github",
)


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs and hosts of repositories make them."""
    titles = re.findall(r"^#+ (.*)$", without_code(page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def commands(text: str) -> Iterator[list[str]]:
    """The project's commands in code blocks and in code spans, word by word."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(block for language, block in blocks if not language).replace("\\\n", " ").splitlines()
    for line in [*lines, *re.findall(r"(?<!`)`([^`\n]+)`(?!`)", without_code(text))]:
        if match := re.search(r"(?:python train\.py|\blocinv) (?=\S)(.*)", line):
            if not re.match(r"(?:\S*/)?(?:python|locinv|srun|torchrun|train)", line.strip()):
                continue
            yield shlex.split(match.group(1), comments=True)


def all_commands() -> list[list[str]]:
    """Those of all pages, each once; a file that a reader has to write can't be read here."""
    found = {shlex.join(words): words for page in PAGES for words in commands(page.read_text())}
    whole = [words for words in found.values() if len(words) > 1 or "=" in words[0]]  # others are names in a sentence
    return [words for words in whole if not any(word.endswith("my.yaml") for word in words)]


COMMANDS = all_commands()


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1000


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if not re.match(r"https?://", target):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.is_file(), target
            assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_paths_in_code_spans_exist(page):
    for span in re.findall(r"`([^`\s<>*]+)`", without_code(page.read_text())):
        if span.split("/")[0] in FOLDERS and "/" in span:
            assert (ROOT / span).exists(), span


def test_commands_are_found():
    assert len(COMMANDS) > 30
    assert {words[0] for words in COMMANDS} >= {"compare", "benchmark", "edit", "data", "status", "fit", "predict"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_parse(words, monkeypatch, capsys):
    """Each is read by the command line's own parsers, which know every key and the groups' files; nothing runs."""
    if words[0] == "compare":
        assert Comparison.parse(words[1:]).methods
    elif words[0] != "table":
        monkeypatch.setattr(sys, "argv", ["locinv"])
        with pytest.raises(SystemExit) as end:
            main([*words, "--print_config"])
        assert end.value.code in (None, 0), end.value.code


def test_rooms_of_the_picture():
    picture = load_script(ROOT / "docs/architecture.py")
    assert (ROOT / "docs/architecture.svg").read_text() == picture.draw(), "run python docs/architecture.py"
    levels = {room: number for number, rooms in enumerate(picture.LEVELS) for room in rooms}
    outside = ("datamodules", "callbacks", "configs")
    folders = {room: ROOT / room if room in outside else ROOT / "locinv_pl" / room for room in levels}
    assert {path.name for path in (ROOT / "locinv_pl").iterdir() if (path / "__init__.py").is_file()} <= set(levels)
    for room, folder in folders.items():
        for path in folder.rglob("*.py"):
            for other in imported_rooms(path) & set(levels) - {room}:
                assert levels[other] > levels[room], f"{path} imports {other}"


def imported_rooms(path: Path) -> set[str]:
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "locinv_pl" else [f"locinv_pl.{alias.name}" for alias in node.names]
            rooms |= {name.split(".")[1] for name in names if name.startswith("locinv_pl.")}
    return rooms


def load_script(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings_become_links_lines_and_sections():
    griffe = pytest.importorskip("griffe")
    roles = load_script(ROOT / "docs/roles.py")
    module = griffe.Module("locinv_pl.x")
    text = "See :func:`~locinv_pl.api.invert`.\n\nArgs:\n    width, height: of it,\n        in pixels.\n    x: it.\n"
    assert roles.rewritten(module, text) == (
        'See <autoref optional identifier="locinv_pl.api.invert"><code>invert</code></autoref>.\n\nArgs:\n'
        "    width: of it,\n        in pixels.\n    height: of it,\n        in pixels.\n    x: it.\n"
    )
    text = "Do it.\n\n>>> one\n[(1, 2)]\n\nArgs:\n    x: it."
    assert roles.rewritten(module, text) == "Do it.\n\nExamples:\n    >>> one\n    [(1, 2)]\n\nArgs:\n    x: it."


def test_every_page_has_its_place():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = set(re.findall(r"[\w/]+\.(?:md|ipynb)", json.dumps(site["nav"])))
    folder = ROOT / "docs"
    assert named == {str(page.relative_to(folder)) for kind in ("md", "ipynb") for page in folder.rglob(f"*.{kind}")}


def test_tutorial_is_committed_without_outputs():
    cells = json.loads((ROOT / "docs/tutorials/one_image.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == locinv_pl.__version__
    assert f"## [{locinv_pl.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_what_is_required_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {plain(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = {plain(name) for kind in ("docs",) for name in project["optional-dependencies"][kind]}
    assert wanted <= pins


def plain(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return match.group().lower().replace("_", "-")


def test_make_help_lists_every_target():
    targets = re.findall(r"^([a-z]+):(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert all("##" in rest for name, rest in targets if name != "tree")
