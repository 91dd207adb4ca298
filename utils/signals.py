"""Being asked to stop, by whoever runs the machine or by Ctrl-C. Ours.

A signal only leaves a note; the run reads it when a step is finished, saves, and goes.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
import time
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
