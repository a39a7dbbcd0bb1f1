"""What becomes of a batch when memory runs out or numbers stop being finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import METHOD, T, inversions, make_samples, run_stage

from locinv_pl.errors import InputError
from locinv_pl.io.files import read_json
from locinv_pl.method.task import Task, prepare
from locinv_pl.method.timestep import invert_step
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import load_backbone
from locinv_pl.networks.memory import halving
from locinv_pl.networks.tuning import Tuning
from locinv_pl.run import batch
from locinv_pl.run.batch import Engine, MicroBatch, advance, begin, make_engine
from locinv_pl.run.store import RunFolder
from locinv_pl.types import EditSample, Inversion, StepRecord

CPU_ERROR = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
ERRORS = {"cuda": torch.OutOfMemoryError("CUDA out of memory"), "cpu": RuntimeError(CPU_ERROR)}


@pytest.fixture
def engine(tiny: Backbone) -> Engine:
    """The tiny model's, in fp32."""
    return make_engine(tiny, METHOD, T, 8, is_half=False)


def run(engine: Engine, samples: Sequence[EditSample]) -> tuple[dict[str, Inversion], dict[str, InputError]]:
    """All timesteps: the inversions and the failures, by id."""
    parts, failed = begin(engine, samples)
    for i in range(T + 1):
        parts, lost = advance(parts, i)
        failed |= lost
    return {r.sample.id: r.inversion for part in parts for r in part.results}, failed


@pytest.fixture(scope="module")
def undisturbed(tiny: Backbone) -> dict[str, Inversion]:
    """Two images' inversions by the engine in fp32, to compare with."""
    return run(make_engine(tiny, METHOD, T, 8, is_half=False), make_samples(2))[0]


def same(one: Inversion, other: Inversion, **tolerance: float) -> None:
    for name, value in vars(one).items():
        there = getattr(other, name)
        if isinstance(value, torch.Tensor) and tolerance:
            torch.testing.assert_close(value, there, equal_nan=True, msg=name, **tolerance)
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value.nan_to_num(), there.nan_to_num()), name
        else:
            assert value == there, name


class Small:
    """A memory for few images: what is called with more raises; the sizes that fitted are kept."""

    def __init__(self, real: Callable[..., Any], room: int, size: Callable[..., int], error: RuntimeError):
        self.real, self.room, self.size, self.error = real, room, size, error
        self.fitted: list[int] = []

    def __call__(self, *args: Any) -> Any:
        if self.size(*args) > self.room:
            raise self.error
        self.fitted.append(self.size(*args))
        return self.real(*args)


def small_steps(room: int, error: RuntimeError = ERRORS["cuda"]) -> Small:
    return Small(invert_step, room, lambda _, task, *__: len(task.samples), error)


class TestHalving:
    """The rule alone, on tuples of numbers in the place of images."""

    @pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
    @pytest.mark.parametrize(
        "room, pieces",
        [(9, [(0, 1, 2, 3, 4)]), (4, [(0, 1, 2), (3, 4)]), (2, [(0, 1), (2,), (3, 4)]), (1, [(n,) for n in range(5)])],
    )
    def test_pieces_cover_all_in_order(self, room: int, pieces: list[Any], error: RuntimeError) -> None:
        work = Small(sum, room, len, error)
        found = list(halving(work, tuple(range(5))))
        assert found == [(piece, sum(piece)) for piece in pieces]

    def test_one_that_does_not_fit_is_none(self) -> None:
        def work(some: tuple[int, ...]) -> int:
            if 1 in some:
                raise ERRORS["cuda"]
            return sum(some)

        assert list(halving(work, (0, 1, 2))) == [((0,), 0), ((1,), None), ((2,), 2)]

    def test_other_errors_are_no_lack_of_memory(self) -> None:
        with pytest.raises(RuntimeError, match="of another kind"):
            list(halving(Small(sum, 0, len, RuntimeError("of another kind")), (0, 1)))


