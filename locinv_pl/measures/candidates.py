"""Which of several images made for one edit is the best, told without ground truth."""

from __future__ import annotations

from torch import Tensor

from locinv_pl.measures.edits import Measures

BACKGROUND, STRUCTURE = 24.0, 3.0  # the weights b and s, tuned on drawn scenes: docs/editing.md


def assess(
    measures: Measures, before: Tensor, images: Tensor, target_prompt: str, place: Tensor | None
) -> list[dict[str, float | None]]:
    """Score the images of one edit, so that the best of them can be kept.

        score = j + c / c₀ - b √m - s d

    j is 1 where the embedded judge sees what the target prompt names, and 0 where it doesn't, can't tell, or isn't
    ``measures.clip``; c the CLIP score with the target prompt, and c₀ that of the image before the edit, which makes
    CLIPs of different scales comparable; √m the root mean square difference outside the place where the edit is to
    change the image, in [0, 1]; d the distance of structure, in [0, 4]. With b = 24 and s = 3 an image has to fit
    the prompt better by 24 per cent for 0.01 more in √m, and by 12 for 0.04 more in d.

    Args:
        measures: the networks that look at the images.
        before: the reconstruction, from which the edit departs, (3, H, W) in [0, 1].
        images: what was made, (N, 3, H, W) in [0, 1].
        target_prompt: the prompt that describes what the image is to become.
        place: where the edit is to change the image, (H, W), bool. Where it isn't known, and where it is the whole
            image, the term of the background is left out.

    Returns:
        for every image its "score" and the measures behind it: "success", j, or None; "clip_target", c;
        "background_mse", m, or None; and "structure_distance", d.
    """
    unchanged = max(measures.clip.clip_score(before[None], [target_prompt]).item(), 1.0)
    rows: list[dict[str, float | None]] = []
    for image in images:
        values = measures.score(before, image, target_prompt, place)
        terms = {key: values[key] for key in ("success", "clip_target", "background_mse", "structure_distance")}
        j, c, m, d = terms.values()
        assert c is not None and d is not None
        score = (j or 0.0) + c / unchanged - BACKGROUND * (m or 0.0) ** 0.5 - STRUCTURE * d
        rows.append({"score": score, **terms})
    return rows
