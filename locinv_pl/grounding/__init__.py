"""Priors and captions from foundation models, for images that have none.

- Nouns to masks: :func:`find_priors`; a data module asks :class:`~locinv_pl.grounding.nouns.GroundedSam`.
- Points to masks: :func:`segment_points`, and :class:`PointSegmenter`, which keeps what it computes for further points.
- Captions: :func:`caption`; a data module asks :class:`~locinv_pl.grounding.captions.Blip`.
- Which models are asked, and how: :class:`FoundationModels`.
"""

from locinv_pl.grounding.captions import caption
from locinv_pl.grounding.models import FoundationModels
from locinv_pl.grounding.nouns import find_priors
from locinv_pl.grounding.segmentation import PointSegmenter, segment_points

__all__ = ["FoundationModels", "PointSegmenter", "caption", "find_priors", "segment_points"]
