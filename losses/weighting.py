"""The one place where loss weights meet losses."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of weight * loss over named scalar losses.

    Raises:
        KeyError: a loss without a weight of its name, or a positive weight without its loss: both
            are a term that somebody believes to be trained and is not.
    """
    missing = sorted(set(losses) - set(weights))
    idle = sorted(name for name in set(weights) - set(losses) if weights[name] > 0)
    if missing or idle:
        raise KeyError(f"losses without a weight: {missing}; weights without a loss: {idle}")
    return sum(weights[name] * loss for name, loss in losses.items())
