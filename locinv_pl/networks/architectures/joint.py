"""What transformers with joint attention have in common: maps on one grid, values of the text's own, rectified flow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor, nn

from locinv_pl.errors import InputError
from locinv_pl.networks.architectures.patches import PatchBackbone
from locinv_pl.networks.attention import AttentionHook, Context
from locinv_pl.networks.folder import TAKEN
from locinv_pl.networks.prefix import Prefix
from locinv_pl.networks.schedule import Schedule
from locinv_pl.networks.text import TextEncoders
from locinv_pl.networks.tuning import Tuning, checkpoint_blocks


class JointBackbone(PatchBackbone):
    """A model in which text and image attend to each other in one layer.

    Args:
        name: what it was loaded from.
        vae: of diffusers.
        text: the text encoders.
        transformer: of diffusers.
        scheduler: of diffusers, Euler's of a flow.
        tuning: how the networks are run; of it, gradient_checkpointing counts here.
    """

    is_joint: ClassVar[bool] = True

    def __init__(
        self, name: str, vae: Any, text: TextEncoders, transformer: Any, scheduler: Any, tuning: Tuning = Tuning()
    ):
        super().__init__(name, vae, text, transformer, scheduler, tuning)
        self._graphs = None  # joint attention was never recorded
        checkpoint_blocks(transformer, tuning)

    @staticmethod
    def make_scheduler(config: Mapping[str, Any]) -> Any:
        """Euler's scheduler."""
        return diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)

    @staticmethod
    def check_flow(scheduler: Any, key: str) -> None:
        """A scheduler must be one of a flow.

        Args:
            scheduler: its configuration.
            key: names the model in errors.

        Raises:
            InputError: it isn't.
        """
        if "FlowMatch" not in scheduler.kind:
            raise InputError(f"{key}: its scheduler is a {scheduler.kind}, not one of a flow; {TAKEN}")

    @property
    @abstractmethod
    def _text_values(self) -> tuple[nn.Module, ...]:
        """The modules that make the text's values, one of every joint layer."""

    def _moved(self) -> None:
        pass

    def _run(
        self, z: Tensor, t: Tensor, context: Context, hook: AttentionHook | None = None, prefix: Prefix | None = None
    ) -> Tensor:
        """Values of their own are those of a pass of theirs: in joint attention a text's states see the image."""
        if context.values is context.keys:
            return super()._run(z, t, context, hook, prefix)
        values = Prefix(self._text_values) if prefix is None else prefix.beside(self._text_values)
        if not values.outputs:
            with torch.no_grad(), values.replay():
                super()._run(z, t, context.with_states(context.values), None, prefix)
        with values.replay():
            return super()._run(z, t, context.with_states(context.keys), hook, prefix)

    def schedule(self, num_steps: int) -> Schedule:
        """See :meth:`Backbone.schedule`: Euler's steps from σ = 1 to 0, shifted as the model's scheduler says."""
        config = self.scheduler.config
        if not 1 <= num_steps <= config.num_train_timesteps:
            raise InputError(f"model.num_steps={num_steps}: must lie between 1 and {config.num_train_timesteps}")
        shift = {}
        if config.use_dynamic_shifting:  # by the number of image tokens, as the pipeline does
            tokens = (self.latent_size // self.patch_size) ** 2
            share = (tokens - config.base_image_seq_len) / (config.max_image_seq_len - config.base_image_seq_len)
            shift = {"mu": config.base_shift + share * (config.max_shift - config.base_shift)}
        self.scheduler.set_timesteps(num_steps, **self._spacing(num_steps), **shift)
        timesteps, sigmas = (x.float().to(self.device) for x in (self.scheduler.timesteps, self.scheduler.sigmas))
        return Schedule(timesteps, 1 - sigmas, sigmas, "flow")

    def _spacing(self, num_steps: int) -> dict[str, Any]:
        """Further arguments of the scheduler's ``set_timesteps``; by default its own spacing."""
        return {}
