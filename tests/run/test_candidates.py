"""Several strengths of an edit: the settings, the score, which one is kept, its files, and what the report shows."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import make_two_objects
from PIL import Image
from runs import METHOD, T, Toy, make_trainer

from locinv_pl.api import edit_run
from locinv_pl.callbacks.edits import EditSheets
from locinv_pl.callbacks.report import write_report
from locinv_pl.editing.prompt_to_prompt import edit, iter_edit
from locinv_pl.editing.settings import EditSettings, strengths
from locinv_pl.errors import InputError
from locinv_pl.io.files import read_json, write_json
from locinv_pl.measures.candidates import assess
from locinv_pl.measures.edits import Measures, MeasureSettings
from locinv_pl.method.progress import last_result
from locinv_pl.networks.backbone import Backbone
from locinv_pl.run import candidates
from locinv_pl.run.candidates import edit_best
from locinv_pl.run.edit_files import damaged_edits, list_edits
from locinv_pl.run.module import LocInvModule
from locinv_pl.run.store import RunFolder
from locinv_pl.types import Edit, Inversion

EDITS = (Edit("a red dog and a dog", "word_swap"), Edit("a blue cat and a dog", "attribute"))
FOUR = EditSettings(candidates=4)
KEPT = {EDITS[0].prompt: 2, EDITS[1].prompt: 3}


class TestStrengths:
    """What is varied."""

    def test_four_of_the_defaults(self) -> None:
        made = strengths(replace(FOUR, word_steps={"red": 0.4}))
        assert [s for s, _ in made] == [0.6, 1.0, 1.4, 1.8]
        assert [way.cross_replace_steps for _, way in made] == [1.0, 0.8, 0.48, 0.16]
        assert [way.swap_steps for _, way in made] == [0.42, 0.3, 0.18, 0.06]
        assert [way.self_replace_steps for _, way in made] == [0.28, 0.2, 0.12, 0.04]
        assert [way.attribute_steps for _, way in made] == [0.56, 0.4, 0.24, 0.08]
        assert [way.blend_growth for _, way in made] == [0.98, 0.7, 0.42, 0.14]
        assert [way.word_steps["red"] for _, way in made] == [0.56, 0.4, 0.24, 0.08]
        assert {(way.candidates, way.blend, way.keep) for _, way in made} == {(1, FOUR.blend, FOUR.keep)}

    @pytest.mark.parametrize(
        ("count", "found"),
        [(1, [1.0]), (2, [1.0, 1.8]), (3, [0.6, 1.0, 1.8]), (5, [0.6, 1.0, 1.2, 1.5, 1.8])],
    )
    def test_the_settings_as_given_are_among_them(self, count: int, found: list[float]) -> None:
        made = strengths(EditSettings(candidates=count))
        assert [s for s, _ in made] == found and dict(made)[1.0] == EditSettings()

    def test_a_mask_that_may_not_grow_does_at_no_strength(self) -> None:
        made = strengths(replace(FOUR, blend_growth=1.0))
        assert {way.blend_growth for _, way in made} == {1.0} and len({way.swap_steps for _, way in made}) == 4

    @pytest.mark.parametrize("count", [0, -1, 17])
    def test_other_numbers_are_refused_in_one_line(self, count: int) -> None:
        with pytest.raises(InputError, match=rf"^edit\.candidates={count}: give 1 to 16$"):
            EditSettings(candidates=count)

    def test_one_goes_unsaid(self) -> None:
        assert "candidates" not in EditSettings().to_dict() and FOUR.to_dict()["candidates"] == 4


@pytest.fixture(scope="module")
def measures() -> Measures:
    return Measures(MeasureSettings())


def test_the_score_by_hand(measures: Measures) -> None:
    """Outside of the place the second image differs by 0.1 everywhere."""
    before, place = torch.full((3, 32, 32), 0.5), torch.zeros(32, 32, dtype=torch.bool)
    place[:, :16] = True
    place[0] = place[-1] = place[:, -1] = True  # the frame counts as edited, whatever the place
    outside = int((~place).sum())
    images = torch.stack([before, before + 0.1])
    rows = assess(measures, before, images, "a red cat", place)
    assert [row["success"] for row in rows] == [0.0, 0.0]  # on an empty image
    c0 = measures.clip.clip_score(before[None], ["a red cat"]).item()
    for image, row, m in zip(images, rows, (0.0, 0.01 * outside / 32**2), strict=True):
        keys, _ = measures.vit(torch.stack([before, image]))
        a, b = (torch.nn.functional.normalize(k, dim=-1) @ torch.nn.functional.normalize(k, dim=-1).T for k in keys)
        d = ((a - b) ** 2).mean().item()
        c = measures.clip.clip_score(image[None], ["a red cat"]).item()
        assert row["structure_distance"] == pytest.approx(d, abs=1e-6) and row["clip_target"] == pytest.approx(c)
        assert row["background_mse"] == pytest.approx(m, abs=1e-7)
        assert row["score"] == pytest.approx(c / c0 - 24 * math.sqrt(m) - 3 * d, abs=1e-5)
    for anywhere in (None, torch.ones(32, 32, dtype=torch.bool)):
        row = assess(measures, before, images[1:], "a red cat", anywhere)[0]
        assert row["background_mse"] is None
        assert row["score"] == pytest.approx(row["clip_target"] / c0 - 3 * row["structure_distance"])


@pytest.mark.parametrize(
    ("success", "mse", "score"),
    [(1.0, 0.0001, 1 + 1.2 - 0.24 - 0.06), (0.0, 0.0001, 1.2 - 0.24 - 0.06), (None, None, 1.2 - 0.06)],
)
def test_every_term_of_the_score(success: float | None, mse: float | None, score: float) -> None:
    terms = {"success": success, "clip_target": 60.0, "background_mse": mse, "structure_distance": 0.02}
    fake: Any = SimpleNamespace(
        clip=SimpleNamespace(clip_score=lambda images, prompts: torch.tensor([50.0])),
        score=lambda *given: {**terms, "dino_similarity": 0.9},
    )
    (row,) = assess(fake, torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8), "a cat", None)
    assert row == {"score": pytest.approx(score), **terms}


def choose(measures: Any, before: Any, images: Any, prompt: str, place: Any) -> list[dict[str, float | None]]:
    """A score that knows which one is to be kept."""
    row = {"clip_target": 50.0, "background_mse": 0.0001 if place is not None else None, "structure_distance": 0.01}
    return [{"score": float(n == KEPT.get(prompt, 0)), **row} for n in range(len(images))]


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "assess", choose)


def run(model: Path, root: Path, stage: str, settings: EditSettings = EditSettings()) -> Path:
    """One image with two edits, inverted or edited."""
    samples = [replace(make_two_objects("p0", seed=0), edits=EDITS)]
    trainer = make_trainer(root, callbacks=[EditSheets(map_steps=1, tensorboard=False)])
    module = LocInvModule(str(model), METHOD, num_steps=T, resolution=8, edit=settings)
    options = {"return_predictions": False} if stage == "predict" else {}
    getattr(trainer, stage)(module, datamodule=Toy(samples), **options)
    return root


@pytest.fixture(scope="module")
def root(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Edited as the settings say, and once more by four strengths."""
    root = run(tiny_folder, tmp_path_factory.mktemp("candidates"), "fit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "assess", choose)
        run(tiny_folder, root, "predict")
        run(tiny_folder, root, "predict", FOUR)
    return root


def inversion_of(root: Path) -> Inversion:
    return Inversion.load(RunFolder(root).inversion_path("p0"))


def pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32, 3).movedim(-1, 0) / 255


