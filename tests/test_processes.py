"""Processes and passes: a step is the same step however its images are divided among them."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY
from forked import run_forked, run_forked_ranks


@pytest.fixture
def words(tmp_path, streets):
    """One step without clipping, on ground truth whose images have different numbers of pixels."""
    roots = [f"{name}.root={streets}" for name in ("labeled", "unlabeled", "validation")]
    return [
        *TINY, *roots, f"run.folder={tmp_path / 'runs'}", "labeled.variant=look_a_sparse",
        "labeled.num_frames=null", "train.num_steps=1", "optimizer.max_grad_norm=0",
    ]  # fmt: skip


# silog and berhu have statistics of a pass in them; these losses are means
MEANS = ["losses.depth_loss=l1", "losses.consistency_error=metres",
         "loss_weights.strong_depth=0.5", "loss_weights.feature_consistency=1"]  # fmt: skip


def gradients(run: Path) -> list[torch.Tensor]:
    """Of the only step: Adam's first moment is a tenth of them."""
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["optimizer"]["state"]
    return [state[key]["exp_avg"] for key in sorted(state)]


def first_line(run: Path) -> dict:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[0])


def check_same_step(one: Path, other: Path) -> None:
    lines = [first_line(run) for run in (one, other)]
    for name in ("depth", "uncertainty", "depth_consistency", "feature_consistency",
                 "strong_depth", "total"):  # fmt: skip
        assert lines[0][name] == pytest.approx(lines[1][name], rel=2e-6), name
    for a, b in zip(gradients(one), gradients(other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=float(3e-5 * b.abs().max()))


def batch(labeled: int, unlabeled: int, accumulation: int = 1) -> list[str]:
    return [f"labeled.batch_size={labeled}", f"unlabeled.batch_size={unlabeled}",
            f"train.accumulation={accumulation}"]  # fmt: skip


def test_a_step_is_the_same_on_two_processes_and_in_two_passes(words, tmp_path):
    """Losses and gradients to float32 rounding; the batch has 4 labelled and 4 plain images."""
    words = [*words, *MEANS]
    run_forked("consistency_train.py", *words, *batch(4, 4), "run.name=one")
    run_forked("consistency_train.py", *words, *batch(2, 2, 2), "run.name=passes")
    for name, divided in {"two": batch(2, 2), "two_by_two": batch(1, 1, 2)}.items():
        ended = run_forked_ranks("consistency_train.py", *words, *divided, f"run.name={name}")
        assert [each.code for each in ended] == [0, 0], ended
    folder = tmp_path / "runs"
    for name in ("passes", "two", "two_by_two"):
        check_same_step(folder / "one", folder / name)


def test_activations_computed_again_work_in_masked_passes_of_several_processes(words, tmp_path):
    again = "train.activation_checkpointing=true"
    for name, more in {"kept": (), "again": (again,)}.items():
        run_forked_ranks("consistency_train.py", *words, *batch(1, 2), f"run.name={name}", *more)
    kept, computed = (gradients(tmp_path / "runs" / name) for name in ("kept", "again"))
    assert all(torch.equal(a, b) for a, b in zip(kept, computed, strict=True))


def test_a_process_that_never_comes_is_named(words):
    """Row 27: it hangs before the first exchange; the other does not wait for ever."""
    ended = run_forked_ranks(
        "train.py", *words, "run.timeout_s=3", MASKINGDEPTH_FAULT="hang@backward:1:1",
        MASKINGDEPTH_HANG="8",
    )  # fmt: skip
    assert ended[0].code == 1 and "Traceback" not in ended[0].stderr
    assert "waited for others in vain: rank 1 never reached the first step" in ended[0].stderr
