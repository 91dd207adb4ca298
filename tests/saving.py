"""Saving checkpoints in a test's own process and in a child that is to die or to have no disk."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from utils.checkpoint import KEYS, load_checkpoint, save_checkpoint

HOUSE = Path(__file__).parent.parent
SAVE = '''
import json, os, resource, signal, sys
from pathlib import Path
import torch
from utils.checkpoint import KEYS, CheckpointNotWritten, save_checkpoint
folder = Path(sys.argv[1])
def save(folder, step, *, num_values=4, value=None):
    """Step 2 and what comes after is the best so far."""
    filled = dict.fromkeys(KEYS) | {"format_version": 1, "step": step, "best": {"step": step}}
    weight = torch.full((num_values,), float(step if value is None else value))
    state = filled | {"network": {"w": weight}}
    return save_checkpoint(folder, state, keep_last=2, best=step >= 2)
'''


def save(folder, step, *, best=False):
    state = dict.fromkeys(KEYS) | {"format_version": 1, "step": step, "network": torch.ones(100)}
    return save_checkpoint(folder, state, keep_last=2, best=best)


def child(code, *words, fault=""):
    """A process that saves by itself: its exit code (negative: the signal) and what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", SAVE + code, *map(str, words)], cwd=HOUSE, capture_output=True,
        text=True, check=False, timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MASKINGDEPTH_FAULT": fault},
    )  # fmt: skip
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, result.stdout


def check_whole(folder):
    """Every file is what its sha256 says, if it has one, and loads."""
    for path in folder.glob("*.pt"):
        load_checkpoint(path)


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}
