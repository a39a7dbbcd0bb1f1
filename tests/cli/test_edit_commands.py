"""``predict``, ``locinv edit`` and ``test``, by the command line's own entrance."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import write_images
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from locinv_pl.callbacks.explanation import edit_command
from locinv_pl.cli.main import main
from locinv_pl.editing.pipelines import EditorSettings, make_editor
from locinv_pl.io.files import read_json, write_json
from locinv_pl.measures.judge import load_judge
from locinv_pl.networks.loading import load_backbone
from locinv_pl.run import module

STEPS = 2


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images, inverted and edited."""
    root = tmp_path_factory.mktemp("edits")
    write_images(root / "mine", 2)
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


def test_predict_edits_every_image_by_its_data(run: Path) -> None:
    for id in ("p0", "p1"):
        found = listed(run, id)
        assert found["a red dog and a dog"] == "1-edit.png" and found["a blue cat and a dog"] == "2-attribute.png"
        for name in ("source.png", "reconstruction.png", *found.values()):
            with Image.open(run / "edits" / id / name) as image:
                assert image.size == (32, 32)
        with Image.open(run / f"edits/{id}/1-edit.png") as image:
            assert image.info["prompt"] == "a red dog and a dog"
            assert json.loads(image.info["settings"])["cross_replace_steps"] == 0.8


def test_predict_again_gives_equal_files(run: Path, tiny_folder: Path) -> None:
    before = {path: path.read_bytes() for path in (run / "edits").rglob("*.png")}
    main(["predict", *words(tiny_folder)])
    assert {path: path.read_bytes() for path in (run / "edits").rglob("*.png")} == before


