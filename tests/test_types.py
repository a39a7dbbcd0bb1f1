"""Files of tensors: what is written comes back, and damage is one clear line."""

import os
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from conftest import make_image
from safetensors.torch import save_file

from locinv_pl.errors import InputError
from locinv_pl.io.files import write_atomically
from locinv_pl.types import EditSample, Inversion, Noun, StepRecord

T, B, K, N, L, D = 3, 2, 2, 1, 20, 8


def make_record(seed: int = 0) -> StepRecord:
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(B, 3, generator=generator)
    losses[0, 2] = torch.nan
    return StepRecord(
        latent=torch.randn(B, 4, 4, 4, generator=generator),
        tokens=torch.randn(B, L, D, generator=generator),
        null=torch.randn(1, L, D, generator=generator).expand(B, -1, -1),
        maps=torch.rand(B, K, 8, 8, generator=generator).transpose(-1, -2),
        losses=losses,
        thresholds=torch.rand(3, generator=generator),
        null_loss=torch.rand(B, generator=generator),
        token_steps=torch.tensor([0, 7], dtype=torch.int32),
        null_steps=torch.tensor([1, 2], dtype=torch.int32),
        seconds=1.25,
    )


def make_inversion(id: str = "a", seed: int = 0) -> Inversion:
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    return Inversion(
        id=id,
        prompt="a cat — „very“ red",
        nouns=("cat", "red"),
        noun_positions=((2,), (4, 5)),
        dynamic=(2,),
        settings={"backbone": "tiny", "method": {"name": "locinv", "tokens": {"lr": 0.01}}, "num_steps": T},
        trajectory=rand(T + 1, 4, 4, 4),
        tokens=rand(T, N, D),
        null=rand(T, L, D),
        maps=rand(T, K, 8, 8),
        initial_maps=rand(T, K, 8, 8),
        priors=rand(K, 8, 8),
        fine_priors=rand(K, 4, 4),
        latent=rand(4, 4, 4),
        losses=rand(T, 3),
        thresholds=rand(T, 3),
        null_loss=rand(T),
        token_steps=torch.arange(T),
        null_steps=torch.arange(T),
    )


def make_scores(id: str, **more: object) -> dict[str, object]:
    """A finished image's scores."""
    of_nouns = {"iou_initial": [0.25, 0.5], "iou": [0.5, 1.0], "iou_curve": [[0.5] * T, [1.0] * T]}
    plain = {"psnr": 20.0, "ssim": 0.5, "psnr_vae": 30.0, "seconds": 1.5}
    return {"id": id, "prompt": "a cat", "nouns": ["cat", "red"], **of_nouns, **plain, **more}


SETTINGS = {"backbone": "tiny", "method": {"name": "locinv", "tokens": {"lr": 0.01}}, "num_steps": T}
SETTINGS |= {"dtype": "float32", "data": {}}
MAKERS = pytest.mark.parametrize("make", [make_record, make_inversion], ids=["record", "inversion"])


@MAKERS
def test_round_trip_is_exact(make, tmp_path):
    before = make()
    before.save(tmp_path / "x.safetensors")
    after = type(before).load(tmp_path / "x.safetensors")
    for field in fields(before):
        a, b = getattr(before, field.name), getattr(after, field.name)
        if isinstance(a, torch.Tensor):
            assert b.dtype == a.dtype
            assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)), field.name
        else:
            assert b == a, field.name


@MAKERS
def test_same_content_same_bytes(make, tmp_path):
    make().save(tmp_path / "a")
    make().save(tmp_path / "b")
    make(seed=1).save(tmp_path / "c")
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_noise_is_the_end_of_the_trajectory():
    inversion = make_inversion()
    assert torch.equal(inversion.noise, inversion.trajectory[T])
    assert inversion.num_steps == T


def damage(path: Path, how: str) -> None:
    make_inversion().save(path)
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "truncated in the header":
        path.write_bytes(content[:100])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("hello")
    elif how == "no header":
        save_file({"x": torch.zeros(1)}, path)
    elif how == "another header":
        save_file({"x": torch.zeros(1)}, path, metadata={"locinv": "{}"})
    elif how == "header no object":
        save_file({"x": torch.zeros(1)}, path, metadata={"locinv": "[1]"})
    elif how == "another format":
        path.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    elif how == "another kind":
        save_file({"x": torch.zeros(1)}, path, metadata={"locinv": '{"format": 1}'})
    elif how == "folder":
        path.unlink()
        path.mkdir()


DAMAGES = [
    "missing",
    "truncated",
    "truncated in the header",
    "empty",
    "text",
    "no header",
    "another header",
    "header no object",
    "another format",
    "another kind",
    "folder",
]


@pytest.mark.parametrize("kind", [StepRecord, Inversion])
@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_one_line_that_names_the_file(kind, how, tmp_path):
    path = tmp_path / "x.safetensors"
    damage(path, how)
    with pytest.raises(InputError) as caught:
        kind.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


def test_records_and_inversions_are_not_mixed_up(tmp_path):
    make_record().save(tmp_path / "record")
    make_inversion().save(tmp_path / "inversion")
    with pytest.raises(InputError, match="not an inversion"):
        Inversion.load(tmp_path / "record")
    with pytest.raises(InputError, match="not a timestep"):
        StepRecord.load(tmp_path / "inversion")


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_write_is_atomic(where, tmp_path, monkeypatch):
    path = tmp_path / "new" / "x"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    if where == "replace":
        monkeypatch.setattr(os, "replace", fail)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="x: can't be written .disk full."):
        write_atomically(path, b"new content")
    monkeypatch.undo()
    assert [p.name for p in path.parent.iterdir()] == ["x"]
    assert path.read_bytes() == b"old"


class TestEditSample:
    """A sample refuses priors that can't be meant."""

    def noun(self, prior: torch.Tensor, mask: torch.Tensor | None = None) -> Noun:
        return Noun("cat", (2, 5), prior, prior > 0.5 if mask is None else mask)

    def test_a_fitting_prior_is_taken(self):
        assert EditSample("x", make_image(), "a cat", (self.noun(torch.ones(32, 32)),)).nouns[0].word == "cat"

    @pytest.mark.parametrize(
        "prior, mask, says",
        [
            (torch.ones(16, 32), None, "prior is 32x16 but the image is 32x32"),
            (torch.ones(32, 32), torch.ones(32, 8, dtype=torch.bool), "mask is 8x32 but the image is 32x32"),
            (torch.zeros(32, 32), None, "prior is empty"),
        ],
    )
    def test_other_priors_are_refused(self, prior, mask, says):
        with pytest.raises(InputError, match=says) as caught:
            EditSample("pic", make_image(), "a cat", (self.noun(prior, mask),))
        assert "'pic'" in str(caught.value)
        assert "'cat'" in str(caught.value)
