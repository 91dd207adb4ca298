"""Rankings by uncertainty, collected: what counts, what a constant gets, the same on two ranks."""

import math
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from utils.metrics import MetricsError
from utils.sparsification import (
    AREA_NAMES,
    MAY_BE_UNDEFINED,
    correlations,
    exact_area,
    image_errors,
    surest_first,
)
from utils.uncertainty import UNCERTAINTY_NAMES, UncertaintyMetrics, gradient_uncertainty

BOUNDS = {"min_depth": 1e-3, "max_depth": 1e3}
ERRORS = ("abs_rel", "rmse", "d1")


def golden(planted):
    """Prediction, depth and uncertainty, integers but for the prediction; (100,) metres."""
    i = np.arange(100)
    depth = i + 1.0
    prediction = depth * (1 + 0.01 * ((37 * i) % 100))
    scrambled = ((53 * i) % 100).astype(float)
    return prediction, depth, np.abs(prediction - depth) / depth if planted else scrambled


# AUSE and AURG of abs_rel, rmse, d1; made with mono-uncertainty's own code
GOLDEN = {
    False: (0.21997174, 0.02997826, 18.96184698, 2.77304561, 0.31876112, 0.02773754),
    True: (0, 0.24995, 5.04100585, 16.69388673, 0, 0.34649867),
}
GOLDEN_EXACT = (0.22303239, 0.02196761)  # of abs_rel, as computed beside it


