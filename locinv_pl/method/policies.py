"""A method is three policies of one engine: what the tokens do, what the null text does, and how it is inverted.

The presets stand in configs/method/*.yaml; :func:`load_method` reads them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from locinv_pl.configs import CONFIGS, presets
from locinv_pl.errors import InputError, check_choices
from locinv_pl.networks.schedule import FlowSolver
from locinv_pl.priors import Rasterize

LARGEST = 1000.0  # factor or rate that means anything; beyond it numbers in fp32 overflow sooner or later


@dataclass(frozen=True)
class LossTerm:
    """One loss's weight and threshold, TH_i = β exp(-i / α).

    Args:
        weight: λ, 0 to ``LARGEST``; 0 turns the loss off.
        alpha: α, in steps, more than 0.
        beta: β, at least 0; None for a loss without a threshold, which never keeps an image going.

    Raises:
        InputError: a number is out of range.
    """

    weight: float
    alpha: float = 50.0
    beta: float | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.weight <= LARGEST, "weight", self.weight, f"0 to {LARGEST:g}")
        _require(0 < self.alpha < inf, "alpha", self.alpha, "more than 0")
        _require(self.beta is None or 0 <= self.beta < inf, "beta", self.beta, "0 or more, or null")


@dataclass(frozen=True)
class TokenPolicy:
    """What happens to the nouns' embeddings V_t at every timestep.

    Args:
        policy: ``fixed`` keeps the words' own embeddings; ``optimize`` moves them by the losses.
        values: what cross-attention's values are made of. ``dynamic``: the context with V_t, as in
            the paper; ``prompt``: the plain prompt, so that V_t moves the keys, and with them the
            maps, and nothing else.
        start: what V_t starts from at the first timestep. ``word``: the words' own tokens; ``piece``: the same without
            the end-of-word mark ("cat" for "cat</w>"), where the authors' script looks nouns up.
        rasterize: how priors come onto the attention grid. ``area``: the share of each cell that is covered;
            ``any``: 1 wherever any of the cell is; ``bicubic``: 1 wherever a bicubic resize isn't 0, as in the
            authors' code.
        max_steps: K1, gradient steps a timestep at most; 31 in the authors' code.
        every: tokens move at every n-th timestep, from the noisiest one on; at the others V_t is that of the timestep
            before. 1 moves them at all timesteps.
        lr: of AdamW, more than 0, at most ``LARGEST``.
        weight_decay: of AdamW, 0 to ``LARGEST``.
        similarity, overlap, adjective: LocInv's three losses; adjectives count where the data names them.
        leakage, marginals: two further losses of LocInv's code.
        balance, disjoint, background: DPL's three losses, which need no prior.
        formulas: of ``marginals`` and ``balance``. ``plain``: the divergence a noun, and the highest point of the maps
            as they are; ``published``: those of the authors' code, of all nouns together, and of maps renormalised.
        relative: whether the losses that compare maps with priors are divided by what an even map would have, which
            the prior's area decides: 1 - area for the overlap, 1 - √area for the similarity with a mask. Weights and
            thresholds then mean the same for small and large objects.

    Raises:
        InputError: a value is none of its choices, or out of range.
    """

    policy: Literal["fixed", "optimize"] = "optimize"
    values: Literal["prompt", "dynamic"] = "prompt"
    start: Literal["word", "piece"] = "word"
    rasterize: Rasterize = "area"
    max_steps: int = 5
    every: int = 1
    lr: float = 1e-2
    weight_decay: float = 1e-2
    similarity: LossTerm = field(default_factory=lambda: LossTerm(1.0, 50.0, 0.7))
    overlap: LossTerm = field(default_factory=lambda: LossTerm(1.0, 25.0, 0.7))
    adjective: LossTerm = field(default_factory=lambda: LossTerm(2.0, 50.0, 0.1))
    leakage: LossTerm = field(default_factory=lambda: LossTerm(0.0, 50.0, 0.7))
    marginals: LossTerm = field(default_factory=lambda: LossTerm(0.0))
    balance: LossTerm = field(default_factory=lambda: LossTerm(0.0, 25.0, 0.3))
    disjoint: LossTerm = field(default_factory=lambda: LossTerm(0.0, 25.0, 0.9))
    background: LossTerm = field(default_factory=lambda: LossTerm(0.0, 50.0, 0.7))
    formulas: Literal["plain", "published"] = "plain"
    relative: bool = False

    def __post_init__(self) -> None:
        check_choices(self, "method.tokens")
        _require(self.max_steps >= 0, "max_steps", self.max_steps, "0 or more")
        _require(self.every >= 1, "every", self.every, "1 or more")
        _require(0 < self.lr <= LARGEST, "lr", self.lr, f"more than 0 and at most {LARGEST:g}")
        _require(0 <= self.weight_decay <= LARGEST, "weight_decay", self.weight_decay, f"0 to {LARGEST:g}")

    @property
    def losses(self) -> dict[str, LossTerm]:
        """All by name, in the order of ``LOSSES``."""
        return {name: getattr(self, name) for name in LOSSES}

    @property
    def active(self) -> list[str]:
        """The names of those that count."""
        return [name for name, term in self.losses.items() if term.weight > 0]


LOSSES = tuple(name for name, kind in get_type_hints(TokenPolicy).items() if kind is LossTerm)
"""The losses' names, in the order in which results hold their values: n of them."""


