"""Calibration: samples from a known Laplace distribution, and what the figures show."""

import math
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from utils import plots
from utils.calibration import LEVELS, LOG_RATIO_EDGES, CalibrationSums, log_ratio_bins
from utils.metrics import MetricsError
from utils.plots import coverage_plot, range_plot, sparsification_plot

BOUNDS = {"min_depth": 1e-3, "max_depth": 1e4}
SCALE = 0.3  # metres


def laplace_image(seed, size=(100, 200), u=None):
    """Arguments of `update` for an image whose errors have exactly the scale SCALE exp(u)."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(500, 600, size)  # so far that no prediction meets a bound
    u = rng.gamma(2, 0.5, size) if u is None else np.broadcast_to(u, size)
    return {
        "name": f"laplace {seed}",
        "prediction": depth + SCALE * np.exp(u) * rng.laplace(size=size),
        "depth": depth,
        "valid_mask": rng.random(size) < 0.8,
        "log_uncertainty": u,
    }


def summed(*images, **bounds):
    sums = CalibrationSums(**(BOUNDS | bounds))
    for image in images:
        sums.update(**image)
    return sums


def few(error, u, valid_mask=None):
    """An image of a few pixels at 100 m with these errors in metres."""
    error, u = np.atleast_2d(np.asarray(error, float)), np.atleast_2d(np.asarray(u, float))
    depth = np.full(error.shape, 100.0)
    mask = np.ones(error.shape, bool) if valid_mask is None else np.atleast_2d(valid_mask)
    return {
        "name": "drive 7", "prediction": depth + error, "depth": depth, "valid_mask": mask,
        "log_uncertainty": u,
    }  # fmt: skip


@pytest.fixture(scope="module")
def known():
    """Sums over 10 images, 160,000 pixels, of the known distribution; and the images."""
    images = [laplace_image(seed) for seed in range(10)]
    return summed(*images), images


def test_samples_of_the_stated_distribution_are_found_calibrated(known):
    sums, images = known
    u = np.concatenate([image["log_uncertainty"][image["valid_mask"]] for image in images])
    # r is exponential, so its mean has the relative standard error 1 / sqrt(n)
    assert sums.fitted_scale() == pytest.approx(SCALE, rel=4 / math.sqrt(u.size))
    report = sums.report(SCALE)
    assert report["coverage"] == pytest.approx({f"{p:g}": p for p in LEVELS}, abs=5e-3)
    assert report["ece"] < 3e-3 and report["ence"] < 0.03
    assert report["nll"] == pytest.approx(math.log(2 * SCALE) + u.mean() + 1, abs=0.01)
    assert report["sharpness_m"] == pytest.approx(SCALE * np.exp(u).mean(), rel=0.01)
    assert (report["scale_m"], report["num_images"], report["num_skipped"]) == (SCALE, 10, 0)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_scale_is_seen_by_every_measure(known, factor):
    report = known[0].report(factor * SCALE)
    # |error| <= -f s ln(1 - p) exp(u) holds for a share 1 - (1 - p)^f
    expected = {f"{p:g}": 1 - (1 - p) ** factor for p in LEVELS}
    assert report["coverage"] == pytest.approx(expected, abs=5e-3)
    gaps = [abs(expected[f"{p:g}"] - p) for p in LEVELS]
    assert report["ece"] == pytest.approx(sum(gaps) / len(gaps), abs=3e-3)
    assert report["ence"] == pytest.approx(abs(factor - 1) / factor, abs=0.03)
    right = known[0].report(SCALE)["nll"]
    assert report["nll"] - right == pytest.approx(math.log(factor) + 1 / factor - 1, abs=0.01)


def test_the_likelihood_is_largest_at_the_fitted_scale(known):
    best = known[0].fitted_scale()
    factors = np.linspace(0.8, 1.25, 91)
    nll = [known[0].report(best * factor)["nll"] for factor in factors]
    assert min(nll) > known[0].report(best)["nll"] - 1e-12
    assert factors[int(np.argmin(nll))] == pytest.approx(1, abs=0.006)


def test_a_scale_that_does_not_follow_the_error_is_seen_by_ence_where_coverage_is_not(known):
    image = laplace_image(0, u=0.0)
    shuffled = image | {"log_uncertainty": np.random.default_rng(1).normal(0, 0.7, (100, 200))}
    sums = summed(shuffled)
    report = sums.report(sums.fitted_scale())
    assert report["ence"] > 0.3 > 10 * known[0].report(SCALE)["ence"]


def test_all_numbers_equal_those_of_the_pixels_themselves():
    images = [laplace_image(seed, (20, 30 + seed)) for seed in range(3)]
    report = summed(*images).report(0.4)
    nll, sharpness, coverage = [], [], []
    for image in images:
        mask = image["valid_mask"]
        error = np.abs(image["prediction"] - image["depth"])[mask]
        b = 0.4 * np.exp(image["log_uncertainty"][mask])
        nll.append(np.mean(np.log(2 * b) + error / b))
        sharpness.append(b.mean())
        coverage.append([np.mean(error <= -b * np.log(1 - p)) for p in LEVELS])
    assert report["nll"] == pytest.approx(np.mean(nll), rel=1e-12)
    assert report["sharpness_m"] == pytest.approx(np.mean(sharpness), rel=1e-12)
    shares = np.mean(coverage, axis=0)
    # pixels of the bin in which the interval ends may be counted on the wrong side
    assert list(report["coverage"].values()) == pytest.approx(shares, abs=4e-3)
    assert report["ece"] == pytest.approx(np.abs(shares - LEVELS).mean(), abs=4e-3)


def test_bins_of_the_ratio_are_those_that_a_search_finds():
    edges = np.r_[LOG_RATIO_EDGES, np.nextafter(LOG_RATIO_EDGES, 99.0)]
    values = np.r_[edges, np.nextafter(edges, -99.0), -np.inf, np.inf, -1e300, 1e300, 0.0]
    values = np.r_[values, np.random.default_rng(0).normal(0, 8, 10000)]
    assert np.array_equal(log_ratio_bins(values), np.searchsorted(LOG_RATIO_EDGES, values))


def test_ence_is_that_of_a_calculation_by_hand():
    # two bins of u: s exp(0) = 1 with RMSE 1, and s exp(2) = e^2 with RMSE 3; RMV = sqrt(2) b
    report = summed(few([1, -1, 3], [0, 0, 2])).report(1.0)
    gaps = [abs(math.sqrt(2) * b - e) / (math.sqrt(2) * b) for b, e in ((1, 1), (math.e**2, 3))]
    assert report["ence"] == pytest.approx((2 * gaps[0] + gaps[1]) / 3)
    # one bin for both: its mean squares are compared
    near = summed(few([1, 3], [0, 0.1])).report(1.0)
    rmv = math.sqrt(1 + math.exp(0.2))
    assert near["ence"] == pytest.approx(abs(rmv - math.sqrt(5)) / rmv)


def test_every_image_weighs_the_same():
    sums = summed(few([1] * 9, [0] * 9), few([3], [0]))
    assert sums.fitted_scale() == 2
    report = sums.report(2.0)
    assert report["nll"] == pytest.approx(math.log(4) + 1)
    # -2 ln(1 - p) is 1.02 m at p = 0.4 and 3.2 m at p = 0.8
    assert [report["coverage"][p] for p in ("0.3", "0.4", "0.7", "0.8")] == [0, 0.5, 0.5, 1]
    assert report["ence"] == pytest.approx(1 - math.sqrt(5 / 8))


def test_exact_pixels_and_extreme_uncertainties_count():
    report = summed(few([0, 0, 5, 5], [0, 40, -40, 0])).report(1.0)
    assert report["coverage"]["0.1"] == 0.5 and report["coverage"]["0.95"] == 0.5
    assert all(math.isfinite(report[name]) for name in ("nll", "ece", "ence", "sharpness_m"))


def test_predictions_are_clipped_and_pixels_outside_the_mask_have_no_influence():
    image = few([900, -500, np.nan], [0, 0, np.nan], [True, True, False])
    bounds = {"min_depth": 10.0, "max_depth": 120.0}
    assert summed(image, **bounds).fitted_scale() == (20 + 90) / 2


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (few([1.0, 1.0], [np.nan, 0.0]), "log_uncertainty is NaN or infinite at 1 of 2"),
        (few([1.0, 1.0], [101.0, 0.0]), "runs from 0 to 101; .*: save the natural logarithm of"),
        (few([np.nan, 1.0], [0.0, 0.0]), "the prediction is NaN at 1 of 2"),
    ],
)
def test_a_bad_image_is_refused_and_leaves_the_sums_as_they_were(image, message):
    sums = summed(few([1.0, 2.0], [0.0, 0.0]))
    before = sums.report(1.0)
    with pytest.raises(MetricsError, match=f"image 'drive 7': .*{message}"):
        sums.update(**image)
    assert sums.report(1.0) == before


def test_nothing_to_go_on_is_said():
    sums = summed(few([1.0], [0.0], [False]))
    for ask in (sums.fitted_scale, lambda: sums.report(1.0)):
        with pytest.raises(ValueError, match="1 images were seen and none"):
            ask()
    sums.update(**few([0.0], [0.0]))
    with pytest.raises(ValueError, match="the predictions are exact"):
        sums.fitted_scale()
    assert (sums.report(1.0)["num_images"], sums.report(1.0)["num_skipped"]) == (1, 1)
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="scale must be above 0 metres"):
            sums.report(scale)
    with pytest.raises(ValueError, match="need 0 < min_depth < max_depth"):
        CalibrationSums(min_depth=2.0, max_depth=1.0)


def share_of(rank):
    """Two images for one rank, one and an empty one for the other."""
    images = [laplace_image(10 * rank + i, (30, 40)) for i in range(2)]
    if rank:
        images[1]["valid_mask"][:] = False
    return images


def score_share(_child, rank, folder):
    distributed.init_process_group(
        "gloo", f"file://{folder / 'rendezvous'}", rank=rank, world_size=2,
        timeout=timedelta(seconds=120),
    )  # fmt: skip
    total = summed(*share_of(rank)).reduce_over_ranks()
    torch.save([total.fitted_scale(), total.report(0.4)], folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_give_what_one_gives(tmp_path):
    other = multiprocessing.spawn(score_share, (1, tmp_path), nprocs=1, join=False)
    score_share(0, 0, tmp_path)
    other.join()
    alone = summed(*share_of(0), *share_of(1))
    assert alone.reduce_over_ranks().report(0.4) == alone.report(0.4)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert results[0] == results[1]
    scale, report = results[0]
    expected = alone.report(0.4)
    assert scale == pytest.approx(alone.fitted_scale(), rel=1e-12)
    assert report.pop("coverage") == pytest.approx(expected.pop("coverage"), rel=1e-12)
    assert report == pytest.approx(expected, rel=1e-12)
    assert (report["num_images"], report["num_skipped"]) == (3, 1)


def places_of(picture, color):
    """Rows and columns of the pixels of exactly this colour."""
    rgb = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return np.nonzero((np.asarray(picture) == rgb).all(axis=-1))


def test_the_coverage_plot_shows_too_small_a_scale_under_the_diagonal(known):
    def rows(scale):
        picture = coverage_plot({"one": known[0].report(scale)})
        found, _ = places_of(picture, plots.COLORS[0])
        return found[found < 0.8 * picture.height]  # without the legend

    small, right, large = (rows(factor * SCALE).mean() for factor in (0.3, 1.0, 3.0))
    assert large + 30 < right < small - 30  # rows are counted from the top
    with pytest.raises(ValueError, match="coverage_plot draws 1 to 5 methods, got 0"):
        coverage_plot({})


def test_the_range_plot_has_a_bar_for_each_range_as_high_as_its_error():
    ranges = {
        "0-10": {"abs_rel": 0.05, "num_valid": 999_900},
        "10-20": {"abs_rel": None, "num_valid": 0},
        "20-40": {"abs_rel": 0.2, "num_valid": 12.0},
    }
    picture = range_plot(ranges)
    rows, columns = places_of(picture, plots.COLORS[0])
    edges = np.flatnonzero(np.diff(np.unique(columns)) > 5)
    assert len(edges) == 1  # two bars
    split = np.unique(columns)[edges[0]]
    near, far = (np.unique(rows[side]).size for side in (columns <= split, columns > split))
    assert far / near == pytest.approx(4, rel=0.05)
    with pytest.raises(ValueError, match="at least one range"):
        range_plot({})


def test_the_sparsification_plot_shows_each_method_where_its_curve_is():
    removed = np.arange(50) / 50

    def curves(end):
        heights = 1 + (end - 1) * removed
        one = {"method": heights, "oracle": 0.1 * heights, "random": np.ones(50)}
        return dict.fromkeys(("abs_rel", "rmse", "d1"), one | {"removed": removed})

    picture = sparsification_plot({"falls": curves(0.2), "stays": curves(0.9)})
    third = picture.width / 3
    spans = {}
    for name, color in (("falls", plots.COLORS[0]), ("stays", plots.COLORS[1])):
        rows, columns = places_of(picture, color)
        panel = rows < 0.8 * picture.height  # without the legend
        for index in range(3):
            here = panel & (columns // third == index)
            spans[name, index] = np.ptp(rows[here])
    for index in range(3):
        assert spans["falls", index] > 4 * spans["stays", index] > 0
    for number in (0, 6):
        with pytest.raises(ValueError, match=f"1 to 5 methods, got {number}"):
            sparsification_plot(dict.fromkeys(map(str, range(number)), curves(0.5)))
