"""Images in a stream: WebDataset's shards and Hugging Face's data sets, part by part and without overlap."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import METHOD, T, make_trainer

from locinv_pl.datamodules.hf_dataset import HFDatasetDataModule
from locinv_pl.datamodules.streams import StreamDataModule, StreamLoader
from locinv_pl.datamodules.webdataset import WebDatasetDataModule
from locinv_pl.errors import InputError
from locinv_pl.run.module import LocInvModule
from locinv_pl.run.status import status
from locinv_pl.types import EditSample

SIDE = 16
ROW = {"prompt": "a cat and a dog", "priors": {"cat": "cat.png", "dog": [2, 2, 8, 8]}, "edits": ["a fox and a dog"]}


def png(value: int = 90, mask: bool = False) -> bytes:
    pixels = np.full((SIDE, SIDE), 0, np.uint8) if mask else np.full((SIDE, SIDE, 3), value, np.uint8)
    if mask:
        pixels[4:12, 4:12] = 255
    page = io.BytesIO()
    Image.fromarray(pixels).save(page, "PNG")
    return page.getvalue()


def write_shard(path: Path, keys: list[str], broken: str = "") -> None:
    with tarfile.open(path, "w") as tar:
        for key in keys:
            row = "{" if key == broken else json.dumps(ROW)
            for name, content in (("png", png()), ("json", row.encode()), ("cat.png", png(mask=True))):
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number in range(4):
        write_shard(tmp_path / f"images-{number}.tar", [f"{number}{letter}" for letter in "abc"])
    return tmp_path


def loader(data: StreamDataModule, claim: Callable[[], int], report: Any = None) -> StreamLoader:
    """That of a process without a model, which takes all images."""
    data.size = SIDE
    data.setup("fit")
    found = data._streamed(1, None)
    found.claim, found.accept, found.report = claim, lambda sample: sample, report
    return found


def samples(loader: StreamLoader) -> Iterator[EditSample]:
    for batch in loader:
        yield from batch.samples


def queue() -> Callable[[], int]:
    numbers = count()
    return lambda: next(numbers)


class TestWebDataset:
    def test_rows_are_those_of_a_folder(self, shards: Path) -> None:
        first = next(samples(loader(WebDatasetDataModule(str(shards)), queue())))
        assert (first.id, first.prompt, [edit.prompt for edit in first.edits]) == ("0a", ROW["prompt"], ROW["edits"])
        assert [(noun.word, int(noun.mask.sum())) for noun in first.nouns] == [("cat", 64), ("dog", 64)]
        assert float(first.image[0, 0, 0]) == pytest.approx(90 / 255)

    def test_processes_share_without_overlap(self, shards: Path) -> None:
        claim = queue()
        data = WebDatasetDataModule(f"{shards}/images-{{0..3}}.tar", batch_size=2)
        one, other = (samples(loader(data, claim)) for _ in range(2))
        found = [[next(one).id, next(other).id], [s.id for s in one], [s.id for s in other]]
        ids = [id for some in found for id in some]
        assert found[0] == ["0a", "1a"] and sorted(ids) == [f"{n}{letter}" for n in range(4) for letter in "abc"]

    def test_a_shard_of_a_job_array(self, shards: Path) -> None:
        data = WebDatasetDataModule(str(shards), shard="2/4")
        assert [sample.id for sample in samples(loader(data, queue()))] == ["1a", "1b", "1c"]
        assert data.count_batches() == 1

    def test_errors_name_shard_and_key(self, shards: Path) -> None:
        write_shard(shards / "images-1.tar", ["x", "y", "z"], broken="y")
        with pytest.raises(InputError, match=r"images-1\.tar: image y: its JSON is damaged") as caught:
            list(samples(loader(WebDatasetDataModule(str(shards)), queue())))
        assert "\n" not in str(caught.value)
        seen: list[str] = []
        report = lambda id, problem: seen.append(f"{id}: {problem}")  # noqa: E731
        found = [s.id for s in samples(loader(WebDatasetDataModule(str(shards), on_error="skip"), queue(), report))]
        assert len(found) == 11 and len(seen) == 1 and seen[0].startswith("y: ")

    def test_a_truncated_shard(self, shards: Path) -> None:
        whole = (shards / "images-0.tar").read_bytes()
        (shards / "images-0.tar").write_bytes(whole[: whole.index(b"0b.png") + 520])
        with pytest.raises(InputError, match=r"images-0\.tar after 0a\.cat\.png: can't be read"):
            list(samples(loader(WebDatasetDataModule(f"{shards}/images-0.tar", batch_size=1), queue())))

    def test_a_row_names_files_of_its_own_only(self, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (shards / "secret.png").write_bytes(png())
        monkeypatch.setitem(ROW, "image", str(shards / "secret.png"))
        write_shard(shards / "images-0.tar", ["a"])
        with pytest.raises(InputError, match="isn't a file of its own"):
            list(samples(loader(WebDatasetDataModule(f"{shards}/images-0.tar"), queue())))

    def test_no_shards(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no .tar file"):
            WebDatasetDataModule(str(tmp_path)).parts()

    def test_a_loader_is_through_when_its_part_is(self, shards: Path) -> None:
        mine = loader(WebDatasetDataModule(f"{shards}/images-0.tar", batch_size=1), queue())
        batches = iter(mine)
        assert next(batches).samples and not mine.is_through
        assert len(list(batches)) == 2
        assert mine.is_through and mine.ids_to_do is None


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import datasets

    root = tmp_path_factory.mktemp("table")
    image = datasets.Image(decode=False)
    kinds = {"image": image, "caption": datasets.Value("string"), "nouns": datasets.List(datasets.Value("string"))}
    kinds |= {"masks": datasets.List(image), "edits": datasets.List(datasets.Value("string"))}
    rows = {
        "image": [{"bytes": png(n), "path": None} for n in range(6)],
        "caption": ["a cat on grass"] * 6,
        "nouns": [["cat"]] * 6,
        "masks": [[{"bytes": png(mask=True), "path": None}]] * 6,
        "edits": [["a fox on grass"]] * 6,
    }
    found = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    for part in range(2):
        found.shard(2, part, contiguous=True).to_parquet(root / f"part-{part}.parquet")
    found.save_to_disk(str(root / "disk"))
    return root


class TestHFDataset:
    @pytest.mark.parametrize("streaming", [False, True])
    def test_parquet(self, table: Path, streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
        files = str(table / "*.parquet")
        data = HFDatasetDataModule("parquet", files, streaming=streaming, columns={"prompt": "caption"})
        found = list(samples(loader(data, queue())))
        assert len({sample.id for sample in found}) == 6 and len(data.parts()) == (2 if streaming else 1)
        assert [round(float(sample.image[0, 0, 0]) * 255) for sample in found] == list(range(6))
        assert found[0].prompt == "a cat on grass" and int(found[0].nouns[0].mask.sum()) == 64

    def test_a_saved_data_set(self, table: Path) -> None:
        data = HFDatasetDataModule(str(table / "disk"), columns={"prompt": "caption"})
        assert [sample.id for sample in samples(loader(data, queue()))] == [str(n) for n in range(6)]

    def test_a_folder_of_images(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        (tmp_path / "images").mkdir()
        rows = [
            {"file_name": f"{n}.png", "prompt": "a cat", "nouns": ["cat"], "boxes": [[2, 2, 8, 8]]} for n in range(2)
        ]
        for row in rows:
            (tmp_path / "images" / str(row["file_name"])).write_bytes(png())
        (tmp_path / "images/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        found = list(samples(loader(HFDatasetDataModule(str(tmp_path / "images")), queue())))
        assert [int(sample.nouns[0].mask.sum()) for sample in found] == [64, 64]

    def test_errors_are_one_line(self, table: Path) -> None:
        data = HFDatasetDataModule(str(table / "disk"))
        with pytest.raises(InputError, match=r"part 0: image 0: has no prompt"):
            list(samples(loader(data, queue())))
        with pytest.raises(InputError, match="no data set that can be read"):
            HFDatasetDataModule("parquet", str(table / "nothing.parquet")).parts()
        with pytest.raises(InputError, match="no column is called 'text'"):
            HFDatasetDataModule("x", columns={"text": "caption"})


def test_a_stream_takes_no_workers() -> None:
    with pytest.raises(InputError, match=r"data\.num_workers=2"):
        WebDatasetDataModule("x", num_workers=2)


def test_finished_images_are_left_out(shards: Path) -> None:
    data = WebDatasetDataModule(str(shards), batch_size=4)
    mine = loader(data, queue())
    mine.still_to_do = lambda found: [sample.id for sample in found if sample.id != "0b"]
    assert "0b" not in {sample.id for sample in samples(mine)}


def test_a_run_of_a_stream(shards: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """Through the Trainer, and again: nothing is inverted twice."""
    root = tmp_path / "run"
    for _ in range(2):
        module = LocInvModule(str(tiny_folder), METHOD, num_steps=T, resolution=8)
        data = WebDatasetDataModule(f"{shards}/images-{{0..1}}.tar", batch_size=2, model=module)
        make_trainer(root).fit(module, datamodule=data)
        times = {path.name: path.stat().st_mtime_ns for path in (root / "inversions").iterdir()}
    assert len(times) == 12 and max(times.values()) < (root / "summary.json").stat().st_mtime_ns
    assert status(root).total is None and status(root).done == 6
