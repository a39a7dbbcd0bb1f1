"""Data without a Trainer: batches for a module that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import make_image
from runs import METHOD, T, Toy, make_samples

from locinv_pl.errors import InputError
from locinv_pl.run.module import LocInvModule
from locinv_pl.types import EditSample


@pytest.fixture
def data(tiny_folder: Path) -> Any:
    """Makes data for the tiny model."""
    model = LocInvModule(str(tiny_folder), METHOD, num_steps=T, resolution=8)
    return lambda samples, **options: Toy(samples, model=model, **options)


def test_every_image_comes_with_every_timestep(data: Any) -> None:
    toy = data(make_samples(3))
    toy.setup("fit")
    batches = [([sample.id for sample in batch.samples], batch.i) for batch in toy.train_dataloader()]
    assert batches == [(ids, i) for ids in (["p0", "p1"], ["p2"]) for i in range(T)]
    for loader in (toy.val_dataloader(), toy.predict_dataloader(), toy.test_dataloader()):
        assert [[sample.id for sample in batch.samples] for batch in loader] == [["p0", "p1"], ["p2"]]


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_image_that_the_model_does_not_take(data: Any, on_error: str, capsys: Any) -> None:
    toy = data([EditSample("long", make_image(), "a cat " * 20), *make_samples(1)], on_error=on_error)
    toy.setup("fit")
    if on_error == "raise":
        with pytest.raises(InputError, match="'long' has .* tokens"):
            _ = [batch.samples for batch in toy.train_dataloader()]
    else:
        assert [sample.id for batch in toy.predict_dataloader() for sample in batch.samples] == ["p0"]
        assert "skipped long" in capsys.readouterr().err


def test_without_a_model_it_says_so() -> None:
    with pytest.raises(InputError, match="data toy: for no model; give model=LocInvModule"):
        Toy(make_samples(1)).setup("fit")