class TestMemory:
    """Images whose memory runs out."""

    @pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
    def test_halves_give_the_same_as_the_whole(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
    ) -> None:
        whole, _ = run(engine, make_samples(3))
        steps = small_steps(2, error)
        monkeypatch.setattr(batch, "invert_step", steps)
        halves, failed = run(engine, make_samples(3))
        assert steps.fitted == [2, 1] * T and not failed
        for id, inversion in whole.items():
            same(inversion, halves[id], rtol=1e-3, atol=1e-3)

    def test_halves_go_on_from_the_last_timestep(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        parts, _ = advance(begin(engine, make_samples(2))[0], 0)
        steps = small_steps(1)
        monkeypatch.setattr(batch, "invert_step", steps)
        parts, failed = advance(parts, 1)
        assert [part.ids for part in parts] == [["p0"], ["p1"]] and not failed
        assert [len(part.records) for part in parts] == [2, 2] and steps.fitted == [1, 1]
        advance(parts, 2)
        assert steps.fitted == [1] * 4

    @pytest.mark.parametrize("stage", ["prepare", "invert_step", "collect"])
    def test_one_image_that_is_too_large_alone(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch, stage: str
    ) -> None:
        def holds(*args: Any) -> int:
            samples = args[1] if stage == "prepare" else args[0 if stage == "collect" else 1].samples
            return any(sample.id == "p1" for sample in samples)

        monkeypatch.setattr(batch, stage, Small(getattr(batch, stage), 0, holds, ERRORS["cpu"]))
        done, failed = run(engine, make_samples(4))
        assert sorted(done) == ["p0", "p2", "p3"] and list(failed) == ["p1"]
        assert str(failed["p1"]).startswith("image 'p1': out of memory with this image alone; ")

    def test_a_picked_task_is_that_of_the_images(self, engine: Engine) -> None:
        one, two = make_samples(2)
        bare = replace(one, id="bare", nouns=(), adjectives=())
        part = begin(engine, [one, bare, two])[0][0]
        picked, alone = part.pick([0, 2]).task, prepare(engine.backbone, [one, two], METHOD, T, 8)
        assert picked.samples == alone.samples and picked.seconds == pytest.approx(part.task.seconds * 2 / 3)
        for name in ("embeddings", "plain", "empty", "priors", "trajectory", "initial_maps"):
            torch.testing.assert_close(getattr(picked, name), getattr(alone, name), rtol=1e-4, atol=1e-4, msg=name)
        for name, value in vars(alone.prompts).items():
            assert torch.equal(getattr(picked.prompts, name), value), name


class Spoiled:
    """Timesteps that go wrong for one image."""

    def __init__(self, id: str, field: str, value: float, i: int = 1, only: torch.dtype | None = None):
        self.id, self.field, self.value, self.i, self.only = id, field, value, i, only
        self.ids: list[list[str]] = []

    def __call__(self, backbone: Backbone, task: Task, i: int, before: StepRecord) -> StepRecord:
        record = invert_step(backbone, task, i, before)
        ids = [sample.id for sample in task.samples]
        self.ids.append(ids)
        if i != self.i or self.id not in ids or self.only not in (None, backbone.dtype):
            return record
        values = getattr(record, self.field).clone()
        values[ids.index(self.id)].view(-1)[0] = self.value
        return replace(record, **{self.field: values})


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Spoiled]]:
    """Spoils timesteps."""

    def start(*args: Any, **kwargs: Any) -> Spoiled:
        spoiled = Spoiled(*args, **kwargs)
        monkeypatch.setattr(batch, "invert_step", spoiled)
        return spoiled

    return start  # type: ignore[return-value]


