"""How fast a run is and what it waits for, on a clock that cannot jump."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator

import torch


class Throughput:
    """Images per second and share of time spent waiting for data, since the last report."""

    def __init__(self, *, images_per_step: int):
        self.images_per_step = images_per_step
        self._start_over()

    def _start_over(self) -> None:
        self.started = time.monotonic()
        self.waited_s = 0.0
        self.steps = 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the fetch of a batch."""
        start = time.monotonic()
        yield
        self.waited_s += time.monotonic() - start
        self.steps += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is not training: evaluation, saving."""
        start = time.monotonic()
        yield
        self.started += time.monotonic() - start

    def report(self) -> dict[str, float]:
        """images_per_s, data_wait_fraction (0 to 1), peak_memory_gib; then starts over."""
        elapsed_s = max(1e-9, time.monotonic() - self.started)
        values = {
            "images_per_s": self.steps * self.images_per_step / elapsed_s,
            "data_wait_fraction": self.waited_s / elapsed_s,
            "peak_memory_gib": peak_memory_gib(),
        }
        self._start_over()
        return values


def peak_memory_gib() -> float:
    """Most memory ever held: of the GPU where there is one, else of this process (resident)."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
