"""What only a GPU can show: nothing waits for it, and a stopped run goes on there too."""

import warnings

import pytest
import torch
from conftest import TINY, run_script

from benchmarks.guard_cost import steps_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def words(tmp_path, streets):
    roots = [f"{name}.root={streets}" for name in ("labeled", "unlabeled", "validation")]
    return [*TINY, *roots, f"run.folder={tmp_path / 'runs'}", "labeled.num_frames=null",
            "unlabeled.batch_size=2", "run.device=cuda", "schedule.name=constant"]  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_guarded_step_never_waits_for_the_gpu(words, precision):
    """Counting, agreeing, noting results: all of `learner` and `session` between two log lines."""
    never = ["log.every_steps=1000", "evaluation.every_steps=1000", "samples.every_steps=1000",
             "save.every_steps=1000", "train.num_steps=1000", "train.ema_decay=0.9"]  # fmt: skip
    steps, learner, _ = steps_of([*words, *never, f"train.precision={precision}"])
    for _ in range(3):
        steps["guarded"]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            steps["guarded"]()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    learner.let_go()


@pytest.mark.parametrize("script", ["train.py", "consistency_train.py"])
def test_a_stopped_run_goes_on_on_a_gpu(script, words, tmp_path):
    run_script(script, *words, "run.name=whole")
    run_script(script, *words, "run.name=run", code=143, MASKINGDEPTH_FAULT="term@step:3")
    run_script(script, *words, "run.name=run")
    whole, run = (
        torch.load(tmp_path / "runs" / name / "checkpoints" / "last.pt", weights_only=True)
        for name in ("whole", "run")
    )
    for key, value in whole["network"].items():
        torch.testing.assert_close(run["network"][key], value, rtol=1e-3, atol=1e-5)
    assert run["progress"] == whole["progress"]
