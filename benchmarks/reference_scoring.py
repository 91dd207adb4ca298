"""Scoring written plainly: what `scoring` and `utils` are compared with, bit by bit.

One frame after another, every cell of the matrix on its own: its mask, its pixels picked by that
mask, its metrics; every kind of uncertainty with its own sorts. Nothing is shared, no thread works.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datasets.protocol import EvalProtocol, depth_ranges
from predictions import Prediction
from utils.calibration import LOG_RATIO_EDGES
from utils.kitti_devkit import devkit_errors
from utils.sparsification import (
    FAILURE,
    SPARSIFIED,
    auroc,
    average_ranks,
    exact_area,
    exact_kept,
    poggi_area,
    poggi_kept,
    point_errors,
    rank_correlation,
)
from utils.uncertainty import generator_of_image

NUM_INTERVALS = 50


def reference_frame(
    one: Prediction, protocols: Sequence[EvalProtocol], unsure: dict[str, torch.Tensor]
) -> dict[Any, dict[str, float]]:
    """Every row that evaluation finds on a frame.

    Args:
        unsure: maps of uncertainty by kind, (1, H, W).

    Returns:
        Rows by (ground truth, protocol, median-scaled), by depth range, and by kind of uncertainty.
    """
    rows: dict[Any, dict[str, float]] = {}
    for kind, depth in one.ground_truths.items():
        for p in protocols:
            for scaled in (False, True):
                if not (p.devkit and scaled):
                    mask = p.valid_mask(depth)
                    rows[kind, p.name, scaled] = _cell(one.depth, depth, mask, p, scaled=scaled)
    first, depth = protocols[0], one.ground_truth
    for low, high in depth_ranges(first.max_depth):
        mask = first.valid_mask(depth) & (depth > low) & (depth <= high)
        if mask.any():
            rows[low, high] = _cell(one.depth, depth, mask, first, scaled=False)
    for kind, u in unsure.items():
        rows[kind] = _ranking(one, first, u)
    if unsure:
        rows["calibration"] = _calibration(one, first)
    return rows


def _pixels(values: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    return values[mask].double().numpy()


def _cell(
    prediction: torch.Tensor, depth: torch.Tensor, mask: torch.Tensor, p: EvalProtocol,
    *, scaled: bool,
) -> dict[str, float]:  # fmt: skip
    predicted, d = _pixels(prediction, mask), _pixels(depth, mask)
    row = {"num_valid": float(d.size)}
    if scaled:
        row["scale"] = float(np.median(d)) / float(np.median(predicted))
        predicted = predicted * row["scale"]
    predicted = predicted.clip(p.min_depth, p.max_depth)
    return row | (devkit_errors if p.devkit else _errors)(predicted, d)


def _errors(p: np.ndarray, d: np.ndarray) -> dict[str, float]:
    ratio = np.maximum(p / d, d / p)
    log_error = np.log(p) - np.log(d)
    return {
        "abs_rel": float(np.mean(np.abs(d - p) / d)),
        "sq_rel": float(np.mean((d - p) ** 2 / d)),
        "rmse": float(np.sqrt(np.mean((d - p) ** 2))),
        "rmse_log": float(np.sqrt(np.mean(log_error**2))),
        "silog": float(100 * np.sqrt(np.mean((log_error - log_error.mean()) ** 2))),
        "log10": float(np.mean(np.abs(log_error)) / math.log(10)),
        "d1": float(np.mean(ratio < 1.25)),
        "d2": float(np.mean(ratio < 1.25**2)),
        "d3": float(np.mean(ratio < 1.25**3)),
    }


def _ranking(one: Prediction, protocol: EvalProtocol, unsure: torch.Tensor) -> dict[str, Any]:
    mask = protocol.valid_mask(one.ground_truth)
    p = _pixels(one.depth, mask).clip(protocol.min_depth, protocol.max_depth)
    d, u = _pixels(one.ground_truth, mask), _pixels(unsure, mask)
    shuffled = generator_of_image(0, one.frame_id).permutation(u.size)
    order = shuffled[np.argsort(u[shuffled], kind="stable")]
    p, d, u = p[order], d[order], u[order]
    row: dict[str, Any] = {"num_valid": float(u.size)}
    errors = point_errors(prediction=p, depth=d)
    for name in SPARSIFIED:
        ascending = np.sort(errors[name])
        exact = exact_kept(u.size, NUM_INTERVALS)
        published = (poggi_kept(u, NUM_INTERVALS), poggi_kept(ascending, NUM_INTERVALS))
        versions = (("", poggi_area, published), ("_exact", exact_area, (exact, exact)))
        for suffix, area, kept in versions:
            method, oracle = (
                _curve(name, e, k) for e, k in zip((errors[name], ascending), kept, strict=True)
            )
            row[f"ause_{name}{suffix}"] = area(method) - area(oracle)
            row[f"aurg_{name}{suffix}"] = float(method[0]) - area(method)
    for name, error in (("spearman", np.abs(p - d)), ("spearman_abs_rel", errors["abs_rel"])):
        row[name] = rank_correlation(average_ranks(u), average_ranks(error))
    return row | {"auroc_d1": auroc(average_ranks(u), errors["d1"] >= FAILURE)}


def _curve(name: str, errors: np.ndarray, kept: np.ndarray) -> np.ndarray:
    totals = np.cumsum(errors >= FAILURE if name == "d1" else errors, dtype=np.float64)
    means = totals[kept - 1] / kept
    return np.sqrt(means) if name == "rmse" else means


def _calibration(one: Prediction, protocol: EvalProtocol) -> dict[str, Any]:
    mask = protocol.valid_mask(one.ground_truth)
    p = _pixels(one.depth, mask).clip(protocol.min_depth, protocol.max_depth)
    d, u = _pixels(one.ground_truth, mask), _pixels(one.log_uncertainty, mask)
    ratio = np.abs(p - d) / np.exp(u)
    with np.errstate(divide="ignore"):
        places = np.searchsorted(LOG_RATIO_EDGES, np.log(ratio))
    counts = np.bincount(places, minlength=len(LOG_RATIO_EDGES) + 1)
    return {"scale_m": float(ratio.mean()), "counts": counts.tolist()}
