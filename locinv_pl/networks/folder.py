"""What a model's folder holds, told from its small files, before anything of it is loaded.

Configurations are foreign files: they are read with a schema, and no larger than they can be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Protocol

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError
from safetensors import SafetensorError, safe_open

from locinv_pl.errors import InputError, one_line

VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")
LARGEST = 1 << 20  # bytes of a configuration
AGAIN = "download the model again, whole, in diffusers' layout"
TAKEN = "give a folder of Stable Diffusion 1.x, 2.x, XL, 3, 3.5, FLUX.1 or PixArt-Σ"
WITH_THEIR_OWN = {"inpaint": ("an inpainting model", 2, 1), "instruct_pix2pix": ("an instruction model", 2, 0)}
"""Editors with UNets of their own: what such a model is, and (a, b) where it takes a C + b channels, C a latent's."""
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:-\d+-of-\d+)?(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?"
    r"\.(?:safetensors|bin)"
)
TRANSFORMERS = {
    "joint_blocks.": "StableDiffusion3Pipeline",
    "double_blocks.": "FluxPipeline",
    "single_transformer_blocks.": "FluxPipeline",
}
"""Names of weights by which a checkpoint in one file holds a transformer, and the pipeline's class that this is of."""
FAMILIES = {
    "StableDiffusionXL": "Stable Diffusion XL",
    "StableDiffusion3": "Stable Diffusion 3",
    "Flux": "FLUX",
    "PixArt": "PixArt",
    "Kandinsky": "Kandinsky",
}


Size = Annotated[int, Field(gt=0, le=1 << 16)]
Words = Annotated[int, Field(gt=0, le=1 << 22)]


class _Config(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _UNet(_Config):
    kind: str = Field("UNet2DConditionModel", alias="_class_name")
    sample_size: Size
    in_channels: Size = 4
    out_channels: Size = 4
    cross_attention_dim: Size | list[Size] = 1280
    block_out_channels: list[Size] = Field([1], min_length=1)
    down_block_types: list[str] = Field([""], min_length=1)
    addition_embed_type: str | None = None
    addition_time_embed_dim: Size | None = None
    projection_class_embeddings_input_dim: Size | None = None
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    encoder_hid_dim_type: str | None = None
    time_cond_proj_dim: Annotated[int, Field(ge=4, multiple_of=2, le=1 << 16)] | None = None


class _Transformer(_Config):
    kind: str = Field("SD3Transformer2DModel", alias="_class_name")
    sample_size: Size = 128
    patch_size: Size = 2
    in_channels: Size = 16
    out_channels: Size | None = None
    caption_channels: Size | None = None
    num_layers: Size = 18
    joint_attention_dim: Size = 4096
    pooled_projection_dim: Size = 2048


class _VAE(_Config):
    kind: str = Field("AutoencoderKL", alias="_class_name")
    latent_channels: Size = 4
    scaling_factor: PositiveFloat = 0.18215
    shift_factor: float | None = None
    block_out_channels: list[Size] = Field([1], min_length=1)


class _TextEncoder(_Config):
    model_type: str = "clip_text_model"
    hidden_size: Size = 512
    d_model: Size = 512  # T5's
    projection_dim: Size = 512
    max_position_embeddings: Size = 77
    vocab_size: Words = 49408


class _Scheduler(_Config):
    kind: str = Field("DDIMScheduler", alias="_class_name")
    num_train_timesteps: int = Field(1000, ge=1, le=100_000)
    beta_start: float = Field(0.0001, ge=0, lt=1)
    beta_end: float = Field(0.02, ge=0, lt=1)
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"


class _Tokenizer(_Config):
    model_max_length: PositiveInt | PositiveFloat = 77


SCHEMAS: dict[str, tuple[str, type[_Config]]] = {
    "vae": ("config.json", _VAE),
    "text_encoder": ("config.json", _TextEncoder),
    "unet": ("config.json", _UNet),
    "transformer": ("config.json", _Transformer),
    "tokenizer": ("tokenizer_config.json", _Tokenizer),
    "scheduler": ("scheduler_config.json", _Scheduler),
}
"""By component, without the number of a second or third one, its configuration's file and what that holds."""


def _schema(part: str) -> tuple[str, type[_Config]]:
    return SCHEMAS[part.rstrip("_23")]


class Architecture(Protocol):
    """What a folder is compared with; :class:`~locinv_pl.networks.backbone.Backbone` says more."""

    PIPELINES: ClassVar[tuple[str, ...]]
    PARTS: ClassVar[dict[str, str]]

    @classmethod
    def parts(cls, index: Mapping[str, Any]) -> dict[str, str]:
        """The components, each with its class."""

    @classmethod
    def check(cls, configs: Mapping[str, Any], key: str, for_editors: bool) -> None:
        """Compare the components' configurations with each other."""


def pipeline_of(folder: Path) -> dict[str, Any]:
    """The content of a folder's model_index.json; nothing where there is none."""
    with suppress(OSError, ValidationError):
        return _read(folder / "model_index.json")
    return {}


def check_folder(folder: Path, key: str, architecture: type[Architecture], for_editors: bool = False) -> None:
    """A folder must hold every component of a model that can be inverted, with its configuration and weights.

    Args:
        folder: the model's.
        key: names it in errors, as in "backbone=NAME".
        architecture: the one that its model_index.json names.
        for_editors: whether its denoiser may take the channels of an editor's, besides its latents'.

    Raises:
        InputError: it is another model, a part of one, a LoRA or one file, or something is missing or damaged.
    """
    _refuse_others(folder, key, architecture)
    configs, parts = {}, architecture.parts(pipeline_of(folder))
    for part in parts:
        file = _schema(part)[0]
        try:
            configs[part] = _read(folder / part / file)
        except (OSError, ValidationError):
            raise InputError(f"{key}: {part}/{file} is missing or damaged; {AGAIN}") from None
    check_configs(configs, key, architecture, parts, for_editors)
    for part in parts:
        if part.startswith("tokenizer"):
            vocabulary = [folder / part / file for file in VOCABULARIES]
            if not any(path.is_file() for path in vocabulary):  # transformers would make one up
                raise InputError(f"{key}: {part}/ has no vocabulary; download the model again, whole")
        elif part != "scheduler" and not any(map(_is_weights, (folder / part).iterdir())):
            raise InputError(f"{key}: {part}/ has no weights; download the model again, whole")


def check_configs(
    configs: Mapping[str, Mapping[str, Any]],
    key: str,
    architecture: type[Architecture],
    parts: Mapping[str, str],
    for_editors: bool = False,
) -> None:
    """The components' configurations must be those of one model of an architecture.

    Args:
        configs: by component; tokenizers may be left out.
        key: names the model in errors, as in "backbone=NAME".
        architecture: the one that its model_index.json names.
        parts: the model's components, each with its class.
        for_editors: whether its denoiser may take the channels of an editor's, besides its latents'.

    Raises:
        InputError: a value has another type, or the components are of another model or don't fit each other.
    """
    found: dict[str, Any] = {}
    for part, values in configs.items():
        file, schema = _schema(part)
        try:
            plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
            found[part] = schema.model_validate(plain)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(step) for step in first["loc"])
            raise InputError(f"{key}: {part}/{file}: {where}: {one_line(first['msg'])}; {AGAIN}") from None
    for part, kind in parts.items():
        if part in ("vae", "unet", "transformer") and found[part].kind != kind:
            raise InputError(f"{key}: its {part} is a {found[part].kind}, not a {kind}; {TAKEN}")
        if kind.startswith("CLIPText") and found[part].model_type not in ("clip_text_model", "clip"):
            raise InputError(f"{key}: its text encoder is a {found[part].model_type}, not CLIP's; {TAKEN}")
    architecture.check(found, key, for_editors)


