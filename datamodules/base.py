"""What every source of pictures shares: how its samples reach the module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningDataModule

from locinv_pl.errors import InputError
from locinv_pl.strategy import TimestepLoader, local_queue
from locinv_pl.types import EditSample


class EditDataModule(LightningDataModule, ABC):
    """Pictures with prompts and priors, handed out batch by batch, timestep by timestep.

    Args:
        prior: which localization prior a noun gets.
        batch_size: pictures that are inverted together.
        size: side of the pictures in pixels; the backbone's own by default.
    """

    name: str

    def __init__(self, prior: str, batch_size: int, size: int | None):
        super().__init__()
        if batch_size < 1:
            raise InputError(f"data.batch_size={batch_size}: must be 1 or more")
        self.prior, self.batch_size, self.size = prior, batch_size, size

    @abstractmethod
    def load(self, size: int) -> tuple[Sequence[EditSample], Sequence[str]]:
        """The samples at a side of ``size`` pixels, opened one by one when asked for, and their ids."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the samples depend on; goes into settings.json."""
        return {"name": self.name, "prior": self.prior, "size": self.size}

    def setup(self, stage: str) -> None:
        """Read the data's tables."""
        if self.size is None:
            self.size = self._module.backbone.image_size
        self.samples, self.ids = self.load(self.size)

    def train_dataloader(self) -> TimestepLoader:
        """Batches claimed from the queue of all processes, T timesteps each."""
        return self._loader(self._module.num_steps, self._module.run.pending)

    def val_dataloader(self) -> Any:
        """Batches claimed likewise; none during fit, whose pictures aren't there yet."""
        if self._trainer.state.fn == "fit":
            return []
        return self._loader(1, list)

    @property
    def _trainer(self) -> Any:
        assert self.trainer is not None
        return self.trainer

    @property
    def _module(self) -> Any:
        return self._trainer.lightning_module

    def _loader(self, num_steps: int, pending: Any) -> TimestepLoader:
        new_queue = getattr(self._trainer.strategy, "new_queue", local_queue)
        return TimestepLoader(self.samples, self.ids, self.batch_size, num_steps, new_queue(), pending)
