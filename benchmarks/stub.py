"""A stand-in for the engine, run through the real queue, loader and files.

An image takes the time that it is given, asleep, and leaves tensors of the right shapes but small. What can be
measured is everything but the arithmetic: the strategy's store between processes over TCP, the loader, the files.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.accelerators import CPUAccelerator

from locinv_pl.datamodules.base import batches_of
from locinv_pl.io.frames import Frame
from locinv_pl.method.policies import LOSSES
from locinv_pl.run.loader import TimestepLoader
from locinv_pl.run.store import RunFolder
from locinv_pl.run.stores import StoreKind
from locinv_pl.run.strategy import ImageParallelStrategy
from locinv_pl.types import EditSample, Inversion, StepRecord

PROMPT, NOUNS = "a red cat and a dog", ("cat", "dog")
L, D, K, C, SIDE = 4, 4, len(NOUNS), 4, 2  # positions, text width, nouns, latent channels, side of latents and maps
Found = TypeVar("Found")
SETTINGS = {"backbone": "stub", "method": {"name": "stub"}, "data": {}, "num_steps": 1, "dtype": "float32"}


def nobody(ids: Sequence[str], is_finished: bool) -> bool:
    """Hear of a batch, and go on."""
    return False


@dataclass(frozen=True)
class Job:
    """A run of the stub; image n takes ``seconds[n]``, or no time.

    ``told`` hears of a batch's ids when they have been computed, with False, and when they are finished, with True; it
    may answer that the process is to stop.
    """

    root: Path
    images: int
    num_steps: int = 1
    batch_size: int = 1
    seconds: Sequence[float] = ()
    store: StoreKind = "folder"
    told: Callable[[Sequence[str], bool], bool] = nobody


@dataclass(frozen=True)
class Mark:
    """A process's state at one moment: clock and CPU time in seconds, memory in MiB, and what it has finished."""

    clock: float
    cpu: float
    memory: float
    images: int


class Images:
    """Samples that are made when asked for."""

    def __init__(self, count: int):
        self.ids = [f"{n:09d}" for n in range(count)]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> EditSample:
        return EditSample(self.ids[number], torch.zeros(3, 8 * SIDE, 8 * SIDE), PROMPT)


def make_record(B: int) -> StepRecord:
    """A timestep's record of B images."""
    return StepRecord(
        latent=torch.zeros(B, C, SIDE, SIDE),
        tokens=torch.zeros(B, L, D),
        null=torch.zeros(B, L, D),
        maps=torch.zeros(B, K, SIDE, SIDE),
        losses=torch.zeros(B, len(LOSSES)),
        thresholds=torch.zeros(len(LOSSES)),
        null_loss=torch.zeros(B),
        token_steps=torch.zeros(B, dtype=torch.int32),
        null_steps=torch.zeros(B, dtype=torch.int32),
    )


def make_inversion(T: int) -> Inversion:
    """A finished inversion of T steps."""
    return Inversion(
        id="",
        prompt=PROMPT,
        nouns=NOUNS,
        noun_positions=((1,), (2,)),
        dynamic=(1, 2),
        settings=SETTINGS | {"num_steps": T},
        trajectory=torch.zeros(T + 1, C, SIDE, SIDE),
        tokens=torch.zeros(T, K, D),
        null=torch.zeros(T, L, D),
        maps=torch.zeros(T, K, SIDE, SIDE),
        initial_maps=torch.zeros(T, K, SIDE, SIDE),
        priors=torch.zeros(K, SIDE, SIDE),
        fine_priors=torch.zeros(K, SIDE, SIDE),
        latent=torch.zeros(C, SIDE, SIDE),
        losses=torch.zeros(T, len(LOSSES)),
        thresholds=torch.zeros(T, len(LOSSES)),
        null_loss=torch.zeros(T),
        token_steps=torch.zeros(T, dtype=torch.int32),
        null_steps=torch.zeros(T, dtype=torch.int32),
    )


def make_scores(T: int) -> dict[str, Any]:
    """A finished image's scores, all but its id."""
    one = {"iou_initial": [0.5] * K, "iou": [0.5] * K, "iou_curve": [[0.5] * T] * K}
    return {"prompt": PROMPT, "nouns": NOUNS, **one, "psnr": 30.0, "ssim": 0.9, "psnr_vae": 30.0, "seconds": 1.0}


def invert_all(job: Job, claim: Callable[[], int], every: int = 1000) -> list[Mark]:
    """One process's share of a run, as the module does it; a mark about every so many images."""
    rank = int(os.environ.get("LOCAL_RANK", 0))
    run, images, T = RunFolder(job.root, job.store, rank), Images(job.images), job.num_steps
    run.claim(SETTINGS | {"num_steps": T})
    batches = batches_of(dict.fromkeys(range(job.images), Frame.fitting(64, 64, 64)), job.batch_size)
    inversion, scores = make_inversion(T), make_scores(T)
    marks, done = [_mark(0)], 0
    for item in TimestepLoader(images, images.ids, batches, T, claim, run.pending):
        ids = [sample.id for sample in item.samples]
        if item.i == 0:
            records, record = run.load_records(ids), make_record(len(ids))
        if item.i == len(records):
            if job.seconds:
                time.sleep(sum(job.seconds[int(id)] for id in ids) / T)
            records.append(record)
            run.save_record(ids, item.i, record)
        if item.i == T - 1:
            job.told(ids, False)
            for id in ids:
                replace(inversion, id=id).save(run.inversion_path(id))
            run.finish({id: {"id": id, **scores} for id in ids})
            done += len(ids)
            if job.told(ids, True):
                break
            if done >= marks[-1].images + every:
                marks.append(_mark(done))
    run.close()
    return [*marks, _mark(done)]


def count(seconds: float, claim: Callable[[], int]) -> float:
    """How many numbers a process gets from the queue in a second."""
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        claim()
        n += 1
    return n / seconds


def in_processes(processes: int, work: Callable[..., Found], *arguments: Any) -> list[Found]:
    """``work(*arguments, claim=…)`` in processes that share a queue; what each of them gives back."""
    torch.set_num_threads(1)
    ranks, port = range(processes), find_free_network_port()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        started = [pool.submit(as_rank, rank, processes, port, work, arguments) for rank in ranks]
        return [one.result() for one in started]


def as_rank(rank: int, processes: int, port: int, work: Callable[..., Found], arguments: tuple) -> Found:
    """``work(*arguments, claim=…)`` as one of the processes that share a queue."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    strategy = ImageParallelStrategy(
        accelerator=CPUAccelerator(),
        parallel_devices=[torch.device("cpu")] * processes,
        cluster_environment=LightningEnvironment(),
    )
    strategy.setup_distributed()
    found = work(*arguments, claim=strategy.new_queue())
    strategy.teardown()
    return found


def _mark(done: int) -> Mark:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Mark(time.monotonic(), time.process_time(), pages * os.sysconf("SC_PAGE_SIZE") / 2**20, done)
