"""Scenes with faults: what is gone from the image, what its masks say, and what stays."""

import random

import numpy as np
import pytest

from locinv_pl.scenes.drawing import draw_scene
from locinv_pl.scenes.faults import FAULTS, with_faults


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(random.Random(f"fault/{n}"), 96, 2) for n in range(8)]


def pixels(scene) -> np.ndarray:
    return np.asarray(scene.image).astype(float)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_other_object_stays_and_chance_is_the_seed_s(scenes, fault):
    for scene in scenes:
        faulty = with_faults(scene, {0: fault}, random.Random(1))
        assert faulty.caption == scene.caption and faulty.objects[1] is scene.objects[1]
        inner = scene.objects[1].mask
        if fault != "smudge":  # a blot may lie across its neighbour
            changed = np.abs(pixels(faulty) - pixels(scene)).max(-1)[inner]
            assert (changed > 2).mean() < 0.1
        assert np.array_equal(pixels(faulty), pixels(with_faults(scene, {0: fault}, random.Random(1))))


def test_half_an_object_is_half_its_mask_and_the_rest_is_as_it_was(scenes):
    for scene in scenes:
        faulty, mask = with_faults(scene, {0: "half"}, random.Random(2)), scene.objects[0].mask
        left = faulty.objects[0].mask
        assert (left & ~mask).sum() == 0 and left.sum() / mask.sum() == pytest.approx(0.5, abs=0.05)
        same = np.abs(pixels(faulty) - pixels(scene)).max(-1)[left] < 2
        assert same.mean() > 0.5  # all but what lies at the soft cut


@pytest.mark.parametrize("fault", ["gone", "smudge"])
def test_what_is_gone_or_smudged_has_no_mask(scenes, fault):
    for scene in scenes:
        assert not with_faults(scene, {0: fault}, random.Random(3)).objects[0].mask.any()


def test_where_an_object_was_is_background(scenes):
    """The colours there are those around it; a blot's are the object's own."""
    for scene in scenes:
        mask = scene.objects[0].mask
        around = pixels(scene)[~(mask | scene.objects[1].mask)].mean(0)
        gone = pixels(with_faults(scene, {0: "gone"}, random.Random(4)))[mask].mean(0)
        assert np.abs(gone - around).max() < 30
