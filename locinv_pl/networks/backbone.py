"""The frozen networks of a latent text-to-image model, and what the engine asks of them.

:class:`Backbone` is what all architectures share. What differs between them stands in one file each, in
:mod:`locinv_pl.networks.architectures`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from locinv_pl.errors import InputError
from locinv_pl.networks.attention import (
    AttentionHook,
    AttentionHooks,
    Context,
    CrossAttentionMaps,
    Grid,
    MapsComplete,
    release_projections,
)
from locinv_pl.networks.graphs import LARGEST, Graphs, run_pass
from locinv_pl.networks.offload import Offload
from locinv_pl.networks.prefix import Prefix, modules_without_text
from locinv_pl.networks.schedule import Schedule, guided
from locinv_pl.networks.text import TextEncoders
from locinv_pl.networks.tuning import Tuning


class Backbone(ABC):
    """VAE, text encoders, denoiser and noise schedule, weights frozen.

    ``PIPELINES`` are the classes that a model_index.json of the architecture names, ``PARTS`` the components in its
    folder, each with its class in diffusers or transformers; the loader hands them over by these names.

    Args:
        name: what it was loaded from; goes into result files.
        vae: of diffusers.
        text: the text encoders.
        denoiser: of diffusers, a UNet or a transformer.
        scheduler: of diffusers, for its timesteps and noise levels.
        tuning: how the networks are run.
    """

    PIPELINES: ClassVar[tuple[str, ...]] = ()
    PARTS: ClassVar[dict[str, str]]
    is_joint: ClassVar[bool] = False  # whether text and image attend to each other in one layer
    has_null: ClassVar[bool] = True  # whether guidance has a null text, ∅

    def __init__(
        self, name: str, vae: Any, text: TextEncoders, denoiser: Any, scheduler: Any, tuning: Tuning = Tuning()
    ):
        self.name, self.tuning = name, tuning
        self.origin: Mapping[str, str] = {}  # what else it was loaded from, as options of load_backbone
        self.components: Mapping[str, Any] = {}  # where it was loaded, those of the libraries, as in PARTS
        self.index: Mapping[str, Any] = {}  # and its model_index.json
        self.vae, self.text, self.denoiser, self.scheduler = vae, text, denoiser, scheduler
        for net in self._networks:
            net.requires_grad_(False).eval()
        self._map_layers: dict[Grid, int] = {}
        self._without_text: tuple[nn.Module, ...] | None = None
        self._guidance: Tensor | None = None
        self._guided: dict[float, Backbone] = {}
        self.offload = False  # whether networks wait on the CPU until they are needed; a device of its own counts
        self._offload: Offload | None = None
        self._graphs = (
            Graphs() if tuning.cuda_graphs and not (tuning.compile or tuning.gradient_checkpointing) else None
        )

    # What an architecture says of itself

    @classmethod
    @abstractmethod
    def check(cls, configs: Mapping[str, Any], key: str, for_editors: bool) -> None:
        """The components must be those of one model of this architecture.

        Args:
            configs: their configurations by name, as :mod:`locinv_pl.networks.folder` reads them.
            key: names the model in errors, as in "backbone=NAME".
            for_editors: whether the denoiser may take the channels of an editor's, besides its latents'.

        Raises:
            InputError: they aren't.
        """

    @staticmethod
    @abstractmethod
    def make_scheduler(config: Mapping[str, Any]) -> Any:
        """The scheduler of diffusers that the architecture takes its noise levels from.

        Args:
            config: the content of scheduler_config.json.
        """

    @classmethod
    def parts(cls, index: Mapping[str, Any]) -> dict[str, str]:
        """The components of a model, as in ``PARTS``, from the content of its model_index.json."""
        return cls.PARTS

    @classmethod
    def networks(cls, index: Mapping[str, Any]) -> list[str]:
        """Those of its components that have weights."""
        return [part for part in cls.parts(index) if not part.startswith(("tokenizer", "scheduler"))]

    @classmethod
    def options(cls, index: Mapping[str, Any]) -> dict[str, Any]:
        """Further arguments, from the content of model_index.json."""
        return {}

    @property
    @abstractmethod
    def widths(self) -> tuple[int, int]:
        """D of the text's states, and C, the channels of a latent."""

    @property
    @abstractmethod
    def latent_size(self) -> int:
        """Side of the latents that the model was trained on."""

    @abstractmethod
    def schedule(self, num_steps: int) -> Schedule:
        """T = ``num_steps`` timesteps by the model's own spacing and noise levels.

        Args:
            num_steps: T, from 1 to the number of timesteps that the model was trained with.

        Raises:
            InputError: T lies outside, or the noise levels can't be inverted.
        """

    @abstractmethod
    def map_grid(self, latent: Sequence[int], resolution: int) -> Grid:
        """The (r, c) attention grid of a latent whose shorter side has ``resolution`` cells.

        Args:
            latent: its shape, (..., h, w).
            resolution: R, cells along the shorter side.

        Raises:
            InputError: no layer of the denoiser looks at the text there.
        """

    @abstractmethod
    def coarsest(self, latent: Sequence[int]) -> int:
        """Cells along the shorter side of the denoiser's coarsest attention grid.

        Args:
            latent: its shape, (..., h, w).
        """

    @abstractmethod
    def _states(self, ids: Tensor, embeddings: Tensor | None) -> tuple[Tensor, ...]:
        """The text's states (B, L, D), and pooled ones (B, P) where there are any, fp32, of token ids (B, L)."""

    @abstractmethod
    def _denoise(self, z: Tensor, t: Tensor, context: Context) -> Tensor:
        """One call of the denoiser."""

    @abstractmethod
    def _control(self, context: Context, hook: AttentionHook | None) -> AbstractContextManager[None]:
        """Let the denoiser's attention look at a context, and a hook at its attention."""

    def _guidance_of(self, w: float) -> Tensor | None:
        """What the denoiser is told of a guidance scale, (1, G); None where it isn't."""
        return None

    @property
    def map_layers(self) -> Collection[str] | None:
        """The names of the layers that A_t is the mean of; None for all of its grid."""
        return None

    @abstractmethod
    def _moved(self) -> None:
        """Set up what depends on the device."""

    # What all have in common

    @property
    def _networks(self) -> tuple[nn.Module, ...]:
        return self.vae, *self.text.networks, self.denoiser

    @property
    def tokenizer(self) -> Any:
        """What makes the token ids of a prompt, (L,)."""
        return self.text.tokenizer

    @property
    def _weight(self) -> Tensor:
        """The denoiser's first; asking the denoiser itself for its device looks through all modules each time."""
        return next(self.denoiser.parameters())

    @property
    def device(self) -> torch.device:
        """Where the networks are, or compute."""
        return self._weight.device if self._offload is None else self._offload.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the denoiser's weights."""
        return self._weight.dtype

    @property
    def downsampling(self) -> int:
        """Image pixels per latent pixel, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def image_size(self) -> int:
        """Side of the square images that the model was trained on, in pixels."""
        return self.latent_size * self.downsampling

    def to(self, device: torch.device | str) -> Backbone:
        """Move the networks, with the memory format that the device asks for; returns self.

        With ``offload`` they stay, and each moves when it is needed; on the CPU that changes nothing.

        Args:
            device: such as "cpu" or "cuda".
        """
        if torch.device(device) == self.device:
            return self
        if self.offload:
            self._wait_for(device)
            return self
        for net in self._networks:
            net.to(device)
        self._moved()
        self._graphs = self._graphs and Graphs()
        self._guided.clear()
        return self

    def _wait_for(self, device: torch.device | str) -> None:
        """Let the networks wait on the CPU for their turn on a device: fused projections and recordings stay put."""
        release_projections(self.denoiser)
        self.tuning, self._graphs = replace(self.tuning, fuse_projections=False), None
        self._guided.clear()
        self._offload = Offload(device)

    def _use(self, *networks: nn.Module, beside: bool = False) -> None:
        """Have networks where they compute; the others stay there only ``beside`` them."""
        if self._offload is not None and self._offload.use(*networks, beside=beside) and self.denoiser in networks:
            self._moved()

    @torch.no_grad()
    def encode(self, images: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """z_0 of images, of the VAE's posterior: its mean μ, or a sample μ + σ ε; scaled.

        Args:
            images: (B, 3, H, W), in [0, 1].
            generators: of the CPU, one for each image, to draw ε; None takes the mean.

        Returns:
            (B, C, h, w), fp32.
        """
        self._use(self.vae)
        posterior = self.vae.encode((images * 2 - 1).to(self.device, self.vae.dtype)).latent_dist
        z = posterior.mean
        if generators is not None:
            ε = torch.stack([torch.randn(z.shape[1:], generator=each) for each in generators])
            z = z + posterior.std * ε.to(z)
        return ((z - self._shift) * self.vae.config.scaling_factor).float().contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of latents (B, C, h, w)."""
        self._use(self.vae)
        z = (latents / self.vae.config.scaling_factor + self._shift).to(self.device, self.vae.dtype)
        return (self.vae.decode(z).sample.float() / 2 + 0.5).clamp(0, 1)

    @property
    def _shift(self) -> float:
        """What the VAE's latents are shifted by."""
        return self.vae.config.shift_factor or 0.0

    def embed(self, ids: Tensor) -> Tensor:
        """The text encoders' input embeddings of token ids (B, L): (B, L, E), fp32."""
        self._use(*self.text.networks)
        return self.text.embed(ids.to(self.device))

    def encode_text(self, ids: Tensor, embeddings: Tensor | None = None) -> Context:
        """What the text encoders make of some prompts.

        Args:
            ids: token ids, (B, L).
            embeddings: input embeddings, (B, L, E), to use in place of the tables' own; None uses these.

        Returns:
            states (B, L, D) for keys and values, and pooled ones, fp32.
        """
        ids = ids.to(self.device)
        self._use(*self.text.networks, beside=embeddings is not None)  # tokens move: the denoiser's turn is next
        if self._offload is not None:
            moves = embeddings is not None and embeddings.requires_grad and torch.is_grad_enabled()
            self._offload.held = tuple(self.text.networks) if moves else ()
        graphs = self._graphs_for(ids)
        if graphs is None or embeddings is None:
            return Context.of(*self._states(ids, embeddings))
        return Context.of(*graphs("text", self._states, ids, embeddings))

    def encode_null(self) -> Context:
        """∅, what stands for the empty prompt: (1, L, D)."""
        tokens = self.tokenizer("", padding="max_length", max_length=self.tokenizer.model_max_length)
        return self.encode_text(torch.tensor([tokens.input_ids]))

    def prefix(self, z: Tensor, t: Tensor) -> Prefix:
        """An empty prefix: the first pass that is given it fills it, later ones leave out what it holds.

        All of its passes have the same pooled states: what depends on these alone is in it.

        Args:
            z: z_t, (B, C, h, w).
            t: timestep, scalar or (B,).
        """
        if self._without_text is None:
            null = self.encode_null()
            text = torch.zeros_like(null.keys).requires_grad_()
            one = z[:1], t.flatten()[:1], Context.of(text, null.pooled)
            self._without_text = modules_without_text(self.denoiser, lambda: self._run(*one))
        return Prefix(self._without_text)

    def _run(
        self, z: Tensor, t: Tensor, context: Context, hook: AttentionHook | None = None, prefix: Prefix | None = None
    ) -> Tensor:
        context = context.to(self.dtype)
        self._use(self.denoiser)
        with self._control(context, hook), nullcontext() if prefix is None else prefix.replay():
            return self._denoise(z.to(self.dtype), t, context)

    def _graphs_for(self, batch: Tensor) -> Graphs | None:
        """What replays passes of a batch, where that pays."""
        small = batch.is_cuda and len(batch) <= LARGEST and not torch.is_autocast_enabled("cuda")
        return self._graphs if small else None

    @property
    def is_distilled(self) -> bool:
        """Whether the denoiser has learned guidance and is told its scale."""
        return False

    def guided_by(self, w: float) -> Backbone:
        """This backbone, or, where the denoiser has learned guidance and is told its scale, one that tells it ``w``.

        Args:
            w: guidance scale.
        """
        if not self.is_distilled:
            return self
        if w not in self._guided:
            self._guided[w] = other = copy(self)
            other._guidance = self._guidance_of(w)
            other._graphs = self._graphs and Graphs()
        return self._guided[w]

    def inverting(self, w: float) -> Backbone:
        """What the trajectory is made by for a reconstruction that is :meth:`guided_by` ``w``; by default that.

        Args:
            w: guidance scale of the reconstruction.
        """
        return self.guided_by(w)

    def needs_null(self, w: float) -> bool:
        """Whether guidance takes f(∅): not for w = 1, and not where the denoiser itself is told w.

        Args:
            w: guidance scale.
        """
        return w != 1 and not self.is_distilled

    def guide(
        self, cond: Tensor, z: Tensor, t: Tensor, null: Context, w: float, prefix: Prefix | None = None
    ) -> Tensor:
        """Classifier-free guidance; costs a pass of the null text where it :meth:`needs_null`, else nothing.

        Args:
            cond: f(z_t, t, c), (B, C, h, w).
            z: z_t, (B, C, h, w).
            t: timestep, scalar or (B,).
            null: ∅, (B, L, D).
            w: guidance scale.
            prefix: of z and t; None computes everything.

        Returns:
            the guided prediction, (B, C, h, w).
        """
        return guided(cond, self.predict(z, t, null, prefix=prefix), w) if self.needs_null(w) else cond

    def predict(
        self,
        z: Tensor,
        t: Tensor,
        context: Context,
        hook: AttentionHook | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """What the denoiser answers, f(z_t, t, context); :class:`Schedule` knows what kind of prediction that is.

        Args:
            z: z_t, (B, C, h, w).
            t: timestep, scalar or (B,).
            context: keys and values, (B, L, D) each.
            hook: reads or changes the attention on the way; such a pass is never replayed.
            prefix: of z and t; None computes everything. A hook sees the self-attention in it once at most.

        Returns:
            (B, C, h, w), fp32, contiguous: convolutions round otherwise in another layout, and a latent read from a
            file must go on exactly as the one in memory.
        """

        def run(z: Tensor, t: Tensor, context: Context, prefix: Prefix | None) -> Tensor:
            return self._run(z, t, context, hook, prefix).float().contiguous()

        graphs = self._graphs_for(z) if hook is None else None
        return run_pass(graphs, "prediction", run, z, t, context, prefix)

    def predict_with_maps(
        self,
        z: Tensor,
        t: Tensor,
        context: Context,
        grid: Grid,
        prefix: Prefix | None = None,
        also: AttentionHook | None = None,
    ) -> tuple[Tensor, Tensor]:
        """f(z_t, t, context) and A_t of the same pass.

        Args:
            z: z_t, (B, C, h, w).
            t: timestep, scalar or (B,).
            context: keys and values, (B, L, D) each.
            grid: (r, c), as :meth:`map_grid` answers it.
            prefix: of z and t; None computes everything.
            also: a further hook, behind the one that reads A_t; such a pass is never replayed.

        Returns:
            f (B, C, h, w) and A_t (B, r, c, L), both fp32.
        """

        def run(z: Tensor, t: Tensor, context: Context, prefix: Prefix | None) -> tuple[Tensor, Tensor]:
            maps = CrossAttentionMaps(grid, names=self.map_layers)
            hook = maps if also is None else AttentionHooks(maps, also)
            return self._run(z, t, context, hook, prefix).float().contiguous(), maps.A

        graphs = self._graphs_for(z) if also is None else None
        return run_pass(graphs, ("prediction and maps", grid), run, z, t, context, prefix)

    def attention_maps(
        self, z: Tensor, t: Tensor, context: Context, grid: Grid, prefix: Prefix | None = None
    ) -> Tensor:
        """A_t alone: the pass stops after the last layer that A_t comes from, since nothing after it can change A_t.

        Args:
            z: z_t, (B, C, h, w).
            t: timestep, scalar or (B,).
            context: keys and values, (B, L, D) each.
            grid: (r, c), as :meth:`map_grid` answers it.
            prefix: of z and t; None computes everything.

        Returns:
            (B, r, c, L), fp32; over L they sum to 1.
        """
        if grid not in self._map_layers:
            maps = CrossAttentionMaps(grid, names=self.map_layers)
            with torch.no_grad():
                self._run(z[:1], t.flatten()[:1], context.pick(slice(1)), maps)
            self._map_layers[grid] = maps.layers

        def run(z: Tensor, t: Tensor, context: Context, prefix: Prefix | None) -> Tensor:
            maps = CrossAttentionMaps(grid, self._map_layers[grid], self.map_layers)
            with suppress(MapsComplete):
                self._run(z, t, context, maps, prefix)
            return maps.A

        return run_pass(self._graphs_for(z), ("maps", grid), run, z, t, context, prefix)

    def finest_grid(self, latent: Sequence[int], resolution: int) -> Grid:
        """The attention grid of ``resolution`` cells along the shorter side, or the finest that there is below.

        Args:
            latent: its shape, (..., h, w).
            resolution: the most cells along the shorter side.

        Raises:
            InputError: there is none.
        """
        while True:
            try:
                return self.map_grid(latent, resolution)
            except InputError:
                if resolution <= 1:
                    raise
                resolution //= 2
