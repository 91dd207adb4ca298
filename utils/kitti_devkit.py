"""The metrics of KITTI's depth benchmark, by the formulas of its development kit (Uhrig, 2017).

Not those of papers: relative errors are in percent, squared relative error is relative to the depth
squared, inverse errors are in 1/km. With d the ground truth, p the prediction, e = ln p - ln d:

    silog    100 sqrt(mean(e^2) - mean(e)^2), by which the server ranks
    sq_rel   100 mean((d - p)^2 / d^2)  [%]      abs_rel  100 mean(|d - p| / d)  [%]
    irmse    1000 sqrt(mean((1/d - 1/p)^2)) [1/km]    imae  1000 mean(|1/d - 1/p|) [1/km]
    mae, rmse [m]                       log_mae, log_rmse  of e
"""

from __future__ import annotations

import numpy as np


def devkit_errors(p: np.ndarray, d: np.ndarray) -> dict[str, float]:
    """The nine metrics of one image; prediction and depth are (num_valid,) float64 metres > 0."""
    log_error = np.log(p) - np.log(d)
    error, inverse = np.abs(d - p), np.abs(1 / d - 1 / p)
    return {
        "silog": float(100 * np.sqrt(np.mean((log_error - log_error.mean()) ** 2))),
        "sq_rel": float(100 * np.mean((error / d) ** 2)),
        "abs_rel": float(100 * np.mean(error / d)),
        "irmse": float(1000 * np.sqrt(np.mean(inverse**2))),
        "imae": float(1000 * np.mean(inverse)),
        "mae": float(np.mean(error)),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "log_mae": float(np.mean(np.abs(log_error))),
        "log_rmse": float(np.sqrt(np.mean(log_error**2))),
    }
