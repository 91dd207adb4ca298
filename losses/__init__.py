"""Losses: tensors in, scalar tensors out. `valid_mask` is bool, True = has ground truth."""

from .consistency import depth_consistency, feature_consistency, pixel_weight, ramp
from .supervised import DEPTH_LOSSES, berhu, l1, silog, supervised_losses, uncertainty_nll
from .weighting import weighted_sum

__all__ = [
    "DEPTH_LOSSES",
    "berhu",
    "depth_consistency",
    "feature_consistency",
    "l1",
    "pixel_weight",
    "ramp",
    "silog",
    "supervised_losses",
    "uncertainty_nll",
    "weighted_sum",
]
