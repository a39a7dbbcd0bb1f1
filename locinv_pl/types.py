"""What goes into an inversion, what one timestep leaves behind, and what comes out.

Shapes use the symbols of the paper: B images in a batch, T DDIM steps, L token positions, D text
width, K nouns, N dynamic tokens of one image, (r, c) the attention grid, (C, h, w) a latent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import ConfigDict, Field, with_config
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import TypedDict

from locinv_pl.errors import InputError
from locinv_pl.io.files import AGAIN, check, digest, located, read_tensors, write_tensors
from locinv_pl.io.frames import Frame
from locinv_pl.prompt_weights import Weights, read_weights, refuse_weights

Span = tuple[int, int]


def overlap(one: Span, other: Span) -> bool:
    """Whether two spans (start, stop) share a character.

    >>> overlap((0, 3), (2, 5)), overlap((0, 3), (3, 5))
    (True, False)
    """
    return one[0] < other[1] and other[0] < one[1]


@dataclass(frozen=True, eq=False)
class Noun:
    """A noun of the prompt with its localization prior.

    Args:
        word: the noun as the prompt spells it.
        span: its characters in the prompt, ``prompt[start:stop]``.
        prior: S^k on the image, shape (H, W), in [0, 1]: a segmentation map or a filled box.
        mask: the object's ground-truth mask, shape (H, W), bool; what attention IoU is measured
            against. The prior thresholded at one half where there is no other.
    """

    word: str
    span: Span
    prior: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Adjective:
    """An adjective of the prompt; ``noun`` is the index of the noun that it describes."""

    word: str
    span: Span
    noun: int


@dataclass(frozen=True)
class Edit:
    """An edit of an image: the prompt that describes the result.

    Args:
        prompt: the target prompt P*. Weights in brackets, "a (red:1.5) house", move from here to ``weights``.
        kind: the kind of change, as "word_swap", "attribute", "add", "remove" or a data set's own name for it.
        blend: the words, of the source and of the target prompt, that say where the image may change, where the
            data names them.
        weights: stretches of characters of the prompt, each with the factor on the attention to its words.

    Raises:
        InputError: the prompt has no word, or weights that can't be read.
    """

    prompt: str
    kind: str
    blend: tuple[str, str] | None = None
    weights: Weights = ()

    def __post_init__(self) -> None:
        _require_text(self.prompt, "edit: its prompt")
        prompt, weights = read_weights(self.prompt)
        if not any(map(str.isalnum, prompt)):
            raise InputError(f"prompt {self.prompt!r}: has no word; say what the image is to become")
        if weights:
            object.__setattr__(self, "prompt", prompt)
            object.__setattr__(self, "weights", weights)


@dataclass(frozen=True, eq=False)
class EditSample:
    """An image, its prompt and a prior for every noun: what one inversion starts from.

    Args:
        id: names the image in files and reports.
        image: shape (3, H, W), in [0, 1].
        prompt: the source prompt P.
        nouns: the nouns with a prior, in the prompt's order.
        adjectives: adjectives to bind to their nouns.
        edits: edits to make of the inversion.
        region: where the data says that edits change the image, shape (H, W), bool.
        frame: which part of its file the image shows; all of it by default.

    Raises:
        InputError: the source prompt has weights in brackets.
    """

    id: str
    image: Tensor
    prompt: str
    nouns: tuple[Noun, ...] = ()
    adjectives: tuple[Adjective, ...] = ()
    edits: tuple[Edit, ...] = ()
    region: Tensor | None = None
    frame: Frame | None = None

    def pin_memory(self) -> EditSample:
        """The same with its tensors in page-locked memory; torch's DataLoader calls it."""
        nouns = tuple(replace(n, prior=n.prior.pin_memory(), mask=n.mask.pin_memory()) for n in self.nouns)
        region = None if self.region is None else self.region.pin_memory()
        return replace(self, image=self.image.pin_memory(), nouns=nouns, region=region)

    @cached_property
    def fingerprint(self) -> str:
        """What an inversion of this image depends on, in one number: prompt, nouns, adjectives, priors and pixels."""
        words = [[noun.word, noun.span] for noun in self.nouns]
        bound = [[adjective.word, adjective.span, adjective.noun] for adjective in self.adjectives]
        planes = {"image": self.image}
        for k, noun in enumerate(self.nouns):
            planes |= {f"prior {k}": noun.prior, f"mask {k}": noun.mask}
        return digest(json.dumps([self.prompt, words, bound]), planes)

    @property
    def masks(self) -> Tensor:
        """The nouns' ground-truth masks, bool, shape (K, H, W)."""
        size = self.image.shape[-2:]
        return torch.stack([n.mask for n in self.nouns]) if self.nouns else torch.zeros(0, *size, dtype=torch.bool)

    def __post_init__(self) -> None:
        for what, text in (("id", self.id), ("prompt", self.prompt)):
            _require_text(text, f"image {self.id!r}: its {what}")
        refuse_weights(self.prompt, self.id)
        size = tuple(self.image.shape[-2:])
        for noun in self.nouns:
            what = f"image {self.id!r}, noun {noun.word!r}"
            for name, plane in (("prior", noun.prior), ("mask", noun.mask)):
                if tuple(plane.shape) != size:
                    raise InputError(
                        f"{what}: its {name} is {_size(plane.shape)} but the image is {_size(size)}; "
                        f"make both the same size"
                    )
            if not noun.prior.any():
                raise InputError(f"{what}: its prior is empty; give a mask or box that covers the object")


