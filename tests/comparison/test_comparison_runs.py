"""``locinv compare``: whole runs, side by side, on the tiny model."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import write_images
from PIL import Image
from tiny_editors import write_tiny_kontext

from locinv_pl.cli.main import main
from locinv_pl.comparison import references
from locinv_pl.editing.pipelines import Inpaint
from locinv_pl.measures.judge import Judge, load_judge
from locinv_pl.measures.metrics import MOST_DECIBELS
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.generation import generate
from locinv_pl.networks.loading import load_backbone
from locinv_pl.priors import prior_on_grid
from locinv_pl.types import Inversion

pytestmark = pytest.mark.slow


@pytest.fixture
def words(deep_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    write_images(tmp_path / "mine", 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["locinv"])
    engine = ["model.num_steps=3", "model.resolution=8", "method.tokens.max_steps=1", "method.null_text.max_steps=1"]
    data = ["data=folder", "data.root=mine", "data.size=32", f"backbone={deep_folder}"]
    return ["compare", *data, *engine, "trainer.accelerator=cpu", "trainer.devices=1", "output=out"]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs' commands, in this process in place of one of their own."""
    seen: list[str] = []

    def run(command: list[str], env: dict[str, str]) -> SimpleNamespace:
        assert command[:4] == [sys.executable, "-P", "-m", "locinv_pl"]
        seen.append(" ".join(word for word in command[4:] if word[:6] in ("method", "fit", "predict"[:6], "test")))
        try:
            main(command[4:])
        except SystemExit as end:
            return SimpleNamespace(returncode=1 if end.code else 0)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def test_a_comparison(words: list[str], stages: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*words, "methods=ddim:box,nti+p2p"])
    content = json.loads(Path("out/comparison.json").read_text())
    rows = {row["method"]: row for row in content["rows"]}
    assert list(rows) == ["ddim:box", "nti+p2p", "generated", "sources"]
    assert {row["num_edits"] for row in rows.values()} == {4} and {row["num_images"] for row in rows.values()} == {2}
    for label, row in rows.items():
        inverts, edits = label in ("ddim:box", "nti+p2p"), label != "sources"
        assert (row["psnr"] is not None, row["background_psnr"] is not None) == (inverts, inverts)
        assert (row["seconds_per_image"] is not None, row["seconds_per_edit"] is not None) == (inverts, edits)
    kept = json.loads(Path("out/runs/ddim:box/inversions/p0.json").read_text())["psnr"]
    other = json.loads(Path("out/runs/ddim:box/inversions/p1.json").read_text())["psnr"]
    assert rows["ddim:box"]["psnr"] == pytest.approx((kept + other) / 2)
    assert "| nti+p2p" in capsys.readouterr().out and Path("out/comparison.md").read_text().count("| ddim:box ") >= 1
    with open("out/comparison.csv") as file:
        table = list(csv.DictReader(file))
    for key in ("psnr", "clip_target", "seconds_per_edit"):
        known = [None if row[key] == "" else float(row[key]) for row in table]
        assert known == pytest.approx([row[key] for row in rows.values()])
    with open("out/comparison_kinds.csv") as file:
        lines = {(row["kind"], row["method"]): row for row in csv.DictReader(file)}
    assert set(lines) == {(kind, label) for kind in ("attribute", "edit") for label in rows}
    for (kind, label), line in lines.items():
        means = rows[label]["kinds"][kind]
        assert (line["num_edits"], means["num_edits"]) == ("2", 2)
        assert float(line["clip_target"]) == pytest.approx(means["clip_target"])
        assert float(line["success_high"]) == pytest.approx(means["success_ci95"][1])
    for name in ("iou_curves.png", "sheet.png"):
        with Image.open(f"out/{name}") as image:
            assert len(image.convert("RGB").getcolors(10**6)) > 50
    assert len(stages) == 6


def test_it_goes_on_where_it_stopped(words: list[str], stages: list[str]) -> None:
    with pytest.raises(SystemExit, match="locinv: compare: ddim: fit ended with exit code 1"):
        main([*words, "methods=ddim,nti", "edits=false", "method.null_text.lr=-1"])
    assert [stage.split()[0] for stage in stages] == ["fit"]  # ddim's, refused like all
    stages.clear()
    main([*words, "methods=ddim", "edits=false"])
    main([*words, "methods=ddim,nti", "edits=false"])
    assert [stage.split()[0] for stage in stages] == ["fit", "fit"]  # ddim once
    assert not Path("out/sheet.png").exists()
    stages.clear()
    main([*words, "methods=ddim", "edits=true"])
    assert [stage.split()[0] for stage in stages] == ["fit", "predict", "test"]


