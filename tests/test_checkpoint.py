"""A checkpoint is whole or it is not there; reading one never runs anybody's code."""

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


def test_only_the_newest_are_kept_and_best_stays(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step, best=step == 2)
    kept = sorted(path.name for path in tmp_path.glob("*.pt"))
    assert kept == ["best.pt", "last.pt", "step_000005.pt", "step_000006.pt"]
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 2
    assert not list(tmp_path.glob("*.tmp*"))


def test_every_file_has_a_matching_sha256(tmp_path):
    save(tmp_path, 1, best=True)
    for path in tmp_path.glob("*.pt"):
        assert path.with_name(path.name + ".sha256").is_file()
        load_checkpoint(path)


@pytest.mark.parametrize("damage", ["truncated", "bit flip", "empty", "html"])
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
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


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    sentinel = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (open, (str(sentinel), "w"))

    torch.save({**state(1), "network": Payload()}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        load_checkpoint(tmp_path / "bad.pt")
    assert not sentinel.exists()


def test_another_format_is_refused(tmp_path):
    torch.save({**state(1), "format_version": 99}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(tmp_path / "new.pt")


def test_a_state_with_other_keys_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="exactly"):
        save_checkpoint(tmp_path, {"step": 1}, keep_last=1, best=False)


def test_a_full_disk_leaves_the_old_checkpoint_and_no_rubbish(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="is the disk full"):
        save(tmp_path, 2)
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 1
    assert not list(tmp_path.glob("*.tmp*"))


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
