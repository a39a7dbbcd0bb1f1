"""Jobs of an array: parts of the images that share a run's folder."""

from pathlib import Path
from typing import Any

import pytest
from runs import Toy, inversions, make_samples, run_stage

from locinv_pl.errors import InputError
from locinv_pl.io.files import read_json
from locinv_pl.run.store import RunFolder


def test_the_parts_make_the_whole_run(tiny_folder: Path, tmp_path: Path) -> None:
    run_stage(tiny_folder, tmp_path / "whole", count=5, data={"batch_size": 1})
    for k, so_far in ((2, {"p1", "p4"}), (3, {"p1", "p4", "p2"}), (1, {"p0", "p1", "p2", "p3", "p4"})):
        run_stage(tiny_folder, tmp_path / "parts", count=5, data={"batch_size": 1, "shard": f"{k}/3"})
        assert {score["id"] for score in RunFolder(tmp_path / "parts").scores()} == so_far
        assert read_json(tmp_path / "parts/summary.json")["num_images"] == len(so_far)
    assert inversions(tmp_path / "parts") == inversions(tmp_path / "whole")


def test_a_part_may_be_empty(tiny_folder: Path, tmp_path: Path) -> None:
    run_stage(tiny_folder, tmp_path, count=1, data={"shard": "2/2"})
    assert read_json(tmp_path / "summary.json")["num_images"] == 0


@pytest.mark.parametrize("shard", ["9/8", "0/8", "3", "3/", "/8", "-1/8", "a/b", "1/0", "", "1/2/3", "1.5/8"])
def test_what_is_no_part_is_refused(shard: Any) -> None:
    with pytest.raises(InputError, match=f"^data.shard={shard}: no part of the images; write K/N .* as 3/8$"):
        Toy(make_samples(1), shard=shard)
