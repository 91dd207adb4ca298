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

from utils.metrics import DepthMetrics, naming, valid_pixels

NUM_BINS = 1_000_000  # of the depth histogram: 0.01 mm at a range of 10 m, 0.08 mm at 80 m


def training_floors(
    depths: Iterable[np.ndarray], *, min_depth: float, max_depth: float
) -> tuple[float, np.ndarray]:
    """The constant and the per-pixel mean, of one pass over the training depths.

    Args:
        depths: training ground truth, each (H, W) metres, 0 = none; all of one size.
        min_depth, max_depth: metres; depths strictly between them are known.

    Returns:
        The median of all known depths, metres, exact to a bin of a histogram; (H, W) float64
        metres, the mean at each pixel, and the mean over all pixels where one never had a depth.

    Raises:
        ValueError: sizes differ, or no depth lies between the bounds.
    """
    counts = np.zeros(NUM_BINS, dtype=np.int64)  # of depths, by bin
    bins_per_metre = NUM_BINS / (max_depth - min_depth)
    total = count = None  # of depths, by pixel
    for depth in depths:
        if total is None:
            total, count = np.zeros(depth.shape), np.zeros(depth.shape, dtype=np.int64)
        if depth.shape != total.shape:
            raise ValueError(
                f"a per-pixel mean needs maps of one size, got {total.shape} and {depth.shape}"
            )
        valid = (depth > min_depth) & (depth < max_depth)
        values = depth[valid].astype(np.float64)
        bins = ((values - min_depth) * bins_per_metre).astype(np.int64)
        counts += np.bincount(bins.clip(max=NUM_BINS - 1), minlength=NUM_BINS)
        total[valid] += values
        count += valid
    if not counts.any():
        raise ValueError(f"no training depth between {min_depth} and {max_depth} m")
    median_bin = np.searchsorted(np.cumsum(counts), (counts.sum() + 1) // 2)
    median = float(min_depth + (median_bin + 0.5) / bins_per_metre)
    return median, np.where(count > 0, total / count.clip(min=1), total.sum() / count.sum())


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
        constant, per_pixel_mean: metres, of `training_floors`; the latter is stretched to each
            frame (nearest).
        min_depth, max_depth: of the protocol, metres.

    Returns:
        For "constant", "per_pixel_mean" and "oracle_median" what `DepthMetrics.mean` returns.
    """
    metrics = {
        name: DepthMetrics(min_depth=min_depth, max_depth=max_depth)
        for name in ("constant", "per_pixel_mean", "oracle_median")
    }
    for name, depth, valid_mask in frames:
        mean = _stretched(per_pixel_mean, depth.shape)
        with naming(name):
            p, d = valid_pixels(prediction=mean, depth=depth, valid_mask=valid_mask)
        predictions = {
            "constant": np.full_like(d, constant),
            "per_pixel_mean": p,
            "oracle_median": np.full_like(d, np.median(d.astype(depth.dtype)) if d.size else 0),
        }
        for floor, prediction in predictions.items():
            metrics[floor].update_pixels(name=name, prediction=prediction, depth=d)
    return {floor: collected.mean() for floor, collected in metrics.items()}


def _stretched(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize of (H, W) values to `size` (height, width)."""
    rows, columns = (
        (np.arange(new) * old // new) for new, old in zip(size, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]
