"""Images over processes: no gradients to share, only a counter that hands out work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch.distributed import HashStore, Store, rendezvous

from locinv_pl.errors import InputError
from locinv_pl.types import EditSample


class ImageParallelStrategy(DDPStrategy):
    """Processes that invert different pictures and never wait for each other.

    Launching, ranks and devices are DDP's. There is no process group, since nothing is averaged:
    Lightning's collectives are then no-ops. What the processes share is torch's key-value store,
    with the number of the next batch of pictures in it.
    """

    strategy_name = "image_parallel"
    _POLL = 0.05

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.store: Store | None = None
        self._queues = 0
        self._has_failed = False

    def _configure_launcher(self) -> None:
        """On the CPU every process has one thread, however many there are.

        Convolutions round differently with other thread counts, and one process and several are to
        give equal results; a second process is also worth more than a second thread. An
        ``OMP_NUM_THREADS`` of the user's own stands.
        """
        if self.root_device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            os.environ["OMP_NUM_THREADS"] = "1"
            torch.set_num_threads(1)
        super()._configure_launcher()

    def setup_distributed(self) -> None:
        """Connect to the store; a single process keeps its own."""
        self.set_world_ranks()
        if self.world_size == 1:
            self.store = HashStore()
            return
        environment = self.cluster_environment
        assert environment is not None
        os.environ["MASTER_ADDR"] = environment.main_address
        os.environ["MASTER_PORT"] = str(environment.main_port)
        self.store, _, _ = next(rendezvous("env://", rank=self.global_rank, world_size=self.world_size))

    def setup(self, trainer: Any) -> None:
        """Put the module on its device; nothing is wrapped."""
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model_to_device()
        if trainer.state.fn == "fit":
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def new_queue(self) -> Callable[[], int]:
        """A queue over all processes: every call answers the next number, 0, 1, 2, ..."""
        self._queues += 1
        key, store = f"queue-{self._queues}", self.store
        assert store is not None
        return lambda: store.add(key, 1) - 1

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Every process decides for itself."""
        return decision

    def on_exception(self, exception: BaseException) -> None:
        """Let the others know that this process failed."""
        self._has_failed = True
        if self.store is not None:
            self.store.add("failed", 1)
        super().on_exception(exception)

    def teardown(self) -> None:
        """Wait until every process has come to its end, then say if another one failed."""
        store, self.store = self.store, None
        failed = 0
        if store is not None and self.world_size > 1:
            store.add("ended", 1)
            self._wait(store, "ended", self.world_size)
            failed = store.add("failed", 0)
            if self.global_rank == 0:  # the store lives in this process: leave last
                self._wait(store, "left", self.world_size - 1)
            else:
                store.add("left", 1)
        super().teardown()
        if failed and not self._has_failed:  # a failed process raises what made it fail
            raise InputError(
                "a process failed, its message stands above; results so far are kept, run the same command to go on"
            )

    def _wait(self, store: Store, key: str, count: int) -> None:
        while store.add(key, 0) < count:
            time.sleep(self._POLL)


StrategyRegistry.register(
    ImageParallelStrategy.strategy_name,
    ImageParallelStrategy,
    description="Pictures are spread over processes by a shared queue",
)


class Timestep:
    """One item of work for the module: a batch of pictures and the step i to take with it.

    The pictures are opened at first use: Lightning asks for an item before it is through with the
    one before, and a picture that can't be read must not keep the batch before from its last step.

    A plain class, which Lightning hands over as it is: dataclasses and tuples it would take apart to
    move their tensors, and the engine moves what it needs.
    """

    def __init__(self, open_samples: Callable[[], tuple[EditSample, ...]], i: int):
        self._open, self.i = open_samples, i

    @property
    def samples(self) -> tuple[EditSample, ...]:
        """The batch's pictures, the same objects at every step."""
        return self._open()


class TimestepLoader:
    """The batches that this process claims, each ``num_steps`` times in a row, i = 0, 1, 2, ...

    It has no length: how many batches a process gets shows only as it goes.

    Args:
        samples: all pictures, in the same order in every process.
        ids: their ids.
        batch_size: pictures in a batch.
        num_steps: T.
        claim: answers the number of the next batch to take, over all processes.
        pending: of a batch's ids, those that are still to do.
    """

    def __init__(
        self,
        samples: Sequence[EditSample],
        ids: Sequence[str],
        batch_size: int,
        num_steps: int,
        claim: Callable[[], int],
        pending: Callable[[Sequence[str]], Sequence[str]],
    ):
        self.samples, self.ids = samples, ids
        self.batch_size, self.num_steps = batch_size, num_steps
        self.claim, self.pending = claim, pending

    def __iter__(self) -> Iterator[Timestep]:
        groups = [range(n, min(n + self.batch_size, len(self.ids))) for n in range(0, len(self.ids), self.batch_size)]
        while (n := self.claim()) < len(groups):
            todo = set(self.pending([self.ids[j] for j in groups[n]]))
            mine = [j for j in groups[n] if self.ids[j] in todo]
            open_samples = cache(partial(self._samples, mine))
            for i in range(self.num_steps if mine else 0):
                yield Timestep(open_samples, i)

    def _samples(self, indices: Sequence[int]) -> tuple[EditSample, ...]:
        return tuple(self.samples[j] for j in indices)


def local_queue() -> Callable[[], int]:
    """A queue of this process alone, for any other strategy."""
    numbers = iter(range(torch.iinfo(torch.int64).max))
    return lambda: next(numbers)
