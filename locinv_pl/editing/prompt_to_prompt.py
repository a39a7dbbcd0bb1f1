"""Images from inversions: reconstructed, or edited by Prompt-to-Prompt (Hertz et al., arXiv 2208.01626).

One loop denoises any number of rows together: for every inversion its source prompt and, below it, the target
prompts of its edits. All rows of an inversion have its noise and its ∅_t; words that a target shares with the
source keep their dynamic tokens V_t, and an :class:`AttentionEdit` carries maps from the source row to the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from locinv_pl.errors import InputError
from locinv_pl.method.dynamic_tokens import dynamic_context
from locinv_pl.method.policies import Method
from locinv_pl.networks.attention import Context, Layer
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.memory import freeze_gc
from locinv_pl.networks.schedule import ddim_step, guided_noise
from locinv_pl.types import Edit, Inversion, Span, overlap
from locinv_pl.words import Word, find_word, load_words
from locinv_pl.words.alignment import Alignment, align, edit_kind
from locinv_pl.words.tokens import Tokens, tokenize


@dataclass(frozen=True)
class EditSettings:
    """How an inversion is edited.

    Args:
        cross_replace_steps: share of the steps in which the target takes over the source's cross-attention.
        word_steps: the same for single words of the target prompt.
        self_replace_steps: share of the steps in which it takes over the source's self-attention.
        attribute_steps: the same where only adjectives differ: the object's shape is to stay.
        self_resolution: the finest grid, cells along its shorter side, on which it does.
        reweight: factors on the attention to words of the target prompt.
        keep: whose context the target has at the tokens that both prompts share. A text encoder lets every word
            colour those after it, so that a changed noun changes the meaning of the rest of the prompt. "nothing":
            the target prompt's own; "words": the source's at common words, but for nouns that are described
            otherwise; "all": at the end mark and the padding, too.
        blend: where the target may leave the source. "none": everywhere; "attention": where the changed nouns'
            maps, the inversion's, exceed ``blend_threshold`` of their maximum in the mean over all steps; "prior":
            in the changed nouns' localization priors, widened by ``blend_margin``. An edit that changes something
            without a prior is refused, unless it comes with a region. Where the data names blended words, these stand
            in for the changed ones.
        blend_threshold: of the maximum.
        blend_start: where an edit changes no noun of the inversion, blending by attention takes the changed words'
            maps so far, as in Prompt-to-Prompt, and begins after this share of the steps.
        blend_margin: share of the image's shorter side.
        direct: puts the source row back on the DDIM trajectory after every step, so that what isn't edited equals
            the VAE's reconstruction (Ju et al., Direct Inversion, arXiv 2310.01506).
    """

    cross_replace_steps: float = 0.8
    word_steps: Mapping[str, float] = field(default_factory=dict)
    self_replace_steps: float = 0.5
    attribute_steps: float = 0.8
    self_resolution: int = 16
    reweight: Mapping[str, float] = field(default_factory=dict)
    keep: Literal["nothing", "words", "all"] = "all"
    blend: Literal["none", "attention", "prior"] = "attention"
    blend_threshold: float = 0.3
    blend_start: float = 0.2
    blend_margin: float = 0.08
    direct: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the YAML files."""
        return {key: dict(value) if isinstance(value, Mapping) else value for key, value in vars(self).items()}

    def __post_init__(self) -> None:
        shares = ("cross_replace_steps", "self_replace_steps", "attribute_steps", "blend_threshold", "blend_start")
        values = {name: getattr(self, name) for name in (*shares, "blend_margin")}
        values |= {f"word_steps.{word}": share for word, share in self.word_steps.items()}
        for name, value in values.items():
            if not 0 <= value <= 1:
                raise InputError(f"edit.{name}={value}: is a share; give 0 to 1")
        for word, factor in self.reweight.items():
            if not math.isfinite(factor):
                raise InputError(f"edit.reweight.{word}={factor}: is no factor; give a number such as 2")
        if self.blend not in ("none", "attention", "prior"):
            raise InputError(f"edit.blend={self.blend}: no such blend; choose none, attention or prior")


def nothing() -> None:
    """What happens before a timestep where nobody asks for more."""


