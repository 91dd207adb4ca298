"""The table runner: every cell is done once, whatever stops it, and only what compares is shown.

On tiny streets: two methods, one budget, two seeds. Few tests train, as that is what takes long.
"""

import contextlib
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import HOUSE, TINY

from datasets import DataError
from paper_tables.cells import TableError, open_tasks
from paper_tables.cost import seconds_left
from paper_tables.rows import TABLES, Row
from paper_tables.work import places, steps_done
from reproduce import main, parse_arguments
from utils.evaluations import check_alike, read_side

CELLS = ["baseline_2_s0", "ours_2_s0", "baseline_2_s1", "ours_2_s1"]  # seed by seed
NUM_STEPS = 24


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums of other numbers of threads are rounded otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def words(streets) -> list[str]:
    """A command line without --out: four cells of tiny trainings that save every fourth step."""
    roots = [f"{stream}.root={streets}" for stream in ("labeled", "unlabeled", "validation")]
    return [
        "--table", "synthetic", "--budgets", "2", "--methods", "baseline", "ours", "--seeds", "2",
        *TINY, *roots, "unlabeled.batch_size=2", "validation.num_frames=1", "save.every_steps=4",
        f"train.num_steps={NUM_STEPS}", f"evaluation.every_steps={NUM_STEPS}",
        "samples.num_images=0", "train.num_workers=1",
    ]  # fmt: skip


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and stdout of the command, run here."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main([str(word) for word in arguments])
    return code, said.getvalue()


@pytest.fixture(scope="module")
def table(tmp_path_factory, words):
    """Folder of a finished table, and what was printed while it was made. Never write into it."""
    out = tmp_path_factory.mktemp("table") / "whole table"
    code, said = run(*words, "--out", out)
    assert code == 0
    return out, said


@pytest.fixture
def copied(table, tmp_path) -> Path:
    """The same folder, to write into."""
    return Path(shutil.copytree(table[0], tmp_path / "copied"))


def record(out: Path, name: str) -> dict:
    return json.loads((out / name / "cell.json").read_text())


def change_record(out: Path, name: str, change) -> None:
    values = record(out, name)
    change(values)
    (out / name / "cell.json").write_text(json.dumps(values))


