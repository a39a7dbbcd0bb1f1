"""The frozen networks of a latent text-to-image model of Stable Diffusion's layout, and how they are loaded."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from locinv_pl.assets import EMBEDDED
from locinv_pl.errors import InputError
from locinv_pl.networks.attention import (
    AttentionHook,
    AttentionHooks,
    Context,
    CrossAttentionMaps,
    Grid,
    MapsComplete,
    control_attention,
)
from locinv_pl.networks.folder import check_configs, check_folder, refuse_file, variant_of
from locinv_pl.networks.graphs import LARGEST, Graphs, run_pass
from locinv_pl.networks.hub import ask_hub, reason
from locinv_pl.networks.prefix import Prefix, modules_without_text
from locinv_pl.networks.schedule import Schedule, guidance_embedding, guided
from locinv_pl.networks.tuning import Tuning, set_memory_format, tune

LEAST_SIGNAL = 1e-6  # of ᾱ


class Backbone:
    """VAE, text encoder, UNet and noise schedule of Stable Diffusion's layout, weights frozen.

    Args:
        name: what it was loaded from; goes into result files.
        vae, text_encoder, tokenizer, unet, scheduler: as diffusers and transformers load them;
            ``scheduler`` is a DDIMScheduler, or an LCMScheduler for its timesteps.
        tuning: how the networks are run.
    """

    def __init__(
        self,
        name: str,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        tuning: Tuning = Tuning(),
    ):
        self.name, self.tuning = name, tuning
        self.vae, self.text_encoder, self.unet = vae, text_encoder, unet
        self.tokenizer, self.scheduler = tokenizer, scheduler
        for net in self._networks:
            net.requires_grad_(False).eval()
        tune(unet, vae, tuning)
        self._map_layers: dict[Grid, int] = {}
        self._without_text: tuple[nn.Module, ...] | None = None
        self._guidance: Tensor | None = None
        self._guided: dict[float, Backbone] = {}
        self._graphs = (
            Graphs() if tuning.cuda_graphs and not (tuning.compile or tuning.gradient_checkpointing) else None
        )

    @property
    def _networks(self) -> tuple[nn.Module, ...]:
        return self.vae, self.text_encoder, self.unet

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.unet.conv_in.weight.device  # unet.device looks through all modules, a millisecond each time

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.unet.conv_in.weight.dtype

    @property
    def widths(self) -> tuple[int, int]:
        """D of the text, and C, the channels of a latent."""
        return self.text_encoder.config.hidden_size, self.unet.config.in_channels

    @property
    def downsampling(self) -> int:
        """Image pixels per latent pixel, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def image_size(self) -> int:
        """Side of the square images that the model was trained on, in pixels."""
        return self.unet.config.sample_size * self.downsampling

    def to(self, device: torch.device | str) -> Backbone:
        """Move the networks, with the memory format that the device asks for; returns self.

        Args:
            device: such as "cpu" or "cuda".
        """
        if torch.device(device) == self.device:
            return self
        for net in self._networks:
            net.to(device)
        set_memory_format(self.unet, self.vae, self.tuning)
        self._graphs = self._graphs and Graphs()
        self._guided.clear()
        return self

    @torch.no_grad()
    def encode(self, images: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """z_0 of images, of the VAE's posterior: its mean μ, or a sample μ + σ ε; scaled.

        Args:
            images: (B, 3, H, W), in [0, 1].
            generators: of the CPU, one for each image, to draw ε; None takes the mean.

        Returns:
            (B, C, h, w), fp32.
        """
        posterior = self.vae.encode((images * 2 - 1).to(self.device, self.dtype)).latent_dist
        z = posterior.mean
        if generators is not None:
            ε = torch.stack([torch.randn(z.shape[1:], generator=each) for each in generators])
            z = z + posterior.std * ε.to(z)
        return (z * self.vae.config.scaling_factor).float().contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of latents (B, C, h, w)."""
        z = (latents / self.vae.config.scaling_factor).to(self.device, self.dtype)
        return (self.vae.decode(z).sample.float() / 2 + 0.5).clamp(0, 1)

    def embed(self, ids: Tensor) -> Tensor:
        """The text encoder's input embeddings of token ids (B, L): (B, L, D), fp32."""
        return self.text_encoder.get_input_embeddings()(ids.to(self.device)).float()

    def encode_text(self, ids: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """The text encoder's output for some prompts.

        Args:
            ids: token ids, (B, L).
            embeddings: input embeddings, (B, L, D), to use in place of the table's own; None uses these.

        Returns:
            (B, L, D), fp32.
        """

        def encode(ids: Tensor, embeddings: Tensor | None = None) -> Tensor:
            with _input_embeddings(self.text_encoder, embeddings):
                return self.text_encoder(ids).last_hidden_state.float()

        ids = ids.to(self.device)
        graphs = self._graphs_for(ids)
        if graphs is None or embeddings is None:
            return encode(ids, embeddings)
        return graphs("text", encode, ids, embeddings)

    def encode_null(self) -> Tensor:
        """∅, the output for the empty prompt: (1, L, D)."""
        tokens = self.tokenizer("", padding="max_length", max_length=self.tokenizer.model_max_length)
        return self.encode_text(torch.tensor([tokens.input_ids]))

    def prefix(self, z: Tensor, t: Tensor) -> Prefix:
        """An empty prefix: the first pass that is given it fills it, later ones leave out what it holds.

        Args:
            z: z_t, (B, C, h, w).
            t: timestep, scalar or (B,).
        """
        if self._without_text is None:
            text = torch.zeros(1, 1, self.text_encoder.config.hidden_size, device=z.device, requires_grad=True)
            one = z[:1], t.flatten()[:1], Context.of(text)
            self._without_text = modules_without_text(self.unet, lambda: self._run(*one))
        return Prefix(self._without_text)

    def _run(
        self, z: Tensor, t: Tensor, context: Context, hook: AttentionHook | None = None, prefix: Prefix | None = None
    ) -> Tensor:
        context = context.to(self.dtype)
        with control_attention(self.unet, context, hook), nullcontext() if prefix is None else prefix.replay():
            cond = None if self._guidance is None else self._guidance.expand(len(z), -1)
            text = context.keys
            return self.unet(z.to(self.dtype), t, timestep_cond=cond, encoder_hidden_states=text, return_dict=False)[0]

    def _graphs_for(self, batch: Tensor) -> Graphs | None:
        """What replays passes of a batch, where that pays."""
        small = batch.is_cuda and len(batch) <= LARGEST and not torch.is_autocast_enabled("cuda")
        return self._graphs if small else None

    def guided_by(self, w: float) -> Backbone:
        """This backbone, or, where its UNet has learned guidance and is told its scale, one that tells it ``w``.

        Args:
            w: guidance scale.
        """
        width = self.unet.config.time_cond_proj_dim
        if width is None:
            return self
        if w not in self._guided:
            self._guided[w] = other = copy(self)
            other._guidance = guidance_embedding(w, width).to(self.device, self.dtype)
            other._graphs = self._graphs and Graphs()
        return self._guided[w]

    def needs_null(self, w: float) -> bool:
        """Whether guidance takes ε(∅): not for w = 1, and not where the UNet itself is told w.

        Args:
            w: guidance scale.
        """
        return w != 1 and self.unet.config.time_cond_proj_dim is None

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
        """What the UNet answers, f(z_t, t, context); :class:`Schedule` knows what kind of prediction that is.

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
            maps = CrossAttentionMaps(grid)
            hook = maps if also is None else AttentionHooks(maps, also)
            return self._run(z, t, context, hook, prefix).float().contiguous(), maps.A

        graphs = self._graphs_for(z) if also is None else None
        return run_pass(graphs, ("prediction and maps", grid), run, z, t, context, prefix)

    def attention_maps(
        self, z: Tensor, t: Tensor, context: Context, grid: Grid, prefix: Prefix | None = None
    ) -> Tensor:
        """A_t alone: the UNet stops after the last r x c cross-attention, since nothing after it can change A_t.

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
            maps = CrossAttentionMaps(grid)
            with torch.no_grad():
                self._run(z[:1], t.flatten()[:1], context.pick(slice(1)), maps)
            self._map_layers[grid] = maps.layers

        def run(z: Tensor, t: Tensor, context: Context, prefix: Prefix | None) -> Tensor:
            maps = CrossAttentionMaps(grid, stop_after=self._map_layers[grid])
            with suppress(MapsComplete):
                self._run(z, t, context, maps, prefix)
            return maps.A

        return run_pass(self._graphs_for(z), ("maps", grid), run, z, t, context, prefix)

    def map_grid(self, latent: Sequence[int], resolution: int) -> Grid:
        """The (r, c) attention grid of a latent whose shorter side has ``resolution`` cells.

        Args:
            latent: its shape, (..., h, w).
            resolution: R, cells along the shorter side.

        Raises:
            InputError: the UNet has no cross-attention there.
        """
        h, w = latent[-2:]
        factor = min(h, w) // max(resolution, 1)
        levels = [2**n for n, kind in enumerate(self.unet.config.down_block_types) if "CrossAttn" in kind]
        if factor not in levels or resolution * factor != min(h, w):
            sizes = ", ".join(str(min(h, w) // n) for n in levels)
            raise InputError(
                f"model.resolution={resolution}: backbone {self.name!r} has no cross-attention of that size "
                f"for latents of {h}x{w}; use one of {sizes}"
            )
        return h // factor, w // factor

    def finest_grid(self, latent: Sequence[int], resolution: int) -> Grid:
        """The attention grid of ``resolution`` cells along the shorter side, or the finest that the UNet has below.

        Args:
            latent: its shape, (..., h, w).
            resolution: the most cells along the shorter side.

        Raises:
            InputError: the UNet has no cross-attention at any resolution below.
        """
        while True:
            try:
                return self.map_grid(latent, resolution)
            except InputError:
                if resolution <= 1:
                    raise
                resolution //= 2

    def schedule(self, num_steps: int) -> Schedule:
        """T = ``num_steps`` DDIM timesteps by the model's own spacing and noise levels.

        Args:
            num_steps: T, from 1 to the number of timesteps that the model was trained with.

        Raises:
            InputError: T lies outside, or the noisiest timestep has no signal (ᾱ = 0) to divide by.
        """
        config = self.scheduler.config  # of LCM's the timesteps that it was distilled at, else those of its training
        trained = config.get("original_inference_steps", config.num_train_timesteps)
        if not 1 <= num_steps <= trained:
            raise InputError(f"model.num_steps={num_steps}: must lie between 1 and {trained}")
        self.scheduler.set_timesteps(num_steps)
        timesteps = self.scheduler.timesteps.to(self.device)
        alphas = self.scheduler.alphas_cumprod[self.scheduler.timesteps.cpu()]
        if not alphas.min() > LEAST_SIGNAL:
            raise InputError(
                f"backbone={self.name}: its noise schedule ends without a signal (rescale_betas_zero_snr), and DDIM "
                f"inversion divides by it; take a model without zero terminal SNR, or timestep_spacing: leading in "
                f"its scheduler/scheduler_config.json"
            )
        last = torch.as_tensor(self.scheduler.final_alpha_cumprod).reshape(1)
        alphas = torch.cat([alphas, last]).float().to(self.device)
        return Schedule.of_alphas(timesteps, alphas, self.scheduler.config.prediction_type)


@contextmanager
def _input_embeddings(text_encoder: Any, embeddings: Tensor | None) -> Iterator[None]:
    """Let the encoder's embedding layer answer ``embeddings``; its table is never written to."""
    if embeddings is None:
        yield
        return
    layer = text_encoder.get_input_embeddings()
    answer = embeddings.to(layer.weight.dtype)
    handle = layer.register_forward_hook(lambda module, args, output: answer)
    try:
        yield
    finally:
        handle.remove()


def load_scheduler(config: Mapping[str, Any]) -> Any:
    """A model's timesteps and noise levels as DDIM's scheduler of diffusers, or as LCM's where it is one.

    What the configuration leaves out is as in its own class; a class that counts in σ ends at σ = 0 or, if its
    ``final_sigmas_type`` says so, at the least σ of the training.

    Args:
        config: the content of scheduler_config.json.
    """
    import diffusers

    named = getattr(diffusers, str(config.get("_class_name")), None)
    own = named if isinstance(named, type) and issubclass(named, diffusers.SchedulerMixin) else diffusers.DDIMScheduler
    kind = diffusers.LCMScheduler if own is diffusers.LCMScheduler else diffusers.DDIMScheduler
    ours, theirs = (inspect.signature(each).parameters for each in (kind, own))
    missing = {name: theirs[name].default for name in ours.keys() & theirs.keys() - config.keys()}
    values = {**config, **{name: value for name, value in missing.items() if value != ours[name].default}}
    if "set_alpha_to_one" not in theirs:
        values["set_alpha_to_one"] = config.get("final_sigmas_type", "zero") == "zero"
    return kind.from_config(values, clip_sample=False)


def model_folder(name: str) -> Path:
    """The folder of "embedded" or "embedded_sd3" in this package; of any other name the path that it is."""
    return EMBEDDED.with_name(name) if name in ("embedded", "embedded_sd3") else Path(name).expanduser()


def load_backbone(
    name_or_path: str = "embedded",
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
    variant: str | None = None,
    tuning: Tuning = Tuning(),
    for_editors: bool = False,
) -> Backbone:
    """Load a Stable Diffusion 1.x/2.x model in diffusers' layout.

    Args:
        name_or_path: "embedded" (the small model inside this package), a local folder, or a hub id.
        dtype: of the weights; a torch dtype or its name.
        device: where to put them.
        variant: weight variant of the files, such as "fp16"; of a folder that has no others it is taken unasked.
        tuning: how the networks are run.
        for_editors: whether the UNet may take the channels of an editor's, besides its latents'.

    Raises:
        InputError: the folder is missing, incomplete or damaged, holds another kind of model, or the hub has none of
            that name.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise InputError(f"model.dtype={dtype}: no such weights; use float32, bfloat16 or float16")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device={device}: can't be used ({reason(error)}); use cpu, or cuda where there is one"
        ) from None
    where = str(model_folder(name_or_path))
    is_folder, key = Path(where).is_dir(), f"backbone={name_or_path}"
    if is_folder:
        check_folder(Path(where), key, for_editors)
    elif Path(where).is_file():
        refuse_file(Path(where), key)
    elif Path(where).exists() or Path(where).is_absolute() or where.startswith(".") or where.count("/") > 1:
        raise InputError(f"{key}: no such folder; give a diffusers folder or a hub id")

    def load(local_files_only: bool) -> Backbone:
        def files(part: str) -> dict[str, Any]:
            found = variant_of(Path(where) / part, variant)
            return {"subfolder": part, "variant": found, "local_files_only": local_files_only}

        networks: dict[str, Any] = {
            "vae": AutoencoderKL.from_pretrained(where, torch_dtype=kind, **files("vae")),
            "text_encoder": CLIPTextModel.from_pretrained(where, dtype=kind, **files("text_encoder")),
            "tokenizer": CLIPTokenizer.from_pretrained(where, subfolder="tokenizer", local_files_only=local_files_only),
            "unet": UNet2DConditionModel.from_pretrained(where, torch_dtype=kind, **files("unet")),
        }
        scheduler = DDIMScheduler.load_config(where, subfolder="scheduler", local_files_only=local_files_only)
        configs = {part: _config_of(networks[part]) for part in ("unet", "vae", "text_encoder")}
        check_configs({**configs, "scheduler": scheduler}, key, for_editors)
        networks["scheduler"] = load_scheduler(scheduler)
        fit_tokenizer(networks["tokenizer"], networks["text_encoder"].config, key)
        return Backbone(name_or_path, **networks, tuning=tuning).to(device)

    try:
        if is_folder:
            return load(local_files_only=True)
        try:
            return load(local_files_only=True)  # a model in the hub's cache needs no network
        except InputError:
            raise
        except Exception:  # not in the cache, or not whole
            ask_hub(key, name_or_path)
        return load(local_files_only=False)
    except InputError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds for one damaged download
        raise InputError(
            f"{key}: can't be loaded ({reason(error)}); download it again, whole, or check the name"
        ) from error


def fit_tokenizer(tokenizer: Any, config: Any, key: str) -> None:
    """Let a tokenizer's prompts be as long as its text encoder takes; some say no length, or any.

    Args:
        tokenizer: of transformers; its ``model_max_length`` is set.
        config: the text encoder's.
        key: names the model in the error.

    Raises:
        InputError: it has more words than the text encoder.
    """
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"{key}: its tokenizer has {len(tokenizer)} words, its text encoder {config.vocab_size}: the two are of "
            f"different models; give one model's folder"
        )
    tokenizer.model_max_length = int(min(tokenizer.model_max_length, config.max_position_embeddings))


def _config_of(part: Any) -> dict[str, Any]:
    """A component's configuration as plain values."""
    return part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)


def silence_loading() -> None:
    """Keep diffusers and transformers from reporting on what they load."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
