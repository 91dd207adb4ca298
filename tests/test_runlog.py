"""metrics.jsonl is the record of truth: whole lines, whatever disk, clock and screen do."""

import json
import time

import pytest
from conftest import TINY, run_script

from utils.runlog import RunLog
from utils.throughput import Throughput


def log_in(folder, *, first_step=0, num_steps=10) -> RunLog:
    return RunLog(
        folder, first_step=first_step, num_steps=num_steps, enabled=True, mode="disabled",
        project="p", wandb_id=None, config={},
    )  # fmt: skip


def steps_in(folder) -> list[int]:
    return [
        json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def test_a_resumed_log_has_neither_a_double_nor_a_missing_step(tmp_path):
    """Row 50: lines behind the checkpoint go, and a line that was cut off."""
    log = log_in(tmp_path)
    for step in range(1, 6):
        log.log(step, "train", {"total": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "spl')
    log = log_in(tmp_path, first_step=3)
    assert steps_in(tmp_path) == [1, 2, 3]
    log.log(4, "train", {"total": 4.0})
    assert steps_in(tmp_path) == [1, 2, 3, 4]


def test_a_full_disk_costs_no_line(tmp_path, monkeypatch, capsys):
    """A line that was half written is written whole with the next."""
    log = log_in(tmp_path)
    log.log(1, "train", {"total": 1.0})
    path_open = type(log.path).open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def seek(self, place):
            self.file.seek(place)

        def truncate(self):
            self.file.truncate()

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        type(log.path), "open", lambda self, *a, **k: Full(path_open(self, *a, **k))
    )
    log.log(2, "train", {"total": 2.0})
    monkeypatch.undo()
    assert "could not be written" in capsys.readouterr().out
    log.log(3, "train", {"total": 3.0})
    assert steps_in(tmp_path) == [1, 2, 3]


def test_a_clock_that_jumps_back_makes_no_negative_speed(tmp_path, monkeypatch):
    """Row 55: durations come from a clock that cannot."""
    log, speed = log_in(tmp_path), Throughput(images_per_step=2)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with speed.waiting():
        pass
    values = speed.report()
    assert values["images_per_s"] > 0 and values["data_wait_fraction"] >= 0
    assert log.eta_s(3) >= 0


@pytest.fixture
def words(tmp_path, streets):
    roots = [f"{name}.root={streets}" for name in ("labeled", "validation")]
    return [*TINY, *roots, f"run.folder={tmp_path / 'runs'}", "run.name=run"]


def test_a_run_folder_that_cannot_be_written_is_refused_before_the_first_step(words, tmp_path):
    """Row 6: below a regular file, so that it holds for root too."""
    (tmp_path / "file").write_text("")
    ended = run_script("train.py", *words, f"run.folder={tmp_path / 'file'}", code=2)
    assert "a run cannot write here" in ended.stderr and "Traceback" not in ended.stderr
    assert "step 1/" not in ended.stdout
