"""Drawing whole inversions; arrays or figures come out."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from locinv_pl.drawing import COLORS, outline, overlay, to_array
from locinv_pl.metrics import attention_iou
from locinv_pl.results import Result

LOSSES = ("similarity", "overlap", "adjective")


def shown_steps(num_steps: int, count: int) -> list[int]:
    """``count`` steps, evenly from the first to the last."""
    return sorted({round(i) for i in np.linspace(0, num_steps - 1, min(count, num_steps))})


def sheet(result: Result, map_columns: int = 6) -> Figure:
    """One picture's inversion on a page: pictures, curves, and every noun's maps over the timesteps."""
    sample, inversion, nouns = result.sample, result.inversion, result.sample.nouns
    columns = 3 + map_columns
    figure = Figure(figsize=(1.75 * columns, 2.6 + 2.0 * len(nouns)), layout="constrained")
    method, scores = inversion.settings["method"]["name"], result.scores
    figure.suptitle(f"{sample.id}: “{sample.prompt}”   ({method}, {inversion.num_steps} steps)", fontsize=12)
    cells = figure.add_gridspec(1 + len(nouns), columns, height_ratios=[1.25] + [1.0] * len(nouns))

    difference = (result.reconstruction - sample.image).abs().mean(0, keepdim=True).expand(3, -1, -1)
    top = {
        "picture and priors": outline(sample.image, [n.prior for n in nouns]),
        f"reconstruction {scores['psnr']:.1f} dB\n(VAE alone {scores['psnr_vae']:.1f} dB)": to_array(
            result.reconstruction
        ),
        "difference × 4": to_array(4 * difference),
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
            f"plain DDIM, IoU {scores['iou_initial'][k]:.2f}": overlay(sample.image, initial.mean(0)),
            f"{method}, IoU {scores['iou'][k]:.2f}": overlay(sample.image, maps.mean(0)),
        }
        row |= {f"step {i}": overlay(sample.image, maps[i]) for i in shown_steps(len(maps), map_columns)}
        for column, (title, image) in enumerate(row.items()):
            _image(figure.add_subplot(cells[1 + k, column]), image, title, COLORS[k % len(COLORS)])
    return figure


def strip(result: Result, tile: int = 128) -> Image.Image:
    """One picture's inversion on a line, for a contact sheet: picture, reconstruction, maps before and after."""
    sample, inversion, scores = result.sample, result.inversion, result.scores
    method = inversion.settings["method"]["name"]
    tiles = {
        sample.id: outline(sample.image, [n.prior for n in sample.nouns], side=2 * tile),
        f"{scores['psnr']:.1f} dB": to_array(result.reconstruction),
    }
    for k, noun in enumerate(sample.nouns):
        before, after = inversion.initial_maps[:, k].mean(0), inversion.maps[:, k].mean(0)
        tiles[f"{noun.word} ({k + 1}): DDIM {scores['iou_initial'][k]:.2f}"] = overlay(sample.image, before)
        tiles[f"{noun.word} ({k + 1}): {scores['iou'][k]:.2f}"] = overlay(sample.image, after)
    font, line = ImageFont.load_default(11), 16
    page = Image.new("RGB", (len(tiles) * (tile + 4), tile + 2 * line + 4), "white")
    draw = ImageDraw.Draw(page)
    draw.text((2, 1), f"{sample.prompt}   [{method}]", fill="black", font=font)
    for n, (title, array) in enumerate(tiles.items()):
        draw.text((n * (tile + 4) + 2, line), title, fill="#444444", font=font)
        page.paste(Image.fromarray(array).resize((tile, tile)), (n * (tile + 4), 2 * line))
    return page


def iou_curves(result: Result) -> tuple[Tensor, Tensor]:
    """Attention IoU of every noun at every step, (T, K): of plain DDIM, and of this inversion."""
    masks, inversion = result.sample.masks, result.inversion
    before, after = (
        torch.stack([attention_iou(A, masks) for A in maps]) for maps in (inversion.initial_maps, inversion.maps)
    )
    return before, after


def _image(axes: Axes, image: np.ndarray, title: str, color: str = "black") -> None:
    axes.imshow(image)
    axes.set_title(title, fontsize=8, color=color)
    axes.set_axis_off()


def _draw_losses(axes: Axes, result: Result) -> None:
    inversion = result.inversion
    for n, name in enumerate(LOSSES):
        if inversion.losses[:, n].isnan().all():
            continue
        axes.plot(inversion.losses[:, n].numpy(), color=COLORS[n], label=name)
        axes.plot(inversion.thresholds[:, n].numpy(), color=COLORS[n], linestyle=":", linewidth=1)
    axes.set_ylim(bottom=0)
    _finish_curves(axes, "losses (dotted: thresholds)")


def _draw_iou(axes: Axes, result: Result) -> None:
    if result.sample.nouns:
        before, after = iou_curves(result)
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
