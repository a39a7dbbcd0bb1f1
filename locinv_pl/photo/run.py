"""The folder in which photographs' inversions and edits lie: that of any run, so that all that reads runs reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from locinv_pl.api import invert_sample
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError, tell
from locinv_pl.measures.edits import MeasureSettings
from locinv_pl.method.policies import Method, load_method
from locinv_pl.method.progress import Progress, last_result, nothing
from locinv_pl.method.task import settings_of
from locinv_pl.networks.backbone import Backbone
from locinv_pl.photo.composite import composite
from locinv_pl.photo.sample import Photo
from locinv_pl.run.edits import EditResult, make_edits
from locinv_pl.run.results import score
from locinv_pl.run.store import RunFolder, settings_digest
from locinv_pl.types import Inversion, MadeOf


class PhotoRun:
    """Inverts photographs, finds their inversions again, and edits them, in one folder.

    Args:
        root: the folder; files lie in it as in that of any run, see :mod:`locinv_pl.run.store`.
        backbone: the frozen networks.
        method: a preset's name, a method's YAML file, or a method.
        num_steps: T; by default the steps that the method is made for.
        resolution: R, side of the attention grid in cells.

    Raises:
        InputError: there is no such method.
    """

    def __init__(
        self,
        root: str | Path,
        backbone: Backbone,
        method: Method | str = "locinv_direct",
        num_steps: int | None = None,
        resolution: int = 16,
    ):
        self.folder, self.backbone, self.resolution = RunFolder(root), backbone, resolution
        self.method = load_method(method) if isinstance(method, str) else method
        self.num_steps = self.method.num_steps if num_steps is None else num_steps

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the results; goes into settings.json."""
        return {
            **settings_of(self.backbone, self.method, self.num_steps, self.resolution),
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "data": {"name": "photo"},
            "rounding": {"device": self.backbone.device.type, "torch": torch.__version__},
        }

    def find(self, photo: Photo) -> Inversion | None:
        """The inversion of a photograph with this prompt, these priors and these settings, if it is there and whole."""
        if not self.folder.is_marked(photo.sample.id):
            return None
        self.folder.claim(self.settings, but_for="rounding")
        try:
            return self.folder.inversion(photo.sample.id, photo.sample.fingerprint)
        except InputError as error:
            tell(f"photo {photo.name!r} is inverted again: {error.problem}")
            return None

    def iter_invert(self, photo: Photo) -> Iterator[Progress[Inversion]]:
        """Invert a photograph and keep the inversion; where it is there already, it is found.

        Args:
            photo: from :func:`~locinv_pl.photo.open_photo`.

        Yields:
            as :func:`~locinv_pl.api.iter_invert` does; one that is found is told as the last timestep alone.

        Raises:
            InputError: the folder holds results of other settings, the prompt is too long, or as
                :func:`~locinv_pl.api.invert` does.
        """
        sample, T = photo.sample, self.num_steps
        if (found := self.find(photo)) is not None:
            yield Progress("optimize", T, T, 0.0, found.maps.mean(0), result=found)
            return
        self.backbone.schedule(T)  # refuses a wrong T before the folder is touched
        self.folder.claim(self.settings, but_for="rounding")
        for progress in invert_sample(self.backbone, sample, self.method, T, self.resolution):
            if (inversion := progress.result) is not None:
                back = self.backbone.decode(inversion.latent[None]).cpu()
                inversion.save(self.folder.inversion_path(sample.id))
                (result,) = score(self.backbone, [sample], [inversion], back, progress.seconds)
                settings = settings_digest(self.settings)
                made_of = MadeOf(id=sample.id, sample=sample.fingerprint, settings=settings)
                self.folder.finish({sample.id: result.scores}, {sample.id: made_of})
            yield progress

    def invert(self, photo: Photo) -> Inversion:
        """What :meth:`iter_invert` has made in the end."""
        return last_result(self.iter_invert(photo))

    def edit(
        self,
        photo: Photo,
        prompts: str | Sequence[str],
        settings: EditSettings = EditSettings(),
        region: Tensor | None = None,
        measures: MeasureSettings = MeasureSettings(),
        after_each: Callable[[], None] = nothing,
    ) -> tuple[EditResult, list[Path]]:
        """Edit a photograph, which is inverted first where it has not been, and write the images.

        Args:
            photo: from :func:`~locinv_pl.photo.open_photo`.
            prompts: n target prompts, edited as one batch.
            settings: how.
            region: where the edits may change the image, (H, W) of the photograph's sample.
            measures: the networks that choose among the strengths of an edit, with ``settings.candidates`` above 1.
            after_each: called after every timestep.

        Returns:
            the images, and their files, below ``edits/`` of the folder. Beside "1-word_swap.png" lies
            "1.photo-word_swap.png", the photograph at its own size, as
            :func:`~locinv_pl.photo.composite.composite` makes it.

        Raises:
            InputError: as :func:`~locinv_pl.editing.prompt_to_prompt.edit` does, before anything is computed.
        """
        inversion = self.invert(photo)
        prompts = [prompts] if isinstance(prompts, str) else prompts
        edits, images, paths = make_edits(
            self.folder,
            self.backbone,
            inversion,
            prompts,
            settings,
            region,
            measures,
            photo.sample.image,
            after_each,
            into_photo=partial(composite, photo),
        )
        return EditResult(photo.sample, inversion, settings.to_dict(), images[0], edits, images[1:]), paths
