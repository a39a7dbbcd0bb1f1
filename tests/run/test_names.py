"""Names in a run's folder: whatever the ids are, nothing outside of the folder that is meant is touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_types import SETTINGS, make_inversion, make_record, make_scores

from locinv_pl.callbacks.tensorboard import image_writer
from locinv_pl.comparison.runs import Comparison, Variant
from locinv_pl.errors import InputError
from locinv_pl.io.files import write_json
from locinv_pl.run.edits import save_edits
from locinv_pl.run.names import file_name, id_of
from locinv_pl.run.status import status
from locinv_pl.run.store import RunFolder
from locinv_pl.types import Edit

CRAFTED = ["", ".", "..", "...", "../..", "../../victim", "/etc/passwd", "a/b", "a\\b", ".hidden", "..a", "a.", "a..b"]
CRAFTED += ["%2E.", "%2E%2E", "%~", "%", "%%", "~", "nul\0", "a\nb", "\x1b[31m", "\ud800", "\udc80a", "Å", "A\u030a"]
CRAFTED += ["settings", "a.json", "a.safetensors", "0000.safetensors", ".a.tmp", "CON", " ", "A", "a", "*", "[a]", "?"]
CRAFTED += [
    "写" * 27,
    "é" * 60,
    "x" * 300,
    "x" * 301,
    "x" * 200,
    "x" * 201,
    "." * 300,
    "/" * 100,
    "\0" * 70,
    "x" * 5000,
]
IDS = st.one_of(
    st.sampled_from(CRAFTED),
    st.text(st.characters(codec=None), max_size=80),  # surrogates, too
    st.text("./\\%~aA\0", max_size=80),
    st.builds(
        lambda text, n: text * n, st.text(st.characters(codec=None), min_size=1, max_size=4), st.integers(1, 200)
    ),
)


def test_ordinary_ids_keep_their_names() -> None:
    names = {"000003": "000003", "a.b": "a.b", "pets cat": "pets%20cat", "a/b": "a%2Fb", "ä": "%C3%A4", "~x-_": "~x-_"}
    assert {id: file_name(id) for id in names} == names
    assert file_name("x" * 200) == "x" * 200
    assert file_name("locinv:box a=1", safe=":= ") == "locinv:box a=1"


@given(st.lists(IDS, max_size=6, unique=True))
@settings(max_examples=300, deadline=None)
def test_distinct_ids_have_distinct_plain_names(ids: list[str]) -> None:
    names = [file_name(id) for id in [*ids, *CRAFTED]]
    assert len(set(names)) == len({*ids, *CRAFTED})
    for id, name in zip([*ids, *CRAFTED], names, strict=True):
        assert name.isascii() and name.isprintable() and "/" not in name and "\\" not in name
        assert 0 < len(name) <= 200 and not name.startswith(".")
        assert id_of(name) in (id, None) and (id_of(name) == id or len(name) > 190)


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@given(st.lists(IDS, min_size=1, max_size=2, unique=True))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_an_id_is_nothing_of_others_is_touched(tmp_path: Path, ids: list[str]) -> None:
    run = RunFolder(tmp_path / "out" / "run")
    others = {"victim.png": "mine", "out/mine/notes.txt": "mine", "out/run/notes.txt": "mine"}
    kinds = ("inversions", "running", "edits", "validation", "test", "skipped", "sheets", "strips", "reconstructions")
    others |= {f"out/run/{kind}/other/x": "theirs" for kind in (*kinds, "tensorboard")}
    for name, content in others.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    record, inversion = make_record().pick([0] * len(ids)), make_inversion()
    run.save_record(ids, 0, record)
    for id in ids:
        replace(inversion, id=id).save(run.inversion_path(id))
        for kind in ("validation", "test", "skipped"):
            run.save_scores(kind, id, {"id": id})
        for kind in ("sheets", "strips", "reconstructions", "edit_sheets"):
            assert run.image_path(kind, id).parent == run.root / kind
        assert run.curves_path(id).parent == run.root / "tensorboard"
    assert len(run.load_records(ids)) == 1
    run.finish({id: make_scores(id) for id in ids})
    assert run.load_records(ids) == [] and run.pending(ids) == [] and run.unskipped(ids) == list(ids)
    made = files_made(tmp_path, others)
    assert len(made) == 4 * len(ids) and {path.parent.name for path in made} == {"inversions", "validation", "test"}
    assert all(path.parent.parent == run.root for path in made)
    assert {name: (tmp_path / name).read_text() for name in others} == others
    assert not [path for path in (run.root / "running").iterdir() if path.name != "other"]
    for path in made:
        path.unlink()


def files_made(folder: Path, others: dict[str, str]) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in found if str(path.relative_to(folder)) not in others]


@pytest.mark.parametrize("id", ["..", ".", "", "写" * 27])
def test_edits_and_curves_lie_below_their_folders(tmp_path: Path, id: str) -> None:
    run, image = RunFolder(tmp_path / "run"), make_inversion().latent[:3]
    about: Any = {"prompt": "a cat", "fingerprint": "", "settings": {}, "source": image, "reconstruction": image}
    paths = save_edits(run, id, **about, edits=[Edit("a dog", "..")], images=image[None])
    with image_writer(run, id) as writer:
        writer.add_scalar("x", 1.0, 0)
    assert {path.parent.parent for path in paths} == {run.root / "edits"}
    assert {path.parts[len(run.root.parts)] for path in tmp_path.rglob("*/*") if path.is_file()} == {
        "edits",
        "tensorboard",
    }
    assert len(list((run.root / "tensorboard").glob("*/events*"))) == 1


@pytest.mark.parametrize("kind", ["running", "inversions", "edits"])
def test_links_are_not_followed(tmp_path: Path, kind: str) -> None:
    (outside := tmp_path / "outside").mkdir()
    (outside / "a").mkdir()
    make_record().save(outside / "a" / "0000.safetensors")
    (run := RunFolder(tmp_path / "run")).root.mkdir()
    (run.root / kind).symlink_to(outside)
    before = {path: path.is_file() and path.read_bytes() for path in outside.rglob("*")}
    with pytest.raises(InputError, match=f"{kind}: a link"):
        run.finish({"a": {"id": "a"}})
        run.edits_path("a")
    assert {path: path.is_file() and path.read_bytes() for path in outside.rglob("*")} == before


def test_a_method_whose_file_is_called_two_dots_compares_in_its_own_folder(tmp_path: Path) -> None:
    (method := tmp_path / "...yaml").write_text("name: x")
    comparison, entry = Comparison(["ddim"], output=tmp_path / "out"), Variant(str(method))
    assert comparison.folder(entry).root.parent == tmp_path / "out" / "runs"
    assert comparison.scores_path(entry).parent == tmp_path / "out" / "scores"
    assert comparison.folder(entry).root.name not in ("..", ".")


def test_status_says_long_ids_whole(tmp_path: Path) -> None:
    run, id = RunFolder(tmp_path), "写" * 27
    write_json(run.root / "settings.json", SETTINGS)
    run.save_scores("skipped", id, {"id": id, "problem": "torn"})
    run.save_record([id + "2"], 0, make_record().pick([0]), {id + "2": {"id": id + "2", "sample": "", "settings": ""}})
    assert status(run.root).failed == [id] and status(run.root).running == {id + "2": 1}
