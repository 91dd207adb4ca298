"""Two processes under the real torchrun: told to stop, dead, hanging, started again."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import HOUSE, TINY
from forked import run_forked, run_forked_ranks
from test_resume import check_same_run, lines_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="asks /proc")
LAUNCHER = "import sys; from torch.distributed.run import main; main(sys.argv[1:])"
LONG = ["train.num_steps=100000", "evaluation.every_steps=100000", "samples.every_steps=100000",
        "save.every_steps=100000"]  # fmt: skip
SAVED = re.compile(r"stopped as asked: (\d+) steps are saved, the same command goes on")


@pytest.fixture
def words(tmp_path, streets):
    """Six labelled frames, a moving average, a rate that changes every step."""
    roots = [f"{name}.root={streets}" for name in ("labeled", "unlabeled", "validation")]
    return [*TINY, *roots, f"run.folder={tmp_path / 'runs'}", "run.name=run",
            "labeled.num_frames=null", "unlabeled.batch_size=2", "train.num_steps=6",
            "train.ema_decay=0.5", "schedule.warmup_steps=4", "evaluation.every_steps=3",
            "samples.every_steps=3"]  # fmt: skip


class Torchrun:
    """`torchrun --standalone --nproc-per-node 2`, and every process that comes of it."""

    def __init__(self, folder: Path, flags: list[str], words: list[str], **env: str):
        self.output = folder / f"torchrun_{os.urandom(4).hex()}.txt"
        self.mark = f"HERE={self.output}"  # in the environment, which all descendants inherit
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, "--standalone", "--nproc-per-node", "2", *flags,
                 *words],
                cwd=HOUSE, stdout=output, stderr=output,
                env={**os.environ, "OMP_NUM_THREADS": "1", "HERE": str(self.output), **env},
            )  # fmt: skip

    @property
    def told(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str) -> None:
        """Until it has printed `text`."""
        end = time.monotonic() + 120
        while text not in self.told:
            assert self.process.poll() is None and time.monotonic() < end, self.told
            time.sleep(0.02)

    def processes(self) -> dict[int, dict[str, str]]:
        """Those that live: pid -> environment. torchrun gives each of its own a session, so that
        neither group nor parent would tell."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (folder / "environ").read_bytes().decode(errors="replace")
                if self.mark in environment.split("\0"):
                    pairs = (pair.partition("=") for pair in environment.split("\0"))
                    found[int(folder.name)] = {key: value for key, _, value in pairs}
        return found

    def pid_of(self, rank: int) -> int:
        """Of the training process, which is the oldest with this rank."""
        return min(pid for pid, env in self.processes().items() if env.get("RANK") == str(rank))

    def end(self) -> int:
        """Its exit code. Nothing that it started may be left."""
        try:
            code = self.process.wait(timeout=150)
            time.sleep(0.5)  # for what is on its way out
            assert not self.processes(), f"left behind: {sorted(self.processes())}"
        finally:
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)
        return code


def run_ranks(script: str, *words: str) -> None:
    """The same two processes without torchrun, which is faster; must end well."""
    for ended in run_forked_ranks(script, *words):
        assert ended.code == 0, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "numbers"),
    [
        ("train.py", [signal.SIGUSR1]),
        ("consistency_train.py", [signal.SIGTERM, signal.SIGTERM]),  # one of SLURM, one of a script
    ],
)
def test_a_signal_to_torchrun_stops_all_processes_at_one_step(script, numbers, words, tmp_path):
    """Row 23, with loader processes; torchrun's own code is 1 whatever its processes say."""
    flags = ["--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1", "--max-restarts", "1"]
    words = [*words, *LONG, "train.num_workers=1"]
    run = Torchrun(tmp_path, flags, [script, *words], TORCH_ELASTIC_SHUTDOWN_TIMEOUT="100")
    run.wait_for("step 2/")
    assert len(run.processes()) >= 5  # torchrun, two trainings, and what loads for each
    for number in numbers:
        run.process.send_signal(number)
        time.sleep(0.05)
    assert run.end() == 1
    check_saved_at_one_step(run, tmp_path)
    assert "going on after step" not in run.told  # nothing is started again


