"""Full disks and file systems that refuse: what was saved before is never lost.

Rows are those of the list of faults that a run must survive.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from saving import check_whole, child, listing, save

from utils import whole_files
from utils.checkpoint import (
    KEYS,
    CheckpointError,
    CheckpointNotWritten,
    find_resume,
    load_checkpoint,
    save_checkpoint,
)

NO_DISK = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
def with_disk_for(num_bytes):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if num_bytes is None else num_bytes, hard))
save(folder, 1)
with_disk_for(int(sys.argv[2]))
try:
    save(folder, 2, num_values=1_000_000)
    told = None
except CheckpointNotWritten as error:
    told = str(error)
left = sorted(path.name for path in folder.iterdir())
with_disk_for(None)
save(folder, 3)
print(json.dumps([told, left]))
"""


@pytest.mark.parametrize("num_bytes", [0, 1_500_000], ids=["at the first write", "mid-file"])
def test_a_full_disk_leaves_the_old_checkpoint_and_no_rubbish(tmp_path, num_bytes):
    """(rows 3, 4)"""
    code, printed = child(NO_DISK, tmp_path, num_bytes)
    told, left = json.loads(printed)
    assert code == 0
    assert told.startswith(f"{tmp_path / 'step_000002.pt'}: could not be written (")
    assert "File too large" in told and "is the disk full?" in told and "\n" not in told
    assert left == ["last.pt", "last.pt.sha256", "step_000001.pt", "step_000001.pt.sha256"]
    assert load_checkpoint(tmp_path / "step_000001.pt")["step"] == 1
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 3  # the disk has space again


def test_too_little_free_space_is_told_before_anything_is_written(tmp_path, monkeypatch):
    """(row 5)"""
    state = dict.fromkeys(KEYS) | {"format_version": 1, "network": torch.ones(2**18)}  # 1 MiB
    usage = shutil.disk_usage(tmp_path)
    save_checkpoint(tmp_path, {**state, "step": 1}, keep_last=2, best=False)
    before = listing(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(1.05 * 2**20)))
    with pytest.raises(CheckpointNotWritten, match=r"1\.1 MiB are needed, 1\.0 MiB are free"):
        save_checkpoint(tmp_path, {**state, "step": 2}, keep_last=2, best=True)
    assert listing(tmp_path) == before
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(1.15 * 2**20)))
    save_checkpoint(tmp_path, {**state, "step": 2}, keep_last=2, best=True)


def test_without_hard_links_names_are_whole_copies(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError("no hard links here")

    assert save(tmp_path, 1).samefile(tmp_path / "last.pt")
    monkeypatch.setattr(os, "link", no_links)
    path = save(tmp_path, 2, best=True)
    for name in ("last.pt", "best.pt"):
        assert not path.samefile(tmp_path / name)
        assert (tmp_path / name).read_bytes() == path.read_bytes()
        assert whole_files.noted_sha256(tmp_path / name) == whole_files.file_sha256(path)
    assert not list(tmp_path.glob("*.tmp.*"))


@pytest.mark.parametrize("name", ["step_000002.pt", "last.pt", "best.pt"])
def test_a_place_that_cannot_be_written_is_named_and_the_rest_stays(tmp_path, name):
    save(tmp_path, 1)
    (tmp_path / f"{name}.sha256").unlink(missing_ok=True)
    (tmp_path / f"{name}.sha256" / "in the way").mkdir(parents=True)
    with pytest.raises(CheckpointNotWritten, match=f"/{name}: could not be written"):
        save(tmp_path, 2, best=True)
    assert not list(tmp_path.glob("*.tmp.*"))
    shutil.rmtree(tmp_path / f"{name}.sha256")
    check_whole(tmp_path)
    assert find_resume(tmp_path, "must")["step"] == (1 if name.startswith("step") else 2)


def test_a_folder_that_cannot_be_made_is_not_written_to(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointNotWritten, match=r"step_000001\.pt: could not be written"):
        save(tmp_path / "checkpoints", 1)
    assert issubclass(CheckpointNotWritten, CheckpointError)


def test_an_old_file_that_cannot_be_deleted_is_said_and_training_goes_on(
    tmp_path, monkeypatch, capsys
):
    """(row 16)"""
    unlink = Path.unlink

    def refuses_the_first(path, **options):
        if path.name.startswith("step_000001.pt"):
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, **options)

    for step in (1, 2):
        save(tmp_path, step)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuses_the_first)
        for step in (3, 4):
            save(tmp_path, step)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2 and "step_000001.pt: could not be deleted ([Errno 13]" in told[0]
    assert {f"step_00000{k}.pt" for k in (1, 3, 4)} < listing(tmp_path).keys()
    assert "step_000002.pt" not in listing(tmp_path)
    save(tmp_path, 5)  # and the one that was left goes with the next
    assert sorted(path.name for path in tmp_path.glob("step_*.pt")) == [
        "step_000004.pt", "step_000005.pt",
    ]  # fmt: skip
    check_whole(tmp_path)


def test_nothing_takes_its_place_before_it_is_on_the_disk(tmp_path, monkeypatch):
    """A power cut loses what was only given to the system: renames must not come first."""
    flushed, last = set(), []
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(descriptor):
        fsync(descriptor)
        flushed.add(os.fstat(descriptor).st_ino)
        last.append(os.fstat(descriptor).st_ino)

    def checking_replace(path, target):
        assert path.stat().st_ino in flushed, path
        last.append(path)
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", checking_replace)
    save(tmp_path, 1, best=True)
    assert sum(isinstance(entry, Path) for entry in last) == 6
    assert last[-1] == tmp_path.stat().st_ino
