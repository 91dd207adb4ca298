"""FLOPs of a training step: by formula, and as PyTorch counts them. One multiply-add is two.

The formula has a line for each part of the network; its sum must be what the counter sees. What is
elementwise (norms, activations, interpolation, softmax, losses, optimiser) is in neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

sys.path.insert(0, str(Path(__file__).parent.parent))

from networks import DepthNetwork
from networks.masking import pack_groups

FUSED_BACKWARD = 2.5  # fused attention computes its logits again: 5 products for 2


def counted_flops(work: Callable[[], Any]) -> int:
    """What PyTorch counts while `work` runs: products of matrices, convolutions, attention."""
    aten = torch.ops.aten
    on_cpu = {  # missing in the counter's own table
        aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        work()
    return counter.get_total_flops()


def _cpu_attention_flops(query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(query, key, value)


def _cpu_attention_backward_flops(grad, query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def image_flops(
    network: DepthNetwork, size: tuple[int, int], *, hidden: int, upsample_first: bool
) -> dict[str, float]:
    """Forward FLOPs of one image by part, attention apart.

    Args:
        hidden: width of the predictor's MLPs; 0 for none.
        upsample_first: 1x1 convolutions behind the upsampling, as the authors have them.
    """
    encoder, parts = network.encoder, network.reassemble
    rows, columns = encoder.grid(size)
    tokens, width = rows * columns, encoder.embed_dim
    blocks = encoder.vit.blocks
    widths = [project.out_channels for project in parts.project]
    coarse = -(-rows // 2) * -(-columns // 2)  # pixels of the coarsest map
    pixels = [16 * tokens, 4 * tokens, tokens, coarse]
    channels = network.depth_head.conv1.in_channels
    fused = 64 * tokens
    behind = [fused, *pixels[:3]]  # pixels behind each block's upsampling
    fusion = sum(
        2 * channels**2 * (9 * p * (4 if i < 3 else 2) + (behind[i] if upsample_first else p))
        for i, p in enumerate(pixels)
    )
    patch = encoder.patch_size[0] * encoder.patch_size[1]
    depth_head = _head_flops(network.depth_head, fused, size)
    flops = {
        "patch_embedding": 2 * tokens * width * 3 * patch,
        "linear": sum(
            2 * tokens * width * (4 * width + 2 * b.mlp.fc1.out_features) for b in blocks
        ),
        "reassemble": sum(2 * tokens * width * w for w in widths)
        + 2 * tokens * (16 * widths[0] ** 2 + 4 * widths[1] ** 2)
        + 2 * coarse * 9 * widths[3] ** 2
        + sum(2 * p * w * channels * 9 for p, w in zip(pixels, widths, strict=True)),
        "fusion": fusion,
        "depth_head": depth_head,
        "uncertainty": 0,
        "predictor": 4 * 2 * tokens * 2 * width * hidden,
    }
    if network.uncertainty_head is not None:
        own = fusion if network.uncertainty_fusion is not None else 0
        flops["uncertainty"] = own + _head_flops(network.uncertainty_head, fused, size)
    return flops


def _head_flops(head: torch.nn.Module, fused: int, size: tuple[int, int]) -> float:
    half, narrow = head.conv1.out_channels, head.conv2.out_channels
    at_full_size = size[0] * size[1] * (9 * half * narrow + narrow)
    return 2 * (fused * 9 * head.conv1.in_channels * half + at_full_size)


def step_flops(
    network: DepthNetwork,
    *,
    labeled: int,
    groups: Tensor | None,
    hidden: int,
    kind: str,
) -> dict[str, float]:
    """FLOPs of one training step by part, forward and backward together.

    Labelled images are trained on; of unlabelled ones the weak view is looked at (forward) and the
    strong one, without uncertainty but with the predictor, is trained on.

    Args:
        groups: (B, N) of the strong views; None for a supervised step.
        kind: "ours" (tiles, fused attention, 1x1 first), "reference" (the authors'), or "method":
            what the method itself asks for, whoever computes it: attention within groups, nothing
            twice, the 1x1 where the authors have it. The numerator of an MFU.
    """
    size, blocks = network.image_size, len(network.encoder.vit.blocks)
    per_image = image_flops(network, size, hidden=hidden, upsample_first=kind != "ours")
    unlabeled = 0 if groups is None else len(groups)
    grid = network.encoder.grid(size)
    tokens = grid[0] * grid[1]
    trained, looked_at = labeled + unlabeled, unlabeled
    flops = {name: value * (3 * trained + looked_at) for name, value in per_image.items()}
    # the picture needs no gradient
    flops["patch_embedding"] = per_image["patch_embedding"] * (2 * trained + looked_at)
    flops["uncertainty"] = per_image["uncertainty"] * (3 * labeled + looked_at)
    flops["predictor"] = per_image["predictor"] * 3 * unlabeled
    factor = 1 + (FUSED_BACKWARD if kind == "ours" else 2)
    product = 4 * network.encoder.embed_dim * blocks  # of two tokens: q k and the share of v
    pairs = (factor * labeled + looked_at) * tokens**2
    if groups is not None:
        in_strong_pass, slots = _pairs_and_slots(groups, kind)
        pairs += factor * in_strong_pass
        flops["linear"] += 3 * per_image["linear"] * (slots - groups.numel()) / tokens
    flops["attention"] = product * pairs
    return flops


def _pairs_and_slots(groups: Tensor, kind: str) -> tuple[int, int]:
    """Of the strong pass: pairs whose logit is computed; tokens, with the padding of tiles."""
    if kind == "reference":
        return groups.numel() * groups.shape[1], groups.numel()
    if kind == "ours":
        tiles, size = pack_groups(groups).source.shape
        return tiles * size**2, tiles * size
    return int(sum(row.bincount().square().sum() for row in groups)), groups.numel()
