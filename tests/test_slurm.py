"""The batch script of one training: signals reach it, it saves, and the job is queued again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import HOUSE, TINY
from forked import run_forked_ranks
from test_resume import check_same_run

SLURM = HOUSE / "slurm" / "train.sbatch"
SCONTROL = """#!/bin/sh
[ "$1" = show ] || { echo "$@" >> "$HERE/scontrol.txt"; exit; }
touch "$HERE/asked_for_hosts"
sleep "${SLOW:-0}"
echo localhost
"""
# what it starts gets the signals that it gets; a "machine" is a process here
SRUN = """#!/bin/bash
echo "$@" >> "$HERE/srun.txt"
while [[ $1 == --* ]]; do shift; done
[ "$SLURM_NNODES" = 1 ] && exec "$@"
for machine in $(seq "$SLURM_NNODES"); do "$@" & tasks+=("$!"); done
trap 'kill -TERM "${tasks[@]}"' TERM
for task in "${tasks[@]}"; do
    while kill -0 "$task" 2>/dev/null; do wait "$task"; done
    wait "$task" || code=$?
done
exit "${code:-0}"
"""
# ends with the code it is given: at once, or when there is a file `end`; says what it is sent
PYTHON = """#!/bin/bash
trap 'echo told; [ -z "$ENDS_AT_ONCE" ] || exit "$CODE"' TERM
echo ready
until [ -n "$IS_SHORT" ] || [ -e "$HERE/end" ]; do sleep 0.05; done
exit "$CODE"
"""


class Job:
    """The batch script as a node runs it, with a `srun` and a `scontrol` of ours."""

    def __init__(self, folder: Path, *words: str, python: str = "", **env: str):
        self.folder = folder
        bin_ = folder / "bin"
        bin_.mkdir(exist_ok=True)
        for name, text in {"scontrol": SCONTROL, "srun": SRUN, "python": PYTHON}.items():
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)
        self.process = subprocess.Popen(
            ["bash", str(SLURM), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
            env={
                **os.environ, "HERE": str(folder), "PYTHON": python or str(bin_ / "python"),
                "PATH": f"{bin_}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(HOUSE),
                "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "1",
                **env,
            },
        )  # fmt: skip

    def wait_for(self, text: str) -> None:
        """Until it has printed `text`."""
        for line in self.process.stdout:
            if text in line:
                return
        raise AssertionError(f"{text!r} never came")

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = 60) -> tuple[int, str]:
        """Exit code and what it printed since."""
        try:
            told = self.process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # what it started holds on to the pipe
            raise
        return self.process.returncode, told

    @property
    def requeued(self) -> list[str]:
        noted = self.folder / "scontrol.txt"
        return noted.read_text().splitlines() if noted.exists() else []


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_a_run_that_ends_by_itself_is_not_queued_again(tmp_path, code):
    job = Job(tmp_path, "train.py", "run.name=a b", IS_SHORT="1", CODE=str(code),
              SLURM_GPUS_ON_NODE="8", SLURM_CPUS_PER_TASK="6")  # fmt: skip
    assert job.end()[0] == code and job.requeued == []
    started = (tmp_path / "srun.txt").read_text()
    for words in (
        "--cpus-per-task=6 ", "-m torch.distributed.run --nnodes 1 --nproc-per-node 8 ",
        "--rdzv-endpoint localhost:10077 --rdzv-id 77 ", " train.py run.name=a b\n",
    ):  # fmt: skip
        assert words in started


def test_without_a_script_to_run_it_says_how_to_start_it(tmp_path):
    code, told = Job(tmp_path).end()
    assert code == 2 and "which script?" in told and not (tmp_path / "srun.txt").exists()


@pytest.mark.parametrize(
    ("numbers", "code", "requeued"),
    [
        ([signal.SIGUSR1], 1, ["requeue 77"]),  # torchrun's code after a signal
        ([signal.SIGUSR1], 143, ["requeue 77"]),
        ([signal.SIGUSR1], 0, []),  # it was about to end anyway
        ([signal.SIGTERM], 1, []),  # scancel: who ends a job does not want it back
        ([signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM], 1, ["requeue 77"]),
    ],
)
def test_a_signal_is_passed_on_once_and_the_jobs_end_is_awaited(tmp_path, numbers, code, requeued):
    job = Job(tmp_path, "train.py", CODE=str(code))
    job.wait_for("ready")
    for number in numbers:
        job.send(number)
        time.sleep(0.2)
    assert job.process.poll() is None and job.requeued == []  # it ends when the training has ended
    (tmp_path / "end").touch()
    ended, told = job.end()
    assert ended == code and told.count("told\n") == 1
    assert job.requeued == requeued


def test_a_signal_before_anything_is_started_is_not_lost(tmp_path):
    job = Job(tmp_path, "train.py", CODE="0", SLOW="0.5")
    while not (tmp_path / "asked_for_hosts").exists():
        time.sleep(0.01)
    job.send(signal.SIGUSR1)
    assert job.end(timeout=10)[0] == 143  # SIGTERM ended what had just begun
    assert job.requeued == ["requeue 77"]


def test_a_signal_while_something_is_started_is_not_lost(tmp_path):
    """At forty moments, from before `srun` is there to after its task is."""
    for moment in range(40):
        for file in ("asked_for_hosts", "scontrol.txt"):
            (tmp_path / file).unlink(missing_ok=True)
        job = Job(tmp_path, "train.py", CODE="1", ENDS_AT_ONCE="1")
        while not (tmp_path / "asked_for_hosts").exists():
            time.sleep(0.001)
        time.sleep(moment / 1000)
        job.send(signal.SIGUSR1)
        job.end(timeout=10)
        assert job.requeued == ["requeue 77"], f"{moment} ms"


@pytest.mark.slow
def test_a_training_on_two_machines_stops_is_queued_again_and_goes_on_bit_for_bit(
    tmp_path, streets
):
    """Row 23 with a torchrun a machine, found through the first one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster = {"python": sys.executable, "SLURM_NNODES": "2", "RDZV_PORT": str(port),
               "PET_LOCAL_ADDR": "localhost", "OMP_NUM_THREADS": "1"}  # fmt: skip
    words = [*TINY, *(f"{name}.root={streets}" for name in ("labeled", "validation")),
             f"run.folder={tmp_path / 'runs'}", "train.num_steps=60", "evaluation.every_steps=30",
             "samples.every_steps=30", "save.every_steps=30"]  # fmt: skip
    job = Job(tmp_path, "train.py", *words, "run.name=run", **cluster)
    job.wait_for("step 2/60")
    job.send(signal.SIGUSR1)
    code, told = job.end()
    assert code == 1 and told.count("steps are saved, the same command goes on") == 2
    assert job.requeued == ["requeue 77"]
    again = Job(tmp_path, "train.py", *words, "run.name=run", SLURM_RESTART_COUNT="1", **cluster)
    code, told = again.end()
    assert code == 0 and "going on after step" in told and again.requeued == ["requeue 77"]
    run_forked_ranks("train.py", *words, "run.name=whole")
    check_same_run(tmp_path / "runs" / "whole", tmp_path / "runs" / "run")
