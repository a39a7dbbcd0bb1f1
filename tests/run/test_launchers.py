"""Runs under torchrun, under SLURM and by several jobs at once: processes die, the results stay the same."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import write_images
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from processes import Run, torchrun

from locinv_pl.cli.main import main
from locinv_pl.io.files import read_json

ROOT = Path(__file__).parents[2]
COUNT, T = 4, 5
IDS = [f"p{n}" for n in range(COUNT)]
SLURM = {"NTASKS": 1, "NTASKS_PER_NODE": 1, "NNODES": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_ID": 1234}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def command(tiny_folder, tmp_path_factory) -> list[str]:
    """A short run over four images; its devices and its output are still to name."""
    root = tmp_path_factory.mktemp("data") / "pictures"
    write_images(root, COUNT)
    return [
        "data=folder",
        f"data.root={root}",
        "data.size=32",
        "data.batch_size=1",
        f"backbone={tiny_folder}",
        f"model.num_steps={T}",
        "model.resolution=8",
        "method.tokens.max_steps=2",
        "method.null_text.max_steps=2",
        "callbacks=plain",
        "trainer.accelerator=cpu",
    ]


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes of the images."""
    root = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py"])
        main([*command, "trainer.devices=1", f"output={root}"])
    return inversions(root)


def inversions(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((root / "inversions").glob("*.safetensors"))}


def wait_for(there: Callable[[], bool], *processes: Run) -> None:
    """Wait until something is there, while the processes run."""
    began = time.monotonic()
    while not there():
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() - began < 120
        time.sleep(0.01)


def is_whole(root: Path, expected: dict[str, bytes]) -> None:
    """The run has every image once, bit for bit, sums them up and leaves nothing behind."""
    assert inversions(root) == expected
    assert [image["id"] for image in read_json(root / "summary.json")["images"]] == IDS
    assert not list((root / "running").iterdir())


def test_two_torchrun_nodes_share_a_run_and_outlive_a_worker(command, undisturbed, tmp_path):
    run, logs = tmp_path / "run", [tmp_path / f"{n}.txt" for n in range(2)]
    words = [f"127.0.0.1:{find_free_network_port()}", "fit", *command]
    words += ["trainer.num_nodes=2", "trainer.devices=1", f"output={run}"]
    nodes = [Run(log, words, torchrun) for log in logs]
    wait_for(lambda: len(list(run.glob("running/*/0001.safetensors"))) == 2, *nodes)
    os.kill(nodes[1].processes()[0], signal.SIGKILL)
    left = inversions(run)
    assert [node.wait(180) for node in nodes] == [0, 0], [log.read_text() for log in logs]
    assert len(left) < COUNT
    is_whole(run, undisturbed)


def test_slurm_requeues_a_job_and_another_job_helps(command, undisturbed, tmp_path):
    run, bin = tmp_path / "run", tmp_path / "bin"
    bin.mkdir()
    (bin / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (bin / "scontrol").chmod(0o755)
    slurm = {f"SLURM_{key}": str(value) for key, value in SLURM.items()} | {"PATH": f"{bin}:{os.environ['PATH']}"}
    log, job = tmp_path / "log.txt", ["fit", *command, "trainer.devices=1", f"output={run}"]
    first = Run(log, job, **slurm)
    wait_for(lambda: bool(list(run.glob("running/*/0001.safetensors"))), first)
    os.kill(first.processes()[0], signal.SIGUSR1)
    wait_for(lambda: (tmp_path / "asked").exists(), first)
    assert (tmp_path / "asked").read_text() == "requeue 1234\n"
    first.kill()
    assert not list(run.glob("*.ckpt"))
    assert len(inversions(run)) < COUNT
    both = [Run(log, job, **slurm), Run(log, job)]
    assert [job.wait(180) for job in both] == [0, 0], log.read_text()
    is_whole(run, undisturbed)
