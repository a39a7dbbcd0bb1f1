"""Whole runs through the Trainer, of a tiny model: files, going on after an end, callbacks."""

import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_image
from lightning.pytorch import Callback, Trainer
from PIL import Image
from runs import METHOD, T, inversions, make_samples, run_stage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from locinv_pl.callbacks.attention_iou import AttentionIoUCurves
from locinv_pl.callbacks.attention_maps import AttentionMapSheets
from locinv_pl.callbacks.progress import InversionProgress
from locinv_pl.errors import InputError
from locinv_pl.io.files import read_json
from locinv_pl.method.policies import Method
from locinv_pl.run.module import LocInvModule
from locinv_pl.run.store import RunFolder
from locinv_pl.types import EditSample, Inversion

IDS = ["p0", "p1", "p2"]


class Interrupt(Callback):
    """Raises after the given number of timesteps."""

    def __init__(self, after: int):
        self.left = after

    def on_train_batch_end(self, *_: Any) -> None:
        """Count."""
        self.left -= 1
        if self.left == 0:
            raise KeyError("interrupted")


@pytest.fixture(scope="module")
def run_fit(tiny_folder) -> Callable[..., tuple[Trainer, LocInvModule]]:
    """Runs a stage into a folder."""
    return partial(run_stage, tiny_folder)


@pytest.fixture(scope="module")
def done(run_fit, tmp_path_factory) -> tuple[Path, Trainer, LocInvModule]:
    """An undisturbed run of three images, with all callbacks."""
    root = tmp_path_factory.mktemp("done")
    trainer, module = run_fit(root, callbacks=[AttentionIoUCurves(), AttentionMapSheets()])
    return root, trainer, module


def times(root: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in sorted((root / "inversions").iterdir())}


class TestUndisturbed:
    """A run from beginning to end."""

    def test_every_image_has_its_files(self, done):
        root, *_ = done
        assert sorted(p.name for p in (root / "inversions").iterdir()) == sorted(
            f"{id}.{kind}" for id in IDS for kind in ("json", "safetensors")
        )
        for kind in ("sheets", "strips", "reconstructions"):
            assert sorted(p.name for p in (root / kind).iterdir()) == [f"{id}.png" for id in IDS]
        assert not list((root / "running").iterdir())
        assert not list(root.rglob("*.tmp"))

    def test_the_inversions_are_of_the_images(self, done):
        root, *_ = done
        for sample in make_samples(3):
            inversion = Inversion.load(root / f"inversions/{sample.id}.safetensors")
            assert (inversion.id, inversion.prompt) == (sample.id, sample.prompt)
            assert inversion.nouns == ("cat", "dog")
            assert inversion.num_steps == T
            assert inversion.maps.shape == (T, 2, 8, 8)

    def test_summary(self, done, tiny_folder):
        root, *_ = done
        summary = json.loads((root / "summary.json").read_text())
        images = summary["images"]
        assert list(summary) == [
            "method",
            "prior",
            "backbone",
            "num_images",
            "num_steps",
            "attention_iou_initial",
            "attention_iou",
            "psnr",
            "ssim",
            "psnr_vae",
            "seconds_per_image",
            "images",
        ]
        for image in images:
            assert list(image) == [
                "id",
                "prompt",
                "nouns",
                "iou_initial",
                "iou",
                "iou_curve",
                "psnr",
                "ssim",
                "psnr_vae",
                "ssim_vae",
                "token_steps",
                "null_steps",
                "seconds",
            ]
            assert len(image["iou"]) == len(image["iou_initial"]) == len(image["nouns"]) == 2
            assert image["seconds"] > 0
            assert image["token_steps"] <= T and image["null_steps"] <= T
        assert [image["id"] for image in images] == IDS
        constant = {key: summary[key] for key in ("method", "prior", "backbone", "num_images", "num_steps")}
        assert constant == {
            "method": "locinv",
            "prior": "segment",
            "backbone": str(tiny_folder),
            "num_images": 3,
            "num_steps": T,
        }
        for key, of in (("psnr", "psnr"), ("ssim", "ssim"), ("psnr_vae", "psnr_vae"), ("seconds_per_image", "seconds")):
            assert summary[key] == pytest.approx(sum(image[of] for image in images) / 3)
        assert summary["attention_iou"] == pytest.approx(sum(sum(image["iou"]) for image in images) / 6)

    def test_settings(self, done):
        root, _, module = done
        settings = read_json(root / "settings.json")
        assert Method.from_dict(settings["method"]) == METHOD and "num_steps" not in settings["method"]
        assert settings["num_steps"] == T
        assert settings["data"] == {"name": "toy", "prior": "segment", "size": 32, "fit": "crop", "words": "dictionary"}

    def test_global_step_counts_timesteps(self, done):
        assert done[1].global_step == 2 * T

    def test_the_networks_are_no_part_of_the_module(self, done):
        module = done[2]
        assert module.state_dict() == {}
        assert list(module.parameters()) == []

    def test_drawings_are_images(self, done):
        root, *_ = done
        for path in root.rglob("*.png"):
            with Image.open(path) as image:
                image.load()
                assert len(image.convert("RGB").getcolors(10**6)) > 10, path
        strips = [Image.open(root / f"strips/{id}.png") for id in IDS]
        with Image.open(root / "contact_sheet.png") as contact:
            assert contact.size == (strips[0].width, sum(strip.height for strip in strips))

    def test_the_reconstruction_on_disk_has_the_psnr_of_the_summary(self, done):
        root, *_ = done
        for sample, scores in zip(make_samples(3), RunFolder(root).scores(), strict=True):
            with Image.open(root / f"reconstructions/{sample.id}.png") as image:
                pixels = torch.tensor(list(image.getdata())).view(32, 32, 3).movedim(-1, 0) / 255
            error = (pixels - sample.image).square().mean().item()
            assert -10 * math.log10(error) == pytest.approx(scores["psnr"], abs=0.1)

    def test_tensorboard(self, done):
        root, *_ = done
        events = EventAccumulator(str(root / "tensorboard/p1"), {"scalars": 0, "images": 0})
        events.Reload()
        tags = events.Tags()
        losses = [f"{name}/{kind}" for name in ("similarity", "overlap", "adjective") for kind in ("loss", "threshold")]
        steps = ["null_text/loss", "null_text/gradient_steps", "tokens/gradient_steps"]
        ious = [f"{kind}/{noun}" for kind in ("iou", "iou_ddim") for noun in ("1_cat", "2_dog")]
        assert sorted(tags["scalars"]) == sorted(losses + steps + ious)
        for tag in tags["scalars"]:
            assert [event.step for event in events.Scalars(tag)] == list(range(T))
        maps = [f"{kind}/{noun}" for kind in ("ddim", "maps", "prior") for noun in ("1_cat", "2_dog")]
        images = ["picture/1_original_and_priors", "picture/2_reconstruction"]
        assert sorted(tags["images"]) == sorted(maps + images)
        assert len(events.Images("maps/1_cat")) == T
        inversion = Inversion.load(root / "inversions/p1.safetensors")
        logged = [event.value for event in events.Scalars("similarity/loss")]
        assert logged == pytest.approx(inversion.losses[:, 0].tolist(), rel=1e-5)


