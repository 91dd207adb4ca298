"""Trivial floors on small maps, against the plain way of computing them."""

import numpy as np
import pytest

from utils.floors import score_floors, training_floors

BOUNDS = {"min_depth": 0.1, "max_depth": 10.0}


def depth_maps(count=6, size=(5, 7), seed=0):
    rng = np.random.default_rng(seed)
    maps = rng.uniform(0.05, 12, (count, *size)).astype(np.float32)  # some outside the bounds
    return np.where(rng.random(maps.shape) < 0.3, 0, maps)


def inside(maps):
    return (maps > 0.1) & (maps < 10)


def test_constant_is_the_median_of_all_depths_inside_the_bounds():
    maps = depth_maps()
    median = np.sort(maps[inside(maps)])[(inside(maps).sum() - 1) // 2]
    assert training_floors(iter(maps), **BOUNDS)[0] == pytest.approx(median, abs=1e-5)


def test_per_pixel_mean_counts_measured_pixels_only():
    maps = depth_maps()
    maps[:, 2, 3] = 0  # never measured: takes the mean over all pixels
    expected = np.nanmean(np.where(inside(maps), maps, np.nan)[:, 0], axis=0)
    floor = training_floors(iter(maps), **BOUNDS)[1]
    assert floor[0] == pytest.approx(expected, rel=1e-6)
    assert floor[2, 3] == pytest.approx(maps[inside(maps)].mean(), rel=1e-6)


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"one size.*\(2, 2\).*\(2, 3\)"):
        training_floors([np.ones((2, 2)), np.ones((2, 3))], **BOUNDS)


@pytest.mark.parametrize("maps", [[], [np.zeros((2, 2))]])
def test_no_training_depth_is_an_error(maps):
    with pytest.raises(ValueError, match="no training depth"):
        training_floors(maps, **BOUNDS)


def test_floors_are_scored_as_predictions_on_the_valid_pixels():
    depth = np.asarray([[2.0, 4.0, 8.0, 0.0]])
    frames = [("a", depth, depth > 0), ("unlabelled", depth * 0, depth < 0)]
    means = np.asarray([[2.0, 8.0]])  # stretched to 2 2 8 8
    scores = score_floors(iter(frames), constant=2.0, per_pixel_mean=means, **BOUNDS)
    abs_rel = {name: score["abs_rel"] for name, score in scores.items()}
    assert abs_rel == pytest.approx(
        {
            "constant": (0 + 1 / 2 + 3 / 4) / 3,
            "per_pixel_mean": (0 + 1 / 2 + 0) / 3,
            "oracle_median": (1 + 0 + 1 / 2) / 3,
        }
    )
    assert all((s["num_images"], s["num_skipped"]) == (1, 1) for s in scores.values())
