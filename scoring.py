"""The pass over the frames that are scored: the network works on some while threads score others.

Scoring is numpy, which lets go of Python's lock. Whatever the threads do first, the numbers are
those of one thread: a frame's own are its own, and sums over frames are added up in their order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from datasets import DataError
from datasets.protocol import EvalProtocol
from datasets.splits import evenly
from datasets.views import nearest_resize
from evaluation_details import Scores
from frames import Stream
from predictions import Prediction
from utils.floors import score_floors, training_floors
from utils.kitti_devkit import devkit_errors
from utils.metrics import DepthMetrics, naming, valid_pixels
from utils.threads import in_order

NUM_THREADS = 4  # that score frames, while the network works on the next
NUM_FLOOR_FRAMES = 500  # labelled frames from which the floors are taken, evenly spaced


def evaluate(
    predictions: Iterable[Prediction],
    frame_ids: Sequence[str],
    *,
    protocols: Sequence[EvalProtocol],
    kinds: Sequence[str],
    scalings: Sequence[bool] = (False, True),
    measure: Callable[[Prediction], Any] | None = None,
    collect: Callable[[Any], None] | None = None,
) -> Scores:
    """Score every frame exactly once, in one pass, under every protocol and on each ground truth.

    Args:
        predictions: of this process's share of the frames; see `predictions`.
        frame_ids: all frames, of all processes.
        kinds: of ground truth, the dataset's own first; every frame has that one.
        scalings: metric depth (False), scaled to the ground truth's median (True), or both.
        measure: further work on each prediction of this process, done by the threads that score.
        collect: takes what `measure` returned, one after another in the order of `predictions`.

    Returns:
        Scores of all processes together, the same on each.

    Raises:
        MetricsError: a frame was scored twice, not at all, or predicted as NaN.
    """
    scores = {
        (kind, p.name, scaled): DepthMetrics(
            min_depth=p.min_depth, max_depth=p.max_depth, median_scaled=scaled,
            formulas=devkit_errors if p.devkit else None,
        )
        for kind in kinds for p in protocols for scaled in scalings if not (p.devkit and scaled)
    }  # fmt: skip

    def score(one: Prediction) -> Any:
        score_frame(one, scores, protocols)
        return measure and measure(one)

    jobs = (partial(score, one) for one in predictions)
    for measured in in_order(jobs, workers=NUM_THREADS, ahead=2 * NUM_THREADS):
        if collect is not None:
            collect(measured)
    scores = {key: collected.reduce_over_ranks() for key, collected in scores.items()}
    for (kind, _, _), collected in scores.items():
        if kind == kinds[0]:
            collected.check_complete(frame_ids)
    return scores


def score_frame(one: Prediction, scores: Scores, protocols: Sequence[EvalProtocol]) -> None:
    """Add a frame to those of `scores` that are on its kinds of ground truth; safe in threads."""
    for kind, truth in one.ground_truths.items():
        depth = truth.numpy()
        for protocol in protocols:
            mask = protocol.valid_mask(depth)
            with naming(one.frame_id):
                p, d = valid_pixels(prediction=one.depth.numpy(), depth=depth, valid_mask=mask)
            for scaled in (False, True):  # of the same pixels
                if (kind, protocol.name, scaled) in scores:
                    metrics = scores[kind, protocol.name, scaled]
                    metrics.update_pixels(name=one.frame_id, prediction=p, depth=d)


def trivial_floors(
    labeled: Stream, evaluated: Stream, protocol: EvalProtocol
) -> dict[str, dict[str, float]]:
    """Scores of predictions that never look at the image (see `utils.floors`).

    Args:
        labeled: dataset and indices whose ground truth they know.
        evaluated: dataset and indices that they are scored on.
    """
    dataset, indices = labeled
    chosen = evenly(indices, NUM_FLOOR_FRAMES)

    def known(index: int) -> np.ndarray | None:
        # a broken frame has been reported, and replaced where that was asked for, in training
        with contextlib.suppress(DataError):
            return nearest_resize(own_ground_truth(dataset, index), dataset.depth_size)

    def asked(index: int) -> tuple[str, np.ndarray, np.ndarray]:
        depth = own_ground_truth(evaluated[0], index)
        return evaluated[0].frame_ids[index], depth, protocol.valid_mask(depth)

    def read(reader: Callable[[int], Any], frames: Iterable[int]) -> Iterator[Any]:
        jobs = (partial(reader, index) for index in frames)
        return in_order(jobs, workers=NUM_THREADS, ahead=2 * NUM_THREADS)

    bounds = {"min_depth": protocol.min_depth, "max_depth": protocol.max_depth}
    depths = (depth for depth in read(known, chosen) if depth is not None)
    constant, per_pixel_mean = training_floors(depths, **bounds)
    return score_floors(
        read(asked, evaluated[1]), constant=constant, per_pixel_mean=per_pixel_mean, **bounds
    )


def own_ground_truth(dataset: Any, index: int) -> np.ndarray:
    """The dataset's own ground truth of a frame, (H, W) float32 metres; no picture is opened."""
    return next(iter(dataset.ground_truths(index).values()))()
