"""The judge: what it makes of its networks' answers, and how often it is right."""

import random
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from locinv_pl.measures.backbones import (
    BackboneScores,
    Generated,
    Request,
    draw_sheet,
    judge_accuracy,
    judge_all,
    make_requests,
    to_tensor,
    unseen_scenes,
)
from locinv_pl.measures.judge import Judge, Recognizer, Sighting, load_judge
from locinv_pl.scenes.drawing import BACKGROUNDS, COLORS, NOUNS, draw_scene
from locinv_pl.scenes.faults import FAULTS, with_faults
from locinv_pl.scenes.scene import Scene
from locinv_pl.scenes.words import PLURALS

WORDS = {"nouns": ("cat", "dog"), "colors": ("red", "blue", "white")}


class Answers(nn.Module):
    """Stands in for the recogniser's network: gives the logits that it was given."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits, self.config = logits, SimpleNamespace(sample_size=logits.shape[-1])

    def forward(self, cells: torch.Tensor, t: int) -> SimpleNamespace:
        assert cells.shape == (len(self.logits), 48, *self.logits.shape[-2:])
        return SimpleNamespace(sample=self.logits)


class NoClip(nn.Module):
    device = torch.device("cpu")


def judge_of(logits: torch.Tensor, **settings) -> Judge:
    return Judge(Recognizer(Answers(logits), num_nouns=2), NoClip(), None, **WORDS, **settings)


def test_a_noun_needs_an_area_and_has_the_colour_of_its_cells():
    nouns = torch.zeros(1, 8, 8, dtype=torch.long)
    nouns[0, :2, :3] = 2  # six cells of dog
    nouns[0, 5, 5] = 1  # one cell of cat
    colors = torch.zeros(1, 8, 8, dtype=torch.long)
    colors[0, :2, :3] = 1  # blue; all else red
    colors[0, 0, 0] = 2
    logits = torch.cat([F.one_hot(nouns, 3), F.one_hot(colors, 3)], -1).movedim(-1, 1) * 10.0
    images = torch.rand(1, 3, 32, 32)
    assert judge_of(logits, min_area=0.05).see(images) == [(Sighting("dog", "blue", 6 / 64),)]
    assert judge_of(logits, min_area=0.01).see(images) == [
        (Sighting("dog", "blue", 6 / 64), Sighting("cat", "red", 1 / 64))
    ]


class TestAgrees:
    """A judge who has seen a blue dog and a red cat."""

    @pytest.fixture
    def agrees(self, monkeypatch: pytest.MonkeyPatch):
        judge = judge_of(torch.zeros(1, 6, 8, 8))
        seen = (Sighting("dog", "blue", 0.4), Sighting("cat", "red", 0.1))
        monkeypatch.setattr(judge, "see", lambda images: [seen] * len(images))
        return lambda *prompts: judge.agrees(torch.zeros(len(prompts), 3, 32, 32), prompts)

    @pytest.mark.parametrize(
        "prompt, expected",
        [
            ("a dog", False),  # a cat is there, too
            ("A Blue DOG, a red cat.", True),
            ("a blue dog and a cat on the grass", True),
            ("two red cats and dogs", True),
            ("two blue cats", False),
            ("a red dog and a red cat", False),
            ("a big blue dog and a cat", True),
            ("a blue big dog and a cat", True),  # the colour doesn't stand before its noun
            ("a green dog and a cat", True),  # not one of the judge's colours
            ("a red cat, another cat and a dog", True),
            ("a red cat and a blue cat", None),
            ("a bus on the road", None),
            ("a hot catalogue", None),
            ("", None),
        ],
    )
    def test_prompts(self, agrees, prompt: str, expected: bool | None) -> None:
        assert agrees(prompt) == [expected]

    def test_every_image_by_its_own_prompt(self, agrees) -> None:
        assert agrees("a dog and a cat", "a blue cat", "a house") == [True, False, None]

    def test_a_noun_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        judge = judge_of(torch.zeros(1, 6, 8, 8))
        monkeypatch.setattr(judge, "see", lambda images: [(Sighting("dog", "blue", 0.4),), ()])
        assert judge.agrees(torch.zeros(2, 3, 32, 32), ["a dog and a cat", "a dog"]) == [False, False]


def test_the_plurals_of_the_judge_s_nouns(judge) -> None:
    assert judge._forms == {form: noun for noun in NOUNS for form in (noun, PLURALS[noun])}


def test_images_of_another_size_are_seen_too():
    logits = torch.zeros(1, 6, 8, 8)
    logits[:, 0] = 1
    assert judge_of(logits).see(torch.rand(1, 3, 96, 96)) == [()]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


def test_the_judge_knows_the_drawn_world(judge):
    assert judge.nouns == tuple(NOUNS) and judge.colors == tuple(COLORS)


@pytest.mark.slow
def test_the_judge_is_right_on_scenes_it_never_saw(judge):
    assert judge_accuracy(judge, unseen_scenes(seed=1, count=100, size=128)) >= 0.94


@pytest.mark.slow
def test_the_judge_sees_what_was_changed(judge):
    """One object's red paint as the world's blue, its white and black as they were."""
    red, blue = (torch.tensor(COLORS[name]) / 255 for name in ("red", "blue"))
    scenes = [s for s in unseen_scenes(2, 240, 128) if len(s.objects) > 1 and s.objects[0].color == "red"]
    images = to_tensor(scenes)
    for image, scene in zip(images, scenes, strict=True):
        inside = torch.from_numpy(scene.objects[0].mask)
        pixels = image[:, inside]
        redness = (pixels[0] - pixels[2]) / (red[0] - red[2])
        image[:, inside] = (pixels + redness * (blue - red)[:, None]).clamp(0, 1)
    right = []
    for scene, seen in zip(scenes, judge_all(judge, images), strict=True):
        changed, *others = scene.objects
        wanted = {(changed.noun, "blue")} | {(thing.noun, thing.color) for thing in others}
        right.append({(s.noun, s.color) for s in seen} == wanted)
    assert len(right) >= 4 and sum(right) >= 0.8 * len(right)


FAULTLESS = {"half": 0.85, "gone": 0.97, "smudge": 0.93}  # seen on other seeds, 200 scenes: 0.88, 1.00, 0.96


@cache
def hundred_scenes() -> list[tuple[Scene, object]]:
    """Scenes of two objects, each with what goes on drawing from it."""
    rngs = [random.Random(f"calibration/{n}") for n in range(100)]
    return [(draw_scene(rng, 128, 2), rng.getstate()) for rng in rngs]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_half_there_counts_and_a_smudge_does_not(judge, fault):
    scenes, wanted = [], []
    for scene, state in hundred_scenes():
        rng = random.Random()
        rng.setstate(state)
        scenes.append(with_faults(scene, {0: fault}, rng))
        wanted.append({(thing.noun, thing.color) for thing in scene.objects[fault != "half" :]})
    seen = [{(s.noun, s.color) for s in saw} for saw in judge_all(judge, to_tensor(scenes))]
    assert sum(saw == right for saw, right in zip(seen, wanted, strict=True)) >= 100 * FAULTLESS[fault] - 5


@pytest.mark.slow
def test_captions_fit_their_own_scenes_best(judge):
    scenes = unseen_scenes(3, 24, 128)
    images = to_tensor(scenes)
    captions = [s.caption for s in scenes]
    own = judge.clip_score(images, captions)
    others = judge.clip_score(images, captions[1:] + captions[:1])
    assert (own > others).float().mean() > 0.9 and own.max() <= 100


def test_requests_say_what_they_ask_for(judge):
    requests = list(make_requests(judge, 0, 2, 20))
    assert requests == list(make_requests(judge, 0, 2, 20)) != list(make_requests(judge, 1, 2, 20))
    for request in requests:
        assert len({noun for noun, _ in request.things}) == 2
        assert all(f"{color} {noun}" in request.prompt for noun, color in request.things)
    assert any(f"the {name}" in request.prompt for name in BACKGROUNDS for request in requests)


def test_unseen_scenes_depend_on_their_seed_and_number():
    some, more = unseen_scenes(0, 2, 32), unseen_scenes(0, 4, 32)
    assert [s.image.tobytes() for s in some] == [s.image.tobytes() for s in more[:2]]
    assert unseen_scenes(1, 1, 32)[0].image.tobytes() != some[0].image.tobytes()


def test_sheet_has_a_place_for_every_image():
    requests = [Request("a red cat", (("cat", "red"),))] * 4
    generated = Generated(requests, torch.rand(4, 3, 128, 128), [(Sighting("cat", "red", 0.2),)] * 4)
    sheet = draw_sheet(generated, columns=2, rows=2)
    assert sheet.size == (256, 2 * 170)
    assert {field for field in BackboneScores.__dataclass_fields__} >= {"vae_psnr", "package_mib"}
