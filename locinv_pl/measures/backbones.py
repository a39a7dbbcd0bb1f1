"""How good a text-to-image model of the drawn world is: images by its prompts, looked at by the judge."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from textwrap import wrap

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from locinv_pl.assets import EMBEDDED
from locinv_pl.measures.judge import Judge, Sighting
from locinv_pl.measures.metrics import attention_iou, psnr
from locinv_pl.method.policies import load_method
from locinv_pl.method.task import prepare
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.generation import generate
from locinv_pl.networks.loading import model_folder
from locinv_pl.scenes.drawing import Scene, draw_scene, with_article, world
from locinv_pl.scenes.edits import make_edits
from locinv_pl.scenes.words import PREPOSITIONS
from locinv_pl.types import EditSample, Noun


@dataclass(frozen=True)
class BackboneScores:
    """What :func:`evaluate_backbone` measures; rates in [0, 1].

    Attributes:
        vae_psnr: PSNR of the VAE's reconstructions of unseen scenes in dB, the mean over scenes.
        color_delta_e: CIEDE2000 between the mean colours of an object in a scene and in its reconstruction, the mean
            over all objects.
        color_delta_e_p90: the value of that difference which nine objects in ten keep below.
        judge_accuracy: unseen scenes of which the judge names all nouns and no other, each with its look.
        noun_accuracy: images generated for one object whose largest noun is the one asked for.
        color_accuracy: images generated for one object that have it in the colour asked for.
        two_noun_accuracy: images generated for two objects that have both nouns.
        two_color_accuracy: those that have both nouns, each in its colour.
        three_noun_accuracy: images generated for three objects that have all three nouns.
        edit_targets: target prompts of edits, of scenes with two and three objects, whose images, generated from
            nothing, show what they name and no other noun: the success that edits can have with this model.
        clip_score: CLIPScore, 0 to 100, of all generated images with their prompts, the mean.
        clip_score_scenes: the same of unseen scenes with their captions.
        ddim_iou: attention IoU of plain DDIM inversion at threshold 0.3, mean over the nouns of scenes with two
            and three objects; None for a model that isn't inverted.
        package_mib: size in MiB of everything that the package ships.
        samples_seen: how many samples the model's training has shown it; None where that isn't known.
    """

    vae_psnr: float
    color_delta_e: float
    color_delta_e_p90: float
    judge_accuracy: float
    noun_accuracy: float
    color_accuracy: float
    two_noun_accuracy: float
    two_color_accuracy: float
    three_noun_accuracy: float
    edit_targets: float
    clip_score: float
    clip_score_scenes: float
    ddim_iou: float | None
    package_mib: float
    samples_seen: int | None

    def to_dict(self) -> dict[str, float | None]:
        """The scores by name, as plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Request:
    """A prompt whose answer can be judged.

    Args:
        prompt: the prompt.
        things: the (noun, colour) of every object that it asks for.
    """

    prompt: str
    things: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Generated:
    """The images that were judged, for a sheet.

    Args:
        requests: N requests.
        images: their images, (N, 3, H, W) in [0, 1].
        seen: what the judge saw on each image.
    """

    requests: list[Request]
    images: Tensor = field(repr=False)
    seen: list[tuple[Sighting, ...]]


