"""One photograph from Python: opened as ``data=folder`` opens it, inverted once, edited."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_image
from PIL import Image
from refusals import refused
from safetensors.torch import save_file

from locinv_pl import EditSettings, InputError, edit, iter_edit, load_backbone, load_method
from locinv_pl.api import edit_run
from locinv_pl.cli.main import main
from locinv_pl.datamodules.entries import Problems
from locinv_pl.datamodules.folder import FolderDataModule
from locinv_pl.drawing import to_array
from locinv_pl.networks.options import LoadOptions
from locinv_pl.photo import Photo, PhotoEdit, PhotoRun, command_of, composite, open_photo, save_photo, snippet_of
from locinv_pl.photo import run as photo_run
from locinv_pl.run.edit_files import damaged_edits, list_edits

SIDE, R, T = 32, 8, 2
PROMPT = "a red cat and a dog on grass"
QUICK = load_method("locinv_direct")
QUICK = replace(QUICK, tokens=replace(QUICK.tokens, max_steps=1))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A photograph of 60 x 40 pixels, stored lying on its side."""
    pixels = to_array(make_image(60))[:40]
    stored = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "pets.png", exif=exif)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 32:46] = 255
    Image.fromarray(mask).save(tmp_path / "dog.png")
    return tmp_path / "pets.png"


def photo_of(file: Path, **options: object) -> Photo:
    priors = {"cat": (12, 8, 14, 20), "dog": str(file.parent / "dog.png")}
    return open_photo(file, options.pop("prompt", PROMPT), priors, SIDE, **options)  # type: ignore[arg-type]


def run_in(folder: Path, backbone, method=QUICK) -> PhotoRun:
    return PhotoRun(folder, backbone, method, T, R)


@pytest.mark.parametrize("fit", ["crop", "pad", "native"])
def test_a_saved_photograph_is_the_same_to_a_folder(file, tmp_path, fit):
    photo = photo_of(file, fit=fit)
    save_photo(photo, tmp_path / "kept", ["a red cat and a pig on grass"])
    side = 64 if fit == "native" else SIDE  # native makes multiples of 64
    photo = photo if side == SIDE else open_photo(file, PROMPT, dict(photo.priors) | {}, side, fit)
    (sample,) = FolderDataModule(str(tmp_path / "kept"), fit=fit).read(side, Problems())
    assert torch.equal(sample.image, photo.sample.image)
    assert sample.frame == photo.sample.frame and sample.frame.image == (60, 40)  # upright
    assert sample.adjectives == photo.sample.adjectives
    for one, other in zip(sample.nouns, photo.sample.nouns, strict=True):
        assert one.word == other.word and torch.equal(one.prior, other.prior) and torch.equal(one.mask, other.mask)
    assert sample.fingerprint == photo.sample.fingerprint and sample.edits[0].prompt.endswith("pig on grass")


def test_a_box_in_the_photograph_s_pixels_is_where_it_was_drawn(file):
    sample = photo_of(file, fit="crop").sample  # 40 x 40 from x = 10 on, to 32 x 32
    rows, columns = (torch.nonzero(sample.nouns[0].mask.any(axis)).flatten() for axis in (1, 0))
    assert rows.min() == round(8 * 0.8) and rows.max() == round(28 * 0.8) - 1
    assert columns.min() == round((12 - 10) * 0.8) and columns.max() == round((26 - 10) * 0.8) - 1


def test_an_inversion_is_found_again_without_a_step(file, tmp_path, tiny, monkeypatch):
    first = run_in(tmp_path / "out", tiny).invert(photo_of(file))
    monkeypatch.setattr(photo_run, "invert_sample", None)
    run = run_in(tmp_path / "out", tiny)
    again = run.invert(photo_of(file))
    assert torch.equal(again.latent, first.latent) and torch.equal(again.tokens, first.tokens)
    for other in (photo_of(file, prompt="a red cat and a dog"), photo_of(file, fit="pad")):
        assert run.find(other) is None and other.sample.id != photo_of(file).sample.id


def test_another_method_in_the_same_folder_is_refused(file, tmp_path, tiny):
    run_in(tmp_path / "out", tiny).invert(photo_of(file))
    refused(
        lambda: run_in(tmp_path / "out", tiny, "nti").invert(photo_of(file)), "out: holds results made with", "output="
    )


