"""What all datasets share: how their samples reach the module. A dataset is a subclass that lists its entries.

.. code-block:: python

    # pets.py, on the PYTHONPATH; inverted by: locinv fit data=pets.yaml, a file with class_path: pets.Pets
    from pathlib import Path

    from locinv_pl.datamodules.base import EditDataModule
    from locinv_pl.datamodules.entries import Entry, Mention, Shape
    from locinv_pl.types import Edit


    class Pets(EditDataModule):
        name = "pets"

        def __init__(self, root: str, **kwargs):
            super().__init__(**kwargs)
            self.root = Path(root)

        def entries(self, side, problems):
            cat = Mention("cat", (2, 5), (Shape(box=(10, 10, 40, 30)),))  # characters 2 to 5; x, y, w, h in pixels
            edit = Edit("a dog on grass", "word_swap")
            return [Entry("tom", self.root / "tom.png", 64, 64, "a cat on grass", (cat,), (edit,))]

Each :class:`~locinv_pl.datamodules.entries.Entry` names an image's file, its size, its prompt, the nouns with their
masks or boxes, and the edits. Images are opened later, one by one. Wrap what concerns one image in
``with problems.of(id):``, and ``on_error=skip`` leaves out that image alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from lightning.pytorch import LightningDataModule

from locinv_pl.datamodules.completion import Captions, Completion
from locinv_pl.datamodules.entries import Entry, EntrySamples, OnError, PriorKind, Problems
from locinv_pl.errors import InputError, check_choice, tell
from locinv_pl.grounding.models import DataModels
from locinv_pl.io.frames import Fit, Frame
from locinv_pl.run.loader import TimestepLoader, local_queue
from locinv_pl.run.module import LocInvModule
from locinv_pl.types import EditSample
from locinv_pl.words.tokens import check_prompt


class EditDataModule(LightningDataModule, ABC):
    """Images with prompts and priors, handed out batch by batch, timestep by timestep.

    Args:
        prior: which localization prior a noun gets: "segment" for masks (boxes where there is no mask), "box"
            for filled boxes, "grounded_sam" for masks that Grounding DINO and SAM find on the image, "sam3" for masks
            that SAM 3 finds alone.
        batch_size: the number of images that are inverted together, 1 or more.
        size: side of the images in pixels; the backbone's own by default.
        fit: how images that aren't square become what the model takes: "crop" shows the centred square, "pad"
            the whole between black bars, "native" keeps their shape, in multiples of 64 pixels.
        on_error: "raise" stops at the first image that can't be used: unreadable, too large for the memory, or
            with losses that aren't finite; "skip" reports it and goes on. The next run tries it again.
        num_workers: the number of processes that open images ahead, for each training process; 0 (the default) opens
            them in the training process itself.
        pin_memory: True puts images into page-locked memory, which makes copies to a GPU faster.
        words: what finds nouns and adjectives in prompts: "dictionary", "spacy", or "spacy:PIPELINE".
        caption: "blip" captions images that have no prompt; "given" refuses them.
        models: the foundation models behind ``prior=grounded_sam``, ``prior=sam3`` and ``caption=blip``; with
            ``prior=sam3`` the segmenter is "facebook/sam3" by default, and there is no detector.
        shard: "3/8" takes the third of eight equal parts of the images, for arrays of jobs that share a run's
            folder; all of them by default.
        model: the module that the images are for: it knows the size of images, the number of timesteps, the limit
            of prompts and, in a run, which images are finished. The command line gives its own; by default it is that
            of the Trainer.
    """

    name: str

    def __init__(
        self,
        prior: PriorKind = "segment",
        batch_size: int = 4,
        size: int | None = None,
        fit: Fit = "crop",
        on_error: OnError = "raise",
        num_workers: int = 0,
        pin_memory: bool = False,
        words: str = "dictionary",
        caption: Captions = "given",
        models: DataModels = DataModels(),
        shard: str | None = None,
        model: LocInvModule | None = None,
    ):
        super().__init__()
        self.model = model
        check_choice("data.prior", prior, PriorKind)
        check_choice("data.fit", fit, Fit)
        check_choice("data.on_error", on_error, OnError)
        check_choice("data.caption", caption, Captions)
        if batch_size < 1:
            raise InputError(f"data.batch_size={batch_size}: must be 1 or more")
        if size is not None and size < 1:
            raise InputError(f"data.size={size}: not an image's side; give a number of pixels")
        if num_workers < 0:
            raise InputError(f"data.num_workers={num_workers}: must be 0 or more")
        self.shard, self._shard = shard, slice(None) if shard is None else _shard_of(shard)
        self.prior, self.batch_size, self.size, self.fit = prior, batch_size, size, fit
        self.on_error: OnError = on_error
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.words, self.caption = words, caption
        self.models = models.without_detector() if prior == "sam3" else models

    @abstractmethod
    def entries(self, side: int, problems: Problems) -> Sequence[Entry]:
        """List the dataset's samples, without opening their images.

        Args:
            side: side in pixels of the images that the model takes; only datasets that draw their images need it.
            problems: collects what is wrong with single images: wrap each in ``with problems.of(id):``.

        Returns:
            One entry for each image that can be used, in the order in which they are to be inverted.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """What the samples depend on; goes into settings.json."""
        own = {"name": self.name, "prior": self.prior, "size": self.size, "fit": self.fit, "words": self.words}
        models = {"caption": self.caption, "models": asdict(self.models)} if self._needs_models else {}
        return {**own, **models}

    def read(self, side: int, problems: Problems) -> EntrySamples:
        """The samples at a side of ``side`` pixels, opened one by one when asked for."""
        complete = Completion(self._finds_priors, self.caption, self.models, self.words)
        return EntrySamples(self.entries(side, problems), self.prior, side, self.fit, complete)

    def setup(self, stage: str) -> None:
        """Read the data's tables."""
        if self.size is None:
            self.size = self._model.backbone.image_size
        problems = Problems(self.on_error)
        self.samples = self.read(self.size, problems)
        self._num_problems = len(problems.found)
        for problem in problems.found:
            self._report(problem.id, problem.problem)
        for note in problems.notes:
            tell(f"note {note.id}: {note.problem}")

    def count_batches(self) -> int:
        """How many batches of equal images there are at most, told without a model; 0 where data can't be read."""
        count = getattr(self, "num_images", None)
        with suppress(InputError):  # which setup raises
            count = len(self.entries(self.size or 0, Problems("skip"))) if count is None else count
        return -(-len(range(count or 0)[self._shard]) // self.batch_size)

    def train_dataloader(self) -> TimestepLoader:
        """Batches claimed from the queue of all processes, T timesteps each; without a Trainer, all batches."""
        if self.trainer is None:
            return self._loader(self._model.num_steps, list)
        if self.trainer.is_global_zero:
            self._model.run.announce(len(self.samples) + self._num_problems)
        return self._loader(self._model.num_steps, self._model.unfinished(self.samples))

    def val_dataloader(self) -> Any:
        """Batches claimed likewise; none during fit, whose images aren't there yet."""
        if self.trainer is not None and self.trainer.state.fn == "fit":
            return []
        return self._loader(1, self._left)

    def predict_dataloader(self) -> TimestepLoader:
        """The loader of predict: the same queue, one step a batch."""
        return self._loader(1, self._left)

    def test_dataloader(self) -> TimestepLoader:
        """The loader of test: the same queue, one step a batch."""
        return self._loader(1, self._left)

    def _left(self, ids: Sequence[str]) -> Sequence[str]:
        """The images that have an inversion to take: all, or those that the inversion hasn't left out."""
        return ids if self.on_error == "raise" or self.trainer is None else self._model.run.unskipped(ids)

    @property
    def _needs_models(self) -> bool:
        return self._finds_priors or self.caption == "blip"

    @property
    def _finds_priors(self) -> bool:
        return self.prior in ("grounded_sam", "sam3")

    @property
    def _model(self) -> LocInvModule:
        model = self.model if self.model or self.trainer is None else self.trainer.lightning_module
        if not isinstance(model, LocInvModule):
            raise InputError(f"data {self.name}: for no model; give model=LocInvModule(...)")
        return model

    def _loader(self, num_steps: int, pending: Callable[[Sequence[str]], Sequence[str]]) -> TimestepLoader:
        new_queue = local_queue if self.trainer is None else getattr(self.trainer.strategy, "new_queue", local_queue)
        mine = range(len(self.samples))[self._shard]
        return TimestepLoader(
            self.samples,
            self.samples.ids,
            batches_of({j: self.samples.frame(j) for j in mine}, self.batch_size),
            num_steps,
            new_queue(),
            pending,
            report=self._report if self.on_error == "skip" else None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            accept=self._accept,
        )

    def _accept(self, sample: EditSample) -> EditSample:
        """A sample whose prompt the text encoder takes."""
        check_prompt(self._model.backbone.tokenizer, sample)
        return sample

    def _report(self, id: str, problem: object) -> None:
        """Say that an image is left out, and in a run keep the reason in its folder."""
        if self.trainer is not None:
            self._model.run.save_scores("skipped", id, {"id": id, "problem": str(problem)})
        tell(f"skipped {id}: {problem}")


def batches_of(frames: Mapping[int, Frame], batch_size: int) -> list[list[int]]:
    """Divide images into batches of one size.

    Args:
        frames: the frame of each image, by the image's index.
        batch_size: the most images of a batch, 1 or more.

    Returns:
        The batches as lists of indices; images of equal size keep their order.

    >>> wide, tall = Frame.whole(128, 64), Frame.whole(64, 128)
    >>> batches_of({0: wide, 1: tall, 2: wide, 3: wide}, batch_size=2)
    [[0, 2], [3], [1]]
    """
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, frame in frames.items():
        alike[frame.size].append(number)
    return [numbers[n : n + batch_size] for numbers in alike.values() for n in range(0, len(numbers), batch_size)]


def _shard_of(shard: str) -> slice:
    """The images of part k of n, "k/n": numbers k-1, k-1+n, k-1+2n, ..."""
    k, slash, n = shard.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise InputError(f"data.shard={shard}: no part of the images; write K/N with K from 1 to N, as 3/8")
    return slice(int(k) - 1, None, int(n))
