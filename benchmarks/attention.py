"""Attention within disjoint groups alone, forward and backward: what each way of doing it costs.

    python benchmarks/attention.py --num-tokens 480 --num-groups 1 4 16 64 480 --precision fp32

Between the two linear layers of a block: from (B, N, 3 * heads * 64) to (B, N, heads * 64). Ways:

    authors     N x N logits, -10 outside the group, softmax: their computation, which leaks
    dense       scaled_dot_product_attention with an N x N mask that the heads share
    sequences   groups of one size stacked into a batch of short sequences, a call a size
    tiles       whole groups packed into tiles of about 64 tokens, a mask within each tile, one call
    varlen      torch.nn.attention.varlen (CUDA, half precision)
    flex        FlexAttention over group ids, compiled (CUDA)

The last four want tokens in another order. An encoder sorts once for all its blocks, so this is
outside; `--blocks 3` measures whole blocks of a ViT with one sorting and one putting back, which is
a quarter of an encoder of twelve. Errors are against -inf in float64, of the output and of the
gradient. Prints one JSON object; `--out FILE` also writes it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.attention_ways import (
    HEAD_WIDTH,
    Attend,
    Chunk,
    core,
    dense,
    gather,
    put_back,
    sequences,
    tiles,
    ways,
)
from benchmarks.interleaved import seconds_in_turn, summary, times_faster, write_result
from networks.masking import assign_groups

LOGIT_STD = 2.0  # of the random logits; those of trained encoders are of this size
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def forward_backward(parts: list[Tensor], chunks: list[Chunk], attend: Attend) -> None:
    outputs = [core(qkv, chunk, attend) for qkv, chunk in zip(parts, chunks, strict=True)]
    torch.autograd.grad(outputs, parts, [output.detach() for output in outputs])


def random_qkv(
    batch_size: int, num_tokens: int, heads: int, generator: torch.Generator, device: torch.device
) -> Tensor:
    qkv = torch.randn(batch_size * num_tokens, 3, heads * HEAD_WIDTH, generator=generator)
    qkv[:, :2] *= LOGIT_STD**0.5
    return qkv.flatten(1).to(device)


def largest_errors(qkv: Tensor, groups: Tensor, device: torch.device, dtype: torch.dtype) -> dict:
    """Per way the largest error of output and gradient against -inf in float64, absolute."""

    def run(tokens: Tensor, chunks: list[Chunk], attend: Attend) -> tuple[Tensor, Tensor]:
        tokens = tokens.detach().requires_grad_()
        parts = [core(gather(tokens, chunk.places), chunk, attend) for chunk in chunks]
        output = put_back(parts, chunks)
        return output.detach(), torch.autograd.grad(output, tokens, direction.to(output))[0]

    direction = torch.linspace(-1, 1, qkv.shape[1] // 3, device=device)  # of the loss
    direction = direction.expand(len(qkv), -1)
    exact = [chunk.to(device) for chunk in dense(groups)]
    rounded = qkv.to(dtype)
    truth = run(rounded.double(), exact, _exact_attention)
    return {
        name: {
            which: (got.double() - true).abs().max().item()
            for which, got, true in zip(
                ("output", "gradient"), run(rounded, *plan), truth, strict=True
            )
        }
        for name, plan in ways(groups, device, dtype).items()
    }


def _exact_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    logits = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).masked_fill(~mask, float("-inf"))
    return logits.softmax(-1) @ v


def blocks_work(
    blocks: nn.Module, tokens: Tensor, chunks: list[Chunk], attend: Attend
) -> Callable[[], None]:
    """Sort the tokens, run the blocks, put them back; forward and backward."""

    def block(x: Tensor, chunk: Chunk, layer: Block) -> Tensor:
        attended = core(layer.attn.qkv(layer.norm1(x)), chunk, attend)
        x = x + layer.attn.proj(attended)
        return x + layer.mlp(layer.norm2(x))

    def work() -> None:
        outputs = []
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=blocks.half):
            for chunk in chunks:
                x = gather(tokens, chunk.places)
                for layer in blocks.layers:
                    x = block(x, chunk, layer)
                outputs.append(x)
            put_back(outputs, chunks).float().square().mean().backward()
        blocks.zero_grad(set_to_none=True)

    return work


def measure(args: argparse.Namespace, num_groups: int, device: torch.device) -> dict[str, Any]:
    """One K: seconds, how many times faster than the authors', errors, how long a plan takes."""
    dtype = DTYPES[args.precision]
    generator = torch.Generator().manual_seed(args.seed)
    groups = assign_groups(
        args.batch_size, args.num_tokens, num_groups, generator=generator, rule=args.rule
    )
    qkv = random_qkv(args.batch_size, args.num_tokens, args.heads, generator, device)
    width = args.heads * HEAD_WIDTH
    work, shapes = {}, {}
    for name, (chunks, attend) in ways(groups, device, dtype).items():
        shapes[name] = [list(chunk.places.shape) for chunk in chunks]
        if args.blocks:
            layers = [Block(width, args.heads, qkv_bias=True) for _ in range(args.blocks)]
            blocks = nn.Module()
            blocks.layers, blocks.half = nn.ModuleList(layers).to(device), args.precision != "fp32"
            tokens = qkv[:, :width].clone().requires_grad_()
            work[name] = blocks_work(blocks, tokens, chunks, attend)
        else:
            parts = [gather(qkv.to(dtype), c.places).requires_grad_() for c in chunks]
            work[name] = partial(forward_backward, parts, chunks, attend)
    seconds, others = seconds_in_turn(work, rounds=args.rounds, warmup=args.warmup, device=device)
    faster = times_faster(seconds, than="authors")
    checked = slice(0, args.checked * args.num_tokens)
    errors = largest_errors(qkv[checked], groups[: args.checked], device, dtype)
    return {
        "num_groups": num_groups,
        "others_busy": summary(others),
        "ways": {
            name: {
                "seconds": summary(values),
                "times_faster_than_authors": faster[name],
                "largest_error": errors[name],
                "calls": len(shapes[name]),
                "slots": sum(rows * columns for rows, columns in shapes[name]),
            }
            for name, values in seconds.items()
        },
        "plan_seconds": {plan.__name__: _plan_seconds(plan, groups) for plan in (sequences, tiles)},
    }


