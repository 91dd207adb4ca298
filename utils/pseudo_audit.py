"""How good pseudo labels are, by confidence, where ground truth was withheld from training (ours).

Consistency training weighs each pixel of the pseudo depth p by its confidence c = exp(-u). Whether
that is worth anything shows only against ground truth d that no loss has seen. Pixels of all frames
are pooled, each counts the same, and they are sorted by confidence into bins of equal width over
[0, 1]. A bin holds its lower edge and not its upper one; only the last holds both.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import distributed

Array = torch.Tensor | np.ndarray


class PseudoLabelAudit:
    """Sums over the pixels of each bin of confidence, in float64; no pixel is kept.

    It only reads what it is given and draws no random number.

    Attributes:
        sums: (6, num_bins) sums over the pixels of a bin: of 1, c, e, c e, a and c a, with the
            relative error e = |p - d| / d and the absolute one a = |p - d| in metres.
        num_frames: frames with at least one pixel that counts.
        num_skipped: frames without.
    """

    def __init__(self, *, max_depth: float, num_bins: int = 10):
        """Ground truth at or beyond `max_depth` metres does not count, because the network cannot
        predict it. Raises ValueError unless max_depth > 0 and num_bins >= 1."""
        if max_depth <= 0 or num_bins < 1:
            raise ValueError(f"need max_depth > 0, num_bins >= 1, got {max_depth}, {num_bins}")
        self.max_depth = max_depth
        self.num_bins = num_bins
        self.sums = np.zeros((6, num_bins))
        self.num_frames = 0
        self.num_skipped = 0

    def update(
        self,
        *,
        pseudo_depth: Array,
        log_uncertainty: Array | None,
        depth: Array,
        valid_mask: Array,
    ) -> None:
        """Add one frame, tensors on any device or arrays.

        Args:
            pseudo_depth: (1, H, W), also with more or fewer leading ones, metres; predicted from
                the weak view.
            log_uncertainty: same shape, u >= 0; None = confidence 1 everywhere.
            depth: same shape, withheld ground truth in metres.
            valid_mask: same shape, bool, True = counts. Nothing outside it has any influence.

        Raises:
            ValueError: shapes differ, more than one frame, a mask that is not bool, and at pixels
                that count: ground truth not above zero, a pseudo depth that is NaN or infinite,
                u that is NaN or negative. The sums are then as before.
        """
        confident = depth if log_uncertainty is None else log_uncertainty  # only for its shape
        _check_frame(pseudo_depth, confident, depth, valid_mask)
        mask = np.asarray(_on_cpu(valid_mask))
        d = _pixels(depth, mask)
        near = ~(d >= self.max_depth)  # NaN stays, to be complained about
        d, p = d[near], _pixels(pseudo_depth, mask)[near]
        u = np.zeros_like(d) if log_uncertainty is None else _pixels(log_uncertainty, mask)[near]
        _check_pixels(p, u, d)
        if d.size == 0:
            self.num_skipped += 1
            return
        c, error = np.exp(-u), np.abs(p - d)
        bins = np.minimum((c * self.num_bins).astype(np.int64), self.num_bins - 1)
        for row, x in enumerate((np.ones_like(c), c, error / d, c * error / d, error, c * error)):
            self.sums[row] += np.bincount(bins, weights=x, minlength=self.num_bins)
        self.num_frames += 1

    def reduce_over_ranks(self) -> PseudoLabelAudit:
        """The frames of all ranks in one, the same on every rank. Every rank must call it; without
        torch.distributed it is this rank's frames."""
        mine = (self.sums, self.num_frames, self.num_skipped)
        parts = [mine]
        if distributed.is_available() and distributed.is_initialized():
            parts = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, mine)
        total = PseudoLabelAudit(max_depth=self.max_depth, num_bins=self.num_bins)
        for sums, num_frames, num_skipped in parts:
            total.sums += sums
            total.num_frames += num_frames
            total.num_skipped += num_skipped
        return total

    def report(self) -> dict[str, float]:
        """Numbers for a line of metrics.

        Returns:
            audit_num_frames, audit_num_skipped: frames with and without a pixel that counts (int).
                Without any such pixel these two are all there is.
            audit_weight_mass: mean confidence in [0, 1], the effective share of the loss.
            audit_abs_rel, audit_mae: mean |p - d| / d and mean |p - d| in metres over pixels.
            audit_abs_rel_weighted, audit_mae_weighted: the same means weighted by confidence, so
                as the loss sees the label; left out if every confidence is 0.
            audit_share_0.3_0.4, ...: share of pixels in each bin of confidence; they sum to 1.
            audit_abs_rel_0.3_0.4, ...: mean |p - d| / d there; bins without pixels are left out.
        """
        counts = {"audit_num_frames": self.num_frames, "audit_num_skipped": self.num_skipped}
        if self.num_frames == 0:
            return counts
        count, c, e, c_e, a, c_a = (math.fsum(row) for row in self.sums)
        numbers = {"audit_weight_mass": c / count}
        numbers |= {"audit_abs_rel": e / count, "audit_mae": a / count}
        if c > 0:
            numbers |= {"audit_abs_rel_weighted": c_e / c, "audit_mae_weighted": c_a / c}
        names = _bin_names(self.num_bins)
        for name, pixels in zip(names, self.sums[0], strict=True):
            numbers[f"audit_share_{name}"] = float(pixels) / count
        for name, pixels, errors in zip(names, self.sums[0], self.sums[2], strict=True):
            if pixels > 0:
                numbers[f"audit_abs_rel_{name}"] = float(errors / pixels)
        return counts | numbers


def _bin_names(num_bins: int) -> list[str]:
    """Lower and upper edge as in "0.3_0.4", to as many decimals as it takes, at most three."""
    decimals = next((d for d in (1, 2) if 10**d % num_bins == 0), 3)
    edges = [f"{index / num_bins:.{decimals}f}" for index in range(num_bins + 1)]
    return [f"{low}_{high}" for low, high in pairwise(edges)]


def _check_frame(pseudo_depth: Array, confident: Array, depth: Array, valid_mask: Array) -> None:
    shapes = [tuple(array.shape) for array in (pseudo_depth, confident, depth, valid_mask)]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"shapes differ: pseudo_depth {shapes[0]}, log_uncertainty {shapes[1]}, depth "
            f"{shapes[2]}, valid_mask {shapes[3]}; bring the prediction to the depth's size"
        )
    if math.prod(shapes[0][:-2]) != 1:
        raise ValueError(f"one frame at a time, got a batch of shape {shapes[0]}")
    if str(valid_mask.dtype).removeprefix("torch.") != "bool":
        raise ValueError(f"valid_mask must be bool, got {valid_mask.dtype}")


def _check_pixels(p: np.ndarray, u: np.ndarray, d: np.ndarray) -> None:
    if not (d > 0).all():
        raise ValueError("valid_mask marks pixels whose ground truth is zero, negative or NaN")
    for name, bad in (
        ("the pseudo depth is NaN or infinite", ~np.isfinite(p)),
        ("the log uncertainty is NaN or negative", ~(u >= 0)),
    ):
        if bad.any():
            raise ValueError(f"{name} at {bad.sum()} of {d.size} valid pixels")


def _pixels(values: Array, mask: np.ndarray) -> np.ndarray:
    """The values under the mask, (num_valid,) float64."""
    return np.asarray(_on_cpu(values)[mask], dtype=np.float64)


def _on_cpu(values: Array) -> np.ndarray:
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    # double on the way: numpy has no bfloat16
    return (values.double() if values.is_floating_point() else values).numpy()
