"""Evaluation protocols: which ground-truth pixels of a frame are scored, and under which cap.

A protocol belongs to its dataset and is code, not configuration: nobody may tune the "80" of KITTI.
Crops are computed on the full size of the ground truth, which is itself never cropped or resized.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch

from datasets.frame import DataError

Depth = TypeVar("Depth", torch.Tensor, np.ndarray)
Crop = Callable[[int, int], tuple[int, int, int, int]]

GARG_ROWS = (0.40810811, 0.99189189)  # fractions of the height (Garg et al., ECCV 2016)
GARG_COLUMNS = (0.03594771, 0.96405229)  # fractions of the width
EIGEN_ROWS = (0.3324324, 0.91351351)  # fractions of the height (Eigen et al., 2014)
EIGEN_COLUMNS = (0.0359477, 0.96405229)
KB_SIZE = (352, 1216)  # bottom centre of a KITTI frame: what its depth benchmark uses
NYU_SIZE = (480, 640)
NYU_BOX = (45, 471, 41, 601)  # where the projected Kinect depth is reliable (Eigen et al., 2014)
DENSEDEPTH_BOX = (20, 460, 24, 616)  # DenseDepth's own box (Alhashim and Wonka, 2018)
MIN_DEPTH = 1e-3  # metres, of all published evaluators


@dataclass(frozen=True)
class EvalProtocol:
    """What "valid" means when a frame is scored.

    Attributes:
        name: key of the protocol in metrics.json.
        min_depth, max_depth: metres. A pixel counts where min_depth < depth < max_depth, strict on
            both sides: ground truth beyond the cap is dropped, not clipped. Predictions are
            clipped to [min_depth, max_depth] by the metrics.
        crop: (H, W) of the ground truth -> (top, bottom, left, right) in pixels, half open;
            None scores the whole frame.
        crop_name: the crop in words.
        drops_far: False: the cap clips predictions only, and all ground truth above 0 counts.
        devkit: scored with the formulas of KITTI's development kit, not with those of BTS.
    """

    name: str
    min_depth: float
    max_depth: float
    crop: Crop | None = None
    crop_name: str = "none"
    drops_far: bool = True
    devkit: bool = False

    def valid_mask(self, depth: Depth) -> Depth:
        """Pixels that count.

        Args:
            depth: (..., H, W) ground truth in metres at its full size, 0 = none.

        Returns:
            Bool tensor or array of the same shape; True = scored. NaN and inf are never scored.

        Raises:
            DataError: the crop is not defined for this (H, W).
        """
        low, high = (self.min_depth, self.max_depth) if self.drops_far else (0.0, math.inf)
        valid = (depth > low) & (depth < high)
        if self.crop is not None:
            top, bottom, left, right = self.crop(*depth.shape[-2:])
            valid[..., :top, :] = False
            valid[..., bottom:, :] = False
            valid[..., :left] = False
            valid[..., right:] = False
        return valid

    def defined_for(self, size: tuple[int, int]) -> bool:
        """Whether the crop exists on ground truth of this (H, W)."""
        try:
            self.crop is None or self.crop(*size)
        except DataError:
            return False
        return True

    def described(self) -> dict[str, str | float | None]:
        """The protocol in plain values, to stand beside its numbers."""
        return {
            "crop": self.crop_name,
            "min_depth": self.min_depth,
            "max_depth": self.max_depth if math.isfinite(self.max_depth) else None,
            "ground_truth_beyond_max_depth": "dropped" if self.drops_far else "counts",
            "formulas": "KITTI development kit" if self.devkit else "BTS",
        }


def kitti() -> tuple[EvalProtocol, ...]:
    """Every protocol that KITTI frames of native size are scored under, the default first."""
    return bts(), kb_crop(), eigen_crop(), monodepth2(), bts_50m(), kitti_server()


def bts(max_depth: float = 80.0) -> EvalProtocol:
    """KITTI as the BTS PNG evaluator scores it: Garg crop on the full ground truth, cap in metres.

    The numbers of BTS, DPT and of the MaskingDepth paper are of this kind.
    """
    return EvalProtocol("bts", MIN_DEPTH, max_depth, _garg_crop, "Garg, on the full ground truth")


def bts_50m() -> EvalProtocol:
    """`bts` on what is nearer than 50 m."""
    return replace(bts(50.0), name="bts_50m")


def kb_crop() -> EvalProtocol:
    """KITTI as BTS, AdaBins and NeWCRFs score it while training: ground truth cut to 352 x 1216
    first, Garg crop on that. 7 % fewer pixels than `bts`, and other ones."""
    words = "Garg, on the 352 x 1216 window"
    return EvalProtocol("kb_crop", MIN_DEPTH, 80.0, _garg_in_kb_window, words)


def eigen_crop() -> EvalProtocol:
    """KITTI with the box of Eigen et al. (2014) on the full ground truth."""
    words = "Eigen, on the full ground truth"
    return EvalProtocol("eigen_crop", MIN_DEPTH, 80.0, _eigen_crop, words)


def monodepth2() -> EvalProtocol:
    """monodepth2's eigen_benchmark (Godard et al., 2019): no crop, all ground truth counts, only
    predictions are clipped. Its numbers are usually median-scaled."""
    return EvalProtocol("monodepth2", MIN_DEPTH, 80.0, drops_far=False)


def kitti_server() -> EvalProtocol:
    """KITTI's depth benchmark: no crop, no cap, nothing clipped, its own metrics."""
    return EvalProtocol("kitti_server", MIN_DEPTH, math.inf, drops_far=False, devkit=True)


