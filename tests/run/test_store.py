"""The run's folder: what counts as finished, what goes on, what is refused."""

import json
from dataclasses import fields, replace

import pytest
import torch
from test_types import SETTINGS, make_inversion, make_record, make_scores

from locinv_pl.errors import InputError
from locinv_pl.io.files import read_json, write_json
from locinv_pl.run.store import RunFolder, settings_digest

OTHER = {**SETTINGS, "method": {"name": "locinv", "tokens": {"lr": 0.5}}}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def finish(run: RunFolder, *ids: str) -> None:
    for id in ids:
        make_inversion(id).save(run.inversion_path(id))
    run.finish({id: make_scores(id) for id in ids})


class TestClaim:
    """A folder holds the results of one configuration."""

    def test_the_same_configuration_goes_on(self, run):
        run.claim(SETTINGS)
        finish(run, "a")
        run.claim(SETTINGS)
        assert read_json(run.root / "settings.json") == SETTINGS

    @pytest.mark.parametrize("begun", [True, False], ids=["running", "finished"])
    def test_another_is_refused_with_the_key_and_both_values(self, run, begun):
        run.claim(SETTINGS)
        if begun:
            run.save_record(["a"], 0, make_record())
        else:
            finish(run, "a")
        with pytest.raises(InputError, match=r"method\.tokens\.lr=0\.01.* method\.tokens\.lr=0\.5") as caught:
            run.claim(OTHER)
        assert str(run.root) in str(caught.value)
        assert read_json(run.root / "settings.json") == SETTINGS

    def test_a_key_that_is_new_or_gone_is_refused(self, run):
        run.claim(SETTINGS)
        finish(run, "a")
        with pytest.raises(InputError, match=r"data\.prior=None.*data\.prior=box"):
            run.claim({**SETTINGS, "data": {"prior": "box"}})
        with pytest.raises(InputError, match=r"dtype=float32.*dtype=None"):
            run.claim({k: v for k, v in SETTINGS.items() if k != "dtype"})

    def test_a_folder_without_results_is_free(self, run):
        run.claim(SETTINGS)
        run.claim(OTHER)
        assert read_json(run.root / "settings.json") == OTHER

    @pytest.mark.parametrize("content", [None, '{"backb', "[1]", "{}"])
    @pytest.mark.parametrize("begun", [True, False], ids=["running", "finished"])
    def test_settings_that_are_lost_are_those_that_the_results_name(self, run, content, begun, capsys):
        made_of = {"a": {"id": "a", "sample": "1", "settings": settings_digest(SETTINGS)}}
        if begun:
            run.save_record(["a"], 0, make_record().pick([0]), made_of)
        else:
            run.finish({"a": make_scores("a")}, made_of)
        if content is not None:
            (run.root / "settings.json").write_text(content)
        with pytest.raises(InputError, match="settings.json: .*; the folder holds results, run with the settings that"):
            run.claim(OTHER)
        run.claim(SETTINGS)
        assert read_json(run.root / "settings.json") == SETTINGS and "written again" in capsys.readouterr().err

    @pytest.mark.parametrize("begun", [True, False], ids=["running", "finished"])
    def test_settings_that_are_lost_with_all_results_are_free(self, run, begun):
        """What can't be read is made again anyway: nothing is lost by other settings."""
        if begun:
            run.save_record(["a"], 0, make_record().pick([0]), {"a": {"id": "a", "sample": "1", "settings": "x"}})
        else:
            finish(run, "a")
        for path in [*run.root.rglob("*.safetensors"), *run.root.rglob("*.json")]:
            path.write_bytes(path.read_bytes()[:20])
        run.claim(SETTINGS)
        assert read_json(run.root / "settings.json") == SETTINGS

    def test_settings_that_no_result_names_are_refused(self, run):
        finish(run, "a")
        (run.root / "settings.json").write_text('{"backb')
        with pytest.raises(InputError, match="settings.json: truncated"):
            run.claim(SETTINGS)

    def test_what_only_rounds_matters_where_it_is_not_excepted(self, run):
        run.claim({**SETTINGS, "rounding": {"threads": 1}})
        finish(run, "a")
        run.claim({**SETTINGS, "rounding": {"threads": 2}}, but_for="rounding")
        with pytest.raises(InputError, match=r"made with rounding.threads=1, this run has rounding.threads=2"):
            run.claim({**SETTINGS, "rounding": {"threads": 2}})


class TestFinished:
    """The scores are written last: they say that an image is done."""

    def test_inversion_and_scores_make_a_finished_image(self, run):
        assert not run.is_marked("a")
        make_inversion("a").save(run.inversion_path("a"))
        assert not run.is_marked("a")
        finish(run, "a")
        assert run.is_marked("a")

    @pytest.mark.parametrize("suffix", [".safetensors", ".json"])
    def test_a_deleted_file_is_made_again_in_the_batch_that_it_was_made_in(self, run, suffix):
        finish(run, "a", "b")
        finish(run, "c")
        run.inversion_path("a").with_suffix(suffix).unlink()
        assert run.pending(["a", "b", "c"]) == ["a", "b"]
        run.inversion_path("c").with_suffix(suffix).unlink()
        finish(run, "a", "b")
        assert run.pending(["a", "b", "c"]) == ["c"]

    @pytest.mark.parametrize("id", ["a/b", "../up", "ä ö", "a.b", "100%"])
    def test_any_id_is_a_file_of_the_folder(self, run, id):
        finish(run, id)
        assert run.is_marked(id) and run.damage(id) is None
        assert run.inversion_path(id).parent == run.root / "inversions"
        assert run.image_path("sheets", id).parent == run.root / "sheets"
        assert [score["id"] for score in run.scores()] == [id]

    def test_ids_that_look_alike_have_files_of_their_own(self, run):
        ids = ["a", "a.b", "a/b", "a_b", "a%2Fb"]
        assert len({run.inversion_path(id) for id in ids}) == len(ids)