@torch.no_grad()
def reconstruct(backbone: Backbone, inversions: Sequence[Inversion], on_step: Callable[[], None] = nothing) -> Tensor:
    """The images again, from their inversions alone.

        ε = ε(z_t, ∅_t) + w (ε(z_t, V_t) - ε(z_t, ∅_t)),  z_{t-1} = DDIM step

    Args:
        backbone: the one that made them.
        inversions: B of them, of one configuration and size.
        on_step: called before every timestep.

    Returns:
        (B, 3, H, W) in [0, 1], on the CPU.

    Raises:
        InputError: they come from another backbone, or from different configurations.
    """
    rows = _Rows.of(backbone, inversions, [[] for _ in inversions])
    return backbone.decode(denoise(backbone, rows, EditSettings(), on_step=on_step)).cpu()


@torch.no_grad()
def edit(
    backbone: Backbone,
    inversion: Inversion,
    prompts: str | Edit | Sequence[str | Edit],
    settings: EditSettings = EditSettings(),
    region: Tensor | None = None,
    with_source: bool = False,
    on_step: Callable[[], None] = nothing,
) -> Tensor:
    """Edit an inverted image; several edits run as one batch over one source branch.

    Args:
        backbone: the one that made the inversion.
        inversion: of the image.
        prompts: the target prompts, n of them; words may have weights, "a (red:1.5) cat".
        settings: how.
        region: (H, W), where edits may change the image: as ``blend="prior"``, with the region in place of the
            priors.
        with_source: whether the reconstruction comes before the edits.
        on_step: called before every timestep.

    Returns:
        (n, 3, H, W), or (1 + n, 3, H, W), in [0, 1], on the CPU.

    Raises:
        InputError: the inversion comes from another backbone, a target prompt is too long or has no word, the
            settings name a word that it hasn't, the region is empty or of another size, or, for ``blend="prior"``,
            what the prompt changes has no place.
    """
    targets = [prompts] if isinstance(prompts, (str, Edit)) else list(prompts)
    if region is not None:
        settings = replace(settings, blend="prior")
    rows = _Rows.of(backbone, [inversion], [targets])
    z = denoise(backbone, rows, settings, region, on_step)
    return backbone.decode(z if with_source else z[1:]).cpu()


def check_edit(
    backbone: Backbone, inversion: Inversion, prompt: str | Edit, settings: EditSettings, region: Tensor | None = None
) -> None:
    """Refuse what :func:`edit` would refuse, without the networks.

    Raises:
        InputError: as :func:`edit` does.
    """
    rows = _Rows.of(backbone, [inversion], [[prompt]])
    _plan(backbone, rows, settings, region)


def as_edit(source: str, prompt: str | Edit) -> Edit:
    """A target prompt with its weights read, and the kind of change that it makes of the source prompt."""
    if isinstance(prompt, Edit):
        return prompt
    read = Edit(prompt, "edit")
    return replace(read, kind=edit_kind(source, read.prompt))


