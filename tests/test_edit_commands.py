"""``predict`` and ``locinv edit``, by the command line's own entrance."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import make_picture
from PIL import Image

from locinv_pl.cli import main

STEPS = 3


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures, inverted and edited."""
    root = tmp_path_factory.mktemp("edits")
    (root / "mine").mkdir()
    rows = []
    for n in range(2):
        pixels = (make_picture(seed=n).movedim(0, -1) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(root / f"mine/p{n}.png")
        edits = ["a red dog and a dog", {"prompt": "a blue cat and a dog", "kind": "attribute"}]
        priors = {"cat": [2, 4, 14, 10], "dog": [20, 18, 10, 12]}
        rows.append({"image": f"p{n}.png", "prompt": "a red cat and a dog", "priors": priors, "edits": edits})
    (root / "mine/samples.yaml").write_text(yaml.safe_dump(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", ["train.py"])
        for command in ("fit", "predict"):
            main([command, *words(tiny_folder)])
    return root / "run"


def words(tiny_folder: Path, *more: str) -> list[str]:
    return [
        "data=folder",
        "data.root=mine",
        "data.size=32",
        "data.batch_size=2",
        f"backbone={tiny_folder}",
        f"model.num_steps={STEPS}",
        "model.resolution=8",
        "method.tokens.max_steps=1",
        "method.null_text.max_steps=1",
        "callbacks=plain",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
        "output=run",
        *more,
    ]


@pytest.fixture(autouse=True)
def here(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    monkeypatch.setattr(sys, "argv", ["locinv"])


def edit(*words: str) -> int | str | None:
    try:
        main(["edit", *words])
    except SystemExit as end:
        return end.code
    return 0


def listed(run: Path, id: str) -> dict[str, str]:
    rows = json.loads((run / f"edits/{id}/edits.json").read_text())["edits"]
    return {row["prompt"]: row["file"] for row in rows}


def test_predict_edits_every_picture_by_its_data(run: Path) -> None:
    for id in ("p0", "p1"):
        found = listed(run, id)
        assert found["a red dog and a dog"] == "1-edit.png" and found["a blue cat and a dog"] == "2-attribute.png"
        for name in ("source.png", "reconstruction.png", *found.values()):
            with Image.open(run / "edits" / id / name) as picture:
                assert picture.size == (32, 32)
        with Image.open(run / f"edits/{id}/1-edit.png") as picture:
            assert picture.info["prompt"] == "a red dog and a dog"
            assert json.loads(picture.info["settings"])["cross_replace_steps"] == 0.8


def test_predict_again_gives_equal_files(run: Path, tiny_folder: Path) -> None:
    before = {path: path.read_bytes() for path in (run / "edits").rglob("*.png")}
    main(["predict", *words(tiny_folder)])
    assert {path: path.read_bytes() for path in (run / "edits").rglob("*.png")} == before


def test_edit_one_picture(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit("run", "--image", "p1", "--prompt", "a red zebra and a dog") == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == Path("run/edits/p1") / listed(run, "p1")["a red zebra and a dog"]
    before = path.read_bytes()
    assert edit("run", "image=p1", "prompt=a red zebra and a dog") == 0
    assert path.read_bytes() == before
    assert edit("run", "image=p1", "prompt=a red zebra and a dog", "edit.cross_replace_steps=0.1") == 0
    other = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert other != path and np.any(np.asarray(Image.open(other)) != np.asarray(Image.open(path)))


def test_several_prompts_and_a_region(run: Path) -> None:
    region = np.zeros((32, 32), dtype=np.uint8)
    region[:8, :8] = 255
    Image.fromarray(region).save("region.png")
    prompts = '["a red cat", "a red cat and a dog on grass"]'
    assert edit("run", "image=p0", f"prompt={prompts}", "edit.blend=prior", "region=region.png") == 0
    assert {"a red cat", "a red cat and a dog on grass"} <= set(listed(run, "p0"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "image=p0", "prompt=a red  cat and a DOG"), "is the source prompt of 'p0'; change a word of it"),
        (("run", "image=p0", "prompt=" + "cat " * 30), "the text encoder takes 20"),
        (("run", "image=p9", "prompt=a cat"), "p9.safetensors: no such file; run the inversion first"),
        (("gone", "image=p0", "prompt=a cat"), "settings.json: no such file"),
        (("run", "image=p0", "prompt=a cat", "edit.reweight={bird: 2}"), "'bird' is not in the prompt 'a cat'"),
        (("run", "image=p0", "prompt=a cat", "edit.blend=all"), "blend"),
        (("run", "image=p0", "prompt=a cat", "edit.self_replace_steps=2"), "edit.self_replace_steps=2"),
        (("run", "image=p0", "prompt=a cat", "edit.foo=2"), "foo"),
        (("run", "image=p0", "prompt=a cat", "region=gone.png"), "gone.png"),
        (("run", "image=p0"), "prompt"),
    ],
)
def test_refusals(words: tuple[str, ...], says: str) -> None:
    code = edit(*words)
    assert isinstance(code, str) and says in code and "\n" not in code


def test_an_inversion_of_another_backbone(run: Path) -> None:
    settings = (run / "settings.json").read_text()
    try:
        (run / "settings.json").write_text(json.dumps({**json.loads(settings), "backbone": "embedded"}))
        assert "made with backbone" in str(edit("run", "image=p0", "prompt=a cat"))
    finally:
        (run / "settings.json").write_text(settings)