class TestPending:
    """What of a batch is still to do."""

    def test_a_fresh_batch_is_all_to_do(self, run):
        assert run.pending(["a", "b"]) == ["a", "b"]

    def test_finished_images_are_skipped(self, run):
        finish(run, "b")
        assert run.pending(["a", "b", "c"]) == ["a", "c"]
        finish(run, "a", "c")
        assert run.pending(["a", "b", "c"]) == []

    def test_a_batch_that_was_begun_stays_together(self, run):
        run.save_record(["a", "b"], 0, make_record())
        run.save_scores("inversions", "a", make_scores("a"))
        make_inversion("a").save(run.inversion_path("a"))
        assert run.pending(["a", "b", "c"]) == ["a", "b", "c"]

    def test_images_of_other_batches_that_are_finished_are_not_run_again(self, run):
        finish(run, "a")
        run.save_record(["b", "c"], 0, make_record())
        assert run.pending(["a", "b"]) == ["b"]

    def test_what_was_left_out_is_tried_again(self, run):
        run.save_scores("skipped", "a", {"id": "a", "problem": "torn"})
        assert run.unskipped(["a", "b"]) == ["b"]
        assert run.pending(["a", "b"]) == ["a", "b"]
        finish(run, "a", "b")
        assert run.unskipped(["a", "b"]) == ["a", "b"]

    def test_an_end_between_mark_and_clearing(self, run):
        run.save_record(["a", "b"], 0, make_record())
        for id in ("a", "b"):
            make_inversion(id).save(run.inversion_path(id))
            run.save_scores("inversions", id, make_scores(id))
        assert run.pending(["a", "b"]) == []
        assert not list((run.root / "running").iterdir())

    def test_finishing_clears_the_records(self, run):
        run.save_record(["a", "b"], 0, make_record())
        finish(run, "a", "b")
        assert run.load_records(["a", "b"]) == []
        assert not list((run.root / "running").iterdir())


class TestRecords:
    """The records of a running batch."""

    def test_come_back_in_order(self, run):
        for i in (1, 0, 2):
            run.save_record(["a", "b"], i, make_record(seed=i))
        loaded = run.load_records(["a", "b"])
        assert [r.latent.tolist() for r in loaded] == [make_record(i).latent.tolist() for i in range(3)]

    def test_are_as_they_were(self, run):
        run.save_record(["a", "b"], 0, make_record())
        loaded, written = run.load_records(["a", "b"])[0], make_record()
        for field in fields(written):
            there, here = getattr(loaded, field.name), getattr(written, field.name)
            torch.testing.assert_close(there, here, rtol=0, atol=0, equal_nan=True, msg=field.name)

    def test_of_an_image_are_its_own(self, run):
        run.save_record(["a", "b"], 0, make_record())
        assert torch.equal(run.load_records(["b"])[0].latent, make_record().latent[1:])
        assert torch.equal(run.load_records(["b", "a"])[0].latent, make_record().latent.flip(0))

    def test_end_where_one_image_has_no_more(self, run):
        run.save_record(["a", "b"], 0, make_record())
        run.save_record(["a"], 1, make_record(1).pick([0]))
        assert [len(run.load_records(ids)) for ids in (["a", "b"], ["b", "a"], ["a"], ["c"], ["a", "c"])] == [
            1,
            1,
            2,
            0,
            0,
        ]

    def test_end_at_a_gap(self, run):
        for i in (0, 2):
            run.save_record(["a"], i, make_record(seed=i).pick([0]))
        assert len(run.load_records(["a"])) == 1

    def test_end_at_a_damaged_one(self, run):
        for i in range(3):
            run.save_record(["a", "b"], i, make_record(seed=i))
        path = run.root / "running/b/0001.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        assert len(run.load_records(["a", "b"])) == 1

    def test_images_with_fewer_nouns_get_empty_maps(self, run):
        run.save_record(["a"], 0, make_record().pick([0]))
        one = make_record(1).pick([1])
        run.save_record(["b"], 0, replace(one, maps=one.maps[:, :1]))
        maps = run.load_records(["a", "b"])[0].maps
        assert torch.equal(maps[0], make_record().maps[0])
        assert torch.equal(maps[1, :1], one.maps[0, :1]) and not maps[1, 1:].any()


def test_scores_are_sorted_by_id(run):
    for id in ("b", "c", "a"):
        run.save_scores("validation", id, make_scores(id))
    assert [score["id"] for score in run.scores("validation")] == ["a", "b", "c"]
    assert run.scores() == []


def test_a_summary_has_what_another_job_adds_while_it_is_written(run):
    run.save_scores("inversions", "a", make_scores("a"))
    late = ["b", "c"]

    def summarize(scores: list[dict]) -> dict:
        if late:
            run.save_scores("inversions", name := late.pop(), make_scores(name))
        return {"ids": [score["id"] for score in scores]}

    run.save_record(["d"], 0, make_record())
    assert run.sum_up("summary.json", "inversions", summarize) == {"ids": ["a"]}  # another job is at work
    run.finish({"d": make_scores("d")})
    assert run.sum_up("summary.json", "inversions", summarize) == {"ids": ["a", "b", "c", "d"]}
    assert read_json(run.root / "summary.json") == {"ids": ["a", "b", "c", "d"], "images": run.scores()}


@pytest.mark.parametrize("content", [None, "", "{", "\xff", "[NaN]", "[1e999]", "[" * 99999, "9" * 9999])
def test_json_errors_are_one_line(content, tmp_path):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1, 2.5, None, "ä"]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, 2.5, None, "ä"]}
