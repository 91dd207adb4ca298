"""The steps that `benchmarks/step_time.py` compares: its head says what each one is."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.step_setup import TimedStep, build_step, random_batch, reference_of


def _in_plain_order(step: nn.Module) -> nn.Module:
    """Weights and decoder maps in (B, C, H, W) order."""
    for project in step.network.reassemble.project:
        project.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return step.to(memory_format=torch.contiguous_format)


def _recompute(step: nn.Module) -> nn.Module:
    step.network.recompute_activations()
    return step


def _compiled(step: nn.Module) -> nn.Module:
    step.network.compile_regions()
    return step


def _reference(**changes: Any) -> Callable[[nn.Module], nn.Module]:
    # weights in the order in which PyTorch makes them
    return lambda step: reference_of(step.to(memory_format=torch.contiguous_format), **changes)


VARIANTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "reference": _reference(),
    "reference_no_grad": _reference(graph_in_weak_pass=False),
    "reference_nchw": _reference(contiguous=True),
    "ours": lambda step: step,
    "ours_nchw": _in_plain_order,
    "ours_recompute": _recompute,
    "ours_compiled": _compiled,
    "ours_light": lambda step: step,
    "ours_fast": lambda step: step,
}
LIGHT = ("ours_light", "ours_fast")


def build_variant(name: str, args: argparse.Namespace, device: torch.device) -> nn.Module:
    """The step that `name` stands for, with the same random weights where shapes agree."""
    size, patch = tuple(args.image_size), int(re.search(r"patch(\d+)", args.encoder)[1])
    half = tuple(max(patch, side // 2 // patch * patch) for side in size)
    step = build_step(
        encoder=args.encoder, image_size=size, seed=args.seed,
        small_size=half if name == "ours_fast" else None,
        decoder_channels=args.decoder_channels // (2 if name == "ours_fast" else 1),
        uncertainty_decoder="light" if name in LIGHT else "full",
    )  # fmt: skip
    return VARIANTS[name](step.to(device))


def timed_steps(args: argparse.Namespace, device: torch.device) -> dict[str, TimedStep]:
    """ "variant precision" -> its step; precisions of a variant share weights.

    All are on one batch, but for the fast preset, whose plain images are smaller.
    """
    steps, batches = {}, {}
    for name in args.variants:
        step = build_variant(name, args, device)
        is_fast = name == "ours_fast"
        if is_fast not in batches:
            batches[is_fast] = random_batch(
                step.network, labeled=args.labeled, unlabeled=args.unlabeled, rule=args.rule,
                num_groups=max(1, args.num_groups // 4) if is_fast else args.num_groups,
                unlabeled_size=step.small_size if is_fast else None, seed=args.seed, device=device,
            )  # fmt: skip
        batch = batches[is_fast]
        for precision in args.precision:
            steps[f"{name} {precision}"] = TimedStep(step, batch, precision=precision)
    return steps
