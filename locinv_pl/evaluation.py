"""How good a text-to-image model of the drawn world is: pictures by its prompts, looked at by the judge."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import wrap

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from locinv_pl.backbone import Backbone
from locinv_pl.generation import generate
from locinv_pl.judge import Judge, Sighting
from locinv_pl.methods import load_method
from locinv_pl.metrics import attention_iou, psnr
from locinv_pl.scenes.drawing import Scene, draw_scene, with_article, world
from locinv_pl.scenes.words import PREPOSITIONS
from locinv_pl.task import prepare
from locinv_pl.types import EditSample, Noun

GUIDANCE_SCALE, NUM_STEPS = 5.0, 50


@dataclass(frozen=True)
class BackboneScores:
    """What :func:`evaluate_backbone` measures; rates in [0, 1].

    Attributes:
        vae_psnr: of the VAE's reconstructions of unseen scenes, mean, dB.
        judge_accuracy: unseen scenes of which the judge names all nouns and no other, each with its look.
        noun_accuracy, color_accuracy: pictures generated for one object whose largest noun is the one asked
            for, and that have it in the colour asked for.
        two_noun_accuracy: pictures generated for two objects that have both nouns.
        two_color_accuracy: those that have both nouns, each in its colour.
        clip_score: mean over all generated pictures with their prompts; ``clip_score_scenes`` over unseen scenes
            with their captions.
        ddim_iou: attention IoU of plain DDIM inversion at threshold 0.3, mean over the nouns of scenes with two
            and three objects.
        package_mib: size of everything that the package ships.
    """

    vae_psnr: float
    judge_accuracy: float
    noun_accuracy: float
    color_accuracy: float
    two_noun_accuracy: float
    two_color_accuracy: float
    clip_score: float
    clip_score_scenes: float
    ddim_iou: float
    package_mib: float

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Request:
    """A prompt and the (noun, colour) of every object that it asks for."""

    prompt: str
    things: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Generated:
    """The pictures that were judged, for a sheet: (N, 3, H, W), and what the judge saw."""

    requests: list[Request]
    pictures: Tensor = field(repr=False)
    seen: list[tuple[Sighting, ...]]


def evaluate_backbone(
    backbone: Backbone, judge: Judge, num_prompts: int = 200, num_scenes: int = 500, seed: int = 0
) -> tuple[BackboneScores, Generated]:
    """Measure a model of the drawn world.

    Args:
        backbone: the model.
        judge: of the same world.
        num_prompts: prompts with one object, and as many with two; also the VAE's scenes.
        num_scenes: unseen scenes for the judge; a tenth as many for the attention maps.
        seed: of scenes, prompts and noise.
    """
    scenes = unseen_scenes(seed, num_scenes, backbone.image_size, judge.world)
    one, two = ([*make_requests(judge, seed, count, num_prompts)] for count in (1, 2))
    pictures = generate(backbone, [r.prompt for r in one + two], GUIDANCE_SCALE, NUM_STEPS, seed)
    generated = Generated(one + two, pictures, judge_all(judge, pictures))
    first = [(r.things[0], s) for r, s in zip(one, generated.seen, strict=False)]
    pairs = list(zip(two, generated.seen[len(one) :], strict=True))
    crowded = [s for s in scenes if len(s.objects) > 1][: max(1, num_scenes // 10)]
    scores = BackboneScores(
        vae_psnr=vae_psnr(backbone, scenes[:num_prompts]),
        judge_accuracy=judge_accuracy(judge, scenes),
        noun_accuracy=_share(bool(seen) and seen[0].noun == noun for (noun, _), seen in first),
        color_accuracy=_share((noun, color) in _pairs(seen) for (noun, color), seen in first),
        two_noun_accuracy=_share({n for n, _ in r.things} <= {s.noun for s in seen} for r, seen in pairs),
        two_color_accuracy=_share(set(r.things) <= _pairs(seen) for r, seen in pairs),
        clip_score=judge.clip_score(pictures, [r.prompt for r in generated.requests]).mean().item(),
        clip_score_scenes=judge.clip_score(to_tensor(scenes), [s.caption for s in scenes]).mean().item(),
        ddim_iou=ddim_iou(backbone, crowded),
        package_mib=package_mib(),
    )
    return scores, generated


def unseen_scenes(seed: int, count: int, size: int, world_name: str = "core") -> list[Scene]:
    """Scenes that no training saw: its seeds are other words."""
    drawn = world(world_name)
    return [draw_scene(random.Random(f"evaluate/{seed}/{n}"), size, world=drawn) for n in range(count)]


def make_requests(judge: Judge, seed: int, num_objects: int, count: int) -> Iterator[Request]:
    """Prompts such as "a red cat and a blue car on the grass", the background left out sometimes."""
    for n in range(count):
        rng = random.Random(f"prompt/{seed}/{num_objects}/{n}")
        nouns = rng.sample(judge.nouns, num_objects)
        things = tuple((noun, rng.choice(judge.colors)) for noun in nouns)
        prompt = " and ".join(with_article(f"{color} {noun}") for noun, color in things)
        background = rng.choice(world(judge.world).backgrounds)
        if rng.random() < 0.7:
            prompt += f" {PREPOSITIONS[background]} the {background}"
        yield Request(prompt, things)


def judge_all(judge: Judge, pictures: Tensor, batch_size: int = 50) -> list[tuple[Sighting, ...]]:
    """What the judge sees on many pictures (N, 3, H, W)."""
    return [seen for batch in pictures.split(batch_size) for seen in judge.see(batch)]


def judge_accuracy(judge: Judge, scenes: Sequence[Scene]) -> float:
    """Share of scenes of which the judge names all nouns and no other, each with the look of one that was drawn."""
    seen = judge_all(judge, to_tensor(scenes))
    return _share(is_right(scene, saw) for scene, saw in zip(scenes, seen, strict=True))


def is_right(scene: Scene, seen: Sequence[Sighting]) -> bool:
    """Whether this was drawn."""
    drawn = {(thing.noun, thing.look) for thing in scene.objects}
    return {noun for noun, _ in drawn} == {s.noun for s in seen} and _pairs(seen) <= drawn


def vae_psnr(backbone: Backbone, scenes: Sequence[Scene], batch_size: int = 16) -> float:
    """Mean PSNR of encoding and decoding, dB."""
    values = []
    for pictures in to_tensor(scenes).split(batch_size):
        back = backbone.decode(backbone.encode(pictures)).cpu()
        values += [psnr(b, p).item() for b, p in zip(back, pictures, strict=True)]
    return float(np.mean(values))


def ddim_iou(backbone: Backbone, scenes: Sequence[Scene], batch_size: int = 10) -> float:
    """Attention IoU of plain DDIM inversion, mean over all nouns."""
    method, values = load_method("ddim"), []
    for start in range(0, len(scenes), batch_size):
        samples = [to_sample(scene, str(start + n)) for n, scene in enumerate(scenes[start : start + batch_size])]
        task = prepare(backbone, samples, method, NUM_STEPS, resolution=backbone.unet.config.sample_size // 2)
        for b, sample in enumerate(samples):
            maps = task.initial_maps[:, b, : len(sample.nouns)].mean(0).cpu()
            values += attention_iou(maps, torch.stack([noun.mask for noun in sample.nouns])).tolist()
    return float(np.mean(values))


def to_sample(scene: Scene, id: str) -> EditSample:
    """A scene with its exact masks for priors, a noun for each word that names objects."""
    masks: dict[tuple[int, int], np.ndarray] = {}
    for thing, said in zip(scene.objects, scene.said, strict=True):
        masks[said.noun] = masks.get(said.noun, False) | thing.mask
    nouns = [
        Noun(scene.caption[slice(*span)], span, torch.from_numpy(mask).float(), torch.from_numpy(mask))
        for span, mask in sorted(masks.items())
    ]
    return EditSample(id, to_tensor([scene])[0], scene.caption, tuple(nouns))


def package_mib() -> float:
    """Size of the package's files in MiB."""
    files = (p for p in Path(__file__).parent.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return sum(p.stat().st_size for p in files) / 2**20


def to_tensor(scenes: Sequence[Scene]) -> Tensor:
    """The scenes' pictures, (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(s.image) for s in scenes])).permute(0, 3, 1, 2).float() / 255


def draw_sheet(generated: Generated, columns: int = 10, rows: int = 4, gap: int = 42) -> Image.Image:
    """Pictures for one object above pictures for two, each with its prompt and what the judge saw."""
    half = len(generated.requests) // 2
    first = columns * rows // 2
    shown = [*range(min(first, half)), *range(half, half + min(first, half))]
    side = generated.pictures.shape[-1]
    width = max(side, 128)
    page = Image.new("RGB", (columns * width, -(-len(shown) // columns) * (side + gap)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(9)
    for place, n in enumerate(shown):
        left, top = place % columns * width, place // columns * (side + gap)
        pixels = (generated.pictures[n].movedim(0, -1).numpy() * 255).round().astype(np.uint8)
        page.paste(Image.fromarray(pixels), (left, top))
        request, seen = generated.requests[n], generated.seen[n]
        right = set(request.things) <= _pairs(seen)
        words = ", ".join(f"{s.color} {s.noun}" for s in seen) or "nothing"
        draw.multiline_text(
            (left + 2, top + side + 1), "\n".join(wrap(request.prompt, 26)[:2]), "black", font, spacing=2
        )
        draw.text((left + 2, top + side + 27), words[:26], "darkgreen" if right else "firebrick", font)
    return page


def _pairs(seen: Sequence[Sighting]) -> set[tuple[str, str]]:
    return {(s.noun, s.color) for s in seen}


def _share(outcomes: Iterator[bool]) -> float:
    return float(np.mean(list(outcomes)))
