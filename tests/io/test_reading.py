"""Lists, ids and tables that somebody else wrote: what is taken, and what is one clear line."""

from __future__ import annotations

import json
import os
import time
import unicodedata
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from refusals import refused

from locinv_pl.api import make_sample
from locinv_pl.datamodules.coco_edit import CocoEditDataModule
from locinv_pl.datamodules.entries import Problems, check_id, name_of
from locinv_pl.datamodules.folder import FolderDataModule
from locinv_pl.datamodules.pie_bench import PieBenchDataModule
from locinv_pl.errors import InputError
from locinv_pl.io.images import image_size, open_image, open_mask
from locinv_pl.io.reading import json_of, read_dataset_json, read_list, yaml_of
from locinv_pl.words import find_word

SIZE = 128
BOX = [10, 10, 50, 50]
POLYGON = [10.0, 10.0, 60.0, 10.0, 60.0, 60.0, 10.0, 60.0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one image, a.png."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return tmp_path


def folder(root: Path, content: str | bytes, name: str = "samples.yaml", problems: Problems | None = None) -> Any:
    content = content.encode() if isinstance(content, str) else content
    (root / name).write_bytes(content)
    return FolderDataModule(str(root), samples=name).read(64, problems or Problems())


ROW = "{image: a.png, prompt: a cat, priors: {}}"

# --- lists ---


def test_a_key_stands_once(root: Path) -> None:
    twice = "- image: a.png\n  prompt: a cat\n  prompt: a dog\n  priors: {}\n"
    refused(lambda: folder(root, twice), "samples.yaml: not valid YAML (line 1: key 'prompt' stands there twice)")
    line = '{"image": "a.png", "prompt": "a cat", "priors": {"cat": [1,1,9,9], "cat": [5,5,9,9]}}'
    refused(lambda: folder(root, line, "s.jsonl"), "s.jsonl: not valid JSONL (line 1: key 'cat' stands there twice)")


def bomb(levels: int = 30) -> str:
    text = "- &l0 [x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, levels):
        text += f"- &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]\n"
    return text


@pytest.mark.parametrize("key", ["id", "image", "prompt", "priors", "index", "adjectives", "edits", "region"])
def test_aliases_stand_for_few_values(key: str, root: Path) -> None:
    row = {"image": "a.png", "prompt": "a cat", "priors": "{}", key: "*l29"}
    rows = bomb() + f"- {{{', '.join(f'{name}: {value}' for name, value in row.items())}}}\n"
    began = time.perf_counter()
    refused(lambda: folder(root, rows), "samples.yaml: not valid YAML (")
    assert time.perf_counter() - began < 2


def test_aliases_that_yaml_writers_make_are_taken(root: Path) -> None:
    shared = {"cat": BOX}
    rows = [{"id": n, "image": "a.png", "prompt": "a cat", "priors": shared} for n in range(3)]
    text = yaml.safe_dump(rows)
    assert "*id001" in text and folder(root, text).ids == ["0", "1", "2"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["s.yaml", "s.json", "s.jsonl"])
def test_marks_of_byte_order_do_not_matter(encoding: str, name: str, root: Path) -> None:
    row = {"image": "a.png", "prompt": "a café", "priors": {"café": BOX}}
    text = json.dumps(row if name == "s.jsonl" else [row], ensure_ascii=False)
    assert folder(root, text.encode(encoding), name)[0].nouns[0].word == "café"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.jsonl", '{"image": "a.png", "prompt": "a cat \\ud83d", "priors": {}}'),
        ("s.jsonl", '{"image": "a.png", "id": "\\udead", "prompt": "a cat", "priors": {}}'),
        ("s.json", '[{"image": "a.png", "prompt": "a cat", "priors": {}, "\\udc00": 1}]'),
        ("s.yaml", '- {image: a.png, prompt: "a cat \\ud83d", priors: {}}'),
        ("s.jsonl", '{"image": "a.png", "id": ' + "9" * 5000 + ', "prompt": "a cat", "priors": {}}'),
        ("s.yaml", f"- {{image: a.png, id: {'9' * 5000}, prompt: a cat, priors: {{}}}}"),
        ("s.jsonl", '{"image": "a.png", "prompt": "a cat", "priors": {"cat": [' + "9" * 999 + ", 1, 1, 1]}}"),
        ("s.yaml", f"- {{image: a.png, prompt: a cat, priors: {{cat: [1, 1, 1{'0' * 400}, 9]}}}}"),
        ("s.yaml", "- {image: a.png, prompt: a cat, priors: {cat: [1, 1, .inf, 9]}}"),
        ("s.yaml", "- {image: a.png, prompt: a cat, priors: {cat: [true, true, true, true]}}"),
        ("s.yaml", "- {image: a.png, prompt: a cat, priors: {cat: [0.1, 0.1, 0.5, 0.5]}}"),
        ("s.yaml", '- {image: a.png, prompt: "   ", priors: {}}'),
        ("s.yaml", "- {image: a.png, prompt: 2024-01-01, priors: {}}"),
        ("s.yaml", "- {image: a.png, id: 2024-01-01, prompt: a cat, priors: {}}"),
        ("s.yaml", "- {image: a.png, id: true, prompt: a cat, priors: {}}"),
        ("s.yaml", "- " * 5000),
        ("s.jsonl", "[" * 100_000),
        ("s.yaml", b"\x80\x81"),
        ("s.yaml", b"- \x1b[2J"),
    ],
)
def test_hostile_lists_are_one_line(name: str, content: str | bytes, root: Path) -> None:
    refused(lambda: folder(root, content, name)[0], f"{root}/{name}: ")


