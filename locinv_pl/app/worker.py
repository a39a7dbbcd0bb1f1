"""The one thread that computes: it owns the backbone, and takes one job after the other."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from locinv_pl.errors import InputError


class Cancelled(Exception):
    """A job was cancelled by the one who had asked for it."""


@dataclass(frozen=True)
class Waiting:
    """A job was taken, and waits.

    Args:
        before: how many jobs come before it, the one that runs among them; 0: it starts.
    """

    before: int


@dataclass(eq=False)
class _Job:
    owner: str
    make: Callable[[], Iterator[Any]]
    tell: Callable[[Any], object]  # to the one who waits, from any thread
    is_over: threading.Event = field(default_factory=threading.Event)


END = object()


class Worker:
    """A thread for the device. A job is a generator that runs in it alone, from its first step to its last.

    Args:
        most: how many jobs may wait, besides the one that runs.
        seconds: that one job may take; looked at between its steps.
    """

    def __init__(self, most: int = 8, seconds: float = 3600):
        self.most, self.seconds, self.done = most, seconds, 0
        self._jobs: list[_Job] = []  # the first one runs
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="locinv-device", daemon=True).start()

    @property
    def count(self) -> int:
        """How many jobs run or wait."""
        return len(self._jobs)

    @property
    def owner(self) -> str:
        """Whose job runs; "" where none does."""
        return next((job.owner for job in self._jobs[:1]), "")

    def is_busy(self, owner: str) -> bool:
        """Whether a job of an owner runs or waits."""
        return any(job.owner == owner and not job.is_over.is_set() for job in list(self._jobs))

    async def run(self, make: Callable[[], Iterator[Any]], owner: str = "") -> AsyncGenerator[Any, None]:
        """:class:`Waiting` as soon as the owner is busy, then everything that a job yields. Closing it cancels the job.

        Args:
            make: makes the generator; called in the worker's thread.
            owner: whose job it is, for :meth:`cancel`.

        Raises:
            InputError: too many are waiting, the job took too long, or it says so itself.
            Cancelled: :meth:`cancel` was called.
        """
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[Any]()
        job = _Job(owner, make, lambda item: loop.call_soon_threadsafe(inbox.put_nowait, item))
        with self._changed:
            if len(self._jobs) > self.most:
                raise InputError(f"busy: {self.most} others are waiting; try again in a while")
            self._jobs.append(job)
            before = len(self._jobs) - 1
            self._changed.notify_all()
        try:
            yield Waiting(before)
            while (item := await inbox.get()) is not END:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._end(job)

    def cancel(self, owner: str) -> int:
        """Cancel the jobs of an owner: the one that runs after its present step, those that wait at once.

        Returns:
            How many there were.
        """
        theirs = [job for job in list(self._jobs) if job.owner == owner and not job.is_over.is_set()]
        for job in theirs:
            self._end(job)
            job.tell(Cancelled())
        return len(theirs)

    def _end(self, job: _Job) -> None:
        job.is_over.set()
        with self._changed:
            if job in self._jobs[1:]:  # the first one is ended by the thread
                self._jobs.remove(job)
                self._tell_places()

    def _tell_places(self) -> None:
        for n, job in enumerate(self._jobs[1:], start=1):
            _say(job, Waiting(n))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                job = self._jobs[0]
            self._do(job)
            with self._changed:
                self._jobs.remove(job)
                self.done += 1
                self._tell_places()

    def _do(self, job: _Job) -> None:
        began, last = time.monotonic(), END
        try:
            steps = job.make() if not job.is_over.is_set() else iter(())
            for item in steps:
                if job.is_over.is_set():
                    break
                if time.monotonic() - began > self.seconds:
                    last = InputError(f"stopped: took longer than {self.seconds:g} s; fewer steps take less")
                    break
                _say(job, item)
            if hasattr(steps, "close"):
                steps.close()
        except InputError as error:
            last = error
        except Exception as error:  # the page goes on
            traceback.print_exc(file=sys.stderr)
            last = RuntimeError(type(error).__name__)
        job.is_over.set()
        _say(job, last)


def _say(job: _Job, item: Any) -> None:
    """Tell it, unless the server has closed meanwhile."""
    try:
        job.tell(item)
    except RuntimeError:  # its loop is closed
        job.is_over.set()
