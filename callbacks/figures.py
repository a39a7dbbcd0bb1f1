"""Figures of whole inversions and edits: pages, strips and curves, as matplotlib figures or PIL images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from locinv_pl.drawing import COLORS, difference, outline, overlay, to_array
from locinv_pl.editing.settings import changed
from locinv_pl.errors import printable
from locinv_pl.measures.display import MEASURES
from locinv_pl.measures.metrics import attention_iou, attention_iou_curve, psnr
from locinv_pl.method.policies import LOSSES, Method
from locinv_pl.run.edits import EditResult
from locinv_pl.run.results import Result
from locinv_pl.types import EditSample, Inversion

IOU, PSNR = MEASURES["attention_iou"], MEASURES["psnr"]


def shown_steps(num_steps: int, count: int) -> list[int]:
    """``count`` steps, evenly from the first to the last."""
    return sorted({round(i) for i in np.linspace(0, num_steps - 1, min(count, num_steps))})


def sheet(result: Result, map_columns: int = 6) -> Figure:
    """One image's inversion on a page: images, curves, and every noun's maps over the timesteps."""
    sample, inversion, nouns = result.sample, result.inversion, result.sample.nouns
    columns = 3 + map_columns
    figure = Figure(figsize=(1.75 * columns, 2.6 + 2.0 * len(nouns)), layout="constrained")
    method, scores = _names(inversion)[1], result.scores
    _head(figure, sample, f"{method}, {inversion.num_steps} steps")
    cells = figure.add_gridspec(1 + len(nouns), columns, height_ratios=[1.25] + [1.0] * len(nouns))

    back = to_array(result.reconstruction)
    top = {
        "picture and priors": outline(sample.image, [n.prior for n in nouns]),
        f"reconstruction {PSNR.caption(scores['psnr'])}\n(VAE alone {PSNR.caption(scores['psnr_vae'])})": back,
        "difference × 4": difference(back, to_array(sample.image)),
    }
    for column, (title, image) in enumerate(top.items()):
        _image(figure.add_subplot(cells[0, column]), image, title)
    half = 3 + map_columns // 2
    _draw_losses(figure.add_subplot(cells[0, 3:half]), result)
    _draw_iou(figure.add_subplot(cells[0, half:]), result)

    for k, noun in enumerate(nouns):
        initial, maps = inversion.initial_maps[:, k], inversion.maps[:, k]
        row = {
            f"prior of “{noun.word}”": overlay(sample.image, inversion.priors[k]),
            f"plain DDIM, IoU {IOU.caption(scores['iou_initial'][k])}": overlay(sample.image, initial.mean(0)),
            f"{method}, IoU {IOU.caption(scores['iou'][k])}": overlay(sample.image, maps.mean(0)),
        }
        row |= {f"step {i}": overlay(sample.image, maps[i]) for i in shown_steps(len(maps), map_columns)}
        for column, (title, image) in enumerate(row.items()):
            _image(figure.add_subplot(cells[1 + k, column]), image, title, COLORS[k % len(COLORS)])
    return figure


def edit_sheet(result: EditResult) -> Figure:
    """One image's edits on a page: images, below them what changed, and every noun's mean maps."""
    sample, inversion = result.sample, result.inversion
    nouns = () if inversion is None else sample.nouns
    columns = max(2 + len(result.edits), 2 * len(nouns), 4)
    cell = 2.2 * sample.image.shape[-2] / sample.image.shape[-1]
    rows = 3 if nouns else 2
    figure = Figure(figsize=(2.2 * columns, rows * (cell + 0.35) + 0.7), layout="constrained")
    made_by = result.settings["editor"] if inversion is None else _names(inversion)[1]
    _head(
        figure, sample, f"{made_by}, {result.settings['num_steps'] if inversion is None else inversion.num_steps} steps"
    )
    cells = figure.add_gridspec(rows, columns)
    source, back = to_array(sample.image), to_array(result.reconstruction)
    decibels = psnr(result.reconstruction, sample.image).item()

    _image(figure.add_subplot(cells[0, 0]), outline(sample.image, [n.prior for n in nouns]), "source and priors")
    _draw_settings(figure.add_subplot(cells[1, 0]), result)
    _image(figure.add_subplot(cells[0, 1]), back, f"reconstruction {PSNR.caption(decibels)}")
    _image(figure.add_subplot(cells[1, 1]), difference(back, source), "its difference × 4\nfrom the source")
    for n, (edit, image) in enumerate(zip(result.edits, result.images, strict=True), start=1):
        edited, column = to_array(image), n + 1
        title = textwrap.fill(f"{n} {edit.kind}: “{edit.prompt}”", 34, max_lines=4, placeholder=" …")
        _image(figure.add_subplot(cells[0, column]), edited, title, weight="bold")
        changed = f"difference × 4\nof edit {n} from the reconstruction"
        _image(figure.add_subplot(cells[1, column]), difference(edited, back), changed)
    if inversion is None:
        return figure
    for k, (noun, ious) in enumerate(zip(nouns, mean_ious(sample, inversion), strict=True)):
        for m, (name, maps, iou) in enumerate(zip(_names(inversion), _both(inversion), ious, strict=True)):
            drawn = overlay(sample.image, maps[:, k].mean(0))
            title = f"“{noun.word}”, {name}\nIoU {IOU.caption(iou)}"
            _image(figure.add_subplot(cells[2, 2 * k + m]), drawn, title, COLORS[k % len(COLORS)])
    return figure


def strip(result: Result, tile: int = 128) -> Image.Image:
    """One image's inversion on a line, for a contact sheet: image, reconstruction, maps before and after."""
    sample, inversion, scores = result.sample, result.inversion, result.scores
    tiles = [
        (sample.id, outline(sample.image, [n.prior for n in sample.nouns], side=2 * tile), ""),
        (PSNR.caption(scores["psnr"]), to_array(result.reconstruction), ""),
    ]
    for k, noun in enumerate(sample.nouns):
        for name, maps, key in zip(("DDIM ", ""), _both(inversion), ("iou_initial", "iou"), strict=True):
            title = f"{noun.word} ({k + 1}): {name}{IOU.caption(scores[key][k])}"
            tiles.append((title, overlay(sample.image, maps[:, k].mean(0)), ""))
    return tile_row(f"{sample.prompt}   [{_names(inversion)[1]}]", tiles, tile)