def test_a_damaged_inversion_is_made_again(file, tmp_path, tiny, capsys):
    photo, run = photo_of(file), run_in(tmp_path / "out", tiny)
    first = run.invert(photo)
    path = run.folder.inversion_path(photo.sample.id)
    path.write_bytes(path.read_bytes()[:-100])
    assert torch.equal(run.invert(photo).latent, first.latent)
    assert "photo 'pets' is inverted again" in capsys.readouterr().err


def test_nothing_is_kept_of_a_cancelled_inversion(file, tmp_path, tiny):
    photo, run = photo_of(file), run_in(tmp_path / "out", tiny)
    steps = run.iter_invert(photo)
    next(steps)
    steps.close()
    assert run.find(photo) is None and not (tmp_path / "out/inversions").exists()


def test_edits_are_those_of_edit_and_the_folder_is_a_run_s(file, tmp_path, tiny_folder, tiny):
    photo, run = photo_of(file), run_in(tmp_path / "out", tiny)
    prompts = ["a red cat and a pig on grass", "a blue cat and a dog on grass"]
    result, paths = run.edit(photo, prompts)
    expected = edit(tiny, run.invert(photo), prompts)
    assert torch.equal(result.images, expected)
    for path, image in zip(paths, expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), to_array(image))
        assert Image.open(path).info["source_prompt"] == PROMPT
    (more,) = edit_run(tmp_path / "out", photo.sample.id, "a red cat and a cow on grass")
    assert more.name == "3-word_swap.png"


def test_beside_an_edit_lies_the_photograph_at_its_own_size(file, tmp_path, tiny):
    photo, run = photo_of(file), run_in(tmp_path / "out", tiny)
    prompts, settings = ["a red cat and a pig on grass", "a blue cat and a dog on grass"], EditSettings(blend="prior")
    result, paths = run.edit(photo, prompts, settings)
    made = list(iter_edit(tiny, run.invert(photo), prompts, settings))[-1].result
    assert made is not None
    rows = list_edits(run.folder, photo.sample.id)["edits"]
    for n, (path, row) in enumerate(zip(paths, rows, strict=True)):
        kept = Image.open(path.parent / row["photo"])
        assert row["photo"] == path.name.replace("-", ".photo-") and kept.size == (60, 40)
        assert kept.info["prompt"] == prompts[n]
        assert np.array_equal(np.asarray(kept), to_array(composite(photo, result.images[n], made.masks[n])))
        unchanged = (np.asarray(kept) == to_array(photo.pixels)).all(-1)
        assert unchanged[:, :10].all() and unchanged[:, 50:].all() and not unchanged.all()  # beside the square
    (paths[0].parent / "edits.json").write_text("{")
    assert [row["photo"] for row in list_edits(run.folder, photo.sample.id)["edits"]] == [row["photo"] for row in rows]
    (paths[0].parent / rows[1]["photo"]).write_bytes(b"no image")
    (problem,) = damaged_edits(run.folder)
    assert rows[1]["photo"] in problem


def test_of_several_strengths_the_kept_one_is_in_the_photograph(file, tmp_path, tiny):
    photo, run = photo_of(file), run_in(tmp_path / "out", tiny)
    result, (path,) = run.edit(photo, "a red cat and a pig on grass", EditSettings(blend="prior", candidates=3))
    (row,) = list_edits(run.folder, photo.sample.id)["edits"]
    mask = torch.from_numpy(np.array(Image.open(path.parent / row["mask"]))) / 255
    whole = np.asarray(Image.open(path.parent / row["photo"]))
    assert np.array_equal(whole, to_array(composite(photo, result.images[0], mask)))
    # Made again without the photograph, another strength may be kept: no photograph is left that may not fit.
    edit_run(tmp_path / "out", photo.sample.id, row["prompt"], EditSettings(blend="prior", candidates=3))
    (again,) = list_edits(run.folder, photo.sample.id)["edits"]
    assert again["file"] == row["file"] and "photo" not in again and not (path.parent / row["photo"]).exists()


def test_made_again_without_the_photograph_an_edit_keeps_it(file, tmp_path, tiny):
    photo, run = photo_of(file), run_in(tmp_path / "out", tiny)
    _, (path,) = run.edit(photo, "a red cat and a pig on grass", EditSettings(blend="prior"))
    edit_run(tmp_path / "out", photo.sample.id, "a red cat and a pig on grass", EditSettings(blend="prior"))
    (row,) = list_edits(run.folder, photo.sample.id)["edits"]
    assert (path.parent / row["photo"]).exists()


