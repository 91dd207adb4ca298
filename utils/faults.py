"""Faults on demand: how tests kill, hang or spoil a run at a chosen place. Ours.

MASKINGDEPTH_FAULT holds one `action@point[:step[:rank]]`; without it nothing here does anything.
Actions: kill (SIGKILL), term (SIGTERM), exit (at once, code 17), hang (sleep), nan (see `spoiled`).
After a restart by torchrun the fault does not happen again.
"""

from __future__ import annotations

import os
import signal
import time

import torch
from torch import Tensor

VARIABLE = "MASKINGDEPTH_FAULT"
EXIT_CODE = 17
HANG = "MASKINGDEPTH_HANG"  # seconds; 600 if it is not set


def reached(point: str, step: int | None = None) -> None:
    """Say that this process is at `point` (of 1-based `step`); it may not survive it."""
    action = _asked_for(point, step)
    if action is None:
        return
    print(f"fault: {action} at {point}, step {step}", flush=True)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif action == "exit":
        os._exit(EXIT_CODE)
    elif action == "hang":
        time.sleep(float(os.environ.get(HANG, "600")))


def spoiled(total: Tensor, step: int) -> Tensor:
    """`total`, or NaN with a gradient where the fault nan@loss asks for it at 1-based `step`."""
    return total * torch.nan if _asked_for("loss", step) == "nan" else total


def _asked_for(point: str, step: int | None) -> str | None:
    words = os.environ.get(VARIABLE)
    if not words or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        return None
    action, _, place = words.partition("@")
    wanted, *numbers = place.split(":")
    numbers = [int(number) for number in numbers if number]
    here = [step, int(os.environ.get("RANK", "0"))][: len(numbers)]
    return action if wanted == point and numbers == here else None
