"""Evaluation protocols: which ground-truth pixels of a frame are scored, and under which cap.

A protocol belongs to its dataset and is code, not configuration: nobody may tune the "80" of KITTI.
Crops are computed on the full size of the ground truth, which is itself never cropped or resized.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from datasets.frame import DataError

Depth = TypeVar("Depth", torch.Tensor, np.ndarray)
Crop = Callable[[int, int], tuple[int, int, int, int]]

GARG_ROWS = (0.40810811, 0.99189189)  # fractions of the height (Garg et al., ECCV 2016)
GARG_COLUMNS = (0.03594771, 0.96405229)  # fractions of the width
NYU_SIZE = (480, 640)
NYU_BOX = (45, 471, 41, 601)  # where the projected Kinect depth is reliable (Eigen et al., 2014)


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
    """

    name: str
    min_depth: float
    max_depth: float
    crop: Crop | None = None

    def valid_mask(self, depth: Depth) -> Depth:
        """Pixels that count.

        Args:
            depth: (..., H, W) ground truth in metres at its full size, 0 = none.

        Returns:
            Bool tensor or array of the same shape; True = scored. NaN and inf are never scored.

        Raises:
            DataError: the crop is not defined for this (H, W).
        """
        valid = (depth > self.min_depth) & (depth < self.max_depth)
        if self.crop is not None:
            top, bottom, left, right = self.crop(*depth.shape[-2:])
            valid[..., :top, :] = False
            valid[..., bottom:, :] = False
            valid[..., :left] = False
            valid[..., right:] = False
        return valid


def bts(max_depth: float = 80.0) -> EvalProtocol:
    """KITTI as the BTS PNG evaluator scores it: Garg crop on the full ground truth, cap in metres.

    The numbers of BTS, DPT and of the MaskingDepth paper are of this kind.
    """
    return EvalProtocol("bts", min_depth=1e-3, max_depth=max_depth, crop=_garg_crop)


def nyu_eigen() -> EvalProtocol:
    """NYU Depth v2 test frames of 480 x 640: Eigen's box, rows 45:471, columns 41:601, cap 10 m."""
    return EvalProtocol("nyu_eigen", min_depth=1e-3, max_depth=10.0, crop=_nyu_box)


def plain(max_depth: float) -> EvalProtocol:
    """No crop, cap `max_depth` metres: for data without an established protocol."""
    return EvalProtocol("plain", min_depth=1e-3, max_depth=max_depth)


def _garg_crop(height: int, width: int) -> tuple[int, int, int, int]:
    # int() truncates, as in every published evaluator; rounding would move the box by a pixel
    top, bottom = (int(fraction * height) for fraction in GARG_ROWS)
    left, right = (int(fraction * width) for fraction in GARG_COLUMNS)
    return top, bottom, left, right


def _nyu_box(height: int, width: int) -> tuple[int, int, int, int]:
    if (height, width) != NYU_SIZE:
        raise DataError(
            f"protocol nyu_eigen is defined on ground truth of 480 x 640 pixels, got {height} x "
            f"{width}; evaluate at the stored size, or use the protocol 'plain'"
        )
    return NYU_BOX