def tile_row(heading: str, tiles: Sequence[tuple[str, np.ndarray, str]], height: int = 128) -> Image.Image:
    """Images on a line, as (title, image, text): the titles above them, the texts wrapped below."""
    heading, tiles = printable(heading), [(printable(title), array, printable(text)) for title, array, text in tiles]
    font, line, gap = ImageFont.load_default(11), 16, 4
    widths = [max(1, round(height * array.shape[1] / array.shape[0])) for _, array, _ in tiles]
    texts = [
        textwrap.wrap(text, max(8, width // 6), max_lines=5, placeholder=" …")
        for width, (_, _, text) in zip(widths, tiles, strict=True)
    ]
    lines = 2 + max(map(len, texts))
    page = Image.new("RGB", (sum(widths) + gap * len(tiles), height + lines * line + gap), "white")
    draw, left = ImageDraw.Draw(page), 0
    draw.text((2, 1), heading, fill="black", font=font)
    for (title, array, _), width, text in zip(tiles, widths, texts, strict=True):
        draw.text((left + 2, line), title, fill="#444444", font=font)
        page.paste(Image.fromarray(array).resize((width, height)), (left, 2 * line))
        for n, words in enumerate(text):
            draw.text((left + 2, height + (2 + n) * line + 1), words, fill="black", font=font)
        left += width + gap
    return page


def iou_curves(sample: EditSample, inversion: Inversion) -> tuple[Tensor, Tensor]:
    """Attention IoU of every noun at every step, (T, K): of plain DDIM, and of this inversion."""
    before, after = (attention_iou_curve(maps, sample.masks) for maps in _both(inversion))
    return before, after


def mean_ious(sample: EditSample, inversion: Inversion) -> list[list[float]]:
    """Attention IoU of every noun's map, averaged over the steps: of plain DDIM, and of this inversion."""
    return torch.stack([attention_iou(maps.mean(0), sample.masks) for maps in _both(inversion)], 1).tolist()


def _both(inversion: Inversion) -> tuple[Tensor, Tensor]:
    return inversion.initial_maps, inversion.maps


def _names(inversion: Inversion) -> tuple[str, str]:
    """What makes the maps of :func:`_both`."""
    return "plain DDIM", inversion.settings["method"]["name"]


def _head(figure: Figure, sample: EditSample, made_by: str) -> None:
    figure.suptitle(f"{sample.id}: “{sample.prompt}”   ({made_by})", fontsize=12, parse_math=False)


def _image(axes: Axes, image: np.ndarray, title: str, color: str = "black", weight: str = "normal") -> None:
    axes.imshow(image)
    axes.set_title(title, fontsize=8, color=color, weight=weight, parse_math=False)
    axes.set_axis_off()


def _draw_settings(axes: Axes, result: EditResult) -> None:
    """The nouns in their outlines' colours, and the edit settings that aren't the default."""
    lines = [(f"■ {noun.word}", COLORS[k % len(COLORS)]) for k, noun in enumerate(result.sample.nouns)]
    other = [f"{key} = {value}" for key, value in changed(result.settings).items()]
    lines += [("", "black"), ("edit settings:", "black"), *((text, "black") for text in other or ["the defaults"])]
    for n, (text, color) in enumerate(lines):
        axes.text(0.02, 0.95 - 0.08 * n, text, color=color, fontsize=8, va="top", parse_math=False)
    axes.set_axis_off()


def _draw_losses(axes: Axes, result: Result) -> None:
    inversion = result.inversion
    shown = Method.from_dict(inversion.settings["method"]).tokens.active
    for n, name in enumerate(LOSSES):
        if name not in shown or inversion.losses[:, n].isnan().all():
            continue
        axes.plot(inversion.losses[:, n].numpy(), color=COLORS[n], label=name)
        axes.plot(inversion.thresholds[:, n].numpy(), color=COLORS[n], linestyle=":", linewidth=1)
    axes.set_ylim(bottom=0)
    _finish_curves(axes, "losses (dotted: thresholds)")


def _draw_iou(axes: Axes, result: Result) -> None:
    if result.sample.nouns:
        before, after = iou_curves(result.sample, result.inversion)
        for k, noun in enumerate(result.sample.nouns):
            color = COLORS[k % len(COLORS)]
            axes.plot(after[:, k].numpy(), color=color, label=noun.word)
            axes.plot(before[:, k].numpy(), color=color, linestyle=":", linewidth=1)
    axes.set_ylim(0, 1)
    _finish_curves(axes, "attention IoU (dotted: plain DDIM)")


def _finish_curves(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("step (0 = noisiest)", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