class TestAgain:
    """The same command once more."""

    def test_finished_images_are_left_alone(self, done, run_fit, tmp_path):
        root = Path(shutil.copytree(done[0], tmp_path / "run"))
        before, summary = times(root), (root / "summary.json").read_bytes()
        trainer, _ = run_fit(root)
        assert times(root) == before
        assert trainer.global_step == 0
        assert (root / "summary.json").read_bytes() == summary

    def test_more_images_only_add(self, done, run_fit, tmp_path):
        root = Path(shutil.copytree(done[0], tmp_path / "run"))
        before = times(root)
        run_fit(root, count=5, callbacks=[AttentionMapSheets()])
        assert before.items() < times(root).items()
        assert len(inversions(root)) == read_json(root / "summary.json")["num_images"] == 5
        heights = [Image.open(path).height for path in (done[0] / "contact_sheet.png", root / "contact_sheet.png")]
        assert heights[1] * 3 == heights[0] * 5

    @pytest.mark.parametrize("after", [1, 2, T, T + 2])
    def test_an_interrupted_run_goes_on_as_if_nothing_had_been(self, done, run_fit, tmp_path, after):
        with pytest.raises(KeyError, match="interrupted"):
            run_fit(tmp_path, callbacks=[Interrupt(after)])
        assert not (tmp_path / "summary.json").exists()
        kept = sorted(p.relative_to(tmp_path / "running").as_posix() for p in tmp_path.glob("running/*/*"))
        ids, steps = (["p0", "p1"], after) if after <= T else (["p2"], after - T)
        assert kept == [f"{id}/{i:04d}.safetensors" for id in ids for i in range(steps)]
        run_fit(tmp_path)
        assert inversions(tmp_path) == inversions(done[0])
        assert not list((tmp_path / "running").iterdir())
        assert read_json(tmp_path / "summary.json")["num_images"] == 3

    def test_steps_that_are_kept_are_not_computed_again(self, run_fit, tmp_path, monkeypatch):
        from locinv_pl.run import batch

        with pytest.raises(KeyError, match="interrupted"):
            run_fit(tmp_path, count=1, callbacks=[Interrupt(2)])
        steps, real = [], batch.invert_step
        monkeypatch.setattr(batch, "invert_step", lambda b, task, i, s: steps.append(i) or real(b, task, i, s))
        run_fit(tmp_path, count=1)
        assert steps == [2]

    @pytest.mark.parametrize("at", ["before the scores", "between the scores", "after the scores"])
    def test_an_end_while_a_batch_is_marked(self, done, run_fit, tmp_path, monkeypatch, at):
        marked = []

        def fail(*_: Any, **__: Any) -> None:
            raise KeyError("killed")

        def mark_one(self: RunFolder, kind: str, id: str, scores: Any) -> None:
            if marked:
                fail()
            marked.append(id)
            real(self, kind, id, scores)

        real = RunFolder.save_scores
        if at == "before the scores":
            monkeypatch.setattr(RunFolder, "finish", fail)
        elif at == "between the scores":
            monkeypatch.setattr(RunFolder, "save_scores", mark_one)
        else:
            monkeypatch.setattr(Path, "rmdir", fail)
        with pytest.raises(KeyError, match="killed"):
            run_fit(tmp_path)
        monkeypatch.undo()
        assert len(inversions(tmp_path)) == 2
        run_fit(tmp_path)
        assert inversions(tmp_path) == inversions(done[0])
        assert [score["id"] for score in RunFolder(tmp_path).scores()] == IDS

    def test_another_configuration_is_refused_and_nothing_changes(self, done, run_fit, tmp_path):
        root = Path(shutil.copytree(done[0], tmp_path / "run"))
        before = times(root)
        with pytest.raises(InputError, match=r"method\.guidance_scale=7\.5.*method\.guidance_scale=3\.0"):
            run_fit(root, method=Method(guidance_scale=3.0, tokens=METHOD.tokens, null_text=METHOD.null_text))
        assert times(root) == before


