"""Loader processes that die or hang, memory that runs out: one message with a remedy, nothing lost.

The datasets of these runs are made of files that do what the fault needs: no reader is replaced.
"""

import itertools
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY
from forked import Fork, run_forked
from PIL import Image

from utils.advice import advice


@pytest.fixture
def words(tmp_path, streets):
    roots = [f"{name}.root={streets}" for name in ("labeled", "validation")]
    return [*TINY, *roots, f"run.folder={tmp_path / 'runs'}", "run.name=run",
            "train.num_workers=1", "train.num_steps=100000", "evaluation.every_steps=100000",
            "save.every_steps=100000"]  # fmt: skip


def loader_of(run: Fork) -> int:
    """Pid of the loader process of a run: its only child."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.02)
    raise AssertionError("no loader process")


def saved_step(tmp_path: Path) -> int:
    folder = tmp_path / "runs" / "run" / "checkpoints"
    return torch.load(folder / "last.pt", weights_only=True)["step"]


def logged_step(run: Fork) -> int:
    lines = [line for line in run.stdout.splitlines() if line.startswith("step ")]
    return int(lines[-1].split()[1].partition("/")[0])


def test_a_killed_loader_process_ends_the_run_with_its_likely_cause_and_a_checkpoint(
    words, tmp_path
):
    """Row 43: what the OOM killer does."""
    run = Fork("train.py", words, tmp_path, {})
    run.wait_for("step 3/")
    os.kill(loader_of(run), signal.SIGKILL)
    ended = run.end()
    assert ended.code == 1 and "Traceback" not in ended.stderr
    assert "no memory left" in ended.stderr and "train.num_workers" in ended.stderr
    assert saved_step(tmp_path) == logged_step(run) >= 3


def test_a_loader_process_that_hangs_ends_the_run_and_shows_where_it_stood(
    words, tmp_path, monkeypatch
):
    """Row 44: as storage does that no longer answers, here to the 30th opening of a file."""
    count, image_open = itertools.count(), Image.open

    def open_slowly(*args, **kwargs):
        if next(count) == 30:
            time.sleep(600)
        return image_open(*args, **kwargs)

    monkeypatch.setattr(Image, "open", open_slowly)
    ended = run_forked("train.py", *words, "train.worker_timeout_s=1", code=1)
    assert "Traceback" not in ended.stderr
    assert "gave no batch for train.worker_timeout_s" in ended.stderr
    assert "in open_slowly" in ended.stderr  # where it stood
    lines = (tmp_path / "runs" / "run" / "metrics.jsonl").read_text().splitlines()
    assert saved_step(tmp_path) == json.loads(lines[-1])["step"] > 0


def test_loader_processes_have_no_ear_for_signals_and_do_not_outlive_the_run(words, tmp_path):
    run = Fork("train.py", words, tmp_path, {})
    run.wait_for("step 2/")
    loader = loader_of(run)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(loader, number)
    os.kill(loader, signal.SIGUSR2)
    steps = logged_step(run)
    run.wait_for(f"step {steps + 20}/")  # more than were made ready before
    os.kill(run.pid, signal.SIGTERM)
    ended = run.end()
    assert ended.code == 143 and "most recent call first" in ended.stderr
    assert not Path(f"/proc/{loader}").exists()


def test_a_run_that_is_killed_takes_its_loader_processes_along(words, tmp_path):
    run = Fork("train.py", words, tmp_path, {})
    run.wait_for("step 2/")
    loader = loader_of(run)
    os.kill(run.pid, signal.SIGKILL)
    assert run.end().code == 137
    end = time.monotonic() + 20
    while Path(f"/proc/{loader}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{loader}").exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
         ["activation_checkpointing", "accumulation", "bf16"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
         ["accumulation"]),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible "
                      "that dataloader's workers are out of shared memory."),
         ["/dev/shm", "num_workers"]),
        (RuntimeError("unable to open shared memory object </torch_7_1> in read-write mode: No "
                      "space left on device (28)"), ["/dev/shm"]),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), ["num_workers"]),
    ],
)  # fmt: skip
def test_what_the_machine_lacks_is_said_with_a_remedy_in_one_line(error, words):
    """Rows 45 and 46."""
    told = advice(error)
    assert all(word in told for word in words) and "\n" not in told


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), KeyError("x"), OSError(5, "I/O")]
)
def test_errors_of_ours_keep_their_traceback(error):
    assert advice(error) is None


def test_out_of_memory_ends_a_run_with_advice_and_a_checkpoint(words, tmp_path, monkeypatch):
    """Row 46: in the forward pass of step 3; the batch is never changed in silence."""
    steps = iter(range(1, 10))

    def forward(self, *args, **kwargs):
        if next(steps) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(self, *args, **kwargs)

    original = torch.nn.Module.__call__
    monkeypatch.setattr("train.SupervisedStep.__call__", forward, raising=False)
    ended = run_forked("train.py", *words, code=1)
    assert "train.activation_checkpointing=true" in ended.stderr
    assert "Traceback" not in ended.stderr and saved_step(tmp_path) == 2
