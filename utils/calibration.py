"""Is the uncertainty of the right size? One pass of sums answers for every scale afterwards (ours).

The network's log uncertainty u is read as the likelihood that trained it, a Laplace distribution of
the depth around the prediction with scale b = s exp(u) metres, which is also the expected |error|.
The scalar s (metres) is `tolerated_error` as trained, or fitted by maximum likelihood on other
frames than those reported; a network whose u is never negative states no b below it. With
r = |error| exp(-u), whose mean is the best s:

    nll          mean of ln(2 b) + |error| / b, the negative log-likelihood, in nats (of metres)
    coverage     share of |error| <= -b ln(1 - p), the central interval that should hold a share p
    ece          mean |coverage - p| over LEVELS: expected calibration error
    ence         |RMV - RMSE| / RMV in bins of u, averaged with each bin's share of pixels (after
                 Levi et al., 2019); RMSE^2 is the mean of error^2, RMV^2 of the variance 2 b^2
    sharpness_m  mean b in metres: of two that are calibrated the smaller knows more

Every image weighs the same in every number, each of its valid pixels 1 / num_valid. nll and
sharpness_m come from means over all pixels and are exact; so are the parts of ence, but its bins
are fixed (BIN_WIDTH wide in u, so even in ln b), not of equal count as in the paper.
Coverage is interpolated in a histogram of ln r with bins of 1 %.
"""

from __future__ import annotations

import math

import numpy as np
from torch import distributed

from .metrics import Array, MetricsError, naming
from .uncertainty import scored_pixels

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
LOG_RATIO_EDGES = np.linspace(-15.0, 15.0, 3001)  # of ln r; r in metres: 0.3 micrometres to 3e6
BIN_WIDTH = 0.25  # of u: b grows by 28 % from bin to bin
LOWEST_BIN, NUM_BINS = -10.0, 80  # of u, up to 10; what lies beyond is in the end bins
LARGEST_LOG = 100.0  # |u| beyond this is no logarithm of a length, and its exp would overflow


