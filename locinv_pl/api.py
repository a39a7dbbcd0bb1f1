"""The package from a notebook: one call from an image to its inversion, one from a run's inversion to its edits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TypeGuard, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from locinv_pl.drawing import to_array
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError, check_choice
from locinv_pl.io.files import read_json
from locinv_pl.io.frames import Fit, Frame, frame_mask, inside, to_frame
from locinv_pl.io.images import AnyImage, Size, as_image, as_mask
from locinv_pl.io.reading import expanded
from locinv_pl.measures.edits import MeasureSettings
from locinv_pl.method.policies import Method, load_method
from locinv_pl.method.progress import Progress, last_result
from locinv_pl.method.task import Task, iter_prepare
from locinv_pl.method.timestep import collect, invert_step
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import load_as
from locinv_pl.priors import Box, box_mask, check_box
from locinv_pl.run.contents import InversionScores
from locinv_pl.run.edit_files import list_edits
from locinv_pl.run.edits import make_edits
from locinv_pl.run.store import RunFolder
from locinv_pl.types import Adjective, EditSample, Inversion, Noun, StepRecord, overlap
from locinv_pl.words import find_word, load_words, tidy

Prior = AnyImage | Sequence[float]


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """An image as a model sees it.

    Args:
        image: (3, H, W) in [0, 1].
        frame: which part of its file that is; :meth:`~locinv_pl.io.frames.Frame.plane` and ``box`` take masks and
            boxes of the file along.
    """

    image: Tensor
    frame: Frame


def open_image(image: AnyImage, backbone: Backbone | int, fit: Fit = "crop") -> OpenedImage:
    """Open an image and cut it to the size that a model was trained on, as ``data=folder`` does.

    Args:
        image: a file, a PIL image, a (3, H, W) tensor or an (H, W, 3) array; upright by its EXIF data, in sRGB by its
            profile, transparent pixels white.
        backbone: gives the side, or that side in pixels.
        fit: "crop" shows the centred square, "pad" the whole image between black bars, "native" keeps its shape.

    Raises:
        InputError: it can't be read, or its numbers are on no known scale.

    >>> import torch
    >>> opened = open_image(torch.rand(3, 60, 80), 32)
    >>> tuple(opened.image.shape), opened.frame.window
    ((3, 32, 32), (10, 0, 60, 60))
    """
    side = backbone if isinstance(backbone, int) else backbone.image_size
    check_choice("fit", fit, Fit)
    pixels = Image.fromarray(to_array(as_image(image)))
    frame = Frame.fitting(pixels.width, pixels.height, side, fit)
    return OpenedImage(as_image(frame.apply(pixels)), frame)


def nouns(prompt: str, words: str = "dictionary") -> tuple[str, ...]:
    """The nouns of a prompt in its order, each once; a compound is one.

    Args:
        prompt: any prompt.
        words: the word finder, as :func:`~locinv_pl.words.load_words` takes it.

    >>> nouns("a red cat and a wine glass on a table")
    ('cat', 'wine glass', 'table')
    """
    return tuple(dict.fromkeys(noun.text for noun in load_words(words).nouns(tidy(prompt))))


def adjectives(prompt: str, words: str = "dictionary") -> tuple[tuple[str, str], ...]:
    """The pairs (adjective, noun) of a prompt, in the order of the adjectives.

    Args:
        prompt: any prompt.
        words: the word finder, as :func:`~locinv_pl.words.load_words` takes it.

    >>> adjectives("a red cat and a big wine glass")
    (('red', 'cat'), ('big', 'wine glass'))
    """
    return tuple((adjective.text, noun.text) for adjective, noun in load_words(words).pairs(tidy(prompt)))


def invert(
    backbone: Backbone,
    image: AnyImage,
    prompt: str,
    priors: Mapping[str, Prior | list[Prior]] | None = None,
    *,
    nouns: Sequence[str] | None = None,
    adjectives: Sequence[tuple[str, str]] | None = None,
    method: Method | str = "locinv",
    num_steps: int | None = None,
    resolution: int = 16,
) -> Inversion:
    """Invert one image.

    Args:
        backbone: from :func:`~locinv_pl.networks.loading.load_backbone`.
        image: a file, a PIL image, a (3, H, W) tensor or an (H, W, 3) array; floats are in [0, 1], integers are
            scaled by their type. Its sides must be multiples of the backbone's latent grid; :func:`open_image` cuts
            any image to the model's size.
        prompt: the source prompt P, in the words that the text encoder knows.
        priors: for every noun its mask, (H, W), as a file, a PIL image, an array or a tensor, or its box
            (x, y, w, h) in pixels. A list of n priors where the noun stands n times in the prompt.
        nouns: the nouns to localize; the keys of ``priors`` by default.
        adjectives: pairs (adjective, noun) to bind; by default those that :func:`adjectives` finds of the localized
            nouns. () binds none.
        method: a preset's name, a method's YAML file, or a :class:`~locinv_pl.method.policies.Method`.
        num_steps: T, the number of DDIM steps, 1 or more; by default those that the method is made for.
        resolution: R, side of the attention grid in cells, on which priors and maps are compared.

    Returns:
        The inversion, its tensors on the CPU; :func:`locinv_pl.edit` and :func:`locinv_pl.reconstruct` take it.

    Raises:
        InputError: a noun is not in the prompt or has no prior, a prior is empty, of another size or
            outside the image, the prompt is empty or too long, pixels are in numbers of another scale.

    >>> import torch
    >>> from locinv_pl import load_backbone
    >>> backbone = load_backbone("embedded", device="cpu")
    >>> inversion = invert(
    ...     backbone, torch.full((3, 128, 128), 0.5), "a red cat on grass", {"cat": [32, 32, 64, 64]}, num_steps=1
    ... )
    >>> inversion.nouns, tuple(inversion.trajectory.shape)
    (('cat',), (2, 8, 32, 32))
    """
    sample = make_sample(image, prompt, priors or {}, nouns, adjectives)
    return last_result(invert_sample(backbone, sample, method, num_steps, resolution))


def iter_invert(
    backbone: Backbone,
    image: AnyImage,
    prompt: str,
    priors: Mapping[str, Prior | list[Prior]] | None = None,
    *,
    nouns: Sequence[str] | None = None,
    adjectives: Sequence[tuple[str, str]] | None = None,
    method: Method | str = "locinv",
    num_steps: int | None = None,
    resolution: int = 16,
) -> Iterator[Progress[Inversion]]:
    """Invert one image, telling how far it has come; closing the generator cancels the inversion.

    Args:
        backbone: as for :func:`invert`.
        image: as for :func:`invert`.
        prompt: as for :func:`invert`.
        priors: as for :func:`invert`.
        nouns: as for :func:`invert`.
        adjectives: as for :func:`invert`.
        method: as for :func:`invert`.
        num_steps: as for :func:`invert`.
        resolution: as for :func:`invert`.

    Yields:
        the progress after each of the T steps of the DDIM inversion ("invert"), and then after each of the T timesteps
        of the optimisation ("optimize"); the last one has the result.

    Raises:
        InputError: as :func:`invert` does, at the call or before the first step.

    >>> import torch
    >>> from locinv_pl import load_backbone
    >>> backbone, grey = load_backbone("embedded", device="cpu"), torch.full((3, 128, 128), 0.5)
    >>> for progress in iter_invert(backbone, grey, "a cat", {"cat": [32, 32, 64, 64]}, method="direct", num_steps=1):
    ...     print(progress.phase, progress.step, progress.total, tuple(progress.maps.shape), progress.result is None)
    invert 1 1 (1, 16, 16) True
    optimize 1 1 (1, 16, 16) False
    """
    sample = make_sample(image, prompt, priors or {}, nouns, adjectives)
    return invert_sample(backbone, sample, method, num_steps, resolution)


def invert_sample(
    backbone: Backbone,
    sample: EditSample,
    method: Method | str = "locinv",
    num_steps: int | None = None,
    resolution: int = 16,
) -> Iterator[Progress[Inversion]]:
    """Invert a sample, as :func:`iter_invert` does an image.

    Args:
        backbone: as for :func:`invert`.
        sample: the image with its prompt and priors.
        method: as for :func:`invert`.
        num_steps: as for :func:`invert`.
        resolution: as for :func:`invert`.

    Yields:
        as :func:`iter_invert` does.

    Raises:
        InputError: as :func:`invert` does, before the first step.

    >>> import torch
    >>> from locinv_pl import load_backbone
    >>> backbone, grey = load_backbone("embedded", device="cpu"), torch.full((3, 128, 128), 0.5)
    >>> sample = make_sample(grey, "a cat", {"cat": [32, 32, 64, 64]}, id="grey")
    >>> [progress.phase for progress in invert_sample(backbone, sample, "direct", num_steps=1)]
    ['invert', 'optimize']
    """
    began = time.perf_counter()
    method = load_method(method) if isinstance(method, str) else method
    T, K = method.num_steps if num_steps is None else num_steps, len(sample.nouns)
    preparing = iter_prepare(backbone, [sample], method, T, resolution)
    total, step = torch.zeros(()), 0
    while True:
        try:
            total, step = total + next(preparing)[0, :K].cpu(), step + 1
        except StopIteration as end:
            task: Task = end.value
            break
        yield Progress("invert", step, T, time.perf_counter() - began, total / step)
    records: list[StepRecord] = []
    total = torch.zeros(())
    for i in range(T):
        records.append(invert_step(backbone, task, i, records[-1] if records else task.start()))
        total = total + records[-1].maps[0, :K].cpu()
        result = collect(task, records)[0] if i == T - 1 else None
        yield Progress("optimize", i + 1, T, time.perf_counter() - began, total / (i + 1), result=result)


def edit_run(
    run: str | Path,
    image: str,
    prompts: str | Sequence[str],
    settings: EditSettings | None = None,
    region: str | Path | None = None,
    device: str = "cpu",
    measures: MeasureSettings = MeasureSettings(),
) -> list[Path]:
    """Edit an image that a run has inverted; what comes out lies in the run's folder under ``edits/``.

    Args:
        run: the folder that a run with ``output=`` wrote, with ``settings.json`` in it.
        image: the image's id in the run; the run's file names and tables show it.
        prompts: target prompts, edited as one batch.
        settings: the edits' settings; the defaults of :class:`~locinv_pl.editing.settings.EditSettings` by default.
        region: a mask of the size of the image's file, where edits may change it, framed as the image was: as
            ``blend="prior"``, with the region in place of the priors.
        device: torch's name of the device that computes, "cpu" (the default), "cuda" or "mps".
        measures: the networks that choose among the strengths of an edit, where ``settings.candidates`` is above 1.

    Returns:
        The paths of the edited images, one a prompt.

    Raises:
        InputError: no such run or image in it, a target prompt that is the source's own or too long.

    >>> edit_run("no-such-run", "cat", "a dog")
    Traceback (most recent call last):
        ...
    locinv_pl.errors.InputError: no-such-run/settings.json: no such file; run the inversion first
    """
    folder, settings = RunFolder(run), settings or EditSettings()
    made_by = folder.settings
    inversion = Inversion.load(folder.inversion_path(image))
    backbone = load_as(made_by, device)
    allowed = None if region is None else frame_mask(expanded(region), _frame(folder, image, backbone, inversion))
    is_same = list_edits(folder, image).get("fingerprint") == inversion.fingerprint
    has_source = is_same and folder.edits_path(image, "source.png").exists()  # else the VAE's must do
    source = None if has_source else backbone.decode(inversion.trajectory[:1])[0].cpu()
    targets = [prompts] if isinstance(prompts, str) else list(prompts)
    return make_edits(folder, backbone, inversion, targets, settings, allowed, measures, source)[-1]


def make_sample(
    image: AnyImage,
    prompt: str,
    priors: Mapping[str, Prior | list[Prior]],
    nouns: Sequence[str] | None = None,
    adjectives: Sequence[tuple[str, str]] | None = None,
    id: str = "image",
) -> EditSample:
    """An :class:`~locinv_pl.types.EditSample` from loose parts.

    Args:
        image: as in :func:`invert`.
        prompt: the source prompt P.
        priors: as in :func:`invert`.
        nouns: the nouns to localize; the keys of ``priors`` by default.
        adjectives: as in :func:`invert`.
        id: the name of the image in files and errors.

    Raises:
        InputError: as in :func:`invert`.

    >>> import torch
    >>> priors = {"cat": [8, 16, 32, 32]}
    >>> sample = make_sample(torch.zeros(3, 64, 64), "a red cat", priors)
    >>> [(noun.word, noun.span, int(noun.mask.sum())) for noun in sample.nouns]
    [('cat', (6, 9), 1024)]
    >>> sample.adjectives
    (Adjective(word='red', span=(2, 5), noun=0),)
    """
    image, prompt = as_image(image), tidy(prompt)
    if not prompt:
        raise InputError(f"image {id!r}: its prompt is empty; say what is on it")
    found: list[Noun] = []
    for word in priors if nouns is None else nouns:
        if word not in priors:
            raise InputError(f"image {id!r}: noun {word!r} has no prior; add it to priors")
        spans, given = find_word(prompt, word), priors[word]
        each = given if are_several(given) else [cast("Prior", given)] * len(spans)
        size = (image.shape[-1], image.shape[-2])
        read = [read_prior(prior, size, f"noun {word!r}") for prior in each]
        planes = [prior if isinstance(prior, Tensor) else box_mask(prior, size[::-1]) for prior in read]
        if len(planes) != len(spans):
            raise InputError(
                f"image {id!r}: noun {word!r} stands {len(spans)} times in the prompt and has {len(planes)} priors; "
                f"give one for each, or one for all"
            )
        found += [
            Noun(prompt[slice(*span)], span, plane, inside(plane)) for span, plane in zip(spans, planes, strict=True)
        ]
    found.sort(key=lambda noun: noun.span)
    if adjectives is None:
        return EditSample(id, image, prompt, tuple(found), tuple(_bound(prompt, found)))
    bound = [_bind(prompt, adjective, noun, found) for adjective, noun in adjectives]
    return EditSample(id, image, prompt, tuple(found), tuple(bound))


def _bound(prompt: str, nouns: list[Noun]) -> Iterator[Adjective]:
    """The adjectives that a word finder finds of some nouns of the prompt."""
    for adjective, noun in load_words().pairs(prompt):
        for k, each in enumerate(nouns):
            if overlap(each.span, noun.span) and not overlap(each.span, adjective.span):
                yield Adjective(adjective.text, adjective.span, k)


def _bind(prompt: str, adjective: str, noun: str, nouns: list[Noun]) -> Adjective:
    """The occurrence of the adjective that stands closest to an occurrence of its noun."""
    index = [k for k, n in enumerate(nouns) if n.word.lower() == noun.lower()]
    if not index:
        raise InputError(f"adjective {adjective!r}: its noun {noun!r} has no prior; add it to priors")
    spans = find_word(prompt, adjective)
    _, span, k = min((abs(s[0] - nouns[k].span[0]), s, k) for s in spans for k in index)
    return Adjective(prompt[slice(*span)], span, k)


def are_several(given: Prior | list[Prior]) -> TypeGuard[list[Prior]]:
    """Whether a noun is given a list of priors; a box, though a list of numbers, is one.

    Args:
        given: of :func:`invert`'s ``priors``.

    >>> are_several([8, 16, 32, 32]), are_several([[8, 16, 32, 32], "dog.png"])
    (False, True)
    """
    return isinstance(given, list) and not all(isinstance(x, Real) for x in given)


def read_prior(prior: Prior, size: Size, where: str) -> Box | Tensor:
    """A prior as a box (x, y, w, h), or as a mask (H, W) in [0, 1].

    Args:
        prior: as in :func:`invert`.
        size: (width, height) of the image.
        where: what the prior is of, for errors.

    Raises:
        InputError: it can't be read, a mask is empty, or a box lies outside the image.

    >>> read_prior([8, 16, 32, 32], (64, 64), "noun 'cat'")
    (8.0, 16.0, 32.0, 32.0)
    """
    numbers = prior.tolist() if isinstance(prior, (Tensor, np.ndarray)) and prior.shape == (4,) else prior
    if isinstance(numbers, (list, tuple)) and all(isinstance(number, Real) for number in numbers):
        return check_box(numbers, *size, where)
    return as_mask(prior, size, where)


def _frame(folder: RunFolder, image: str, backbone: Backbone, inversion: Inversion) -> Frame:
    """How a run framed an image; as it is where the run doesn't say."""
    path = folder.inversion_path(image).with_suffix(".json")
    values = read_json(path, InversionScores).get("frame") if path.exists() else None
    if values is not None:
        return to_frame(values, str(path))
    h, w = inversion.trajectory.shape[-2:]
    return Frame.whole(w * backbone.downsampling, h * backbone.downsampling)
