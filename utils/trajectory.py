"""How right are poses from frame to frame, and the path that they add up to (float64; ours).

A relative pose T takes coordinates in one camera to coordinates in the next one's, X_next = T X, in
metres; T = [R t], so the next camera stands at -R^T t, |t| metres away. With predicted R, t and
true R*, t* of each of n pairs of frames:

    translation_error_m   mean |t - t*|, which is the length of what T*^-1 T moves
    rotation_error_deg    mean angle of R*^T R (with the former: the relative pose error of Sturm
                          et al., 2012, from frame to frame)
    direction_error_deg   mean angle between t and t*: blind to scale
    length_ratio          median |t| / |t*|: the scale; 1 is right
    true_length_m         mean |t*|, beside which the first is to be seen

Pairs in which the camera hardly moved (|t*| < MIN_MOTION) have no direction and no ratio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

MIN_MOTION = 0.01  # metres from frame to frame
SNIPPET_LENGTH = 5  # frames, in the tables of KITTI odometry

COLUMNS = {  # of the printed table
    "translation_error_m": "trans. (m)",
    "rotation_error_deg": "rot. (deg)",
    "direction_error_deg": "dir. (deg)",
    "length_ratio": "scale",
    "ate_m": "ATE (m)",
    "scaled_ate_m": "scaled ATE (m)",
}


class TrajectoryError(ValueError):
    """Poses that cannot be compared. The message says which and why."""


def pose_errors(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The five numbers of the module's docstring.

    Args:
        predicted, true: (n, 4, 4) relative poses of the same pairs, metres.

    Returns:
        length_ratio is NaN where the camera moved in no pair; so is direction_error_deg, also where
        no prediction moves.

    Raises:
        TrajectoryError: other shapes, no pair, or numbers that are not finite.
    """
    predicted, true = _checked(predicted, true)
    t, true_t = predicted[:, :3, 3], true[:, :3, 3]
    length, true_length = (np.linalg.norm(x, axis=1) for x in (t, true_t))
    moved = true_length >= MIN_MOTION
    both = moved & (length > 0)
    turns = np.swapaxes(true[:, :3, :3], 1, 2) @ predicted[:, :3, :3]
    sines = np.linalg.norm(np.cross(t[both], true_t[both]), axis=1)
    angles = np.arctan2(sines, (t[both] * true_t[both]).sum(1))  # arccos is coarse near 0
    return {
        "translation_error_m": float(np.linalg.norm(t - true_t, axis=1).mean()),
        "rotation_error_deg": float(np.degrees(_angles(turns)).mean()),
        "direction_error_deg": float(np.degrees(angles).mean()) if both.any() else float("nan"),
        "length_ratio": (
            float(np.median(length[moved] / true_length[moved])) if moved.any() else float("nan")
        ),
        "true_length_m": float(true_length.mean()),
    }


def snippet_ate(
    predicted: np.ndarray,
    true: np.ndarray,
    *,
    length: int = SNIPPET_LENGTH,
    runs: Sequence[int] | None = None,
) -> dict[str, float | int]:
    """Absolute trajectory error over all snippets of `length` consecutive frames, mean and std.

    Both paths of a snippet start at the same pose. With p_k, g_k the predicted and the true camera
    positions in the first camera's coordinates, k = 1 .. L:

        E = sqrt(sum_k |s p_k - g_k|^2) / L,    s = sum_k p_k . g_k / sum_k |p_k|^2    (or s = 1)

    This is the number of KITTI odometry's tables since SfMLearner (Zhou et al., 2017; Godard et
    al., 2019), which divide by L outside of the root: a root mean square is sqrt(L) times as large.
    Unlike monodepth2's script we take no shorter snippets at the end of a run, and add up where
    the camera goes, T^-1, not T; on straight roads the two hardly differ.

    Args:
        predicted, true: (n, 4, 4) relative poses of consecutive pairs, metres.
        length: L, frames in a snippet.
        runs: (n,) number of the run that each pair belongs to; no snippet reaches over two. None:
            all pairs are of one run.

    Returns:
        scaled_ate_m and scaled_ate_std_m with the best scale s of each snippet, the published ones;
        ate_m and ate_std_m with s = 1; num_snippets. Standard deviations are over the snippets.

    Raises:
        TrajectoryError: as `pose_errors`, or no run has `length` frames.
    """
    predicted, true = _checked(predicted, true)
    runs = np.zeros(len(true), dtype=int) if runs is None else np.asarray(runs)
    if length < 2 or runs.shape != (len(true),):
        raise TrajectoryError(f"length {length} and runs {runs.shape} for {len(true)} pairs")
    snippets = [slice(i, i + length - 1) for i in range(len(true) - length + 2)]
    snippets = [snippet for snippet in snippets if len(set(runs[snippet].tolist())) == 1]
    if not snippets:
        raise TrajectoryError(f"no run of consecutive frames has the {length} of a snippet")
    errors = np.array([_snippet_errors(predicted[one], true[one]) for one in snippets])
    (scaled, metric), (scaled_std, metric_std) = errors.mean(0), errors.std(0)
    return {
        "scaled_ate_m": float(scaled),
        "scaled_ate_std_m": float(scaled_std),
        "ate_m": float(metric),
        "ate_std_m": float(metric_std),
        "num_snippets": len(snippets),
    }