def test_edit_one_image(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit("run", "--image", "p1", "--prompt", "a red zebra and a dog") == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == Path("run/edits/p1") / listed(run, "p1")["a red zebra and a dog"]
    before = path.read_bytes()
    assert edit("run", "image=p1", "prompt=a red zebra and a dog") == 0
    assert path.read_bytes() == before
    assert edit("run", "image=p1", "prompt=a red zebra and a dog", "edit.swap_steps=0.9") == 0
    other = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert other != path and np.any(np.asarray(Image.open(other)) != np.asarray(Image.open(path)))


def test_the_report_s_command_makes_the_edit_again(run: Path) -> None:
    assert edit("run", "image=p1", "prompt=a red (yak:1.5) and a dog", "edit.swap_steps=0.9", "edit.blend=prior") == 0
    before = json.loads((run / "edits/p1/edits.json").read_text())
    made = before["edits"][-1]
    command = edit_command(Path("run"), "p1", made)
    assert command is not None and command.endswith("edit.swap_steps=0.9 edit.blend=prior")
    assert edit(*shlex.split(command)[2:]) == 0
    assert json.loads((run / "edits/p1/edits.json").read_text()) == before
    with Image.open(run / "edits/p1" / made["mask"]) as mask:
        assert mask.size == (16, 16) and mask.mode == "L" and 0 < np.asarray(mask).mean() < 255


def test_several_prompts_and_a_region(run: Path) -> None:
    region = np.zeros((32, 32), dtype=np.uint8)
    region[:8, :8] = 255
    Image.fromarray(region).save("region.png")
    prompts = '["a red cat", "a red cat and a dog on grass"]'
    assert edit("run", "image=p0", f"prompt={prompts}", "edit.blend=prior", "region=region.png") == 0
    assert {"a red cat", "a red cat and a dog on grass"} <= set(listed(run, "p0"))


def test_edits_in_two_regions_are_two_edits(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With and without edit.blend=prior, which a region implies."""
    paths = []
    for name, corner, more in (("a", 8, ()), ("b", 16, ()), ("a", 8, ("edit.blend=prior",))):
        region = np.zeros((32, 32), dtype=np.uint8)
        region[:corner, :corner] = 255
        Image.fromarray(region).save(f"{name}.png")
        assert edit("run", "image=p1", "prompt=a red owl and a dog", f"region={name}.png", *more) == 0
        paths.append(Path(capsys.readouterr().out.strip()))
    assert paths[0] == paths[2] != paths[1]
    assert not np.array_equal(pixels(paths[0]), pixels(paths[1]))
    rows = json.loads((run / "edits/p1/edits.json").read_text())["edits"]
    regions = {row["file"]: row["settings"]["region"] for row in rows if "region" in row["settings"]}
    assert set(regions) == {path.name for path in paths[:2]} and len(set(regions.values())) == 2
    with Image.open(paths[1]) as image:
        assert json.loads(image.info["settings"])["region"] == regions[paths[1].name]


def test_weights_in_brackets_are_read_and_make_an_edit_of_the_source_prompt(run: Path) -> None:
    assert edit("run", "image=p1", "prompt=a (red:2) cat and a dog") == 0
    assert edit("run", "image=p1", "prompt=a red cat and a dog", "edit.reweight={red: 2}") == 0
    rows = json.loads((run / "edits/p1/edits.json").read_text())["edits"]
    one, other = (row for row in rows if row["prompt"] == "a red cat and a dog")
    assert one["settings"]["weights"] == [["red", 2, 5, 2.0]] and other["settings"]["reweight"] == {"red": 2}
    assert np.array_equal(pixels(run / "edits/p1" / one["file"]), pixels(run / "edits/p1" / other["file"]))


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
        (("run", "image=p0", "prompt=   "), "has no word"),
        (("run", "image=p0", 'prompt=["a cat", " "]'), "has no word"),
        (("run", "image=p0", "prompt=a ((red)) dog and a dog"), "as in (red:1.5)"),
        (("run", "image=p0", "prompt=a red cat, a bird and a dog", "edit.blend=prior"), "'bird' has no prior"),
    ],
)
def test_refusals(words: tuple[str, ...], says: str) -> None:
    code = edit(*words)
    assert isinstance(code, str) and says in code and "\n" not in code


def test_an_inversion_of_another_backbone(run: Path) -> None:
    settings = (run / "settings.json").read_text()
    try:
        write_json(run / "settings.json", {**read_json(run / "settings.json"), "backbone": "embedded"})
        assert "made with backbone" in str(edit("run", "image=p0", "prompt=a cat"))
    finally:
        (run / "settings.json").write_text(settings)


def pixels(path: Path) -> np.ndarray:
    """(3, H, W) in [0, 1]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1) / 255


def scores(run: Path, id: str) -> dict[str, Any]:
    return read_json(run / f"test/{id}.json")


class TestScores:
    """``test`` on what ``predict`` made."""

    @pytest.fixture(scope="class")
    def tested(self, run: Path, tiny_folder: Path) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(run.parent)
            main(["test", *words(tiny_folder)])
        return run

    def test_the_files_say_what_was_measured(self, tested: Path) -> None:
        for id in ("p0", "p1"):
            found = scores(tested, id)
            assert list(found) == ["id", "prompt", "reconstruction", "edits", "edit", "measures"]
            assert (found["id"], found["prompt"]) == (id, "a red cat and a dog")
            assert [(edit["kind"], edit["prompt"], edit["file"]) for edit in found["edits"]] == [
                ("edit", "a red dog and a dog", "1-edit.png"),
                ("attribute", "a blue cat and a dog", "2-attribute.png"),
            ]
            assert found["edit"]["cross_replace_steps"] == 0.8 and found["measures"]["clip"] == "judge"

    def test_values_are_those_of_the_images(self, tested: Path) -> None:
        judge = load_judge()
        for id in ("p0", "p1"):
            source, back = pixels(Path(f"mine/{id}.png")), pixels(tested / f"edits/{id}/reconstruction.png")
            reconstruction = scores(tested, id)["reconstruction"]
            expected = peak_signal_noise_ratio(source, back, data_range=1)
            assert reconstruction["psnr"] == pytest.approx(expected, rel=1e-5) and list(reconstruction) == [
                "psnr",
                "ssim",
            ]
            for edit in scores(tested, id)["edits"]:
                edited = pixels(tested / "edits" / id / edit["file"])
                outside = np.pad(np.ones((30, 30), dtype=np.float32), 1)
                outside[4:14, 2:16] = 0  # the cat, which both edits change
                kept, before = edited * outside, source * outside
                assert edit["background_mse"] == pytest.approx(((kept - before) ** 2).mean(), rel=1e-4)
                expected = peak_signal_noise_ratio(before, kept, data_range=1)
                assert edit["background_psnr"] == pytest.approx(expected, rel=1e-5)
                gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
                expected = structural_similarity(before, kept, data_range=1, channel_axis=0, **gaussian)
                assert edit["background_ssim"] == pytest.approx(expected, abs=1e-4)
                both = torch.from_numpy(np.stack([edited, edited * (1 - outside)]))
                expected = judge.clip_score(both, [edit["prompt"]] * 2).tolist()
                assert [edit["clip_target"], edit["clip_edited"]] == pytest.approx(expected, abs=1e-3)
                assert edit["success"] == judge.agrees(both[:1], [edit["prompt"]])[0]
                assert edit["structure_distance"] > 0 and -1 <= edit["dino_similarity"] <= 1

    def test_the_summary_is_the_mean(self, tested: Path) -> None:
        summary = json.loads((tested / "test.json").read_text())
        edits = [edit for id in ("p0", "p1") for edit in scores(tested, id)["edits"]]
        assert summary["images"] == [scores(tested, id) for id in ("p0", "p1")]
        assert list(summary["kinds"]) == ["attribute", "edit"]
        rows = [(summary["mean"], edits)]
        rows += [(means, [e for e in edits if e["kind"] == kind]) for kind, means in summary["kinds"].items()]
        for means, some in rows:
            assert means["num_edits"] == len(some)
            for key in set(means) - {"num_edits"}:
                assert means[key] == pytest.approx(np.mean([edit[key] for edit in some]))
        inverted = json.loads((tested / "summary.json").read_text())
        for key in ("method", "prior", "backbone", "num_images", "num_steps", "attention_iou"):
            assert summary[key] == inverted[key]
        assert summary["reconstruction"]["psnr"] == pytest.approx(inverted["psnr"], abs=0.05)  # of 8 bits
        assert inverted["ssim"] == pytest.approx(np.mean([image["ssim"] for image in inverted["images"]]))
        assert 0 < inverted["ssim"] < 1

    def test_again_gives_equal_files_and_a_table(
        self, tested: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        paths = [*(tested / "test").iterdir(), tested / "test.json"]
        before = {path: path.read_bytes() for path in paths}
        summary = (tested / "summary.json").read_bytes()
        main(["test", *words(tiny_folder)])
        assert {path: path.read_bytes() for path in paths} == before
        assert (tested / "summary.json").read_bytes() == summary
        out, err = capsys.readouterr()
        table = [line for line in out.splitlines() if line.startswith("|")]
        assert [line.split()[1] for line in table if "--" not in line] == ["kind", "attribute", "edit", "all"]
        assert len({len(line) for line in table}) == 1 and "LPIPS" not in table[0]
        assert out.rstrip().endswith("Results: run") and err == ""

    def test_other_settings_have_other_edits(self, tested: Path, tiny_folder: Path, tmp_path: Path) -> None:
        own = Path(shutil.copytree(tested, tmp_path / "run"))
        other = words(tiny_folder, "edit.keep=nothing", f"output={own}")
        with pytest.raises(SystemExit) as caught:
            main(["test", *other])
        assert "has no edit to 'a red dog and a dog' with these settings; run predict first" in str(caught.value.code)
        main(["predict", *other])
        (own / "edits/p1/2-attribute.png").unlink()  # of the first settings
        write_json(own / "test/p9.json", {**scores(own, "p1"), "id": "p9"})  # likewise
        main(["test", *other, "measures.vit_range=255"])
        summary = json.loads((own / "test.json").read_text())
        assert [image["id"] for image in summary["images"]] == ["p0", "p1"]
        assert (summary["edit"]["keep"], summary["measures"]["vit_range"]) == ("nothing", 255)
        assert summary["images"][0]["edits"][0]["file"] not in ("1-edit.png", "2-attribute.png")

    @pytest.mark.parametrize(
        ("gone", "says"),
        [
            ("edits/p1/edits.json", "image 'p1': .*edits/p1 has no edit to 'a red dog and a dog'.*; run predict first"),
            ("edits/p1/2-attribute.png", "edits/p1/2-attribute.png: no such file; run predict again"),
        ],
    )
    def test_what_is_missing_is_named(
        self, tested: Path, tiny_folder: Path, tmp_path: Path, gone: str, says: str
    ) -> None:
        own = Path(shutil.copytree(tested, tmp_path / "run"))
        (own / gone).unlink()
        with pytest.raises(SystemExit) as caught:
            main(["test", *words(tiny_folder, f"output={own}")])
        message = str(caught.value.code)
        assert re.search(says, message) and "\n" not in message

    @pytest.mark.parametrize(
        ("word", "says"),
        [
            ("measures.clip=./nowhere", "measures.clip=./nowhere: no such folder"),
            ("measures.vit_range=0", "measures.vit_range=0.0: must be more than 0"),
            ("measures.foo=1", "measures.foo"),
        ],
    )
    def test_refusals(self, tested: Path, tiny_folder: Path, word: str, says: str) -> None:
        before = (tested / "test.json").read_bytes()
        with pytest.raises(SystemExit) as caught:
            main(["test", *words(tiny_folder, word)])
        assert says in str(caught.value.code) and "\n" not in str(caught.value.code)
        assert (tested / "test.json").read_bytes() == before


class TestOtherEditors:
    """``editor=`` in place of our own."""

    @pytest.fixture(scope="class")
    def painted(self, run: Path, tiny_folder: Path) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(run.parent)
            patch.setattr(sys, "argv", ["train.py"])
            own = words(tiny_folder, "editor=inpaint", "editor.num_steps=4", "callbacks=full", "output=painted")
            for command in ("predict", "test"):
                main([command, *own])
        return run.parent / "painted"

    def test_images_are_the_editor_s(self, painted: Path, tiny_folder: Path) -> None:
        backbone = load_backbone(str(tiny_folder))
        settings = json.loads((painted / "edits/p0/edits.json").read_text())["edits"][0]["settings"]
        assert (settings["editor"], settings["num_steps"]) == ("inpaint", 4)
        source = torch.from_numpy(pixels(Path("mine/p0.png")))
        prior = torch.zeros(32, 32)
        prior[4:14, 2:16] = 1  # the cat's box
        edited = make_editor(EditorSettings(**settings), backbone)(
            source, "a red cat and a dog", "a red dog and a dog", prior
        )
        assert np.abs(pixels(painted / "edits/p0/1-edit.png") - edited.numpy()).max() <= 1 / 255
        back = backbone.decode(backbone.encode(source[None]))[0].numpy()
        assert np.abs(pixels(painted / "edits/p0/reconstruction.png") - back).max() <= 1 / 255

    def test_they_are_measured_and_shown(self, painted: Path) -> None:
        summary = json.loads((painted / "test.json").read_text())
        assert summary["mean"]["num_edits"] == 4 and summary["attention_iou"] is None
        assert (painted / "edit_sheets/p0.png").exists() and (painted / "edits_contact_sheet.png").exists()
        assert "p1" in (painted / "report.html").read_text()

    def test_a_model_that_is_not_for_it(self, run: Path, tiny_folder: Path) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["predict", *words(tiny_folder, "editor=instruct_pix2pix", "editor.model=null", "output=other")])
        assert "takes 4 channels, this editor needs one that takes 8" in str(caught.value.code)


class TestStops:
    """``predict`` and ``test`` where an edit can't be made, and where the run is told to stop."""

    @pytest.fixture
    def own(self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The run and its images; p0 has an edit that is too long, p1 nothing but such edits."""
        for name in ("mine", "run"):
            shutil.copytree(run.parent / name, tmp_path / name)
        rows = yaml.safe_load((tmp_path / "mine/samples.yaml").read_text())
        long = "a red " + "very " * 20 + "cat and a dog"
        rows[0]["edits"] = ["a red owl and a dog", long, "a red dog and a dog"]
        rows[1]["edits"] = [long]
        (tmp_path / "mine/samples.yaml").write_text(yaml.safe_dump(rows))
        shutil.rmtree(tmp_path / "run/edits")
        monkeypatch.chdir(tmp_path)
        return tmp_path / "run"

    def test_on_error_raise_stops_at_an_edit_that_is_too_long(self, own: Path, tiny_folder: Path) -> None:
        with pytest.raises(SystemExit, match="the text encoder takes 20"):
            main(["predict", *words(tiny_folder)])

    @pytest.mark.parametrize("editor", [(), ("editor=inpaint", "editor.num_steps=2", "output=painted")])
    def test_on_error_skip_leaves_it_out(
        self, own: Path, tiny_folder: Path, editor: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        own, skip = own.parent / (editor[-1][7:] if editor else "run"), words(tiny_folder, "data.on_error=skip")
        main(["predict", *skip, *editor])
        err = capsys.readouterr().err
        assert err.count("skipped edit 'a red very") == 2 and "of p0" in err and "of p1" in err
        assert list(listed(own, "p0")) == ["a red owl and a dog", "a red dog and a dog"]
        assert not listed(own, "p1") and not (own / "skipped").exists()
        main(["test", *skip, *editor])
        assert json.loads((own / "test.json").read_text())["mean"]["num_edits"] == 2
        with pytest.raises(SystemExit, match="has no edit to 'a red very"):
            main(["test", *words(tiny_folder), *editor])

    @pytest.mark.parametrize("editor", [(), ("editor=inpaint", "editor.num_steps=9", "output=painted")])
    def test_sigterm_is_answered_between_timesteps(
        self, own: Path, tiny_folder: Path, editor: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After the first image's edits: its files are kept, the second's are never begun."""
        saved = module.save_edits

        def save_and_stop(*args: Any, **options: Any) -> list[Path]:
            paths = saved(*args, **options)
            os.kill(os.getpid(), signal.SIGTERM)
            return paths

        own = own.parent / (editor[-1][7:] if editor else "run")
        monkeypatch.setattr(module, "save_edits", save_and_stop)
        rows = yaml.safe_load(Path("mine/samples.yaml").read_text())
        for row in rows:
            row["edits"] = ["a red owl and a dog"]
        Path("mine/samples.yaml").write_text(yaml.safe_dump(rows))
        with pytest.raises(SystemExit) as end:
            main(["predict", *words(tiny_folder), *editor])
        assert not end.value.code and list(listed(own, "p0")) == ["a red owl and a dog"]
        assert not (own / "edits/p1").exists()