def test_half_characters_that_make_whole_ones_are_taken(root: Path) -> None:
    row = '{"image": "a.png", "prompt": "a cat \\ud83d\\ude00", "priors": {}}'
    assert folder(root, row, "s.jsonl")[0].prompt == "a cat 😀"


def test_a_home_folder_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(root, f"- {ROW}")
    monkeypatch.setenv("HOME", str(root.parent))
    assert FolderDataModule(f"~/{root.name}").read(64, Problems()).ids == ["a"]
    refused(lambda: FolderDataModule("~nobody-of-this-name/x").read(64, Problems()), "no such home folder")


def test_large_lists_are_quick_and_give_a_sign_of_life(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "large.yaml"
    path.write_text("- {image: a.png, prompt: a cat, note: " + "x" * 1000 + "}\n" * 1 + f"- {ROW}\n" * 20_000)
    began = time.perf_counter()
    assert len(read_list(path)) == 20_001
    assert time.perf_counter() - began < 10
    path.write_text("- " + "x" * 10_000_001)
    read_list(path)
    assert f"reading {path} (10 MB)" in capsys.readouterr().err


# --- pipes, devices, sparse files ---


@pytest.mark.parametrize("special", ["pipe", "/dev/zero", "folder"])
def test_only_regular_files_are_read(special: str, root: Path) -> None:
    path = root / "it.yaml"
    if special == "pipe":
        os.mkfifo(path)
    elif special == "folder":
        path.mkdir()
    else:
        path.symlink_to(special)
    readers: list[Any] = [open_image, image_size, lambda path: open_mask(path, (8, 8)), read_list, read_dataset_json]
    for read in readers:
        refused(partial(read, path), f"{path}: ")
    rows = [f"{{image: {path.name}, prompt: a cat, priors: {{}}}}"]
    rows += [
        f"{{image: a.png, prompt: a cat, priors: {{cat: {mask}}}}}"
        for mask in (path.name, "{index: it.yaml, value: 1}")
    ]
    rows += [f"{{image: a.png, prompt: a cat, priors: {{}}, region: {path.name}}}"]
    for row in rows:
        refused(partial(folder, root, f"- {row}", "list.yaml"), "it.yaml: ")


def test_a_list_without_end_is_refused(root: Path) -> None:
    with (root / "s.yaml").open("wb") as file:
        file.truncate(8 << 30)
    refused(lambda: read_list(root / "s.yaml"), "s.yaml: has 8 GiB, too much for a list")


# --- ids ---


@pytest.mark.parametrize(
    "id", ["..", ".", "...", "  ", " . ", "a\x00b", "a\x1b[31m", "a\nb", "a\u2028b", "a\u202eb", "\ud800"]
)
def test_ids_that_name_nothing_are_refused(id: str) -> None:
    refused(lambda: check_id(id, "here"), "here: its id ", "; write id: TEXT")


@pytest.mark.parametrize(
    ("file", "id"),
    [("...png", "...png"), ("..png", "..png"), (".png", ".png"), ("x/a.png", "a"), ("日本.jpg", "日本"), ("a", "a")],
)
def test_ids_of_files(file: str, id: str) -> None:
    assert name_of(file) == id
    check_id(id, "here")


@settings(derandomize=True, deadline=5000, max_examples=200)
@given(st.text(max_size=12))
def test_any_id_is_printable_or_refused(id: str) -> None:
    try:
        check_id(id, "here")
    except InputError as error:
        assert "\n" not in str(error) and str(error).isascii()
    else:
        assert id.strip(". ") and not set(map(unicodedata.category, id)) & {"Cc", "Cs", "Zl", "Zp"}


def test_a_list_of_strange_ids(root: Path) -> None:
    (root / "...png").write_bytes((root / "a.png").read_bytes())
    assert folder(root, "- {image: ...png, prompt: a cat, priors: {}}").ids == ["...png"]
    for id in ('".."', ".", '"  "', r'"a\0b"', r'"\e[2J"'):
        row = f"- {{image: a.png, id: {id}, prompt: a cat, priors: {{}}}}"
        refused(partial(folder, root, row), "samples.yaml: image ", ": its id ")
        problems = Problems("skip")
        assert folder(root, f"{row}\n- {ROW}", problems=problems).ids == ["a"] and len(problems.found) == 1


# --- words ---


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("other", ["NFC", "NFD"])
def test_accents_have_two_forms(form: Any, other: Any, root: Path) -> None:
    prompt, noun = unicodedata.normalize(form, "a café, a naïve cat"), unicodedata.normalize(other, "café")
    assert [unicodedata.normalize("NFC", prompt[slice(*span)]) for span in find_word(prompt, noun)] == ["café"]
    row = {"image": "a.png", "prompt": prompt, "priors": {noun: BOX}, "edits": [prompt]}
    sample = folder(root, json.dumps([row]), "s.json")[0]
    assert sample.prompt == "a café, a naïve cat" == sample.edits[0].prompt and sample.nouns[0].word == "café"
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    assert make_sample(image, prompt, {noun: BOX}).nouns[0].word == "café"
    refused(lambda: make_sample(image, " \n", {}), "its prompt is empty")


# --- any text ---


@settings(derandomize=True, deadline=5000, max_examples=200)
@given(st.one_of(st.text(max_size=80), st.text("-[]{}:,&*a \n'\"|>!%@#?", max_size=60)))
def test_any_text_is_a_value_or_an_error(text: str) -> None:
    for parse in (yaml_of, json_of):
        with suppress(ValueError, yaml.YAMLError):
            parse(text)


# --- COCO ---


def coco(root: Path, problems: Problems | None = None, **changes: Any) -> Any:
    """A COCO folder of one image with one cat, with some of its tables changed."""
    tables: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.png", "width": SIZE, "height": SIZE}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 90, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 17, "segmentation": [POLYGON], "bbox": BOX}],
    }
    captions = {"annotations": [{"id": n, "image_id": n, "caption": "a cat on a table"} for n in (7, 8)]}
    (root / "annotations").mkdir(exist_ok=True)
    encoding = changes.pop("encoding", "utf-8")
    (root / "annotations/instances.json").write_bytes(json.dumps(tables | changes).encode(encoding))
    (root / "annotations/captions.json").write_text(json.dumps(captions))
    (root / "images").mkdir(exist_ok=True)
    for name in ("a.png", "b.png", "x/a.png", "y/a.png"):
        (root / "images" / name).parent.mkdir(exist_ok=True)
        (root / "images" / name).write_bytes((root / "a.png").read_bytes())
    return CocoEditDataModule(str(root)).read(64, problems or Problems())