@dataclass(frozen=True)
class NullTextPolicy:
    """What happens to the null-text embedding ∅_t at every timestep.

    Args:
        policy: ``none`` keeps the embedding of ""; ``optimize`` fits it so that the guided step
            lands on the DDIM trajectory (null-text inversion); ``npi`` takes the source prompt's embedding in its
            place (negative-prompt inversion); ``direct`` keeps that of "" and puts the source back on the DDIM
            trajectory at every step (direct inversion).
        max_steps: J, gradient steps a timestep at most; 31 in the authors' code, 10 in null-text inversion.
        lr: of Adam at the first step, more than 0, at most ``LARGEST``; it falls as lr (1 - i/100).
        carry_over: start from ∅ of the timestep before; otherwise from the embedding of "".
        early_stop: stop once the loss is below 1e-5 + i · 2e-5.
        step_first: an early stop comes a gradient step after the loss that allows it, and every image takes one at
            least, as in the code of null-text inversion.

    Raises:
        InputError: a value is none of its choices, or out of range.
    """

    policy: Literal["none", "optimize", "npi", "direct"] = "optimize"
    max_steps: int = 5
    lr: float = 2e-2
    carry_over: bool = True
    early_stop: bool = True
    step_first: bool = False

    def __post_init__(self) -> None:
        check_choices(self, "method.null_text")
        _require(self.max_steps >= 0, "max_steps", self.max_steps, "0 or more")
        _require(0 < self.lr <= LARGEST, "lr", self.lr, f"more than 0 and at most {LARGEST:g}")


@dataclass(frozen=True)
class ParallelPolicy:
    """Whether tokens are fitted at several timesteps at once, before they are corrected one timestep after the other.

    Args:
        timesteps: of one image fitted at once, on the DDIM trajectory's own latents; 0 fits them one after the other.
        correction_steps: gradient steps a timestep at most, from what was fitted so, on the reconstruction's latent.
    """

    timesteps: int = 0
    correction_steps: int = 4

    def __post_init__(self) -> None:
        _require(self.timesteps >= 0, "timesteps", self.timesteps, "0 or more")
        _require(self.correction_steps >= 0, "correction_steps", self.correction_steps, "0 or more")


@dataclass(frozen=True)
class InversionPolicy:
    """Where the trajectory z̄_0..z̄_T of an image comes from.

    Args:
        policy: ``ddim`` inverts by DDIM. ``virtual`` draws z̄_t from z_0 with a noise of its own at every timestep, and
            edits take steps of consistency (InfEdit); the null text is then ``direct`` or ``npi``.
        renoise: K, how many more predictions a step of DDIM inversion makes, each where the one before has led
            (ReNoise); 0 makes none.
        average: how many of the last of these K + 1 predictions the step is taken with the mean of.
        solver: how a rectified flow's inversion takes its steps, from z̄_0 to z̄_T: ``midpoint`` by two passes each,
            ``euler`` by one, ``fireflow`` by one that reuses the velocity of the step before; as
            :class:`~locinv_pl.networks.schedule.Solver` says. Other models have DDIM's, and so has every step of
            ReNoise. Reconstructions and edits take Euler's steps in any case: each goes on from a single latent.

    Raises:
        InputError: a value is none of its choices, or out of range.
    """

    policy: Literal["ddim", "virtual"] = "ddim"
    renoise: int = 0
    average: int = 1
    solver: FlowSolver = "midpoint"

    def __post_init__(self) -> None:
        check_choices(self, "method.inversion")
        _require(self.renoise >= 0, "renoise", self.renoise, "0 or more")
        _require(1 <= self.average <= self.renoise + 1, "average", self.average, f"1 to {self.renoise + 1}")
        _require(self.policy == "ddim" or not self.renoise, "renoise", self.renoise, "0 with inversion.policy=virtual")


