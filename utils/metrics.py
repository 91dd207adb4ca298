"""Depth error metrics: per image, in float64, then the unweighted mean over images.

Formulas are those of the BTS evaluator (Lee et al., 2019), which the MaskingDepth paper reports,
after Eigen et al. (2014). With d the ground truth, p the clipped prediction, e = ln p - ln d:

    abs_rel  mean(|d - p| / d)         rmse      sqrt(mean((d - p)^2))     [m]
    sq_rel   mean((d - p)^2 / d) [m]   rmse_log  sqrt(mean(e^2))
    log10    mean(|log10 p - log10 d|) silog     100 sqrt(mean(e^2) - mean(e)^2)
    d1 d2 d3 share of pixels with max(d/p, p/d) < 1.25, 1.25^2, 1.25^3, strictly
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import distributed

PER_IMAGE_ONLY = ("num_valid", "scale")  # entries of a row that have no mean
SCORED_TWICE = "scored twice; every image counts exactly once"
METRIC_NAMES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "silog", "log10", "d1", "d2", "d3")

Array = torch.Tensor | np.ndarray
Formulas = Callable[[np.ndarray, np.ndarray], dict[str, float]]


class MetricsError(ValueError):
    """Predictions or ground truth that cannot be scored. The message names the image."""


class IncompleteError(MetricsError):
    """Other images were scored than there are."""


@contextlib.contextmanager
def naming(image: str) -> Iterator[None]:
    """Errors of the metrics within get the image's name."""
    try:
        yield
    except MetricsError as error:
        raise MetricsError(f"image {image!r}: {error}") from error


def depth_errors(
    *, prediction: Array, depth: Array, valid_mask: Array, min_depth: float, max_depth: float
) -> dict[str, float] | None:
    """The nine metrics of one image.

    Args:
        prediction: (H, W), also with leading ones as in (1, 1, H, W), metres. It is clipped to
            [min_depth, max_depth], infinities included.
        depth: ground truth, same shape, metres.
        valid_mask: same shape, bool, True = scored. Nothing outside it has any influence.
        min_depth, max_depth: metres.

    Returns:
        A float for each of METRIC_NAMES, or None if no pixel is valid.

    Raises:
        ValueError: shapes differ, more than one image, a mask that is not bool or that marks
            pixels without ground truth, or NaN in the prediction at a valid pixel.
    """
    p, d = valid_pixels(prediction=prediction, depth=depth, valid_mask=valid_mask)
    return bts_errors(p.clip(min_depth, max_depth), d) if d.size else None