class TestFinite:
    """Images whose numbers stop being finite."""

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(("latent", value) for value in (torch.nan, torch.inf, -torch.inf)),
            *((field, torch.nan) for field in ("tokens", "null", "maps", "losses", "null_loss")),
        ],
    )
    def test_in_fp32_the_image_fails_alone(
        self,
        engine: Engine,
        undisturbed: dict[str, Inversion],
        spoil: Callable[..., Spoiled],
        field: str,
        value: float,
    ) -> None:
        spoil("p1", field, value)
        done, failed = run(engine, make_samples(2))
        assert list(done) == ["p0"] and list(failed) == ["p1"]
        assert "image 'p1': its losses or latents aren't finite at timestep 2 of 3; data.on_error" in str(failed["p1"])
        same(done["p0"], undisturbed["p0"], rtol=1e-3, atol=1e-3)

    def test_a_loss_that_does_not_apply_is_no_failure(self, engine: Engine) -> None:
        sample = make_samples(1)[0]
        bare = replace(sample, id="bare", nouns=(), adjectives=())
        done, failed = run(engine, [sample, bare])
        assert done["bare"].losses.isnan().all() and not failed

    @pytest.mark.parametrize("i", range(T))
    def test_in_half_precision_it_is_inverted_again_in_fp32(
        self, tiny_folder: Path, engine: Engine, spoil: Callable[..., Spoiled], i: int
    ) -> None:
        half = make_engine(load_backbone(str(tiny_folder), "bfloat16"), METHOD, T, 8, is_half=True)
        exact = run(engine, make_samples(2)[1:])[0]
        spoiled = spoil("p1", "latent", torch.nan, i, only=torch.bfloat16)
        with pytest.warns(UserWarning, match=f"'p1' isn't finite in half precision at timestep {i + 1} of 3; .* fp32"):
            done, failed = run(half, make_samples(2))
        assert sorted(done) == ["p0", "p1"] and not failed
        same(done["p1"], exact["p1"])
        counts = [spoiled.ids.count(ids) for ids in (["p0", "p1"], ["p0"], ["p1"])]
        assert counts == [i + 1, T - i - 1, T]

    def test_fp32_after_the_trainers_half_precision(self, tiny: Backbone, engine: Engine, spoil: Any) -> None:
        exact = run(engine, make_samples(1))[0]
        mixed = make_engine(tiny, METHOD, T, 8, is_half=True)
        real, spoiled = [], Spoiled("p0", "latent", torch.nan)

        def once(*args: Any) -> StepRecord:
            real.append(torch.is_autocast_enabled("cpu"))
            return spoiled(*args) if real[-1] else invert_step(*args)

        with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
            patch.setattr(batch, "invert_step", once)
            with pytest.warns(UserWarning, match="again in fp32"):
                done, failed = run(mixed, make_samples(1))
        assert not failed and real == [True, True] + [False] * T
        same(done["p0"], exact["p0"])

    def test_the_fp32_weights_are_tuned_alike(self, tiny_folder: Path) -> None:
        half = load_backbone(str(tiny_folder), "bfloat16")
        tuned = make_engine(half, METHOD, T, 8, is_half=True, tuning=Tuning(gradient_checkpointing=True))
        assert tuned.exact is not None
        unet = tuned.exact().backbone.unet
        assert unet.is_gradient_checkpointing and unet.dtype == torch.float32

    def test_in_fp32_too_it_fails(self, tiny: Backbone, spoil: Callable[..., Spoiled]) -> None:
        spoil("p1", "null", torch.nan)
        with pytest.warns(UserWarning, match="again in fp32"):
            done, failed = run(make_engine(tiny, METHOD, T, 8, is_half=True), make_samples(2))
        assert list(done) == ["p0"] and list(failed) == ["p1"]

    def test_a_reconstruction_that_is_not_finite(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        real = engine.backbone.decode
        monkeypatch.setattr(
            engine.backbone, "decode", lambda z: real(z).where(torch.arange(len(z))[:, None, None, None] > 0, torch.nan)
        )
        done, failed = run(engine, make_samples(2))
        assert list(done) == ["p1"] and "aren't finite at its reconstruction" in str(failed["p0"])


class TestRuns:
    """Whole runs with one bad image."""

    def test_skip(self, tiny_folder: Path, tmp_path: Path, spoil: Callable[..., Spoiled], capsys: Any) -> None:
        spoil("p0", "losses", torch.inf)
        run_stage(tiny_folder, tmp_path, data={"on_error": "skip"})
        folder = RunFolder(tmp_path)
        assert [score["id"] for score in folder.scores()] == ["p1", "p2"]
        assert read_json(tmp_path / "summary.json")["num_images"] == 2
        problem = read_json(tmp_path / "skipped/p0.json")["problem"]
        assert problem.startswith("image 'p0': its losses or latents aren't finite at timestep 2 of 3")
        assert f"skipped p0: {problem}" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "running").iterdir()] == ["p0"]
        run_stage(tiny_folder, tmp_path, stage="validate", data={"on_error": "skip"})
        assert read_json(tmp_path / "validation.json")["num_images"] == 2

    def test_raise_loses_nothing(
        self, tiny_folder: Path, tmp_path: Path, spoil: Callable[..., Spoiled], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_stage(tiny_folder, tmp_path / "undisturbed")
        spoil("p1", "latent", torch.nan, i=2)
        with pytest.raises(InputError, match="image 'p1': its losses or latents aren't finite at timestep 3 of 3"):
            run_stage(tiny_folder, tmp_path / "run")
        kept = {f"{path.parent.name}/{path.stem}" for path in (tmp_path / "run/running").glob("*/*")}
        assert kept == {f"p0/000{i}" for i in range(3)} | {f"p1/000{i}" for i in range(2)}
        monkeypatch.undo()
        run_stage(tiny_folder, tmp_path / "run")
        assert inversions(tmp_path / "run") == inversions(tmp_path / "undisturbed")

    def test_the_next_run_tries_again(
        self, tiny_folder: Path, tmp_path: Path, spoil: Callable[..., Spoiled], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spoil("p2", "latent", torch.nan)
        run_stage(tiny_folder, tmp_path, data={"on_error": "skip"})
        monkeypatch.undo()
        run_stage(tiny_folder, tmp_path, data={"on_error": "skip"})
        assert len(inversions(tmp_path)) == 3
        assert not list((tmp_path / "skipped").iterdir())

    @pytest.mark.parametrize("i", [0, 2])
    def test_an_end_after_memory_ran_out(
        self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, i: int
    ) -> None:
        steps = small_steps(1)

        def killed(backbone: Backbone, task: Task, at: int, before: StepRecord) -> StepRecord:
            if at == i and [sample.id for sample in task.samples] == ["p1"]:
                raise KeyError("killed")
            return steps(backbone, task, at, before)

        monkeypatch.setattr(batch, "invert_step", steps)
        run_stage(tiny_folder, tmp_path / "undisturbed")
        monkeypatch.setattr(batch, "invert_step", killed)
        with pytest.raises(KeyError, match="killed"):
            run_stage(tiny_folder, tmp_path / "run")
        monkeypatch.setattr(batch, "invert_step", steps)
        run_stage(tiny_folder, tmp_path / "run")
        assert inversions(tmp_path / "run") == inversions(tmp_path / "undisturbed")

    def test_an_end_after_half_precision_broke_down(
        self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spoiled = Spoiled("p1", "latent", torch.nan, i=1, only=torch.bfloat16)

        def killed(backbone: Backbone, task: Task, i: int, before: StepRecord) -> StepRecord:
            if i == 2 and backbone.dtype == torch.float32:
                raise KeyError("killed")
            return spoiled(backbone, task, i, before)

        for root, steps in (("undisturbed", spoiled), ("run", killed), ("run", spoiled)):
            monkeypatch.setattr(batch, "invert_step", steps)
            with pytest.warns(UserWarning, match="again in fp32"):
                try:
                    run_stage(tiny_folder, tmp_path / root, dtype="bfloat16")
                except KeyError:
                    assert steps is killed
        assert len(inversions(tmp_path / "run")) == 3
        assert inversions(tmp_path / "run") == inversions(tmp_path / "undisturbed")


def test_a_part_of_everything_is_itself(engine: Engine) -> None:
    part = begin(engine, make_samples(2))[0][0]
    assert isinstance(part, MicroBatch) and part.pick(range(2)) is part and part[:] is part
