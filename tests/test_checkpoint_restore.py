"""What a checkpoint took from a training comes back into one that fits it, and into no other."""

import itertools

import pytest
import torch
from torch import nn

from utils.averaging import WeightAverage
from utils.checkpoint import (
    CheckpointError,
    checkpoint_state,
    load_checkpoint,
    restore,
    save_checkpoint,
)
from utils.saved_tensors import misfits, num_bytes


def training(*sizes):
    """What is trained, as a session has it: linear layers of these numbers of channels."""
    module = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))
    adam = torch.optim.AdamW(module.parameters(), lr=1e-3)
    module(torch.ones(1, sizes[0])).sum().backward()
    adam.step()
    return {
        "step_module": module, "averaged": WeightAverage(module, 0.5), "optimizer": adam,
        "scaler": torch.amp.GradScaler("cpu", enabled=False),
    }  # fmt: skip


def trained_state(parts, progress=None):
    return checkpoint_state(
        3, config={"run": {"name": "run"}}, best={"step": 2, "abs_rel": 0.25}, wandb_id=None,
        progress=progress or {}, **parts,
    )  # fmt: skip


def test_what_was_trained_and_counted_comes_back(tmp_path):
    parts, progress = training(2, 3), {"skipped_steps": 1, "samples": {"labeled": 8}}
    saved = trained_state(parts, progress)
    progress["samples"] = None
    path = save_checkpoint(tmp_path, saved, keep_last=1, best=False)
    read, new = load_checkpoint(path), training(2, 3)
    assert read["progress"] == {"skipped_steps": 1, "samples": {"labeled": 8}}
    assert restore(read, **new) == (3, {"step": 2, "abs_rel": 0.25})
    weights = new["step_module"].state_dict()
    assert all(torch.equal(weights[k], v) for k, v in parts["step_module"].state_dict().items())
    assert new["averaged"].num_updates == 3


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ((2, 4), "0.weight is (3, 2) in the file and (4, 2) here; 0.bias is (3,) in the file and"),
        ((2, 3, 3), "1.weight is missing in the file and (3, 3) here; 1.bias is missing in the"),
        ((2, 4, 4, 4, 4), "; 5 more"),
    ],
)
def test_another_architecture_is_told_by_its_first_names_in_one_line(sizes, told):
    """(row 11)"""
    other = training(*sizes)
    before = {k: v.clone() for k, v in other["step_module"].state_dict().items()}
    with pytest.raises(CheckpointError) as refused:
        restore(trained_state(training(2, 3)), **other)
    message = str(refused.value)
    assert told in message and "another run.name starts afresh" in message
    assert "\n" not in message and len(message) < 400
    assert all(torch.equal(before[k], v) for k, v in other["step_module"].state_dict().items())


def test_another_optimiser_or_scaler_is_told(tmp_path):
    """(row 11)"""
    saved = trained_state(training(2, 3))
    new = training(2, 3)
    two_groups = [{"params": [p]} for p in new["step_module"].parameters()]
    for other in (
        {"optimizer": torch.optim.AdamW(two_groups)},
        {"scaler": torch.amp.GradScaler("cpu", enabled=True)},
    ):
        with pytest.raises(CheckpointError, match="does not fit this configuration"):
            restore(saved, **{**new, **other})


def test_size_counts_what_is_written_once(tmp_path):
    whole = torch.zeros(1000, 1000)
    shared = {"network": {"a": whole, "b": whole[:1]}, "optimizer": [{"c": (whole.view(-1),)}]}
    torch.save(shared, tmp_path / "shared.pt")
    assert num_bytes(shared) == 4_000_000
    assert 0 <= (tmp_path / "shared.pt").stat().st_size - num_bytes(shared) < 4000
    assert num_bytes([whole, whole.clone(), "text", None, 3]) == 8_000_000


def test_what_fits_has_no_misfits():
    weights = nn.Linear(2, 3).state_dict()
    assert misfits(weights, nn.Linear(2, 3).state_dict()) == ""
    assert misfits({**weights, "more": torch.ones(())}, weights) == (
        "more is () in the file and missing here"
    )
