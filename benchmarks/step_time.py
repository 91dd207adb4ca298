"""One training step: ours, the authors', and ours with one thing changed, in turn in one run.

    python benchmarks/step_time.py --encoder vit_base_patch16_384 --image-size 192 640 \
        --labeled 1 --unlabeled 7 --num-groups 64 --precision fp32 bf16 --rounds 3 --out FILE
    python benchmarks/step_time.py --unlabeled 0 --labeled 8     # the supervised step

Of each variant: seconds (forward, backward, optimiser), images/s, how many times faster than the
first variant in the same round, FLOPs as counted, share of the floor (every product of the step
alone, at its best, measured in the same run), MFU, peak memory. Prints one JSON object and, to
stderr, a table. `--variants` are those of benchmarks/step_variants.py:


    reference          the authors' computation (benchmarks/reference_step.py), Adam unfused
    reference_no_grad  the same, weak views without a graph
    reference_nchw     the same as reference, decoder maps forced to (B, C, H, W) order
    ours               what consistency_train.py runs
    ours_nchw          decoder weights and maps in (B, C, H, W) order
    ours_recompute     train.activation_checkpointing=true
    ours_compiled      train.compile=true: blocks, fusion and heads
    ours_light         network.uncertainty_decoder=light
    ours_fast          the fast preset: a decoder of half the channels, light; plain images of
                       half the height and width, in a quarter of the groups; labelled ones in both

The last two are other networks, so they say what a preset gains, not what the code does. Peak
memory is that of one step in a process of its own on a CPU (`--no-memory` spares these processes);
on a GPU, of a step beside what all variants hold, less what the others hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.interleaved import seconds_in_turn, summary, times_faster, write_result
from benchmarks.step_floor import measure_floor
from benchmarks.step_flops import counted_flops, step_flops
from benchmarks.step_setup import STAGES, TimedStep
from benchmarks.step_variants import LIGHT, VARIANTS, timed_steps
from utils.memory import keep_freed_memory
from utils.throughput import peak_memory_gib

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """All numbers of one run; see the head of this file."""
    steps = timed_steps(args, device)
    flops: dict[str, int | None] = {}
    for name, step in steps.items():  # the first call warms up, or compiles
        if "compiled" in name:  # the counter does not see into compiled kernels
            step()
            flops[name] = None
        else:
            flops[name] = counted_flops(step)
    if args.check_sync:
        check_sync(next(step for name, step in steps.items() if name.startswith("ours")))
    seconds, others = seconds_in_turn(steps, rounds=args.rounds, warmup=args.warmup, device=device)
    ours = next(iter(steps.values())).step
    method = step_flops(
        ours.network, labeled=args.labeled, groups=next(iter(steps.values())).batch["groups"],
        hidden=ours.predictor.mlps[0][0].out_features, kind="method",
    )  # fmt: skip
    floors = {
        precision: measure_floor(
            ours, labeled=args.labeled, unlabeled=args.unlabeled, dtype=DTYPES[precision]
        )
        for precision in args.precision
    }
    faster = times_faster(seconds, than=next(iter(steps)))
    memory = {
        name: None
        if args.no_memory
        else peak_of_one_step(args, step, *name.split(), device, keep_memory=args.keep_memory)
        for name, step in steps.items()
    }
    report = {}
    for name, step in steps.items():
        floor = floors[step.precision]
        median = summary(seconds[name])["median"]
        same_network = name.split()[0] not in LIGHT
        report[name] = {
            "seconds": summary(seconds[name]),
            "stages": {
                stage: summary(values)
                for stage, values in step.stage_seconds(last=args.rounds).items()
            },
            "images_per_s": (args.labeled + args.unlabeled) / median,
            "times_faster": faster[name],
            "flops_counted": flops[name],
            "share_of_floor": floor["seconds"] / median if same_network else None,
            "mfu_matmul": _mfu(method, median, floor["matmul_rate"]) if same_network else None,
            "mfu_conv": _mfu(method, median, floor["conv_rate"]) if same_network else None,
            "peak_memory_gib": memory[name],
            "parameters": step.count_parameters,
        }
    return {
        "others_busy": summary(others),
        "method_flops": {**method, "total": sum(method.values())},
        "floor": floors,
        "variants": report,
    }


def _mfu(method: dict[str, float], seconds: float, rate: float) -> float:
    return sum(method.values()) / seconds / rate


def check_sync(step: TimedStep) -> None:
    """One step in which waiting for the GPU is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def peak_of_one_step(
    args: argparse.Namespace, step: TimedStep, variant: str, precision: str, device: torch.device,
    *, keep_memory: bool = False,
) -> float:  # fmt: skip
    """GiB at the peak of one step: of `step` on a GPU, of the same in a new process on a CPU."""
    if device.type == "cuda":
        return _peak_on_gpu(step)
    return _peak_in_own_process(args, variant, precision, keep_memory=keep_memory)