class DepthMetrics:
    """Collects per-image metrics under one protocol; a few numbers per image are all it keeps.

    Attributes:
        rows: image name -> its metrics and "num_valid" (and "scale" if median_scaled).
        skipped: names of images without a valid pixel; they count in no mean.
    """

    def __init__(
        self,
        *,
        min_depth: float,
        max_depth: float,
        median_scaled: bool = False,
        formulas: Formulas | None = None,
    ):
        """Predictions are clipped to [min_depth, max_depth] metres. `formulas` make an image's
        metrics of its clipped prediction and depth, (num_valid,) float64; None: METRIC_NAMES. With
        `median_scaled` each prediction is first multiplied by median(depth) / median(prediction)
        over its valid pixels (monodepth2's scaling by ground truth), which scores the shape of the
        scene but not its size."""
        if not 0 < min_depth < max_depth:
            raise MetricsError(f"need 0 < min_depth < max_depth, got {min_depth} and {max_depth}")
        self.min_depth = min_depth
        self.max_depth = max_depth
        self.median_scaled = median_scaled
        self.formulas = formulas or bts_errors
        self.rows: dict[str, dict[str, float]] = {}
        self.skipped: list[str] = []

    def update(self, *, name: str, prediction: Array, depth: Array, valid_mask: Array) -> None:
        """Add one image; shapes as in `depth_errors`. Raises ValueError naming the image, also
        when it has been added before."""
        with naming(name):
            p, d = valid_pixels(prediction=prediction, depth=depth, valid_mask=valid_mask)
        self.update_pixels(name=name, prediction=p, depth=d)

    def update_pixels(self, *, name: str, prediction: np.ndarray, depth: np.ndarray) -> None:
        """Add one image by its valid pixels alone, as `valid_pixels` gives them: (num_valid,)
        float64 metres each. For several scalings or depth ranges of one image; threads may add
        different images at once."""
        with naming(name):
            if name in self.rows or name in self.skipped:
                raise MetricsError(SCORED_TWICE)
            if depth.size == 0:
                self.skipped.append(name)
                return
            row = self._row(prediction, depth)
            if self.rows.setdefault(name, row) is not row:  # by another thread, meanwhile
                raise MetricsError(SCORED_TWICE)

    def _row(self, p: np.ndarray, d: np.ndarray) -> dict[str, float]:
        row = {"num_valid": float(d.size)}
        if self.median_scaled:
            row["scale"] = _median_ratio(p, d)
            p = p * row["scale"]
        return self.formulas(p.clip(self.min_depth, self.max_depth), d) | row

    def mean(self) -> dict[str, float]:
        """Unweighted mean over images of the metrics, with "num_images" and "num_skipped" (int).

        The order of images does not change a bit of it. Raises ValueError if there is no image.
        """
        if not self.rows:
            raise MetricsError(
                f"no image to average: {len(self.skipped)} images were seen and none has a "
                "ground-truth pixel inside the depth range and crop of the protocol"
            )
        count = len(self.rows)
        means = {
            name: math.fsum(row[name] for row in self.rows.values()) / count
            for name in next(iter(self.rows.values()))
            if name not in PER_IMAGE_ONLY
        }
        return means | {"num_images": count, "num_skipped": len(self.skipped)}

    def reduce_over_ranks(self) -> DepthMetrics:
        """The images of all ranks in one, sorted by name; the same on every rank.

        Without torch.distributed it is this rank's images. Rows are gathered, not means, because
        ranks hold unequal numbers of images. Every rank must call it. Raises ValueError if an
        image was scored by two ranks, which is what a padding sampler does.
        """
        parts = [(self.rows, self.skipped)]
        if distributed.is_available() and distributed.is_initialized():
            parts = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, (self.rows, self.skipped))
        names = Counter(name for rows, skipped in parts for name in (*rows, *skipped))
        repeated = sorted(name for name, count in names.items() if count > 1)
        if repeated:
            raise MetricsError(f"{len(repeated)} images scored by several ranks: {repeated[:5]}")
        total = DepthMetrics(
            min_depth=self.min_depth,
            max_depth=self.max_depth,
            median_scaled=self.median_scaled,
            formulas=self.formulas,
        )
        merged = {name: row for rows, _ in parts for name, row in rows.items()}
        total.rows = dict(sorted(merged.items()))
        total.skipped = sorted(name for _, skipped in parts for name in skipped)
        return total

    def check_complete(self, names: Iterable[str]) -> None:
        """Raise IncompleteError unless exactly these images were seen (scored or skipped)."""
        expected, seen = set(names), {*self.rows, *self.skipped}
        if expected != seen:
            missing, foreign = sorted(expected - seen), sorted(seen - expected)
            raise IncompleteError(
                f"{len(missing)} of {len(expected)} images were not scored {missing[:5]} and "
                f"{len(foreign)} were scored that are not in the split {foreign[:5]}"
            )


def table(rows: dict[str, dict[str, float]]) -> str:
    """Rows of `DepthMetrics.mean` by name, as plain text."""
    width = max(len(name) for name in rows)
    lines = [" " * width + "".join(f"{name:>10}" for name in METRIC_NAMES) + "    images"]
    for name, row in rows.items():
        numbers = "".join(f"{row[metric]:10.4f}" for metric in METRIC_NAMES)
        lines.append(f"{name:<{width}}{numbers}{row['num_images']:10d}")
    return "\n".join(lines)


