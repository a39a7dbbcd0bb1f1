"""What an edit does to attention: the controls of Prompt-to-Prompt (Hertz et al., arXiv 2208.01626, section 3.2).

Both prompts are denoised together from the same noise. At step i, A is a cross-attention map of the source row and A*
the same layer's of the target row; column l of a map is the attention to token l. Before a map is used, the target's
is changed so:

- Replacement ("Word Swap"). In the first τ T steps a word that stands in the place of another takes over that one's
  map, so that what is new gets the place and the shape of what was: A*_l ← (A M)_l. The mapper M sends tokens of the
  source to tokens of the target; the tokens of a word share its map.
- Refinement ("Adding a New Phrase"). Words that both prompts have take over their own map, A*_l ← (A M)_l, where M
  sends each to itself; words that only the target has keep their A*_l.
- Reweighting ("Attention Re-weighting"). A token's map is multiplied by a factor, A*_l ← c_l A*_l.

Since M comes from one alignment of both prompts (:mod:`locinv_pl.words.alignment`), the three are one formula,

    A*_l ← c_l [ α_l (A M)_l + (1 - α_l) A*_l ],

with α_l = 1 for i < τ_l T, and α_l = 0 after that and at all steps for words that only the target has. Self-attention,
which holds the layout, is taken over whole, A* ← A, in the first steps and on coarse grids.

Mutual self-attention (MasaCtrl, Cao et al., arXiv 2304.08465, section 3.2) takes over what the source looks like and
leaves the layout to the target: from step S on, in the layers from the L-th on, the target's queries attend to the
source's keys and values,

    f* ← softmax(Q* Kᵀ / √d) V,

in the pass of the prompts and in that of the null texts. With masks of the object, M in the source and M* in the
target, each sees its own, object or background, which the paper writes as two attentions,

    f* ← M* softmax(Q* Kᵀ / √d; M) V + (1 - M*) softmax(Q* Kᵀ / √d; 1 - M) V.

Here M are the changed nouns' priors, and M* is where the target has looked at its changed words, cut as in blending.
"""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from locinv_pl.editing.rows import Rows, Target, described_anew
from locinv_pl.networks.attention import Layer
from locinv_pl.words import load_words