def nyu() -> tuple[EvalProtocol, ...]:
    """Every protocol that NYU frames are scored under, the default first."""
    return nyu_eigen(), nyu_densedepth()


def nyu_eigen() -> EvalProtocol:
    """NYU Depth v2 test frames of 480 x 640: Eigen's box, rows 45:471, columns 41:601, cap 10 m."""
    return EvalProtocol("nyu_eigen", MIN_DEPTH, 10.0, _nyu_box, "rows 45:471, columns 41:601")


def nyu_densedepth() -> EvalProtocol:
    """The same with DenseDepth's box, rows 20:460, columns 24:616. DenseDepth itself pools the
    pixels of all images; here every image counts the same."""
    words = "rows 20:460, columns 24:616"
    return EvalProtocol("nyu_densedepth", MIN_DEPTH, 10.0, _densedepth_box, words)


def plain(max_depth: float) -> EvalProtocol:
    """No crop, cap `max_depth` metres: for data without an established protocol."""
    return EvalProtocol("plain", MIN_DEPTH, max_depth)


def depth_ranges(max_depth: float) -> list[tuple[float, float]]:
    """Five ranges in metres, (low, high], that the error is broken down into: 0-10-20-40-60-80."""
    edges = [share * max_depth for share in (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)]
    return list(pairwise(edges))


def _fractions(
    rows: tuple[float, float], columns: tuple[float, float], height: int, width: int
) -> tuple[int, int, int, int]:
    # int() truncates, as in every published evaluator; rounding would move the box by a pixel
    top, bottom = (int(fraction * height) for fraction in rows)
    left, right = (int(fraction * width) for fraction in columns)
    return top, bottom, left, right


_garg_crop = partial(_fractions, GARG_ROWS, GARG_COLUMNS)
_eigen_crop = partial(_fractions, EIGEN_ROWS, EIGEN_COLUMNS)


def _garg_in_kb_window(height: int, width: int) -> tuple[int, int, int, int]:
    (kb_height, kb_width), (top, left) = KB_SIZE, kb_window(height, width)
    first, last, begin, end = _garg_crop(kb_height, kb_width)
    return top + first, top + last, left + begin, left + end


def kb_window(height: int, width: int) -> tuple[int, int]:
    """(top, left) of the 352 x 1216 window in a KITTI frame: at the bottom, centred."""
    if height < KB_SIZE[0] or width < KB_SIZE[1]:
        raise DataError(
            f"KITTI's window of 352 x 1216 does not fit into {height} x {width} pixels; evaluate "
            "on the original files"
        )
    return height - KB_SIZE[0], (width - KB_SIZE[1]) // 2


def _box_of_nyu(
    box: tuple[int, int, int, int], height: int, width: int
) -> tuple[int, int, int, int]:
    if (height, width) != NYU_SIZE:
        raise DataError(
            f"protocols nyu_eigen and nyu_densedepth are defined on 480 x 640 pixels, got {height} "
            f"x {width}; evaluate at the stored size"
        )
    return box


_nyu_box = partial(_box_of_nyu, NYU_BOX)
_densedepth_box = partial(_box_of_nyu, DENSEDEPTH_BOX)