def contents(out: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def network(out: Path, name: str) -> dict[str, torch.Tensor]:
    last = out / name / "checkpoints" / "last.pt"
    return torch.load(last, map_location="cpu", weights_only=True)["network"]


def test_a_table_trains_scores_and_records_every_cell(table):
    out, said = table
    assert sorted(path.parent.name for path in out.glob("*/cell.json")) == sorted(CELLS)
    assert "0 of 4 cells done" in said and (out / "table.md").read_text() in said
    for name in CELLS:
        values = record(out, name)
        scored = json.loads((out / name / "evaluation" / "test" / "metrics.json").read_text())
        assert values["cell"] == name and values["num_steps"] == NUM_STEPS
        assert values["num_labels"] == 2 and values["seconds"] > 0
        assert scored["checkpoint"] == str(out / name / "checkpoints" / "last.pt")
        assert scored["step"] == NUM_STEPS and scored["sha256"] == values["checkpoint_sha256"]
        # all test frames, though the run validates on one frame alone
        assert values["scores"]["num_images"] == scored["num_images"] == 2
        assert values["scores"]["abs_rel"] == scored["protocols"]["plain"]["abs_rel"]
        assert values["environment"]["torch"] == torch.__version__.partition("+")[0]
        assert not (out / name / "evaluation" / "test" / "panels").exists()


def test_methods_of_a_seed_have_the_same_labels_and_seeds_have_others(table):
    used = [record(table[0], name)["labeled"]["list_sha256"] for name in CELLS]
    assert used[0] == used[1] != used[2] == used[3]


def test_evaluations_of_two_methods_can_be_compared(table):
    sides = [read_side(f"{table[0]}/{method}_2_s*", "test") for method in ("baseline", "ours")]
    assert [[one.seed for one in side] for side in sides] == [[0, 1], [0, 1]]
    assert len(check_alike([*sides[0], *sides[1]])) == 2


def test_a_finished_table_is_not_touched_again(table, words):
    out, _ = table
    before = contents(out)
    code, said = run(*words, "--out", out)
    assert code == 0 and (out / "table.md").read_text() in said
    after = contents(out)
    assert after.keys() == before.keys()
    assert {path: after[path][0] for path in after} == {path: before[path][0] for path in before}
    of_cells = {path for path in before if Path(path).parent != out}
    assert all(after[path] == before[path] for path in of_cells)


def wait_for(happened, *, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def is_locked(folder: Path) -> bool:
    with (folder / "lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def newest(folder: Path) -> int:
    """Step of the newest checkpoint."""
    return max((int(p.stem[5:]) for p in (folder / "checkpoints").glob("step_*.pt")), default=0)


def test_a_table_that_is_killed_in_a_cell_ends_as_one_that_never_was(table, words, tmp_path):
    whole, out = table[0], tmp_path / "out"
    cell = out / "ours_2_s1"
    only = [*words, "--out", str(out), "--cell", "3"]

    def start_and_wait_for_step(step: int) -> subprocess.Popen:
        started = subprocess.Popen(
            [sys.executable, str(HOUSE / "reproduce.py"), *only], cwd=HOUSE,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(lambda: newest(cell) >= step)
        training = (cell / "lock").read_text().split()[1]
        held = {os.path.realpath(link) for link in Path("/proc", training, "fd").iterdir()}
        assert os.path.realpath(cell / "lock") in held
        return started

    asked = start_and_wait_for_step(4)
    asked.send_signal(signal.SIGTERM)
    assert asked.wait(60) == 128 + signal.SIGTERM
    assert not is_locked(cell)  # its training and its loader ended before it did
    reached = newest(cell)
    killed = start_and_wait_for_step(reached + 4)
    killed.kill()
    killed.wait()
    wait_for(lambda: not is_locked(cell), seconds=30)  # nobody told its training, and yet
    assert reached < newest(cell) < NUM_STEPS and not (cell / "cell.json").exists()

    # an orphan that does not end with its table: the next one waits for it
    with (cell / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        orphan = subprocess.Popen(["sleep", "3"], pass_fds=[lock.fileno()])
    holder = (cell / "lock").read_text().strip()
    code, said = run(*only)
    assert code == 0 and orphan.poll() == 0
    assert f"waiting for {holder}, which works on ours_2_s1" in said and "process " in holder
    assert [path.name for path in out.glob("*/")] == ["ours_2_s1"]  # --cell 3 and no other
    assert not (out / "table.md").exists()

    for name in CELLS[:3]:
        shutil.copytree(whole / name, out / name)
    assert run(*words, "--out", out)[0] == 0
    for name in CELLS:
        ours, theirs = network(out, name), network(whole, name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert (out / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()
    training = (cell / "training.log").read_text()
    assert training.count("run folder") == 3  # three starts, in one log
    spent = json.loads((cell / "seconds.json").read_text())
    assert record(out, "ours_2_s1")["seconds"] == spent["training"] > 0


def tasks_of(words, out: Path):
    """The tasks of the four cells, as main opens them."""
    return open_tasks(
        TABLES["synthetic"], methods=["baseline", "ours"], budgets=[2], seeds=2, out=out,
        words=[word for word in words if "=" in word],
    )  # fmt: skip


def test_cells_of_other_settings_are_refused_before_anything_starts(copied, words):
    shutil.rmtree(copied / "baseline_2_s0")
    (copied / "ours_2_s0" / "cell.json").unlink()  # begun, and not finished
    before = contents(copied)
    told = r"ours_2_s0 .*\(optimizer.lr: 0.001, now 0.002\).* choose another --out, or delete"
    with pytest.raises(TableError, match=told):
        main([*words, "--out", str(copied), "optimizer.lr=2e-3"])
    assert contents(copied) == before
    # said in another order, or said though it is the default: the same settings
    others = [*words[::-1][:3], *words[:-3], "optimizer.name=adamw", "--out", copied, "--list"]
    assert run(*others)[0] == 0
    change_record(copied, "ours_2_s1", lambda values: values.update(script="train.py"))
    (copied / "ours_2_s0" / "config.yaml").unlink()
    with pytest.raises(TableError, match=r"ours_2_s0/config.yaml: cannot be read"):
        main([*words, "--out", str(copied)])
    with pytest.raises(TableError, match=r"script: 'train.py', now 'consistency_train.py'"):
        main([*words, "--out", str(copied), "--cell", "3"])


def test_a_damaged_record_is_named(copied, words):
    path = copied / "baseline_2_s1" / "cell.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(TableError, match=f"{path}: not what reproduce.py wrote"):
        main([*words, "--out", str(copied)])


def test_other_labels_of_one_seed_are_refused(copied, words):
    change_record(copied, "ours_2_s1", lambda values: values["labeled"].update(list_sha256="00"))
    told = "ours_2_s1 and baseline_2_s1 were trained on different labelled frames"
    for mode in ([], ["--report"]):
        with pytest.raises(TableError, match=told):
            main([*words, "--out", str(copied), *mode])
    # of another list they may be others: an adaptation table has such rows
    change_record(copied, "ours_2_s1", lambda values: values["labeled"].update(variant="look_b"))
    assert run(*words, "--out", copied)[0] == 0


def test_a_report_needs_no_words_but_cells_of_the_same_ones(copied, words):
    plain = [word for word in words if "=" not in word]
    (copied / "table.md").unlink()
    assert run(*plain, "--out", copied, "--report")[0] == 0 and (copied / "table.md").exists()
    change_record(copied, "ours_2_s1", lambda values: values["words"].insert(0, "optimizer.lr=1"))
    with pytest.raises(TableError, match=r"ours_2_s1 was trained with \['evaluation"):
        main([*plain, "--out", str(copied), "--report"])


def test_a_report_of_nothing_is_an_error(words, tmp_path):
    with pytest.raises(TableError, match="none of the 4 cells asked for is finished"):
        main([*words, "--out", str(tmp_path / "none"), "--report"])
    assert not (tmp_path / "none").exists()


def test_the_list_has_a_line_a_cell_with_its_state(copied, words):
    (copied / "ours_2_s0" / "cell.json").unlink()
    log = copied / "ours_2_s0" / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:12]) + '{"step": 13, "spl')
    shutil.rmtree(copied / "baseline_2_s1")
    lines = [
        line.split(maxsplit=2) for line in run(*words, "--out", copied, "--list")[1].splitlines()
    ]
    states = ["finished", "step 12/24", "not begun", "finished"]
    assert lines == [[str(n), *pair] for n, pair in enumerate(zip(CELLS, states, strict=True))]
    one = run(*words, "--out", copied, "--list", "--cell", "3")[1]
    assert one.split() == ["3", "ours_2_s1", "finished"]


def test_the_time_left_follows_from_what_cells_took(copied, words):
    tasks = tasks_of(words, copied)
    assert seconds_left(tasks, [], jobs=1) == 0
    (copied / "ours_2_s0" / "cell.json").unlink()
    log = copied / "ours_2_s0" / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:12]))
    assert steps_done(copied / "ours_2_s0") == 12
    done = [record(copied, name) for name in CELLS if name != "ours_2_s0"]
    evaluation = sum(values["evaluation_seconds"] for values in done) / 3
    left = record(copied, "ours_2_s1")["seconds"] / 2 + evaluation
    for jobs in (1, 2):  # one cell cannot be shared
        assert seconds_left(tasks, [], jobs=jobs) == pytest.approx(left)
    shutil.rmtree(copied / "ours_2_s1")  # nobody knows how fast this method is
    rate = sum(values["seconds"] for values in done if "baseline" in values["cell"]) / 2 / NUM_STEPS
    evaluation = sum(record(copied, f"baseline_2_s{s}")["evaluation_seconds"] for s in (0, 1)) / 2
    two = 12 * rate + evaluation, 24 * rate + evaluation
    assert seconds_left(tasks, [], jobs=1) == pytest.approx(sum(two))
    assert seconds_left(tasks, [], jobs=4) == pytest.approx(max(two))
    assert seconds_left(tasks_of(words, copied / "empty"), [], jobs=1) is None


def test_methods_of_unequal_steps_are_no_table(words, tmp_path):
    confs = {}
    for method, steps in {"baseline": 600, "ours": 500}.items():
        confs[method] = tmp_path / f"{method}.yaml"
        confs[method].write_text(f"train: {{num_steps: {steps}}}\nlabeled: {{batch_size: 4}}\n")
    table = TABLES["synthetic"]._replace(
        rows={name: Row(name, "train.py", str(path)) for name, path in confs.items()}
    )
    asked = {"methods": list(confs), "budgets": [2], "seeds": 1, "out": tmp_path}
    told = r"train.num_steps is \{'baseline': 600, 'ours': 500\}, but methods compare at equal"
    with pytest.raises(TableError, match=told):
        open_tasks(table, **asked, words=[])
    assert [t.num_steps for t in open_tasks(table, **asked, words=["train.num_steps=9"])] == [9, 9]
    confs["ours"].write_text("train: {num_steps: 600}\nlabeled: {batch_size: 8}\n")
    with pytest.raises(TableError, match=r"labeled.batch_size is"):
        open_tasks(table, **asked, words=[])


def test_every_table_opens_and_gives_its_cells_their_configuration(tmp_path):
    for name, table in TABLES.items():
        asked = {"methods": list(table.rows), "budgets": table.budgets, "seeds": 2}
        tasks = open_tasks(table, **asked, out=tmp_path, words=[])
        assert len({task.folder for task in tasks}) == 2 * len(table.budgets) * len(table.rows), (
            name
        )
        for task in tasks:
            assert task.config["run"]["seed"] == task.cell.seed
            assert task.config["labeled"]["num_frames"] == task.cell.budget


def test_validation_frames_of_another_name_than_the_scored_ones_are_refused(tmp_path):
    table = TABLES["rgbd"]
    asked = {"methods": list(table.rows), "budgets": [20], "seeds": 1, "out": tmp_path}
    assert open_tasks(table, **asked, words=["validation.split=val"])
    with pytest.raises(TableError, match=r"validation\.split=mine"):
        open_tasks(table, **asked, words=["validation.split=mine"])


def test_words_keep_their_order_wherever_they_stand():
    words = ["a.b=1", "--budgets", "10", "full", "a.b=2", "--seeds", "2", "a.b=1", "--methods",
             "ours", "a.b=3", "--table", "kitti", "a.b=2"]  # fmt: skip
    args = parse_arguments(words)
    assert args.overrides == ["a.b=1", "a.b=2", "a.b=1", "a.b=3", "a.b=2"]
    assert args.budgets == [10, None] and args.methods == ["ours"] and args.seeds == 2
    assert args.out == Path.cwd() / "runs" / "kitti_table"


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["run.seed=1"], TableError, "run.seed=1: the table says that"),
        (["labeled.num_frames=3"], TableError, "see --seeds, --budgets and --out"),
        (["--cell", "4"], TableError, "there are 4 cells, from 0"),
        (["labeled.split=nowhere"], DataError, "no split 'nowhere'"),
        (["--budgets", "0"], SystemExit, "2"),
        (["--methods", "theirs"], SystemExit, "2"),
        (["--seeds", "0"], SystemExit, "2"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    words, tmp_path, more, error, message
):
    with pytest.raises(error, match=message):
        main([*words, "--out", str(tmp_path / "out"), *more])
    assert not (tmp_path / "out").exists()