def annotation(**changes: Any) -> list[dict[str, Any]]:
    return [{"id": 1, "image_id": 7, "category_id": 17, "segmentation": [POLYGON], "bbox": BOX, **changes}]


def image(id: int, name: str) -> dict[str, Any]:
    return {"id": id, "file_name": name, "width": SIZE, "height": SIZE}


@pytest.mark.parametrize("bad", [[5, 5, 6, 6], [], [1, 2, 3, 4, 5], [1e9] * 6, ["x"] * 6, [True] * 6, None])
def test_a_bad_polygon_beside_a_good_one_is_left_out(bad: Any, root: Path) -> None:
    for polygons in ([POLYGON, bad], [bad, POLYGON]):
        problems = Problems()
        (sample,) = coco(root, problems, annotations=annotation(segmentation=polygons))
        expected = coco(root)[0].nouns[0].prior
        assert np.array_equal(sample.nouns[0].prior, expected) and expected.sum() > 500
        (note,) = problems.notes
        assert note.id == "a" and note.problem.endswith("that polygon is left out")
    refused(lambda: coco(root, annotations=annotation(segmentation=[bad])), "its segmentation is malformed (")


def test_images_of_one_name_in_two_folders_are_two(root: Path) -> None:
    both = [image(7, "x/a.png"), image(8, "y/a.png"), image(9, "b.png")]
    samples = coco(root, images=both, annotations=annotation() + annotation(id=2, image_id=8))
    assert samples.ids == ["x/a", "y/a"] and len(list(samples)) == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": [image(7, "a.png"), image(7, "b.png")]}, "a.png and b.png of images have the same id 7; give each"),
        (
            {"categories": [{"id": 17, "name": "cat"}, {"id": 17, "name": "dog"}]},
            "cat and dog of categories have the same",
        ),
        ({"annotations": annotation(segmentation=POLYGON)}, "it is no list of polygons; write [[x, y, x, y, …], …]"),
        ({"annotations": annotation(segmentation=[], bbox=[0.1, 0.1, 0.5, 0.5])}, "boxes are in pixels"),
        ({"annotations": annotation(bbox=[True, 1, 5, 5])}, "is not four numbers"),
        ({"annotations": annotation(bbox=[10**400, 1, 5, 5])}, "is not four numbers"),
        ({"annotations": annotation(category_id=True)}, "entry 1 of annotations has no valid 'category_id'"),
        ({"annotations": annotation(segmentation={"size": [SIZE, SIZE], "counts": [10**30]})}, "malformed"),
        ({"images": [{**image(7, "a.png"), "width": 10**9}]}, "correct its size"),
        ({"images": [{**image(7, "a.png"), "width": 128.0}]}, "has no valid 'width'"),
        ({"images": [image(7, "\x1b[2J.png")]}, "its id '\\x1b[2J' has the character"),
        ({"images": [image(7, "n" * 300 + ".png")]}, "cannot be read as an image (File name too long)"),
        ({"images": [image(7, "a\0.png")]}, "has the character '\\x00'"),
    ],
)
def test_hostile_tables_are_one_line(changes: Any, says: str, root: Path) -> None:
    refused(lambda: list(coco(root, **changes)), says)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_of_byte_order_in_json_do_not_matter(encoding: str, root: Path) -> None:
    assert coco(root, encoding=encoding).ids == ["a"]


# --- PIE-Bench ---


@pytest.mark.parametrize("id", ["..", "", "a\x1b[2J", "a\x00"])
def test_ids_of_pie_bench_name_something(id: str, root: Path) -> None:
    (root / "mapping_file.json").write_text(json.dumps({id: {}}))
    refused(lambda: PieBenchDataModule(str(root)).read(8, Problems()), "mapping_file.json: an image: its id ")
