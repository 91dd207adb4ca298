"""Whether steps were made, learned without waiting for the device. Ours."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor


class StepResult(NamedTuple):
    """How a 0-based step went, and the ids of the frames that it was made of."""

    step: int
    finite: bool
    frame_ids: list[str]


class StepResults:
    """Flags on the device -> results on the host, in order, as soon as they are there.

    On a GPU a step is queued long before it is computed. A flag is copied behind it, and looked at
    when the copy has arrived, some steps later; on a CPU that is at once.
    """

    def __init__(self):
        self._waiting: deque[tuple[int, Tensor, list[str], torch.cuda.Event | None]] = deque()

    def add(self, step: int, finite: Tensor, frame_ids: list[str]) -> None:
        """`finite`: scalar bool tensor of `update`."""
        arrived = None
        if finite.is_cuda:
            finite = finite.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._waiting.append((step, finite, frame_ids, arrived))

    def known(self, *, wait: bool = False) -> list[StepResult]:
        """Those that have arrived since the last call; with `wait` all of them."""
        results = []
        while self._waiting:
            step, finite, frame_ids, arrived = self._waiting[0]
            if arrived is not None and not arrived.query():
                if not wait:
                    break
                arrived.synchronize()
            results.append(StepResult(step, bool(finite), frame_ids))
            self._waiting.popleft()
        return results
