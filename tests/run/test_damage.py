"""Files of a run that are damaged, foreign, or made of other data: made again, or named; never taken as they are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markupsafe import escape
from PIL import Image
from runs import T, inversions, make_samples, run_stage
from test_types import SETTINGS, make_inversion, make_record, make_scores

from locinv_pl.api import edit_run
from locinv_pl.callbacks.attention_maps import AttentionMapSheets
from locinv_pl.callbacks.edits import EditSheets
from locinv_pl.callbacks.figures import tile_row
from locinv_pl.callbacks.report import holdable, write_report
from locinv_pl.cli.commands import table
from locinv_pl.errors import InputError, one_line
from locinv_pl.io.files import read_image, read_json, write_json
from locinv_pl.method.policies import Method, NullTextPolicy, TokenPolicy
from locinv_pl.run.edit_files import list_edits
from locinv_pl.run.edits import save_edits
from locinv_pl.run.status import status, to_text
from locinv_pl.run.store import RunFolder
from locinv_pl.types import Adjective, Edit, EditSample, Inversion, StepRecord

EDITS = (Edit("a red dog and a dog", "swap"), Edit("a cat and a dog", "attribute"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path, where: float = 0.7) -> None:
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)


DAMAGES = pytest.mark.parametrize("damage", [truncate, zero, flip])


FILES = [
    "inversions/p0.safetensors",
    "inversions/p2.json",
    "pictures.json",
    "contact_sheet.png",
    "reconstructions/p1.png",
    "sheets/p2.png",
    "settings.json",
    "summary.json",
]


def edited_samples() -> list[EditSample]:
    return [replace(sample, edits=EDITS) for sample in make_samples(3)]


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images, inverted and edited, with drawings."""
    root = tmp_path_factory.mktemp("made")
    plain = AttentionMapSheets(tensorboard_steps=0), EditSheets(tensorboard=False)
    run_stage(tiny_folder, root, samples=edited_samples(), callbacks=[plain[0]])
    run_stage(tiny_folder, root, stage="predict", samples=edited_samples(), callbacks=[plain[1]])
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def stage(tiny_folder: Path, run: RunFolder) -> Callable[..., Any]:
    def again(name: str, samples: list[EditSample] | None = None, **options: Any) -> Any:
        return run_stage(tiny_folder, run.root, stage=name, samples=samples or edited_samples(), **options)

    return again


def content(root: Path) -> dict[str, Any]:
    """What a run has, apart from times."""
    scores = [{**score, "seconds": 0} for score in RunFolder(root).scores()]
    images = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.png")}
    alike = {name: content for name, content in images.items() if "sheet" not in name}  # those show times
    return {"inversions": inversions(root), "scores": scores, "pictures": alike}


