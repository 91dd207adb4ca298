"""Losses: tensors in, scalar tensors out. `valid_mask` is bool, True = has ground truth."""

from .consistency import depth_consistency, feature_consistency, pixel_weight, ramp
from .photometric import photometric_loss, picture_error, smoothness_loss, ssim_distance, warp
from .supervised import DEPTH_LOSSES, berhu, l1, silog, supervised_losses, uncertainty_nll
from .weighting import weighted_sum

__all__ = [
    "DEPTH_LOSSES",
    "berhu",
    "depth_consistency",
    "feature_consistency",
    "l1",
    "photometric_loss",
    "picture_error",
    "pixel_weight",
    "ramp",
    "silog",
    "smoothness_loss",
    "ssim_distance",
    "supervised_losses",
    "uncertainty_nll",
    "warp",
    "weighted_sum",
]
