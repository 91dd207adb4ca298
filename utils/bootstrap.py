"""How sure a difference between two methods is: a paired bootstrap over images and over seeds.

A replicate draws runs (seeds) with replacement, then images with replacement, the same images for
both methods, and takes mean(B) - mean(A) (Efron and Tibshirani, 1993). Drawing runs and images
across each other counts the part of the noise that is neither's alone thrice (Owen, 2007), which
errs on the wide side. A bootstrap of few things spreads too little: with three runs whose seeds
are nearly all the noise, 95 % intervals held the truth 72 times in 100. So the spread of n draws is
widened by t(n - 1) / t(infinity) * sqrt(n / (n - 1)), as Student's interval of a mean is (94 times
in 100 then); with hundreds of images that is nothing. The widening of each level is ours. BCa was
no better: with skewed differences of 30 and of 200 images both were within 2 of 100 of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z = 1.959964  # 97.5 % point of the normal distribution
T_FEW = (12.706205, 4.302653, 3.182446, 2.776445)  # those of Student's t, 1 to 4 degrees of freedom
BLOCK = 500  # replicates at a time: bounds the memory
MIN_DRAWN = 5  # fewer images or scenes than this get no interval
TOO_FEW = "too few to say"
LARGER_IS_BETTER = frozenset({"d1", "d2", "d3"})


def difference_rows(
    a: np.ndarray, b: np.ndarray, names: Sequence[str], *, groups: np.ndarray | None, **options
) -> dict[str, dict]:
    """A row for each score: the two means, their difference, its interval, and a verdict.

    Args:
        a, b: (runs, images, scores) of each method, as in `difference_interval`.
        names: (scores,) of utils.metrics; they say which direction is better.
        groups, options: as in `difference_interval`.

    Returns:
        name -> the row that `utils.compare.compare` describes.
    """
    num_images = a.shape[1]
    num_drawn = num_images if groups is None else groups.max() + 1
    bounds = np.full((2, len(names)), np.nan)
    if num_drawn >= MIN_DRAWN:
        bounds = difference_interval(a, b, groups=groups, **options)
    rows = {}
    for k, name in enumerate(names):
        mean_a, mean_b = float(a[..., k].mean()), float(b[..., k].mean())
        sign = -1 if name in LARGER_IS_BETTER else 1  # so that below zero is better for B
        gain = sign * (b[..., k].mean(axis=0) - a[..., k].mean(axis=0))
        low, high = (None if np.isnan(bound) else float(bound) for bound in bounds[:, k])
        rows[name] = {
            "mean_a": mean_a,
            "mean_b": mean_b,
            "difference": mean_b - mean_a,
            "relative": (mean_b - mean_a) / mean_a if mean_a else None,
            "low": low,
            "high": high,
            "b_better_share": float((gain < 0).mean()),
            "num_images": num_images,
            "verdict": _verdict(low, high, sign),
        }
    return rows


def _verdict(low: float | None, high: float | None, sign: int) -> str:
    if low is None or high is None:
        return TOO_FEW
    if low <= 0 <= high:
        return "no difference shown"
    return "B better" if sign * low < 0 else "A better"


def difference_interval(
    a: np.ndarray,
    b: np.ndarray,
    *,
    paired_runs: bool,
    groups: np.ndarray | None = None,
    num_resamples: int,
    seed: int,
) -> np.ndarray:
    """95 % percentile interval of mean(B) - mean(A), for several scores at once.

    Args:
        a, b: (runs, images, scores) of each method, finite. Images are the same, in one order.
        paired_runs: runs come in pairs (of one seed, say) and are drawn as such; else each method
            draws its own. A single run is never drawn: its interval knows images only.
        groups: (images,) int, 0 to num_groups - 1, draws whole groups of images; None draws images.
        num_resamples: replicates.
        seed: of everything that is drawn.

    Returns:
        (2, scores), lower and upper bound. With two equal methods in pairs it is exactly 0.

    Raises:
        ValueError: shapes do not fit, values are not finite, or there is only one thing to draw.
    """
    _check(a, b, paired_runs)
    sides = [b - a] if paired_runs else [b, -a]
    groups = np.arange(a.shape[1]) if groups is None else groups
    sizes = np.bincount(groups)  # (groups,) images in each
    if len(sizes) < 2:
        raise ValueError("one image or scene alone says nothing of the others: nothing to draw")
    sums = [_group_sums(side, groups, len(sizes)) for side in sides]
    run_freedom = sum(len(side) - 1 for side in sides)
    stretch = widening(len(sizes), len(sizes) - 1)
    generator = np.random.default_rng(seed)
    replicates = []
    for start in range(0, num_resamples, BLOCK):
        rows = min(BLOCK, num_resamples - start)
        counts = _draws(generator, len(sizes), rows)
        num_images = (counts @ sizes)[:, None]
        all_images = drawn_images = 0.0
        for side, total in zip(sides, sums, strict=True):
            runs, scores = len(side), side.shape[2]
            weights = _run_weights(generator, runs, rows, run_freedom)
            means = (counts @ total).reshape(rows, runs, scores)
            all_images = all_images + weights @ side.mean(axis=1)
            drawn_images = drawn_images + np.einsum("rk,rks->rs", weights, means) / num_images
        replicates.append(all_images + stretch * (drawn_images - all_images))
    return np.quantile(np.concatenate(replicates), (0.025, 0.975), axis=0)


def widening(count: int, freedom: int) -> float:
    """Factor by which the bootstrap's spread of a mean of `count` values is too narrow, at 95 %.

    Args:
        count: values that are drawn, at least two.
        freedom: degrees of freedom of the estimated spread, at least one.
    """
    return student_t(freedom) / Z * math.sqrt(count / (count - 1))


def student_t(freedom: int) -> float:
    """97.5 % point of Student's t; beyond the table by Fisher's expansion, within 0.1 %."""
    if freedom <= len(T_FEW):
        return T_FEW[freedom - 1]
    return (
        Z
        + (Z**3 + Z) / (4 * freedom)
        + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)
        + (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / (384 * freedom**3)
    )


def _check(a: np.ndarray, b: np.ndarray, paired_runs: bool) -> None:
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"need (runs, images, scores) of the same images, got {a.shape}, {b.shape}"
        )
    if paired_runs and len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} runs are no pairs")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("scores must be finite")


def _group_sums(values: np.ndarray, groups: np.ndarray, num_groups: int) -> np.ndarray:
    """(runs, images, scores) -> (groups, runs * scores), summed over the images of each group."""
    sums = np.zeros((num_groups, len(values), values.shape[2]))
    np.add.at(sums, groups, values.transpose(1, 0, 2))
    return sums.reshape(num_groups, -1)


def _draws(generator: np.random.Generator, count: int, rows: int) -> np.ndarray:
    """(rows, count): how often each of `count` things was drawn, `count` draws a row."""
    drawn = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(float)


def _run_weights(generator: np.random.Generator, runs: int, rows: int, freedom: int) -> np.ndarray:
    """(rows, runs): weights of the runs in each replicate, widened around equal ones."""
    if runs == 1:
        return np.ones((rows, 1))
    drawn = _draws(generator, runs, rows) - 1
    return (1 + widening(runs, freedom) * drawn) / runs
