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

import numpy as np

SPARSIFIED = ("abs_rel", "rmse", "d1")
AREA_NAMES = tuple(f"{area}_{error}" for error in SPARSIFIED for area in ("ause", "aurg"))
MAY_BE_UNDEFINED = ("spearman", "spearman_abs_rel", "auroc_d1")
FAILURE = 1.25  # ratio of depth and prediction from which a pixel has failed: one minus d1


def surest_first(log_uncertainty: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Indices that sort (N,) uncertainties ascending, equal ones in random order."""
    shuffled = rng.permutation(log_uncertainty.size)
    return shuffled[np.argsort(log_uncertainty[shuffled], kind="stable")]


def point_errors(*, prediction: np.ndarray, depth: np.ndarray) -> dict[str, np.ndarray]:
    """Per pixel what SPARSIFIED aggregate, which is also what their oracles sort by: |p - d| / d,
    (p - d)^2 in square metres, max(p/d, d/p). `prediction` is clipped; all (N,)."""
    p, d = prediction, depth
    return {"abs_rel": np.abs(p - d) / d, "rmse": (p - d) ** 2, "d1": np.maximum(p / d, d / p)}


def sparsification(name: str, errors: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The aggregate over the first `kept` of the errors.

    Args:
        name: one of SPARSIFIED.
        errors: (N,) its `point_errors`, those of the surest pixels first.
        kept: (num_intervals,) numbers of pixels, at least 1, as from `poggi_kept`, `exact_kept`.

    Returns:
        (num_intervals,) mean, root of the mean (metres), or share from FAILURE up.
    """
    totals = np.cumsum(errors >= FAILURE if name == "d1" else errors, dtype=np.float64)
    means = totals[kept - 1] / kept
    return np.sqrt(means) if name == "rmse" else means


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
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[starts[1:], values.size]
    ranks = np.empty(values.size)
    ranks[order] = np.repeat((starts + 1 + ends) / 2, ends - starts)
    return ranks


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


def areas_and_curves(
    u: np.ndarray, errors: dict[str, np.ndarray], num_intervals: int
) -> tuple[dict[str, float], np.ndarray]:
    """AREA_NAMES, plain and _exact, of one image, and its exact curves.

    Args:
        u: (N,) uncertainties, ascending.
        errors: `point_errors` in the same order.
        num_intervals: points of a curve, at least 2.

    Returns:
        The areas, in the unit of their error, and (2, 3, num_intervals): method and oracle, for
        each of SPARSIFIED.
    """
    areas, exact_curves = {}, np.empty((2, len(SPARSIFIED), num_intervals))
    exact, poggi = exact_kept(u.size, num_intervals), poggi_kept(u, num_intervals)
    for index, name in enumerate(SPARSIFIED):
        ascending = np.sort(errors[name])  # the oracle: smallest error first
        exact_curves[:, index] = [sparsification(name, e, exact) for e in (errors[name], ascending)]
        oracle = sparsification(name, ascending, poggi_kept(ascending, num_intervals))
        poggi_curves = sparsification(name, errors[name], poggi), oracle
        versions = (("", poggi_area, poggi_curves), ("_exact", exact_area, exact_curves[:, index]))
        for suffix, area, (method, oracle) in versions:
            areas[f"ause_{name}{suffix}"] = area(method) - area(oracle)
            areas[f"aurg_{name}{suffix}"] = float(method[0]) - area(method)
    return areas, exact_curves


def correlations(
    u: np.ndarray, *, prediction: np.ndarray, depth: np.ndarray
) -> dict[str, float | None]:
    """MAY_BE_UNDEFINED of one image, from (N,) uncertainties, clipped prediction and depth (metres)
    in any order.

    A constant u ranks nothing, which is 0; constant errors leave nothing to rank, which is None,
    as is auroc_d1 where all pixels have failed, or none.
    """
    errors = point_errors(prediction=prediction, depth=depth)
    ranks = average_ranks(u)
    pairs = {"spearman": np.abs(prediction - depth), "spearman_abs_rel": errors["abs_rel"]}
    row = {
        name: rank_correlation(ranks, average_ranks(error)) if np.ptp(error) > 0 else None
        for name, error in pairs.items()
    }
    return row | {"auroc_d1": auroc(ranks, errors["d1"] >= FAILURE)}
