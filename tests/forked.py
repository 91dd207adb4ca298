"""The scripts in forks of this process: as a user runs them, without five seconds of imports each.

A fork has its own signals, environment and exit code, and may kill itself. It trains on the CPU: a
fork of a process that has looked for a GPU can use none.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from evaluate import USER_ERRORS
from utils.command_line import run_script

WAIT_SECONDS = 120


@dataclass
class Ended:
    """Exit code as a shell counts it (128 + signal), and everything that was printed."""

    code: int
    stdout: str
    stderr: str


class Fork:
    """A script that runs; `end` waits for it."""

    def __init__(self, script: str, words: Sequence[str], folder: Path, env: dict[str, str]):
        self.files = [folder / f"{script}_{os.urandom(4).hex()}.{name}" for name in ("out", "err")]
        main = importlib.import_module(script.removesuffix(".py")).main
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # this process has threads, that of pytest-xdist
            self.pid = os.fork()
        if self.pid == 0:
            self._become(main, [*words, "run.device=cpu"], env)

    def _become(self, main, words: list[str], env: dict[str, str]) -> None:
        code = 1
        try:
            os.environ.update(env)
            for number, file in zip((1, 2), self.files, strict=True):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
            sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = run_script(lambda: main(words), USER_ERRORS)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    @property
    def stdout(self) -> str:
        return self.files[0].read_text() if self.files[0].exists() else ""

    def wait_for(self, text: str) -> None:
        """Until it has printed `text`."""
        end = time.monotonic() + WAIT_SECONDS
        while text not in self.stdout:
            assert time.monotonic() < end, f"{text!r} never came: {self.stdout}"
            time.sleep(0.02)

    def end(self) -> Ended:
        """Wait for its end; a fork that does not end is killed, and that is an error."""
        end = time.monotonic() + WAIT_SECONDS
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"did not end: {self.stdout}{self.files[1].read_text()}")
            time.sleep(0.02)
        code = os.waitstatus_to_exitcode(status)
        code = 128 - code if code < 0 else code
        return Ended(code, self.stdout, self.files[1].read_text())


def run_forked(script: str, *words: str, code: int = 0, **env: str) -> Ended:
    """Run to the end; fail with the whole output on any other exit code."""
    with TemporaryDirectory() as folder:
        ended = Fork(script, words, Path(folder), env).end()
    assert ended.code == code, f"{ended.code}: {ended.stdout}{ended.stderr}"
    return ended


def run_forked_ranks(script: str, *words: str, ranks: int = 2, **env: str) -> list[Ended]:
    """Several processes of one group, without torchrun; each with its own exit code."""
    with socket.socket() as free, TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]),
                 "WORLD_SIZE": str(ranks), **env}  # fmt: skip
        free.close()
        forks = [
            Fork(script, words, Path(folder), {**group, "RANK": str(r), "LOCAL_RANK": str(r)})
            for r in range(ranks)
        ]
        return [fork.end() for fork in forks]