def test_rows_of_the_batch_are_the_edits_alone_and_the_best_is_kept(root: Path, tiny: Backbone, chosen: None) -> None:
    inversion = inversion_of(root)
    images, made, masks = edit_best(tiny, inversion, EDITS, FOUR, None, lambda: None)  # type: ignore
    assert masks.shape == (2, 16, 16)
    assert images.shape == (3, 3, 32, 32) and [len(each) for each in made] == [4, 4]
    for each, listed, kept in zip(EDITS, made, images[1:], strict=True):
        best = listed[KEPT[each.prompt]]
        assert [one.is_kept for one in listed] == [one is best for one in listed] and torch.equal(kept, best.image)
        for (s, way), one in zip(strengths(FOUR), listed, strict=True):
            assert one.strength == s
            torch.testing.assert_close(one.image, edit(tiny, inversion, each, way)[0], rtol=0, atol=1e-4)
    assert not torch.equal(made[0][0].image, made[0][3].image)


def test_the_mask_of_a_swap_grows_with_strength_and_that_of_a_colour_does_not(root: Path, tiny: Backbone) -> None:
    inversion, ways = inversion_of(root), [way for _, way in strengths(FOUR)]
    swap, colour = (last_result(iter_edit(tiny, inversion, [each] * 4, ways)).masks for each in EDITS)
    assert all((weaker <= stronger).all() for weaker, stronger in pairwise(swap)) and swap[3].sum() > swap[1].sum()
    assert all(torch.equal(mask, colour[0]) for mask in colour)