def test_a_region_in_the_photograph_s_pixels(file, tmp_path, tiny):
    photo, run = photo_of(file), run_in(tmp_path / "out", tiny)
    region = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    region[:, :8] = True
    result, _ = run.edit(photo, "a red cat and a pig on grass", region=region)
    (row,) = list_edits(run.folder, photo.sample.id)["edits"]
    assert row["settings"]["blend"] == "prior" and row["settings"]["region"]  # as `locinv edit` writes it
    made = next(p for p in [*iter_edit(tiny, run.invert(photo), "a red cat and a pig on grass", region=region)][::-1])
    assert torch.equal(result.images, made.result.images) and (made.result.masks[0][:, 8:] == 0).all()


def test_the_shown_command_and_snippet_make_the_same_image(file, tmp_path, tiny_folder, tiny, monkeypatch, capsys):
    settings = EditSettings(swap_steps=0.5, blend="prior")
    lora = str(tmp_path / "lora.safetensors")
    layer = "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    save_file({f"{layer}.lora_A.weight": torch.ones(1, 32), f"{layer}.lora_B.weight": torch.ones(32, 1)}, lora)
    tuned = load_backbone(str(tiny_folder), "bfloat16", lora=lora)
    prompts = ["a red cat and a pig on grass"]
    photo = open_photo(file, PROMPT, {"cat": (12, 8, 14, 20), "dog": str(file.parent / "dog.png")}, tiny)
    told = PhotoEdit(
        photo,
        prompts,
        str(file),
        {"dog": [str(file.parent / "dog.png")]},
        settings,
        backbone=str(tiny_folder),
        model=LoadOptions(lora=lora),
        dtype="bfloat16",
        num_steps=T,
        resolution=R,
    )
    monkeypatch.chdir(tmp_path)
    run = PhotoRun("outputs/photo", tuned, num_steps=T, resolution=R)
    (path,) = run.edit(photo, prompts, settings)[1]
    expected = np.asarray(Image.open(path))
    path.unlink()
    name, command, *words = shlex.split(command_of(told))
    assert (name, command) == ("locinv", "photo")
    main([command, *words, "device=cpu"])
    assert run.folder.settings["lora"] == lora
    assert np.array_equal(np.asarray(Image.open(path)), expected) and str(path) in capsys.readouterr().out
    made: dict[str, object] = {}
    exec(snippet_of(told), made)
    assert np.array_equal(to_array(made["images"][0]), expected)  # type: ignore[index]


@pytest.mark.parametrize(
    ("priors", "parts"),
    [
        ({"cat": (0, 0, 0, 0)}, ["noun 'cat'"]),
        ({"cat": (70, 50, 5, 5)}, ["noun 'cat'"]),
        ({"cat": (0, 0, 5, 5)}, ["noun 'cat'", "the part of the image that is shown", "fit=pad"]),
        ({"zebra": (12, 8, 14, 20)}, ["zebra"]),
        ({"cat": np.zeros((40, 60), bool)}, ["noun 'cat'", "empty"]),
        ({"cat": np.ones((30, 60), bool)}, ["noun 'cat'", "60x30", "60x40"]),
        ({"cat": [(12, 8, 14, 20), (12, 8, 14, 20)]}, ["'cat' stands 1 times", "2 priors"]),
    ],
)
def test_priors_that_do_not_fit(file, priors, parts):
    refused(lambda: open_photo(file, PROMPT, priors, SIDE), *parts)


@pytest.mark.parametrize(
    ("prompts", "parts"),
    [(PROMPT, ["is the source prompt"]), ("", ["has no word"]), ("a " * 100, ["tokens", "shorten", "…"])],
)
def test_edits_that_can_not_be_made_lose_nothing(file, tmp_path, tiny, prompts, parts):
    photo, run = photo_of(file), run_in(tmp_path / "out", tiny)
    with pytest.raises(InputError) as told:
        run.edit(photo, prompts)
    assert all(part in str(told.value) for part in parts) and "\n" not in str(told.value)
    assert run.find(photo) is not None
