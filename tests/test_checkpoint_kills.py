"""A run that is killed while it saves goes on from what is whole, and clears up.

Rows are those of the list of faults that a run must survive.
"""

import json
import signal

import pytest
from saving import check_whole, child, listing, save

from networks import checkpoint_file
from utils.catch_up import catch_up
from utils.checkpoint import find_resume, load_checkpoint, sweep

KILLED_ANYWHERE = '''
def dies(k, folder, step, has_links):
    """Save in a child that is killed before its k-th change to the disk; whether it was."""
    for before in (1, 2):
        save(folder, before)
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    calls = iter(range(1, 1000))
    def killing(change):
        def changed(*args, **kwargs):
            if next(calls) == k:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **kwargs)
        return changed
    def no_links(*_):
        raise PermissionError("no hard links here")
    for owner, name in ((Path, "replace"), (Path, "unlink"), (os, "link"), (os, "fsync")):
        setattr(owner, name, killing(getattr(owner, name)))
    if not has_links:
        os.link = no_links
    save(folder, step, value=7)
    os._exit(0)
step, k = int(sys.argv[2]), 1
while dies(k, folder / str(k), step, has_links=sys.argv[3] == "links"):
    k += 1
print(json.dumps(k))
'''


def test_a_kill_while_a_checkpoint_is_written_leaves_the_previous_one(tmp_path, capsys):
    """(row 1)"""
    folder = tmp_path / "checkpoints"
    code, said = child("save(folder, 1); save(folder, 2)", folder, fault="kill@before_replace:2")
    assert code == -signal.SIGKILL and "fault: kill at before_replace, step 2" in said
    assert load_checkpoint(folder / "last.pt")["step"] == 1
    assert find_resume(folder, "auto")["step"] == 1
    (left,) = folder.glob("*.tmp.*")
    others = listing(folder).keys() - {left.name}
    assert sweep(folder) == [left] and f"{left}: left by" in capsys.readouterr().out
    assert listing(folder).keys() == others == {
        "last.pt", "last.pt.sha256", "step_000001.pt", "step_000001.pt.sha256",
    }  # fmt: skip
    assert sweep(folder) == sweep(tmp_path / "nowhere") == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("place", ["before_sidecar", "before_last"])
def test_a_kill_after_the_step_file_is_in_place_loses_nothing(tmp_path, place):
    """(row 2)"""
    folder = tmp_path / "checkpoints"
    code, _ = child("save(folder, 1); save(folder, 2)", folder, fault=f"kill@{place}:2")
    assert code == -signal.SIGKILL
    check_whole(folder)
    assert load_checkpoint(folder / "last.pt")["step"] == 1
    assert load_checkpoint(checkpoint_file(tmp_path))["step"] == 1  # what evaluate.py takes
    state = find_resume(folder, "auto")
    assert state["step"] == 2
    catch_up(folder, state)
    assert load_checkpoint(checkpoint_file(tmp_path))["step"] == 2


@pytest.mark.parametrize(
    ("step", "links"), [(3, "links"), (3, "no links"), (2, "links")],
    ids=["a new step", "without hard links", "the same step again"],
)  # fmt: skip
def test_a_kill_before_any_change_to_the_disk_loses_nothing(tmp_path, step, links):
    """(rows 1, 2) Each of some thirty moments: all files are whole, and the run can go on."""
    code, printed = child(KILLED_ANYWHERE, tmp_path, step, links)
    assert code == 0
    num_moments = json.loads(printed)
    assert num_moments > 15
    gone_on_from = []
    for k in range(1, num_moments + 1):
        folder = tmp_path / str(k)
        assert (folder / "last.pt").is_file()
        check_whole(folder)
        state = find_resume(folder, "must")
        gone_on_from.append((state["step"], state["network"]["w"][0].item()))
        sweep(folder)
        catch_up(folder, state)
        check_whole(folder)
        assert not list(folder.glob("*.tmp.*"))
        for name in ("last.pt", "best.pt"):
            assert load_checkpoint(folder / name)["step"] == state["step"], (k, name)
        save(folder, 4, best=True)
        assert load_checkpoint(folder / "best.pt")["step"] == find_resume(folder, "auto")["step"]
    assert set(gone_on_from) == {(2, 2.0), (step, 7.0)}
    assert gone_on_from == sorted(gone_on_from)


def test_what_is_newer_or_from_elsewhere_is_not_pointed_anew(tmp_path, capsys):
    for step in (1, 2):
        save(tmp_path, step, best=True)
    state = load_checkpoint(tmp_path / "step_000001.pt") | {"best": {"step": 1}}
    before = listing(tmp_path)
    assert catch_up(tmp_path, state) == []
    assert catch_up(tmp_path, state | {"step": 9, "best": {"step": 9}}) == []
    assert listing(tmp_path) == before and capsys.readouterr().out == ""
    state = load_checkpoint(tmp_path / "step_000002.pt") | {"best": {"step": 1}}
    (tmp_path / "best.pt").unlink()
    (tmp_path / "last.pt").unlink()
    (tmp_path / "last.pt").write_bytes(b"rubbish")
    assert catch_up(tmp_path, state) == [tmp_path / "last.pt"]
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 2