def test_with_one_candidate_nothing_is_compared(root: Path, tiny: Backbone) -> None:
    inversion = inversion_of(root)
    images, made, masks = edit_best(tiny, inversion, EDITS, EditSettings(), None, lambda: pytest.fail("asked"))
    assert made == [] and torch.equal(images, edit(tiny, inversion, EDITS, with_source=True))
    assert masks.shape == (2, 16, 16)


@pytest.mark.parametrize(
    ("prompt", "shown"), [("a red dog and a dog", "cat"), ("a red cat and a dog on grass", None), ("a red cat", "dog")]
)
def test_the_place_is_where_the_changed_nouns_are(root: Path, tiny: Backbone, prompt: str, shown: str | None) -> None:
    place = candidates._place(tiny, inversion_of(root), Edit(prompt, "edit"), FOUR, None)
    if shown is None:
        assert place is None
        return
    prior = {noun.word: noun.prior for noun in make_two_objects("p0", seed=0).nouns}[shown]
    assert place is not None and torch.equal(place, prior > 0)  # of objects that end where cells of the latent do


def test_a_region_is_the_place(root: Path, tiny: Backbone) -> None:
    region = torch.zeros(32, 32)
    region[:4] = 0.5
    place = candidates._place(tiny, inversion_of(root), EDITS[0], FOUR, region)
    assert torch.equal(place, region > 0)  # type: ignore[arg-type]


