"""Losses: tensors in, scalar tensors out. `valid_mask` is bool, True = has ground truth."""

from .supervised import DEPTH_LOSSES, berhu, l1, silog, uncertainty_nll
from .weighting import weighted_sum

__all__ = ["DEPTH_LOSSES", "berhu", "l1", "silog", "uncertainty_nll", "weighted_sum"]
