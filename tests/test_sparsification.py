"""The ranking measures of one image: golden numbers, slow references, what an oracle must get."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from test_uncertainty import ERRORS, GOLDEN, golden, noisy

from utils.sparsification import (
    AREA_NAMES,
    areas_and_curves,
    auroc,
    average_ranks,
    correlations,
    exact_kept,
    image_errors,
    poggi_area,
    poggi_kept,
    point_errors,
    rank_correlation,
    sparsification,
    surest_first,
)


def measured(prediction, depth, u, num_intervals=50):
    """All measures of an image by name."""
    order = surest_first(u, rng=np.random.default_rng(0))
    errors = image_errors(prediction=prediction, depth=depth, num_intervals=num_intervals)
    areas, _ = areas_and_curves(u[order], order, errors)
    return areas | correlations(u[order], order, errors)


@pytest.mark.parametrize("levels", [None, 3, 0])
def test_the_surest_come_first_as_a_stable_sort_of_the_shuffled_pixels_has_them(levels):
    u = noisy(5, levels=levels)[2]
    u[::7] *= -1  # also -0.0, which equals 0.0
    shuffled = np.random.default_rng(3).permutation(u.size)
    expected = shuffled[np.argsort(u[shuffled], kind="stable")]
    assert np.array_equal(surest_first(u, rng=np.random.default_rng(3)), expected)


@pytest.mark.parametrize("planted", GOLDEN)
def test_the_functions_give_the_golden_numbers(planted):
    prediction, depth, u = golden(planted)
    order = surest_first(u, rng=np.random.default_rng(0))
    errors = point_errors(prediction=prediction[order], depth=depth[order])
    found = []
    for name in ERRORS:
        oracle = np.sort(errors[name])
        method = poggi_area(*sparsification(name, errors[name], poggi_kept(u[order], 50)))
        kept = poggi_kept(oracle, 50), np.asarray([100])
        curve, (everything,) = sparsification(name, oracle, *kept)
        best = poggi_area(curve)
        found += [method - best, everything - method]
    assert found == pytest.approx(GOLDEN[planted], rel=0, abs=1e-8)


def slow_aggregate(name, prediction, depth):
    if name == "abs_rel":
        return np.mean(np.abs(prediction - depth) / depth)
    if name == "rmse":
        return np.sqrt(np.mean((prediction - depth) ** 2))
    return 1 - np.mean(np.maximum(prediction / depth, depth / prediction) < 1.25)


def slow_keys(name, prediction, depth):
    ratio = np.maximum(prediction / depth, depth / prediction)
    return {
        "abs_rel": np.abs(prediction - depth) / depth, "rmse": (prediction - depth) ** 2,
        "d1": ratio,
    }[name]  # fmt: skip


def slow_poggi_area(name, prediction, depth, key, n):
    """As published: a mask for each percentile, a zero at the end, trapezoids."""
    heights = []
    for t in range(n):
        kept = -key >= np.percentile(-key, 100.0 / n * t)
        heights.append(slow_aggregate(name, prediction[kept], depth[kept]))
    heights.append(0.0)
    return sum((a + b) / 2 / n for a, b in pairwise(heights))


def slow_exact_area(name, prediction, depth, key, n):
    """The largest keys taken away one step after another; no two keys may be equal."""
    order = sorted(range(len(key)), key=lambda pixel: key[pixel])
    heights = []
    for t in range(n):
        kept = order[: len(key) - t * len(key) // n]
        heights.append(slow_aggregate(name, prediction[kept], depth[kept]))
    return sum((a + b) / 2 for a, b in pairwise(heights)) / (n - 1)


@pytest.mark.parametrize(("levels", "n"), [(None, 50), (None, 7), (3, 50)])
def test_areas_equal_a_slow_reference(levels, n):
    prediction, depth, u = noisy(0, 333, levels)
    row = measured(prediction, depth, u, n)
    versions = [("", slow_poggi_area)]
    if levels is None:
        versions.append(("_exact", slow_exact_area))
    for name in ERRORS:
        for suffix, slow in versions:
            method = slow(name, prediction, depth, u, n)
            oracle = slow(name, prediction, depth, slow_keys(name, prediction, depth), n)
            everything = slow_aggregate(name, prediction, depth)
            found = [row[f"ause_{name}{suffix}"], row[f"aurg_{name}{suffix}"]]
            assert found == pytest.approx([method - oracle, everything - method], abs=1e-11)


@pytest.mark.parametrize("levels", [None, 3])
def test_correlations_equal_those_of_scipy_and_of_all_pairs(levels):
    prediction, depth, u = noisy(1, 300, levels)
    row = measured(prediction, depth, u)
    error = np.abs(prediction - depth)
    assert row["spearman"] == pytest.approx(stats.spearmanr(u, error)[0], abs=1e-12)
    relative = stats.spearmanr(u, error / depth)[0]
    assert row["spearman_abs_rel"] == pytest.approx(relative, abs=1e-12)
    failed = slow_keys("d1", prediction, depth) >= 1.25
    pairs = np.sign(u[failed][:, None] - u[~failed][None])  # 1 right, 0 tied, -1 wrong
    assert row["auroc_d1"] == pytest.approx(float((pairs + 1).mean() / 2), abs=1e-12)
    assert 0.55 < row["auroc_d1"] < 0.95


def test_equal_values_share_the_mean_of_their_ranks():
    ranks = average_ranks(np.asarray([5.0, 1.0, 5.0, 0.0, 5.0]))
    assert ranks.tolist() == [4, 2, 4, 1, 4]
    assert rank_correlation(ranks, np.full(5, 3.0)) == 0
    assert auroc(ranks, np.asarray([True, False, False, False, True])) == pytest.approx(5 / 6)


@pytest.mark.parametrize("levels", [None, 20])
@pytest.mark.parametrize("name", ERRORS)
def test_a_planted_oracle_has_nothing_left_to_gain(name, levels):
    prediction, depth, _ = noisy(2)
    if levels:  # errors with many ties
        depth = np.full_like(depth, 16.0)
        prediction = 16.0 + np.floor(levels * (prediction / 30)) / 2
    error = np.abs(prediction - depth)
    u = {"abs_rel": error / depth, "rmse": error, "d1": slow_keys("d1", prediction, depth)}[name]
    row = measured(prediction, depth, u)
    assert row[f"ause_{name}_exact"] == 0
    assert row[f"ause_{name}"] == pytest.approx(0, abs=1e-12)
    assert row[f"aurg_{name}_exact"] > 0.05
    if not levels:
        others = [row[f"ause_{other}_exact"] for other in ERRORS if other != name]
        assert min(others) >= 0 and max(others) > 0


@pytest.mark.parametrize("transform", [np.exp, lambda u: 3 * u - 7])
@pytest.mark.parametrize("levels", [None, 4])
def test_only_the_order_of_the_uncertainties_matters(transform, levels):
    prediction, depth, u = noisy(3, levels=levels)
    before = measured(prediction, depth, u)
    after = measured(prediction, depth, transform(u))
    assert set(after) == set(before) > set(AREA_NAMES)
    for name in before:
        if name in AREA_NAMES:  # its thresholds lie between two pixels: one may change sides
            assert after[name] == pytest.approx(before[name], rel=0.01)
        else:
            assert after[name] == before[name]


def test_a_confidence_in_place_of_an_uncertainty_shows():
    prediction, depth, u = noisy(4)
    right, wrong = (measured(prediction, depth, key) for key in (u, -u))
    assert right["aurg_abs_rel"] > 0 > wrong["aurg_abs_rel"]
    assert wrong["spearman"] == pytest.approx(-right["spearman"], abs=1e-12)
    assert wrong["auroc_d1"] == pytest.approx(1 - right["auroc_d1"], abs=1e-12)


def test_ties_stay_together_in_the_published_procedure_and_are_split_in_ours():
    keys = np.asarray([0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    assert poggi_kept(keys, 3).tolist() == [6, 5, 5]
    assert exact_kept(6, 3).tolist() == [6, 4, 2]
    assert exact_kept(10, 4).tolist() == [10, 8, 5, 3]
    assert exact_kept(1, 50).tolist() == [1] * 50
