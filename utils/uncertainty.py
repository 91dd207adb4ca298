"""Does the uncertainty know where the depth is wrong? Ranking measures: per image, then the mean.

Only the order of an image's uncertainties u (larger = less sure) matters here, so any map will do:
the network's, a constant, the image's gradient. With p the clipped prediction, d the ground truth:

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

import hashlib
import math
from collections import Counter

import numpy as np
from torch import distributed

from utils.metrics import Array, MetricsError, _float64, _valid_pixels

SPARSIFIED = ("abs_rel", "rmse", "d1")
AREA_NAMES = tuple(f"{area}_{error}" for error in SPARSIFIED for area in ("ause", "aurg"))
MAY_BE_UNDEFINED = ("spearman", "spearman_abs_rel", "auroc_d1")
UNCERTAINTY_NAMES = (*AREA_NAMES, *(f"{name}_exact" for name in AREA_NAMES), *MAY_BE_UNDEFINED)
FAILURE = 1.25  # ratio of depth and prediction from which a pixel has failed: one minus d1
GREY = (0.299, 0.587, 0.114)  # luma weights of ITU-R BT.601


class UncertaintyMetrics:
    """Collects the ranking measures of one kind of uncertainty, image by image.

    Uncertainties that compete (the network's, a constant, the gradient) take an instance each.

    Attributes:
        rows: image name -> UNCERTAINTY_NAMES and "num_valid". A measure that the image leaves
            undefined is None: auroc_d1 where all or no pixels fail, Spearman's where all errors
            are equal.
        image_curves: image name -> (2, 3, num_intervals) exact curves: method and oracle, for each
            of SPARSIFIED.
        skipped: names of images without a valid pixel; they count in no mean.
    """

    def __init__(
        self, *, min_depth: float, max_depth: float, seed: int = 0, num_intervals: int = 50
    ):
        """Predictions are clipped to [min_depth, max_depth] metres. `seed` and the image's name
        alone decide between equal uncertainties. Published numbers have 50 intervals."""
        if not 0 < min_depth < max_depth:
            raise MetricsError(f"need 0 < min_depth < max_depth, got {min_depth} and {max_depth}")
        if num_intervals < 2:
            raise MetricsError(f"a curve needs num_intervals >= 2, got {num_intervals}")
        self.min_depth, self.max_depth = min_depth, max_depth
        self.seed, self.num_intervals = seed, num_intervals
        self.rows: dict[str, dict[str, float | None]] = {}
        self.image_curves: dict[str, np.ndarray] = {}
        self.skipped: list[str] = []

    def update(
        self,
        *,
        name: str,
        prediction: Array,
        depth: Array,
        valid_mask: Array,
        log_uncertainty: Array,
    ) -> None:
        """Add one image; arguments as in `scored_pixels`. Raises MetricsError naming the image,
        also when it has been added before."""
        try:
            if name in self.rows or name in self.skipped:
                raise MetricsError("scored twice; every image counts exactly once")
            p, d, u = scored_pixels(
                prediction=prediction, depth=depth, valid_mask=valid_mask,
                log_uncertainty=log_uncertainty,
                min_depth=self.min_depth, max_depth=self.max_depth,
            )  # fmt: skip
        except MetricsError as error:
            raise MetricsError(f"image {name!r}: {error}") from error
        if d.size == 0:
            self.skipped.append(name)
            return
        order = surest_first(u, rng=_generator(self.seed, name))
        p, d, u = p[order], d[order], u[order]
        errors = point_errors(prediction=p, depth=d)
        areas, self.image_curves[name] = _areas_and_curves(u, errors, self.num_intervals)
        self.rows[name] = areas | _correlations(u, p, d, errors) | {"num_valid": float(d.size)}

    def mean(self) -> dict[str, float | None]:
        """Unweighted mean over images of UNCERTAINTY_NAMES, whatever the order of the images.

        A measure is averaged over the images that define it; their number stands beside it as
        "num_images_spearman", "num_images_spearman_abs_rel" and "num_images_auroc_d1" (int), and
        the mean is None without any. Also "num_images" and "num_skipped" (int). Raises MetricsError
        if there is no image.
        """
        self._refuse_nothing()
        defined = {
            name: [row[name] for row in self.rows.values() if row[name] is not None]
            for name in UNCERTAINTY_NAMES
        }
        means = {name: math.fsum(v) / len(v) if v else None for name, v in defined.items()}
        counts = {f"num_images_{name}": len(defined[name]) for name in MAY_BE_UNDEFINED}
        return means | counts | {"num_images": len(self.rows), "num_skipped": len(self.skipped)}

    def curves(self) -> dict[str, dict[str, np.ndarray]]:
        """Mean over images of the exact sparsification curves, for `utils.plots`.

        Returns:
            For each of SPARSIFIED "removed" (num_intervals,), shares of pixels taken away from 0
            up, and on it the curves "method", "oracle" and "random", the error of all pixels.

        Raises:
            MetricsError: there is no image.
        """
        self._refuse_nothing()
        stack = np.stack([self.image_curves[name] for name in sorted(self.image_curves)])
        method, oracle = stack.mean(axis=0)  # each (3, num_intervals)
        removed = np.arange(self.num_intervals) / self.num_intervals
        return {
            name: {
                "removed": removed,
                "method": method[index],
                "oracle": oracle[index],
                "random": np.full_like(removed, oracle[index, 0]),
            }
            for index, name in enumerate(SPARSIFIED)
        }

    def reduce_over_ranks(self) -> UncertaintyMetrics:
        """The images of all ranks in one, sorted by name; the same on every rank.

        Without torch.distributed it is this rank's images. Every rank must call it. Raises
        MetricsError if an image was scored by two ranks, which is what a padding sampler does.
        """
        parts = [(self.rows, self.image_curves, self.skipped)]
        if distributed.is_available() and distributed.is_initialized():
            mine, parts = parts[0], [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, mine)
        names = Counter(name for rows, _, skipped in parts for name in (*rows, *skipped))
        repeated = sorted(name for name, count in names.items() if count > 1)
        if repeated:
            raise MetricsError(f"{len(repeated)} images scored by several ranks: {repeated[:5]}")
        total = UncertaintyMetrics(
            min_depth=self.min_depth, max_depth=self.max_depth, seed=self.seed,
            num_intervals=self.num_intervals,
        )  # fmt: skip
        for rows, curves, skipped in parts:
            total.rows |= rows
            total.image_curves |= curves
            total.skipped += skipped
        total.rows = dict(sorted(total.rows.items()))
        total.skipped.sort()
        return total

    def _refuse_nothing(self) -> None:
        if not self.rows:
            raise MetricsError(
                f"no image to average: {len(self.skipped)} images were seen and none has a "
                "ground-truth pixel inside the depth range and crop of the protocol"
            )


def scored_pixels(
    *,
    prediction: Array,
    depth: Array,
    valid_mask: Array,
    log_uncertainty: Array,
    min_depth: float,
    max_depth: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clipped prediction, depth and uncertainty at the valid pixels, each (num_valid,) float64.

    Args:
        prediction: (H, W), also with leading ones as in (1, 1, H, W), metres.
        depth: ground truth, same shape, metres.
        valid_mask: same shape, bool, True = scored. Nothing outside it has any influence.
        log_uncertainty: same shape, larger = less sure.
        min_depth, max_depth: metres, that predictions are clipped to.

    Raises:
        MetricsError: as `utils.metrics.depth_errors`, and an uncertainty of another shape, or NaN
            or infinite at a valid pixel.
    """
    p, d = _valid_pixels(prediction, depth, valid_mask)
    if tuple(log_uncertainty.shape) != tuple(depth.shape):
        raise MetricsError(
            f"shapes differ: log_uncertainty {tuple(log_uncertainty.shape)}, depth "
            f"{tuple(depth.shape)}; bring the uncertainty to the depth's size"
        )
    u = _float64(log_uncertainty[valid_mask])
    p = p.clip(min_depth, max_depth)
    for what, values in (("log_uncertainty is NaN", u), ("the clipped prediction is", p)):
        bad = np.count_nonzero(~np.isfinite(values))
        if bad:
            raise MetricsError(f"{what} or infinite at {bad} of {d.size} valid pixels")
    return p, d, u


def gradient_uncertainty(image: Array) -> np.ndarray:
    """How strong the edges are: an uncertainty without learning, for comparison (ours).

    Args:
        image: (3, H, W) RGB in [0, 1], H and W at least 2.

    Returns:
        (H, W) float64 >= 0, length of the grey image's gradient per pixel: central differences,
        one-sided at the border.

    Raises:
        MetricsError: another shape.
    """
    if len(image.shape) != 3 or image.shape[0] != 3 or min(image.shape[1:]) < 2:
        raise MetricsError(f"need one image (3, H, W) of 2 x 2 or more, got {tuple(image.shape)}")
    return np.hypot(*np.gradient(np.tensordot(GREY, _float64(image), axes=1)))


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


def _areas_and_curves(
    u: np.ndarray, errors: dict[str, np.ndarray], num_intervals: int
) -> tuple[dict[str, float], np.ndarray]:
    """AREA_NAMES, plain and _exact, of one image and its row of `image_curves`; surest first."""
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


def _correlations(
    u: np.ndarray, p: np.ndarray, d: np.ndarray, errors: dict[str, np.ndarray]
) -> dict[str, float | None]:
    """MAY_BE_UNDEFINED of one image. A constant u ranks nothing, which is 0; constant errors leave
    nothing to rank, which is None."""
    ranks = average_ranks(u)
    pairs = {"spearman": np.abs(p - d), "spearman_abs_rel": errors["abs_rel"]}
    row = {
        name: rank_correlation(ranks, average_ranks(error)) if np.ptp(error) > 0 else None
        for name, error in pairs.items()
    }
    return row | {"auroc_d1": auroc(ranks, errors["d1"] >= FAILURE)}


def _generator(seed: int, name: str) -> np.random.Generator:
    """Its own random numbers for each image, whichever process scores it and when."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
