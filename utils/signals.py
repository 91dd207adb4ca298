"""Being asked to stop, by whoever runs the machine or by Ctrl-C. Ours.

A signal only leaves a note; the run reads it when a step is finished, saves, and goes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

ASKING = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGUSR1,
)  # kill and scancel, Ctrl-C, SLURM's warning
SAME_CTRL_C_SECONDS = 1.0  # torchrun sends on what the terminal has sent to everybody already


class Stopped(Exception):
    """The run was asked to stop and has saved what it had."""


class StopRequest:
    """Whether this process was asked to stop, while inside `with`.

    A second SIGINT does not wait for the step: it raises KeyboardInterrupt where it comes. SIGUSR2
    asks for nothing: it prints where every thread is. Only the main thread can take signals; in
    another one nothing changes.

    Attributes:
        signal: the number of the first signal that came, or None.
    """

    def __init__(self):
        self.signal: int | None = None
        self._since = 0.0
        self._before: dict[int, object] = {}

    @property
    def is_asked(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> StopRequest:
        try:
            self._before = {number: signal.signal(number, self._note) for number in ASKING}
        except ValueError:  # not the main thread
            return self
        faulthandler.register(signal.SIGUSR2, all_threads=True, file=sys.__stderr__)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.is_asked:
            if number == signal.SIGINT and now - self._since > SAME_CTRL_C_SECONDS:
                raise KeyboardInterrupt
            return
        self.signal, self._since = number, now


class LoaderDeaths:
    """That a loader process died is heard only where a batch is awaited, while inside `with`.

    PyTorch's handler of SIGCHLD raises wherever the main thread happens to be, in the middle of the
    optimiser's step for one, and then nothing whole is left to save.
    """

    def __init__(self):
        self._before: object = None
        self._noted = self._listening = False

    def __enter__(self) -> LoaderDeaths:
        with contextlib.suppress(ValueError):  # not the main thread
            self._before = signal.signal(signal.SIGCHLD, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGCHLD, self._before)
            self._before = None

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Around the fetch of a batch; raises what PyTorch's handler raises."""
        self._listening = True
        try:
            self._tell()
            yield
        finally:
            self._listening = False

    def _note(self, _: int, __: FrameType | None) -> None:
        self._noted = True
        if self._listening:
            self._tell()

    def _tell(self) -> None:
        if self._noted and callable(self._before):
            self._noted = False
            self._before(signal.SIGCHLD, None)
