"""What all processes of a run know together: whether to stop, and who is missing. Ours.

A signal may reach one process only, and one that saves and goes alone leaves the others waiting for
ever. So each step has a word of all: has anybody been asked to stop? The question is on its way
while the next step computes, on the processors' network also where GPUs train, so that nobody waits
for the answer; all have it behind the same step.
"""

from __future__ import annotations

import os
import platform
import time
from datetime import timedelta

import torch
from torch import distributed

from .processes import Process, ProcessLost


class Agreement:
    """Among the processes of a run; alone, a process agrees with itself at once."""

    def __init__(self, process: Process):
        self.process = process
        self._pending: tuple[torch.Tensor, distributed.Work] | None = None
        if process.world_size > 1:
            self._group = distributed.new_group(
                backend="gloo", timeout=timedelta(seconds=process.timeout_s)
            )

    def any_asked(self, asked: bool) -> bool:
        """Whether any process had been asked when it called this the time before.

        Args:
            asked: whether this one has been asked until now.
        """
        if self.process.world_size == 1:
            return asked
        answer = self._answer()
        self._ask(asked)
        return answer

    def any_asked_now(self, asked: bool) -> bool:
        """The same without delay; this waits for all processes."""
        if self.process.world_size == 1:
            return asked
        self._answer()
        self._ask(asked)
        return self._answer()

    def _ask(self, asked: bool) -> None:
        word = torch.tensor(int(asked))
        work = distributed.all_reduce(
            word, distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        self._pending = (word, work)

    def _answer(self) -> bool:
        if self._pending is None:
            return False
        (word, work), self._pending = self._pending, None
        work.wait()
        return bool(word)


def report(process: Process, step: int) -> None:
    """Leave word that this process is about to wait for the others in `step` (1-based)."""
    if process.store is not None:
        where = f"{platform.node()}, pid {os.getpid()}"
        process.store.set(f"reached/{process.rank}", f"{step} {time.time():.0f} {where}")


def missing_processes(process: Process) -> str:
    """Which processes have not come as far as this one, for a message; "" if nobody knows."""
    if process.store is None:
        return ""
    reports = {}
    for rank in range(process.world_size):
        key = f"reached/{rank}"
        try:
            words = process.store.get(key).decode() if process.store.check([key]) else None
        except Exception:  # the store went with the process, or the machine, that kept it
            return "the process that keeps what others last said is gone, rank 0 as a rule"
        if words is None:
            reports[rank] = (0, f"rank {rank} never reached the first step")
            continue
        step, moment, where = words.split(" ", 2)
        ago_s = time.time() - float(moment)
        told = f"rank {rank} ({where}) was last heard of in step {step}, {ago_s:.0f} s ago"
        reports[rank] = (int(step), told)
    own = reports[process.rank][0]
    return "; ".join(told for step, told in reports.values() if step < own)


def explained(error: RuntimeError, process: Process) -> RuntimeError:
    """A failed exchange between processes as ProcessLost; any other error as it is."""
    if process.world_size == 1 or not _is_of_an_exchange(error):
        return error
    missing = missing_processes(process) or "all had come as far as this one"
    first = str(error).strip().split("\n", maxsplit=1)[0]
    return ProcessLost(
        f"rank {process.rank} waited for others in vain: {missing}. See what they say, or "
        f"torchrun's summary; run.timeout_s is {process.timeout_s:g}. ({first})"
    )


def _is_of_an_exchange(error: RuntimeError) -> bool:
    if isinstance(error, distributed.DistError):
        return True
    words = ("gloo", "Timed out", "Connection closed", "Connection reset", "NCCL", "Broken pipe")
    return any(word in str(error) for word in words)
