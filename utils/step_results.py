"""Whether steps were made, learned without waiting for the device. Ours."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

LAG = 2  # steps; a GPU has long done what was queued before them


class StepResult(NamedTuple):
    """How a 0-based step went, and the ids of the frames that it was made of.

    `finite`: whether it was made, the same on all processes. `own_finite`: whether the losses of
    this process were finite.
    """

    step: int
    finite: bool
    own_finite: bool
    frame_ids: list[str]


class StepResults:
    """Flags on the device -> results on the host, in order, without waiting for the device.

    On a GPU a step is queued long before it is computed. A flag is copied behind it, and looked at
    `LAG` steps later, at the same step by all processes; on a CPU at once.
    """

    def __init__(self):
        self._waiting: deque[tuple[int, Tensor, list[str], torch.cuda.Event | None]] = deque()

    def add(self, step: int, finite: Tensor, own_finite: Tensor, frame_ids: list[str]) -> None:
        """`finite` of `update`, `own_finite` of `backward`: scalar bool tensors."""
        flags, arrived = torch.stack([finite, own_finite]), None
        if flags.is_cuda:
            flags = flags.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._waiting.append((step, flags, frame_ids, arrived))

    def known(self, *, wait: bool = False) -> list[StepResult]:
        """Those known since the last call; with `wait` all of them."""
        results = []
        while self._waiting:
            step, flags, frame_ids, arrived = self._waiting[0]
            if arrived is not None:
                if not wait and self._waiting[-1][0] - step < LAG:
                    break
                arrived.synchronize()
            results.append(StepResult(step, *map(bool, flags), frame_ids))
            self._waiting.popleft()
        return results
