"""The numbers a paper would print: golden pairs, an independent reference, and the edge cases."""

import math
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from datasets.protocol import bts, nyu_eigen, plain
from utils.metrics import METRIC_NAMES, DepthMetrics, depth_errors

SMALL = {"min_depth": 1e-3, "max_depth": 80.0}


def kitti_pair(height, width):
    """Integer-only golden pair: ground truth and full-size prediction, (H, W) float32 metres."""
    y, x = np.mgrid[:height, :width]
    depth = 512 + (57 * y + 31 * x) % 23040
    prediction = depth * (700 + (11 * x + 17 * y) % 801) // 1000
    depth = np.where((5 * x + 3 * y) % 7 == 0, depth, 0)
    return (depth / 256).astype(np.float32), (prediction / 256).astype(np.float32)


def nyu_pair():
    y, x = np.mgrid[:480, :640]
    depth = 500 + (13 * y + 7 * x) % 10500
    prediction = depth * (700 + (11 * x + 17 * y) % 801) // 1000
    depth = np.where((x + 2 * y) % 5 == 0, 0, depth)
    return (depth / 1000).astype(np.float32), (prediction / 1000).astype(np.float32)


def pasted_kb_window(prediction):
    """What the PNG evaluator sees: the 352 x 1216 window of the prediction in a frame of zeros."""
    top, left = prediction.shape[0] - 352, (prediction.shape[1] - 1216) // 2
    window = (slice(top, top + 352), slice(left, left + 1216))
    pasted = np.zeros_like(prediction)
    pasted[window] = prediction[window]
    return pasted


def assert_golden(errors, expected):
    names = ("abs_rel", "sq_rel", "rmse", "rmse_log", "silog", "log10", "d1")
    assert [errors[name] for name in names] == pytest.approx(expected, rel=0, abs=1e-6)
    assert errors["d2"] == errors["d3"] == 1


# n, then abs_rel, sq_rel, rmse, rmse_log, silog, log10, d1; the bts rows agree with BTS's own code
GOLDEN_BTS = {
    (375, 1242): (29990, 0.188183, 1.720717, 8.873974, 0.210713, 20.382599, 0.077391, 0.631577),
    (370, 1226): (29065, 0.187231, 1.721696, 8.911092, 0.209934, 20.316766, 0.077041, 0.634234),
}
GOLDEN_NYU = (187888, 0.195272, 0.303343, 1.359208, 0.214931, 20.681322, 0.080094, 0.615005)
GOLDEN_UNCROPPED = (66536, 0.178246, 1.791375, 9.511334, 0.203674, 20.125501, 0.074139, 0.660515)
GOLDEN_MEDIAN = (66536, 0.169844, 1.658482, 9.453672, 0.202036, 20.189444, 0.073699, 0.663881)


@pytest.mark.parametrize("size", GOLDEN_BTS)
@pytest.mark.parametrize(
    "as_input", [np.asarray, lambda array: torch.from_numpy(array)[None, None]]
)
def test_bts_protocol_gives_the_golden_numbers(size, as_input):
    depth, prediction = kitti_pair(*size)
    depth, prediction = as_input(depth), as_input(pasted_kb_window(prediction))
    num_valid, *expected = GOLDEN_BTS[size]
    valid_mask = bts().valid_mask(depth)
    assert valid_mask.sum() == num_valid
    errors = depth_errors(prediction=prediction, depth=depth, valid_mask=valid_mask, **SMALL)
    assert_golden(errors, expected)


def test_nyu_protocol_gives_the_golden_numbers():
    depth, prediction = nyu_pair()
    num_valid, *expected = GOLDEN_NYU
    protocol = nyu_eigen()
    valid_mask = protocol.valid_mask(depth)
    assert valid_mask.sum() == num_valid
    metrics = DepthMetrics(min_depth=protocol.min_depth, max_depth=protocol.max_depth)
    metrics.update(name="golden", prediction=prediction, depth=depth, valid_mask=valid_mask)
    assert_golden(metrics.mean(), expected)


@pytest.mark.parametrize("median_scaled", [False, True])
def test_uncropped_frame_gives_the_golden_numbers(median_scaled):
    depth, prediction = kitti_pair(375, 1242)
    num_valid, *expected = GOLDEN_MEDIAN if median_scaled else GOLDEN_UNCROPPED
    metrics = DepthMetrics(**SMALL, median_scaled=median_scaled)
    # 100 m lies above every pixel of the pair: only the prediction meets the cap of 80 m
    valid_mask = plain(100).valid_mask(depth)
    metrics.update(name="golden", prediction=prediction, depth=depth, valid_mask=valid_mask)
    assert metrics.rows["golden"]["num_valid"] == num_valid
    assert_golden(metrics.mean(), expected)


