"""Fixtures that several files share: a tiny rendered street, and the scripts run as users do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datasets.synthetic_tree import SyntheticSettings, write_tree

# the workers of pytest-xdist share the cores: threads that wait for each other are slower than one
torch.set_num_threads(1)

HOUSE = Path(__file__).parent.parent


def pytest_configure(config):
    """Where there is a GPU too, tests are about the CPU; `pytest -m gpu -n 1` runs those about it.

    A process that has used one, or has computed a gradient where there is one, can no longer fork.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


TINY = [  # a network and a run so small that a subprocess needs little more than its imports
    "network.encoder=vit_tiny_patch16_224",
    "network.image_size=[32, 96]",
    "network.decoder_channels=8",
    "network.taps=[0, 1, 2, 3]",
    "labeled.batch_size=2",
    "train.num_steps=4",
    "train.num_workers=0",
    "evaluation.every_steps=2",
    "evaluation.num_panels=1",
    "samples.every_steps=4",
    "samples.num_images=1",
    "save.every_steps=2",
    "log.every_steps=1",
]


@pytest.fixture(scope="session")
def streets(tmp_path_factory) -> Path:
    """Root of a synthetic dataset: 3 training, 2 validation and 1 test scene of 2 frames each."""
    root = tmp_path_factory.mktemp("data") / "synthetic"
    settings = SyntheticSettings(
        num_train_scenes=3, num_val_scenes=2, num_test_scenes=1, frames_per_scene=2,
        image_size=(64, 208),
    )  # fmt: skip
    for look in ("look_a", "look_b"):
        write_tree(root / look, look, settings, workers=1)
    return root


@pytest.fixture
def tiny(tmp_path, streets) -> list[str]:
    """Words that make a run tiny: on `streets`, into tmp_path/runs."""
    roots = [f"{stream}.root={streets}" for stream in ("labeled", "validation")]
    return [*TINY, *roots, f"run.folder={tmp_path / 'runs'}", "run.name=run"]


def run_pair(*words: str) -> subprocess.CompletedProcess:
    """Two processes of one command (script first), as torchrun starts them; must end well."""
    launcher = "import sys; from torch.distributed.run import main; main(sys.argv[1:])"
    result = subprocess.run(
        [sys.executable, "-c", launcher, "--standalone", "--nproc-per-node", "2", *words],
        cwd=HOUSE, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def run_script(script: str, *words: str, code: int = 0, **env: str):
    """Run a script in a subprocess; fail with its whole output on any other exit code."""
    result = subprocess.run(
        [sys.executable, str(HOUSE / script), *words], cwd=HOUSE, capture_output=True, text=True,
        check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )  # fmt: skip
    assert result.returncode == code, result.stdout + result.stderr
    return result
