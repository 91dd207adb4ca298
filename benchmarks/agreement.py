"""Does the reference compute what our step computes? Losses and gradients, side by side.

    python benchmarks/agreement.py --encoder vit_tiny_patch16_224 --image-size 64 208

With -inf in place of the authors' -10 all differences are rounding; with -10 they are the leak
between groups. Prints one JSON object; `--out FILE` also writes it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.interleaved import write_result
from benchmarks.reference_step import THEIR_LOGIT
from benchmarks.step_setup import build_step, losses_of, random_batch, reference_of
from losses import weighted_sum
from networks import DepthNetwork


def largest_differences(args: argparse.Namespace) -> dict[str, Any]:
    """Our step against the reference on one batch: relative differences of losses and gradients."""
    ours = build_step(
        encoder=args.encoder, image_size=tuple(args.image_size), seed=args.seed,
        decoder_channels=args.decoder_channels,
    )  # fmt: skip
    sharpen(ours.network, args.sharper)
    batch = random_batch(
        ours.network, labeled=args.labeled, unlabeled=args.unlabeled, num_groups=args.num_groups,
        seed=args.seed, rule=args.rule,
    )  # fmt: skip
    own, own_gradients = _losses_and_gradients(ours, ours, batch)
    report: dict[str, Any] = {"losses": own}
    for name, logit in (("minus_infinity", float("-inf")), ("minus_ten", THEIR_LOGIT)):
        losses, gradients = _losses_and_gradients(
            reference_of(ours, foreign_logit=logit), ours, batch
        )
        errors = {
            key: ((gradients[key] - own_gradient).norm() / own_gradient.norm()).item()
            for key, own_gradient in own_gradients.items()
            if own_gradient.norm() > 0
        }
        report[name] = {
            "loss_differences": {key: abs(losses[key] / own[key] - 1) for key in own},
            "largest_gradient_difference": max(errors.values()),
            "median_gradient_difference": statistics.median(errors.values()),
        }
    return report


@torch.no_grad()
def sharpen(network: DepthNetwork, factor: float) -> None:
    """Multiply queries and keys: random weights have logits near 0, trained ones have not."""
    for block in network.encoder.vit.blocks:
        width = block.attn.qkv.in_features
        block.attn.qkv.weight[: 2 * width] *= factor**0.5


def _losses_and_gradients(
    step: nn.Module, owner: nn.Module, batch: dict[str, Any]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses, with their "total", and the gradients of the parameters of `owner` by name."""
    owner.zero_grad(set_to_none=True)
    losses = losses_of(step, batch)
    total = weighted_sum(losses, dict.fromkeys(losses, 1.0))
    total.backward()
    gradients = {key: p.grad.clone() for key, p in owner.named_parameters() if p.grad is not None}
    return {key: loss.item() for key, loss in {**losses, "total": total}.items()}, gradients


def main(arguments: list[str] | None = None) -> int:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--encoder", default="vit_tiny_patch16_224")
    words.add_argument("--image-size", type=int, nargs=2, default=[64, 208], metavar=("H", "W"))
    words.add_argument("--decoder-channels", type=int, default=64)
    words.add_argument("--labeled", type=int, default=1)
    words.add_argument("--unlabeled", type=int, default=3)
    words.add_argument("--num-groups", type=int, default=16)
    words.add_argument("--rule", default="equal", help="of group sizes: equal or random_cuts")
    words.add_argument("--sharper", type=float, default=1.0, help="times larger attention logits")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--out", type=Path)
    args = words.parse_args(arguments)
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    result = {"benchmark": "agreement", "settings": settings, **largest_differences(args)}
    write_result(result, device=torch.device("cpu"), out=args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