@dataclass(frozen=True, eq=False)
class _Rows:
    """What is denoised together: row n belongs to inversion ``owner[n]``; a source row has no alignment and no edit.

    ``source[n]`` is the row of n's source, itself for sources.
    """

    inversions: Sequence[Inversion]
    tokens: list[Tokens]
    owner: list[int]
    source: list[int]
    alignments: list[Alignment | None]
    edits: list[Edit | None]

    @classmethod
    def of(cls, backbone: Backbone, inversions: Sequence[Inversion], targets: Sequence[Sequence[str | Edit]]) -> _Rows:
        settings = inversions[0].settings
        rows = cls(inversions, [], [], [], [], [])
        for b, inversion in enumerate(inversions):
            if inversion.settings != settings:
                raise InputError(f"inversion {inversion.id!r}: made with another configuration than its batch")
            if inversion.settings["backbone"] != backbone.name:
                made_with = inversion.settings["backbone"]
                raise InputError(f"inversion {inversion.id!r}: made with backbone {made_with!r}, not {backbone.name!r}")
            made = (*inversion.null.shape[1:], inversion.trajectory.shape[1])
            if made != (backbone.tokenizer.model_max_length, *backbone.widths):
                raise InputError(f"inversion {inversion.id!r}: its tensors aren't this backbone's; run it again")
            first = len(rows.tokens)
            for asked in (None, *(as_edit(inversion.prompt, target) for target in targets[b])):
                prompt = inversion.prompt if asked is None else asked.prompt
                tokens = tokenize(backbone.tokenizer, prompt, inversion.id)
                aligned = align(rows.tokens[first], tokens) if asked is not None else None
                rows.edits.append(asked)
                rows.tokens.append(tokens)
                rows.owner.append(b)
                rows.source.append(first)
                rows.alignments.append(aligned)
        return rows

    @property
    def targets(self) -> list[int]:
        """The rows that aren't sources."""
        return [n for n, alignment in enumerate(self.alignments) if alignment is not None]

    def keep(self, states: Tensor, which: str) -> Tensor:
        """The rows' context (R, L, D) with the source's at the tokens that a target shares with it.

        A noun with another adjective keeps its own: the context of "cat" in "a red cat" is red.
        """
        kept = states.clone()
        for n, (source, alignment) in enumerate(zip(self.source, self.alignments, strict=True)):
            if alignment is not None:
                here = alignment.kept >= 0
                if which == "words":
                    here = here & torch.tensor([stop > start for start, stop in self.tokens[n].offsets])
                here[described_anew(self.tokens[n], alignment)] = False
                kept[n, here] = states[source, alignment.kept[here]]
        return kept

    def embeddings(self, i: int, own: Tensor) -> Tensor:
        """The rows' input embeddings at step i, (R, L, D): the words' own, and V_t where a row has such a token."""
        V = own.clone()
        for n, (b, alignment) in enumerate(zip(self.owner, self.alignments, strict=True)):
            inversion = self.inversions[b]
            place = {position: k for k, position in enumerate(inversion.dynamic)}
            kept = range(V.shape[1]) if alignment is None else alignment.kept.tolist()
            for position, source in enumerate(kept):
                if source in place:
                    V[n, position] = inversion.tokens[i, place[source]].to(V)
        return V


@freeze_gc()
def denoise(
    backbone: Backbone,
    rows: _Rows,
    settings: EditSettings,
    region: Tensor | None = None,
    on_step: Callable[[], None] = nothing,
) -> Tensor:
    """The rows' z_0, (R, C, h, w), from their inversions' noise; ``on_step`` is called before every timestep."""
    engine, device = rows.inversions[0].settings, backbone.device
    method, schedule = Method.from_dict(engine["method"]), backbone.schedule(engine["num_steps"])
    ids = torch.stack([tokens.ids for tokens in rows.tokens])
    own, plain = backbone.embed(ids), backbone.encode_text(ids)
    z = torch.stack([rows.inversions[b].noise for b in rows.owner]).to(device)
    control, blend = _plan(backbone, rows, settings, region)
    for i in range(len(schedule)):
        on_step()
        t, (abar_t, abar_s) = schedule.timesteps[i], schedule.alphas[i : i + 2]
        context = dynamic_context(backbone, method.tokens, ids, rows.embeddings(i, own), plain)
        if settings.keep != "nothing":
            context = Context(rows.keep(context.keys, settings.keep), rows.keep(context.values, settings.keep))
        null = torch.stack([rows.inversions[b].null[i] for b in rows.owner]).to(device)
        if control is not None:
            control.step = i
        eps_cond = backbone.predict_noise(z, t, abar_t, context, control)
        eps_null = backbone.predict_noise(z, t, abar_t, Context.of(null))
        z = ddim_step(z, guided_noise(eps_cond, eps_null, method.guidance_scale), abar_t, abar_s)
        if settings.direct or method.null_text.policy == "direct":
            for n, b in enumerate(rows.owner):
                if rows.source[n] == n:
                    z[n] = rows.inversions[b].trajectory[len(schedule) - 1 - i].to(device)
        if control is not None and blend is not None:
            z = blend(z, control)
    return z


