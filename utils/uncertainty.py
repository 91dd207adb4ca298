"""Does the uncertainty know where the depth is wrong? Ranking measures: per image, then the mean.

Any map will do whose values are larger where the depth is less sure: the network's, a constant, the
image's gradient. The measures are those of `utils.sparsification`.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import numpy as np
from torch import distributed

from .metrics import (
    SCORED_TWICE,
    Array,
    MetricsError,
    float64_array,
    naming,
    pixels_at,
    valid_pixels,
    valid_places,
)
from .sparsification import (
    AREA_NAMES,
    MAY_BE_UNDEFINED,
    SPARSIFIED,
    ImageErrors,
    areas_and_curves,
    correlations,
    image_errors,
    surest_first,
)

UNCERTAINTY_NAMES = (*AREA_NAMES, *(f"{name}_exact" for name in AREA_NAMES), *MAY_BE_UNDEFINED)
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
        with naming(name):
            p, d, u = scored_pixels(
                prediction=prediction, depth=depth, valid_mask=valid_mask,
                log_uncertainty=log_uncertainty,
                min_depth=self.min_depth, max_depth=self.max_depth,
            )  # fmt: skip
        self.update_pixels(name=name, log_uncertainty=u, errors=self.errors_of(p, d))

    def errors_of(self, prediction: np.ndarray, depth: np.ndarray) -> ImageErrors | None:
        """What `update_pixels` wants of an image, from `scored_pixels`; None without a pixel."""
        if depth.size == 0:
            return None
        return image_errors(prediction=prediction, depth=depth, num_intervals=self.num_intervals)

    def update_pixels(
        self, *, name: str, log_uncertainty: np.ndarray, errors: ImageErrors | None
    ) -> None:
        """Add one image by its valid pixels alone: (num_valid,) uncertainties, as `scored_pixels`
        gives them, and `errors_of` the same pixels, which uncertainties that compete share."""
        if name in self.rows or name in self.skipped:
            raise MetricsError(f"image {name!r}: {SCORED_TWICE}")
        if errors is None:
            self.skipped.append(name)
            return
        order = surest_first(log_uncertainty, rng=generator_of_image(self.seed, name))
        u = log_uncertainty[order]
        areas, self.image_curves[name] = areas_and_curves(u, order, errors)
        ranked = correlations(u, order, errors)
        self.rows[name] = areas | ranked | {"num_valid": float(u.size)}

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
    p, d = valid_pixels(prediction=prediction, depth=depth, valid_mask=valid_mask)
    if tuple(log_uncertainty.shape) != tuple(depth.shape):
        raise MetricsError(
            f"shapes differ: log_uncertainty {tuple(log_uncertainty.shape)}, depth "
            f"{tuple(depth.shape)}; bring the uncertainty to the depth's size"
        )
    u = pixels_at(valid_places(valid_mask), log_uncertainty)
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
    return np.hypot(*np.gradient(np.tensordot(GREY, float64_array(image), axes=1)))


def generator_of_image(seed: int, name: str) -> np.random.Generator:
    """Its own random numbers for each image, whichever process scores it and when."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
