"""How the cost of a training step grows: with K, picture, encoder, batch, decoder and processes.

    python benchmarks/scaling.py --out benchmarks/results/scaling_cpu.json

One table for each: seconds, FLOPs as counted, peak memory of a process that does one step. All but
one number stay at the base setting, and the points of a table are timed in turn. Ranks are
processes with a thread each, timed by benchmarks/ranks.py; more ranks than cores show only that
they are. `--tables` picks some. Prints one JSON object and, to stderr, the tables in Markdown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.interleaved import seconds_in_turn, summary, write_result
from benchmarks.ranks import measure_ranks
from benchmarks.step_flops import counted_flops
from benchmarks.step_setup import TimedStep, build_step, random_batch
from benchmarks.step_time import peak_of_one_step

POINTS: dict[str, list[dict[str, Any]]] = {
    "num_groups": [{"num_groups": k} for k in (1, 4, 16, 64, 120)],
    "image_size": [
        {"image_size": [height, width]}
        for height, width in ((64, 208), (96, 320), (128, 416), (192, 640))
    ],
    "encoder": [{"encoder": f"vit_{size}_patch16_224"} for size in ("tiny", "small", "base")],
    "batch": [
        {"labeled": labeled, "unlabeled": unlabeled}
        for labeled, unlabeled in ((1, 1), (1, 3), (1, 7), (2, 14))
    ],
    "decoder_channels": [{"decoder_channels": width} for width in (32, 64, 128, 256)],
}


def measure_table(
    args: argparse.Namespace, points: list[dict[str, Any]], device: torch.device
) -> list[dict[str, Any]]:
    """The points of one table, timed in turn."""
    settings = [argparse.Namespace(**(vars(args) | point)) for point in points]
    steps = {str(index): _timed(setting, device) for index, setting in enumerate(settings)}
    flops = [counted_flops(step) for step in steps.values()]  # warms up too
    seconds, others = seconds_in_turn(steps, rounds=args.rounds, warmup=0, device=device)
    return [
        {
            **point,
            "seconds": summary(seconds[name]),
            "images_per_s": (setting.labeled + setting.unlabeled)
            / summary(seconds[name])["median"],
            "flops": count,
            "peak_memory_gib": None if args.no_memory else _peak(setting, steps[name], device),
            "others_busy": summary(others)["median"],
        }
        for point, setting, (name, count) in zip(
            points, settings, zip(steps, flops, strict=True), strict=True
        )
    ]


def _timed(setting: argparse.Namespace, device: torch.device) -> TimedStep:
    step = build_step(
        encoder=setting.encoder, image_size=tuple(setting.image_size), seed=setting.seed,
        decoder_channels=setting.decoder_channels,
    ).to(device)  # fmt: skip
    batch = random_batch(
        step.network, labeled=setting.labeled, unlabeled=setting.unlabeled, seed=setting.seed,
        num_groups=setting.num_groups, rule=setting.rule, device=device,
    )  # fmt: skip
    return TimedStep(step, batch, precision=setting.precision)


def _peak(setting: argparse.Namespace, step: TimedStep, device: torch.device) -> float:
    return peak_of_one_step(setting, step, "ours", setting.precision, device)


def markdown(result: dict[str, Any]) -> str:
    """The tables, one behind the other."""
    blocks = []
    for name, rows in result["tables"].items():
        keys = list(POINTS[name][0])
        lines = [
            f"| {' | '.join(keys)} | s a step | images/s | GFLOP | peak memory |",
            "|" + "---|" * len(keys) + "---:|" * 4,
        ]
        for row in rows:
            own = " | ".join(str(row[key]) for key in keys)
            memory = row["peak_memory_gib"]
            lines.append(
                f"| {own} | {row['seconds']['median']:.2f} | {row['images_per_s']:.2f} | "
                f"{row['flops'] / 1e9:.0f} | {'–' if memory is None else f'{memory:.2f} GiB'} |"
            )
        blocks.append("\n".join(lines))
    if result["ranks"]:
        blocks.append(ranks_markdown(result["ranks"]))
    return "\n\n".join(blocks)


def ranks_markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| ranks | s a step, alone | all at once, nothing sent | gradients averaged | images/s "
        "| efficiency | without communication |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ways = " | ".join(
            f"{row['seconds'][way]['median']:.2f}" for way in ("alone", "apart", "together")
        )
        lines.append(
            f"| {row['ranks']} | {ways} | {row['images_per_s']:.2f} | "
            f"{row['efficiency']['median']:.0%} | "
            f"{row['efficiency_without_communication']['median']:.0%} |"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--encoder", default="vit_tiny_patch16_224")
    words.add_argument("--image-size", type=int, nargs=2, default=[96, 320], metavar=("H", "W"))
    words.add_argument("--decoder-channels", type=int, default=64)
    words.add_argument("--labeled", type=int, default=1)
    words.add_argument("--unlabeled", type=int, default=3)
    words.add_argument("--num-groups", type=int, default=16)
    words.add_argument("--rule", default="equal", help="of group sizes: equal or random_cuts")
    words.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    words.add_argument("--tables", nargs="*", choices=POINTS, default=list(POINTS))
    words.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--no-memory", action="store_true")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    words.add_argument("--out", type=Path)
    return words


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    device = torch.device(args.device)
    settings = {key: value for key, value in vars(args).items() if key not in ("out", "no_memory")}
    result = {
        "benchmark": "scaling",
        "settings": settings,
        "tables": {name: measure_table(args, POINTS[name], device) for name in args.tables},
        "ranks": [measure_ranks(args, world_size) for world_size in args.ranks],
    }
    print(markdown(result), file=sys.stderr)
    write_result(result, device=device, out=args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