def score_poses(
    predicted: np.ndarray, true: np.ndarray, *, runs: Sequence[int], length: int = SNIPPET_LENGTH
) -> dict[str, dict[str, float]]:
    """`pose_errors` and `snippet_ate` of a prediction, beside what it is to be judged by.

    Args:
        predicted, true, runs, length: as of `snippet_ate`; its numbers are left out where no run
            has `length` frames.

    Returns:
        Scores of "predicted"; of "median_scaled", the same at the right scale, translations divided
        by its length_ratio (left out where there is none); and of the two `floors`.
    """
    rows = {"predicted": predicted}
    ratio = pose_errors(predicted, true)["length_ratio"]
    if ratio > 0:  # and not NaN
        rows["median_scaled"] = scaled(predicted, 1 / ratio)
    rows |= floors(true)
    scores = {name: pose_errors(poses, true) for name, poses in rows.items()}
    if np.bincount(runs).max() + 1 >= length:
        for name in scores:
            scores[name] |= snippet_ate(rows[name], true, length=length, runs=runs)
    return scores


def pose_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Rows of `score_poses` by name, as plain text; a dash where there is no number."""
    width = max(len(name) for name in scores)
    lines = [" " * width + "".join(f"{title:>16}" for title in COLUMNS.values())]
    for name, row in scores.items():
        values = (row.get(column, math.nan) for column in COLUMNS)
        cells = "".join(f"{'–' if math.isnan(x) else f'{x:.4f}':>16}" for x in values)
        lines.append(f"{name.replace('_', ' '):<{width}}{cells}")
    return "\n".join(lines)


def camera_positions(relative: np.ndarray) -> np.ndarray:
    """(n, 4, 4) relative poses of consecutive pairs -> (n + 1, 3) positions, metres.

    In coordinates of the first camera, which stands at 0: X right, Y down, Z ahead.
    """
    pose = np.eye(4)  # a camera -> the first
    positions = [pose[:3, 3]]
    for step in np.linalg.inv(np.asarray(relative, dtype=np.float64)):
        pose = pose @ step
        positions.append(pose[:3, 3])
    return np.array(positions)


def floors(true: np.ndarray) -> dict[str, np.ndarray]:
    """What a prediction that never looks at pictures would say: (n, 4, 4) each.

    constant_velocity is the mean of these very true poses (the rotation nearest to the mean
    matrix), more than anyone could know beforehand; standing_still is the identity.
    """
    _, true = _checked(true, true)
    velocity = np.eye(4)
    left, _, right = np.linalg.svd(true[:, :3, :3].mean(0))
    flip = np.diag([1.0, 1.0, np.linalg.det(left @ right)])  # a rotation, not a mirror
    velocity[:3, :3] = left @ flip @ right
    velocity[:3, 3] = true[:, :3, 3].mean(0)
    shape = true.shape
    return {
        "constant_velocity": np.broadcast_to(velocity, shape),
        "standing_still": np.broadcast_to(np.eye(4), shape),
    }


def scaled(poses: np.ndarray, factor: float) -> np.ndarray:
    """(n, 4, 4) with every translation times `factor`."""
    poses = np.array(poses, dtype=np.float64)
    poses[:, :3, 3] *= factor
    return poses


def consecutive_runs(pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
    """Places of the pairs in runs: in each, the second frame of a pair is the first of the next.

    Args:
        pairs: ids of the two frames of each pair, in any order; no frame is first in two pairs, nor
            second.

    Returns:
        Every pair in exactly one run; runs in the order of their first pairs.
    """
    place_of = {first: place for place, (first, _) in enumerate(pairs)}
    seconds = {second for _, second in pairs}
    runs = []
    for place, (first, _) in enumerate(pairs):
        if first in seconds:
            continue
        run, following = [], place
        while following is not None:
            run.append(following)
            following = place_of.get(pairs[following][1])
        runs.append(run)
    return runs


def _snippet_errors(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """E with the best scale, and with none."""
    p, g = camera_positions(predicted), camera_positions(true)
    squares = (p**2).sum()
    scale = (p * g).sum() / squares if squares > 0 else 1.0  # who stands still has no scale
    best, metric = (np.sqrt(((s * p - g) ** 2).sum()) / len(g) for s in (scale, 1.0))
    return best, metric


def _angles(rotations: np.ndarray) -> np.ndarray:
    """(n, 3, 3) -> (n,) radians in 0 to pi. From sine and cosine: arccos is coarse near 0."""
    skew = rotations - np.swapaxes(rotations, 1, 2)
    sine = 0.5 * np.linalg.norm(skew[:, [2, 0, 1], [1, 2, 0]], axis=1)
    cosine = 0.5 * (np.trace(rotations, axis1=1, axis2=2) - 1)
    return np.arctan2(sine, cosine)


def _checked(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = (np.asarray(x, dtype=np.float64) for x in (predicted, true))
    if predicted.shape != true.shape or true.ndim != 3 or true.shape[1:] != (4, 4) or not len(true):
        raise TrajectoryError(
            f"predicted and true poses are both (n, 4, 4) with n > 0, not {predicted.shape} and "
            f"{true.shape}"
        )
    for name, poses in (("predicted", predicted), ("true", true)):
        bad = ~np.isfinite(poses).all((1, 2))
        if bad.any():
            raise TrajectoryError(
                f"{int(bad.sum())} of {len(poses)} {name} poses are not finite, number "
                f"{int(bad.argmax())} the first"
            )
    return predicted, true
