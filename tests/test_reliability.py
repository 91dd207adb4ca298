"""The fault matrix is whole, names what exists, and is what docs/reliability.md shows.

That its guards matter is what `python tests/guards.py` shows. Here too: rows of it that other files
have no test of.
"""

import ast
import shutil
from pathlib import Path

import pytest
import torch
from forked import run_forked
from guards import HOUSE, ROWS, filled

from losses import supervised_losses
from utils.checkpoint import KEYS, load_checkpoint
from utils.processes import Process, mean_count

TESTS = HOUSE / "tests"
GUARDS = [guard for row in ROWS for guard in row.guards]


def test_every_row_is_there_once_with_tests_and_guards():
    assert [row.number for row in ROWS] == list(range(1, 61))
    for row in ROWS:
        assert row.fault and row.expected and row.tests and row.guards, row.number
        assert len(set(row.tests)) == len(row.tests), row.number
        for guard in row.guards:
            assert guard.test.partition("[")[0] in row.tests, (row.number, guard.test)


def test_every_named_test_exists():
    functions = {}
    for name in {name for row in ROWS for name in row.tests}:
        file, _, function = name.partition("::")
        if file not in functions:
            tree = ast.parse((TESTS / file).read_text())
            functions[file] = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
        assert function.startswith("test_") and function in functions[file], name


def test_every_guard_is_found_exactly_once_and_changes_something():
    texts = {guard.file: (HOUSE / guard.file).read_text() for guard in GUARDS}
    for guard in GUARDS:
        assert texts[guard.file].count(guard.old) == 1, (guard.file, guard.old)
        assert guard.new != guard.old and not guard.file.startswith("tests/")
        ast.parse(texts[guard.file].replace(guard.old, guard.new))


def test_the_page_shows_the_table_of_now():
    page = (HOUSE / "docs" / "reliability.md").read_text()
    assert page.count("<!-- tests/guards.py -->") == page.count("<!-- end -->") == 1
    assert filled(page) == page
    assert filled(page, ROWS[1:]) != page


def full_disk(monkeypatch, at: set[int]) -> None:
    """No space is free when the checkpoints of these numbers, from 1 on, are to be written."""
    asked, usage = iter(range(1, 100)), shutil.disk_usage(Path.cwd())
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: usage._replace(free=0) if next(asked) in at else usage
    )


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(tiny, tmp_path, monkeypatch):
    """Rows 3 and 5, in a run."""
    words = [*tiny, "save.every_steps=1", "save.keep_last=9", "evaluation.every_steps=9",
             "samples.num_images=0"]  # fmt: skip
    full_disk(monkeypatch, at={2, 3})
    told = run_forked("train.py", *words).stdout
    for step in (2, 3):
        assert f"step_00000{step}.pt: could not be written (" in told
    assert told.count("is the disk full?") == told.count("Training goes on") == 2
    checkpoints = tmp_path / "runs" / "run" / "checkpoints"
    kept = sorted(path.name for path in checkpoints.glob("step_*.pt"))
    assert kept == ["step_000001.pt", "step_000004.pt"] and not list(checkpoints.glob("*.tmp.*"))
    full_disk(monkeypatch, at={1, 2, 3})  # three in a row: for whom would it go on?
    ended = run_forked("train.py", *words, "run.name=full", code=2)
    assert "is the disk full?" in ended.stderr and "step 3/4" in ended.stdout
    assert not list((tmp_path / "runs" / "full" / "checkpoints").glob("*"))


@pytest.mark.parametrize("script", ["train.py", "consistency_train.py"])
def test_every_checkpoint_of_a_run_is_read_without_trust(script, tiny, streets, tmp_path):
    """Rows 13 and 21: of a scaler, an average, a predictor; due, best, last, and at a stop."""
    words = [*tiny, f"unlabeled.root={streets}", "train.precision=fp16", "train.ema_decay=0.5",
             "labeled.num_frames=2", "unlabeled.batch_size=2", "save.keep_last=9"]  # fmt: skip
    if script == "consistency_train.py":
        words.append("loss_weights.feature_consistency=1")
    run_forked(script, *words, code=143, MASKINGDEPTH_FAULT="term@step:3")
    files = sorted((tmp_path / "runs" / "run" / "checkpoints").glob("*.pt"))
    assert [file.name for file in files] == [
        "best.pt", "last.pt", "step_000002.pt", "step_000003.pt"
    ]  # fmt: skip
    for file in files:
        assert set(torch.load(file, weights_only=True)) == set(KEYS)
        assert load_checkpoint(file)["scaler"]["scale"] > 0


def test_losses_of_no_valid_pixel_are_exactly_nothing():
    """Row 34: not one in all passes, of which the mean divides by their number."""
    process = Process(rank=0, world_size=1, device=torch.device("cpu"))
    pred = torch.rand(2, 2, 1, 3, 4, requires_grad=True)
    truth = {"target": torch.zeros(2, 1, 3, 4), "valid_mask": torch.zeros(2, 1, 3, 4) > 0}
    for depth_loss in ("l1", "silog", "berhu"):
        losses = supervised_losses(
            depth=pred[0], log_uncertainty=pred[1], depth_loss=depth_loss, tolerated_error=0.3,
            num_valid=mean_count(truth["valid_mask"].sum(), process, num_passes=2), **truth,
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(sum(losses.values()), pred)
        assert losses["depth"] == losses["uncertainty"] == 0 and not gradient.any(), depth_loss
