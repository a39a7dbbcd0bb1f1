"""``locinv photo``, by the command line's own entrance."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_image
from PIL import Image

from locinv_pl.cli import photo as command
from locinv_pl.cli.main import main
from locinv_pl.drawing import to_array
from locinv_pl.grounding.nouns import Found
from locinv_pl.run.store import RunFolder

PROMPT = "prompt=a red cat and a dog on grass"
CAT, DOG = "box.cat=6,5,10,16", "mask.dog=dog.png"
PIG, BLUE = "edit=a red cat and a pig on grass", "edit=a blue cat and a dog on grass"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photo")
    Image.fromarray(to_array(make_image(32))).save(root / "pets.jpg")
    Image.fromarray(to_array(make_image(32))).save(root / "text.txt", "PNG")
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 18:30] = 255
    Image.fromarray(mask).save(root / "dog.png")
    Image.fromarray(mask[:20]).save(root / "small.png")
    Image.fromarray(0 * mask).save(root / "black.png")
    (root / "words.jpg").write_text("no image")
    return root


@pytest.fixture(autouse=True)
def _here(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["locinv"])


def words(tiny_folder: Path, *more: str, image: str = "pets.jpg") -> list[str]:
    quick = ["method.tokens.max_steps=1", "num_steps=2", "resolution=8", "device=cpu"]
    return ["photo", f"image={image}", f"backbone={tiny_folder}", *quick, *more]


@pytest.fixture(scope="module")
def made(root: Path, tiny_folder: Path) -> list[str]:
    """What the command printed of its files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", ["locinv"])
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *said, **_: printed.extend(map(str, said)))
        main(words(tiny_folder, PROMPT, CAT, DOG, PIG, BLUE, "output=out"))
    return printed


def test_writes_what_it_says(root, made):
    inversion, swap, blue, *photos, report = (root / path for path in made)
    assert inversion.parent.name == "inversions" and report.name == "report.html"
    assert [swap.name, blue.name] == ["1-word_swap.png", "2-attribute.png"]
    assert all(path.is_file() for path in (inversion, swap, blue, report))
    assert [path.name for path in photos] == ["1.photo-word_swap.png", "2.photo-attribute.png"]
    assert all(Image.open(path).size == (32, 32) for path in photos)
    assert Image.open(swap).info["source_prompt"] == PROMPT.partition("=")[2]
    page = report.read_text()
    assert f'href="edits/{inversion.stem}/1.photo-word_swap.png"' in page
    assert "a red cat and a" in page and page.count("data:image") > 6
    assert re.fullmatch(r"pets-[0-9a-f]{8}", inversion.stem)
    assert (root / "out/data" / inversion.stem / "samples.yaml").is_file()


def test_a_second_edit_finds_the_inversion_again(root, made, tiny_folder, monkeypatch, capsys):
    monkeypatch.setattr("locinv_pl.photo.run.invert_sample", None)
    main(words(tiny_folder, PROMPT, CAT, DOG, "edit=a red cat and a cow on grass", "edit.swap_steps=0.6", "output=out"))
    assert "3-word_swap.png" in capsys.readouterr().out
    (edited,) = (listed for listed in RunFolder(root / "out").place("edits").iterdir())
    assert sorted(path.name for path in edited.glob("[0-9]-*.png")) == [
        "1-word_swap.png",
        "2-attribute.png",
        "3-word_swap.png",
    ]


def test_without_an_edit_it_inverts_alone(root, tiny_folder, capsys):
    main(words(tiny_folder, PROMPT, CAT, "output=alone"))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(".safetensors") and not (root / "alone/edits").exists()


def test_the_worked_example_says_its_command_and_runs(root, tiny_folder, capsys, monkeypatch):
    quick = ["method.tokens.max_steps=1", "num_steps=2", "resolution=8", "device=cpu", "output=example"]
    main(["photo", *quick])
    said = capsys.readouterr().out
    assert "locinv photo image=" in said and said.count("edit=") == 2
    assert (root / "example/report.html").is_file()


class Finder:
    """Finds what it is told to find, in place of the networks, which tests of their own look at."""

    def __init__(self, models):
        self.models = models

    def find(self, image, nouns):
        mask = np.zeros((image.height, image.width), bool)
        mask[4:20, 4:20] = True
        return {noun: Found(mask, np.zeros((1, 4)), np.ones(1)) for noun in nouns if noun != "grass"}


def test_nouns_without_a_place_are_found(root, tiny_folder, monkeypatch, capsys):
    monkeypatch.setattr(command, "GroundedSam", Finder)
    main(words(tiny_folder, PROMPT, CAT, "find=grounded_sam", "output=found"))
    said = capsys.readouterr()
    assert "not found on the image: grass" in said.err
    (row,) = (root / "found/data").glob("*/samples.yaml")
    assert "cat: [6, 5, 10, 16]" in row.read_text() and "dog: masks/" in row.read_text()


def test_a_prompt_is_written_where_a_model_is_named(tiny_folder, monkeypatch, capsys):
    monkeypatch.setattr(command, "caption_of", lambda image, models: "a cat on grass")
    main(words(tiny_folder, CAT, "caption=blip", "output=caption"))
    assert "prompt=a cat on grass" in capsys.readouterr().out