def check_unet(unet: Any, vae: Any, scheduler: Any, key: str) -> None:
    """A UNet that denoises by DDIM takes an image and a prompt alone, and latents that no VAE shifts.

    Args:
        unet: its configuration.
        vae: the VAE's.
        scheduler: the scheduler's.
        key: names the model in errors.

    Raises:
        InputError: it takes more, or is a flow model.
    """
    for name in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
        if getattr(unet, name) is not None:
            raise InputError(f"{key}: its UNet takes more than an image and a prompt ({name}); {TAKEN}")
    if vae.shift_factor:
        raise InputError(f"{key}: its VAE shifts latents (shift_factor), as Stable Diffusion 3's does; {TAKEN}")
    if "FlowMatch" in scheduler.kind:
        raise InputError(f"{key}: is a flow model ({scheduler.kind}), which DDIM can't invert; {TAKEN}")


def check_channels(unet: Any, vae: Any, key: str, for_editors: bool = False) -> None:
    """A UNet's channels must be its latents'.

    Args:
        unet: its configuration.
        vae: the VAE's.
        key: names the model in errors.
        for_editors: whether the UNet may take the channels of an editor's.

    Raises:
        InputError: they aren't.
    """
    if unet.out_channels != vae.latent_channels:
        raise InputError(
            f"{key}: its UNet gives {unet.out_channels} channels, its VAE's latents have {vae.latent_channels}; {TAKEN}"
        )
    edited_by = {a * vae.latent_channels + b: (what, editor) for editor, (what, a, b) in WITH_THEIR_OWN.items()}
    if unet.in_channels == vae.latent_channels or for_editors and unet.in_channels in edited_by:
        return
    takes = f"{key}: its UNet takes {unet.in_channels} channels, latents have {vae.latent_channels}"
    if unet.in_channels in edited_by:
        what, editor = edited_by[unet.in_channels]
        name = key.partition("=")[2]
        raise InputError(f"{takes}: it is {what}; edit by it with editor={editor} editor.model={name}, or {TAKEN}")
    raise InputError(f"{takes}; {TAKEN}")


