"""Numbers that go wrong: a step that is not finite changes nothing, is counted, and is named."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from forked import run_forked, run_forked_ranks
from PIL import Image

from losses import depth_consistency, feature_consistency, pixel_weight, supervised_losses
from utils.run_progress import RunProgress


@pytest.fixture
def words(tmp_path, streets):
    roots = [f"{name}.root={streets}" for name in ("labeled", "unlabeled", "validation")]
    return [*TINY, *roots, f"run.folder={tmp_path / 'runs'}", "run.name=run",
            "labeled.num_frames=null", "unlabeled.batch_size=2", "save.every_steps=1",
            "save.keep_last=9", "train.ema_decay=0.5"]  # fmt: skip


def state_at(folder: Path, step: int) -> dict:
    return torch.load(folder / "checkpoints" / f"step_{step:06d}.pt", weights_only=True)


def same_weights(one: dict, other: dict) -> bool:
    return all(
        torch.equal(one[part][key], other[part][key])
        for part in ("network", "step_module") for key in one[part]
    )  # fmt: skip


def lines_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "train"]


@pytest.mark.parametrize("script", ["train.py", "consistency_train.py"])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_average(script, words, tmp_path):
    """Row 30: skipped, counted, its frames named; the next step is made."""
    folder = tmp_path / "runs" / "run"
    told = run_forked(script, *words, MASKINGDEPTH_FAULT="nan@loss:3").stdout
    (line,) = [line for line in told.splitlines() if "skipped: loss not finite" in line]
    names = (folder / "splits" / "labeled.txt").read_text().splitlines()
    assert line.startswith("step 3 ")
    named = ast.literal_eval(line.partition(" on ")[2])
    assert len(named) == (2 if script == "train.py" else 4) and set(named) <= set(names)
    assert same_weights(state_at(folder, 2), state_at(folder, 3))
    assert not same_weights(state_at(folder, 3), state_at(folder, 4))
    assert [each["skipped_steps"] for each in lines_of(folder)] == [0, 0, 1, 1]
    progress = state_at(folder, 4)["progress"]
    assert (progress["skipped_steps"], progress["skipped_in_a_row"]) == (1, 0)
    # the learning rate is a function of the step, so it has gone on
    assert len({each["lr_decoder"] for each in lines_of(folder)}) == 4


def test_skipped_steps_are_counted_on_over_a_stop(words, tmp_path):
    """Row 31: three in a row, before and after a stop, are three in a row: exit code 3."""
    more = [*words, "train.max_skipped_steps=3", "loss_weights.depth=1e38", "train.num_steps=9"]
    run_forked("train.py", *more, code=143, MASKINGDEPTH_FAULT="term@step:2")
    folder = tmp_path / "runs" / "run"
    progress = state_at(folder, 2)["progress"]
    assert (progress["skipped_steps"], progress["skipped_in_a_row"]) == (2, 2)
    ended = run_forked("train.py", *more, code=3)
    assert "3 steps in a row were not finite, up to 3" in ended.stderr
    last = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert last["step"] == 2 and all(x.isfinite().all() for x in last["step_module"].values())
    run_forked("train.py", *words)  # with a loss that is finite it goes on from there


def test_a_loss_that_is_not_finite_on_one_process_skips_the_step_on_all(words, tmp_path):
    """Row 33: and the process whose loss it was names its frames."""
    ended = run_forked_ranks("train.py", *words, MASKINGDEPTH_FAULT="nan@loss:3:1")
    assert [each.code for each in ended] == [0, 0], ended
    folder = tmp_path / "runs" / "run"
    assert same_weights(state_at(folder, 2), state_at(folder, 3))
    assert "rank 1: step 3 skipped: loss not finite on [" in ended[1].stdout
    assert "rank 0: step 3 skipped: gradient not finite on [" in ended[0].stdout


def test_a_batch_without_a_valid_pixel_teaches_nothing_and_harms_nothing(words, tmp_path):
    """Row 34: all depth maps are empty; losses are 0 and no step is skipped."""
    root = next(word for word in words if word.startswith("labeled.root=")).partition("=")[2]
    empty = tmp_path / "empty"
    for file in Path(root).rglob("*"):
        if not file.is_file():
            continue
        copy = empty / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if "groundtruth" in file.as_posix() and file.suffix == ".png":
            with Image.open(file) as depth:
                Image.fromarray(np.zeros_like(np.asarray(depth))).save(copy)
        else:
            copy.symlink_to(file)
    run_forked("train.py", *words, f"labeled.root={empty}", "validation.may_share=frames")
    for line in lines_of(tmp_path / "runs" / "run"):
        assert line["depth"] == line["uncertainty"] == line["total"] == line["skipped_steps"] == 0
    states = [state_at(tmp_path / "runs" / "run", step)["step_module"] for step in (1, 4)]
    assert all(torch.isfinite(value).all() for value in states[1].values())


@pytest.mark.parametrize("log_uncertainty", [0.0, 80.0, torch.inf])
def test_pseudo_labels_that_are_all_sure_or_all_unsure_give_finite_losses(log_uncertainty):
    """Row 35: and exactly nothing where nothing counts."""
    pseudo_depth, pred = 10 * torch.rand(2, 1, 4, 6), torch.rand(2, 1, 4, 6, requires_grad=True)
    weight = pixel_weight(
        pseudo_depth=pseudo_depth, min_confidence=0.5,
        log_uncertainty=torch.full((2, 1, 4, 6), log_uncertainty),
    )  # fmt: skip
    for error in ("metres", "log", "log_shape"):
        loss = depth_consistency(pred=pred, pseudo_depth=pseudo_depth, weight=weight, error=error)
        (gradient,) = torch.autograd.grad(loss, pred)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()
        assert (loss == 0 and not gradient.any()) == (log_uncertainty > 0)


def test_tokens_that_are_all_zero_or_all_dropped_give_a_finite_loss():
    zeros = torch.zeros(1, 3, 4, requires_grad=True)
    for encoded in (None, torch.zeros(1, 3, dtype=torch.bool)):
        loss = feature_consistency(pred=[zeros], target=[torch.zeros(1, 3, 4)], encoded=encoded)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(zeros.grad).all()


def test_no_valid_pixel_in_a_pass_but_some_in_another_is_still_a_mean_over_all():
    truth = torch.full((1, 1, 2, 2), 3.0)
    pred = torch.zeros(1, 1, 2, 2, requires_grad=True)
    losses = [
        supervised_losses(
            depth=pred, log_uncertainty=None, target=truth, depth_loss="l1", tolerated_error=0.3,
            valid_mask=torch.full((1, 1, 2, 2), valid), num_valid=torch.tensor(2.0),
        )["depth"]
        for valid in (True, False)
    ]  # fmt: skip
    assert sum(losses) / 2 == 3.0  # of 4 pixels in 2 passes


def test_a_validation_that_is_not_finite_is_never_the_best(words, tmp_path, monkeypatch):
    """Row 15: neither the first nor a later one, and a good one after it is."""
    monkeypatch.setattr("monitoring.Monitor.scores", scripted([math.nan, 0.2, math.nan, 0.1]))
    run_forked("train.py", *words, "evaluation.every_steps=1", "save.every_steps=9")
    folder = tmp_path / "runs" / "run" / "checkpoints"
    best = torch.load(folder / "best.pt", weights_only=True)
    assert best["step"] == 4 and best["best"]["abs_rel"] == 0.1
    kept = {torch.load(f, weights_only=True)["step"] for f in folder.glob("step_*.pt")}
    assert kept == {2, 4}  # the best ones and the last
    monkeypatch.setattr("monitoring.Monitor.scores", scripted([math.nan] * 4))
    run_forked("train.py", *words, "evaluation.every_steps=1", "run.name=never")
    assert not (tmp_path / "runs" / "never" / "checkpoints" / "best.pt").exists()


def scripted(values):
    """What validations give, one after another, in place of a network's scores."""
    names = ("sq_rel", "rmse", "rmse_log", "silog", "log10", "d1", "d2", "d3")
    rows = iter([{"abs_rel": value, **dict.fromkeys(names, 0.0), "num_images": 4,
                  "num_skipped": 0} for value in values])  # fmt: skip
    return lambda self, stop: next(rows)


def test_counts_of_a_run_read_back_as_they_were():
    progress = RunProgress.of_checkpoint(None, {"labeled": 6}, step=5)
    assert progress.samples == {"labeled": 30}
    for finite in (True, False, False):
        assert progress.note(finite) == finite
    progress.count({"labeled": 6})
    again = RunProgress.of_checkpoint(progress.plain(), {"labeled": 4}, step=99)
    assert again == progress and again.samples == {"labeled": 36}
    assert (again.skipped_steps, again.skipped_in_a_row) == (2, 2)
