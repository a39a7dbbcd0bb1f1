"""Which of several images made for one edit is the best, told without ground truth."""

from __future__ import annotations

from torch import Tensor

from locinv_pl.measures.edits import Measures

BACKGROUND, STRUCTURE = 2.0, 2.0  # the weights b and s, tuned on drawn scenes: docs/editing.md


def assess(
    measures: Measures, before: Tensor, images: Tensor, target_prompt: str, place: Tensor | None
) -> list[dict[str, float | None]]:
    """Score the images of one edit, so that the best of them can be kept.

        score = c / c₀ - b √m - s d

    with the image's CLIP score c with the target prompt, and c₀ that of the image before the edit, which makes CLIPs
    of different scales comparable; the root mean square difference √m of what lies outside the place where the edit is
    to change the image, in [0, 1]; and the distance d of structure, in [0, 4]. b = s = 2: to fit the prompt better by
    2 per cent weighs as much as 0.01 in √m, and as 0.01 in d. Whether the judge sees what the prompt names takes no
    part, so that ``success`` stays a measure of its own.

    Args:
        measures: the networks that look at the images.
        before: the reconstruction, from which the edit departs, (3, H, W) in [0, 1].
        images: what was made, (N, 3, H, W) in [0, 1].
        target_prompt: the prompt that describes what the image is to become.
        place: where the edit is to change the image, (H, W), bool. Where it isn't known, and where it is the whole
            image, the term of the background is left out.

    Returns:
        for every image its "score" and the measures behind it: "clip_target", c; "background_mse", m, or None; and
        "structure_distance", d.
    """
    unchanged = max(measures.clip.clip_score(before[None], [target_prompt]).item(), 1.0)
    rows: list[dict[str, float | None]] = []
    for image in images:
        values = measures.score(before, image, target_prompt, place)
        c, m, d = (values[key] for key in ("clip_target", "background_mse", "structure_distance"))
        assert c is not None and d is not None
        score = c / unchanged - BACKGROUND * (m or 0.0) ** 0.5 - STRUCTURE * d
        rows.append({"score": score, "clip_target": c, "background_mse": m, "structure_distance": d})
    return rows
