"""Files that are whole or not there, each with the sha256 of its content beside it. Ours.

A file is written beside its place, flushed to the disk and renamed. At no moment does it lie beside
the sha256 of other content: the old one goes before the file is replaced, the new one comes after.
In between there is none, and the file is whole all the same. Trouble is an OSError, or whatever
else the writer raises.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

# what file systems say that cannot flush a folder; the files in it are flushed
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def put(
    path: Path, write: Callable[[BinaryIO], object], *, at: Callable[[str], object] | None = None
) -> None:
    """Make what `write` writes the content of `path`, and its sha256 what lies beside it.

    Args:
        write: called once with the open file.
        at: called with "before_replace" and "before_sidecar" at these moments.
    """
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path, file_sha256(temporary), at or (lambda _: None))
    finally:
        _drop(temporary)


def put_same(path: Path, source: Path) -> None:
    """Give `path` the content of `source`: a hard link, or a copy where there are no hard links."""
    temporary = _beside(path)
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)  # no second copy on the disk
        except OSError:  # exFAT and some mounts of clusters; a full disk fails the copy as well
            with source.open("rb") as file:
                put(path, lambda copy: shutil.copyfileobj(file, copy))
        else:
            _replace(temporary, path, noted_sha256(source) or file_sha256(source))
    finally:
        _drop(temporary)


def noted_sha256(path: Path) -> str | None:
    """The sha256 that lies beside `path`; "" if it is no text of ours, None if there is none."""
    try:
        words = sidecar(path).read_text(errors="replace").split()
    except FileNotFoundError:
        return None
    return words[0] if words else ""


def is_as_noted(path: Path) -> bool:
    """Whether a file has the sha256 that lies beside it, if one does.

    A running writer may exchange both while the file is read: asked again then.
    """
    noted = noted_sha256(path)
    while noted is not None and noted != file_sha256(path):
        before, noted = noted, noted_sha256(path)
        if noted == before:
            return False
    return True


def remove(path: Path) -> None:
    """Delete a file and what lies beside it, the latter first. Where that fails it is said only."""
    try:
        sidecar(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        print(f"{path}: could not be deleted ({error}); it takes space", flush=True)


def sweep(folder: Path) -> list[Path]:
    """Delete what killed writers left half written in `folder`, and say so.

    For one process that knows that no other is writing there: it holds the run's lock.

    Returns:
        What was deleted.
    """
    removed = []
    for file in sorted(folder.glob("*.tmp.*")):
        try:
            file.unlink()
        except OSError as error:
            print(f"{file}: left by a killed writer, could not be deleted ({error})", flush=True)
            continue
        print(f"{file}: left by a killed writer, deleted", flush=True)
        removed.append(file)
    return removed


def sidecar(path: Path) -> Path:
    """The file with the sha256 of `path`, as `sha256sum --check` reads it."""
    return path.with_name(path.name + ".sha256")


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _replace(
    temporary: Path, path: Path, digest: str, at: Callable[[str], object] = lambda _: None
) -> None:
    """Rename a flushed file to `path` and put its sha256 beside it, both on the disk after."""
    sidecar(path).unlink(missing_ok=True)
    at("before_replace")
    temporary.replace(path)
    at("before_sidecar")
    _put_text(sidecar(path), f"{digest}  {path.name}\n")
    _sync_folder(path.parent)


def _put_text(path: Path, text: str) -> None:
    temporary = _beside(path)
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        _drop(temporary)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp.{os.getpid()}")


def _drop(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # the trouble that led here is the one to tell
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
