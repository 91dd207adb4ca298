"""Threads score what the network predicts: the numbers are those of one frame after another."""

import itertools
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datasets.protocol import EvalProtocol, plain
from evaluation_details import Details
from predictions import Prediction
from scoring import evaluate
from utils.metrics import METRIC_NAMES, DepthMetrics, MetricsError, depth_errors
from utils.uncertainty import UncertaintyMetrics

SIZE = (24, 40)
PROTOCOLS = (
    plain(80.0),
    EvalProtocol("boxed", 1e-3, 30.0, lambda height, width: (3, height, 5, width - 5)),
    EvalProtocol("far", 1e-3, 60.0, drops_far=False),
)
NAMES = [f"frame {index:02d}" for index in range(20)]


def frame(index):
    """A frame with holes in its two ground truths, and an uncertainty that knows something."""
    rng = np.random.default_rng(index)
    depth = rng.uniform(1, 90, (1, *SIZE))
    unsure = rng.exponential(1, (1, *SIZE))
    predicted = depth * np.exp(rng.normal(0, 0.1, depth.shape) * np.exp(unsure / 2))
    truths = {
        kind: torch.from_numpy(np.where(rng.random(depth.shape) < share, depth, 0)).float()
        for kind, share in (("dense", 0.8), ("sparse", 0.1))
    }
    tensors = (torch.from_numpy(values).float() for values in (predicted, unsure))
    return Prediction(index, NAMES[index], *tensors, truths)


FRAMES = [frame(index) for index in range(len(NAMES))]


def bits(details):
    """All that `Details` has collected, exactly."""
    sums = details.calibration
    return (
        {name: dict(sorted(part.rows.items())) for name, part in details.ranges.items()},
        dict(sorted(details.uncertainty["predicted"].rows.items())),
        sums.report(0.7), sums.fitted_scale(), sums.num_images,
    )  # fmt: skip


def new_details():
    return Details(PROTOCOLS[0], SimpleNamespace(), with_uncertainty=True)


def test_every_cell_of_the_matrix_is_the_plain_score_of_its_pixels():
    scores = evaluate(FRAMES, NAMES, protocols=PROTOCOLS, kinds=("dense", "sparse"))
    assert len(scores) == 2 * 3 * 2
    for (kind, name, scaled), found in scores.items():
        protocol = next(p for p in PROTOCOLS if p.name == name)
        assert list(found.rows) == NAMES
        for one in FRAMES:
            depth = one.ground_truths[kind]
            mask = protocol.valid_mask(depth)
            prediction = one.depth.double()
            if scaled:
                prediction *= depth[mask].double().quantile(0.5) / prediction[mask].quantile(0.5)
            expected = depth_errors(
                prediction=prediction, depth=depth, valid_mask=mask,
                min_depth=protocol.min_depth, max_depth=protocol.max_depth,
            )  # fmt: skip
            row = found.rows[one.frame_id]
            assert row["num_valid"] == mask.sum()
            if scaled:
                assert [row[n] for n in METRIC_NAMES] == pytest.approx(list(expected.values()))
            else:
                assert {n: row[n] for n in METRIC_NAMES} == expected


def test_whatever_the_threads_do_first_the_bits_are_those_of_one_frame_after_another():
    serial = new_details()
    for one in FRAMES:
        serial.add(one)
    threaded, order = new_details(), []

    def measure(one):
        time.sleep(0.01 * (one.index % 4 == 0))  # these end after the three that follow
        return one.index, threaded.measure(one)

    def collect(measured):
        order.append(measured[0])
        threaded.collect(measured[1])

    how = {"protocols": PROTOCOLS, "kinds": ("dense", "sparse")}
    evaluate(FRAMES, NAMES, **how, measure=measure, collect=collect)
    assert order == list(range(len(FRAMES)))
    assert bits(threaded) == bits(serial)


def test_details_are_those_of_the_frame_as_it_is():
    details, one = new_details(), FRAMES[0]
    details.add(one)
    mask = PROTOCOLS[0].valid_mask(one.ground_truth)
    whole = {"prediction": one.depth, "depth": one.ground_truth}
    unsure = UncertaintyMetrics(min_depth=1e-3, max_depth=80.0)
    unsure.update(name=NAMES[0], **whole, valid_mask=mask, log_uncertainty=one.log_uncertainty)
    assert details.uncertainty["predicted"].rows == unsure.rows
    for (low, high), found in zip(details.edges, details.ranges.values(), strict=True):
        inside = mask & (one.ground_truth > low) & (one.ground_truth <= high)
        alone = DepthMetrics(min_depth=1e-3, max_depth=80.0)
        alone.update(name=NAMES[0], **whole, valid_mask=inside)
        assert found.rows == alone.rows


def test_the_next_predictions_are_made_while_threads_score():
    scoring, released = threading.Event(), threading.Event()

    def predictions():
        yield FRAMES[0]
        assert scoring.wait(timeout=20)  # the first is being scored, and not yet done
        yield FRAMES[1]
        released.set()

    def measure(_):
        scoring.set()
        assert released.wait(timeout=20)

    names = NAMES[:2]
    evaluate(predictions(), names, protocols=PROTOCOLS, kinds=("dense",), measure=measure)


def test_no_more_predictions_wait_than_the_threads_can_use():
    under_way, done = itertools.count(), []

    def predictions():
        for one in FRAMES:
            assert next(under_way) - len(done) <= 9
            yield one

    evaluate(predictions(), NAMES, protocols=PROTOCOLS, kinds=("dense",), collect=done.append)


def test_an_image_that_two_threads_add_at_once_is_an_error():
    both = threading.Barrier(2, timeout=20)

    def slow(_, __):
        both.wait()
        return {}

    metrics = DepthMetrics(min_depth=1e-3, max_depth=80.0, formulas=slow)
    pixels, errors = np.ones(3), []

    def add():
        try:
            metrics.update_pixels(name="a", prediction=pixels, depth=pixels)
        except MetricsError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 1 and "'a': scored twice" in errors[0]