def reference(prediction, depth, max_depth):
    """The nine metrics spelled out pixel by pixel."""
    pairs = [(min(max(p, 1e-3), max_depth), d) for p, d in zip(prediction, depth, strict=True)]
    n = len(pairs)
    logs = [math.log(p) - math.log(d) for p, d in pairs]
    deltas = [sum(max(p / d, d / p) < 1.25**k for p, d in pairs) / n for k in (1, 2, 3)]
    return (
        sum(abs(p - d) / d for p, d in pairs) / n,
        sum((p - d) ** 2 / d for p, d in pairs) / n,
        math.sqrt(sum((p - d) ** 2 for p, d in pairs) / n),
        math.sqrt(sum(e * e for e in logs) / n),
        100 * math.sqrt(sum(e * e for e in logs) / n - (sum(logs) / n) ** 2),
        sum(abs(math.log10(p) - math.log10(d)) for p, d in pairs) / n,
        *deltas,
    )


def test_metrics_equal_an_independent_reference_on_random_data():
    rng = np.random.default_rng(3)
    depth = rng.uniform(0.5, 60, (17, 23))
    prediction = depth * rng.uniform(0.3, 2.2, depth.shape)  # some beyond the cap of 40 m
    valid_mask = rng.random(depth.shape) < 0.6
    errors = depth_errors(
        prediction=prediction, depth=depth, valid_mask=valid_mask, min_depth=1e-3, max_depth=40.0
    )
    expected = reference(prediction[valid_mask].tolist(), depth[valid_mask].tolist(), 40.0)
    assert list(errors) == list(METRIC_NAMES)
    assert list(errors.values()) == pytest.approx(expected, rel=1e-12)


def errors_of(prediction, depth, **bounds):
    prediction, depth = np.asarray([prediction]), np.asarray([depth])
    return depth_errors(
        prediction=prediction, depth=depth, valid_mask=depth > 0, **(SMALL | bounds)
    )


@pytest.mark.parametrize("ratio", [1.01, 0.7, 3.0])
def test_constant_ratio_has_no_scale_invariant_error(ratio):
    depth = np.random.default_rng(0).uniform(1, 20, 200_000).astype(np.float32)
    errors = errors_of(depth * np.float32(ratio), depth)
    assert errors["silog"] == pytest.approx(0, abs=1e-4)
    assert errors["rmse_log"] == pytest.approx(abs(math.log(ratio)), rel=1e-6)


def test_thresholds_are_strict():
    errors = errors_of([1.25, 1.5625, 1.953125, 1.0], [1.0, 1.0, 1.0, 1.0])
    assert (errors["d1"], errors["d2"], errors["d3"]) == (0.25, 0.5, 0.75)


def test_predictions_are_clipped_at_both_bounds_infinities_included():
    clipped = errors_of([80.0, 0.001, 0.001, 0.001], [10.0, 10.0, 10.0, 10.0])
    assert errors_of([np.inf, 0.0, -3.0, -np.inf], [10.0, 10.0, 10.0, 10.0]) == clipped


def test_half_precision_predictions_are_scored_in_double_precision():
    depth = torch.full((4, 5), 3.0)
    errors = depth_errors(
        prediction=depth.bfloat16() + 1, depth=depth, valid_mask=depth > 0, **SMALL
    )
    assert errors["abs_rel"] == pytest.approx(1 / 3, rel=1e-12)


def test_nan_in_a_scored_pixel_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="NaN at 1 of 2 valid pixels"):
        errors_of([np.nan, 1.0], [1.0, 1.0])
    metrics = DepthMetrics(**SMALL)
    bad = np.full((1, 2), np.nan)
    with pytest.raises(ValueError, match=r"image 'drive 7'.*NaN"):
        metrics.update(
            name="drive 7", prediction=bad, depth=np.ones((1, 2)), valid_mask=np.isnan(bad)
        )


def test_pixels_outside_the_mask_have_no_influence():
    assert errors_of([2.0, np.nan, np.inf], [1.0, 0.0, 0.0]) == errors_of([2.0], [1.0])


@pytest.mark.parametrize(
    ("prediction", "depth", "valid_mask", "message"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), np.ones((3, 2), bool), "shapes differ"),
        (np.ones((2, 1, 3, 3)),) * 2 + (np.ones((2, 1, 3, 3), bool), "one image at a time"),
        (np.ones((3, 3)), np.ones((3, 3)), np.ones((3, 3)), "must be bool"),
        (np.ones((3, 3)), np.zeros((3, 3)), np.ones((3, 3), bool), "ground truth is zero"),
    ],
)
def test_misuse_is_refused(prediction, depth, valid_mask, message):
    with pytest.raises(ValueError, match=message):
        depth_errors(prediction=prediction, depth=depth, valid_mask=valid_mask, **SMALL)