def test_points_become_a_mask(root, tiny_folder, monkeypatch):
    class Seen:
        def at(self, image):
            return self

        def mask(self, points, labels):
            assert (points, labels) == ([[10, 12], [30, 2]], [1, 0])
            plane = np.zeros((32, 32), bool)
            plane[8:16, 6:14] = True
            return plane

    monkeypatch.setattr(command, "PointSegmenter", lambda models: Seen())
    main(words(tiny_folder, PROMPT, "point.cat=10,12;!30,2", "output=points"))
    assert list((root / "points/data").glob("*/masks/*-cat-1.png"))


BAD = {
    "no prompt": ([CAT], ["has no prompt", "caption=blip"]),
    "no place": ([PROMPT], ["no noun has a place", "box.cat=x,y,width,height", "cat, dog, grass", "find="]),
    "no nouns": (["prompt=very very red"], ["no noun has a place", "none found"]),
    "missing image": (["image=none.jpg", PROMPT, CAT], ["none.jpg"]),
    "no image": (["image=words.jpg", PROMPT, CAT], ["words.jpg"]),
    "a folder": (["image=.", PROMPT, CAT], ["."]),
    "three numbers": ([PROMPT, "box.cat=1,2,3"], ["box.cat=1,2,3", "x,y,width,height"]),
    "letters": ([PROMPT, "box.cat=a,b,c,d"], ["box.cat=a,b,c,d"]),
    "nan": ([PROMPT, "box.cat=nan,1,2,3"], ["box.cat=nan"]),
    "outside": ([PROMPT, "box.cat=100,100,5,5"], ["noun 'cat'"]),
    "empty box": ([PROMPT, "box.cat=1,1,0,5"], ["noun 'cat'"]),
    "noun not there": ([PROMPT, "box.zebra=1,1,5,5"], ["zebra"]),
    "mask missing": ([PROMPT, "mask.cat=none.png"], ["none.png"]),
    "mask of another size": ([PROMPT, "mask.cat=small.png"], ["small.png", "32x20"]),
    "mask black": ([PROMPT, "mask.cat=black.png"], ["black.png", "empty"]),
    "mask no image": ([PROMPT, "mask.cat=words.jpg"], ["words.jpg"]),
    "two places": ([PROMPT, CAT, "mask.cat=dog.png"], ["'cat' has two kinds of places"]),
    "two boxes": ([PROMPT, "box.cat=1,1,5,5;8,8,5,5"], ["'cat' stands 1 times", "2 priors"]),
    "bad point": ([PROMPT, "point.cat=5"], ["point.cat=5", "x,y"]),
    "finder": ([PROMPT, "find=eyes"], ["find"]),
    "fit": ([PROMPT, CAT, "fit=stretch"], ["fit"]),
    "method": ([PROMPT, CAT, "method=magic"], ["method=magic", "locinv_direct"]),
    "steps": ([PROMPT, CAT, "num_steps=0"], ["num_steps"]),
    "many steps": ([PROMPT, CAT, "num_steps=5000"], ["5000"]),
    "resolution": ([PROMPT, CAT, "resolution=5"], ["resolution=5"]),
    "source as target": ([PROMPT, CAT, "edit=a red cat and a dog on grass"], ["is the source prompt"]),
    "long target": ([PROMPT, CAT, f"edit={'cat ' * 100}"], ["102 tokens", "shorten"]),
    "empty target": ([PROMPT, CAT, "edit=!!"], ["has no word"]),
    "edit setting": ([PROMPT, CAT, PIG, "edit.swap_steps=2"], ["edit.swap_steps=2"]),
    "unknown key": ([PROMPT, CAT, "colour=red"], ["colour"]),
    "region": ([PROMPT, CAT, PIG, "region=small.png"], ["small.png"]),
    "dtype": ([PROMPT, CAT, "dtype=float8"], ["float8"]),
    "device": ([PROMPT, CAT, "device=abacus"], ["abacus"]),
    "lora": ([PROMPT, CAT, "model.lora=none.safetensors"], ["model.lora=none.safetensors", "no such file"]),
    "layout": ([PROMPT, CAT, "backbone=pets.jpg", "model.layout=none"], ["is a file, not a model's folder"]),
    "threshold": ([PROMPT, CAT, "models.box_threshold=2"], ["locinv: models.box_threshold=2.0: must lie between"]),
    "backbone": ([PROMPT, CAT, "backbone=nowhere/at-all"], ["nowhere"]),
    "weights in the prompt": (["prompt=a (red:2) cat", CAT], ["prompt"]),
}


@pytest.mark.parametrize(("more", "parts"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(tiny_folder, more, parts, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words(tiny_folder, *more, "output=bad"))
    message = str(ended.value)
    assert "\n" not in message and message.startswith("locinv: ") and "Traceback" not in message
    for part in parts:
        assert part in message, message


def test_an_image_is_asked_for_where_other_things_are_given():
    with pytest.raises(SystemExit, match="photo: has no image"):
        main(["photo", PROMPT])


def test_what_was_inverted_stays_when_an_edit_is_refused(root, made, tiny_folder):
    before = sorted(path.name for path in (root / "out").rglob("*") if path.is_file())
    with pytest.raises(SystemExit, match="is the source prompt"):
        main(words(tiny_folder, PROMPT, CAT, DOG, "edit=a red cat and a dog on grass", "output=out"))
    assert sorted(path.name for path in (root / "out").rglob("*") if path.is_file()) == before
