"""Several strengths of an edit, made as one batch, of which the best is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from locinv_pl.editing.prompt_to_prompt import iter_edit
from locinv_pl.editing.rows import Rows
from locinv_pl.editing.settings import EditSettings, strengths
from locinv_pl.errors import tell
from locinv_pl.measures.candidates import assess
from locinv_pl.measures.edits import JUDGE, Measures, MeasureSettings
from locinv_pl.method.progress import last_result, nothing
from locinv_pl.networks.backbone import Backbone
from locinv_pl.types import Edit, Inversion


@dataclass(frozen=True, eq=False)
class Candidate:
    """One strength of an edit.

    Args:
        strength: as :func:`~locinv_pl.editing.settings.strengths` counts it; 1 is the edit as its settings say.
        image: what it made, (3, H, W) in [0, 1].
        scores: its score and what is behind it by name, as :func:`~locinv_pl.measures.candidates.assess` answers.
        is_kept: whether it is the best one of its edit.
    """

    strength: float
    image: Tensor
    scores: Mapping[str, float | None]
    is_kept: bool


def edit_best(
    backbone: Backbone,
    inversion: Inversion,
    edits: Sequence[Edit],
    settings: EditSettings,
    region: Tensor | None,
    measures: Callable[[], Measures],
    after_each: Callable[[], None] = nothing,
) -> tuple[Tensor, list[list[Candidate]], Tensor]:
    """Edit an inverted image; of every edit's N strengths the one with the highest score is kept.

    With ``settings.candidates`` = 1 all edits run as one batch, else the N strengths of each edit do.

    Args:
        backbone: the one that made the inversion.
        inversion: the image's inversion.
        edits: n of them.
        settings: how they are made; ``candidates`` is N.
        region: where they may change the image, (H, W), as :func:`~locinv_pl.editing.prompt_to_prompt.edit` takes it.
        measures: gives what compares the strengths; called for N > 1 alone.
        after_each: called after every timestep.

    Returns:
        the reconstruction and the edits that are kept, (1 + n, 3, H, W) in [0, 1], on the CPU; for each edit its N
        candidates, weakest first, or nothing for N = 1; and the masks of the kept ones, (n, h, w) in [0, 1].

    Raises:
        InputError: as :func:`~locinv_pl.editing.prompt_to_prompt.edit` does.
    """
    if settings.candidates == 1 or not edits:
        made = last_result(iter_edit(backbone, inversion, edits, settings, region), after_each)
        return torch.cat([made.reconstruction[None], made.images]), [], made.masks
    networks = measures()  # before anything is made: they may be missing
    values, ways = zip(*strengths(settings), strict=True)
    shown: list[Tensor] = []
    candidates, masks = [], []
    for each in edits:
        made = last_result(iter_edit(backbone, inversion, [each] * len(ways), ways, region), after_each)
        place = _place(backbone, inversion, each, settings, region)
        rows = assess(networks, made.reconstruction, made.images, each.prompt, place)
        scores = [row["score"] or 0.0 for row in rows]
        best = scores.index(max(scores))
        shown += [*([] if shown else [made.reconstruction]), made.images[best]]
        masks.append(made.masks[best])
        each_way = zip(values, made.images, rows, strict=True)
        candidates.append([Candidate(s, image, row, n == best) for n, (s, image, row) in enumerate(each_way)])
    return torch.stack(shown), candidates, torch.stack(masks)


def load_measures(settings: MeasureSettings, backbone: Backbone) -> Measures:
    """What compares candidates, on the backbone's device; that the judge may be the wrong one for them is told.

    Args:
        settings: which networks look at the images.
        backbone: the one that makes them; only the embedded one makes drawn scenes for certain.

    Raises:
        InputError: a network can't be loaded.
    """
    if backbone.name != "embedded" and JUDGE in (settings.clip, settings.vit):
        tell(
            "edit.candidates: compared by the embedded judge, which knows drawn scenes only; for photographs give "
            "measures.clip=openai/clip-vit-large-patch14 measures.vit=facebook/dino-vitb8"
        )
    return Measures(settings, backbone.device)


def _place(
    backbone: Backbone, inversion: Inversion, edit: Edit, settings: EditSettings, region: Tensor | None
) -> Tensor | None:
    """Where an edit is to change the image, (H, W), bool: its region, else the priors of the nouns that it changes."""
    if region is not None:
        return region > 0
    target = Rows.of(backbone, [inversion], [[edit]], settings).targets[0]
    changed = target.changed_nouns(inversion.noun_positions)
    if not changed:
        return None
    cells = inversion.fine_priors[changed].amax(0) > 0
    return F.interpolate(cells[None, None].float(), scale_factor=backbone.downsampling)[0, 0] > 0
