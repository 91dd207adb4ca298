"""Standard output whose reader may leave, as in `python train.py | head`. Ours."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class LastingOutput:
    """A text stream over a file descriptor. Once nobody reads it, what is written is dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self) -> None:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, self._stream.fileno())  # what the stream still holds goes there too
        os.close(silence)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Within, and when the interpreter ends, a closed pipe at standard output stops nothing."""
    output = LastingOutput(sys.stdout)
    with contextlib.redirect_stdout(output):
        try:
            yield
        finally:
            output.flush()