def variant_of(part: Path, wanted: str | None = None) -> str | None:
    """Which variant of a component's weights to load: the one asked for, else the plain files, else what there is.

    Args:
        part: the component's folder.
        wanted: a variant such as "fp16"; None takes what there is.

    Returns:
        the variant; None for plain files.
    """
    if wanted is not None or not part.is_dir():
        return wanted
    names = [match["variant"] for path in part.iterdir() if (match := WEIGHTS.fullmatch(path.name))]
    if not names or None in names:
        return None
    return "fp16" if "fp16" in names else min(names)


def check_file(path: Path, key: str) -> None:
    """A file must be a checkpoint of a known kind; only its header is read.

    Args:
        path: the file.
        key: names it in errors, as in "backbone=NAME".

    Raises:
        InputError: it is another file, a LoRA, or of a kind that runs code when it is read.
    """
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        raise InputError(
            f'{key}: is a pickle, which can run code; convert it by python -c "from diffusers import '
            f"StableDiffusionPipeline as P; P.from_single_file({str(path)!r}).save_pretrained("
            f'{str(path.with_suffix(""))!r})", and give backbone={path.with_suffix("")}'
        )
    if path.suffix != ".safetensors":
        raise InputError(f"{key}: is a file, not a model's folder; {TAKEN}")
    keys = _keys(path, key)
    if any("lora" in name.lower() for name in keys):
        _refuse_lora(path, key)
    is_known = any(name.startswith(("model.diffusion_model.", "first_stage_model.")) for name in keys)
    if not is_known and pipeline_of_file(path) not in TRANSFORMERS.values():
        raise InputError(f"{key}: is no checkpoint of Stable Diffusion or FLUX; {TAKEN}")


def pipeline_of_file(path: Path) -> str:
    """The pipeline's class that a checkpoint in one file is of.

    Args:
        path: the file, as :func:`check_file` passes it.
    """
    keys = _keys(path, str(path))
    for part, name in TRANSFORMERS.items():
        if any(part in key for key in keys):
            return name
    is_xl = any(key.startswith("conditioner.") for key in keys)
    return "StableDiffusionXLPipeline" if is_xl else "StableDiffusionPipeline"


def _keys(path: Path, key: str) -> list[str]:
    """The names of a safetensors file's weights."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError):
        raise InputError(f"{key}: is no safetensors file, or a damaged one; download it again") from None


def _refuse_lora(path: Path, key: str) -> NoReturn:
    raise InputError(f"{key}: is a LoRA, a change to a model and none itself; give the model's, and model.lora={path}")


def _refuse_others(folder: Path, key: str, architecture: type[Architecture]) -> None:
    """Name what isn't Stable Diffusion by the files that tell it."""
    family = str(pipeline_of(folder).get("_class_name", ""))
    if family.startswith("StableDiffusionXL") and not (folder / "text_encoder").is_dir():
        raise InputError(f"{key}: is Stable Diffusion XL's refiner, which ends what the base model begins; {TAKEN}")
    for prefix, name in FAMILIES.items():
        if family.startswith(prefix) and family not in architecture.PIPELINES:
            raise InputError(f"{key}: is {name} ({family}), which no editor takes; {TAKEN}")
    if "unet" in architecture.PARTS and (folder / "transformer").is_dir() and not (folder / "unet").is_dir():
        raise InputError(f"{key}: is a diffusion transformer ({family or 'transformer/'}), not a UNet; {TAKEN}")
    if any((folder / part).is_dir() for part in SCHEMAS):
        return
    if (folder / "adapter_config.json").is_file() or any(folder.glob("*lora*.safetensors")):
        _refuse_lora(folder, key)
    if (folder / "config.json").is_file():
        config: dict[str, Any] = {}
        with suppress(OSError, ValidationError):
            config = _read(folder / "config.json")
        kind = config.get("_class_name") or config.get("model_type") or "component"
        raise InputError(f"{key}: is a single {kind}, one part of a model; give the folder that holds it")
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".ckpt"))
    if files:
        check_file(files[0], f"{key}: {files[0].name}")
        raise InputError(f"{key}: holds a checkpoint in one file; give backbone={files[0]}")


class _Json(_Config):
    model_config = ConfigDict(extra="allow")


def _read(path: Path) -> dict[str, Any]:
    """A JSON object from a regular file.

    Raises:
        OSError: there is no such file, or it is no regular one, or larger than a configuration.
        ValidationError: it holds no JSON object.
    """
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise OSError(path)
    return dict(_Json.model_validate_json(path.read_bytes()).model_extra or {})


def _is_weights(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin") and path.is_file()