def add(metrics, name, prediction, depth):
    prediction, depth = np.full((2, 2), prediction), np.full((2, 2), depth)
    metrics.update(name=name, prediction=prediction, depth=depth, valid_mask=depth > 0)


def test_an_image_without_ground_truth_is_skipped_and_counted():
    metrics = DepthMetrics(**SMALL)
    add(metrics, "a", 2.0, 1.0)
    add(metrics, "b", 2.0, 0.0)
    assert metrics.skipped == ["b"]
    mean = metrics.mean()
    assert (mean["num_images"], mean["num_skipped"], mean["abs_rel"]) == (1, 1, 1.0)


def test_the_mean_weighs_images_and_not_pixels():
    metrics = DepthMetrics(**SMALL)
    add(metrics, "a", 2.0, 1.0)  # abs_rel 1, four pixels
    depth = np.asarray([[1.0, 0.0]])  # abs_rel 0, one pixel
    metrics.update(name="b", prediction=depth, depth=depth, valid_mask=depth > 0)
    assert metrics.mean()["abs_rel"] == 0.5


def test_a_mean_over_nothing_is_an_error():
    metrics = DepthMetrics(**SMALL)
    add(metrics, "a", 2.0, 0.0)
    with pytest.raises(ValueError, match="1 images were seen and none"):
        metrics.mean()


def test_median_scaling_forgives_scale_and_reports_it():
    metrics = DepthMetrics(**SMALL, median_scaled=True)
    depth = np.random.default_rng(1).uniform(5, 50, (8, 8))
    # four times too large: clipping before scaling would cut it at 80 m
    metrics.update(name="a", prediction=4 * depth, depth=depth, valid_mask=depth > 0)
    assert metrics.mean()["abs_rel"] == pytest.approx(0, abs=1e-12)
    assert metrics.rows["a"]["scale"] == pytest.approx(0.25)


def test_a_prediction_that_cannot_be_scaled_is_refused():
    with pytest.raises(ValueError, match=r"'a'.*median 0"):
        add(DepthMetrics(**SMALL, median_scaled=True), "a", 0.0, 1.0)


def test_an_image_counts_only_once():
    metrics = DepthMetrics(**SMALL)
    add(metrics, "a", 2.0, 1.0)
    with pytest.raises(ValueError, match=r"'a'.*twice"):
        add(metrics, "a", 2.0, 1.0)


def test_missing_and_foreign_images_are_named():
    metrics = DepthMetrics(**SMALL)
    add(metrics, "a", 2.0, 1.0)
    add(metrics, "b", 2.0, 0.0)
    metrics.check_complete(["b", "a"])
    with pytest.raises(ValueError, match=r"1 of 2 .*'c'.* 1 .*'b'"):
        metrics.check_complete(["a", "c"])
    with pytest.raises(ValueError, match=r"0 of 1 .* 1 .*'b'"):
        metrics.check_complete(["a"])


def test_without_ranks_reducing_changes_nothing_but_the_order():
    metrics = DepthMetrics(**SMALL)
    for name, prediction in (("b", 1.1), ("a", 1.3), ("c", 1.7)):
        add(metrics, name, prediction, 1.0)
    total = metrics.reduce_over_ranks()
    assert list(total.rows) == ["a", "b", "c"]
    assert total.mean() == metrics.mean()


def score_share(_child, rank, folder):
    """One of two ranks, with its unequal share of the images."""
    distributed.init_process_group(
        "gloo",
        f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    metrics = DepthMetrics(**SMALL)
    for name, prediction, depth in SHARES[rank]:
        add(metrics, name, prediction, depth)
    total = metrics.reduce_over_ranks()
    torch.save([list(total.rows), total.skipped, total.mean()], folder / f"{rank}.pt")
    add(metrics, "seen by both", 1.0, 1.0)
    with pytest.raises(ValueError, match=r"1 images scored by several ranks.*seen by both"):
        metrics.reduce_over_ranks()
    distributed.destroy_process_group()


SHARES = (
    [("d", 1.7, 1.0), ("a", 1.1, 1.0), ("b", 3.3, 1.9)],
    [("c", 0.2, 1.0), ("e", 1.0, 0.0)],
)


def test_two_ranks_give_the_bits_of_one(tmp_path):
    other = multiprocessing.spawn(score_share, (1, tmp_path), nprocs=1, join=False)
    score_share(0, 0, tmp_path)
    other.join()
    alone = DepthMetrics(**SMALL)
    for name, prediction, depth in (*SHARES[0], *SHARES[1]):
        add(alone, name, prediction, depth)
    for rank in range(2):
        names, skipped, mean = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert (names, skipped) == (["a", "b", "c", "d"], ["e"])
        assert mean == alone.mean()
