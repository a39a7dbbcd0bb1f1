"""What comes into a run, followed to its end: frames of regions, prompts that are too long, ids."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from locinv_pl.cli.main import main
from locinv_pl.types import Inversion

STEPS = 3
LONG = "a cat on grass " + "and a dog " * 9
WIDTH, HEIGHT = 48, 32


def words(model: Path, *more: str) -> list[str]:
    few = ["model.num_steps=3", "model.resolution=8", "method.tokens.max_steps=1", "method.null_text.max_steps=1"]
    plain = ["callbacks=plain", "trainer.accelerator=cpu", "trainer.devices=1", "data.size=32", "data.batch_size=3"]
    return ["data=folder", "data.root=mine", f"backbone={model}", *few, *plain, "output=run", *more]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of landscape images; its list is written by :func:`write`."""
    (tmp_path / "mine").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(tmp_path / "mine/a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    return tmp_path


def write(root: Path, *rows: dict[str, Any]) -> None:
    plain = {"image": "a.png", "prompt": "a red cat on grass", "priors": {}}
    (root / "mine/samples.yaml").write_text(yaml.safe_dump([plain | row for row in rows]))


def prompts(root: Path, id: str) -> list[str]:
    return [edit["prompt"] for edit in json.loads((root / f"run/edits/{id}/edits.json").read_text())["edits"]]


def test_prompts_that_are_too_long_leave_the_rest_alone(
    here: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edits = ["a red dog on grass", LONG]
    write(here, {"id": "long", "prompt": LONG}, {"id": "edited", "edits": edits}, {"id": "plain", "edits": edits[:1]})
    with pytest.raises(SystemExit, match="prompt of image 'long' has 33 tokens, the text encoder takes 20"):
        main(["fit", *words(tiny_folder)])
    main(["fit", *words(tiny_folder, "data.on_error=skip")])
    assert sorted(path.stem for path in (here / "run/inversions").glob("*.json")) == ["edited", "plain"]
    assert "skipped long: prompt of image 'long' has 33 tokens" in capsys.readouterr().err


def test_edits_that_are_too_long_leave_the_rest_alone(here: Path, tiny_folder: Path) -> None:
    edits = ["a red dog on grass", LONG]
    write(here, {"id": "edited", "edits": edits}, {"id": "plain", "edits": edits[:1]})
    main(["fit", *words(tiny_folder)])
    for _ in range(2):
        main(["predict", *words(tiny_folder, "data.on_error=skip")])
        assert prompts(here, "edited") == prompts(here, "plain") == edits[:1]
    with pytest.raises(SystemExit, match="has 33 tokens"):
        main(["predict", *words(tiny_folder)])


def test_a_region_goes_through_the_frame_of_its_image(here: Path, tiny_folder: Path) -> None:
    """A strip on the left of a cropped landscape image; what isn't in it is the reconstruction exactly."""
    write(here, {"id": "one", "priors": {"cat": [10, 4, 20, 20]}})
    main(["fit", *words(tiny_folder)])
    frame = json.loads(Path("run/inversions/one.json").read_text())["frame"]
    assert frame == {"window": [8, 0, 32, 32], "size": [32, 32], "image": [WIDTH, HEIGHT]}
    strip = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    strip[:, 12:20] = 255
    Image.fromarray(strip).save("strip.png")
    Image.fromarray(strip[:, 8:40]).save("framed.png")
    Image.fromarray(strip[:20, :20]).save("other.png")
    edited = []
    for region in ("strip.png", "framed.png"):
        blend = ["edit.blend=prior", "edit.blend_margin=0", f"region={region}"]
        main(["edit", "run", "image=one", 'prompt="a red dog on grass"', *blend])
        newest = max(Path("run/edits/one").glob("[0-9]-*.png"), key=lambda path: path.stat().st_mtime_ns)
        edited.append(np.asarray(Image.open(newest)))
    assert np.array_equal(*edited)
    before = np.asarray(Image.open("run/edits/one/reconstruction.png")).astype(int)
    change = np.abs(edited[0].astype(int) - before).sum(-1).mean(0)
    assert 4 <= change.argmax() < 12 and change[4:12].mean() > 2 * change[20:].mean(), change
    with pytest.raises(SystemExit, match="other.png: the mask is 20x20 but its image 48x32; make both the same size"):
        main(["edit", "run", "image=one", "prompt=a dog on grass", "edit.blend=prior", "region=other.png"])


def test_an_image_of_dots_has_a_name_and_takes_nothing_with_it(here: Path, tiny_folder: Path) -> None:
    (here / "mine/...png").write_bytes((here / "mine/a.png").read_bytes())
    (here / "run").mkdir()
    (here / "run/mine.txt").write_text("kept")
    write(here, {"image": "...png"})
    main(["fit", *words(tiny_folder)])
    (path,) = (here / "run/inversions").glob("*.safetensors")
    assert Inversion.load(path).id == "...png" and (here / "run/mine.txt").read_text() == "kept"
