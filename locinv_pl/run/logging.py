"""The figures of a timestep that Lightning's loggers and callbacks can take."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from statistics import fmean

import torch
from lightning.pytorch import Callback, Trainer

from locinv_pl.measures.metrics import attention_iou
from locinv_pl.method.policies import LOSSES, Method
from locinv_pl.run.batch import MicroBatch

DEAF = {"lightning", "locinv_pl"}  # whose callbacks take no logged figures, unless they monitor one


def metric_names(method: Method) -> list[str]:
    """The names of what :func:`step_metrics` answers for a method.

    Args:
        method: its losses that count, and those that have a threshold, are named.

    >>> metric_names(Method())[:4]
    ['timestep', 'iou/mean', 'loss/null_text', 'loss/similarity']
    """
    active = method.tokens.active
    return [
        *("timestep", "iou/mean", "loss/null_text"),
        *(f"loss/{name}" for name in active),
        *(f"threshold/{name}" for name in active if method.tokens.losses[name].beta is not None),
    ]


def is_heard(trainer: Trainer) -> bool:
    """Whether anybody takes what is logged: a logger, a callback that monitors it, or any callback of the user's own.

    Lightning takes some 0.4 ms for each figure.

    Args:
        trainer: whose loggers and callbacks are asked.
    """
    callbacks: list[Callback] = getattr(trainer, "callbacks", [])
    return bool(trainer.loggers) or any(
        getattr(callback, "monitor", None) or type(callback).__module__.partition(".")[0] not in DEAF
        for callback in callbacks
    )


def step_metrics(micro_batches: Sequence[MicroBatch], i: int) -> dict[str, float]:
    """The figures of a batch after timestep i; NaN is what applies to none of its images.

    Lightning would log the value of the batch before in place of a figure that is left out.

    Args:
        micro_batches: the batch, one or more.
        i: step, 0 the noisiest; every micro-batch has its record.

    Returns:
        values by name: ``timestep`` is i; ``iou/mean`` the mean attention IoU over all nouns of all images;
        ``loss/NAME`` the mean of a loss over the images that it applies to, for the losses that count, before their
        weights; ``threshold/NAME`` the value below which it no longer moves tokens; ``loss/null_text`` the mean squared
        error of null-text optimisation.
    """
    records = [each.records[i] for each in micro_batches]
    losses = torch.cat([record.losses for record in records]).nanmean(0).tolist()
    ious = [
        iou
        for each, record in zip(micro_batches, records, strict=True)
        for sample, maps in zip(each.task.samples, record.maps.cpu(), strict=True)
        for iou in attention_iou(maps[: len(sample.nouns)], sample.masks).tolist()
    ]
    found = {
        "timestep": float(i),
        "iou/mean": fmean(ious) if ious else nan,
        "loss/null_text": torch.cat([record.null_loss for record in records]).mean().item(),
        **{f"loss/{name}": value for name, value in zip(LOSSES, losses, strict=True)},
        **{f"threshold/{name}": value for name, value in zip(LOSSES, records[0].thresholds.tolist(), strict=True)},
    }
    return {name: found[name] for name in metric_names(micro_batches[0].task.method)}
