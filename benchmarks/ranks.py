"""The same step on several processes of this machine: what averaging the gradients costs.

Called by `scaling.py`. All three ways are measured in turn, by the same processes, each on a batch
of its own, gradients over gloo on a CPU and NCCL on GPUs:

    alone      the first process; the others wait, asleep
    apart      all at once, nothing is sent: what they take from each other (memory, caches, cores)
    together   all at once, gradients averaged (DistributedDataParallel): what training does
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.interleaved import seconds_in_turn, summary
from benchmarks.step_setup import TimedStep, build_step, random_batch
from utils.processes import Process, distribute, start_process, stop_process


def measure_ranks(args: argparse.Namespace, world_size: int) -> dict[str, Any]:
    """Seconds of the three ways, and the efficiency: images/s of all, over R times those alone."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "ranks.json"
        multiprocessing.start_processes(
            _rank, args=(world_size, _free_port(), args, out), nprocs=world_size,
            start_method="spawn",
        )  # fmt: skip
        seconds = json.loads(out.read_text())
    images = args.labeled + args.unlabeled
    ratio = {
        way: summary([a / b for a, b in zip(seconds["alone"], seconds[way], strict=True)])
        for way in ("apart", "together")
    }
    return {
        "ranks": world_size,
        "seconds": {way: summary(values) for way, values in seconds.items()},
        "images_per_s": world_size * images / summary(seconds["together"])["median"],
        "efficiency": ratio["together"],
        "efficiency_without_communication": ratio["apart"],
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _rank(rank: int, world_size: int, port: int, args: argparse.Namespace, out: Path) -> None:
    """One process, one thread. The first writes its seconds of the three ways."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
        "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank),
    }  # fmt: skip
    torch.set_num_threads(1)
    process = start_process(args.device)
    seconds = _three_ways(args, process)
    if rank == 0:
        out.write_text(json.dumps(seconds))
    stop_process()


def _three_ways(args: argparse.Namespace, process: Process) -> dict[str, list[float]]:
    step = build_step(
        encoder=args.encoder, image_size=tuple(args.image_size), seed=args.seed,
        decoder_channels=args.decoder_channels,
    ).to(process.device)  # fmt: skip
    batch = random_batch(
        step.network, labeled=args.labeled, unlabeled=args.unlabeled, num_groups=args.num_groups,
        seed=args.seed + process.rank, device=process.device,
    )  # fmt: skip
    averaged = distribute(step, process)
    apart = TimedStep(step, batch, precision=args.precision)
    together = TimedStep(step, batch, precision=args.precision, distributed=averaged)

    def alone() -> None:
        if process.is_main:
            apart()
        distributed.barrier()

    def run(work: TimedStep) -> None:
        work()
        distributed.barrier()

    ways = {
        "alone": alone,
        "apart": functools.partial(run, apart),
        "together": functools.partial(run, together),
    }
    seconds, _ = seconds_in_turn(ways, rounds=args.rounds, warmup=1, device=process.device)
    return seconds
