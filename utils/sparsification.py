"""Ranking measures of one image: does the order of its uncertainties follow that of its errors?

Uncertainties u (larger = less sure) may be in any unit, for only their order matters. With p the
clipped prediction, d the ground truth:

    ause_*     area between the sparsification curve of u and the oracle's; 0 is best
    aurg_*     area between the error of all pixels and the curve of u; larger is better, <= 0: u
               is no better than chance
    spearman, spearman_abs_rel   rank correlation of u with |p - d| and with |p - d| / d
    auroc_d1   chance that a pixel with max(p/d, d/p) >= 1.25 has a larger u than one without

A sparsification curve is the error of the pixels that remain when the least sure are taken away, a
share of them at a time; the oracle takes away the largest errors. abs_rel and rmse are those of
`utils.metrics`; d1 is the share of failures (>= 1.25), so that lower is better for all three. Areas
have the unit of their error and are not divided by it. ause_x and aurg_x follow mono-uncertainty
(Poggi et al., CVPR 2020), for comparison with published numbers: `poggi_kept`, `poggi_area`. Their
_exact versions (ours) are free of its artefacts, ties that are never taken away and a constant that
gains 1 %: `exact_kept`, `exact_area`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SPARSIFIED = ("abs_rel", "rmse", "d1")
AREA_NAMES = tuple(f"{area}_{error}" for error in SPARSIFIED for area in ("ause", "aurg"))
MAY_BE_UNDEFINED = ("spearman", "spearman_abs_rel", "auroc_d1")
FAILURE = 1.25  # ratio of depth and prediction from which a pixel has failed: one minus d1


def surest_first(log_uncertainty: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Indices that sort (N,) uncertainties ascending, equal ones in random order."""
    size = log_uncertainty.size
    shuffled = rng.permutation(size)
    turn = np.empty_like(shuffled)  # of each pixel in the shuffle
    turn[shuffled] = np.arange(size)
    # as a stable sort of the shuffled values would, in a sixth of its time: whole numbers sort fast
    order = np.argsort(log_uncertainty)
    ordered = log_uncertainty[order]
    level = np.zeros(size, dtype=np.int64)  # equal values share one
    np.cumsum(ordered[1:] != ordered[:-1], out=level[1:])
    level *= size
    return shuffled[np.sort(level + turn[order]) - level]


def point_errors(*, prediction: np.ndarray, depth: np.ndarray) -> dict[str, np.ndarray]:
    """Per pixel what SPARSIFIED aggregate, which is also what their oracles sort by: |p - d| / d,
    (p - d)^2 in square metres, max(p/d, d/p). `prediction` is clipped; all (N,)."""
    p, d = prediction, depth
    return {"abs_rel": np.abs(p - d) / d, "rmse": (p - d) ** 2, "d1": np.maximum(p / d, d / p)}


def sparsification(name: str, errors: np.ndarray, *kept: np.ndarray) -> list[np.ndarray]:
    """The aggregate over the first pixels, as many of them as `kept` says.

    Args:
        name: one of SPARSIFIED.
        errors: (N,) its `point_errors`, those of the surest pixels first.
        kept: each (num_intervals,) numbers of pixels, at least 1, as from `poggi_kept`,
            `exact_kept`.

    Returns:
        For each of `kept` (num_intervals,) mean, root of the mean (metres), or share from FAILURE
        up.
    """
    totals = np.cumsum(errors >= FAILURE if name == "d1" else errors, dtype=np.float64)
    means = [totals[numbers - 1] / numbers for numbers in kept]
    return [np.sqrt(mean) for mean in means] if name == "rmse" else means


def poggi_kept(keys: np.ndarray, num_intervals: int) -> np.ndarray:
    """Pixels that mono-uncertainty keeps in steps 0, 1, ...: those whose -key reaches the
    percentile 100 t / num_intervals of all -keys (linear interpolation), so ties stay together.

    Args:
        keys: (N,) ascending: uncertainties, or `point_errors` for the oracle.
    """
    confidences = -keys[::-1]  # ascending too
    steps = 100.0 / num_intervals * np.arange(num_intervals)
    thresholds = np.percentile(confidences, steps)
    return keys.size - np.searchsorted(confidences, thresholds, side="left")


def poggi_area(curve: np.ndarray) -> float:
    """Trapezoids over the curve and a point of error 0 where everything has been taken away."""
    return float((curve.sum() - curve[0] / 2) / curve.size)


def exact_kept(num_pixels: int, num_intervals: int) -> np.ndarray:
    """Pixels left when floor(num_pixels t / num_intervals) have been taken away, t = 0, 1, ..."""
    return num_pixels - num_pixels * np.arange(num_intervals) // num_intervals