def test_an_ablation(words: list[str], stages: list[str]) -> None:
    main([*words, "methods=locinv", "edits=false", "vary={method.tokens.overlap.weight: [0.0, 1.0]}"])
    rows = json.loads(Path("out/comparison.json").read_text())["rows"]
    assert [row["vary"] for row in rows] == [["method.tokens.overlap.weight", value] for value in (0.0, 1.0)]
    assert Path("out/ablation.png").exists() and rows[0]["attention_iou"] != rows[1]["attention_iou"]


# -- the reference rows ---------------------------------------------------------------------------


def edits_of(label: str) -> list[dict[str, Any]]:
    """The edits of a row's scores, each with its image's id."""
    scores = json.loads(Path(f"out/scores/{label}.json").read_text())
    return [{**edit, "id": test["id"]} for test in scores["tests"] for edit in test["edits"]]


def pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).movedim(-1, 0) / 255


def test_generated_is_what_the_model_draws_of_the_target_prompts(
    words: list[str], stages: list[str], deep_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def agrees(self: Judge, images: torch.Tensor, prompts: list[str]) -> list[bool | None]:
        """Some, as the tiny model's images are none that a judge would know; none of attributes."""
        return [None if "blue" in prompt else self.bright(image) for image, prompt in zip(images, prompts, strict=True)]

    prompts = [edit["prompt"] for edit in TARGETS for _ in range(3)]
    images = generate(load_backbone(str(deep_folder)), prompts, guidance_scale=7.5, num_steps=3, seed=0)
    images = (images * 255).round() / 255  # as they are in files
    middle = images.mean((1, 2, 3)).median().item() + 1e-4
    monkeypatch.setattr(Judge, "bright", lambda self, image: image.mean().item() > middle, raising=False)
    monkeypatch.setattr(Judge, "agrees", agrees)

    main([*words, "methods=inpaint,direct", "generate=3", "reference=generated"])
    edits, judge = edits_of("generated"), load_judge()
    assert [(edit["id"], edit["prompt"]) for edit in edits] == [(edit["id"], edit["prompt"]) for edit in TARGETS]
    clip = judge.clip_score(images, prompts).view(-1, 3).mean(1).tolist()
    assert [edit["clip_target"] for edit in edits] == pytest.approx(clip, abs=0.05)
    verdicts = [judge.agrees(image[None], [prompt])[0] for image, prompt in zip(images, prompts, strict=True)]
    judged = [verdicts[n : n + 3] for n in range(0, len(verdicts), 3)]
    expected = [None if each[0] is None else sum(each) / 3 for each in judged]
    assert [edit["success"] for edit in edits] == pytest.approx(expected)
    assert len(set(expected)) > 2 and all(edit["seconds_per_edit"] > 0 for edit in edits)
    for n, edit in enumerate(edits):
        page = pixels(Path("out/runs/generated/edits") / edit["id"] / edit["file"])
        assert (page - torch.cat([*images[3 * n : 3 * n + 3]], dim=-1)).abs().max() <= 1.01 / 255

    content = json.loads(Path("out/comparison.json").read_text())
    rows = {row["method"]: row for row in content["rows"]}
    known = [share for share in expected if share is not None]
    assert rows["generated"]["success"] == pytest.approx(sum(known) / len(known))
    assert rows["generated"]["kinds"]["attribute"]["success"] is None
    assert content["reference"] == "generated" and rows["direct"]["paired"]["success"]["num_images"] == 2


TARGETS = [
    {"id": f"p{n}", "prompt": prompt} for n in (0, 1) for prompt in ("a red dog and a dog", "a blue cat and a dog")
]
"""The edits of the fixture's data."""


def test_sources_are_judged_by_their_own_prompts(words: list[str], stages: list[str]) -> None:
    main([*words, "methods=ddim", "generate=0"])
    rows = {row["method"]: row for row in json.loads(Path("out/comparison.json").read_text())["rows"]}
    assert list(rows) == ["ddim", "sources"] and not Path("out/runs/generated").exists()
    images = torch.stack([pixels(Path(f"mine/p{n}.png")) for n in (0, 1)])
    clip = load_judge().clip_score(images, ["a red cat and a dog"] * 2)
    assert rows["sources"]["clip_target"] == pytest.approx(clip.mean().item(), abs=1e-3)
    assert {edit["prompt"] for edit in edits_of("sources")} == {"a red cat and a dog"}


def test_reference_rows_go_on_where_they_stopped(
    words: list[str], stages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def drawn(backbone: Any, prompts: list[str], guidance_scale: float, num_steps: int, seed: int) -> torch.Tensor:
        if len(seeds) == limit:
            raise KeyboardInterrupt
        seeds.append(seed)
        return torch.zeros(len(prompts), 3, 32, 32)

    monkeypatch.setattr(references, "generate", drawn)
    limit = 1
    with pytest.raises(KeyboardInterrupt):
        main([*words, "methods=ddim"])
    limit = 100
    main([*words, "methods=ddim"])
    assert seeds == [0, 4] and not Path("out/runs/generated/running").exists()  # p0 once
    main([*words, "methods=ddim", "resamples=9"])
    assert seeds == [0, 4]
    path = Path("out/runs/generated/test/p1.json")
    path.write_text(path.read_text()[:99])
    main([*words, "methods=ddim"])
    assert seeds == [0, 4, 4]
    main([*words, "methods=ddim", "generate=1"])
    assert seeds[3:] == [0, 2]


def test_data_without_edits_have_no_reference_rows(words: list[str], stages: list[str]) -> None:
    path = Path("mine/samples.yaml")
    path.write_text(yaml.safe_dump([{**row, "edits": []} for row in yaml.safe_load(path.read_text())]))
    main([*words, "methods=ddim"])
    rows = json.loads(Path("out/comparison.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["ddim"] and not Path("out/sheet.png").exists()


@pytest.mark.parametrize("prior", ["segment", "box"])
def test_inpainting_knows_what_the_methods_know(
    prior: str, words: list[str], stages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The priors of the changed nouns that the inversions have, the methods' number of steps, and their guidance."""
    seen: dict[str, torch.Tensor] = {}

    def edit(self: Inpaint, image: torch.Tensor, source: str, target: str, place: torch.Tensor) -> torch.Tensor:
        seen[target] = place
        return image

    monkeypatch.setattr(Inpaint, "_edit", edit)
    words = [*words, f"prior={prior}", "method.guidance_scale=3"]
    main([*words, "methods=ddim,inpaint", "generate=0"])
    inversion = Inversion.load("out/runs/ddim/inversions/p0.safetensors")
    cat, grid = inversion.nouns.index("cat"), tuple(inversion.priors.shape[1:])
    for target in ("a red dog and a dog", "a blue cat and a dog"):
        assert torch.equal(prior_on_grid(seen[target].float(), grid), inversion.priors[cat])
    edits = json.loads(Path("out/runs/inpaint/edits/p0/edits.json").read_text())["edits"]
    assert {(e["settings"]["num_steps"], e["settings"]["guidance_scale"]) for e in edits} == {(3, 3.0)}
    rows = json.loads(Path("out/comparison.json").read_text())["rows"]
    assert [row["prior"] for row in rows] == [prior, prior, None]


def test_an_editor_with_a_model_of_its_own(words: list[str], stages: list[str], tmp_path: Path) -> None:
    """Kontext paints in the priors alone, so its background is the image's own; it is told its folder by its name."""
    own = {"model": str(write_tiny_kontext(tmp_path / "kontext")), "size": 64, "dtype": "float32", "num_steps": 1}
    words = [*words, *(f"kontext_inpaint.{key}={value}" for key, value in own.items())]
    main([*words, "methods=direct,kontext_inpaint", "generate=0"])
    rows = {row["method"]: row for row in json.loads(Path("out/comparison.json").read_text())["rows"]}
    assert rows["kontext_inpaint"]["background_psnr"] == MOST_DECIBELS > rows["direct"]["background_psnr"]
    assert rows["kontext_inpaint"]["prior"] == rows["direct"]["prior"] == "segment"
    edits = json.loads(Path("out/runs/kontext_inpaint/edits/p0/edits.json").read_text())["edits"]
    assert [{key: edit["settings"][key] for key in own} for edit in edits] == [own, own]
    source, edited = (pixels(Path(f"out/runs/kontext_inpaint/edits/p0/{name}.png")) for name in ("source", "1-edit"))
    assert not torch.equal(source, edited)


def test_the_embedded_model_s_references(
    stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: Backbone
) -> None:
    """Of drawn scenes the judge knows all sources, and what the model makes of the targets is judged as it is here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["locinv"])
    data = ["data=scenes", "data.num_images=3", "data.min_objects=2", "model.num_steps=10", "output=out"]
    main(["compare", "methods=direct", "generate=1", *data, "trainer.accelerator=cpu", "trainer.devices=1"])
    rows = {row["method"]: row for row in json.loads(Path("out/comparison.json").read_text())["rows"]}
    prompts = [edit["prompt"] for edit in edits_of("direct")]
    images = (generate(embedded, prompts, 7.5, 10) * 255).round() / 255
    verdicts = [verdict for verdict in load_judge().agrees(images, prompts) if verdict is not None]
    assert rows["generated"]["success"] == pytest.approx(sum(verdicts) / len(verdicts)) and any(verdicts)
    assert rows["sources"]["success"] == 1


def test_runs_have_processes_of_their_own(words: list[str]) -> None:
    main([*words, "methods=ddim", "edits=false"])
    assert json.loads(Path("out/comparison.json").read_text())["rows"][0]["num_images"] == 2