def bts_errors(p: np.ndarray, d: np.ndarray) -> dict[str, float]:
    """METRIC_NAMES of one image; clipped prediction and depth are (num_valid,) float64."""
    error = np.abs(d - p)
    squared = error**2
    ratio = np.maximum(p / d, d / p)
    log_error = np.log(p) - np.log(d)
    return {
        "abs_rel": float(np.mean(error / d)),
        "sq_rel": float(np.mean(squared / d)),
        "rmse": float(np.sqrt(np.mean(squared))),
        "rmse_log": float(np.sqrt(np.mean(log_error**2))),
        # E[e^2] - E[e]^2, without the cancellation that turns a constant ratio into NaN
        "silog": float(100 * np.sqrt(np.mean((log_error - log_error.mean()) ** 2))),
        "log10": float(np.mean(np.abs(log_error)) / math.log(10)),
        "d1": np.count_nonzero(ratio < 1.25) / d.size,
        "d2": np.count_nonzero(ratio < 1.25**2) / d.size,
        "d3": np.count_nonzero(ratio < 1.25**3) / d.size,
    }


def _median_ratio(p: np.ndarray, d: np.ndarray) -> float:
    median = float(np.median(p))
    if not 0 < median < math.inf:
        raise MetricsError(f"the prediction has median {median}: it cannot be scaled to the depth")
    return float(np.median(d)) / median


def valid_pixels(
    *, prediction: Array, depth: Array, valid_mask: Array
) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and depth at the valid pixels, each (num_valid,) float64 metres, after the checks.

    Arguments as in `depth_errors`; nothing is clipped. Raises MetricsError as said there.
    """
    shapes = {tuple(array.shape) for array in (prediction, depth, valid_mask)}
    if len(shapes) > 1:
        raise MetricsError(
            f"shapes differ: prediction {tuple(prediction.shape)}, depth {tuple(depth.shape)}, "
            f"valid_mask {tuple(valid_mask.shape)}; bring the prediction to the depth's size"
        )
    if math.prod(depth.shape[:-2]) != 1:
        raise MetricsError(f"one image at a time, got a batch of shape {tuple(depth.shape)}")
    if str(valid_mask.dtype).removeprefix("torch.") != "bool":
        raise MetricsError(f"valid_mask must be bool, got {valid_mask.dtype}")
    places = valid_places(valid_mask)
    p, d = (pixels_at(places, array) for array in (prediction, depth))
    if not (np.isfinite(d) & (d > 0)).all():
        raise MetricsError("valid_mask marks pixels whose ground truth is zero, negative or NaN")
    if np.isnan(p).any():
        num_nan = np.isnan(p).sum()
        raise MetricsError(f"the prediction is NaN at {num_nan} of {d.size} valid pixels")
    return p, d


def valid_places(valid_mask: Array) -> np.ndarray:
    """(num_valid,) places of the True pixels in the flattened mask."""
    mask = valid_mask.detach().cpu() if isinstance(valid_mask, torch.Tensor) else valid_mask
    return np.flatnonzero(np.asarray(mask))


def pixels_at(places: np.ndarray, values: Array) -> np.ndarray:
    """(num_valid,) float64 on the CPU, `values` at these `places`. Picked first, then converted:
    most of a LiDAR frame is empty; and by place, not by mask, which would be counted each time."""
    if isinstance(values, torch.Tensor):
        picked = values.detach().cpu().flatten().index_select(0, torch.from_numpy(places))
        return picked.double().numpy()  # double before numpy, which has no bfloat16
    return np.asarray(values).reshape(-1)[places].astype(np.float64)


def float64_array(values: Array) -> np.ndarray:
    """`values` as float64 on the CPU, same shape, whatever their precision and device."""
    if isinstance(values, torch.Tensor):
        # double on the way to the CPU: numpy has no bfloat16, and some accelerators no float64
        return values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
