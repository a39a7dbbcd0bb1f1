"""What goes into an inversion, what one timestep leaves behind, and what comes out.

Shapes use the symbols of the paper: B images in a batch, T DDIM steps, L token positions, D text
width, K nouns, N dynamic tokens of one image, (r, c) the attention grid, (C, h, w) a latent.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor
from torch.nn.functional import pad

from locinv_pl.errors import InputError
from locinv_pl.weights import Weights, read_weights, refuse_weights

FORMAT = 1
Span = tuple[int, int]
REFUSALS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room") | dict.fromkeys(
    (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST), "let it be written, or give another output="
)
"""What a disk can refuse, and the mend."""


def overlap(one: Span, other: Span) -> bool:
    """Whether two stretches of characters share one."""
    return one[0] < other[1] and other[0] < one[1]


@dataclass(frozen=True, eq=False)
class Noun:
    """A noun of the prompt with its localization prior.

    Args:
        word: the noun as the prompt spells it.
        span: its characters in the prompt, ``prompt[start:stop]``.
        prior: S^k on the picture, shape (H, W), in [0, 1]: a segmentation map or a filled box.
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
    """An edit that the data or the user names.

    Args:
        prompt: the target prompt P*. Weights in brackets, "a (red:1.5) house", move from here to ``weights``.
        kind: what kind of change it is.
        blend: the words, of the source and of the target prompt, that say where the picture may change, where the
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
        prompt, weights = read_weights(self.prompt)
        if not any(map(str.isalnum, prompt)):
            raise InputError(f"prompt {self.prompt!r}: has no word; say what the image is to become")
        if weights:
            object.__setattr__(self, "prompt", prompt)
            object.__setattr__(self, "weights", weights)


@dataclass(frozen=True, eq=False)
class EditSample:
    """A picture, its prompt and a prior for every noun: what one inversion starts from.

    Args:
        id: names the picture in files and reports.
        image: shape (3, H, W), in [0, 1].
        prompt: the source prompt P.
        nouns: the nouns with a prior, in the prompt's order.
        adjectives: adjectives to bind to their nouns.
        edits: edits to make of the inversion.
        region: where the data says that edits change the picture, shape (H, W), bool.

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

    def pin_memory(self) -> EditSample:
        """The same with its tensors in page-locked memory; torch's DataLoader calls it."""
        nouns = tuple(replace(n, prior=n.prior.pin_memory(), mask=n.mask.pin_memory()) for n in self.nouns)
        region = None if self.region is None else self.region.pin_memory()
        return replace(self, image=self.image.pin_memory(), nouns=nouns, region=region)

    @property
    def masks(self) -> Tensor:
        """The nouns' ground-truth masks, bool, shape (K, H, W)."""
        size = self.image.shape[-2:]
        return torch.stack([n.mask for n in self.nouns]) if self.nouns else torch.zeros(0, *size, dtype=torch.bool)

    def __post_init__(self) -> None:
        refuse_weights(self.prompt, self.id)
        size = tuple(self.image.shape[-2:])
        for noun in self.nouns:
            what = f"image {self.id!r}, noun {noun.word!r}"
            for name, plane in (("prior", noun.prior), ("mask", noun.mask)):
                if tuple(plane.shape) != size:
                    raise InputError(
                        f"{what}: its {name} is {_size(plane.shape)} but the picture is {_size(size)}; "
                        f"make both the same size"
                    )
            if not noun.prior.any():
                raise InputError(f"{what}: its prior is empty; give a mask or box that covers the object")


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in reversed(shape))


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What timestep i of a batch leaves behind; the last one is the state to go on from.

    Args:
        latent: z_{t-1}, shape (B, C, h, w).
        tokens: the prompts' input embeddings with V_t in the rows of the dynamic tokens, (B, L, D).
        null: ∅_t, shape (B, L, D).
        maps: A_t^k, shape (B, K, r, c).
        losses: under the final V_t, in the order of ``methods.LOSSES``, (B, 8); NaN where one does not apply.
        thresholds: their TH_i, shape (8,); infinite where there is none.
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

    def pick(self, pictures: Sequence[int]) -> StepRecord:
        """The record of some of the batch's pictures, by number; each has an equal share of the time."""
        some = list(pictures)
        each = {name: getattr(self, name)[some] for name in self._each()}
        return replace(self, **each, seconds=self.seconds * len(some) / len(self.latent))

    @classmethod
    def join(cls, records: Sequence[StepRecord]) -> StepRecord:
        """One record of several batches' pictures at the same timestep; those with fewer nouns get empty maps."""
        most = max(r.maps.shape[1] for r in records)
        padded = [replace(r, maps=pad(r.maps, (0, 0, 0, 0, 0, most - r.maps.shape[1]))) for r in records]
        each = {name: torch.cat([getattr(r, name) for r in padded]) for name in cls._each()}
        return cls(**each, thresholds=records[0].thresholds, seconds=sum(r.seconds for r in records))

    @classmethod
    def _each(cls) -> list[str]:
        """The fields with a row for every picture."""
        return [f.name for f in fields(cls) if f.name not in ("thresholds", "seconds")]

    def save(self, path: Path) -> None:
        """Write the record to ``path``, atomically."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "seconds"}
        write_tensors(path, tensors, {"seconds": self.seconds})

    @classmethod
    def load(cls, path: Path) -> StepRecord:
        """Read what :meth:`save` wrote."""
        tensors, header = read_tensors(path)
        try:
            return cls(**tensors, seconds=header["seconds"])
        except (KeyError, TypeError):
            raise InputError(f"{path}: not a timestep's record; delete it and run again") from None


@dataclass(frozen=True, eq=False)
class Inversion:
    """One picture inverted: everything needed to reconstruct it and to edit it.

    Args:
        id, prompt: of the sample.
        nouns: the nouns' words, K of them.
        noun_positions: for every noun its token positions.
        dynamic: positions of the dynamic tokens, N of them.
        settings: backbone, method, number of steps and resolution that made this inversion.
        trajectory: z̄_0..z̄_T of the DDIM inversion, shape (T+1, C, h, w).
        tokens: V_t in the order of the steps (noisiest first), shape (T, N, D).
        null: ∅_t, shape (T, L, D).
        maps: A_t^k, shape (T, K, r, c).
        initial_maps: the same of the DDIM inversion, before any optimisation, shape (T, K, r, c).
        priors: S^k on the attention grid, shape (K, r, c).
        latent: the reconstruction's z_0, shape (C, h, w).
        losses: per step, in the order of ``methods.LOSSES``, shape (T, 8).
        thresholds: their TH_i, shape (T, 8).
        null_loss: of the null-text optimisation, shape (T,).
        token_steps, null_steps: gradient steps taken, shape (T,).
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
    latent: Tensor
    losses: Tensor
    thresholds: Tensor
    null_loss: Tensor
    token_steps: Tensor
    null_steps: Tensor

    @property
    def noise(self) -> Tensor:
        """z_T, where reconstruction and edits start, shape (C, h, w)."""
        return self.trajectory[-1]

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.tokens)

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file with a JSON header, atomically."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
        write_tensors(Path(path), tensors, {k: v for k, v in values.items() if k not in tensors})

    @classmethod
    def load(cls, path: str | Path) -> Inversion:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the file is missing, truncated or of another kind.
        """
        tensors, header = read_tensors(Path(path))
        try:
            header["nouns"] = tuple(header["nouns"])
            header["noun_positions"] = tuple(tuple(p) for p in header["noun_positions"])
            header["dynamic"] = tuple(header["dynamic"])
            return cls(**header, **tensors)
        except (KeyError, TypeError):
            raise InputError(
                f"{path}: not an inversion of this version of locinv_pl; delete it and run again"
            ) from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it: readers see all of it or nothing.

    Raises:
        InputError: the disk is full, or the folder can't be written to.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")  # process numbers repeat on other machines
    with writing(path):
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_bytes(content)
                os.replace(temporary, path)
                return
            except FileNotFoundError:  # another process has just cleared the folder
                continue
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that writes ``path``: what a disk can refuse is bad input, not a bug."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise InputError(
            f"{path}: can't be written ({os.strerror(error.errno)}); {REFUSALS[error.errno]}, then run the same "
            f"command to go on"
        ) from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to one safetensors file, atomically."""
    meta = {"locinv": json.dumps({"format": FORMAT, **header}, sort_keys=True)}
    on_cpu = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_atomically(path, serialize(on_cpu, metadata=meta))


def read_tensors(path: Path, names: Sequence[str] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what :func:`write_tensors` wrote: the tensors of the given names, all by default, and the header.

    Raises:
        InputError: the file is missing, truncated (also where the tensors asked for are whole) or foreign.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["locinv"])
            written_as = header.pop("format")
            tensors = {key: file.get_tensor(key) for key in (file.keys() if names is None else names)}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the inversion first") from None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError):
        raise InputError(f"{path}: truncated, or not a file of locinv_pl; delete it and run again") from None
    if written_as != FORMAT:
        raise InputError(f"{path}: written by another version of locinv_pl; delete it and run again")
    return tensors, header


def stack(tensors: list[Tensor]) -> Tensor:
    """Stack along a new first dimension, on the CPU, in fp32 where floating."""
    out = torch.stack([t.detach().cpu() for t in tensors])
    return out.float() if out.is_floating_point() else out
