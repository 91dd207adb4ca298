"""Trivial floors: what a prediction that never looks at the image would score (ours).

A result means little beside an empty column, so every result is printed beside these. They see
ground truth only, and one map at a time:

    constant         the median of all training depths, everywhere
    per_pixel_mean   the training mean at each pixel: roads are low, skies are high
    oracle_median    the median of each test image itself: right scale, no shape
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from utils.metrics import DepthMetrics

NUM_BINS = 1_000_000  # of the depth histogram: 0.01 mm at a range of 10 m, 0.08 mm at 80 m


def constant_floor(depths: Iterable[np.ndarray], *, min_depth: float, max_depth: float) -> float:
    """Median in metres of all depths strictly between the bounds, exact to a bin of a histogram.

    Args:
        depths: training ground truth, each (H, W) metres, 0 = none; sizes may differ.
        min_depth, max_depth: metres.

    Raises:
        ValueError: no depth lies between the bounds.
    """
    counts = np.zeros(NUM_BINS, dtype=np.int64)
    bins_per_metre = NUM_BINS / (max_depth - min_depth)
    for depth in depths:
        values = depth[_between(depth, min_depth, max_depth)].astype(np.float64)
        indices = ((values - min_depth) * bins_per_metre).astype(np.int64)
        counts += np.bincount(indices.clip(max=NUM_BINS - 1), minlength=NUM_BINS)
    _refuse_nothing(counts, min_depth, max_depth)
    median_bin = np.searchsorted(np.cumsum(counts), (counts.sum() + 1) // 2)
    return float(min_depth + (median_bin + 0.5) / bins_per_metre)


def per_pixel_mean_floor(
    depths: Iterable[np.ndarray], *, min_depth: float, max_depth: float
) -> np.ndarray:
    """(H, W) float64 metres: the mean at each pixel of the depths strictly between the bounds.

    A pixel that never had one gets the mean over all pixels.

    Args:
        depths: training ground truth, each (H, W) metres, 0 = none; all of one size.
        min_depth, max_depth: metres.

    Raises:
        ValueError: sizes differ, or no depth lies between the bounds.
    """
    total = count = None
    for depth in depths:
        if total is None:
            total, count = np.zeros(depth.shape), np.zeros(depth.shape, dtype=np.int64)
        if depth.shape != total.shape:
            raise ValueError(
                f"a per-pixel mean needs maps of one size, got {total.shape} and {depth.shape}"
            )
        valid = _between(depth, min_depth, max_depth)
        total[valid] += depth[valid]
        count += valid
    _refuse_nothing(count, min_depth, max_depth)
    return np.where(count > 0, total / count.clip(min=1), total.sum() / count.sum())


def score_floors(
    frames: Iterable[tuple[str, np.ndarray, np.ndarray]],
    *,
    constant: float,
    per_pixel_mean: np.ndarray,
    min_depth: float,
    max_depth: float,
) -> dict[str, dict[str, float]]:
    """Score the three floors as if they were predictions.

    Args:
        frames: (name, depth, valid_mask) of the test frames; depth (H, W) metres, valid_mask
            (H, W) bool from the protocol, True = scored.
        constant: metres, of `constant_floor`.
        per_pixel_mean: metres, of `per_pixel_mean_floor`; stretched to each frame (nearest).
        min_depth, max_depth: of the protocol, metres.

    Returns:
        For "constant", "per_pixel_mean" and "oracle_median" what `DepthMetrics.mean` returns.
    """
    metrics = {
        name: DepthMetrics(min_depth=min_depth, max_depth=max_depth)
        for name in ("constant", "per_pixel_mean", "oracle_median")
    }
    for name, depth, valid_mask in frames:
        median = np.median(depth[valid_mask]) if valid_mask.any() else max_depth
        predictions = {
            "constant": np.full(depth.shape, constant),
            "per_pixel_mean": _stretched(per_pixel_mean, depth.shape),
            "oracle_median": np.full(depth.shape, median),
        }
        for floor, prediction in predictions.items():
            metrics[floor].update(
                name=name, prediction=prediction, depth=depth, valid_mask=valid_mask
            )
    return {floor: collected.mean() for floor, collected in metrics.items()}


def _between(depth: np.ndarray, min_depth: float, max_depth: float) -> np.ndarray:
    return (depth > min_depth) & (depth < max_depth)


def _refuse_nothing(counts: np.ndarray | None, min_depth: float, max_depth: float) -> None:
    if counts is None or not counts.any():
        raise ValueError(f"no training depth between {min_depth} and {max_depth} m")


def _stretched(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize of (H, W) values to `size` (height, width)."""
    rows, columns = (
        (np.arange(new) * old // new) for new, old in zip(size, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]
