"""Images over processes: no gradients to share, only a counter that hands out work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch.distributed import HashStore, Store, rendezvous

from locinv_pl.errors import InputError


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
