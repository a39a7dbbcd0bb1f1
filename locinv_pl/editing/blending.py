"""How an edit keeps the rest of the image: outside a mask the target's latent becomes the source's.

After every step z* ← z + m (z* - z), with the source row's latent z, the target row's z* and a mask m in [0, 1] on the
latent's grid, as in the local blending of Prompt-to-Prompt's code (Hertz et al., arXiv 2208.01626). ``edit.blend`` says
where m comes from:

- "attention": m = 1 where the mean of a changed noun's maps over all steps of the inversion exceeds
  ``blend_threshold`` of its maximum. It is known from the start. An edit that changes no noun of the inversion has
  Prompt-to-Prompt's own mask, from the attention to the changed words of both prompts so far; it moves from step to
  step and begins after ``blend_start`` of them.
- "prior": the union of the changed nouns' priors, or the region that came with the edit, widened by ``blend_margin``
  and softened at its edge. Beyond that m is exactly 0, and the result the reconstruction.
- "both": with S = max_k S^k over the changed nouns and S' over the others, m = 0 where S' > S; of the other cells,
  m = 1 where S exceeds ``blend_coverage``, or the attention to a changed noun ``blend_growth`` of its maximum. Where
  the prompts differ in adjectives only, the object keeps its shape: the latter doesn't count, and S has to exceed
  ``attribute_coverage``.
- "none": m = 1 everywhere.

With ``smooth`` above 0 the maps behind "attention" and "both" are :func:`smoothed` first, by the self-attention so far,
and stretched to the range that they had: all cells attend to all others a little, which lifts what should be 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from locinv_pl.editing.attention import AttentionEdit
from locinv_pl.editing.rows import Rows, Target, added_nouns
from locinv_pl.errors import InputError, quoted
from locinv_pl.words import load_words


class Blend:
    """Blends the targets of a batch with their sources.

    ``masks`` has every target's m, (h, w), by its row, or None where m isn't known from the start.

    Args:
        rows: the batch of R rows; the targets' settings say where m comes from.
        size: (h, w) of the latents.
        region: where edits may change the image, (H, W), in place of the priors.

    Raises:
        InputError: with ``blend="prior"`` and without a region, an edit changes no noun, or something without a prior.
    """

    def __init__(self, rows: Rows, size: Sequence[int], region: Tensor | None):
        self.size, self.region = (int(size[0]), int(size[1])), region
        self._affinity: dict[int, Tensor | None] = {}
        self.targets = [target for target in rows.targets if target.settings.blend != "none"]
        self.masks = {target.row: self._mask(target, region) for target in self.targets}
        self._last = {row: mask for row, mask in self.masks.items() if mask is not None}

    def last(self, row: int) -> Tensor:
        """M of the last step, (h, w), on the CPU; 1 everywhere where a target has not been blended."""
        return self._last.get(row, torch.ones(self.size)).cpu()

    @property
    def runs(self) -> bool:
        """Whether a mask moves with the attention from step to step."""
        smooths = any(target.settings.smooths for target in self.targets)
        return smooths or any(mask is None for mask in self.masks.values())

    def __call__(self, z: Tensor, control: AttentionEdit) -> Tensor:
        """Blend the latents after a step.

        Args:
            z: all rows' latents, (R, C, h, w).
            control: has the attention up to this step.

        Returns:
            (R, C, h, w); the source rows' are as they were.
        """
        blended = z.clone()
        for target in self.targets:
            known = self.masks[target.row]
            if target.settings.smooths:
                self._affinity[target.row] = control.affinity(target)
                known = None if known is None else self._mask(target, self.region)
            mask = self._running(target, control) if known is None else known
            if mask is not None:
                self._last[target.row] = mask
                source = z[target.source_row]
                blended[target.row] = source + mask.to(z.device) * (z[target.row] - source)
        return blended

    def _mask(self, target: Target, region: Tensor | None) -> Tensor | None:
        """m, (h, w), where it is known from the start."""
        inversion, named, blend = target.inversion, target.blended_words(), target.settings.blend
        if named is None:
            changed = target.changed_nouns(inversion.noun_positions)
        else:
            here = {p for span in named[0] for p in target.source.positions(span)}
            changed = [k for k, positions in enumerate(inversion.noun_positions) if here & set(positions)]
        if blend != "prior" and not changed:
            return None
        if blend == "attention":
            return self._above(target, inversion.maps[:, changed].mean(0), target.settings.blend_threshold)
        if blend == "both":
            S = inversion.fine_priors  # (K, h, w)
            others = [k for k in range(len(S)) if k not in changed]
            own, other = S[changed].amax(0), S[others].amax(0) if others else torch.zeros(self.size)
            how = target.settings
            growth = 1.0 if target.keeps_shape else how.blend_growth
            coverage = how.attribute_coverage if target.keeps_shape else how.blend_coverage
            grown = self._above(target, inversion.maps[:, changed].mean(0), growth)
            return ((own > coverage) | (grown > 0)).float() * (other <= own)
        if region is None:
            self._refuse_placeless(target, changed, by_data=named is not None)
            region = inversion.fine_priors[changed].amax(0)
        return self._widened(target, region)

    def _running(self, target: Target, control: AttentionEdit) -> Tensor | None:
        """m, (h, w), where the changed words of source and target have looked up to now; None before the first."""
        changed = target.alignment.changed
        mine, yours = target.blended_words() or (
            [span for change in changed for span in change.source],
            [span for change in changed for span in change.target],
        )
        words = [(target.source_row, [p for span in mine for p in target.source.positions(span)])]
        words += [(target.row, [p for span in yours for p in target.tokens.positions(span)])]
        assert control.maps is not None
        maps = [control.maps[n][..., positions].mean(-1) for n, positions in words if positions]
        if control.step < target.settings.blend_start * control.num_steps or not maps:
            return None
        return self._above(target, torch.stack(maps), target.settings.blend_threshold)

    def _above(self, target: Target, maps: Tensor, threshold: float) -> Tensor:
        """Where any of some maps (n, r, c) of a target exceeds a share of its maximum: (h, w), 0 or 1."""
        affinity = self._affinity.get(target.row)
        if affinity is not None:
            maps = _in_range_of(maps, smoothed(maps, affinity.to(maps.device), target.settings.smooth))
        large = F.interpolate(maps[:, None].float(), self.size, mode="bilinear")[:, 0]
        return (large > threshold * large.amax((-2, -1), keepdim=True)).any(0).float()

    def _widened(self, target: Target, region: Tensor) -> Tensor:
        """A region and its margin: (h, w) in [0, 1], exactly 0 beyond the margin."""
        reach = max(1, round(target.settings.blend_margin * min(self.size)))
        mask = F.interpolate(region.float()[None, None], self.size, mode="area")
        wide = F.max_pool2d((mask > 0.05).float(), 2 * reach + 1, 1, reach)
        return F.avg_pool2d(wide, 3, 1, 1, count_include_pad=False)[0, 0]

    def _refuse_placeless(self, target: Target, changed: Sequence[int], by_data: bool) -> None:
        """Refuse an edit that no prior gives a place: it would change the whole image, or what it adds, nothing.

        Args:
            target: the edit.
            changed: the inversion's nouns that it changes.
            by_data: whether the data says which these are.
        """
        placeless = []
        if not by_data:
            placeless = [noun.text for noun in added_nouns(target.tokens, target.alignment)]
            nouns = load_words().nouns(target.source.prompt)
            places = [target.source.positions(noun.span) for noun in nouns]
            known = {p for positions in target.inversion.noun_positions for p in positions}
            placeless += [nouns[k].text for k in target.changed_nouns(places) if not known & set(places[k])]
        if placeless or not changed:
            what = f"{placeless[0]!r} has no prior that gives it a place" if placeless else "it changes no noun"
            raise InputError(
                f"edit.blend=prior, prompt {quoted(target.tokens.prompt)}: {what}; say by region= where the edit may "
                f"change the image, or take edit.blend=attention"
            )


def _in_range_of(maps: Tensor, other: Tensor) -> Tensor:
    """Other maps (n, r, c), each stretched to the least and the largest value of its map."""
    (low, high), (least, most) = (torch.aminmax(x.flatten(1), dim=1, keepdim=True) for x in (other, maps))
    shares = (other.flatten(1) - low) / (high - low).clamp_min(torch.finfo(other.dtype).tiny)
    return (least + shares * (most - least)).reshape(maps.shape)


def smoothed(maps: Tensor, affinity: Tensor, smooth: float) -> Tensor:
    """Maps evened out over cells that attend to each other, in closed form.

        x = argmin |x - a|² + λ Σ_ij W_ij (x_i - x_j)² / 2 = (I + λ L)⁻¹ a,  L = D - W,  W = (S + Sᵀ) / 2,

    with the self-attention S, whose rows are normalised to 1, and the diagonal D of W's row sums. The sum over the
    cells stays, and so does what is even; no value leaves the range that there was.

    Source: Soni et al., LOCATEdit, arXiv 2503.21541. There the cells have weights; those of its public code are equal
    by default, and make its λ = 0.5 a λ of 2 here.

    >>> pairs = torch.tensor([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]])
    >>> smoothed(torch.tensor([[[1.0, 0.0], [0.4, 0.4]]]), pairs, 2.0)
    tensor([[[0.6667, 0.3333],
             [0.4000, 0.4000]]])

    Args:
        maps: a, (n, r, c).
        affinity: S, (r c, r c), at least 0.
        smooth: λ, 0 or more; 0 leaves the maps as they are.

    Returns:
        x, (n, r, c).
    """
    S = affinity.float() / affinity.float().sum(-1, keepdim=True)
    W = (S + S.T) / 2
    L = W.sum(-1).diag() - W
    solved = torch.linalg.solve(torch.eye(len(L), device=L.device) + smooth * L, maps.flatten(1).float().T)
    return solved.T.reshape(maps.shape)
