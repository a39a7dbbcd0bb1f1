"""What a user can choose about an edit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from locinv_pl.errors import InputError, check_choices

MOST_CANDIDATES = 16
UNSAID = {"candidates": 1, "smooth": 0.0, "mutual_start": 1.0, "mutual_layers": 0.6, "mutual_mask": False}
"""Settings that go unsaid in files while they have these values, their defaults: younger than the files' format."""


@dataclass(frozen=True)
class EditSettings:
    """How Prompt-to-Prompt edits an inversion.

    Shares count from the first, noisiest step: 0.8 of T = 50 steps are steps 0 to 39. The formulas that the settings
    enter stand in :mod:`locinv_pl.editing.attention` and :mod:`locinv_pl.editing.blending`.

    Args:
        cross_replace_steps: share of the steps, 0 to 1, in which the target takes over the source's cross-attention.
        swap_steps: that share where words stand in the place of others that aren't adjectives: what is new then takes
            the old one's place for a while, and its own shape after that.
        word_steps: the same share for single words of the target prompt, which replaces the others there:
            ``{"red": 0.3}``. A word that the prompt hasn't is refused.
        self_replace_steps: share of the steps, 0 to 1, in which the target takes over the source's self-attention.
            More of it keeps the shapes of the source.
        attribute_steps: that share where the prompts differ in adjectives only, since the object then keeps its shape.
        self_resolution: side in cells of the finest attention grid on which self-attention is taken over; on grids
            that aren't square, the shorter side. A model's coarsest grid is always among them.
        reweight: factors on the attention to words of the target prompt: ``{"snowy": 2.0}``. Below 1 weakens a word,
            below 0 turns it round. Weights in brackets, "a (snowy:2) road", do the same for one occurrence.
        keep: at which tokens that both prompts share the target has the source's text context in place of its own. A
            text encoder lets every word colour those after it, so that a changed noun changes the meaning of the rest
            of the prompt. "nothing": nowhere; "words": at common words, but for nouns that get another description;
            "all": at the end mark and the padding, too.
        blend: where the target may leave the source. "none": everywhere. "attention": where the attention to the
            changed nouns, in the mean over the inversion's steps, exceeds ``blend_threshold`` of its maximum.
            "prior": in the changed nouns' localization priors, widened by ``blend_margin``; an edit that changes
            something without a prior is refused, unless it comes with a region. "both": in the changed nouns' priors,
            not in those of the others, and around them where attention exceeds ``blend_growth`` of its maximum. Where
            the data names blended words, these stand in for the changed ones.
        blend_threshold: share of the map's maximum, 0 to 1, above which ``blend="attention"`` lets the target change.
        blend_coverage: share of a latent's cell, 0 to 1, that a changed noun's prior has to cover for "both" to let the
            cell change. More of it keeps more of the background and leaves more of what was at the object's edge.
        attribute_coverage: that share where the prompts differ in adjectives only: the object keeps its edge.
        blend_growth: share of the map's maximum, 0 to 1, above which "both" lets cells change that no noun covers, so
            that what is new can be larger than what was; 1 lets none. Where prompts differ in adjectives only, none do.
        blend_start: share of the steps, 0 to 1, before blending by attention begins where an edit changes no noun of
            the inversion. The mask then comes from the changed words' maps so far, as in Prompt-to-Prompt.
        blend_margin: how far "prior" widens its mask, as a share, 0 to 1, of the image's shorter side.
        smooth: λ, 0 or more: how far the maps behind "attention" and "both" are evened out over cells that attend to
            each other, as :func:`~locinv_pl.editing.blending.smoothed` says; 0 leaves them as they are.
        mutual_start: S / T, share of the steps, 0 to 1, after which the target attends to the source's keys and values
            in self-attention (MasaCtrl); 1 never.
        mutual_layers: L, share of the layers of self-attention, 0 to 1, in the pass's order, before those in which it
            does; with 0.6 it begins in the paper's layer 10 of Stable Diffusion's 16.
        mutual_mask: whether object and background are then kept apart: where the target has looked at its changed
            words more than ``blend_threshold`` of the most, it sees the changed nouns' priors in the source, elsewhere
            what lies outside of them.
        direct: whether the source row is put back on the DDIM trajectory after every step, so that what isn't edited
            equals the VAE's reconstruction (Ju et al., Direct Inversion, arXiv 2310.01506).
        candidates: N, 1 to 16, how many :func:`strengths` of an edit a run makes as one batch; the best by
            :func:`~locinv_pl.measures.candidates.assess` is kept. 1 makes the edit as the settings say, and so does
            :func:`~locinv_pl.editing.prompt_to_prompt.edit` for any N.

    Raises:
        InputError: a share lies outside 0 to 1, a factor isn't finite, a number lies outside its range, or a choice
            doesn't exist.
    """

    cross_replace_steps: float = 0.8
    swap_steps: float = 0.3
    word_steps: Mapping[str, float] = field(default_factory=dict)
    self_replace_steps: float = 0.2
    attribute_steps: float = 0.4
    self_resolution: int = 16
    reweight: Mapping[str, float] = field(default_factory=dict)
    keep: Literal["nothing", "words", "all"] = "all"
    blend: Literal["none", "attention", "prior", "both"] = "both"
    blend_threshold: float = 0.3
    blend_coverage: float = 0.3
    attribute_coverage: float = 0.5
    blend_growth: float = 0.7
    blend_start: float = 0.2
    blend_margin: float = 0.08
    smooth: float = 0.0
    mutual_start: float = 1.0
    mutual_layers: float = 0.6
    mutual_mask: bool = False
    direct: bool = False
    candidates: int = 1

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, as they stand in YAML files and in edits.json; ``UNSAID`` is left out."""
        values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in vars(self).items()}
        return {key: value for key, value in values.items() if UNSAID.get(key) != value}

    @property
    def smooths(self) -> bool:
        """Whether maps are smoothed, and used."""
        return self.smooth > 0 and self.blend in ("attention", "both")

    def __post_init__(self) -> None:
        check_choices(self, "edit")
        ends, begins = ("_steps", "_coverage"), ("blend_", "mutual_")
        shares = [name for name in vars(self) if name.endswith(ends) or name.startswith(begins)]
        values = {name: getattr(self, name) for name in shares if name not in ("word_steps", "mutual_mask")}
        values |= {f"word_steps.{word}": share for word, share in self.word_steps.items()}
        for name, value in values.items():
            if not 0 <= value <= 1:
                raise InputError(f"edit.{name}={value}: is a share; give 0 to 1")
        for word, factor in self.reweight.items():
            if not math.isfinite(factor):
                raise InputError(f"edit.reweight.{word}={factor}: is no factor; give a number such as 2")
        if not 0 <= self.smooth < math.inf:
            raise InputError(f"edit.smooth={self.smooth}: give a number of 0 or more")
        if not 1 <= self.candidates <= MOST_CANDIDATES:
            raise InputError(f"edit.candidates={self.candidates}: give 1 to {MOST_CANDIDATES}")


def changed(settings: EditSettings | Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from their defaults, by name.

    Args:
        settings: of an edit, or as they stand in files, where those of another editor all count as changed.

    >>> changed(EditSettings(swap_steps=0.5))
    {'swap_steps': 0.5}
    >>> changed({"swap_steps": 0.3, "strength": 0.8})
    {'strength': 0.8}
    """
    usual = vars(EditSettings())
    each = vars(settings) if isinstance(settings, EditSettings) else settings
    return {name: value for name, value in each.items() if name not in usual or value != usual[name]}