@dataclass(frozen=True)
class Method:
    """Policies with a name, the guidance scale of the reconstruction, and the timesteps.

    Args:
        name: goes into result files and tables.
        guidance_scale: w, at most ``LARGEST`` in absolute value; 1 leaves guidance out.
        tokens: what happens to V_t.
        null_text: what happens to ∅_t.
        parallel: whether tokens are fitted at several timesteps at once.
        inversion: where the trajectory comes from.
        latent: z_0, of the VAE's posterior the ``mean``, or a ``sample``, the same one for the same pixels.
        num_steps: T, the DDIM steps that the method is made for, 1 or more; a run that names its own takes that.

    Raises:
        InputError: a number is out of range, or a value is none of its choices.
    """

    name: str = "locinv"
    guidance_scale: float = 7.5
    tokens: TokenPolicy = field(default_factory=TokenPolicy)
    null_text: NullTextPolicy = field(default_factory=NullTextPolicy)
    parallel: ParallelPolicy = field(default_factory=ParallelPolicy)
    inversion: InversionPolicy = field(default_factory=InversionPolicy)
    latent: Literal["mean", "sample"] = "mean"
    num_steps: int = 50

    def __post_init__(self) -> None:
        check_choices(self, "method")
        scale = self.guidance_scale
        _require(abs(scale) <= LARGEST, "guidance_scale", scale, f"between -{LARGEST:g} and {LARGEST:g}")
        _require(self.num_steps >= 1, "num_steps", self.num_steps, "1 or more")
        null = self.null_text.policy
        wanted = "direct or npi with inversion.policy=virtual, whose source is always put back"
        _require(self.inversion.policy == "ddim" or null in ("direct", "npi"), "null_text.policy", null, wanted)

    @property
    def is_direct(self) -> bool:
        """Whether the source is put back on its trajectory at every step."""
        return self.null_text.policy == "direct" or self.inversion.policy == "virtual"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the YAML files; plain DDIM inversion goes unsaid."""
        values = asdict(self)
        return values if self.inversion != InversionPolicy() else {k: v for k, v in values.items() if k != "inversion"}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "method") -> Method:
        """The inverse of :meth:`to_dict`.

        Args:
            values: by key; keys that are left out have their defaults.
            where: names the source in errors, such as a file.

        Raises:
            InputError: a key that a method hasn't, or a value out of range.
        """
        try:
            return _build(cls, values, where)
        except TypeError:
            raise InputError(f"{where}: a value has another type than a method's; compare configs/method") from None


def load_method(name_or_path: str | Path) -> Method:
    """A preset by name or a method's YAML file.

    >>> load_method("nti").tokens.policy
    'fixed'

    Args:
        name_or_path: "locinv", "nti", "dpl", … as in configs/method/, or a file.

    Raises:
        InputError: there is no such preset or file, or it has a key or value that a method hasn't.
    """
    path = preset_file("method", name_or_path)
    return Method.from_dict(yaml.safe_load(path.read_text()) or {}, str(path))


def preset_file(group: str, name_or_path: str | Path) -> Path:
    """configs/<group>/<name>.yaml, or a file elsewhere.

    Args:
        group: such as "method" or "edit".
        name_or_path: the preset's name, or a file's path.

    Raises:
        InputError: there is neither.
    """
    for path in (CONFIGS / group / f"{name_or_path}.yaml", Path(name_or_path)):
        if path.is_file():
            return path
    names = ", ".join(presets(group))
    raise InputError(f"{group}={name_or_path}: no such preset; use one of {names}, or a YAML file")


def _build(kind: type, values: dict[str, Any], where: str) -> Any:
    types = get_type_hints(kind)
    if not isinstance(values, dict):
        raise TypeError
    unknown = set(values) - {f.name for f in fields(kind)}
    if unknown:
        raise InputError(f"{where}: unknown key {sorted(unknown)[0]!r}; {kind.__name__} has {', '.join(types)}")
    nested = {
        k: _build(types[k], v, where) if is_dataclass(types[k]) and isinstance(v, dict) else v
        for k, v in values.items()
    }
    return kind(**nested)


def _require(holds: bool, key: str, value: Any, wanted: str) -> None:
    if not holds:
        raise InputError(f"method: {key}={value} must be {wanted}")