def _plan(
    backbone: Backbone, rows: _Rows, settings: EditSettings, region: Tensor | None
) -> tuple[AttentionEdit | None, Blend | None]:
    """What acts on the targets, before anything is computed: all that is wrong with an edit shows here."""
    if not rows.targets:
        return None, None
    h, w = rows.inversions[0].noise.shape[-2:]
    size = (h * backbone.downsampling, w * backbone.downsampling)
    if region is not None and tuple(region.shape) != size:
        raise InputError(f"region: its shape is {tuple(region.shape)}, the image's {size}; give one of that size")
    if region is not None and not region.any():
        raise InputError("region: is empty; say where the edit may change the image")
    num_steps = rows.inversions[0].settings["num_steps"]
    return AttentionEdit(rows, settings, num_steps, backbone.device), Blend(rows, settings, (h, w), region)


class AttentionEdit:
    """Carries attention from source rows to target rows; an :class:`~locinv_pl.networks.attention.AttentionHook`.

    Cross-attention of target n at step i, over its tokens l: A_n ← c_l [ α_l (A_source M_n)_l + (1 - α_l) A_n,l ],
    with M the alignment's mapper, α_l = 1 as long as token l takes over, c_l its weight. Self-attention:
    A_n ← A_source during the first steps, on coarse grids.

    Args:
        rows: what is denoised.
        settings: for how long, and with what weights.
        num_steps: T.
        device: where.
    """

    def __init__(self, rows: _Rows, settings: EditSettings, num_steps: int, device: torch.device):
        self.rows, self.settings, self.num_steps = rows, settings, num_steps
        self.step = 0
        targets = rows.targets
        self.source = torch.tensor([rows.source[n] for n in targets], device=device)
        self.target = torch.tensor(targets, device=device)
        alignments = [alignment for alignment in rows.alignments if alignment is not None]
        self.mapper = torch.stack([a.mapper for a in alignments]).to(device)
        self.until = torch.stack([self._until(n, a) for n, a in zip(targets, alignments, strict=True)]).to(device)
        self.weight = torch.stack([self._weight(n) for n in targets]).to(device)
        self.self_until = torch.tensor([self._self_until(n) for n in targets])
        grid = rows.inversions[0].maps.shape[-2:]
        self.grid = (int(grid[0]), int(grid[1]))
        self.finest = settings.self_resolution**2 * max(grid) / min(grid)
        self.maps: Tensor | None = None

    def wants(self, layer: Layer) -> bool:
        """Cross-attention always, self-attention while it is taken over."""
        return layer.is_cross or (bool(self._takes_self.any()) and layer.queries <= self.finest)

    def __call__(self, probs: Tensor, layer: Layer) -> Tensor:
        """Probabilities (R, heads, queries, keys) of all rows."""
        edited = probs.clone()
        if not layer.is_cross:
            edited[self.target[self._takes_self]] = probs[self.source[self._takes_self]]
            return edited
        alpha = (self.step < self.until * self.num_steps).to(probs)[:, None, None]
        taken = probs[self.source] @ self.mapper[:, None].to(probs)
        edited[self.target] = (alpha * taken + (1 - alpha) * probs[self.target]) * self.weight[:, None, None].to(probs)
        if layer.queries == self.grid[0] * self.grid[1]:
            mean = edited.float().mean(1).unflatten(1, self.grid)
            self.maps = mean if self.maps is None else self.maps + mean
        return edited

    @property
    def _takes_self(self) -> Tensor:
        """Which targets take over self-attention at this step, (n,)."""
        return self.step < self.self_until * self.num_steps

    def _self_until(self, row: int) -> float:
        prompts = (self.rows.tokens[n].prompt for n in (self.rows.source[row], row))
        return self.settings.attribute_steps if edit_kind(*prompts) == "attribute" else self.settings.self_replace_steps

    def _until(self, row: int, alignment: Alignment) -> Tensor:
        """For every token the share of the steps in which it takes over, (L,)."""
        until = torch.where(alignment.taken, self.settings.cross_replace_steps, 0.0)
        for word, share in self.settings.word_steps.items():
            until[self._positions(self.rows.tokens[row], word)] = share
        return until * alignment.taken

    def _weight(self, row: int) -> Tensor:
        """For every token the factor on the attention to it, (L,); one in brackets comes before a word's."""
        tokens, edit = self.rows.tokens[row], self.rows.edits[row]
        assert edit is not None
        weight = torch.ones(len(tokens.ids))
        for word, factor in self.settings.reweight.items():
            weight[self._positions(tokens, word)] = factor
        for span, factor in edit.weights:
            weight[list(tokens.positions(span))] = factor
        return weight

    def _positions(self, tokens: Tokens, word: str) -> list[int]:
        return [position for span in find_word(tokens.prompt, word) for position in tokens.positions(span)]