class TestValidate:
    """Reconstruction from the files alone."""

    def test_scores_are_those_of_fit(self, done, run_fit, tmp_path):
        root = Path(shutil.copytree(done[0], tmp_path / "run"))
        before = times(root), (root / "summary.json").read_bytes()
        run_fit(root, stage="validate")
        assert (times(root), (root / "summary.json").read_bytes()) == before
        fitted, again = read_json(root / "summary.json"), read_json(root / "validation.json")
        assert list(again) == list(fitted)
        for key in ("psnr", "psnr_vae", "attention_iou"):
            assert again[key] == pytest.approx(fitted[key], abs=1e-3)
        assert [image["psnr"] for image in again["images"]] == pytest.approx(
            [image["psnr"] for image in fitted["images"]], abs=1e-3
        )

    def test_a_missing_inversion_is_named(self, run_fit, tmp_path):
        with pytest.raises(InputError, match="p0.safetensors: no such file; run the inversion first"):
            run_fit(tmp_path, stage="validate")


class TestOtherTrainers:
    """What else the Trainer can be told."""

    def test_lightnings_own_strategy(self, done, run_fit, tmp_path):
        trainer, _ = run_fit(tmp_path, strategy="auto")
        assert trainer.global_step == 2 * T
        assert inversions(tmp_path) == inversions(done[0])

    def test_bf16_autocast(self, done, run_fit, tmp_path):
        run_fit(tmp_path, precision="bf16-mixed")
        exact = read_json(done[0] / "summary.json")
        rounded = read_json(tmp_path / "summary.json")
        assert rounded["psnr"] == pytest.approx(exact["psnr"], abs=1)
        assert rounded["psnr"] != exact["psnr"]
        for path in (tmp_path / "inversions").glob("*.safetensors"):
            inversion = Inversion.load(path)
            for name in ("trajectory", "tokens", "null", "maps", "latent"):
                assert getattr(inversion, name).isfinite().all(), name

    def test_bf16_can_be_interrupted_too(self, run_fit, tmp_path):
        run_fit(tmp_path / "a", count=1, precision="bf16-mixed")
        with pytest.raises(KeyError):
            run_fit(tmp_path / "b", count=1, precision="bf16-mixed", callbacks=[Interrupt(2)])
        run_fit(tmp_path / "b", count=1, precision="bf16-mixed")
        assert inversions(tmp_path / "a") == inversions(tmp_path / "b")

    def test_progress_bar(self, run_fit, tmp_path, capsys):
        run_fit(tmp_path, count=1, callbacks=[InversionProgress()], enable_progress_bar=True)
        out, err = capsys.readouterr()
        assert f"image=p0, timestep={T}/{T}" in out + err
        assert "IoU=" in out + err

    def test_an_image_without_nouns(self, run_fit, tmp_path):
        samples = [EditSample("bare", make_image(), "a dog"), *make_samples(1)]
        run_fit(
            tmp_path,
            samples=samples,
            callbacks=[InversionProgress(), AttentionIoUCurves(), AttentionMapSheets()],
            enable_progress_bar=True,
        )
        images = {image["id"]: image for image in read_json(tmp_path / "summary.json")["images"]}
        assert images["bare"]["iou"] == []
        assert len(images["p0"]["iou"]) == 2
        assert (tmp_path / "sheets/bare.png").exists()