def _peak_on_gpu(step: TimedStep) -> float:
    """Held by this variant, and what its step allocates on top."""
    own = list(step.step.parameters())
    own += [x for state in step.optimizer.state.values() for x in state.values()]
    held = sum(x.numel() * x.element_size() for x in own if x.is_cuda)
    before = torch.cuda.memory_allocated(step.device)
    torch.cuda.reset_peak_memory_stats(step.device)
    step()
    return (held + torch.cuda.max_memory_allocated(step.device) - before) / 2**30


def _peak_in_own_process(
    args: argparse.Namespace, variant: str, precision: str, *, keep_memory: bool
) -> float:
    """Most that a process which does one step ever held; less what it holds before (imports)."""
    words = ["--encoder", args.encoder, "--image-size", *args.image_size, "--decoder-channels",
             args.decoder_channels, "--labeled", args.labeled, "--unlabeled", args.unlabeled,
             "--num-groups", args.num_groups, "--rule", args.rule, "--seed", args.seed, "--device",
             "cpu", "--variants", variant, "--precision", precision, "--only-memory",
             *["--keep-memory"] * keep_memory]  # fmt: skip
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)["peak_memory_gib"]


def _peak_of_this_program() -> float:
    """GiB, as Linux counts them since the program began.

    `getrusage`, which other systems are left with, also has what the parent held when it forked.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return peak_memory_gib()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def table(result: dict[str, Any]) -> str:
    """A line a variant."""
    lines = [
        f"{'variant':<24} {'s':>9} {'forward':>8} {'backward':>8} {'optim.':>7} {'img/s':>7} "
        f"{'faster':>7} {'floor':>6} {'GiB':>6}"
    ]
    for name, row in result["variants"].items():
        stages = "".join(
            f"{row['stages'][stage]['median']:>{9 if stage != 'optimiser' else 8}.3f}"
            for stage in STAGES
        )
        floor = "" if row["share_of_floor"] is None else f"{row['share_of_floor']:.0%}"
        memory = "" if row["peak_memory_gib"] is None else f"{row['peak_memory_gib']:.2f}"
        lines.append(
            f"{name:<24} {row['seconds']['median']:>9.3f}{stages} {row['images_per_s']:>7.2f} "
            f"{row['times_faster']['median']:>7.2f} {floor:>6} {memory:>6}"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--encoder", default="vit_tiny_patch16_224")
    words.add_argument("--image-size", type=int, nargs=2, default=[64, 208], metavar=("H", "W"))
    words.add_argument("--decoder-channels", type=int, default=256)
    words.add_argument("--labeled", type=int, default=1)
    words.add_argument("--unlabeled", type=int, default=7)
    words.add_argument("--num-groups", type=int, default=64)
    words.add_argument("--rule", default="equal", help="of group sizes: equal or random_cuts")
    words.add_argument("--precision", nargs="+", choices=DTYPES, default=["fp32"])
    words.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=["reference", "reference_no_grad", "ours"],
    )
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--warmup", type=int, default=0, help="rounds behind the one that counts")
    words.add_argument("--check-sync", action="store_true", help="an error where ours waits (CUDA)")
    words.add_argument(
        "--keep-memory", action="store_true",
        help="as the training scripts do on a CPU (utils/memory.py): for runs without a reference",
    )  # fmt: skip
    words.add_argument("--no-memory", action="store_true")
    words.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    words.add_argument("--out", type=Path)
    return words


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    device = torch.device(args.device)
    if args.check_sync and device.type != "cuda":
        parser().error("--check-sync needs a CUDA device")
    if args.keep_memory:
        keep_freed_memory()
    if args.only_memory:
        before = _peak_of_this_program()
        next(iter(timed_steps(args, device).values()))()
        print(json.dumps({"peak_memory_gib": _peak_of_this_program() - before}))
        return 0
    hidden = ("out", "only_memory", "no_memory")
    settings = {key: value for key, value in vars(args).items() if key not in hidden}
    result = {"benchmark": "step_time", "settings": settings, **measure(args, device)}
    print(table(result), file=sys.stderr)
    write_result(result, device=device, out=args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
