"""Captions and priors from foundation models, on their way into samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from foundation_models import settings
from PIL import Image

from locinv_pl.datamodules.entries import Problems
from locinv_pl.datamodules.folder import FolderDataModule
from locinv_pl.errors import InputError
from locinv_pl.grounding.captions import Blip
from locinv_pl.grounding.models import FoundationModels
from locinv_pl.grounding.nouns import Found, GroundedSam

WIDTH, HEIGHT = 70, 40


def found(left: int, right: int) -> Found:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[10:30, left:right] = True
    return Found(mask, np.array([[left, 10, right - left, 20]], dtype=np.float32), np.ones(1, dtype=np.float32))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models answer at once; what they were asked is noted."""
    asked: list[Any] = []

    def find(self: GroundedSam, image: Image.Image, nouns: list[str]) -> dict[str, Found]:
        asked.append((image.size, list(nouns)))
        return {noun: found(5, 25) if noun == "cat" else found(35, 60) for noun in nouns if noun != "ghost"}

    monkeypatch.setattr(GroundedSam, "find", find)
    monkeypatch.setattr(Blip, "caption", lambda self, image: "a black cat and a dog")
    return asked


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    (tmp_path / "mine").mkdir()
    Image.fromarray(pixels).save(tmp_path / "mine/pets.png")
    return tmp_path / "mine"


def write(root: Path, **row: Any) -> None:
    (root / "samples.yaml").write_text(yaml.safe_dump([{"image": "pets.png", **row}]))


def read(root: Path, **options: Any) -> Any:
    return FolderDataModule(str(root), **{"prior": "grounded_sam", "fit": "pad", **options}).read(WIDTH, Problems())


def padded(thing: Found) -> torch.Tensor:
    plane = torch.zeros(WIDTH, WIDTH)
    top = (WIDTH - HEIGHT) // 2
    plane[top : top + HEIGHT] = torch.from_numpy(thing.mask).float()
    return plane


def test_the_nouns_of_the_prompt_get_the_found_masks(root: Path, answers: list[Any]) -> None:
    write(root, prompt="a black cat next to a dog")
    (sample,) = read(root)
    assert answers == [((WIDTH, HEIGHT), ["cat", "dog"])]
    assert [noun.word for noun in sample.nouns] == ["cat", "dog"]
    assert [(a.word, a.noun) for a in sample.adjectives] == [("black", 0)]
    for noun, expected in zip(sample.nouns, (found(5, 25), found(35, 60)), strict=True):
        assert torch.equal(noun.prior, padded(expected)) and torch.equal(noun.mask, padded(expected).bool())


def test_masks_of_the_data_stay_the_truth(root: Path, answers: list[Any]) -> None:
    write(root, prompt="a cat", priors={"cat": [0, 0, 10, 10]})
    (noun,) = read(root)[0].nouns
    assert torch.equal(noun.prior, padded(found(5, 25)))
    assert noun.mask.sum() == 100


def test_a_noun_that_is_not_found_has_no_prior(root: Path, answers: list[Any]) -> None:
    write(root, prompt="a ghost and a dog")
    assert [noun.word for noun in read(root)[0].nouns] == ["dog"]
    write(root, prompt="a ghost")
    with pytest.raises(InputError, match="pets.png: no noun of 'a ghost' is found on it; lower data.models"):
        read(root)[0]


def test_a_missing_prompt_is_written(root: Path, answers: list[Any]) -> None:
    (sample,) = read(root, caption="blip")
    assert sample.prompt == "a black cat and a dog" and [noun.word for noun in sample.nouns] == ["cat", "dog"]
    write(root)
    assert read(root, caption="blip")[0].prompt == sample.prompt
    with pytest.raises(InputError, match=r"has no prompt; write one, or use data.caption=blip"):
        read(root)[0]


def test_with_networks_of_the_real_classes(root: Path, foundation_folder: Path, tmp_path: Path) -> None:
    models = settings(foundation_folder, tmp_path / "cache", box_threshold=0.0, text_threshold=0.0)
    write(root, prompt="a cat and a dog")
    (first,), (again,) = read(root, models=models), read(root, models=models)
    assert 1 <= len(first.nouns) <= 2
    for one, other in zip(first.nouns, again.nouns, strict=True):
        assert one.prior.any() and torch.equal(one.prior, other.prior)
    assert list((tmp_path / "cache").rglob("*.json"))


def test_sam3_finds_the_nouns_alone(root: Path, foundation_folder: Path, tmp_path: Path) -> None:
    models = settings(foundation_folder, tmp_path / "cache", segmenter=str(foundation_folder / "sam3"))
    write(root, prompt="a cat and a dog")
    (alone,) = read(root, prior="sam3", models=models)
    expected = GroundedSam(models).find(Image.open(root / "pets.png"), ["cat", "dog"])
    assert [noun.word for noun in alone.nouns] == list(expected) == ["cat", "dog"]
    for noun in alone.nouns:
        assert torch.equal(noun.prior, padded(expected[noun.word]))
    with pytest.raises(InputError, match="is a model of kind sam, which finds no nouns without a detector"):
        read(root, prior="sam3", models=settings(foundation_folder, tmp_path / "cache"))[0]


def test_settings_name_the_models_where_they_matter(root: Path) -> None:
    plain = FolderDataModule(str(root)).settings
    grounded = FolderDataModule(str(root), prior="grounded_sam", models=FoundationModels(detector="x")).settings
    assert "models" not in plain and grounded["models"]["detector"] == "x"
    json.dumps(grounded)
    for segmenter, expected in (("facebook/sam-vit-base", "facebook/sam3"), ("mine", "mine")):
        alone = FolderDataModule(str(root), prior="sam3", models=FoundationModels(segmenter=segmenter)).settings
        assert (alone["models"]["detector"], alone["models"]["segmenter"]) == ("", expected)
