"""Results in shards and below URLs: what is written comes back, whatever dies in between."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import fsum
from pathlib import Path
from statistics import fmean
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from runs import METHOD, T, Toy, make_samples, make_trainer
from test_types import make_inversion, make_scores

from locinv_pl.callbacks.attention_iou import AttentionIoUCurves
from locinv_pl.callbacks.attention_maps import AttentionMapSheets
from locinv_pl.callbacks.edits import EditSheets
from locinv_pl.drawing import to_png
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError
from locinv_pl.io.files import located, read_image, read_json, write_atomically, write_json
from locinv_pl.io.shards import ShardsFileSystem
from locinv_pl.run.edit_files import damaged_edits, edited_images, list_edits
from locinv_pl.run.edits import save_edits
from locinv_pl.run.loader import local_queue
from locinv_pl.run.module import LocInvModule
from locinv_pl.run.status import status
from locinv_pl.run.store import RunFolder
from locinv_pl.run.summary import Mean, summarize
from locinv_pl.types import Edit

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from stub import Job, invert_all  # noqa: E402

SETTINGS: dict[str, Any] = {"backbone": "b", "method": {"name": "m"}, "data": {}, "num_steps": 2, "dtype": "float32"}
IDS = ["a.b", "c", "pets/tom", "x" * 300, ".z"]
PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


def finish(run: RunFolder, ids: Sequence[str], drawn: bool = False) -> None:
    for id in ids:
        replace(make_inversion(), id=id, fingerprint="f").save(run.inversion_path(id))
        if drawn:
            write_atomically(run.image_path("sheets", id), to_png(Image.fromarray(PIXELS)))
    run.finish({id: make_scores(id) for id in ids})


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of an S3-compatible server on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    server.stop()


S3 = [pytest.param(name, marks=pytest.mark.slow) for name in ("s3", "s3 shards")]


@pytest.fixture(params=["shards", "memory", "memory shards", *S3])
def new(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunFolder]:
    """What opens one and the same run, anew each time, as another process does."""
    monkeypatch.chdir(tmp_path)
    root = f"memory://{uuid4().hex}/run" if "memory" in request.param else str(tmp_path / "run")
    if "s3" in request.param:
        root = f"{request.getfixturevalue('bucket')}/{uuid4().hex}/run"
    store: Any = "shards" if "shards" in request.param else "folder"

    def open(rank: int = 0) -> RunFolder:
        ShardsFileSystem.clear_instance_cache()
        return RunFolder(root, store, rank)

    return open


class TestRun:
    def test_what_is_finished_comes_back(self, new: Callable[..., RunFolder]) -> None:
        run = new()
        run.claim(SETTINGS)
        run.announce(6)
        assert run.unfinished(IDS) == IDS
        finish(run, IDS[:2], drawn=True)
        finish(run, IDS[2:])
        assert run.pending([*IDS, "new"]) == ["new"]
        run.close()
        again = new(rank=1)
        again.claim(SETTINGS)
        assert again.pending([*IDS, "new"]) == ["new"] and again.total == 6
        assert {score["id"] for score in again.each_score()} == set(IDS)
        assert [score["id"] for score in again.scores()] == sorted(IDS)
        assert torch.equal(again.inversion(IDS[0], "f").trajectory, make_inversion().trajectory)
        assert np.array_equal(np.asarray(read_image(again.image_path("sheets", IDS[1]))), PIXELS)
        assert not again.image_path("sheets", IDS[2]).exists()

    def test_another_configuration_is_refused(self, new: Callable[..., RunFolder]) -> None:
        run = new()
        run.claim(SETTINGS)
        finish(run, ["c"])
        with pytest.raises(InputError, match="holds results made with num_steps=2"):
            new().claim(SETTINGS | {"num_steps": 3})

    def test_edits(self, new: Callable[..., RunFolder]) -> None:
        run, images = new(), torch.zeros(1, 3, 4, 4)
        how: dict[str, Any] = {"prompt": "a cat", "fingerprint": "f", "settings": EditSettings().to_dict()}
        how |= {"source": images[0], "reconstruction": images[0], "images": images}
        for id in IDS[:3]:
            save_edits(run, id, edits=[Edit("a dog", "word_swap")], **how)
        save_edits(run, IDS[0], edits=[Edit("a fox", "word_swap")], **how)
        run.close()
        again = new()
        assert [len(edited["edits"]) for edited in edited_images(again)] == [2, 1, 1]
        assert list_edits(again, "c")["edits"][0]["prompt"] == "a dog" and not damaged_edits(again)

    def test_the_summary_is_that_of_a_folder(self, new: Callable[..., RunFolder], tmp_path: Path) -> None:
        folder, run = RunFolder(tmp_path / "folder"), new()
        sum_up = lambda scores: {**summarize(scores, SETTINGS), "nested": {"deep": {"last": 1}}}  # noqa: E731
        for each in (folder, run):
            each.claim(SETTINGS)
            finish(each, IDS)
            each.close()
        found = [each.sum_up("summary.json", "inversions", sum_up) for each in (folder, new())]
        assert found[0] == found[1] and found[0]["num_images"] == 5
        written = read_json(folder.place("summary.json"))
        write_json(tmp_path / "whole.json", {**found[0], "images": folder.scores()})
        assert (tmp_path / "whole.json").read_bytes() == folder.place("summary.json").read_bytes()
        assert written["images"] == folder.scores()

    def test_status(self, new: Callable[..., RunFolder]) -> None:
        run = new()
        run.claim(SETTINGS)
        run.announce(3)
        finish(run, ["a", "b"])
        run.save_scores("skipped", "c", {"id": "c", "problem": "no image"})
        run.close()
        found = status(str(run.root))
        assert (found.done, found.failed, found.reasons, found.state) == (2, ["c"], {"c": "no image"}, "finished")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    found = RunFolder(tmp_path / "run", "shards")
    found.claim(SETTINGS)
    return found


def files_of(root: Path) -> list[str]:
    return sorted(path.suffix for path in (root / "shards").iterdir())


class TestShards:
    def test_webdataset_reads_an_image_as_one_sample(self, run: RunFolder) -> None:
        webdataset = pytest.importorskip("webdataset")
        finish(run, IDS[:3], drawn=True)
        run.close()
        (path,) = map(str, run.root.glob("shards/*.tar"))
        found = list(webdataset.WebDataset(path, shardshuffle=False).decode())
        assert [sample["__key__"] for sample in found] == ["a%2Eb", "c", "pets%2Ftom"]
        assert [sample["inversions.json"]["id"] for sample in found] == IDS[:3]
        assert {"inversions.safetensors", "sheets.png"} <= found[0].keys()

    def test_a_shard_is_closed_when_it_is_full(self, tmp_path: Path) -> None:
        files = ShardsFileSystem(str(tmp_path), str(tmp_path), most_images=2)
        for n in range(5):
            files.pipe_file(f"validation/{n}.json", b"{}")
        assert files_of(tmp_path) == [".json", ".json", ".part", ".tar", ".tar"]
        assert [name for name, _ in files.names("validation", ".json")] == [f"{n}.json" for n in range(5)]

    def test_the_last_one_counts(self, tmp_path: Path) -> None:
        one = ShardsFileSystem(str(tmp_path), str(tmp_path), rank=5)
        one.pipe_file("test/a.json", b"old")
        one.close()
        other = ShardsFileSystem(str(tmp_path), str(tmp_path), rank=1)
        assert other.cat_file("test/a.json") == b"old"
        other.pipe_file("test/a.json", b"new")
        other.close()
        ShardsFileSystem.clear_instance_cache()
        third = ShardsFileSystem(str(tmp_path), str(tmp_path))
        assert third.cat_file("test/a.json") == b"new"
        third.rm_file("test/a.json")
        with pytest.raises(FileNotFoundError):
            third.cat_file("test/a.json")
        assert [*third.names("test", ".json")] == []

    def test_open_parts_of_others_are_seen_and_left_alone(self, run: RunFolder) -> None:
        finish(run, ["a"])
        other = RunFolder(run.root, rank=1)
        other.store.recover()
        assert other.unfinished(["a", "b"]) == ["b"]
        finish(other, ["b"])
        assert {score["id"] for score in run.each_score()} == {"a", "b"}
        assert files_of(run.root) == [".part", ".part"]

    @pytest.mark.parametrize("lost", [1, 700, 5000])
    def test_a_part_is_cut_after_its_last_whole_entry(self, tmp_path: Path, lost: int) -> None:
        files = ShardsFileSystem(str(tmp_path), str(tmp_path))
        for n in range(4):
            files.pipe_file(f"test/{n}.json", b"x" * 2000)
        (part,) = tmp_path.glob("shards/*.part")
        os.truncate(part, part.stat().st_size - 48 - lost)  # 48: what fills the last block
        files._part.file.close()  # type: ignore[union-attr]  # as its process's end does
        left = 3 if lost < 2000 else 2
        ShardsFileSystem.clear_instance_cache()
        again = ShardsFileSystem(str(tmp_path), str(tmp_path))
        assert again.recover() == 1 and files_of(tmp_path) == [".json", ".tar"]
        assert [name for name, _ in again.names("test", ".json")] == [f"{n}.json" for n in range(left)]
        (path,) = tmp_path.glob("shards/*.tar")
        with tarfile.open(path) as tar:
            assert len(tar.getnames()) == left

    def test_a_lost_index_is_read_from_its_shard(self, run: RunFolder) -> None:
        finish(run, ["a", "b"])
        run.close()
        next(run.root.glob("shards/*.json")).write_text("{")
        ShardsFileSystem.clear_instance_cache()
        assert RunFolder(run.root).unfinished(["a", "b", "c"]) == ["c"]

    def test_damage_is_made_again(self, run: RunFolder) -> None:
        finish(run, ["a"])
        run.close()
        (path,) = run.root.glob("shards/*.tar")
        content = bytearray(path.read_bytes())
        content[content.index(b"__metadata__") + 2000] ^= 1
        path.write_bytes(content)
        ShardsFileSystem.clear_instance_cache()
        again = RunFolder(run.root)
        assert again.pending(["a"]) == ["a"]
        finish(again, ["a"])
        assert again.pending(["a"]) == []

    def test_one_run_has_one_store(self, run: RunFolder, tmp_path: Path) -> None:
        finish(run, ["a"])
        with pytest.raises(InputError, match="its images are in store=shards, not folder"):
            RunFolder(run.root, "folder").claim(SETTINGS)
        other = RunFolder(tmp_path / "other")
        other.claim(SETTINGS)
        finish(other, ["a"])
        with pytest.raises(InputError, match="its images are in store=folder, not shards"):
            RunFolder(other.root, "shards").claim(SETTINGS)


def test_a_killed_process_loses_nothing_that_it_finished(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    told = lambda ids, is_finished: theirs.send(list(ids)) if is_finished else None  # noqa: E731
    job = Job(tmp_path / "run", 100_000, batch_size=2, store="shards", told=told)
    process = fork.Process(target=invert_all, args=(job, local_queue()))
    process.start()
    finished = [id for _ in range(30) for id in ours.recv()]
    process.kill()
    process.join()
    theirs.close()
    with suppress(EOFError):
        while True:
            finished += ours.recv()
    run = RunFolder(tmp_path / "run")
    run.store.recover()
    assert len(finished) >= 60 and run.pending(finished) == []
    assert run.count("inversions") <= len(finished) + 2 and files_of(run.root) == [".json", ".tar"]


class TestURLs:
    def test_paths_of_this_machine_stay_paths(self, tmp_path: Path) -> None:
        assert located("a/b") == Path("a/b") and located(f"file://{tmp_path}") == tmp_path
        assert str(located(Path("memory://a/b"))) == "memory://a/b"

    def test_unknown_filesystems_are_named(self) -> None:
        with pytest.raises(InputError, match=r"nosuch://a: its filesystem can't be used") as caught:
            RunFolder("nosuch://a")
        assert "\n" not in str(caught.value)

    def test_what_passes_stays_on_this_machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        run = RunFolder("memory://bucket/run")
        run.claim(SETTINGS)
        assert run.curves_path("a") == Path("outputs/memory%3A%2F%2Fbucket%2Frun/tensorboard/a")
        assert fsspec.filesystem("memory").exists("/bucket/run/settings.json")


def test_a_mean_in_one_pass_is_fmean() -> None:
    values = [float(x) * 10.0 ** (k % 18 - 9) for k, x in enumerate(np.random.default_rng(0).normal(size=999))]
    mean = Mean()
    for value in (*values, None, True):
        mean.add(value)
    assert mean.value == fmean([*values, True]) and mean.value == fsum([*values, 1]) / mean.count
    assert Mean().value is None


@pytest.mark.slow
@pytest.mark.parametrize("where", ["folder", "memory"])
def test_a_whole_run(where: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inverted, reconstructed and edited through the Trainer: the bytes of a run in a folder."""
    monkeypatch.chdir(tmp_path)
    root: Any = tmp_path / "run" if where == "folder" else f"memory://{uuid4().hex}/run"

    def stage(name: str, root: Any, store: Any) -> None:
        module = LocInvModule(str(tiny_folder), METHOD, num_steps=T, resolution=8, store=store)
        callbacks = [AttentionMapSheets(tensorboard_steps=0), AttentionIoUCurves(), EditSheets()]
        getattr(make_trainer(root, callbacks=callbacks), name)(module, datamodule=Toy(make_samples(2)))

    stage("fit", tmp_path / "plain", None)
    stage("fit", root, "shards")
    for name in ("validate", "predict"):
        stage(name, root, None)
    plain, run = RunFolder(tmp_path / "plain"), RunFolder(root)
    for id in ("p0", "p1"):
        for path in (RunFolder.inversion_path, partial(RunFolder.image_path, kind="sheets")):
            assert path(run, id=id).read_bytes() == path(plain, id=id).read_bytes()
    assert run.count("validation") == 2
    assert run.place("report.html").exists() and run.place("contact_sheet.png").exists()
    assert [path.name for path in run.root.iterdir() if path.is_dir()].count("inversions") == 0
    assert len(edited_images(run)) == 2 and not damaged_edits(run)
    stage("fit", root, "shards")
    counted = [path for path in (run.root / "shards").iterdir() if path.suffix == ".tar"]
    assert len(counted) == 3  # one for each stage that made something