def _require_text(text: str, what: str) -> None:
    """Refuse a text with a lone surrogate, half of a character, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} {text!r} holds half a character (a lone surrogate); write it as UTF-8") from None


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in reversed(shape))


class MadeOf(TypedDict):
    """What an image's results depend on: its fingerprint, and the digest of the run's settings."""

    id: str
    sample: str
    settings: str


_RECORD = {"latent": "B C h w", "tokens": "B L D", "null": "B L D", "maps": "B K r c", "losses": "B n"}
_RECORD |= {"thresholds": "n", "null_loss": "B", "token_steps": "B", "null_steps": "B"}


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What timestep i of a batch leaves behind; the last one is the state to go on from.

    Args:
        latent: z_{t-1}, shape (B, C, h, w).
        tokens: the prompts' input embeddings with V_t in the rows of the dynamic tokens, (B, L, D).
        null: ∅_t, shape (B, L, D).
        maps: A_t^k, shape (B, K, r, c).
        losses: under the final V_t, in the order of ``method.policies.LOSSES``, (B, n); NaN where one does not apply.
        thresholds: their TH_i, shape (n,); infinite where there is none.
        null_loss: the last of the null-text optimisation, shape (B,).
        token_steps, null_steps: gradient steps taken, shape (B,).
        seconds: wall time of the step, for the whole batch.
    """

    latent: Tensor
    tokens: Tensor
    null: Tensor
    maps: Tensor
    losses: Tensor
    thresholds: Tensor
    null_loss: Tensor
    token_steps: Tensor
    null_steps: Tensor
    seconds: float = 0.0

    def pick(self, images: Sequence[int]) -> StepRecord:
        """The record of some of the batch's images.

        Args:
            images: their positions in the batch; each is given an equal share of ``seconds``.
        """
        some = list(images)
        each = {name: getattr(self, name)[some] for name in self._each()}
        return replace(self, **each, seconds=self.seconds * len(some) / len(self.latent))

    @classmethod
    def join(cls, records: Sequence[StepRecord]) -> StepRecord:
        """One record of several batches' images at the same timestep; those with fewer nouns get empty maps.

        Raises:
            InputError: they are of different sizes.
        """
        sizes = [[getattr(r, name).shape[1:] for name in cls._each() if name != "maps"] for r in records]
        if any(one != sizes[0] for one in sizes) or len({r.maps.shape[2:] for r in records}) > 1:
            raise InputError("records of different sizes")
        most = max(r.maps.shape[1] for r in records)
        padded = [replace(r, maps=pad(r.maps, (0, 0, 0, 0, 0, most - r.maps.shape[1]))) for r in records]
        each = {name: torch.cat([getattr(r, name) for r in padded]) for name in cls._each()}
        return cls(**each, thresholds=records[0].thresholds, seconds=sum(r.seconds for r in records))

    @classmethod
    def _each(cls) -> list[str]:
        """The names of the fields that have a row for every image."""
        return [f.name for f in fields(cls) if f.name not in ("thresholds", "seconds")]

    def save(self, path: Path, made_of: MadeOf | None = None) -> None:
        """Write the record to ``path``, atomically, with what it was made of."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "seconds"}
        write_tensors(path, tensors, {"seconds": self.seconds, "made_of": made_of}, lasting=False)

    @classmethod
    def load(cls, path: Path, made_of: MadeOf | None = None) -> StepRecord:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the file is missing, damaged or no record, or it was made of something else than ``made_of``.
        """
        tensors, header = read_tensors(path)
        what = f"{path}: not a timestep's record"
        if header.keys() - {"made_of"} != {"seconds"} or not isinstance(header["seconds"], (int, float)):
            raise InputError(f"{what}; {AGAIN}")
        _check_tensors(tensors, _RECORD, what)
        if made_of is not None and header.get("made_of") != made_of:
            raise InputError(f"{path}: made of other data or settings; {AGAIN}")
        return cls(**tensors, seconds=float(header["seconds"]))


