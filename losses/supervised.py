"""Losses against ground truth. Every mean is over the valid pixels of the batch.

Where a step has several passes or processes, `num_valid` makes the mean of their losses the mean
over the valid pixels of all (but in `silog`, a root).

A pixel without ground truth is selected away before any arithmetic, never multiplied by zero: its
value may be NaN or infinite and changes neither loss nor gradient. Without a single valid pixel the
loss is 0 and so is its gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

SILOG_VARIANCE_FOCUS = 0.85  # lambda of BTS (Lee et al., 2019): 1 is fully scale-invariant
SILOG_MIN_DEPTH = 1e-3  # metres; keeps the logarithm finite
BERHU_SHARE = 0.2  # of the largest error in the batch, where L1 turns into a parabola


def l1(
    *, pred: Tensor, target: Tensor, valid_mask: Tensor, num_valid: Tensor | None = None
) -> Tensor:
    """Mean absolute error in metres; the paper's supervised loss L_gt.

    Args:
        pred, target: (B, 1, H, W) metres.
        valid_mask: (B, 1, H, W) bool, True = `target` is measured.
        num_valid: scalar; divides the sum over valid pixels. None = their number.
    """
    return _masked_mean(_absolute_error(pred, target, valid_mask), valid_mask, num_valid)


def silog(
    *, pred: Tensor, target: Tensor, valid_mask: Tensor, num_valid: Tensor | None = None
) -> Tensor:
    """Scale-invariant log error sqrt(E[e^2] - 0.85 E[e]^2), e = ln pred - ln target; no unit.

    Eigen et al. (2014) in the form of BTS, without its factor 10. Shapes as in `l1`. Its root and
    square are of one pass on one process, as in BTS: `num_valid` is not used.
    """
    target = torch.where(valid_mask, target, 1.0)  # any positive number: it is not looked at
    error = pred.clamp(min=SILOG_MIN_DEPTH).log() - target.log()
    mean = _masked_mean(error, valid_mask)
    mean_square = _masked_mean(error.square(), valid_mask)
    # the small constant, whose root is exact, keeps the gradient finite where all is perfect
    variance = mean_square - SILOG_VARIANCE_FOCUS * mean.square()
    return (variance.clamp(min=0) + 2.0**-26).sqrt() - 2.0**-13


def berhu(
    *, pred: Tensor, target: Tensor, valid_mask: Tensor, num_valid: Tensor | None = None
) -> Tensor:
    """Reverse Huber in metres (Laina et al., 2016): L1 below c, (e^2 + c^2) / 2c above it.

    c is 0.2 times the largest valid error of the pass. Arguments as in `l1`.
    """
    error = _absolute_error(pred, target, valid_mask)
    bound = (BERHU_SHARE * error.detach().amax()).clamp(min=1e-6)
    loss = torch.where(error <= bound, error, (error.square() + bound.square()) / (2 * bound))
    return _masked_mean(loss, valid_mask, num_valid)


def uncertainty_nll(
    *,
    pred: Tensor,
    target: Tensor,
    log_uncertainty: Tensor,
    valid_mask: Tensor,
    tolerated_error: float,
    num_valid: Tensor | None = None,
) -> Tensor:
    """Mean of |sg(pred) - target| exp(-u) + tolerated_error * u, in metres (the paper's L_uc).

    A Laplace-like likelihood. Its optimum is exp(-u) = min(1, tolerated_error / E|error|): the
    confidence is 1 where the expected error is at most `tolerated_error` metres, and falls as one
    over the error beyond. `pred` is detached: uncertainty never trades depth for an easier score.

    Args:
        pred, target, log_uncertainty: (B, 1, H, W); u = log_uncertainty >= 0.
        valid_mask: (B, 1, H, W) bool.
        tolerated_error: metres; the paper's lambda_u (0.3 for KITTI, 0.1 for NYU).
        num_valid: as in `l1`.
    """
    error = _absolute_error(pred.detach(), target, valid_mask)
    loss = error * (-log_uncertainty).exp() + tolerated_error * log_uncertainty
    return _masked_mean(loss, valid_mask, num_valid)


DEPTH_LOSSES = {"l1": l1, "silog": silog, "berhu": berhu}


def supervised_losses(
    *,
    depth: Tensor,
    log_uncertainty: Tensor | None,
    target: Tensor,
    valid_mask: Tensor,
    depth_loss: str,
    tolerated_error: float,
    num_valid: Tensor | None = None,
) -> dict[str, Tensor]:
    """What a labelled image says: "depth", and "uncertainty" where there is one. All (B, 1, H, W).

    Args:
        depth_loss: a name of DEPTH_LOSSES.
        tolerated_error: metres, of `uncertainty_nll`.
        num_valid: as in `l1`.
    """
    truth = {"target": target, "valid_mask": valid_mask, "num_valid": num_valid}
    losses = {"depth": DEPTH_LOSSES[depth_loss](pred=depth, **truth)}
    if log_uncertainty is not None:
        losses["uncertainty"] = uncertainty_nll(
            pred=depth, log_uncertainty=log_uncertainty, tolerated_error=tolerated_error, **truth
        )
    return losses


def _absolute_error(pred: Tensor, target: Tensor, valid_mask: Tensor) -> Tensor:
    """|pred - target| where valid, exactly 0 with zero gradient elsewhere."""
    return (pred - torch.where(valid_mask, target, pred.detach())).abs()


def _masked_mean(value: Tensor, valid_mask: Tensor, num_valid: Tensor | None = None) -> Tensor:
    """Mean over valid pixels, float32; 0 without any. No boolean indexing, so no device sync."""
    total = torch.where(valid_mask, value, 0.0).sum(dtype=torch.float32)
    return total / (valid_mask.sum().clamp(min=1) if num_valid is None else num_valid)