class Blend:
    """Sets target latents to the source's outside of what may change: z_n ← z_source + m (z_n - z_source).

    Args:
        rows: what is denoised.
        settings: by what m is found.
        size: (h, w) of the latents.
        region: (H, W), where edits may change the image, in place of the priors.
    """

    def __init__(self, rows: _Rows, settings: EditSettings, size: Sequence[int], region: Tensor | None):
        self.rows, self.settings, self.size = rows, settings, (int(size[0]), int(size[1]))
        self.masks = {n: self._mask(n, region) for n in rows.targets} if settings.blend != "none" else {}

    def __call__(self, z: Tensor, control: AttentionEdit) -> Tensor:
        """Blend the rows' latents (R, C, h, w)."""
        blended = z.clone()
        for n, known in self.masks.items():
            if (mask := self._running(n, control) if known is None else known) is not None:
                source = z[self.rows.source[n]]
                blended[n] = source + mask.to(z.device) * (z[n] - source)
        return blended

    def _mask(self, row: int, region: Tensor | None) -> Tensor | None:
        """m, (h, w), where it is known from the start."""
        inversion = self.rows.inversions[self.rows.owner[row]]
        blended = list(self._blended(row))
        if blended:
            here = {p for n, span in blended if n != row for p in self.rows.tokens[n].positions(span)}
            changed = [k for k, positions in enumerate(inversion.noun_positions) if here & set(positions)]
        else:
            changed = self._changed(row, inversion.noun_positions)
        if self.settings.blend == "attention":
            return self._above(inversion.maps[:, changed].mean(0)) if changed else None
        if region is None:
            self._refuse_placeless(row, changed, by_data=bool(blended))
            region = inversion.priors[changed].amax(0)
        return self._widened(region)

    def _blended(self, row: int) -> Iterator[tuple[int, Span]]:
        """The words that the data says are blended, each with its row; none where a prompt hasn't its own."""
        edit, pair = self.rows.edits[row], (self.rows.source[row], row)
        if edit is None or edit.blend is None:
            return
        with suppress(InputError):
            spans = [find_word(self.rows.tokens[n].prompt, word) for n, word in zip(pair, edit.blend, strict=True)]
            yield from ((n, span) for n, each in zip(pair, spans, strict=True) for span in each)

    def _changed(self, row: int, noun_positions: Sequence[Sequence[int]]) -> list[int]:
        edit, alignment, target = self.rows.edits[row], self.rows.alignments[row], self.rows.tokens[row]
        assert edit is not None and alignment is not None
        weighted = [span for span, _ in edit.weights]
        weighted += [span for word in self.settings.reweight for span in find_word(target.prompt, word)]
        return changed_nouns(noun_positions, self.rows.tokens[self.rows.source[row]], target, alignment, weighted)

    def _refuse_placeless(self, row: int, changed: Sequence[int], by_data: bool) -> None:
        """Refuse an edit that no prior gives a place: it would change the whole image, or what it adds, nothing.

        Args:
            row: the target's.
            changed: the inversion's nouns that it changes.
            by_data: whether the data says which these are.
        """
        alignment, inversion = self.rows.alignments[row], self.rows.inversions[self.rows.owner[row]]
        source, target = self.rows.tokens[self.rows.source[row]], self.rows.tokens[row]
        assert alignment is not None
        placeless = []
        if not by_data:
            placeless = [noun.text for noun in added_nouns(target, alignment)]
            nouns = load_words().nouns(source.prompt)
            places = [source.positions(noun.span) for noun in nouns]
            known = {p for positions in inversion.noun_positions for p in positions}
            placeless += [nouns[k].text for k in self._changed(row, places) if not known & set(places[k])]
        if placeless or not changed:
            what = f"{placeless[0]!r} has no prior that gives it a place" if placeless else "it changes no noun"
            raise InputError(
                f"edit.blend=prior, prompt {target.prompt!r}: {what}; say by region= where the edit may change the "
                f"image, or take edit.blend=attention"
            )

    def _widened(self, region: Tensor) -> Tensor:
        """A region and its margin: (h, w) in [0, 1], exactly 0 beyond the margin."""
        reach = max(1, round(self.settings.blend_margin * min(self.size)))
        mask = F.interpolate(region.float()[None, None], self.size, mode="area")
        wide = F.max_pool2d((mask > 0.05).float(), 2 * reach + 1, 1, reach)
        return F.avg_pool2d(wide, 3, 1, 1, count_include_pad=False)[0, 0]

    def _above(self, maps: Tensor) -> Tensor:
        """Where any of some maps (n, r, c) exceeds the threshold: (h, w), 0 or 1."""
        large = F.interpolate(maps[:, None].float(), self.size, mode="bilinear")[:, 0]
        return (large > self.settings.blend_threshold * large.amax((-2, -1), keepdim=True)).any(0).float()

    def _running(self, row: int, control: AttentionEdit) -> Tensor | None:
        """Where the changed words, of source and target, have looked up to now."""
        alignment, source, blended = self.rows.alignments[row], self.rows.source[row], list(self._blended(row))
        assert alignment is not None and control.maps is not None
        spans = {source: [span for change in alignment.changed for span in change.source]}
        spans |= {row: [span for change in alignment.changed for span in change.target]}
        if blended:
            spans = {n: [span for m, span in blended if m == n] for n in (source, row)}
        words = [(n, [p for span in each for p in self.rows.tokens[n].positions(span)]) for n, each in spans.items()]
        maps = [control.maps[n][..., positions].mean(-1) for n, positions in words if positions]
        if control.step < self.settings.blend_start * control.num_steps or not maps:
            return None
        return self._above(torch.stack(maps))