Position = Annotated[int, Field(ge=0, le=10**6)]


@with_config(ConfigDict(extra="allow"))
class _Method(TypedDict):
    name: str


@with_config(ConfigDict(extra="allow"))
class _Settings(TypedDict):
    backbone: str
    method: _Method
    num_steps: Position


@with_config(ConfigDict(extra="forbid"))
class _Header(TypedDict):
    id: str
    prompt: str
    nouns: list[str]
    noun_positions: list[list[Position]]
    dynamic: list[Position]
    settings: _Settings
    fingerprint: NotRequired[str]


_INVERSION = {"trajectory": "T+1 C h w", "tokens": "T N D", "null": "T L D", "maps": "T K r c"}
_INVERSION |= {"initial_maps": "T K r c", "priors": "K r c", "latent": "C h w", "losses": "T n", "thresholds": "T n"}
_INVERSION |= {"fine_priors": "K h w", "null_loss": "T", "token_steps": "T", "null_steps": "T"}


@dataclass(frozen=True, eq=False)
class Inversion:
    """One image inverted: everything needed to reconstruct it and to edit it.

    Args:
        id, prompt: the id and the source prompt of the sample that was inverted.
        nouns: the nouns' words, K of them.
        noun_positions: for every noun its token positions.
        dynamic: positions of the dynamic tokens, N of them.
        settings: backbone, method, number of steps and resolution that made this inversion.
        trajectory: z̄_0..z̄_T of the DDIM inversion, shape (T+1, C, h, w).
        tokens: V_t in the order of the steps (noisiest first), shape (T, N, D).
        null: ∅_t, shape (T, L, D), in the type of the model's weights; (1, L, D) where it is the same at all steps.
        maps: A_t^k, shape (T, K, r, c).
        initial_maps: the same of the DDIM inversion, before any optimisation, shape (T, K, r, c).
        priors: S^k on the attention grid, shape (K, r, c).
        fine_priors: S^k on the latent's grid, where edits are blended, shape (K, h, w).
        latent: the reconstruction's z_0, shape (C, h, w).
        losses: per step, in the order of ``method.policies.LOSSES``, shape (T, n).
        thresholds: their TH_i, shape (T, n).
        null_loss: of the null-text optimisation, shape (T,).
        token_steps, null_steps: gradient steps taken, shape (T,).
        fingerprint: :attr:`EditSample.fingerprint` of the sample that was inverted; "" where it isn't known.
    """

    id: str
    prompt: str
    nouns: tuple[str, ...]
    noun_positions: tuple[tuple[int, ...], ...]
    dynamic: tuple[int, ...]
    settings: Mapping[str, Any]
    trajectory: Tensor
    tokens: Tensor
    null: Tensor
    maps: Tensor
    initial_maps: Tensor
    priors: Tensor
    fine_priors: Tensor
    latent: Tensor
    losses: Tensor
    thresholds: Tensor
    null_loss: Tensor
    token_steps: Tensor
    null_steps: Tensor
    fingerprint: str = ""

    @property
    def noise(self) -> Tensor:
        """z_T, where reconstruction and edits start, shape (C, h, w)."""
        return self.trajectory[-1]

    def null_at(self, i: int) -> Tensor:
        """∅_t of step i, 0 the noisiest: (L, D)."""
        return self.null[min(i, len(self.null) - 1)]

    @property
    def num_steps(self) -> int:
        """T, the number of DDIM steps."""
        return len(self.tokens)

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file with a JSON header, atomically."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
        write_tensors(located(path), tensors, {k: v for k, v in values.items() if k not in tensors})

    @classmethod
    def load(cls, path: str | Path) -> Inversion:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the file is missing, damaged or of another kind, or its numbers aren't finite.
        """
        what = f"{path}: not an inversion of this version of locinv_pl"
        tensors, header = read_tensors(located(path))
        if header.keys() | {"fingerprint"} != _Header.__annotations__.keys():
            raise InputError(f"{what}; {AGAIN}")
        check(header, _Header, str(path))
        is_constant = "null" in tensors and tensors["null"].shape[:1] == (1,)
        sizes = _check_tensors(tensors, {**_INVERSION, "null": "1 L D"} if is_constant else _INVERSION, what)
        positions = [*header["dynamic"], *(position for each in header["noun_positions"] for position in each)]
        counts = {"N": len(header["dynamic"]), "T": header["settings"]["num_steps"]}
        counts |= {"K": len(header["nouns"]), "L": max(sizes["L"], *(position + 1 for position in positions), 0)}
        if counts != {name: sizes[name] for name in counts} or len(header["noun_positions"]) != counts["K"]:
            raise InputError(f"{what} (its header and its tensors don't fit together); {AGAIN}")
        header["nouns"], header["dynamic"] = tuple(header["nouns"]), tuple(header["dynamic"])
        header["noun_positions"] = tuple(tuple(each) for each in header["noun_positions"])
        return cls(**{**header, **tensors})


def _check_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, str], what: str) -> dict[str, int]:
    """Check that a file has the tensors that it should have, of shapes and types that go together.

    Args:
        tensors: the file's tensors by name.
        shapes: of every tensor its sizes by name, "T K r c"; an equal name is an equal size, T+1 is one more than T.
        what: the start of the error, which names the file and its kind.

    Returns:
        the sizes by name.

    Raises:
        InputError: a tensor is missing, too many, of another shape or type, or holds numbers that aren't finite. Losses
            may be NaN, where they don't apply, and thresholds infinite, where there is none.
    """
    if tensors.keys() != shapes.keys():
        raise InputError(f"{what} (it has {', '.join(sorted(tensors)) or 'nothing'}); {AGAIN}")
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        names = shapes[name].split()
        found = [size - ("+" in named) for named, size in zip(names, tensor.shape, strict=False)]
        known = [sizes.setdefault(named.removesuffix("+1"), size) for named, size in zip(names, found, strict=False)]
        if len(names) != tensor.ndim or found != known:
            raise InputError(f"{what} ({name} has shape {tuple(tensor.shape)}, not {shapes[name]!r}); {AGAIN}")
        if tensor.is_floating_point() == name.endswith("_steps") or tensor.is_complex() or tensor.dtype == torch.bool:
            raise InputError(f"{what} ({name} has type {tensor.dtype}); {AGAIN}")
        meant = {"losses": tensor.isnan(), "thresholds": tensor == torch.inf}.get(name, False)
        if not (tensor.isfinite() | meant).all():
            raise InputError(f"{what} ({name} holds numbers that aren't finite); {AGAIN}")
    return sizes


def stack(tensors: list[Tensor]) -> Tensor:
    """Stack along a new first dimension, on the CPU, in fp32 where floating."""
    out = torch.stack([t.detach().cpu() for t in tensors])
    return out.float() if out.is_floating_point() else out
