"""The page on storage: its snippets run, one after the other, and its data are read."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_types import SETTINGS, make_inversion, make_scores

from locinv_pl.datamodules.hf_dataset import HFDatasetDataModule
from locinv_pl.datamodules.webdataset import WebDatasetDataModule
from locinv_pl.run.loader import local_queue
from locinv_pl.run.store import RunFolder

PAGE = (Path(__file__).parents[2] / "docs/storage.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
SAID = re.findall(r"^```text\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(data: Any) -> Any:
    data.size = 64
    data.setup("fit")
    loader = data._streamed(1, None)
    loader.claim, loader.accept = local_queue(), lambda sample: sample
    return [sample for batch in loader for sample in batch.samples]


def test_there_is_one_for_each_part() -> None:
    assert len(SNIPPETS) == 4


def test_results_below_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    exec(SNIPPETS[0], {})
    assert capsys.readouterr().out == SAID[0]


def test_results_in_shards(capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder("runs/a", "shards")
    run.claim(SETTINGS)
    replace(make_inversion(), id="tom").save(run.inversion_path("tom"))
    run.finish({"tom": make_scores("tom")})
    run.close()
    exec(SNIPPETS[1], {})
    steps, sample = capsys.readouterr().out.splitlines()
    assert steps == f"{make_inversion().num_steps} 1" and sample.startswith("tom ")


def test_images_from_shards() -> None:
    exec(SNIPPETS[2], {})
    (sample,) = read(WebDatasetDataModule("images-000.tar"))
    assert (sample.id, [noun.word for noun in sample.nouns]) == ("tom", ["cat", "dog"])


def test_images_from_a_table() -> None:
    exec(SNIPPETS[3], {})
    (sample,) = read(HFDatasetDataModule("parquet", "pets.parquet", columns={"prompt": "caption"}))
    assert (sample.prompt, [noun.word for noun in sample.nouns]) == ("a cat on grass", ["cat"])