class TestFit:
    """The same command makes again what is damaged, in the batch it was made in."""

    @pytest.mark.parametrize("turn", range(3))
    def test_bit_for_bit(self, made: Path, run: RunFolder, stage: Callable[..., Any], turn: int) -> None:
        """In three turns every file is truncated, zeroed, and has a bit turned."""
        for number, file in enumerate(FILES):
            (truncate, zero, flip)[(number + turn) % 3](run.root / file)
        stage("fit", callbacks=[AttentionMapSheets(tensorboard_steps=0)])
        assert content(run.root) == content(made)
        assert read_json(run.root / "settings.json") == read_json(made / "settings.json")
        assert not list((run.root / "running").iterdir())
        for path in run.root.rglob("*.png"):
            read_image(path)

    def test_all_that_is_damaged_is_said(
        self, run: RunFolder, stage: Callable[..., Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, damage in (("p0.safetensors", zero), ("p2.json", truncate)):
            damage(run.root / "inversions" / name)
        with pytest.raises(InputError, match=r"p0.safetensors: .*; \S*p2.json: .*; run the inversion first"):
            stage("validate")
        stage("fit")
        told = capsys.readouterr().err
        assert "image 'p0' is inverted again" in told and "image 'p2' is inverted again" in told
        stage("validate")

    @pytest.mark.parametrize("damage", [truncate, zero, flip])
    def test_records_go_on_from_the_last_good_one(
        self, made: Path, tiny_folder: Path, tmp_path: Path, damage: Callable[[Path], None]
    ) -> None:
        from test_module import Interrupt

        root = tmp_path / "killed"
        with pytest.raises(KeyError):
            run_stage(tiny_folder, root, samples=edited_samples(), callbacks=[Interrupt(T - 1)])
        damage(root / "running/p1/0001.safetensors")
        run_stage(tiny_folder, root, samples=edited_samples())
        assert inversions(root) == inversions(made)

    def test_a_numbers_that_are_not_finite_are_not_taken(self, run: RunFolder, stage: Callable[..., Any]) -> None:
        path = run.inversion_path("p0")
        good = Inversion.load(path)
        replace(good, null=torch.full_like(good.null, torch.nan)).save(path)
        for name in ("predict", "validate"):
            with pytest.raises(InputError, match="p0.safetensors: .*null holds numbers that aren't finite"):
                stage(name)
        stage("fit")
        assert torch.equal(Inversion.load(path).null, good.null)


class TestChangedData:
    """What was made of another prompt, prior or image."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda s: replace(s, prompt="a red cat on a dog"),
            lambda s: replace(s, nouns=(replace(s.nouns[0], prior=s.nouns[0].prior.flip(-1)), s.nouns[1])),
        ],
        ids=["prompt", "prior"],
    )
    def test_is_inverted_again_and_never_edited_as_it_is(
        self,
        run: RunFolder,
        stage: Callable[..., Any],
        tiny_folder: Path,
        tmp_path: Path,
        change: Callable[[EditSample], EditSample],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        samples = edited_samples()
        samples[1] = change(samples[1])
        before = content(run.root)
        for name in ("predict", "validate", "test"):
            with pytest.raises(InputError, match="image 'p1': its prompt, nouns, priors or pixels aren't those that"):
                stage(name, samples)
        assert content(run.root)["inversions"] == before["inversions"]
        stage("fit", samples)
        assert "image 'p1' is inverted again" in capsys.readouterr().err
        run_stage(tiny_folder, tmp_path / "fresh", samples=samples)
        assert inversions(run.root) == inversions(tmp_path / "fresh")
        stage("predict", samples, callbacks=[EditSheets(tensorboard=False)])
        listed = read_json(run.edits_path("p1", "edits.json"))
        assert listed["fingerprint"] == samples[1].fingerprint and listed["prompt"] == samples[1].prompt
        assert [row["file"] for row in listed["edits"]] == ["3-swap.png", "4-attribute.png"]
        assert run.edits_path("p1", "1-swap.png").exists()

    def test_half_finished(self, tiny_folder: Path, tmp_path: Path, made: Path) -> None:
        from test_module import Interrupt

        other = [replace(sample, prompt="a cat and a red dog") for sample in edited_samples()]
        with pytest.raises(KeyError):
            run_stage(tiny_folder, tmp_path, samples=other, callbacks=[Interrupt(2)])
        run_stage(tiny_folder, tmp_path, samples=edited_samples())
        assert inversions(tmp_path) == inversions(made)

    def test_the_fingerprint_is_of_everything(self) -> None:
        one = make_samples(1)[0]
        cat, dog = one.nouns
        others = [
            replace(one, prompt="a red cat and a dog."),
            replace(one, image=one.image + 1e-7),
            replace(one, image=one.image.flip(1)),
            replace(one, nouns=(dog, cat)),
            replace(one, nouns=(cat, replace(dog, word="dogs"))),
            replace(one, nouns=(cat, replace(dog, span=(0, 1)))),
            replace(one, nouns=(cat, replace(dog, prior=dog.prior / 2))),
            replace(one, nouns=(cat, replace(dog, mask=dog.mask.flip(0)))),
            replace(one, adjectives=()),
            replace(one, adjectives=(Adjective("red", (2, 5), 1),)),
        ]
        prints = [sample.fingerprint for sample in (one, *others)]
        assert len(set(prints)) == len(prints)
        assert make_samples(1)[0].fingerprint == one.fingerprint == replace(one, id="x", edits=EDITS).fingerprint


class TestEdits:
    """A run's folder may come from anywhere."""

    @pytest.mark.parametrize(
        "file", ["../../../victim.png", "/victim.png", "..", "1-x.png/../../x.png", "1-\0.png", ".1-x.png", 7, None, ""]
    )
    def test_names_of_files_are_never_paths(self, run: RunFolder, stage: Callable[..., Any], file: Any) -> None:
        victim = run.root.parent / "victim.png"
        Image.new("RGB", (32, 32)).save(victim)
        before, path = victim.read_bytes(), run.edits_path("p0", "edits.json")
        listed = read_json(path)
        listed["edits"][0]["file"] = file
        for sealed in (True, False):
            write_json(path, listed, sealed=sealed)
            for command in (lambda: stage("predict"), lambda: stage("test"), lambda: write_report(run)):
                with pytest.raises(InputError, match="edits.json: edits.0.file: "):
                    command()
        assert victim.read_bytes() == before

    def test_links_are_not_shown(self, run: RunFolder) -> None:
        Image.new("RGB", (32, 32), "red").save(run.root.parent / "private.png")
        path = run.edits_path("p0", "source.png")
        path.unlink()
        path.symlink_to(run.root.parent / "private.png")
        with pytest.raises(InputError, match="source.png: a link"):
            write_report(run)

    @DAMAGES
    def test_a_damaged_list_is_made_again(
        self, made: Path, run: RunFolder, stage: Callable[..., Any], damage: Callable[[Path], None]
    ) -> None:
        inversion = Inversion.load(run.inversion_path("p0"))
        about = {"prompt": inversion.prompt, "fingerprint": inversion.fingerprint, "settings": {"own": [1, None]}}
        black = {"source": None, "reconstruction": torch.zeros(3, 32, 32), "images": torch.zeros(1, 3, 32, 32)}
        save_edits(run, "p0", **about, **black, edits=[Edit("a zebra", "..")])
        before = list_edits(run, "p0")
        assert before["edits"][2]["file"] == "3-%2E..png"
        damage(run.edits_path("p0", "edits.json"))
        stage("predict")
        assert list_edits(run, "p0") == before

    def test_all_damaged_images_are_named(self, run: RunFolder, stage: Callable[..., Any]) -> None:
        for id, name, damage in (
            ("p0", "1-swap.png", flip),
            ("p1", "source.png", zero),
            ("p2", "2-attribute.png", truncate),
        ):
            damage(run.edits_path(id, name))
        for command in (lambda: stage("test"), lambda: write_report(run)):
            with pytest.raises(InputError, match="1-swap.png: .*source.png: .*2-attribute.png: .*run predict again"):
                command()
        stage("predict", callbacks=[EditSheets(tensorboard=False)])
        stage("test")


class TestForeign:
    """JSON and tensors of other kinds than expected: one line that names the file."""

    CONTENTS = ("null", "[]", "3", '"x"', "{}", "[" * 100000, "1" * 5000, "NaN", '{"id": Infinity}', "\ud800", "")
    FILES = ("settings.json", "pictures.json", "inversions/p1.json", "summary.json", "edits/p0/edits.json")
    FILES += ("edits/p0/maps/maps.json", "skipped/p9.json", "validation/p0.json", "test/p0.json")

    @pytest.mark.parametrize("text", CONTENTS, ids=[text[:9].encode("unicode_escape").decode() for text in CONTENTS])
    def test_json(self, run: RunFolder, text: str, tmp_path: Path) -> None:
        own = RunFolder(tmp_path / "own")
        readers: list[Callable[[], object]] = [lambda: to_text("x", status(own.root)), lambda: write_report(own)]
        readers += [lambda: table([str(own.root)]), lambda: own.claim({}), lambda: own.pending(["p0", "p1"])]
        readers += [lambda: own.scores("validation"), lambda: own.scores("test"), lambda: list_edits(own, "p0")]
        for name in self.FILES:
            shutil.copytree(run.root, own.root, ignore=shutil.ignore_patterns("*.safetensors", "sheets"))
            path = own.root / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
            refusals = 0
            for reader in readers:
                try:
                    reader()
                except InputError as error:
                    assert "\n" not in str(error)
                    refusals += str(path) in str(error) or path.name in str(error)
            assert refusals or name in ("skipped/p9.json", "inversions/p1.json", "edits/p0/edits.json"), name
            shutil.rmtree(own.root)

    @pytest.mark.parametrize(
        "change",
        [
            {"null": torch.zeros(2, 20, 8)},
            {"null": torch.zeros(3, 20, 8, dtype=torch.int64)},
            {"latent": torch.zeros(())},
            {"maps": torch.zeros(3, 1, 8, 8)},
            {"tokens": torch.zeros(3, 2, 8)},
            {"tokens": torch.full((3, 1, 8), torch.inf)},
            {"losses": torch.full((3, 3), torch.inf)},
            {"trajectory": torch.zeros(3, 4, 4, 4)},
            {"token_steps": torch.zeros(3)},
            {"dynamic": (20,)},
            {"dynamic": (-1,)},
            {"noun_positions": ((2,), (10**9,))},
            {"nouns": ("cat",)},
            {"settings": {}},
            {"settings": {"backbone": 3, "method": {}, "num_steps": 3}},
            {"settings": {"backbone": "tiny", "method": {}, "num_steps": 4}},
            {"prompt": None},
        ],
        ids=str,
    )
    def test_tensors_that_do_not_go_together(self, change: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        replace(make_inversion(), **change).save(path)
        with pytest.raises(InputError, match="x.safetensors: ") as caught:
            Inversion.load(path)
        assert "\n" not in str(caught.value)

    def test_what_may_be_missing_or_infinite(self, tmp_path: Path) -> None:
        inversion = make_inversion()
        inversion.losses[0, 0], inversion.thresholds[0, 0] = torch.nan, torch.inf
        inversion.save(tmp_path / "x")
        assert Inversion.load(tmp_path / "x").losses[0, 0].isnan()

    def test_every_flipped_bit_is_seen(self, tmp_path: Path) -> None:
        for make, kind in ((make_inversion, Inversion), (make_record, StepRecord)):
            path = tmp_path / "x"
            make().save(path)
            whole = path.read_bytes()
            for n in range(7, len(whole), 97):
                path.write_bytes(whole[:n] + bytes([whole[n] ^ 4]) + whole[n + 1 :])
                try:
                    found = kind.load(path)
                except InputError:
                    continue
                path.write_bytes(whole)
                assert str(vars(found)) == str(vars(kind.load(path)))  # a bit that says nothing

    def test_an_inversion_of_other_widths(self, run: RunFolder) -> None:
        path = run.inversion_path("p0")
        good = Inversion.load(path)
        for change in ({"null": good.null[..., :8], "tokens": good.tokens[..., :8]}, {"null": good.null[:, :18]}):
            replace(good, **change).save(path)
            with pytest.raises(InputError, match="'p0': its tensors aren't this backbone's"):
                edit_run(run.root, "p0", "a cat")

    @pytest.mark.parametrize("name", ["settings.json", "inversions/p0.safetensors", "edits/p0/source.png"])
    def test_pipes_are_not_waited_for(self, run: RunFolder, name: str) -> None:
        (run.root / name).unlink()
        os.mkfifo(run.root / name)
        with pytest.raises(InputError, match="no regular file"):
            {".json": lambda: run.settings, ".png": lambda: write_report(run)}.get(
                Path(name).suffix, lambda: run.inversion("p0", "")
            )()

    def test_tensors_that_share_memory(self, tiny_folder: Path, tmp_path: Path) -> None:
        direct = Method(tokens=TokenPolicy(policy="fixed"), null_text=NullTextPolicy(policy="direct"))
        run_stage(tiny_folder, tmp_path, count=1, method=direct)
        assert len(inversions(tmp_path)) == 1

    def test_numbers_that_are_not_finite_are_null(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path)
        run.save_scores("validation", "a", make_scores("a", psnr=float("inf"), iou=[float("nan"), 1.0]))
        assert "NaN" not in (text := (tmp_path / "validation/a.json").read_text()) and "Infinity" not in text
        score = run.scores("validation")[0]
        assert score["psnr"] is None and score["iou"] == [None, 1.0]


class TestTrainersEnd:
    """A part of the images isn't passed for all of them."""

    @pytest.mark.parametrize("options", [{"max_steps": 2}, {"limit_train_batches": 2}, {"fast_dev_run": True}], ids=str)
    def test_fit(self, tiny_folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="fit: 3 of 3 images are unfinished: max_steps"):
            run_stage(tiny_folder, tmp_path, **options)
        run_stage(tiny_folder, tmp_path)

    @pytest.mark.parametrize("name", ["validate", "predict", "test"])
    def test_others(self, stage: Callable[..., Any], name: str) -> None:
        options = {f"limit_{name.replace('validate', 'val')}_batches": 1}
        with pytest.raises(InputError, match=f"{name}: some of 3 images are unfinished"):
            stage(name, **options)
        stage(name, **{key: 2 for key in options})


ESCAPES = "\x1b[31mred\x07\r\u202e\x9b1m"


def test_terminals_obey_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path)
    write_json(tmp_path / "settings.json", SETTINGS)
    run.save_scores("skipped", ESCAPES, {"id": ESCAPES, "problem": ESCAPES})
    run.save_record([ESCAPES + "2"], 0, make_record().pick([0]))
    from locinv_pl.run.summary import markdown_table

    for text in (to_text(ESCAPES, status(tmp_path)), str(InputError(ESCAPES)), markdown_table([["kind"], [ESCAPES]])):
        assert all(line.isprintable() for line in text.split("\n")) and "\\x1b[31mred" in text
    assert one_line("写 é ü") == "写 é ü" and one_line("a\ud800\n b\0") == "a\\ud800 b\\x00"


def test_pages_hold_what_html_can_hold() -> None:
    assert escape(holdable("a\0<b>\x1b\ud800\ufffe \n写😀&")) == "a\ufffd&lt;b&gt;\ufffd\ufffd\ufffd \n写😀&amp;"


def test_a_crafted_map_does_not_reach_the_page(run: RunFolder) -> None:
    path, evil = run.edits_path("p0", "maps", "maps.json"), '"><script>alert(1)</script>'
    whole = read_json(path)
    for crafted in (
        {**whole, "num_steps": evil},
        {**whole, "steps": [evil]},
        {**whole, "nouns": [{**whole["nouns"][0], "ddim": [evil]}]},
        {**whole, "nouns": [{**whole["nouns"][0], "ddim": []}]},
    ):
        path.write_text(json.dumps(crafted))
        with pytest.raises(InputError, match="maps.json: "):
            write_report(run)
    path.write_text(json.dumps({**whole, "nouns": [{**whole["nouns"][0], "word": evil + "\0"}]}))
    page = write_report(run).read_text()
    assert evil not in page and "\0" not in page


def test_half_a_character_is_refused_where_a_sample_is_made() -> None:
    sample = make_samples(1)[0]
    for change in (lambda: replace(sample, id="\ud800"), lambda: replace(sample, prompt="a red cat and a dog \udcff")):
        with pytest.raises(InputError, match="half a character"):
            change()
    with pytest.raises(InputError, match="half a character"):
        Edit("a \udcff", "x")


def test_what_results_depend_on_is_recorded_and_refused(
    run: RunFolder, stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounding = read_json(run.root / "settings.json")["rounding"]
    assert (rounding["device"], rounding["threads"], rounding["batch_size"]) == ("cpu", 1, 2)
    with pytest.raises(InputError, match=r"made with rounding.batch_size=2, this run has rounding.batch_size=1"):
        stage("fit", data={"batch_size": 1})
    stage("validate", data={"batch_size": 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(InputError, match=r"rounding.threads=1, this run has rounding.threads=2"):
        stage("fit")


def test_an_image_is_measured_as_it_was(made: Path) -> None:
    with Image.open(made / "edits/p0/1-swap.png") as image:
        assert np.asarray(image).shape == (32, 32, 3) and json.loads(image.info["edit"])["kind"] == "swap"


def test_half_a_character_from_a_file_can_be_drawn() -> None:
    assert tile_row("\ud800", [("\x1b\0", np.zeros((8, 8, 3), np.uint8), "\udcff")]).width > 0
