"""Starts runs of several processes cheaply, and ends them at random moments.

Everything is imported once; a run, and every process that Lightning starts for it, is a fork of this program that
goes through the command line's ``main`` as train.py does.

    python tests/chaos.py disturb COUNT ROOT PICTURES WORDS...   end processes of that many runs at random moments
    python tests/chaos.py stop RANKS ROOT PICTURES WORDS...      tell one process of a run that is under way to end
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import diffusers
import transformers
from lightning.pytorch.strategies.launchers import subprocess_script

import datamodules.coco_edit
import datamodules.scenes  # noqa: F401
from datamodules.entries import Problems
from datamodules.folder import FolderDataModule
from locinv_pl.cli import main

# Lazy imports, which every process would make again.
LAZY = [diffusers.AutoencoderKL, diffusers.DDIMScheduler, diffusers.UNet2DConditionModel]
LAZY += [
    getattr(diffusers, kind.name) for kind in diffusers.schedulers.KarrasDiffusionSchedulers
]  # they know each other
LAZY += [transformers.CLIPTextModel, transformers.CLIPTokenizer]


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


subprocess_script.subprocess = SimpleNamespace(Popen=Forked)  # type: ignore[attr-defined]


class Run:
    """A run in a session of its own, so that all its processes can be found; its output goes to a file."""

    def __init__(self, log: Path, words: list[str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            first = Forked(["python", "train.py", *words])
            while first.poll() is None:
                time.sleep(0.005)
            os._exit(first.returncode % 256)  # type: ignore[operator]
        self.session, self.returncode = pid, None

    def processes(self) -> list[int]:
        """Those that live, the first rank first."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.session and fields[0] != "Z" and int(entry.name) != self.session:
                    found.append(int(entry.name))
        return sorted(found)

    def wait(self, seconds: float) -> int | None:
        """The exit code, if the first rank ends within that time."""
        end = time.monotonic() + seconds
        while self.returncode is None and time.monotonic() < end:
            pid, status = os.waitpid(self.session, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            time.sleep(0.005)
        return self.returncode

    def kill(self) -> None:
        """End what is left of it."""
        while left := self.processes():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self.wait(10)


def disturb(count: int, root: Path, words: list[str]) -> None:
    """Runs 0, 1, … under ``root``, each ended once or twice at a random moment and then left alone.

    Beside them one of a single process that nobody disturbs. The moments lie all over its life; SIGKILL or SIGTERM
    goes to some of a run's processes or to all, and those that are left have up to half a second before they are
    killed, as a scheduler does.
    """
    began = time.monotonic()
    alone = [*words, "trainer.devices=1", f"output={root}/undisturbed"]
    if (code := Run(root / "undisturbed.txt", alone).wait(100)) != 0:
        sys.exit(f"the undisturbed run ended with {code}: {(root / 'undisturbed.txt').read_text()}")
    life = time.monotonic() - began
    for seed in range(count):
        draw, log, command = random.Random(seed), root / f"{seed}.txt", [*words, f"output={root}/{seed}"]
        for _ in range(draw.choice([1, 1, 1, 2])):
            run, moment = Run(log, command), draw.random() * life
            if run.wait(moment) is None and (processes := run.processes()):
                victims = draw.sample(processes, draw.randint(1, len(processes)))
                signum = draw.choice([signal.SIGKILL, signal.SIGTERM])
                numbers = [processes.index(pid) for pid in victims]
                print(f"seed {seed}: {signum.name} to {numbers} of {len(processes)} after {moment:.2f} s", flush=True)
                for pid in victims:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signum)
                run.wait(draw.random() / 2)
            run.kill()
        run = Run(log, command)
        code = run.wait(100)
        run.kill()
        if code != 0:
            sys.exit(f"seed {seed}: the last start ended with {code}: {log.read_text()}")


def stop(ranks: str, root: Path, words: list[str]) -> None:
    """A run for each rank, such as 0,2: SIGTERM to its process while all are at work.

    Prints the run's exit code and who is left.
    """
    for rank in map(int, ranks.split(",")):
        log, output = root / f"stopped{rank}.txt", root / f"stopped{rank}"
        run = Run(log, [*words, "model.num_steps=30", f"output={output}"])
        while run.wait(0.01) is None and len(list((output / "running").glob("*/0001*"))) < 3 * 2:  # batches of two
            pass
        if run.returncode is not None:
            sys.exit(f"rank {rank}: the run ended with {run.returncode}: {log.read_text()}")
        os.kill(run.processes()[rank], signal.SIGTERM)
        print(run.wait(20), run.processes())
        run.kill()


if __name__ == "__main__":
    what, number, root, pictures, *words = sys.argv[1:]
    FolderDataModule(pictures).read(32, Problems())  # reads the dictionary
    words += ["data=folder", f"data.root={pictures}"]
    if what == "disturb":
        disturb(int(number), Path(root), words)
    else:
        stop(number, Path(root), words)
