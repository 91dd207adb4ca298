"""One run at a time in a run folder: the lock is its process's, and ends with it."""

import contextlib
import errno
import fcntl
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils import run_lock
from utils.run_lock import RunFolderError, RunFolderTaken, hold

HOUSE = Path(__file__).parent.parent
HOLDER = """
import os, sys, time
from pathlib import Path
from utils.run_lock import hold
lock = hold(Path(sys.argv[1]), patience_s=0)
seconds, forks = float(sys.argv[2]), len(sys.argv) > 3
child = os.fork() if forks else None
if child == 0:
    lock.release()  # as a with block would that it leaves by an error; it is not its to release
if child == 0 or not forks:
    print(os.getpid(), flush=True)
time.sleep(60 if child == 0 else seconds)
"""


@contextlib.contextmanager
def holder(folder, seconds=60.0, *words):
    """Another process that holds the lock, and the pid that it, or the fork it makes, prints."""
    command = [sys.executable, "-c", HOLDER, str(folder), str(seconds), *words]
    with subprocess.Popen(command, cwd=HOUSE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_second_run_is_refused_by_name_while_the_first_lives(tmp_path):
    with holder(tmp_path) as (first, _):
        start = time.monotonic()
        with pytest.raises(RunFolderTaken) as refused:
            hold(tmp_path, patience_s=0.5)
        assert 0.5 <= time.monotonic() - start < 5
        assert first.poll() is None
    said = str(refused.value)
    assert said.startswith(f"{tmp_path}: another run is in this folder (pid {first.pid} on ")
    assert platform.node() in said and "another run.name, or stop that run" in said
    assert re.search(r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ: -c ", said)


def test_a_killed_run_leaves_no_lock(tmp_path):
    with holder(tmp_path) as (first, _):
        first.send_signal(signal.SIGKILL)
        first.wait()
        with hold(tmp_path, patience_s=0):
            assert f"pid {os.getpid()} on" in (tmp_path / ".lock").read_text()


def test_a_forked_loader_process_does_not_keep_the_lock_of_a_killed_run(tmp_path):
    with holder(tmp_path, 60.0, "fork") as (first, forked):
        try:
            with pytest.raises(RunFolderTaken, match=f"pid {first.pid} on "):
                hold(tmp_path, patience_s=0)
            first.send_signal(signal.SIGKILL)
            first.wait()
            os.kill(int(forked), 0)  # lives
            hold(tmp_path, patience_s=0).release()
        finally:
            os.kill(int(forked), signal.SIGKILL)


def test_a_run_that_is_ending_is_waited_for(tmp_path, capsys):
    with holder(tmp_path, 1.0) as (first, _), hold(tmp_path):
        assert first.wait(5) == 0
    assert f"waiting 10 s for another run (pid {first.pid} on " in capsys.readouterr().out


def test_another_process_gets_what_was_released_and_only_then(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path):
        with holder(tmp_path) as (refused, _):
            assert refused.wait(20) == 1
        raise ZeroDivisionError
    with holder(tmp_path) as (first, said):
        assert said == str(first.pid) and first.poll() is None


def test_a_released_lock_names_nobody(tmp_path):
    hold(tmp_path).release()
    assert (tmp_path / ".lock").read_text() == ""


def test_the_same_process_may_take_it_again_once_released(tmp_path):
    lock = hold(tmp_path)
    with pytest.raises(RunFolderTaken, match="this process has a run in it already"):
        hold(tmp_path / ".." / tmp_path.name)  # record locks would let it, and lose the first
    lock.release()
    lock.release()
    with hold(tmp_path), hold(tmp_path / "other"), holder(tmp_path) as (refused, _):
        assert refused.wait(20) == 1


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_and_the_run_goes_on(
    tmp_path, monkeypatch, capsys, code
):
    def refuses(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", refuses)
    with hold(tmp_path):
        pass
    assert re.fullmatch(r".*\.lock: no lock \(.*\); see to it .*\n", capsys.readouterr().out)


def test_a_system_without_locks_is_said_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_lock, "fcntl", None)
    with hold(tmp_path / "run"), hold(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert "no record locks" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"choose another run\.folder"):
        hold(tmp_path / "file" / "run")


def test_other_trouble_with_the_lock_is_not_taken_for_another_run(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "lockf", fails)
    with pytest.raises(RunFolderError, match="cannot be taken") as refused:
        hold(tmp_path)
    assert not isinstance(refused.value, RunFolderTaken)