class AttentionEdit:
    """The formula above for all targets of a batch; an :class:`~locinv_pl.networks.attention.AttentionHook`.

    ``step`` is i; whoever denoises sets it before every pass. ``maps`` (R, r, c, L) adds up the changed maps of all
    layers with the inversion's attention grid, over all steps so far, for :class:`~locinv_pl.editing.blending.Blend`.

    Args:
        rows: the batch of R rows, n of them targets; their settings give τ, for cross-attention, single words and
            self-attention, and c.
        num_steps: T.
        device: where the attention is computed.
        coarsest: cells along the shorter side of the coarsest grid, on which self-attention is taken over in any case.
        self_layers: how many layers of self-attention a pass has, of which mutual self-attention takes the last.

    Raises:
        InputError: the settings name a word that a target prompt hasn't.
    """

    def __init__(self, rows: Rows, num_steps: int, device: torch.device, coarsest: int = 0, self_layers: int = 0):
        self.num_steps, self.step = num_steps, 0
        targets = rows.targets
        self.source = torch.tensor([t.source_row for t in targets], device=device)  # (n,)
        self.target = torch.tensor([t.row for t in targets], device=device)  # (n,)
        self.mapper = torch.stack([t.alignment.mapper for t in targets]).to(device)  # M, (n, L, L)
        self.until = torch.stack([_until(t) for t in targets]).to(device)  # τ, (n, L)
        self.weight = torch.stack([_weight(t) for t in targets]).to(device)  # c, (n, L)
        self.self_until = torch.tensor([_self_until(t) for t in targets])  # (n,)
        grid = rows.inversions[0].maps.shape[-2:]
        self.grid = (int(grid[0]), int(grid[1]))
        shape = max(grid) / min(grid)
        self.finest = torch.tensor(
            [max(t.settings.self_resolution, coarsest) ** 2 * shape for t in targets]
        )  # queries, (n,)
        self.maps: Tensor | None = None
        self._count = 0  # of the maps that have been added up
        self.mutual_start = torch.tensor([t.settings.mutual_start for t in targets])  # S / T, (n,)
        self.mutual_layers = torch.tensor([t.settings.mutual_layers * self_layers for t in targets])  # L, (n,)
        self._num_rows, self._order = len(rows.tokens), dict[str, int]()  # of the layers in a pass
        self.targets = targets
        self.smooths = any(t.settings.smooths for t in targets)
        self._affinity: Tensor | None = None

    def wants(self, layer: Layer) -> bool:
        """Cross-attention always, self-attention while it is taken over, and where it smooths the maps."""
        return layer.is_cross or bool(self._takes_self(layer).any()) or (self.smooths and self._on_grid(layer))

    def __call__(self, probs: Tensor, layer: Layer) -> Tensor:
        """Change the targets' attention.

        Args:
            probs: A and A* of all rows, (R, heads, queries, keys).
            layer: the layer that they come from.

        Returns:
            the same shape; the source rows' are as they were.
        """
        edited = probs.clone()
        if not layer.is_cross:
            if self.smooths and self._on_grid(layer):
                mean = probs[self.source].float().mean(1)  # (n, queries, queries)
                self._affinity = mean if self._affinity is None else self._affinity + mean
            taking = self._takes_self(layer).to(self.target.device)
            edited[self.target[taking]] = probs[self.source[taking]]
            return edited
        alpha = (self.step < self.until * self.num_steps).to(probs)[:, None, None]  # (n, 1, 1, L)
        taken = probs[self.source] @ self.mapper[:, None].to(probs)  # A M, (n, heads, queries, L)
        edited[self.target] = (alpha * taken + (1 - alpha) * probs[self.target]) * self.weight[:, None, None].to(probs)
        if self._on_grid(layer):
            mean = edited.float().mean(1).unflatten(1, self.grid)  # (R, r, c, L)
            self.maps = mean if self.maps is None else self.maps + mean
            self._count += 1
        return edited

    def affinity(self, target: Target) -> Tensor | None:
        """How much the cells of a target's source attend to each other, (r c, r c), in the sum over all steps so far.

        None where nothing is to be smoothed.
        """
        return None if self._affinity is None else self._affinity[self.target.tolist().index(target.row)]

    def share(self, k: Tensor, v: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mutual self-attention: targets attend to what their sources have at this layer.

        Args:
            k: keys of the R rows, or of these and their null texts', (R or 2 R, heads, keys, d).
            v: values, of the same shape.
            layer: the layer that they come from.

        Returns:
            both, where the source rows' are as they were; and what keeps foreground and background apart, 0 or -∞,
            (as many rows, 1, queries, keys), None where nothing does.
        """
        number = self._order.setdefault(layer.name, len(self._order))
        sharing = (self.step >= self.mutual_start * self.num_steps) & (number >= self.mutual_layers)
        if not sharing.any():
            return k, v, None
        source, target = (rows[sharing.to(rows.device)] for rows in (self.source, self.target))
        for half in range(0, len(k), self._num_rows):
            k, v = (x.index_copy(0, target + half, x[source + half]) for x in (k, v))
        masks = {t.row: self._objects(t, layer) for t, shares in zip(self.targets, sharing, strict=True) if shares}
        found = {row: both for row, both in masks.items() if both is not None}
        bias = k.new_zeros(len(k), 1, layer.queries, layer.keys) if found else None
        for row, (inside, looked) in found.items():  # M and M*
            assert bias is not None
            bias[row :: self._num_rows].masked_fill_((looked[:, None] != inside).to(k.device), -torch.inf)
        return k, v, bias

    def _objects(self, target: Target, layer: Layer) -> tuple[Tensor, Tensor] | None:
        """M and M* on a layer's grid, bool, (keys,) and (queries,); None where none is known or asked for."""
        fresh = [
            p for change in target.alignment.changed for span in change.target for p in target.tokens.positions(span)
        ]
        words = [*fresh, *described_anew(target.tokens, target.alignment)]
        changed = target.changed_nouns(target.inversion.noun_positions)
        if not (target.settings.mutual_mask and changed and words) or self.maps is None:
            return None
        fine = sqrt(layer.queries / (self.grid[0] * self.grid[1]))
        size = round(self.grid[0] * fine), round(self.grid[1] * fine)
        S = target.inversion.fine_priors[changed].amax(0)
        A = self.maps[target.row][..., words].mean(-1)
        S, A = (F.interpolate(x[None, None].cpu(), size, mode="area").flatten() for x in (S, A))
        inside, looked = S > 0.5, target.settings.blend_threshold * A.max() < A
        return (inside, looked) if inside.any() and not inside.all() else None

    def noun_maps(self, target: Target) -> dict[str, Tensor]:
        """The mean attention so far to every noun of a target prompt, (r, c) by the noun, on the CPU."""
        if self.maps is None:
            return {}
        mean = (self.maps[target.row] / self._count).cpu()
        nouns = {noun.text: target.positions(noun.text) for noun in load_words().nouns(target.tokens.prompt)}
        return {noun: mean[..., positions].mean(-1) for noun, positions in nouns.items()}

    def take(self, q: Tensor, k: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
        """In joint attention the targets take over the image's queries and keys, as they do self-attention elsewhere.

        Args:
            q: the image's queries of all rows, (R, heads, queries, d).
            k: its keys, of the same shape.
            layer: the image's part of the layer that they come from.

        Returns:
            both; the source rows' are as they were.
        """
        taking = self._takes_self(layer).to(self.target.device)
        if not taking.any():
            return q, k
        q, k = q.clone(), k.clone()
        for x in (q, k):
            x[self.target[taking]] = x[self.source[taking]]
        return q, k

    def acts(self) -> bool:
        """Whether anything is still to be changed at this step: nothing is once all shares of the steps are over."""
        taken = max(float(self.until.max()), float(self.self_until.max()))
        shares = self.step >= float(self.mutual_start.min()) * self.num_steps
        return self.step < taken * self.num_steps or shares or bool((self.weight != 1).any())

    def _on_grid(self, layer: Layer) -> bool:
        """Whether a layer has the inversion's attention grid."""
        return layer.queries == self.grid[0] * self.grid[1]

    def _takes_self(self, layer: Layer) -> Tensor:
        """Which targets take over a layer's self-attention at this step, (n,)."""
        return (self.step < self.self_until * self.num_steps) & (layer.queries <= self.finest)


def _self_until(target: Target) -> float:
    """τ of self-attention."""
    return target.settings.attribute_steps if target.keeps_shape else target.settings.self_replace_steps


def _until(target: Target) -> Tensor:
    """τ of every token, (L,); 0 for words that only the target has."""
    settings = target.settings
    share = settings.swap_steps if target.change == "word_swap" else settings.cross_replace_steps
    until = torch.where(target.alignment.taken, share, 0.0)
    for word, share in settings.word_steps.items():
        until[target.positions(word)] = share
    return until * target.alignment.taken


def _weight(target: Target) -> Tensor:
    """Every token's c, (L,); a weight in brackets comes before the word's in the settings."""
    weight = torch.ones(len(target.tokens.ids))
    for word, factor in target.settings.reweight.items():
        weight[target.positions(word)] = factor
    for span, factor in target.edit.weights:
        weight[list(target.tokens.positions(span))] = factor
    return weight