def test_scored_frames_that_are_missing_are_missed_before_training(words, streets, tmp_path):
    root = tmp_path / "streets"
    shutil.copytree(streets, root)
    drive = (root / "look_a" / "splits" / "test.txt").read_text().split()[0].split("/")[-1]
    shutil.rmtree(next((root / "look_a").rglob(drive)))
    with pytest.raises(DataError, match=drive):
        main([*words, f"validation.root={root}", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_table_stops_early_where_no_method_can_start(words, tmp_path, capsys):
    out = tmp_path / "out"
    code, said = run(*words, "--out", out, "--jobs", "2", "network.encoder=vit_of_nobody")
    assert code == 2 and "this cannot work" in said and not (out / CELLS[-1]).exists()
    told = capsys.readouterr().err
    assert "2 of 4 cells failed" in told and told.count("exit code 2") == 2
    assert "training.log ends in" in told and "vit_of_nobody" in told


def test_a_failing_cell_does_not_stop_the_others(words, tmp_path, capsys):
    out = tmp_path / "out"  # train.py has no such loss, and says so
    code, said = run(*words, "--out", out, "--seeds", "1", "loss_weights.depth_consistency=0.5")
    assert code == 2 and "this cannot work" not in said
    told = capsys.readouterr().err
    assert "1 of 2 cells failed" in told and "has no loss depth_consistency" in told
    assert record(out, "ours_2_s0") and not (out / "baseline_2_s0" / "cell.json").exists()
    assert (out / "table.md").read_text() in said
    rows = (out / "table.csv").read_text().splitlines()
    assert rows[1].startswith("baseline,2,,0,,") and rows[2].startswith("ours,2,2,0,0.")


def test_a_dry_run_measures_and_leaves_nothing(words, tmp_path):
    words = [word for word in words if word != "ours"]
    code, said = run(*words, "--out", tmp_path / "out", "--dry-run", "--jobs", "1")
    assert code == 0 and not list(tmp_path.iterdir())
    assert "2 cells, 48 optimiser steps, 1 side by side" in said and "Not in it" in said
    method, cells, rate, *_ = next(line for line in said.splitlines() if "base" in line).split()
    assert (method, cells) == ("baseline", "2") and 0.001 < float(rate) < 10


def test_cells_side_by_side_have_a_gpu_and_threads_of_their_own(words, tmp_path, monkeypatch):
    tasks = tasks_of(words, tmp_path)
    cores = len(os.sched_getaffinity(0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    alone = {"OMP_NUM_THREADS": str(cores)}
    assert places(1, tasks) == places(None, tasks[:1]) == [alone]
    assert len(places(None, tasks)) == min(cores, 4)
    assert places(2 * cores, tasks)[0] == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [env["CUDA_VISIBLE_DEVICES"] for env in places(None, tasks)] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [env["CUDA_VISIBLE_DEVICES"] for env in places(3, tasks)] == ["5", "GPU-abc", "5"]
    assert {env["OMP_NUM_THREADS"] for env in places(3, tasks)} == {"3"}
    on_cpu = tasks_of([*words, "run.device=cpu"], tmp_path)
    assert "CUDA_VISIBLE_DEVICES" not in places(1, on_cpu)[0]


SLURM = HOUSE / "slurm" / "reproduce_array.sh"


def slurm(tmp_path: Path, *arguments: str, python: str, number: str = "3") -> subprocess.Popen:
    """The array script as a node runs it, with a `scontrol` that only notes what it is told."""
    noted = tmp_path / "bin" / "scontrol"
    noted.parent.mkdir()
    noted.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/scontrol.txt"\n')
    noted.chmod(0o755)
    return subprocess.Popen(
        ["bash", str(SLURM), *arguments], stdout=subprocess.PIPE, text=True,
        env={
            **os.environ, "PYTHON": python,
            "PATH": f"{noted.parent}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(HOUSE),
            "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": number,
        },
    )  # fmt: skip


def test_the_slurm_script_does_the_cell_of_its_task(table, words, tmp_path):
    assert subprocess.run(["bash", "-n", SLURM], check=False).returncode == 0
    started = slurm(
        tmp_path, *words, "--out", str(table[0]), "--list", python=sys.executable, number="2"
    )
    assert started.communicate(timeout=60)[0].split() == ["2", "baseline_2_s1", "finished"]
    assert started.returncode == 0 and not (tmp_path / "scontrol.txt").exists()


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_the_slurm_script_passes_signals_on_and_queues_again(tmp_path, number, requeued):
    python = tmp_path / "python"  # what ends 0.2 s after it was asked to
    python.write_text(
        '#!/bin/sh\ntrap "sleep 0.2; echo ended; exit 143" TERM\necho "$@"\n'
        "for i in $(seq 600); do sleep 0.05; done\n"
    )
    python.chmod(0o755)
    started = slurm(tmp_path, "--table", "kitti", python=str(python))
    assert started.stdout.readline() == "reproduce.py --cell 3 --table kitti\n"
    started.send_signal(number)
    assert started.communicate(timeout=30)[0] == "ended\n" and started.returncode == 143
    noted = tmp_path / "scontrol.txt"
    assert (noted.read_text() if requeued else noted.exists()) == (
        "requeue 77_3\n" if requeued else False
    )