def _plan_seconds(plan: Callable, groups: Tensor) -> float:
    start = time.perf_counter()
    plan(groups)
    return time.perf_counter() - start


def table(result: dict[str, Any]) -> str:
    """Milliseconds and times faster than the authors', a line a K and way."""
    lines = [
        f"{'K':>5} {'way':<10} {'ms':>9} {'faster':>7} {'error':>9} {'d error':>9} {'calls':>6}"
    ]
    for row in result["points"]:
        for name, way in row["ways"].items():
            lines.append(
                f"{row['num_groups']:>5} {name:<10} {1e3 * way['seconds']['median']:>9.1f} "
                f"{way['times_faster_than_authors']['median']:>7.2f} "
                f"{way['largest_error']['output']:>9.1e} {way['largest_error']['gradient']:>9.1e} "
                f"{way['calls']:>6}"
            )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--num-tokens", type=int, default=480)
    words.add_argument("--num-groups", type=int, nargs="+", default=[1, 4, 16, 64, 480])
    words.add_argument("--rule", default="equal", help="equal or random_cuts")
    words.add_argument("--batch-size", type=int, default=4)
    words.add_argument("--checked", type=int, default=1, help="images of the batch that errors see")
    words.add_argument("--heads", type=int, default=12, help="of 64 each")
    words.add_argument("--blocks", type=int, default=0, help="whole blocks of this many heads")
    words.add_argument("--precision", choices=DTYPES, default="fp32")
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--warmup", type=int, default=1)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    words.add_argument("--out", type=Path)
    return words


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    device = torch.device(args.device)
    settings = {k: v for k, v in vars(args).items() if k != "out"}
    points = [measure(args, num_groups, device) for num_groups in args.num_groups]
    result = {"benchmark": "attention", "settings": settings, "points": points}
    print(table(result), file=sys.stderr)
    write_result(result, device=device, out=args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
