"""A long run that is killed and stopped all along, beside the same run left alone.

    python benchmarks/endurance.py --steps 20000 --out benchmarks/results/endurance_cpu.json

A tiny network learns from rendered streets by consistency_train.py, once undisturbed, once with
SIGKILL or SIGTERM at random moments, every few hundred steps, each time started again by the same
command. At the end weights, moving average, optimiser, counts, metrics.jsonl (but for what clocks
say) and pictures must be the same bits. Also: resident memory of the undisturbed run, and how much
of the disturbed one was done twice. Prints one JSON object; `--out FILE` also writes it. Exit code
1 where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.interleaved import write_result
from datasets.synthetic_tree import SyntheticSettings, write_tree

HOUSE = Path(__file__).parent.parent
CLOCKS = ("images_per_s", "data_wait_fraction", "peak_memory_gib", "eta_s")
COMPARED = ("step", "network", "step_module", "optimizer", "scaler", "best", "progress")
STOPPED = (143, -signal.SIGKILL)
TINY = [
    "network.encoder=vit_tiny_patch16_224", "network.image_size=[32, 96]",
    "network.decoder_channels=8", "network.taps=[0, 1, 2, 3]", "labeled.num_frames=null",
    "labeled.batch_size=1", "unlabeled.batch_size=2", "loss_weights.feature_consistency=1",
    "train.ema_decay=0.99", "train.num_workers=1", "masking.num_groups=4", "log.every_steps=20",
    "evaluation.every_steps=500", "samples.every_steps=2500", "samples.num_images=1",
    "save.every_steps=50", "resume=auto", "run.device=cpu",
]  # fmt: skip


def start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(HOUSE / "consistency_train.py"), *words], cwd=HOUSE,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def left_alone(words: list[str]) -> tuple[float, list[float]]:
    """Seconds that the run took, and its resident memory in MiB once a second."""
    began, run, memory = time.monotonic(), start(words), []
    while run.poll() is None:
        time.sleep(1)
        memory.append(resident_mib(run.pid))
    if run.returncode:
        raise RuntimeError(run.stderr.read().decode()[-2000:])
    return time.monotonic() - began, [m for m in memory if m]


def resident_mib(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return int(status.partition("VmRSS:")[2].split()[0]) / 2**10 if "VmRSS:" in status else 0.0


def disturbed(words: list[str], folder: Path, *, every_s: float, seed: int) -> dict[str, Any]:
    """Start, kill or stop after a random time, start again, until the run comes to its end."""
    draws, kills, stops, began = random.Random(seed), 0, 0, time.monotonic()
    while True:
        run = start(words)
        wait_for_a_step(run, folder)
        patience_s, number = draws.uniform(0, 2 * every_s), draws.choice(["SIGKILL", "SIGTERM"])
        try:
            run.wait(patience_s)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.Signals[number])
            run.wait()
        if run.returncode == 0:
            return {"kills": kills, "stops": stops, "seconds": time.monotonic() - began}
        if run.returncode not in STOPPED:
            raise RuntimeError(run.stderr.read().decode()[-2000:])
        kills, stops = kills + (number == "SIGKILL"), stops + (number == "SIGTERM")


def wait_for_a_step(run: subprocess.Popen, folder: Path) -> None:
    """Until metrics.jsonl is written to: killed while it starts, a run would never get anywhere."""
    metrics, began = folder / "metrics.jsonl", time.time()
    while run.poll() is None:
        if metrics.exists() and metrics.stat().st_mtime > began and last_step(metrics):
            return
        time.sleep(0.05)


def last_step(metrics: Path) -> int:
    lines = metrics.read_text().splitlines()
    return json.loads(lines[-1])["step"] if lines else 0


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same in two finished runs, by name."""
    found = []
    for name in ("last.pt", "best.pt"):
        states = [torch.load(f / "checkpoints" / name, weights_only=True) for f in (one, other)]
        found += [f"{name} {key}" for key in COMPARED if not same(*(s[key] for s in states))]
    lines = [lines_of(folder) for folder in (one, other)]
    found += ["metrics.jsonl"] * (lines[0] != lines[1])
    pictures = [
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (f / "samples").iterdir()}
        for f in (one, other)
    ]
    return found + ["samples"] * (pictures[0] != pictures[1])


def lines_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--every-s", type=float, default=15, help="mean time between two signals")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    with TemporaryDirectory() as place:
        root, runs = Path(place) / "streets", Path(place) / "runs"
        settings = SyntheticSettings(
            num_train_scenes=6, num_val_scenes=2, num_test_scenes=1, frames_per_scene=2,
            image_size=(64, 208),
        )  # fmt: skip
        write_tree(root / "look_a", "look_a", settings, workers=1)
        roots = [f"{name}.root={root}" for name in ("labeled", "unlabeled", "validation")]
        words = [*TINY, *roots, f"train.num_steps={args.steps}", f"run.folder={runs}"]
        seconds, memory = left_alone([*words, "run.name=alone"])
        history = disturbed(
            [*words, "run.name=disturbed"], runs / "disturbed", every_s=args.every_s, seed=args.seed
        )
        found = differences(runs / "alone", runs / "disturbed")
        num_lines = len(lines_of(runs / "alone"))
    tenth = max(1, len(memory) // 10)
    result = {
        "benchmark": "endurance",
        "settings": {"steps": args.steps, "every_s": args.every_s, "seed": args.seed},
        "differences": found,
        "lines_compared": num_lines,
        "seconds_alone": seconds,
        "disturbed": history,
        "resident_mib": {
            "second_tenth": statistics.median(memory[tenth : 2 * tenth] or memory),
            "last_tenth": statistics.median(memory[-tenth:]),
            "largest": max(memory),
        },
    }
    write_result(result, device=torch.device("cpu"), out=args.out)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