def as_word(value: Any) -> str:
    """A setting as a word of the command line has it.

    Args:
        value: a plain value.

    >>> as_word({"red": 0.3}), as_word("prior")
    ('{"red": 0.3}', 'prior')
    """
    return value if isinstance(value, str) else json.dumps(value)


def strengths(settings: EditSettings) -> list[tuple[float, EditSettings]]:
    """N strengths of an edit, weakest first: how far the target is freed from the source's attention and its place.

    Strength s multiplies the shares ``cross_replace_steps``, ``swap_steps``, ``self_replace_steps``,
    ``attribute_steps`` and ``word_steps``, and ``blend_growth``, by 2 - s, up to 1:

        s_n = 0.6 + 1.2 n / (N - 1),  n = 0..N-1,

    and the s_n nearest to 1 is set to 1, so that the settings as they are given are among them. At 0.6 more is taken
    over than the settings say. At 1.8 a fifth of it is, and the mask of a swap grows to where attention to the old noun
    is weak: what is new may then have a shape that doesn't fit into the old one's. A ``blend_growth`` of 1 stays: no
    mask grows. N = 1 has s = 1 alone.

    Args:
        settings: ``candidates`` is N.

    Returns:
        N pairs of a strength and its settings, which are otherwise the given ones, with ``candidates`` = 1.

    >>> for s, way in strengths(EditSettings(candidates=4)):
    ...     print(s, way.cross_replace_steps, way.self_replace_steps, way.blend_growth)
    0.6 1.0 0.28 0.98
    1.0 0.8 0.2 0.7
    1.4 0.48 0.12 0.42
    1.8 0.16 0.04 0.14
    """
    N, alone = settings.candidates, replace(settings, candidates=1)
    spread = [round(0.6 + 1.2 * n / (N - 1), 6) for n in range(N)] if N > 1 else [1.0]
    as_given = min(range(N), key=lambda n: abs(spread[n] - 1))
    return [(1.0, alone) if n == as_given else (s, _scaled(alone, 2 - s)) for n, s in enumerate(spread)]


def _scaled(settings: EditSettings, factor: float) -> EditSettings:
    """The settings with all shares of attention that is taken over, and the mask's threshold, times a factor."""
    shares = ["cross_replace_steps", "swap_steps", "self_replace_steps", "attribute_steps"]
    shares += ["blend_growth"] if settings.blend_growth < 1 else []
    scaled: dict[str, Any] = {name: min(1.0, round(factor * getattr(settings, name), 6)) for name in shares}
    word_steps = {word: min(1.0, round(factor * share, 6)) for word, share in settings.word_steps.items()}
    return replace(settings, word_steps=word_steps, **scaled)