class TestFiles:
    """What stands in edits/<id>/."""

    def test_all_are_listed_and_the_kept_one_is_the_edit_s_own(self, root: Path) -> None:
        folder = root / "edits/p0"
        rows = read_json(folder / "edits.json")["edits"]
        assert [row["file"] for row in rows] == [
            "1-word_swap.png",
            "2-attribute.png",
            "3-word_swap.png",
            "4-attribute.png",
        ]
        assert not any("candidates" in row for row in rows[:2])
        listed = [[one["file"] for one in row["candidates"]] for row in rows[2:]]
        assert listed[0] == ["3.1-word_swap.png", "3.2-word_swap.png", "3-word_swap.png", "3.4-word_swap.png"]
        assert listed[1] == ["4.1-attribute.png", "4.2-attribute.png", "4.3-attribute.png", "4-attribute.png"]
        first = rows[2]["candidates"][2]
        assert first == {
            "file": "3-word_swap.png",
            "strength": 1.4,
            "kept": True,
            "score": 1.0,
            "clip_target": 50.0,
            "background_mse": 0.0001,
            "structure_distance": 0.01,
        }
        masks = ["1.mask-word_swap.png", "2.mask-attribute.png", "3.mask-word_swap.png", "4.mask-attribute.png"]
        assert [row["mask"] for row in rows] == masks
        expected = {*masks, "source.png", "reconstruction.png", *(row["file"] for row in rows), *listed[0], *listed[1]}
        assert {path.name for path in folder.glob("*.png")} == expected

    def test_the_images_say_what_they_are(self, root: Path) -> None:
        with Image.open(root / "edits/p0/3.1-word_swap.png") as image:
            assert image.text["prompt"] == EDITS[0].prompt and json.loads(image.text["settings"])["candidates"] == 4
            assert json.loads(image.text["candidate"])["strength"] == 0.6 and "edit" not in image.text
        with Image.open(root / "edits/p0/3-word_swap.png") as image:
            row = json.loads(image.text["edit"])
        assert [one["kept"] for one in row["candidates"]] == [False, False, True, False]

    def test_one_candidate_is_the_given_strength(self, root: Path) -> None:
        assert torch.equal(pixels(root / "edits/p0/1-word_swap.png"), pixels(root / "edits/p0/3.2-word_swap.png"))

    def test_again_gives_equal_files(self, root: Path, tiny_folder: Path, chosen: None) -> None:
        def contents() -> dict[Path, bytes]:
            files = [path for path in (root / "edits").rglob("*") if path.is_file() and path.name != "seconds.json"]
            return {path: path.read_bytes() for path in files}

        before = contents()
        run(tiny_folder, root, "predict", FOUR)
        assert contents() == before

    def test_another_choice_leaves_no_file_of_the_last_one(
        self, root: Path, tiny_folder: Path, tmp_path: Path, chosen: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = Path(shutil.copytree(root, tmp_path / "copy"))
        monkeypatch.setitem(KEPT, EDITS[0].prompt, 0)
        run(tiny_folder, copy, "predict", FOUR)
        names = {path.name for path in (copy / "edits/p0").glob("3*.png")}
        assert names == {
            "3.mask-word_swap.png",
            "3-word_swap.png",
            "3.2-word_swap.png",
            "3.3-word_swap.png",
            "3.4-word_swap.png",
        }
        assert torch.equal(pixels(copy / "edits/p0/3-word_swap.png"), pixels(root / "edits/p0/3.1-word_swap.png"))

    def test_damage_is_named_and_told_by_the_files(self, root: Path, tmp_path: Path) -> None:
        copy = RunFolder(shutil.copytree(root, tmp_path / "copy"))
        listed = list_edits(copy, "p0")
        copy.edits_path("p0", "edits.json").write_text("{")
        assert list_edits(copy, "p0") == listed
        write_json(copy.edits_path("p0", "edits.json"), listed, sealed=True)
        copy.edits_path("p0", "3.1-word_swap.png").write_bytes(b"no image")
        (problem,) = damaged_edits(copy)
        assert "3.1-word_swap.png" in problem and "run predict again" in problem
        with pytest.raises(InputError, match=r"3\.1-word_swap\.png"):
            write_report(copy)

    @pytest.mark.parametrize("file", ["../evil.png", "3.1-word_swap.png/..", "3.123-a.png", "source.png"])
    def test_other_names_are_refused(self, root: Path, tmp_path: Path, file: str) -> None:
        copy = RunFolder(shutil.copytree(root, tmp_path / "copy"))
        listed: Any = list_edits(copy, "p0")
        listed["edits"][2]["candidates"][0]["file"] = file
        write_json(copy.edits_path("p0", "edits.json"), listed, sealed=True)
        with pytest.raises(InputError, match="edits.json"):
            list_edits(copy, "p0")


def test_the_report_shows_all_of_them(root: Path) -> None:
    page = (root / "report.html").read_text()
    assert page.count('<section class="candidates"') == 2
    assert page.count('<div class="candidate"') == 6 and page.count('<div class="candidate kept"') == 2
    assert page.count("<span>kept</span>") == 2 and page.count("strength 1.4</b>") == 2


def test_edits_of_a_run_choose_too(root: Path, chosen: None, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = edit_run(root, "p0", "a red zebra and a dog", EditSettings(candidates=2))
    row = list_edits(RunFolder(root), "p0")["edits"][-1]
    assert row["file"] == path.name and [one["strength"] for one in row["candidates"]] == [1.0, 1.8]
    assert "measures.clip=openai/clip-vit-large-patch14" in capsys.readouterr().err


def test_scores_are_those_of_the_kept_one(root: Path, tiny_folder: Path) -> None:
    run(tiny_folder, root, "test", FOUR)
    scored = read_json(root / "test/p0.json")["edits"]
    assert [edit["file"] for edit in scored] == ["3-word_swap.png", "4-attribute.png"]
