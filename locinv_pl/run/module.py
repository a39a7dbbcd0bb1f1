"""Inversion as a LightningModule: a training step is one timestep of one batch of images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from locinv_pl.editing.pipelines import Editor, EditorSettings, make_editor
from locinv_pl.editing.prompt_to_prompt import check_edit, reconstruct
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError, check_choice, quoted, tell
from locinv_pl.measures.edits import Measures, MeasureSettings, edit_region
from locinv_pl.measures.metrics import fp32
from locinv_pl.method.policies import Method
from locinv_pl.method.task import check_null_text, settings_of
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import load_backbone
from locinv_pl.networks.options import LoadOptions
from locinv_pl.networks.tuning import Tuning
from locinv_pl.run.batch import Engine, MicroBatch, Outcome, advance, begin, make_engine
from locinv_pl.run.candidates import Candidate, edit_best, load_measures
from locinv_pl.run.edit_files import edit_row
from locinv_pl.run.edits import EditResult, save_edits
from locinv_pl.run.loader import TimestepBatch, TimestepLoader
from locinv_pl.run.logging import is_heard, step_metrics
from locinv_pl.run.results import score
from locinv_pl.run.scoring import note_refused, score_edits, score_reconstruction
from locinv_pl.run.store import RunFolder, Score, settings_digest
from locinv_pl.run.stores import StoreKind
from locinv_pl.run.strategy import ImageParallelStrategy
from locinv_pl.run.summary import edits_table, runs_table, summarize, summarize_edits
from locinv_pl.types import Edit, EditSample, Inversion, MadeOf


class LocInvModule(LightningModule):
    """Inverts images in ``fit`` and reconstructs them in ``validate``; edits them in ``predict``, scored in ``test``.

    Args:
        backbone: "embedded", a folder in diffusers' layout, or a hub id.
        method: the token policy and the null-text policy.
        num_steps: T, DDIM steps, 1 to the schedule's length (1000 for Stable Diffusion); by default those that the
            method is made for.
        resolution: R, side of the attention grid that is read, one that the UNet has.
        dtype: of the frozen weights: "float32", "bfloat16" or "float16".
        lora: a LoRA, which is added to the weights: its .safetensors file, a folder or a hub id with one.
        scheduler: what is to be otherwise in the configuration of the model's scheduler, such as
            ``_class_name: LCMScheduler``.
        layout: of a backbone that is a checkpoint in one file, the folder of a model of its kind in diffusers' layout,
            for its configurations and its tokenizer.
        offload: keep on a GPU the networks that are needed, and the others on the CPU.
        quantize: how the weights of a T5 text encoder are quantised; None leaves them as they are.
        store: where the files of finished images lie: "folder", each by itself, or "shards", many in a tar file of
            WebDataset's; by default as the run's folder has it, and "folder" for a new one.
        tuning: how the networks are run.
        edit: how ``predict`` edits by Prompt-to-Prompt.
        editor: another editor in its place, which needs no inversion.
        measures: what ``test`` measures the edits with, and ``predict`` chooses among the strengths of an edit by.
    """

    def __init__(
        self,
        backbone: str = "embedded",
        method: Method = Method(),
        num_steps: int | None = None,
        resolution: int = 16,
        dtype: str = "float32",
        tuning: Tuning = Tuning(),
        edit: EditSettings = EditSettings(),
        editor: EditorSettings | None = None,
        measures: MeasureSettings = MeasureSettings(),
        lora: str | None = None,
        scheduler: dict[str, Any] | None = None,
        layout: str | None = None,
        offload: bool = False,
        quantize: str | None = None,
        store: StoreKind | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.backbone_name, self.dtype_name = backbone, dtype
        self.options = LoadOptions(lora, scheduler, layout, offload, quantize)
        if store is not None:
            check_choice("store", store, StoreKind)
        self.method, self.resolution, self.store = method, resolution, store
        self.num_steps = method.num_steps if num_steps is None else num_steps
        self.tuning, self.edit, self.editor, self.measures = tuning, edit, editor, measures
        self.clock = torch.zeros(())
        self._micro_batches: tuple[MicroBatch, ...] = ()
        self._made_of: dict[str, MadeOf] = {}
        self._run: dict[str, RunFolder] = {}

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen networks, loaded at first use; not a submodule, so nothing trains or saves them."""
        for_editors = self.editor is not None and not self._inverts
        how: dict[str, Any] = {"tuning": self.tuning, "for_editors": for_editors, **self.options.given}
        return load_backbone(self.backbone_name, self.dtype_name, **how)

    @cached_property
    def _engine(self) -> Engine:
        """What inverts, here and now; in half precision with fp32 to fall back to."""
        is_half = self.backbone.dtype.itemsize < 4 or "16" in str(self.trainer.precision)
        return make_engine(self.backbone, self.method, self.num_steps, self.resolution, is_half, self.tuning)

    @cached_property
    def _measures(self) -> Measures:
        """The networks behind the measures, on this process's device."""
        return Measures(self.measures, self.trainer.strategy.root_device)

    @cached_property
    def _compares(self) -> Measures:
        """What chooses among the strengths of an edit."""
        return load_measures(self.measures, self.backbone)

    @property
    def _inverts(self) -> bool:
        """Whether this process is here to invert images, or to reconstruct them."""
        return self._trainer is None or self._trainer.state.fn in ("fit", "validate")

    @property
    def run(self) -> RunFolder:
        """This run's folder, the Trainer's ``default_root_dir``."""
        root = self.trainer.default_root_dir
        if root not in self._run:
            self._run = {root: RunFolder(root, self.store, self.trainer.global_rank)}
        return self._run[root]

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the results of this run; goes into settings.json."""
        data = getattr(self.trainer, "datamodule", None)
        engine = settings_of(self.backbone, self.method, self.num_steps, self.resolution)
        return {
            **engine,
            "dtype": self.dtype_name,
            "precision": str(self.trainer.precision),
            "data": data.settings if data is not None else {},
            "rounding": self._rounding,
        }

    @property
    def _rounding(self) -> dict[str, Any]:
        """What the last bits of inversions depend on; not so the number of processes, nor which of them does what."""
        device = self.trainer.strategy.root_device.type
        return {
            "device": device,
            "threads": torch.get_num_threads() if device == "cpu" else None,
            "batch_size": getattr(getattr(self.trainer, "datamodule", None), "batch_size", None),
            "tuning": asdict(self.tuning),
            **({"offload": True} if self.options.offload else {}),
            "torch": torch.__version__,
        }

    def unfinished(self, samples: Any) -> Callable[[Sequence[str]], list[str]]:
        """What answers which images of a batch are still to invert, as :meth:`RunFolder.pending` does.

        Args:
            samples: all images, with their ``ids``.
        """
        numbers, settings = {id: number for number, id in enumerate(samples.ids)}, settings_digest(self.settings)
        return partial(self.run.pending, made_of=lambda id: _made_of(samples[numbers[id]], settings))

    def setup(self, stage: str) -> None:
        """Move the networks to this process's device and claim the run's folder."""
        if self.editor is None or self._inverts:
            self.backbone.schedule(self.num_steps)  # refuses a wrong T before the folder is touched
            check_null_text(self.backbone, self.method)
        self.backbone.to(self.trainer.strategy.root_device)
        if self.editor is not None and stage == "predict":
            self._editor  # noqa: B018 (a model that isn't one for it is refused before the folder is touched)
        self.run.claim(self.settings, but_for="" if stage == "fit" else "rounding")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """A clock: its steps make ``trainer.global_step`` count timesteps. Tokens have their own AdamW."""
        return torch.optim.SGD([self.clock], lr=0.0)

    def training_step(self, batch: TimestepBatch, batch_idx: int) -> dict[str, Any]:
        """Take one timestep; records kept by an earlier run are taken from there.

        What :func:`~locinv_pl.run.logging.step_metrics` answers is logged, so that every logger and callback of
        Lightning's sees it: ``timestep``, ``iou/mean``, ``loss/NAME``, ``threshold/NAME``, ``loss/null_text``. The x
        axis is ``trainer.global_step``, which counts the timesteps of all batches that this process inverts. Every
        process logs its own batches and nothing is averaged over processes, so a logger writes those of the first one.
        """
        if batch.i == 0:
            settings = settings_digest(self.settings)
            self._made_of = {sample.id: _made_of(sample, settings) for sample in batch.samples}
            kept = partial(self.run.load_records, made_of=self._made_of)
            self._take(batch, begin(self._engine, batch.samples, kept))
        self._take(batch, advance(self._micro_batches, batch.i))
        if batch.i == self.num_steps - 1:
            self._take(batch, advance(self._micro_batches, self.num_steps))
        if self._micro_batches and is_heard(self.trainer):
            count = sum(map(len, self._micro_batches))
            self.log_dict(step_metrics(self._micro_batches, batch.i), on_step=True, on_epoch=False, batch_size=count)
        self.optimizers().step()  # type: ignore[union-attr]
        finished = [result for each in self._micro_batches for result in each.results]
        return {"i": batch.i, "micro_batches": self._micro_batches, "finished": finished}

    def _take(self, batch: TimestepBatch, outcome: Outcome) -> None:
        """Keep what a step has left of the images that go on, then leave out the others, or stop at them."""
        self._micro_batches, failed = outcome
        for each in self._micro_batches:
            for result in each.results:
                result.inversion.save(self.run.inversion_path(result.sample.id))
            if each.engine is self._engine and len(each.records) == batch.i + 1:
                self.run.save_record(each.ids, batch.i, each.records[-1], self._made_of)
        for id, problem in failed.items():
            batch.leave_out(id, problem)

    def on_train_batch_end(self, outputs: Any, batch: TimestepBatch, batch_idx: int) -> None:
        """After the callbacks have drawn them, mark images as finished."""
        if outputs["finished"]:
            self.run.finish({r.sample.id: r.scores for r in outputs["finished"]}, self._made_of)

    def on_train_end(self) -> None:
        """Let the process that sums up see what this one has made."""
        self.run.close()

    on_validation_end = on_predict_end = on_test_end = on_train_end

    def validation_step(self, batch: TimestepBatch, batch_idx: int) -> None:
        """Reconstruct from the files alone, and score."""
        began = time.perf_counter()
        inversions = [self.run.inversion(s.id, s.fingerprint) for s in batch.samples]
        images = reconstruct(self.backbone, inversions, self._stop_if_told)
        seconds = (time.perf_counter() - began) / len(inversions)
        for result in score(self.backbone, batch.samples, inversions, images, seconds):
            self.run.save_scores("validation", result.sample.id, result.scores)

    def predict_step(self, batch: TimestepBatch, batch_idx: int) -> list[EditResult]:
        """Edit every image of the batch by the edits that its data names; from the files alone."""
        return [self._edit(sample, batch.skips) for sample in batch.samples]

    def _edit(self, sample: EditSample, skip: bool) -> EditResult:
        """Make an image's edits; with ``skip`` those that can't be made are noted and left out."""
        values, inversion, refused, began = self._edit_values, None, [], time.perf_counter()
        if self.editor is None:
            inversion = self.run.inversion(sample.id, sample.fingerprint)
        edits, made = [], []
        candidates: list[list[Candidate]] = []
        masks: Sequence[Tensor] | Tensor = ()
        for listed in sample.edits:
            try:
                made += self._made_alone(sample, inversion, listed)
                edits.append(listed)
            except InputError as problem:
                if not skip:
                    raise
                tell(f"skipped edit {quoted(listed.prompt)} of {sample.id}: {problem}")
                refused.append({**edit_row(listed, values, self._region(sample)), "problem": str(problem)})
        note_refused(self.run, sample.id, refused)
        if inversion is not None:
            region = self._region(sample)
            images, candidates, masks = edit_best(
                self.backbone, inversion, edits, self.edit, region, lambda: self._compares, self._stop_if_told
            )
        else:
            back = self.backbone.decode(self.backbone.encode(sample.image[None])).cpu()
            images = torch.cat([back, *(image[None] for image in made)])
        back, edited = images[0], images[1:]
        seconds = (time.perf_counter() - began) / max(1, len(edits))
        save_edits(
            self.run,
            sample.id,
            prompt=sample.prompt,
            fingerprint=sample.fingerprint,
            settings=values,
            source=sample.image,
            reconstruction=back,
            edits=edits,
            images=edited,
            region=self._region(sample),
            seconds=seconds,
            candidates=candidates,
            masks=masks,
        )
        return EditResult(sample, inversion, values, back, edits, edited)

    def _made_alone(self, sample: EditSample, inversion: Inversion | None, listed: Edit) -> list[Tensor]:
        """What another editor makes, (3, H, W); ours makes all edits of an image together, and is only asked here."""
        if inversion is not None:
            check_edit(self.backbone, inversion, listed, self.edit, self._region(sample))
            return []
        if listed.weights:
            raise InputError(
                f"prompt {quoted(listed.prompt)}: weights in brackets are for our own edits; leave them out, or editor="
            )
        region = edit_region(sample, self.backbone.tokenizer, listed, by_prior=True)
        return [self._editor(sample.image, sample.prompt, listed.prompt, region)]

    def _region(self, sample: EditSample) -> Tensor | None:
        """Where the data says that our own edits may change the image, if they are to keep to that."""
        return sample.region if self.editor is None and self.edit.blend == "prior" else None

    def _stop_if_told(self) -> None:
        """Answer SIGTERM in the middle of an image that is made again from its beginning."""
        if isinstance(self.trainer.strategy, ImageParallelStrategy):
            self.trainer.strategy.stop_if_told()
        elif self.trainer.received_sigterm:
            raise SIGTERMException

    @cached_property
    def _editor(self) -> Editor:
        assert self.editor is not None
        return make_editor(self.editor, self.backbone, self._stop_if_told)

    @property
    def _edit_values(self) -> dict[str, Any]:
        """What edits the images, as plain values."""
        return (self.editor or self.edit).to_dict()

    def test_step(self, batch: TimestepBatch, batch_idx: int) -> None:
        """Score the edits that ``predict`` made of every image of the batch; from the files alone."""
        for sample in batch.samples:
            self._stop_if_told()
            with fp32(self.trainer.strategy.root_device.type):
                self._score_edits(sample, batch.skips)

    def _score_edits(self, sample: EditSample, skip: bool) -> None:
        tokenizer, by_region = self.backbone.tokenizer, self._region(sample) is not None
        edits = score_edits(self.run, sample, tokenizer, self._edit_values, self._measures, by_region, skip)
        back = score_reconstruction(self.run, sample, self._measures)
        about = {"id": sample.id, "prompt": sample.prompt, "reconstruction": back}
        self.run.save_scores("test", sample.id, {**about, "edits": edits, **self._tested})

    def teardown(self, stage: str) -> None:
        """Once every process has ended, the first one sums up: summary.json, validation.json or test.json."""
        if not self.trainer.is_global_zero:
            return
        if stage == "test":
            summarize_tests = partial(summarize_edits, inversion=self.run.score_of, settings=self._tested_settings)
            tested = self.run.sum_up("test.json", "test", summarize_tests, self._is_tested)
            print(f"\n{edits_table(tested)}\n\nResults: {self.run.root}")
        elif stage != "predict":
            kind, file = ("inversions", "summary.json") if stage == "fit" else ("validation", "validation.json")
            summary = self.run.sum_up(file, kind, partial(summarize, settings=self.settings))
            print(f"\n{runs_table([summary])}\n\nResults: {self.run.root}")
        self._require_all(stage)

    def _require_all(self, stage: str) -> None:
        """Refuse to pass a part for the whole: the Trainer can end a run before its images are done."""
        names = {"fit": "train_dataloader", "validate": "val_dataloaders", "predict": "predict_dataloaders"}
        loader = getattr(self.trainer, names.get(stage, "test_dataloaders"))
        if not isinstance(loader, TimestepLoader):
            return
        name, ids = str(getattr(stage, "value", stage)), loader.ids_to_do
        is_counted = stage == "fit" and ids is not None
        left = len(self.run.unfinished(ids or ())) if is_counted else int(not loader.is_through)
        if left:
            raise InputError(
                f"{name}: {left if is_counted else 'some'} of {'its' if ids is None else len(ids)} images are "
                f"unfinished: max_steps, max_time, limit_*_batches, fast_dev_run or a callback of the Trainer ended "
                f"it; run the same command without that to go on"
            )

    def _is_tested(self, score: Score) -> bool:
        """Whether the scores of an image's edits are those of these settings."""
        return self._tested.items() <= score.items()

    @property
    def _tested_settings(self) -> dict[str, Any]:
        return {**self.settings, **self._tested}

    @property
    def _tested(self) -> dict[str, Any]:
        """What scores of edits depend on, besides the run's settings."""
        return {"edit": self._edit_values, "measures": asdict(self.measures)}


def _made_of(sample: EditSample, settings: str) -> MadeOf:
    return {"id": sample.id, "sample": sample.fingerprint, "settings": settings}
