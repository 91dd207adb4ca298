"""A run that was stopped, killed or broken off goes on bit for bit as if nothing had happened."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY
from forked import Fork, run_forked, run_forked_ranks

from benchmarks.endurance import differences, lines_of
from datasets.order import SampleOrder
from utils.seeding import seeded


@pytest.fixture
def words(tmp_path, streets):
    """Six steps, of which each kind of thing happens at odd ones; a moving average."""
    roots = [f"{name}.root={streets}" for name in ("labeled", "unlabeled", "validation")]
    return [
        *TINY, *roots, f"run.folder={tmp_path / 'runs'}", "run.name=run", "labeled.batch_size=2",
        "unlabeled.batch_size=2", "labeled.num_frames=null", "train.num_steps=6",
        "train.ema_decay=0.5", "schedule.warmup_steps=4", "evaluation.every_steps=3",
        "samples.every_steps=3", "save.every_steps=2",
    ]  # fmt: skip


def check_same_run(one: Path, other: Path) -> None:
    """Weights, average, optimiser, best, counts, metrics and pictures, to the bit."""
    assert differences(one, other) == []
    assert list((one / "samples").iterdir())


def check_goes_on(script: str, words: list[str], folder: Path, faults: dict[str, int]) -> None:
    """A run with these faults (fault -> exit code), one after another, is the run without any."""
    run_forked(script, *words, "run.name=whole")
    for fault, code in faults.items():
        ended = run_forked(script, *words, code=code, MASKINGDEPTH_FAULT=fault)
        assert "Traceback" not in ended.stderr
        assert ("steps are saved" in ended.stderr) == (code == 143)
    run_forked(script, *words)
    check_same_run(folder / "whole", folder / "run")


SCRIPTS = ["train.py", "consistency_train.py"]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(script, workers, words, tmp_path):
    """Rows 17, 18, 21, 22: mid-epoch, at its end (3 batches), in the warm-up, in a validation."""
    loader = f"train.num_workers={workers}"
    faults = ["term@step:1", "term@step:3", "term@validation:3", "term@step:4", "term@validation:6"]
    check_goes_on(script, [*words, loader], tmp_path / "runs", dict.fromkeys(faults, 143))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_killed_anywhere_goes_on_bit_for_bit(script, words, tmp_path):
    """Rows 1 and 2: also while a checkpoint is written, and before its sha256 and last.pt are."""
    faults = ["kill@backward:2", "kill@validation:3", "kill@before_replace:4",
              "kill@before_sidecar:4", "kill@before_last:6"]  # fmt: skip
    check_goes_on(script, words, tmp_path / "runs", dict.fromkeys(faults, 137))


def test_two_processes_that_are_stopped_and_killed_go_on_bit_for_bit(words, tmp_path):
    """Rows 23 and 24: a signal that one of them gets stops both behind the same step."""
    run_forked_ranks("consistency_train.py", *words, "run.name=whole")
    # asked in step 2: all know behind step 3, which the next of all answers is on its way with
    stopped = run_forked_ranks("consistency_train.py", *words, MASKINGDEPTH_FAULT="term@step:2:1")
    assert [ended.code for ended in stopped] == [143, 143]
    assert all("stopped as asked: 3 steps are saved" in ended.stderr for ended in stopped)
    killed = run_forked_ranks(
        "consistency_train.py", *words, "run.timeout_s=20", MASKINGDEPTH_FAULT="exit@backward:5:1"
    )
    assert [ended.code for ended in killed] == [1, 17]
    assert "rank 1 (" in killed[0].stderr and "last heard of in step 4" in killed[0].stderr
    assert all(ended.code == 0 for ended in run_forked_ranks("consistency_train.py", *words))
    check_same_run(tmp_path / "runs" / "whole", tmp_path / "runs" / "run")


def test_a_stop_within_a_validation_leaves_no_line_of_it_and_makes_it_first(words, tmp_path):
    """Row 22."""
    run_forked("train.py", *words, code=143, MASKINGDEPTH_FAULT="term@validation:3")
    folder = tmp_path / "runs" / "run"
    assert [line["step"] for line in lines_of(folder) if line["split"] == "val"] == []
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == 3 and state["progress"]["awaits_validation"]
    run_forked("train.py", *words)
    assert [line["step"] for line in lines_of(folder) if line["split"] == "val"] == [3, 6]


def test_with_other_processes_or_batches_no_sample_is_left_out_or_comes_twice():
    """Row 20: the order goes on where the samples of all processes ended."""

    def order(rank, world_size, batch_size, first_sample, steps):
        chosen = SampleOrder(
            range(10), batch_size=batch_size, first_sample=first_sample, rank=rank,
            world_size=world_size, generator_for=lambda number: seeded(0, "order", number),
        )  # fmt: skip
        batches = iter(chosen)
        return [item for _ in range(steps) for item in next(batches)]

    whole = order(0, 1, 1, 0, 30)
    begun = order(0, 1, 3, 0, 4)  # 12 samples alone, then 18 by two processes of other batches
    shares = [order(rank, 2, 1, 12, 9) for rank in range(2)]
    assert sorted(begun + shares[0] + shares[1]) == sorted(whole)


def test_a_run_that_goes_on_with_other_batches_counts_its_samples_on(words, tmp_path):
    """Row 20, in a run."""
    run_forked("train.py", *words, "train.num_steps=2")
    changed = ["train.accumulation=3", "labeled.batch_size=1", "train.num_steps=4"]
    told = run_forked("train.py", *words, *changed).stdout
    assert "labeled.batch_size 2 -> 1" in told and "going on after step 2" in told
    assert "a step had other numbers of images before" in told
    state = torch.load(tmp_path / "runs" / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert state["progress"]["samples"] == {"labeled": 2 * 2 + 2 * 3}


def test_a_checkpoint_of_an_earlier_version_goes_on_and_says_what_it_lacks(words, tmp_path):
    """Row 19: nothing random is saved, so what may lack are counts."""
    run_forked("train.py", *words, "train.num_steps=2")
    folder = tmp_path / "runs" / "run" / "checkpoints"
    state = torch.load(folder / "step_000002.pt", weights_only=True)
    for file in folder.iterdir():
        file.unlink()
    state.pop("progress")
    torch.save(state, folder / "step_000002.pt")
    told = run_forked("train.py", *words, "train.num_steps=4").stdout
    assert "of an earlier version" in told
    state = torch.load(folder / "last.pt", weights_only=True)
    assert state["progress"]["samples"] == {"labeled": 8}


def test_a_run_does_not_go_on_with_other_frames(words, tmp_path):
    run_forked("train.py", *words, "train.num_steps=2")
    ended = run_forked("train.py", *words, "labeled.num_frames=4", code=2)
    assert "has trained with other labeled frames" in ended.stderr
    branch = [f"resume={tmp_path / 'runs' / 'run'}", "run.name=branch", "labeled.num_frames=4"]
    run_forked("train.py", *words, *branch, code=143, MASKINGDEPTH_FAULT="term@step:3")
    # the same command again goes on with its own checkpoint, not from where it branched off
    assert "goes on with its own" in run_forked("train.py", *words, *branch).stdout
    steps = [line["step"] for line in lines_of(tmp_path / "runs" / "branch")]
    assert steps == [3, 3, 4, 5, 6, 6]


def test_an_older_step_of_the_same_run_cannot_be_gone_on_from(words, tmp_path):
    run_forked("train.py", *words)
    older = tmp_path / "runs" / "run" / "checkpoints" / "step_000004.pt"
    ended = run_forked("train.py", *words, f"resume={older}", code=2)
    assert "is not the newest checkpoint of this run" in ended.stderr


def test_two_runs_in_one_folder_are_refused(words, tmp_path):
    """Row 54."""
    hung = Fork("train.py", words, tmp_path, {"MASKINGDEPTH_FAULT": "hang@step:2"})
    hung.wait_for("fault: hang")
    ended = run_forked("train.py", *words, code=2)
    assert f"pid {hung.pid}" in ended.stderr and "another run is in this folder" in ended.stderr
    os.kill(hung.pid, signal.SIGKILL)
    assert hung.end().code == 137
    run_forked("train.py", *words)


def test_a_second_ctrl_c_ends_at_once_and_the_first_saves(words, tmp_path):
    """Row 25."""
    words = [*words, "train.num_steps=1000000", "evaluation.every_steps=1000000"]
    run = Fork("train.py", words, tmp_path, {})
    run.wait_for("step 2/")
    os.kill(run.pid, signal.SIGINT)
    assert run.end().code == 143
    hung = Fork("train.py", words, tmp_path, {"MASKINGDEPTH_FAULT": "hang@step:10"})
    hung.wait_for("fault: hang")
    os.kill(hung.pid, signal.SIGINT)
    time.sleep(1.2)  # a terminal's Ctrl-C comes twice under torchrun, within moments
    os.kill(hung.pid, signal.SIGINT)
    started = time.monotonic()
    ended = hung.end()
    assert ended.code == 130 and "interrupted" in ended.stderr
    assert time.monotonic() - started < 5
