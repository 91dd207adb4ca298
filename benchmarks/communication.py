"""Communication against compute on paper: what averaging gradients adds to a step on many GPUs.

    python benchmarks/communication.py                 # the estimate behind docs/scaling.md
    python benchmarks/communication.py --measure       # when gradients are ready, on this machine

The estimate knows four numbers: gradient bytes, seconds of compute, the share of the backward pass
in which gradients trickle out, and the rate of a link. Nothing of it is measured, except that share
with `--measure`. It prints Markdown, and with `--measure` one JSON object.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.interleaved import write_result
from benchmarks.step_setup import build_step, random_batch, reference_of, total_loss

PARAMETERS = 120.1e6  # ViT-B, DPT-256, uncertainty decoder, predictor
STEP_SECONDS = 0.108  # 8 + 56 images at 192 x 640 on an H200, itself an estimate
BACKWARD_SECONDS = 0.055  # of these
LINK_SHARE = 0.9  # of a link's nominal rate that NCCL reaches
NVLINK = 350e9  # bytes/s each way within a node; nominal 450e9
GPUS_PER_NODE = 8
LINKS = {  # name -> bytes/s that leave a node, nominal
    "1 x 100 Gb/s": 12.5e9,
    "1 x 200 Gb/s": 25e9,
    "1 x 400 Gb/s": 50e9,
    "8 x 400 Gb/s": 400e9,
}


def ring_seconds(num_bytes: float, ranks: int, rate: float) -> float:
    """A ring all-reduce: every rank sends 2 (R - 1) / R of the gradients, at `rate` bytes/s."""
    return 2 * (ranks - 1) / ranks * num_bytes / rate


def exposed_seconds(communication: float, window: float, buckets: int) -> float:
    """What does not hide behind the backward pass: the rest, and always the last bucket."""
    return max(communication - window, communication / buckets)


def estimate(*, bytes_per_value: int, window_share: float) -> list[dict[str, Any]]:
    """A row for each size of cluster and link.

    Args:
        bytes_per_value: 4, or 2 with gradients sent in bf16.
        window_share: of the backward pass, from the first gradient that is ready to the last.
    """
    num_bytes = PARAMETERS * bytes_per_value
    buckets = max(1, round(num_bytes / 25e6))  # DDP's default
    window = window_share * BACKWARD_SECONDS
    places = [(GPUS_PER_NODE, "NVLink", NVLINK)]
    places += [(64, name, LINK_SHARE * rate) for name, rate in LINKS.items()]
    rows = []
    for ranks, link, rate in places:
        communication = ring_seconds(num_bytes, ranks, rate)
        if ranks > GPUS_PER_NODE:  # no faster than within a node
            communication = max(communication, ring_seconds(num_bytes, ranks, NVLINK))
        exposed = exposed_seconds(communication, window, buckets)
        rows.append(
            {
                "ranks": ranks,
                "link": link,
                "communication": communication,
                "exposed": exposed,
                "efficiency": STEP_SECONDS / (STEP_SECONDS + exposed),
            }
        )
    return rows


def markdown() -> str:
    """The table of docs/scaling.md: all links; gradients ready late, as now, or all along."""
    lines = [
        "| GPUs | link out of a node | gradients in | all-reduce | late: not hidden, efficiency "
        "| early: not hidden, efficiency |",
        "|---:|---|---|---:|---:|---:|",
    ]
    for width, name in ((4, "fp32"), (2, "bf16")):
        late, early = (
            estimate(bytes_per_value=width, window_share=share) for share in (1 / 8, 3 / 4)
        )
        for now, then in zip(late, early, strict=True):
            cells = " | ".join(
                f"{1e3 * row['exposed']:.1f} ms, {row['efficiency']:.0%}" for row in (now, then)
            )
            lines.append(
                f"| {now['ranks']} | {now['link']} | {name} | {1e3 * now['communication']:.1f} ms "
                f"| {cells} |"
            )
    return "\n".join(lines)


def gradient_readiness(args: argparse.Namespace, *, labeled_last: bool) -> dict[str, float]:
    """Share of the backward pass after which 10, 50 and 90 % of the gradients' bytes are ready.

    Of the reference step, which has both orders of passes; median of the rounds.
    """
    ours = build_step(
        encoder=args.encoder, image_size=tuple(args.image_size),
        decoder_channels=args.decoder_channels,
    )  # fmt: skip
    step = reference_of(ours, graph_in_weak_pass=False, labeled_last=labeled_last)
    batch = random_batch(
        step.network, labeled=args.labeled, unlabeled=args.unlabeled, num_groups=args.num_groups
    )
    ready: list[tuple[float, int]] = []
    for parameter in step.parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda p: ready.append((time.perf_counter(), p.numel()))
        )
    rounds = [_readiness(step, batch, ready) for _ in range(1 + args.rounds)][1:]
    return {name: statistics.median(row[name] for row in rounds) for name in rounds[0]}


def _readiness(
    step: nn.Module, batch: dict[str, Any], ready: list[tuple[float, int]]
) -> dict[str, float]:
    """One backward pass; `ready` is filled by its hooks with (moment, number of values)."""
    ready.clear()
    step.zero_grad(set_to_none=True)
    total = total_loss(step, batch)
    start = time.perf_counter()
    total.backward()
    elapsed = time.perf_counter() - start
    whole, so_far, shares = sum(count for _, count in ready), 0, {}
    for moment, count in ready:
        so_far += count
        for percent in (10, 50, 90):
            if so_far >= percent / 100 * whole:
                shares.setdefault(f"ready_{percent}_percent", (moment - start) / elapsed)
    return shares


def main(arguments: list[str] | None = None) -> int:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--measure", action="store_true")
    words.add_argument("--encoder", default="vit_tiny_patch16_224")
    words.add_argument("--image-size", type=int, nargs=2, default=[64, 208], metavar=("H", "W"))
    words.add_argument("--decoder-channels", type=int, default=64)
    words.add_argument("--labeled", type=int, default=1)
    words.add_argument("--unlabeled", type=int, default=7)
    words.add_argument("--num-groups", type=int, default=16)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--out", type=Path)
    args = words.parse_args(arguments)
    if not args.measure:
        print(markdown())
        return 0
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    result = {
        "benchmark": "communication",
        "settings": settings,
        "labeled_first": gradient_readiness(args, labeled_last=False),
        "labeled_last": gradient_readiness(args, labeled_last=True),
    }
    write_result(result, device=torch.device("cpu"), out=args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
