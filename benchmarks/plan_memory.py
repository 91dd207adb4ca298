"""How far `--plan` is off: its estimate beside what passes of the real step take.

    python benchmarks/plan_memory.py --out FILE      # on a GPU: what the allocator handed out
    python benchmarks/plan_memory.py --device cpu --encoders vit_tiny_patch16_224 \\
        --image-size 64 208 --decoder-channels 32 --batches 1+3 4+12 --precision fp32

Of each setting: GiB estimated and measured, and their ratio. Measured is the second pass of a step:
weights, moments and the gradients of the first pass are there, as `--plan` counts them. On a GPU it
is `torch.cuda.max_memory_allocated`, which sees workspaces that kernels ask the allocator for and
rounds up; `reserved_gib` also has the gaps between blocks. On a CPU tensors are counted as they
live (`step_memory.LiveMemory`), so what is compared is the fake step with the real one. Prints one
JSON object.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
from pathlib import Path
from typing import Any

import torch
from dotmap import DotMap

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.interleaved import write_result
from benchmarks.step_setup import TimedStep, random_batch, total_loss
from consistency_train import build_step
from networks import build_network
from step_memory import GIB, Images, LiveMemory, pass_memory
from utils.config import load_config
from utils.optimization import autocast

PAPER = Path(__file__).parent.parent / "conf" / "consistency_train_kitti.yaml"


def compare(
    cfg: DotMap, images: Images, *, precision: str, checkpointing: bool, device: torch.device
) -> dict[str, Any]:
    """One row; `measured_gib` None where the device had too little memory."""
    estimated = pass_memory(
        cfg, images, build_step=build_step, masked=True, precision=precision,
        checkpointing=checkpointing,
    )  # fmt: skip
    row = {
        "encoder": cfg.network.encoder, "labeled": images.labeled, "unlabeled": images.unlabeled,
        "precision": precision, "activation_checkpointing": checkpointing,
        "held_gib": estimated.held / GIB, "estimated_gib": estimated.peak / GIB,
    }  # fmt: skip
    measure = _peak_on_gpu if device.type == "cuda" else _peak_of_tensors
    try:
        step = _timed_step(cfg, images, precision, device, checkpointing=checkpointing)
        measured = measure(step)
    except torch.cuda.OutOfMemoryError:
        return row | {"measured_gib": None, "estimated_over_measured": None}
    ratio = row["estimated_gib"] / measured["measured_gib"]
    return row | measured | {"estimated_over_measured": ratio}


def _timed_step(
    cfg: DotMap, images: Images, precision: str, device: torch.device, *, checkpointing: bool
) -> TimedStep:
    """The real step on random images, after one update: Adam has its moments."""
    torch.manual_seed(cfg.run.seed)
    network = build_network(**cfg.network.toDict())
    step = build_step(cfg, network).to(device)
    if checkpointing:
        network.recompute_activations()
    batch = random_batch(
        network, **images._asdict(), num_groups=cfg.masking.num_groups, device=device
    )
    timed = TimedStep(step, batch, precision=precision)
    timed()
    return timed


def _passes(step: TimedStep, number: int) -> None:
    """Forward and backward; gradients add up."""
    for _ in range(number):
        with autocast(step.device, step.precision):
            total = total_loss(step.step, step.batch)
        total.backward()


def _peak_on_gpu(step: TimedStep) -> dict[str, float]:
    _passes(step, 1)
    torch.cuda.synchronize(step.device)
    torch.cuda.reset_peak_memory_stats(step.device)
    _passes(step, 1)
    torch.cuda.synchronize(step.device)
    return {
        "measured_gib": torch.cuda.max_memory_allocated(step.device) / GIB,
        "reserved_gib": torch.cuda.max_memory_reserved(step.device) / GIB,
    }


def _peak_of_tensors(step: TimedStep) -> dict[str, float]:
    _passes(step, 1)
    parameters = list(step.step.parameters())
    held = [*parameters, *step.step.buffers(), *(p.grad for p in parameters)]
    held += [value for state in step.optimizer.state.values() for value in state.values()]
    held += [*step.batch["labeled"].values(), *step.batch["unlabeled"].values()]
    with LiveMemory() as memory:
        for tensor in held:
            memory.watch(tensor)
        _passes(step, 1)
    return {"measured_gib": memory.peak / GIB}


def settings_of(args: argparse.Namespace, encoder: str) -> DotMap:
    """The paper's configuration with the words of the command line; no dataset is opened."""
    return load_config(PAPER, [
        f"network.encoder={encoder}", f"network.image_size={list(args.image_size)}",
        f"network.decoder_channels={args.decoder_channels}", "network.pretrained=none",
        f"masking.num_groups={args.num_groups}", f"run.seed={args.seed}",
        # its depth has the size of the picture, as that of `random_batch` has
        "labeled.dataset=rgbd", "labeled.depth_scale=1000",
    ])  # fmt: skip


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument(
        "--encoders", nargs="+", default=["vit_small_patch16_384", "vit_base_patch16_384"]
    )
    words.add_argument("--image-size", type=int, nargs=2, default=[192, 640], metavar=("H", "W"))
    words.add_argument("--decoder-channels", type=int, default=256)
    words.add_argument("--batches", nargs="+", type=_images, default=[Images(1, 7), Images(8, 56)],
                       metavar="LABELED+UNLABELED")  # fmt: skip
    words.add_argument("--num-groups", type=int, default=64)
    words.add_argument("--precision", nargs="+", choices=("fp32", "bf16"),
                       default=["fp32", "bf16"])  # fmt: skip
    words.add_argument("--checkpointing", nargs="+", choices=("no", "yes"), default=["no", "yes"])
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    words.add_argument("--out", type=Path)
    return words


def _images(word: str) -> Images:
    """ "8+56" -> Images(8, 56)."""
    labeled, unlabeled = (int(part) for part in word.split("+"))
    if min(labeled, unlabeled) < 1:
        raise ValueError(word)
    return Images(labeled, unlabeled)


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    device = torch.device(args.device)
    rows = []
    for encoder, images, precision, checkpointing in itertools.product(
        args.encoders, args.batches, args.precision, args.checkpointing
    ):
        rows.append(compare(
            settings_of(args, encoder), images, precision=precision, device=device,
            checkpointing=checkpointing == "yes",
        ))  # fmt: skip
        print(rows[-1], file=sys.stderr, flush=True)
        gc.collect()  # of this setting nothing stays for the next
        if device.type == "cuda":
            torch.cuda.empty_cache()
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    settings["batches"] = [str(images) for images in args.batches]
    result = {"benchmark": "plan_memory", "settings": settings, "rows": rows}
    write_result(result, device=device, out=args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