def check_saved_at_one_step(run: Torchrun, folder: Path) -> None:
    steps = [int(step) for step in SAVED.findall(run.told)]
    assert len(steps) == 2 and steps[0] == steps[1], run.told
    state = torch.load(folder / "runs" / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == steps[0] == lines_of(folder / "runs" / "run")[-1]["step"]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_one_step(words, tmp_path):
    """Row 24. torchrun sends SIGTERM when the first has ended: the other may be on its way out."""
    run = Torchrun(tmp_path, [], ["train.py", *words, *LONG])
    run.wait_for("step 2/")
    os.kill(run.pid_of(1), signal.SIGTERM)
    assert run.end() == 1
    check_saved_at_one_step(run, tmp_path)
    codes = sorted(re.findall(r"exitcode +: (-?\d+)", run.told))
    assert codes in (["143", "143"], ["-15", "143"]), run.told


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "consistency_train.py"])
def test_a_process_that_dies_once_costs_nothing(script, words, tmp_path):
    """Row 26: torchrun starts all again, and the run is that without the death, bit for bit."""
    run = Torchrun(
        tmp_path, ["--max-restarts", "1"], [script, *words],
        MASKINGDEPTH_FAULT="exit@backward:3:1",
    )  # fmt: skip
    assert run.end() == 0, run.told
    assert "fault: exit at backward, step 3" in run.told and "going on after step 2" in run.told
    run_ranks(script, *words, "run.name=whole")
    check_same_run(tmp_path / "runs" / "whole", tmp_path / "runs" / "run")


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others_which_name_it(words, tmp_path):
    """Row 27: torchrun kills the one that hangs 30 s later, which no option changes."""
    run = Torchrun(
        tmp_path, [], ["train.py", *words, "run.timeout_s=4"],
        MASKINGDEPTH_FAULT="hang@backward:3:1",
    )  # fmt: skip
    run.wait_for("fault: hang")
    hanging = run.pid_of(1)
    assert run.end() == 1
    message = next(line for line in run.told.splitlines() if "waited for others in vain" in line)
    assert message.startswith("rank 0 waited")
    assert f"pid {hanging}) was last heard of in step 2" in message
    # the step that both had made before is saved
    state = torch.load(tmp_path / "runs" / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == 2


def test_frames_that_do_not_fill_the_processes_batches_are_shared_evenly(words, tmp_path):
    """Row 28: five frames by two processes of two are what one process of four learns from."""
    words = [*words, "labeled.num_frames=5", "train.num_steps=7", "losses.depth_loss=l1"]
    run_ranks("train.py", *words, "run.name=two")
    run_forked("train.py", *words, "run.name=one", "labeled.batch_size=4")
    two, one = (tmp_path / "runs" / name for name in ("two", "one"))
    for line, other in zip(lines_of(two), lines_of(one), strict=True):
        assert line.pop("split") == other.pop("split")
        assert line == pytest.approx(other, rel=1e-6)  # float32 summed in another order
    for folder in (two, one):
        state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
        assert state["progress"]["samples"] == {"labeled": 7 * 4}


def test_validation_by_two_processes_gives_what_one_gives(words, tmp_path):
    """Row 29: of three frames, so that one process has more; images one at a time, as rounding
    depends on how many are computed together."""
    words = [*words, "validation.num_frames=3", "evaluation.batch_size=1"]
    for name in ("one", "two"):  # both stop when the validation of the same weights begins
        stopped = [*words, f"run.name={name}"]
        run_forked("train.py", *stopped, code=143, MASKINGDEPTH_FAULT="term@validation:3")
    run_forked("train.py", *words, "run.name=one")
    run_ranks("train.py", *words, "run.name=two")
    one, two = (
        next(line for line in lines_of(tmp_path / "runs" / name) if line["split"] == "val")
        for name in ("one", "two")
    )
    assert one["step"] == two["step"] == 3 and one["num_images"] == 3
    del one["split"], two["split"]
    assert one == pytest.approx(two, rel=0, abs=1e-12)