def exact_area(curve: np.ndarray) -> float:
    """Mean height of the curve: trapezoids over its points at 0 to (n - 1) / n, divided by that
    span. No point is made up for the end, where nothing is left to have an error."""
    return float((curve.sum() - (curve[0] + curve[-1]) / 2) / (curve.size - 1))


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks 1 to N of (N,) values, equal ones sharing the mean of their ranks; float64."""
    order = np.argsort(values)
    ranks = np.empty(values.size)
    ranks[order] = ascending_ranks(values[order])
    return ranks


def ascending_ranks(ordered: np.ndarray) -> np.ndarray:
    """`average_ranks` of values that ascend already."""
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[starts[1:], ordered.size]
    return np.repeat((starts + 1 + ends) / 2, ends - starts)


def rank_correlation(a_ranks: np.ndarray, b_ranks: np.ndarray) -> float:
    """Pearson correlation of `average_ranks`, thus Spearman's; 0 where one side is all equal."""
    a, b = a_ranks - a_ranks.mean(), b_ranks - b_ranks.mean()
    norm = math.sqrt(a @ a) * math.sqrt(b @ b)
    return float(a @ b) / norm if norm > 0 else 0.0


def auroc(ranks: np.ndarray, event: np.ndarray) -> float | None:
    """Chance that a pixel with the event ranks above one without; ties count half.

    Args:
        ranks: (N,) `average_ranks` of the score.
        event: (N,) bool.

    Returns:
        A number in [0, 1] (the area under the ROC curve), None where all or none have the event.
    """
    num_events = int(np.count_nonzero(event))
    pairs = num_events * (event.size - num_events)
    if pairs == 0:
        return None
    return float(ranks[event].sum() - num_events * (num_events + 1) / 2) / pairs


@dataclass(frozen=True)
class ImageErrors:
    """The errors of one image, and what about them is the same for every uncertainty.

    Attributes:
        of_pixel: `point_errors`, each (N,).
        ranks: `average_ranks` of the errors that "spearman" and "spearman_abs_rel" compare with;
            None where all are equal.
        oracle: for each of SPARSIFIED its oracle's published and exact curve, (num_intervals,)
            each.
    """

    of_pixel: dict[str, np.ndarray]
    ranks: dict[str, np.ndarray | None]
    oracle: dict[str, list[np.ndarray]]


def image_errors(*, prediction: np.ndarray, depth: np.ndarray, num_intervals: int) -> ImageErrors:
    """Of (N,) clipped predictions and depths, metres; curves of `num_intervals` points, >= 2."""
    of_pixel = point_errors(prediction=prediction, depth=depth)
    exact = exact_kept(depth.size, num_intervals)
    oracle = {}
    for name, errors in of_pixel.items():
        ascending = np.sort(errors)  # the oracle: smallest error first
        oracle[name] = sparsification(name, ascending, poggi_kept(ascending, num_intervals), exact)
    ranked = {"spearman": np.abs(prediction - depth), "spearman_abs_rel": of_pixel["abs_rel"]}
    ranks = {
        name: average_ranks(errors) if np.ptp(errors) > 0 else None
        for name, errors in ranked.items()
    }
    return ImageErrors(of_pixel, ranks, oracle)


def areas_and_curves(
    u: np.ndarray, order: np.ndarray, errors: ImageErrors
) -> tuple[dict[str, float], np.ndarray]:
    """AREA_NAMES, plain and _exact, of one image, and its exact curves.

    Args:
        u: (N,) uncertainties, ascending.
        order: (N,) which pixel each is of.
        errors: of the pixels.

    Returns:
        The areas, in the unit of their error, and (2, 3, num_intervals): method and oracle, for
        each of SPARSIFIED.
    """
    num_intervals = errors.oracle["rmse"][0].size
    areas, exact_curves = {}, np.empty((2, len(SPARSIFIED), num_intervals))
    kept = poggi_kept(u, num_intervals), exact_kept(u.size, num_intervals)
    for index, name in enumerate(SPARSIFIED):
        curves = sparsification(name, errors.of_pixel[name][order], *kept)
        versions = zip(("", "_exact"), (poggi_area, exact_area), curves, errors.oracle[name],
                       strict=True)  # fmt: skip
        for suffix, area, method, oracle in versions:
            areas[f"ause_{name}{suffix}"] = area(method) - area(oracle)
            areas[f"aurg_{name}{suffix}"] = float(method[0]) - area(method)
        exact_curves[:, index] = curves[1], errors.oracle[name][1]
    return areas, exact_curves


def correlations(u: np.ndarray, order: np.ndarray, errors: ImageErrors) -> dict[str, float | None]:
    """MAY_BE_UNDEFINED of one image; arguments as for `areas_and_curves`.

    A constant u ranks nothing, which is 0; constant errors leave nothing to rank, which is None,
    as is auroc_d1 where all pixels have failed, or none.
    """
    ranks = ascending_ranks(u)
    row = {
        name: None if of_error is None else rank_correlation(ranks, of_error[order])
        for name, of_error in errors.ranks.items()
    }
    return row | {"auroc_d1": auroc(ranks, errors.of_pixel["d1"][order] >= FAILURE)}