def described_anew(target: Tokens, alignment: Alignment, weighted: Sequence[Span] = ()) -> list[int]:
    """Positions of the target's nouns that have a word which the source hasn't there: "red cat", "toy cat".

    Args:
        target, alignment: of the target prompt.
        weighted: characters of words with another weight, which count as such words.
    """
    fresh = [*weighted, *(span for change in alignment.changed for span in change.target)]
    return [
        position
        for word, noun in _described(target.prompt)
        if any(overlap(word, span) for span in fresh)
        for position in target.positions(noun)
    ]


def added_nouns(target: Tokens, alignment: Alignment) -> list[Word]:
    """The target's nouns that stand in the place of no words of the source."""
    added = [span for change in alignment.changed if not change.source for span in change.target]
    kept = [span for change in alignment.changes if change.source for span in change.target]
    return [
        noun
        for noun in load_words().nouns(target.prompt)
        if any(overlap(noun.span, span) for span in added) and not any(overlap(noun.span, span) for span in kept)
    ]


def changed_nouns(
    noun_positions: Sequence[Sequence[int]],
    source: Tokens,
    target: Tokens,
    alignment: Alignment,
    weighted: Sequence[Span] = (),
) -> list[int]:
    """Which nouns a target prompt replaces, removes, or describes otherwise than the source does.

    Adjectives describe a noun, and so do nouns: "a bear" isn't "a teddy bear".

    Args:
        noun_positions: of every noun its tokens in the source prompt.
        source, target, alignment: of the prompts.
        weighted: characters of the target's words with another weight; these change their noun, too.

    Returns:
        indices of ``noun_positions``.
    """
    gone = [span for change in alignment.changed for span in change.source]
    changed = {p for span in gone for p in source.positions(span)}
    for word, noun in _described(source.prompt):
        if any(overlap(word, span) for span in gone):
            changed.update(source.positions(noun))
    changed.update(alignment.kept[described_anew(target, alignment, weighted)].tolist())
    return [k for k, positions in enumerate(noun_positions) if changed & set(positions)]


def _described(prompt: str) -> Iterator[tuple[Span, Span]]:
    """Words of a prompt, each with the noun that it describes; a noun's own words describe it."""
    words = load_words()
    yield from ((adjective.span, noun.span) for adjective, noun in words.pairs(prompt))
    yield from ((noun.span, noun.span) for noun in words.nouns(prompt))