class CalibrationSums:
    """Sums over the pixels of all images, in float64; no pixel is kept.

    Attributes:
        num_images: images with at least one valid pixel.
        num_skipped: images without; they count in no mean.
    """

    def __init__(self, *, min_depth: float, max_depth: float):
        """Predictions are clipped to [min_depth, max_depth] metres."""
        if not 0 < min_depth < max_depth:
            raise MetricsError(f"need 0 < min_depth < max_depth, got {min_depth} and {max_depth}")
        self.min_depth, self.max_depth = min_depth, max_depth
        self.num_images = 0
        self.num_skipped = 0
        # sums over images of the image's mean of u, r, exp(u)
        self._means = np.zeros(3)
        # of its share of pixels with ln r below, in, and above each bin
        self._ratios = np.zeros(len(LOG_RATIO_EDGES) + 1)
        # and, in each bin of u, of its share of pixels and its share's error^2 and exp(2 u)
        self._bins = np.zeros((3, NUM_BINS))

    def update(
        self,
        *,
        name: str,
        prediction: Array,
        depth: Array,
        valid_mask: Array,
        log_uncertainty: Array,
    ) -> None:
        """Add one image; arguments as in `utils.uncertainty.scored_pixels`.

        Raises:
            MetricsError: what is said there, or |u| > LARGEST_LOG, naming the image. The sums are
                then as before.
        """
        with naming(name):
            p, d, u = scored_pixels(
                prediction=prediction, depth=depth, valid_mask=valid_mask,
                log_uncertainty=log_uncertainty, min_depth=self.min_depth, max_depth=self.max_depth,
            )  # fmt: skip
        self.update_pixels(name=name, prediction=p, depth=d, log_uncertainty=u)

    def update_pixels(
        self, *, name: str, prediction: np.ndarray, depth: np.ndarray, log_uncertainty: np.ndarray
    ) -> None:
        """Add one image by its valid pixels alone, as `utils.uncertainty.scored_pixels` gives them.

        Raises MetricsError if |u| > LARGEST_LOG; the sums are then as before.
        """
        p, d, u = prediction, depth, log_uncertainty
        with naming(name):
            _check_logs(u)
        if d.size == 0:
            self.num_skipped += 1
            return
        error, scale = np.abs(p - d), np.exp(u)
        ratio = error / scale
        self._means += [u.mean(), ratio.mean(), scale.mean()]
        with np.errstate(divide="ignore"):  # ln 0 = -inf lies below all bins, where it belongs
            places = log_ratio_bins(np.log(ratio))
        self._ratios += np.bincount(places, minlength=len(self._ratios)) / d.size
        bins = ((u - LOWEST_BIN) / BIN_WIDTH).astype(np.int64).clip(0, NUM_BINS - 1)
        for row, x in enumerate((np.ones_like(u), error**2, scale**2)):
            self._bins[row] += np.bincount(bins, x, minlength=NUM_BINS) / d.size
        self.num_images += 1

    def reduce_over_ranks(self) -> CalibrationSums:
        """The images of all ranks in one, the same on every rank. Every rank must call it; without
        torch.distributed it is this rank's images."""
        parts = [self]
        if distributed.is_available() and distributed.is_initialized():
            parts = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, self)
        total = CalibrationSums(min_depth=self.min_depth, max_depth=self.max_depth)
        for part in parts:
            total.add(part)
        return total

    def add(self, other: CalibrationSums) -> None:
        """Add the images of `other`."""
        self.num_images += other.num_images
        self.num_skipped += other.num_skipped
        self._means += other._means
        self._ratios += other._ratios
        self._bins += other._bins

    def fitted_scale(self) -> float:
        """The s of largest likelihood on these images, in metres: the mean over images of each
        one's mean |error| exp(-u). Raises MetricsError if there is no image, or no error at all."""
        self._refuse_nothing()
        scale = float(self._means[1]) / self.num_images
        if scale == 0:
            raise MetricsError("no scale fits: the predictions are exact at every valid pixel")
        return scale

    def report(self, scale: float) -> dict[str, float | int | dict[str, float]]:
        """How well b = scale exp(u) describes the errors.

        Args:
            scale: s in metres, above 0.

        Returns:
            nll, ece, ence, sharpness_m; "coverage": share by level as in {"0.5": 0.48};
            "scale_m": the given s; num_images, num_skipped.

        Raises:
            MetricsError: scale not above 0 and finite, or there is no image.
        """
        self._refuse_nothing()
        if not 0 < scale < math.inf:
            raise MetricsError(f"scale must be above 0 metres and finite, got {scale}")
        mean_u, mean_ratio, mean_exp = (float(total) / self.num_images for total in self._means)
        coverage = self._coverage(scale)
        gaps = [abs(coverage[f"{level:g}"] - level) for level in LEVELS]
        return {
            "nll": math.log(2 * scale) + mean_u + mean_ratio / scale,
            "ece": math.fsum(gaps) / len(gaps),
            "ence": self._ence(scale),
            "sharpness_m": scale * mean_exp,
            "coverage": coverage,
            "scale_m": scale,
            "num_images": self.num_images,
            "num_skipped": self.num_skipped,
        }

    def _coverage(self, scale: float) -> dict[str, float]:
        """Share of pixels with ln r up to the end of each level's interval, linear in its bin."""
        below = np.cumsum(self._ratios[:-1]) / self.num_images  # at each of LOG_RATIO_EDGES
        ends = [math.log(-scale * math.log1p(-level)) for level in LEVELS]
        shares = np.interp(ends, LOG_RATIO_EDGES, below)
        return {f"{level:g}": float(share) for level, share in zip(LEVELS, shares, strict=True)}

    def _ence(self, scale: float) -> float:
        share, squared_error, squared_exp = self._bins[:, self._bins[0] > 0] / self.num_images
        rmse = np.sqrt(squared_error / share)
        rmv = scale * np.sqrt(2 * squared_exp / share)
        return float((share * np.abs(rmv - rmse) / rmv).sum() / share.sum())

    def _refuse_nothing(self) -> None:
        if self.num_images == 0:
            raise MetricsError(
                f"no image to calibrate on: {self.num_skipped} images were seen and none has a "
                "ground-truth pixel inside the depth range and crop of the protocol"
            )


def log_ratio_bins(log_ratios: np.ndarray) -> np.ndarray:
    """`np.searchsorted(LOG_RATIO_EDGES, log_ratios)`, thirty times as fast: the edges are even.

    Rounding may put a value beside an edge one bin off, so each is compared with its bin's edges.
    """
    last = len(LOG_RATIO_EDGES) - 1
    low, high = LOG_RATIO_EDGES[[0, -1]]
    bins = np.ceil((log_ratios.clip(low - 1, high + 1) - low) * (last / (high - low)))
    bins = bins.clip(0, last + 1).astype(np.int64)
    # bin k holds edges[k] < x <= edges[k + 1]; NaN, which nothing exceeds, where there is no end
    edges = np.r_[np.nan, LOG_RATIO_EDGES, np.nan]
    bins -= log_ratios <= edges[bins]
    bins += log_ratios > edges[bins + 1]
    return bins


def _check_logs(u: np.ndarray) -> None:
    if u.size and np.abs(u).max() > LARGEST_LOG:
        raise MetricsError(
            f"log_uncertainty runs from {u.min():.4g} to {u.max():.4g}; calibration needs the log "
            f"of a length, within {LARGEST_LOG:g} of 0: save the natural logarithm of the expected "
            "error"
        )
