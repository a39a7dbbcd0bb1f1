"""Runs of train.py in processes of their own that begin with everything imported: forks of one server.

The server imports once, as served.py says. A run, and every process that Lightning starts for it, is a fork that goes
through the command line's ``main`` as train.py does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from lightning.pytorch.strategies.launchers import subprocess_script
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from locinv_pl.cli.main import main

# Lightning leaves these in the environment of a process that has run a Trainer.
MARKS = {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"}


def write_namesakes(folder: Path) -> None:
    """Packages of the names of this project's folders, of which nothing may be imported."""
    for name in ("callbacks", "configs", "datamodules"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"raise ImportError('not {name}')")


@cache
def server() -> Any:
    """The server, once it has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "served"])
    with pytest.MonkeyPatch.context() as patch:
        here = Path(__file__).parent
        patch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent)]))
        first = context.Process(target=os.getpid)
        first.start()
        first.join()
    return context


class Forked:
    """A process of ``train.py WORDS...`` with subprocess.Popen's face, as Lightning's launcher and observer see it."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None, cwd: str | None = None) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.environ.update(env or {})
            sys.argv = ["train.py", *command[2:]]
            main()
            code = 0
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        if self.returncode is None:
            with suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Signal it, if it lives."""
        if self.poll() is None:
            os.kill(self.pid, signum)


def begin(log: str, folder: str, environment: dict[str, str], run: Callable[..., int], words: list[str]) -> None:
    """What ``run`` does, in a fork of the server: a session of its own, whose output goes to a file."""
    os.setsid()
    os.fsync = lambda number: None  # type: ignore[assignment]  # as in conftest.py
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    for mark in MARKS:
        os.environ.pop(mark, None)
    os.environ.update(environment)
    os._exit(run(words))


def train(words: list[str]) -> int:
    """``train.py WORDS...``, the processes it starts forks like itself; its exit code."""
    subprocess_script.subprocess = SimpleNamespace(Popen=Forked)  # type: ignore[attr-defined]
    first = Forked(["python", "train.py", *words])
    while first.poll() is None:
        time.sleep(0.005)
    return first.returncode % 256  # type: ignore[operator]


def torchrun(words: list[str]) -> int:
    """torchrun's agent of one node of two, which forks its worker in place of starting a Python; its exit code.

    The first word is the endpoint where the nodes meet.
    """
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # so it may have children
    config = LaunchConfig(
        min_nodes=2,
        max_nodes=2,
        nproc_per_node=1,
        run_id="1",
        rdzv_backend="c10d",
        rdzv_endpoint=words[0],
        local_addr="127.0.0.1",
        max_restarts=1,
        start_method="fork",
    )
    elastic_launch(config, work)(words[1:])
    return 0


def work(words: list[str]) -> None:
    """A worker of torchrun's."""
    sys.argv = ["train.py", *words]
    main()


class Run:
    """A run of train.py; all its processes can be found, since they are a session.

    Args:
        log: its output goes there.
        words: the command's.
        run: what its first process does.
        environment: more of it.
    """

    def __init__(
        self, log: Path, words: list[str], run: Callable[[list[str]], int] = train, **environment: str
    ) -> None:
        about = (str(log), os.getcwd(), environment, run, words)
        self.process = server().Process(target=begin, args=about, daemon=True)
        self.process.start()
        self.log = log

    def processes(self) -> list[int]:
        """Those that live, the first rank first."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid != int(entry.name) and fields[0] != "Z":
                    found.append(int(entry.name))
        return sorted(found)

    def wait(self, seconds: float) -> int | None:
        """The exit code, if the first rank ends within that time."""
        self.process.join(seconds)
        return self.process.exitcode

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        return self.wait(0)

    def communicate(self) -> tuple[str, None]:
        """What it has printed."""
        return self.log.read_text(), None

    def kill(self) -> None:
        """End what is left of it."""
        while left := self.processes():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self.wait(10)
