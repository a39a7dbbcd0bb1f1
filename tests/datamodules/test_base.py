"""A dataset of one's own, made as the docstring of ``base.py`` shows."""

import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from locinv_pl.datamodules import base
from locinv_pl.datamodules.entries import Problems


@pytest.fixture
def example():
    """The names that the docstring's example defines."""
    lines = base.__doc__.split(".. code-block:: python\n")[1].splitlines()
    code = textwrap.dedent("\n".join(line for line in lines if not line or line.startswith("    ")))
    names = {"__name__": "pets"}
    exec(code, names)
    return names


def test_the_example_is_a_dataset(example, tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "tom.png")
    data = example["Pets"](root=str(tmp_path), prior="box", batch_size=2)
    (sample,) = data.read(64, Problems())
    assert (sample.id, sample.prompt, sample.image.shape) == ("tom", "a cat on grass", (3, 64, 64))
    assert [(noun.word, noun.mask.sum().item()) for noun in sample.nouns] == [("cat", 40 * 30)]
    assert sample.nouns[0].mask[10:40, 10:50].all()
    assert [(edit.prompt, edit.kind) for edit in sample.edits] == [("a dog on grass", "word_swap")]
    assert data.settings["name"] == "pets" and data.batch_size == 2
