"""Losses between two views of an unlabelled image: the weak one teaches, the strong one learns.

Every teacher argument is detached here as well, so no gradient can reach a pseudo label whatever
the caller does; arguments are keyword-only, so teacher and student cannot change places in silence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_DEPTH = 1e-3  # metres; keeps the logarithm finite


def pixel_weight(
    *,
    pseudo_depth: Tensor,
    log_uncertainty: Tensor | None,
    confidence_weighted: bool = True,
    min_confidence: float = 0.0,
    max_pseudo_depth: float | None = None,
) -> Tensor:
    """How much each pixel's pseudo label counts: (B, 1, H, W) in [0, 1], without gradient.

    Args:
        pseudo_depth: (B, 1, H, W) metres, of the weak view.
        log_uncertainty: (B, 1, H, W) >= 0 of the weak view; None counts as certain everywhere.
        confidence_weighted: True weighs by exp(-log_uncertainty), as the paper does; False by 1.
        min_confidence: pixels less confident than this do not count (0 keeps all). FixMatch's
            threshold; the abstract's "only confident" pseudo depths.
        max_pseudo_depth: metres; farther pseudo labels (sky) do not count. None keeps all.
    """
    pseudo_depth = pseudo_depth.detach()
    weight = torch.ones_like(pseudo_depth)
    if log_uncertainty is not None:
        confidence = (-log_uncertainty.detach()).exp()
        if confidence_weighted:
            weight = confidence
        weight = torch.where(confidence >= min_confidence, weight, 0.0)
    if max_pseudo_depth is not None:
        weight = torch.where(pseudo_depth <= max_pseudo_depth, weight, 0.0)
    return weight


def depth_consistency(
    *, pred: Tensor, pseudo_depth: Tensor, weight: Tensor, error: str = "metres"
) -> Tensor:
    """Mean over all pixels of weight * |pred - sg(pseudo_depth)| (the paper's L_dc).

    The mean is over all pixels, not over the weight: the less the teacher is sure of, the less it
    pulls in all.

    Args:
        pred: (B, 1, H, W) metres, of the strong view.
        pseudo_depth: (B, 1, H, W) metres, of the weak view.
        weight: (B, 1, H, W) of `pixel_weight`.
        error: "metres"; "log" for |ln pred - ln pseudo_depth|, in which near and far count alike;
            or "log_shape": the same after each image's mean log ratio is taken out, so that the
            scale of the scene is left to the labels.
    """
    pseudo_depth = pseudo_depth.detach()
    weight = weight.detach()
    return (weight * ERRORS[error](pred, pseudo_depth, weight)).mean()


def _metres(pred: Tensor, target: Tensor, _: Tensor) -> Tensor:
    return (pred - target).abs()


def _log(pred: Tensor, target: Tensor, _: Tensor) -> Tensor:
    return _log_ratio(pred, target).abs()


def _log_shape(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    ratio = _log_ratio(pred, target)
    total = weight.sum((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return (ratio - (weight * ratio).sum((1, 2, 3), keepdim=True) / total).abs()


def _log_ratio(pred: Tensor, target: Tensor) -> Tensor:
    return pred.clamp(min=MIN_DEPTH).log() - target.clamp(min=MIN_DEPTH).log()


ERRORS = {"metres": _metres, "log": _log, "log_shape": _log_shape}


def feature_consistency(
    *,
    pred: Sequence[Tensor],
    target: Sequence[Tensor],
    encoded: Tensor | None = None,
    reduction: str = "sum",
) -> Tensor:
    """Mean over taps and tokens of |p / |p| - sg(t) / |t||^2 = 2 - 2 cos(p, t) (the paper's L_fc).

    Args:
        pred: token maps (B, N, D) of the strong view behind the predictor heads.
        target: token maps (B, N, D) of the weak view.
        encoded: (B, N) bool, tokens that the strong pass encoded; None = all. The others (naive
            masking) do not count.
        reduction: over the D channels. "sum" gives 0 to 4. "mean" is the authors' mean over every
            element: 1 / D of that, at most 0.005 for a ViT-B, which is as good as absent.
    """
    distances = []
    for p, t in zip(pred, target, strict=True):
        # normalised in float32: squares of half precision sums overflow or vanish
        unit_pred = F.normalize(p.float(), dim=-1)
        unit_target = F.normalize(t.detach().float(), dim=-1)
        distance = (unit_pred - unit_target).square()
        distance = distance.sum(-1) if reduction == "sum" else distance.mean(-1)  # (B, N)
        if encoded is None:
            distances.append(distance.mean())
        else:
            distance = torch.where(encoded, distance, 0.0)
            distances.append(distance.sum() / encoded.sum().clamp(min=1))
    return torch.stack(distances).mean()


def ramp(step: int, *, ramp_steps: int) -> float:
    """Share of the consistency weights at 0-based `step`: exp(-5 (1 - t)^2), then 1.

    Laine & Aila (2017). An untrained teacher has nothing to say yet. 0 steps: no ramp.
    """
    t = min(1.0, (step + 1) / ramp_steps) if ramp_steps else 1.0
    return math.exp(-5 * (1 - t) ** 2)