def noisy(seed, size=1500, levels=None):
    """A random image whose uncertainty knows something; `levels` make it coarse, thus tied."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(2, 60, size)
    u = rng.exponential(1, size)
    prediction = depth * np.exp(rng.normal(0, 0.1, size) * np.exp(u / 2))
    return prediction, depth, u if levels is None else np.floor(u * levels)


def scored(prediction, depth, u, name="a", valid_mask=None, **settings):
    """The metrics of one image, given as rows of pixels."""
    metrics = UncertaintyMetrics(**(BOUNDS | settings))
    add(metrics, name, prediction, depth, u, valid_mask)
    return metrics


def add(metrics, name, prediction, depth, u, valid_mask=None):
    prediction, depth, u = (np.atleast_2d(np.asarray(a, float)) for a in (prediction, depth, u))
    mask = depth > 0 if valid_mask is None else np.atleast_2d(valid_mask)
    metrics.update(
        name=name, prediction=prediction, depth=depth, valid_mask=mask, log_uncertainty=u
    )


@pytest.mark.parametrize("planted", GOLDEN)
def test_the_class_gives_the_golden_numbers_under_the_names_of_the_contract(planted):
    mean = scored(*golden(planted)).mean()
    assert set(UNCERTAINTY_NAMES) < set(mean)
    assert [mean[name] for name in AREA_NAMES] == pytest.approx(GOLDEN[planted], rel=0, abs=1e-8)
    if not planted:
        exact = [mean["ause_abs_rel_exact"], mean["aurg_abs_rel_exact"]]
        assert exact == pytest.approx(GOLDEN_EXACT, rel=0, abs=1e-8)


def test_the_class_correlates_what_the_image_holds():
    prediction, depth, u = noisy(7)
    row = scored(prediction, depth, u).rows["a"]
    order = np.argsort(u)
    errors = image_errors(prediction=prediction, depth=depth, num_intervals=50)
    expected = correlations(u[order], order, errors)
    assert {name: row[name] for name in MAY_BE_UNDEFINED} == pytest.approx(expected, abs=1e-12)


def test_uncertainties_that_share_the_errors_of_an_image_score_as_each_alone():
    prediction, depth, u = noisy(8)
    clipped = prediction.clip(BOUNDS["min_depth"], BOUNDS["max_depth"])
    shared = UncertaintyMetrics(**BOUNDS).errors_of(clipped, depth)
    for unsure in (u, 0 * u, -u):
        alone, together = scored(prediction, depth, unsure), UncertaintyMetrics(**BOUNDS)
        together.update_pixels(name="a", log_uncertainty=unsure, errors=shared)
        assert together.rows == alone.rows
        assert np.array_equal(together.image_curves["a"], alone.image_curves["a"])


def test_a_constant_gains_nothing_but_one_percent_from_the_published_procedure():
    metrics = UncertaintyMetrics(**BOUNDS)
    for seed in range(60):
        prediction, depth, _ = noisy(seed, 3000)
        add(metrics, str(seed), prediction, depth, np.zeros(3000))
    gains = {name: [row[f"aurg_{name}_exact"] for row in metrics.rows.values()] for name in ERRORS}
    everything = {name: curves["random"][0] for name, curves in metrics.curves().items()}
    for name in ("abs_rel", "d1"):
        standard_error = np.std(gains[name]) / math.sqrt(60)
        assert 0 < standard_error < 0.02 * everything[name]
        assert abs(np.mean(gains[name])) < 3 * standard_error
    mean = metrics.mean()
    for name in ERRORS:
        assert mean[f"aurg_{name}"] == pytest.approx(0.01 * everything[name], rel=1e-9)
    assert mean["spearman"] == mean["spearman_abs_rel"] == 0 and mean["auroc_d1"] == 0.5


def test_chance_between_ties_hangs_on_seed_and_name_alone():
    prediction, depth, _ = noisy(5)

    def gain(name, seed):
        np.random.seed(len(name))  # the global state must not matter
        metrics = UncertaintyMetrics(**BOUNDS, seed=seed)
        add(metrics, "before", prediction, depth, 0 * depth)
        add(metrics, name, prediction, depth, 0 * depth)
        return metrics.rows[name]["aurg_abs_rel_exact"]

    first = gain("a", 0)
    assert gain("a", 0) == first
    assert len({first, gain("b", 0), gain("a", 1)}) == 3
    order = surest_first(np.repeat([1.0, 0.0], 500), rng=np.random.default_rng(0))
    assert set(order[:500]) == set(range(500, 1000))
    assert not np.array_equal(order[:500], np.arange(500, 1000))


def test_a_measure_that_an_image_leaves_undefined_is_left_out_and_counted():
    metrics = scored([1.0, 3.0, 1.1, 1.0], [1.0, 1.0, 1.0, 1.0], [0, 3, 2, 1], name="usual")
    assert metrics.rows["usual"]["auroc_d1"] == 1
    add(metrics, "all fail", [2.0, 3.0], [1.0, 1.0], [0, 1])
    add(metrics, "none fails", [1.1, 1.2], [1.0, 1.0], [1, 0])
    add(metrics, "perfect", [1.0, 1.0], [1.0, 1.0], [0, 1])
    mean = metrics.mean()
    assert mean["num_images"] == 4
    assert [mean[f"num_images_{name}"] for name in MAY_BE_UNDEFINED] == [3, 3, 1]
    assert mean["auroc_d1"] == 1 and metrics.rows["perfect"]["spearman"] is None
    spearman = [metrics.rows[name]["spearman"] for name in ("usual", "all fail", "none fails")]
    assert mean["spearman"] == pytest.approx(sum(spearman) / 3)
    assert scored([1.0], [1.0], [0.5]).mean()["spearman"] is None


def test_predictions_are_clipped_and_pixels_outside_the_mask_have_no_influence():
    bounds = {"min_depth": 1.0, "max_depth": 50.0}
    inside = scored([50.0, 1.0, 8.0], [20.0, 30.0, 9.0], [2, 3, 1], **bounds).rows
    outside = scored(
        [np.inf, -4.0, 8.0, np.nan, 7.0], [20.0, 30.0, 9.0, 5.0, 0.0], [2, 3, 1, 9, np.nan],
        valid_mask=[True, True, True, False, False], **bounds,
    ).rows  # fmt: skip
    assert inside == outside and inside["a"]["num_valid"] == 3


def test_tensors_of_half_precision_and_leading_ones_are_taken():
    prediction, depth, u = (torch.tensor(a).reshape(1, 1, 30, 50) for a in noisy(6))
    metrics = UncertaintyMetrics(**BOUNDS)
    metrics.update(
        name="a", prediction=prediction, depth=depth, valid_mask=depth > 0,
        log_uncertainty=u.bfloat16(),
    )  # fmt: skip
    rounded = scored(prediction.flatten(), depth.flatten(), u.bfloat16().float().flatten())
    assert metrics.rows == rounded.rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"u": [np.nan, 0.0, 1.0]}, r"'drive 7'.*log_uncertainty is NaN or infinite at 1 of 3"),
        ({"u": [np.inf, 0.0, 1.0]}, r"'drive 7'.*log_uncertainty is NaN or infinite at 1 of 3"),
        ({"u": [0.0, 1.0]}, r"'drive 7'.*shapes differ: log_uncertainty \(1, 2\), depth \(1, 3\)"),
        ({"prediction": [np.nan, 1.0, 1.0]}, "'drive 7'.*the prediction is NaN at 1 of 3"),
        ({"prediction": [np.inf, 1.0, 1.0], "max_depth": np.inf}, "clipped prediction is .*inf"),
        ({"max_depth": 1e-4}, "need 0 < min_depth < max_depth"),
        ({"num_intervals": 1}, "num_intervals >= 2"),
    ],
)
def test_misuse_is_refused_by_name(changes, message):
    image = {"prediction": [1.0, 2.0, 3.0], "depth": [1.0, 1.0, 1.0], "u": [0.0, 1.0, 2.0]}
    with pytest.raises(MetricsError, match=message):
        scored(**(image | {"name": "drive 7"} | changes))


def test_an_image_counts_once_and_one_without_ground_truth_not_at_all():
    metrics = UncertaintyMetrics(**BOUNDS)
    add(metrics, "empty", [1.0], [0.0], [1.0])
    with pytest.raises(ValueError, match="1 images were seen and none"):
        metrics.mean()
    with pytest.raises(ValueError, match="1 images were seen and none"):
        metrics.curves()
    add(metrics, "a", [1.0], [2.0], [1.0])
    for name in ("a", "empty"):
        with pytest.raises(ValueError, match=f"'{name}'.*twice"):
            add(metrics, name, [1.0], [2.0], [1.0])
    assert (metrics.mean()["num_images"], metrics.mean()["num_skipped"]) == (1, 1)


def test_curves_are_means_over_images_and_their_areas_are_the_scores():
    metrics = UncertaintyMetrics(**BOUNDS)
    for seed in (8, 9):
        add(metrics, str(seed), *noisy(seed, 200 * seed))
    mean, curves = metrics.mean(), metrics.curves()
    assert list(curves) == list(ERRORS)
    for name, curve in curves.items():
        assert curve["removed"].tolist() == pytest.approx(np.arange(50) / 50)
        assert (np.diff(curve["oracle"]) <= 1e-12).all()
        assert (curve["oracle"] <= curve["method"] + 1e-12).all()
        method, oracle, chance = (exact_area(curve[key]) for key in ("method", "oracle", "random"))
        assert method - oracle == pytest.approx(mean[f"ause_{name}_exact"], abs=1e-12)
        assert chance - method == pytest.approx(mean[f"aurg_{name}_exact"], abs=1e-12)


def test_gradient_is_the_slope_of_the_grey_image():
    y, x = np.mgrid[:4, :6] / 10.0
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        image = np.zeros((3, 4, 6))
        image[channel] = 0.3 * x + 0.4 * y
        assert gradient_uncertainty(image) == pytest.approx(np.full((4, 6), weight * 0.05))
    assert not gradient_uncertainty(torch.full((3, 4, 6), 0.5)).any()
    for wrong in (np.zeros((1, 4, 6)), np.zeros((2, 3, 4, 6)), np.zeros((3, 1, 6))):
        with pytest.raises(ValueError, match="need one image"):
            gradient_uncertainty(wrong)


SHARES = (("d", "a", "b"), ("c", "e"))  # names of each rank's images, "e" without ground truth


def collect(names):
    metrics = UncertaintyMetrics(**BOUNDS, seed=3, num_intervals=20)
    for name in names:
        prediction, depth, u = noisy(ord(name), 40 + ord(name), levels=2)
        add(metrics, name, prediction, depth * (name != "e"), u)
    return metrics


def results(metrics):
    curves = {
        name: {key: values.tolist() for key, values in of_error.items()}
        for name, of_error in metrics.curves().items()
    }
    return [metrics.rows, metrics.skipped, metrics.mean(), curves]


def score_share(_child, rank, folder):
    """One of two ranks, with its unequal share of the images."""
    distributed.init_process_group(
        "gloo", f"file://{folder / 'rendezvous'}", rank=rank, world_size=2,
        timeout=timedelta(seconds=120),
    )  # fmt: skip
    metrics = collect(SHARES[rank])
    torch.save(results(metrics.reduce_over_ranks()), folder / f"{rank}.pt")
    add(metrics, "seen by both", [1.0], [1.0], [1.0])
    with pytest.raises(ValueError, match=r"1 images scored by several ranks.*seen by both"):
        metrics.reduce_over_ranks()
    distributed.destroy_process_group()


def test_two_ranks_give_the_bits_of_one(tmp_path):
    other = multiprocessing.spawn(score_share, (1, tmp_path), nprocs=1, join=False)
    score_share(0, 0, tmp_path)
    other.join()
    alone = collect(SHARES[1] + SHARES[0])  # another order than that of the ranks
    assert list(alone.reduce_over_ranks().rows) == ["a", "b", "c", "d"]
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == results(alone)
