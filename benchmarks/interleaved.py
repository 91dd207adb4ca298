"""Side by side in one run: A B C A B C ..., because a machine's speed drifts more than most gains.

Seconds of one variant mean little beside those of another run; their ratio within a round means
something. So every benchmark here times its variants in turn and reports medians of ratios.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from utils.run_folder import environment

RESULTS = Path(__file__).parent / "results"


def seconds_in_turn(
    variants: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 1,
    device: torch.device | None = None,
) -> tuple[dict[str, list[float]], list[float]]:
    """Wall seconds of each variant in each counted round, all variants once a round.

    Returns:
        Seconds by name, `rounds` of each; and for each counted round the processors that others
        kept busy meanwhile, on average (0 = idle machine; NaN where /proc/stat does not exist).
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    others = []
    for turn in range(warmup + rounds):
        start, stolen = time.perf_counter(), _busy_seconds_of_others()
        for name, work in variants.items():
            took = _seconds(work, device)
            if turn >= warmup:
                seconds[name].append(took)
        if turn >= warmup:
            elapsed = time.perf_counter() - start
            others.append(max(0.0, _busy_seconds_of_others() - stolen) / elapsed)
    return seconds, others


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def times_faster(
    seconds: Mapping[str, Sequence[float]], *, than: str
) -> dict[str, dict[str, float]]:
    """How many times faster each variant is than `than`: the summary of the ratio in each round."""
    return {
        name: summary([base / own for base, own in zip(seconds[than], values, strict=True)])
        for name, values in seconds.items()
    }


def write_result(result: Mapping[str, Any], *, device: torch.device, out: Path | None) -> None:
    """Print the result with its environment as one JSON object; write it to `out` if given."""
    text = json.dumps({**result, "environment": environment(device)}, indent=2)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")


def _seconds(work: Callable[[], Any], device: torch.device | None) -> float:
    """Wall seconds of one call, the GPU's queue emptied on both sides."""
    on_gpu = device is not None and device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _busy_seconds_of_others() -> float:
    """Processor seconds spent so far by all but this process and its ended children."""
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    except OSError:
        return float("nan")
    busy = sum(fields) - fields[3] - fields[4]  # all but idle and waiting for disks
    own = os.times()
    return busy / os.sysconf("SC_CLK_TCK") - sum(own[:4])
