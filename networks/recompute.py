"""Activation checkpointing: activations of a part are computed again in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def run(part: nn.Module, *inputs: Any, recompute: bool, **options: Any) -> Any:
    """part(*inputs, **options); with `recompute` its activations are not kept for the backward.

    The numbers are the same, bit for bit: nothing in the networks draws at random.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(
            part, *inputs, use_reentrant=False, preserve_rng_state=False, **options
        )  # fmt: skip
    return part(*inputs, **options)