def evaluate_backbone(
    backbone: Backbone,
    judge: Judge,
    num_prompts: int = 200,
    num_scenes: int = 500,
    seed: int = 0,
    samples_seen: int | None = None,
    num_steps: int = 50,
    guidance_scale: float = 5.0,
) -> tuple[BackboneScores, Generated]:
    """Measure a model of the drawn world.

    Args:
        backbone: the text-to-image model.
        judge: the judge of the world that the model draws.
        num_prompts: how many prompts have one object, and as many two, three and those of edits; also how many
            scenes the VAE encodes.
        num_scenes: how many unseen scenes the judge looks at; a tenth as many give attention maps.
        seed: where scenes, prompts and noise begin.
        samples_seen: how many samples the model's training has shown it, to be passed on.
        num_steps: T of the images that it draws, and of the inversions behind its maps.
        guidance_scale: w of the images that it draws.

    Returns:
        the scores, and the generated images that they come from.
    """
    scenes = unseen_scenes(seed, num_scenes, backbone.image_size, judge.world)
    one, two, three = ([*make_requests(judge, seed, count, num_prompts)] for count in (1, 2, 3))
    targets = edit_targets(seed, num_prompts, backbone.image_size, judge.world)
    requests = one + two + three
    images = generate(
        backbone,
        [*(r.prompt for r in requests), *targets],
        guidance_scale,
        num_steps,
        seed,
        batch_size=16 if backbone.device.type == "cpu" else 200,
    )
    images, edited = images.split([len(requests), len(targets)])
    generated = Generated(requests, images, judge_all(judge, images))
    seen = iter(zip(generated.requests, generated.seen, strict=True))
    singles, pairs, triples = ([next(seen) for _ in some] for some in (one, two, three))
    crowded = [s for s in scenes if len(s.objects) > 1][: max(1, num_scenes // 10)]
    quality = vae_quality(backbone, scenes[:num_prompts])
    scores = BackboneScores(
        **quality,
        judge_accuracy=judge_accuracy(judge, scenes),
        noun_accuracy=_share(bool(saw) and saw[0].noun == r.things[0][0] for r, saw in singles),
        color_accuracy=_share(r.things[0] in _pairs(saw) for r, saw in singles),
        two_noun_accuracy=_share(_has_nouns(r, saw) for r, saw in pairs),
        two_color_accuracy=_share(set(r.things) <= _pairs(saw) for r, saw in pairs),
        three_noun_accuracy=_share(_has_nouns(r, saw) for r, saw in triples),
        edit_targets=_share(bool(agrees) for agrees in judge.agrees(edited, targets)),
        clip_score=judge.clip_score(images, [r.prompt for r in generated.requests]).mean().item(),
        clip_score_scenes=judge.clip_score(to_tensor(scenes), [s.caption for s in scenes]).mean().item(),
        ddim_iou=ddim_iou(backbone, crowded, num_steps),
        package_mib=package_mib(),
        samples_seen=samples_seen,
    )
    return scores, generated


def samples_seen(name: str) -> int | None:
    """How many samples a model's training has shown it, where the model says so."""
    card = model_folder(name) / "training.json"
    return json.loads(card.read_text())["samples_seen"] if card.is_file() else None


def edit_targets(seed: int, count: int, size: int, world_name: str = "core") -> list[str]:
    """Target prompts of edits of unseen scenes with two and three objects, as ``data=scenes`` makes them.

    Args:
        seed: where the scenes begin.
        count: how many prompts.
        size: side of the scenes' images in pixels.
        world_name: "core" or "full".
    """
    drawn = world(world_name)
    targets: list[str] = []
    while len(targets) < count:
        rng = random.Random(f"targets/{seed}/{len(targets)}")
        scene = draw_scene(rng, size, rng.choice((2, 3)), drawn)
        targets += make_edits(scene, rng, drawn).values()
    return targets[:count]


def unseen_scenes(seed: int, count: int, size: int, world_name: str = "core") -> list[Scene]:
    """Scenes that no training saw, since its seeds are other words.

    Args:
        seed: where the scenes begin.
        count: how many scenes.
        size: side of their images in pixels.
        world_name: "core" or "full".
    """
    drawn = world(world_name)
    return [draw_scene(random.Random(f"evaluate/{seed}/{n}"), size, world=drawn) for n in range(count)]


def make_requests(judge: Judge, seed: int, num_objects: int, count: int) -> Iterator[Request]:
    """Prompts such as "a red cat and a blue car on the grass", in three of ten without the background.

    Args:
        judge: knows the nouns and colours.
        seed: where the prompts begin.
        num_objects: how many objects each of them asks for.
        count: how many prompts.

    Yields:
        the prompts with what they ask for.
    """
    for n in range(count):
        rng = random.Random(f"prompt/{seed}/{num_objects}/{n}")
        nouns = rng.sample(judge.nouns, num_objects)
        things = tuple((noun, rng.choice(judge.colors)) for noun in nouns)
        prompt = " and ".join(with_article(f"{color} {noun}") for noun, color in things)
        background = rng.choice(world(judge.world).backgrounds)
        if rng.random() < 0.7:
            prompt += f" {PREPOSITIONS[background]} the {background}"
        yield Request(prompt, things)


def judge_all(judge: Judge, images: Tensor, batch_size: int = 50) -> list[tuple[Sighting, ...]]:
    """What the judge sees on many images.

    Args:
        judge: the judge.
        images: (N, 3, H, W) in [0, 1].
        batch_size: how many it looks at together.

    Returns:
        what :meth:`~locinv_pl.measures.judge.Judge.see` answers for each image.
    """
    return [seen for batch in images.split(batch_size) for seen in judge.see(batch)]


def judge_accuracy(judge: Judge, scenes: Sequence[Scene]) -> float:
    """Share of scenes, 0 to 1, of which the judge sees what :func:`is_right` asks for."""
    seen = judge_all(judge, to_tensor(scenes))
    return _share(is_right(scene, saw) for scene, saw in zip(scenes, seen, strict=True))


def is_right(scene: Scene, seen: Sequence[Sighting]) -> bool:
    """Whether all nouns of a scene were seen and no other, each with the look of one that was drawn."""
    drawn = {(thing.noun, thing.look) for thing in scene.objects}
    return {noun for noun, _ in drawn} == {s.noun for s in seen} and _pairs(seen) <= drawn


def vae_quality(backbone: Backbone, scenes: Sequence[Scene], batch_size: int = 16) -> dict[str, float]:
    """What encoding and decoding costs.

    Args:
        backbone: the model with the VAE.
        scenes: the scenes that it encodes.
        batch_size: how many it encodes together.

    Returns:
        ``vae_psnr``, ``color_delta_e`` and ``color_delta_e_p90`` of :class:`BackboneScores`.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    values, sources, copies = [], [], []
    for start in range(0, len(scenes), batch_size):
        some = scenes[start : start + batch_size]
        images = to_tensor(some)
        back = backbone.decode(backbone.encode(images)).cpu()
        values += [psnr(b, p).item() for b, p in zip(back, images, strict=True)]
        for scene, image, copy in zip(some, images, back, strict=True):
            masks = [torch.from_numpy(thing.mask) for thing in scene.objects]
            sources += [image[:, mask].mean(1).numpy() for mask in masks]
            copies += [copy[:, mask].mean(1).numpy() for mask in masks]
    apart = deltaE_ciede2000(rgb2lab(np.stack(sources)), rgb2lab(np.stack(copies)))
    return {
        "vae_psnr": float(np.mean(values)),
        "color_delta_e": float(apart.mean()),
        "color_delta_e_p90": float(np.quantile(apart, 0.9)),
    }


def ddim_iou(backbone: Backbone, scenes: Sequence[Scene], num_steps: int = 50, batch_size: int = 10) -> float:
    """Attention IoU of plain DDIM inversion at threshold 0.3, in [0, 1], the mean over all nouns.

    Args:
        backbone: the model that inverts.
        scenes: the scenes that it inverts, with the exact masks of their objects.
        num_steps: T.
        batch_size: how many it inverts together.
    """
    method, values = load_method("ddim"), []
    for start in range(0, len(scenes), batch_size):
        samples = [to_sample(scene, str(start + n)) for n, scene in enumerate(scenes[start : start + batch_size])]
        task = prepare(backbone, samples, method, num_steps, resolution=backbone.latent_size // 2)
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
    files = (p for p in EMBEDDED.parents[1].rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return sum(p.stat().st_size for p in files) / 2**20


def to_tensor(scenes: Sequence[Scene]) -> Tensor:
    """The scenes' images, (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(s.image) for s in scenes])).permute(0, 3, 1, 2).float() / 255


def draw_sheet(generated: Generated, columns: int = 10, rows: int = 6, gap: int = 42) -> Image.Image:
    """Draw images for one object above those for two and for three, each with its prompt and what the judge saw.

    Args:
        generated: the images; the first of each number of objects are drawn.
        columns: images side by side.
        rows: rows of images, a third of them for each number of objects.
        gap: pixels below an image, for its texts.
    """
    each = len(generated.requests) // 3
    shown = [n * each + k for n in range(3) for k in range(min(columns * rows // 3, each))]
    side = generated.images.shape[-1]
    width = max(side, 128)
    page = Image.new("RGB", (columns * width, -(-len(shown) // columns) * (side + gap)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(9)
    for place, n in enumerate(shown):
        left, top = place % columns * width, place // columns * (side + gap)
        pixels = (generated.images[n].movedim(0, -1).numpy() * 255).round().astype(np.uint8)
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


def _has_nouns(request: Request, seen: Sequence[Sighting]) -> bool:
    return {noun for noun, _ in request.things} <= {s.noun for s in seen}


def _share(outcomes: Iterator[bool]) -> float:
    return float(np.mean(list(outcomes)))
