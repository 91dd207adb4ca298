"""One run at a time in a run folder. Ours.

A POSIX record lock (fcntl.lockf), not flock: it ends with the process that took it, so none is ever
stale, and the loader processes that it forks do not keep it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
import time
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None

NAME = ".lock"
ASK_EVERY_S = 0.2
TAKEN = (errno.EAGAIN, errno.EACCES)  # POSIX leaves the choice
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# A process never waits for its own record lock, and closing any descriptor of the file gives it up:
# what this process holds must be known without opening it. (pid, file)
_held: set[tuple[int, Path]] = set()


class RunFolderError(ValueError):
    """A run folder that cannot be locked. Names it and the remedy."""


class RunFolderTaken(RunFolderError):
    """Another run is in this folder."""


class RunLock:
    """A run folder that is this process's until `release`, or the end of a with block."""

    def __init__(self, file: Path, descriptor: int | None):
        self._key = (os.getpid(), file)
        self._descriptor = descriptor
        if descriptor is not None:
            _held.add(self._key)

    def release(self) -> None:
        """Let others have the folder. Nothing where that was done, or in a forked child."""
        if self._descriptor is None or self._key[0] != os.getpid():
            return
        _held.discard(self._key)
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)  # the file stays: another may have it open already
        os.close(self._descriptor)
        self._descriptor = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def hold(folder: Path, *, patience_s: float = 10.0) -> RunLock:
    """Take the lock of a run folder, <folder>/.lock, which says who holds it.

    Where there are no such locks, by system or file system, a line says so and the run goes on.

    Args:
        folder: the run folder; made if need be.
        patience_s: seconds to wait for a run in it that may be ending (killed, restarted).

    Raises:
        RunFolderTaken: another run, or this process, holds it; names pid, host and start.
        RunFolderError: the folder cannot be made, or nothing can be written in it.
    """
    file = folder.resolve() / NAME
    if (os.getpid(), file) in _held:
        raise RunFolderTaken(
            f"{folder}: this process has a run in it already, which must end first"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return _without(file, "this system has no record locks")
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunFolderError(
            f"{folder}: a run cannot write here ({error}); choose another run.folder or run.name"
        ) from error
    try:
        _lock(descriptor, folder, patience_s)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _holder().encode(errors="replace"), 0)
    except OSError as error:
        os.close(descriptor)
        if error.errno in NO_LOCKS:
            return _without(file, str(error))
        raise RunFolderError(f"{folder}: its lock cannot be taken ({error})") from error
    except BaseException:
        os.close(descriptor)
        raise
    return RunLock(file, descriptor)


def _lock(descriptor: int, folder: Path, patience_s: float) -> None:
    """Wait for the lock, at most so long; then RunFolderTaken."""
    end, is_told = time.monotonic() + patience_s, False
    while True:
        try:
            return fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
            holder = holder or "it has not said who it is"
            if time.monotonic() >= end:
                raise RunFolderTaken(
                    f"{folder}: another run is in this folder ({holder}); choose another run.name, "
                    "or stop that run"
                ) from error
        if not is_told:
            print(f"{folder}: waiting {patience_s:g} s for another run ({holder})", flush=True)
            is_told = True
        time.sleep(ASK_EVERY_S)


def _holder() -> str:
    start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return f"pid {os.getpid()} on {platform.node()} since {start}: {' '.join(sys.argv)}\n"


def _without(file: Path, reason: str) -> RunLock:
    print(f"{file}: no lock ({reason}); see to it that no other run is in this folder", flush=True)
    return RunLock(file, None)
