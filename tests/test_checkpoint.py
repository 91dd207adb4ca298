"""A checkpoint is whole or it is not there; reading one never runs anybody's code."""

import threading

import pytest
import torch

from utils.checkpoint import KEYS, CheckpointError, find_resume, load_checkpoint, save_checkpoint


def state(step, value=0.0):
    filled = dict.fromkeys(KEYS)
    return filled | {"format_version": 1, "step": step, "network": {"w": torch.full((4,), value)}}


def save(folder, step, *, keep_last=2, best=False):
    return save_checkpoint(folder, state(step, float(step)), keep_last=keep_last, best=best)


def test_what_is_saved_is_what_is_read(tmp_path):
    path = save(tmp_path, 7)
    assert load_checkpoint(path)["step"] == 7
    assert torch.equal(load_checkpoint(tmp_path / "last.pt")["network"]["w"], torch.full((4,), 7.0))


@pytest.mark.parametrize("first", [1, 999_997], ids=["six digits", "to seven digits"])
def test_only_the_newest_are_kept_and_best_stays(tmp_path, first):
    """(row 14) By number: as text, step_1000000 is older than step_999999."""
    for step in range(first, first + 6):
        save(tmp_path, step, best=step == first + 1)
        assert find_resume(tmp_path, "auto")["step"] == step
    newest = sorted(f"step_{step:06d}.pt" for step in (first + 4, first + 5))
    kept = sorted(path.name for path in tmp_path.glob("*.pt"))
    assert kept == ["best.pt", "last.pt", *newest]
    assert sorted(tmp_path.glob("*.sha256")) == [tmp_path / f"{name}.sha256" for name in kept]
    assert load_checkpoint(tmp_path / "best.pt")["step"] == first + 1
    assert load_checkpoint(tmp_path / "last.pt")["step"] == first + 5


def test_the_one_just_written_is_kept_whatever_its_number(tmp_path):
    """Who goes on from an older step (resume=PATH) has newer files beside it."""
    for step in (8, 9, 3):
        save(tmp_path, step)
        assert load_checkpoint(tmp_path / "last.pt")["step"] == step
    assert [path.name for path in sorted(tmp_path.glob("step_*.pt"))] == [
        "step_000003.pt", "step_000008.pt", "step_000009.pt",
    ]  # fmt: skip


def test_a_file_of_another_name_is_neither_pruned_nor_gone_on_from(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step_000001.pt").rename(tmp_path / "step_000001_mine.pt")
    save(tmp_path, 2, keep_last=1)
    save(tmp_path, 3, keep_last=1)
    assert (tmp_path / "step_000001_mine.pt").is_file()
    assert find_resume(tmp_path, "auto")["step"] == 3


def test_every_file_has_a_matching_sha256(tmp_path):
    save(tmp_path, 1, best=True)
    for path in tmp_path.glob("*.pt"):
        assert path.with_name(path.name + ".sha256").is_file()
        load_checkpoint(path)


def test_a_file_without_a_sha256_is_read_and_one_beside_rubbish_is_not(tmp_path):
    path = save(tmp_path, 1)
    sidecar = path.with_name(path.name + ".sha256")
    for rubbish in (b"", b"\xff\xfe\x00", b"0" * 64):
        sidecar.write_bytes(rubbish)
        with pytest.raises(CheckpointError, match="does not match its sha256"):
            load_checkpoint(path)
    sidecar.unlink()
    assert load_checkpoint(path)["step"] == 1


def test_reading_while_a_run_writes_never_fails(tmp_path):
    """evaluate.py may look at last.pt at any moment of a training."""
    save(tmp_path, 0)
    done = threading.Event()

    def write():
        for step in range(1, 40):
            save(tmp_path, step)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [0]
        while not done.is_set():
            seen.append(load_checkpoint(tmp_path / "last.pt")["step"])
    finally:
        writer.join()
    assert seen == sorted(seen) and len(set(seen)) > 2


@pytest.mark.parametrize("damage", ["truncated", "bit flip", "empty", "html"])
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    """(rows 7, 8, 9)"""
    path = save(tmp_path, 1)
    content = bytearray(path.read_bytes())
    if damage == "bit flip":
        content[len(content) // 2] ^= 1
    path.write_bytes(
        {"truncated": content[:200], "bit flip": content, "empty": b"", "html": b"<html>"}[damage]
    )
    with pytest.raises(CheckpointError, match=r"step_000001\.pt: does not match its sha256"):
        load_checkpoint(path)
    path.with_name(path.name + ".sha256").unlink()
    if damage != "bit flip":
        with pytest.raises(CheckpointError, match=r"step_000001\.pt"):
            load_checkpoint(path)


def test_damage_to_the_newest_file_damages_last_but_not_the_run(tmp_path, capsys):
    """(row 7) They are one file on the disk."""
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=r"last\.pt: does not match its sha256"):
        load_checkpoint(tmp_path / "last.pt")
    assert find_resume(tmp_path, "auto")["step"] == 1
    assert f"checkpoint skipped: {path}: does not match" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"step_000002\.pt: does not match"):
        find_resume(tmp_path, str(path))  # who names a file gets that one or an error


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    """(row 10)"""
    sentinel = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (open, (str(sentinel), "w"))

    torch.save({**state(1), "network": Payload()}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        load_checkpoint(tmp_path / "bad.pt")
    assert not sentinel.exists()


@pytest.mark.parametrize("version", [0, 99])
def test_another_format_is_refused(tmp_path, version):
    """(row 12)"""
    torch.save({**state(1), "format_version": version}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=f"format {version}, this version reads 1"):
        load_checkpoint(tmp_path / "other.pt")


def test_a_checkpoint_of_an_earlier_version_has_no_progress(tmp_path):
    """(row 19)"""
    earlier = state(4)
    del earlier["progress"]
    torch.save(earlier, tmp_path / "step_000004.pt")
    assert load_checkpoint(tmp_path / "step_000004.pt")["progress"] is None
    assert find_resume(tmp_path, "auto")["step"] == 4
    del earlier["best"]
    torch.save(earlier, tmp_path / "step_000004.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this project"):
        load_checkpoint(tmp_path / "step_000004.pt")


def test_a_state_with_other_keys_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="exactly"):
        save_checkpoint(tmp_path, {"step": 1}, keep_last=1, best=False)


def test_auto_takes_the_newest_or_starts_afresh(tmp_path):
    assert find_resume(tmp_path, "auto") is None
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert find_resume(tmp_path, "auto")["step"] == 2


def test_auto_falls_back_loudly_when_the_newest_is_damaged(tmp_path, capsys):
    save(tmp_path, 1)
    save(tmp_path, 2).write_bytes(b"rubbish")
    assert find_resume(tmp_path, "auto")["step"] == 1
    assert "step_000002.pt" in capsys.readouterr().out


def test_auto_never_starts_afresh_over_damaged_checkpoints(tmp_path):
    save(tmp_path, 1).write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        find_resume(tmp_path, "auto")


def test_must_and_never_mean_what_they_say(tmp_path):
    with pytest.raises(CheckpointError, match="resume=must, but there is no checkpoint"):
        find_resume(tmp_path, "must")
    assert find_resume(tmp_path, "never") is None
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="resume=never, but"):
        find_resume(tmp_path, "never")


def test_a_path_to_resume_from_is_a_file_or_a_run_folder(tmp_path):
    path = save(tmp_path / "run" / "checkpoints", 3)
    for name in (path, tmp_path / "run"):
        assert find_resume(tmp_path / "other", str(name))["step"] == 3
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        find_resume(tmp_path, str(tmp_path / "nowhere.pt"))
