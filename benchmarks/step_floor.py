"""What the machine could do: every convolution and linear layer of a step alone, at its best.

Each shape that occurs is timed by itself, forward and with its backward, convolutions in both
memory layouts. The floor of a step is the sum over all its calls; nothing that is not a product
(attention too) counts, so a step at 100 % of it would get all the rest for nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


class Call(NamedTuple):
    """One layer on one image: what makes its cost."""

    kind: str  # "linear", "conv 1x1", "conv 3x3", "conv other"
    part: str  # "labeled and weak", "strong" or "all": which passes run it
    layer: nn.Module
    input_shape: tuple[int, ...]  # without the batch
    flops: float  # forward, of one image

    def key(self) -> tuple[Any, ...]:
        weight = self.layer.weight
        stride = getattr(self.layer, "stride", None)
        return (type(self.layer).__name__, tuple(weight.shape), stride, self.input_shape)


def calls_of(step: nn.Module) -> list[Call]:
    """Every layer that an image goes through in `step` (network and predictor)."""
    network, found = step.network, []
    owners = {
        id(layer): _passes(name)
        for name, layer in step.named_modules()
        if isinstance(layer, LAYERS)
    }

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shape = tuple(inputs[0].shape[1:])
        per_output = layer.weight[0].numel()
        points = output[0].numel()
        if isinstance(layer, nn.ConvTranspose2d):
            points, per_output = inputs[0][0].numel(), layer.weight[0].numel()
        flops = 2.0 * points * per_output
        found.append(Call(_kind(layer), owners[id(layer)], layer, shape, flops))

    hooks = [
        layer.register_forward_hook(note) for layer in step.modules() if isinstance(layer, LAYERS)
    ]
    with torch.no_grad():
        device = next(network.parameters()).device
        output = network(torch.rand(1, 3, *network.image_size, device=device))
        if step.predictor is not None:
            step.predictor(output.features)
    for hook in hooks:
        hook.remove()
    return found


def _passes(name: str) -> str:
    if "uncertainty" in name:
        return "labeled and weak"
    return "strong" if name.startswith("predictor") else "all"


def _kind(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return "linear"
    plain = isinstance(layer, nn.Conv2d) and layer.stride == (1, 1)
    size = layer.kernel_size[0]
    return f"conv {size}x{size}" if plain and size in (1, 3) else "conv other"


def measure_floor(
    step: nn.Module, *, labeled: int, unlabeled: int, dtype: torch.dtype, repeats: int = 2
) -> dict[str, Any]:
    """Seconds that the step's products take at their best, and the rates behind them.

    Returns:
        "seconds" in all; "by_kind", of each kind its seconds, FLOPs and rates in FLOP/s, forward
        and forward with backward; "matmul_rate" and "conv_rate", the best of any single shape.
    """
    batch = max(labeled, unlabeled)
    timed: dict[Any, tuple[float, float]] = {}
    kinds: dict[str, dict[str, float]] = {}
    best = {"linear": 0.0, "conv": 0.0}
    for call in calls_of(step):
        is_patch_embedding = call.layer.weight.shape[1] == 3
        if call.key() not in timed:
            timed[call.key()] = _best_seconds(
                call, batch, dtype, repeats=repeats, needs_input_gradient=not is_patch_embedding
            )
        forward, both = (seconds / batch for seconds in timed[call.key()])
        trained, looked_at = {
            "all": (labeled + unlabeled, unlabeled),
            "labeled and weak": (labeled, unlabeled),
            "strong": (unlabeled, 0),
        }[call.part]
        multiple = 2 if is_patch_embedding else 3
        row = kinds.setdefault(
            call.kind, dict.fromkeys(("seconds", "flops", "forward", "both", "calls_flops"), 0.0)
        )
        row["seconds"] += trained * both + looked_at * forward
        row["flops"] += call.flops * (trained * multiple + looked_at)
        row["forward"] += forward
        row["both"] += both
        row["calls_flops"] += call.flops
        family = call.kind.split()[0]
        rate = max(call.flops / forward, multiple * call.flops / both)
        best[family] = max(best[family], rate)
    return {
        "seconds": sum(row["seconds"] for row in kinds.values()),
        "flops": sum(row["flops"] for row in kinds.values()),
        "matmul_rate": best["linear"],
        "conv_rate": best["conv"],
        "by_kind": {
            kind: {
                "seconds": row["seconds"],
                "flops": row["flops"],
                "forward_rate": row["calls_flops"] / row["forward"],
                "forward_backward_rate": 3 * row["calls_flops"] / row["both"],
            }
            for kind, row in kinds.items()
        },
    }


def _best_seconds(
    call: Call, batch: int, dtype: torch.dtype, *, repeats: int, needs_input_gradient: bool
) -> tuple[float, float]:
    """Least seconds of one call on `batch` images: forward, and forward with backward."""
    forward, both = float("inf"), float("inf")
    for layer, x in _layouts(call, batch, dtype):
        x.requires_grad_(needs_input_gradient)
        wanted = [p for p in (x, layer.weight, layer.bias) if p is not None and p.requires_grad]
        direction = torch.ones_like(layer(x))

        def train(layer=layer, x=x, wanted=wanted, direction=direction) -> None:
            torch.autograd.grad(layer(x), wanted, direction)

        def look(layer=layer, x=x) -> None:
            with torch.no_grad():
                layer(x)

        for turn in range(1 + repeats):
            seconds = _seconds(look, x.device), _seconds(train, x.device)
            if turn:
                forward, both = min(forward, seconds[0]), min(both, seconds[1])
    return forward, both


def _layouts(call: Call, batch: int, dtype: torch.dtype) -> Iterator[tuple[nn.Module, Tensor]]:
    """Copies of the layer with an input, in each memory layout worth trying."""
    settings = {}
    source = call.layer
    if isinstance(source, nn.Linear):
        layer = nn.Linear(source.in_features, source.out_features, source.bias is not None)
    else:
        settings = {key: getattr(source, key) for key in ("kernel_size", "stride", "padding")}
        layer = type(source)(
            source.in_channels, source.out_channels, bias=source.bias is not None, **settings
        )
    device = source.weight.device
    layer = layer.to(device, dtype)
    x = torch.randn(batch, *call.input_shape, device=device, dtype=dtype)
    yield layer, x
    if settings:
        yield (
            layer.to(memory_format=torch.channels_last),
            x.detach().to(memory_format=torch.channels_last),
        )


def _seconds(work: Any, device: torch.device) -> float:
    """Seconds of one call; on a GPU the mean of ten that are queued without a wait."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    for _ in range(10):
        work()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1e4
