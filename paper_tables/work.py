"""Cells being worked on: their commands as processes, their locks, and the time they take. Ours.

A cell is never trained by two processes at once. Its lock is held by its commands too, so one that
outlives its table keeps others away until it ends; and Linux ends it when its table is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from paper_tables.cells import (
    EVALUATION,
    TRAINING,
    TableError,
    Task,
    write_json,
    write_record,
)

GRACE_S = 60.0  # what a stopped training may take to save
ENDS_WITH_PARENT = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})  # PR_SET_PDEATHSIG, which outlives exec
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@dataclass
class Work:
    """A cell that is being worked on.

    Attributes:
        lock: descriptor of its lock.
        env: variables of its commands on top of this process's: its GPU, its threads.
        stage: TRAINING or EVALUATION.
        process: the command of the stage.
        started: time.monotonic() at its start.
        first_step: steps that were done before.
        seconds: spent by stage before this command, over all starts.
    """

    task: Task
    lock: int
    env: Mapping[str, str]
    stage: str
    process: subprocess.Popen
    started: float
    first_step: int
    seconds: dict[str, float]


def begin(task: Task, lock: int, env: Mapping[str, str]) -> Work:
    """Start, or go on with, a cell whose lock is held."""
    process, done = _start(task, TRAINING, lock, env), steps_done(task.folder)
    seconds = _read_seconds(task.folder)
    return Work(task, lock, env, TRAINING, process, time.monotonic(), done, seconds)


def advance(work: Work) -> int | None:
    """Go on from training to evaluation to cell.json. The exit code of a cell that has ended."""
    code = work.process.poll()
    if code is None:
        return None
    note_seconds(work)
    if code == 0 and work.stage == TRAINING:
        work.stage, work.seconds = EVALUATION, _read_seconds(work.task.folder)
        work.process = _start(work.task, EVALUATION, work.lock, work.env)
        work.started = time.monotonic()
        return None
    if code == 0:
        write_record(work.task, _read_seconds(work.task.folder))
    os.close(work.lock)
    return code if code >= 0 else 128 - code  # ended by a signal: as a shell counts it


def stop(works: Iterable[Work]) -> None:
    """End the commands: each is asked to and may save what it has, then its group is killed."""
    running = [work for work in works if work.process.poll() is None]
    if running:
        print(f"ending {len(running)} commands; the same words go on with their cells", flush=True)
    try:
        for work in running:
            work.process.terminate()  # not its loaders: to it their death would be an error
        deadline = time.monotonic() + GRACE_S
        for work in running:
            work.process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        print("killing what has not ended by itself", flush=True)
    finally:
        for work in running:
            with contextlib.suppress(ProcessLookupError):  # nobody is left
                os.killpg(work.process.pid, signal.SIGKILL)
            work.process.wait()
            note_seconds(work)


def _start(task: Task, stage: str, lock: int, env: Mapping[str, str]) -> subprocess.Popen:
    """A command of a cell in a group of its own: Ctrl-C is for the table. It speaks to a log."""
    with (task.folder / f"{stage}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", ENDS_WITH_PARENT, *task.command(stage)],
            env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, pass_fds=[lock],
        )  # fmt: skip
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {process.pid} on {socket.gethostname()}\n".encode(), 0)
    return process


def take_lock(folder: Path) -> int | None:
    """Descriptor of the lock of a cell; None while someone, an orphan perhaps, works on it.

    Raises TableError where the folder cannot be written, or its file system knows no locks.
    """
    descriptor = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise TableError(f"{folder}: cannot be locked ({error}); choose another --out") from error
    return descriptor


def lock_holder(folder: Path) -> str:
    """Who works on a cell, as "process 123 on host"."""
    return (folder / "lock").read_text().strip() or "another process"


def steps_done(folder: Path) -> int:
    """Optimiser steps that metrics.jsonl of a run folder knows of."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):  # cut off; the line before is whole
            continue
    return 0


def note_seconds(work: Work) -> None:
    """Keep what the stage has taken so far; where a table is killed, little of it is lost."""
    spent = work.seconds.get(work.stage, 0.0) + time.monotonic() - work.started
    write_json(work.task.folder / "seconds.json", {**work.seconds, work.stage: spent})


def _read_seconds(folder: Path) -> dict[str, float]:
    try:
        return json.loads((folder / "seconds.json").read_text())
    except (OSError, ValueError):
        return {}


def places(jobs: int | None, tasks: Sequence[Task]) -> list[dict[str, str]]:
    """Variables of the commands of each cell that runs beside others: its GPU, its threads.

    As many as `jobs`; None: one a visible GPU or else a core, and no more than there are cells.
    Two trainings of two threads on two cores are many times slower than two of one.
    """
    cores = len(os.sched_getaffinity(0))
    on_cpu = all(task.config["run"]["device"] == "cpu" for task in tasks)
    count = 0 if on_cpu else torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",")[:count] if named else [str(number) for number in range(count)]
    jobs = jobs or min(len(tasks), len(gpus) or cores)
    # the number of threads decides how sums are rounded: not by what is left of the table
    env = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // jobs)))}
    return [
        env | ({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {})
        for place in range(jobs)
    ]
