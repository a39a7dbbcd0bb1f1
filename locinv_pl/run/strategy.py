"""Images over processes: no gradients to share, only a counter that hands out work."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from lightning.fabric.plugins.environments import (
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.distributed import DistError, HashStore, PrefixStore, Store, rendezvous

from locinv_pl.errors import InputError
from locinv_pl.networks.tuning import use_one_thread

GO_ON = "results so far are kept, run the same command to go on"
POLL = 0.05  # seconds from one look at a counter to the next
GRACE = 20.0  # seconds that a stopped process keeps the store for the others
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # a container's: microseconds of CPU time, and of how many


class ImageParallelStrategy(DDPStrategy):
    """Processes that invert different images and never wait for each other.

    Launching, ranks and devices are DDP's, on one node or on several: by Lightning itself, torchrun, SLURM or any
    other cluster environment of Lightning's. There is no process group, since nothing is averaged:
    Lightning's collectives are then no-ops. What the processes share is torch's key-value store,
    with the number of the next batch of images in it.
    """

    strategy_name = "image_parallel"

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.store: Store | None = None
        self._queues = 0
        self._has_failed = self._is_stopped = False

    def _configure_launcher(self) -> None:
        """Torchrun's numbers of nodes and processes hold; on the CPU every process has one thread.

        Lightning compares its own numbers with torchrun's, but those change from start to start where nodes come and
        go (``--nnodes=1:4``).

        On the CPU a process has one thread: convolutions round differently with other thread counts, and one process
        and several are to give equal results; a second process is also worth more than a second thread. Where
        OMP_NUM_THREADS is set, a process has as many threads as it says.
        """
        if isinstance(self.cluster_environment, TorchElasticEnvironment):
            self.num_nodes, processes = (int(os.environ[f"{of}_WORLD_SIZE"]) for of in ("GROUP", "LOCAL"))
            if self.num_processes != processes:
                assert self.accelerator is not None
                self.parallel_devices = self.accelerator.get_parallel_devices(self.accelerator.parse_devices(processes))
        if self.root_device.type == "cpu":
            use_one_thread()
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
        store, _, _ = next(rendezvous("env://", rank=self.global_rank, world_size=self.world_size))
        self.store = PrefixStore(agree_on_start(store, self.global_rank, self.world_size), store)

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
        return lambda: _add(store, key, 1) - 1

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Every process decides for itself."""
        return decision

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Nothing: a run's state is its files. SLURM's requeue asks for a checkpoint first."""

    def batch_to_device(self, batch: Any, device: Any = None, dataloader_idx: int = 0) -> Any:
        """Before every timestep, end where another process was told to."""
        if self._others_are_stopped:
            raise SIGTERMException
        return super().batch_to_device(batch, device, dataloader_idx)

    def stop_if_told(self) -> None:
        """End where this process, or another one, was told to: between the steps of work that is made again.

        Raises:
            SIGTERMException: it was.
        """
        if self._received_sigterm or self._others_are_stopped:
            raise SIGTERMException

    @property
    def _others_are_stopped(self) -> bool:
        return self.store is not None and self.world_size > 1 and _add(self.store, "stopped", 0) > 0

    def on_exception(self, exception: BaseException) -> None:
        """Let the others know that this process failed, or was told to stop."""
        self._has_failed = True
        self._is_stopped = isinstance(exception, SystemExit)  # as Lightning answers SIGTERM
        if self.store is not None:
            with suppress(InputError):
                _add(self.store, "stopped" if self._is_stopped else "failed", 1)
        super().on_exception(exception)

    def teardown(self) -> None:
        """Wait until every process has come to its end, then say if another one failed.

        A process that is told to stop leaves at once: perhaps it is, because another one is dead.
        """
        store, self.store = self.store, None
        end: BaseException | None = None
        if store is not None and self.world_size > 1:
            try:
                end = self._leave(store)
            except InputError as lost:
                end = lost
        super().teardown()
        if end and not self._has_failed:  # a failed process raises what made it fail
            raise end

    def _leave(self, store: Store) -> BaseException | None:
        """Wait for the others; what this process is to end with."""
        _add(store, "ended", 1)
        while not _add(store, "stopped", int(self._received_sigterm)) and _add(store, "ended", 0) < self.world_size:
            time.sleep(POLL)
        self._is_stopped = _add(store, "stopped", 0) > 0
        failed = _add(store, "failed", 0)
        if self.global_rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            # the store lives in this process: leave last
            _wait(store, "left", self.world_size - 1, GRACE if self._is_stopped else math.inf)
        else:
            with suppress(InputError):
                _add(store, "left", 1)
        if failed:
            return InputError(f"a process failed, its message stands above; {GO_ON}")
        return SIGTERMException() if self._is_stopped else None

    @property
    def _received_sigterm(self) -> bool:
        return self._is_stopped or (
            self.lightning_module is not None and self.lightning_module.trainer.received_sigterm
        )


def agree_on_start(store: Store, rank: int, world_size: int) -> str:
    """A name that this start of the processes has for itself, in a store that may outlive many starts.

    torchrun's store does, and nothing that torchrun tells its processes numbers the starts: every node counts the
    failures of its own, and a node that comes or goes counts as none. So every process leaves a word that nobody has
    used before, and the first process answers each word that it finds with the start's name until all have got it.
    An answer to a word of an earlier start is read by nobody.

    Args:
        store: the one that all processes see.
        rank: the number of this process, 0 to world_size - 1.
        world_size: how many processes there are.
    """
    word = uuid4().hex
    if rank > 0:
        store.set(f"word-{rank}", word)
        name = store.get(word).decode()  # waits for the answer
        store.set(f"{name}-{rank}", "")
        return name
    missing = set(range(1, world_size))
    while missing:
        for other in [rank for rank in missing if store.check([f"word-{rank}"])]:
            store.set(store.get(f"word-{other}").decode(), word)
        missing -= {rank for rank in missing if store.check([f"{word}-{rank}"])}
        time.sleep(POLL)
    return word


def _wait(store: Store, key: str, count: int, seconds: float = math.inf) -> None:
    end = time.monotonic() + seconds
    while _add(store, key, 0) < count and time.monotonic() < end:
        time.sleep(POLL)


def _add(store: Store, key: str, number: int) -> int:
    """Add to a counter and answer its value.

    Raises:
        InputError: the store's process is gone.
    """
    try:
        return store.add(key, number)
    except DistError:
        raise InputError(f"the process that holds the queue is gone; {GO_ON}") from None


def num_cores() -> int:
    """The CPU cores that this process may use: those of its affinity, and no more than a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no container's, or "max"
        quota, period = map(int, CPU_QUOTA.read_text().split())
        cores = min(cores, max(quota // period, 1))
    return cores


def is_launched() -> bool:
    """Whether torchrun, SLURM, another launcher or Lightning has started this process, and numbers the processes."""
    launchers = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)
    return any(launcher.detect() for launcher in launchers) or LightningEnvironment().creates_processes_externally


StrategyRegistry.register(
    ImageParallelStrategy.strategy_name,
    ImageParallelStrategy,
    description="Images are spread over processes by a shared queue",
)
