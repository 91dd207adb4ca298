"""Camera matrices, stereo baseline and poses from text files, those of KITTI first.

Source of the formats: KITTI raw development kit (Geiger et al., IJRR 2013) for
calib_cam_to_cam.txt, KITTI odometry development kit for the poses, the site of Virtual KITTI 2 for
extrinsic.txt. A single camera matrix is plain numbers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.frame import UNKNOWN_INTRINSICS, DataError

ROTATION_TOLERANCE = 1e-3  # of R R^T from the identity; files have six or seven digits


def projection_matrices(path: Path) -> dict[str, np.ndarray]:
    """P_rect of both colour cameras: {"image_02": (3, 4), "image_03": (3, 4)} float64, pixels.

    P_rect projects from the rectified frame of camera 0, in metres, into that camera's picture.
    A camera that the file does not mention is absent from the result.
    Raises DataError if the file is missing, unreadable, or has a matrix that is not 12 numbers.
    """
    matrices = {}
    for line in _lines(path):
        key, _, values = line.partition(":")
        if key in ("P_rect_02", "P_rect_03"):
            matrix = _numbers(values, 12, where=f"{path}, {key}").reshape(3, 4)
            if not (matrix[0, 0] > 0 and matrix[1, 1] > 0 and matrix[2, :3].tolist() == [0, 0, 1]):
                raise DataError(f"{path}, {key}: not a projection matrix: {matrix.tolist()}")
            matrices[f"image_{key[-2:]}"] = matrix
    return matrices


def camera_matrix(matrices: dict[str, np.ndarray] | None, camera: str, path: Path) -> np.ndarray:
    """(3, 3) float64 intrinsics of `camera`; all NaN if the date has no calibration file (None).

    Raises DataError if the file exists and lacks the camera: half a calibration is a damaged one.
    """
    if matrices is None:
        return UNKNOWN_INTRINSICS.copy()
    return _matrix_of(matrices, camera, path)[:, :3].copy()


def stereo_baseline(matrices: dict[str, np.ndarray] | None, camera: str, path: Path) -> float:
    """Signed x, in metres, of the partner camera's centre in the frame of `camera`.

    About +0.53 for image_02 (its partner image_03 is to the right), and the negative for image_03.
    Camera i sees K (x + t) with t = K^-1 p4, so its centre lies at -t. The offsets in y and z,
    3 mm at most, are neglected.
    Raises DataError if the calibration is missing or incomplete.
    """
    if matrices is None:
        raise DataError(
            f"{path}: no such file; stereo needs its P_rect_02 and P_rect_03 for the baseline "
            "(KITTI raw page, 'calibration' of that date)"
        )
    partner = partner_camera(camera)
    centre = {}
    for name in (camera, partner):
        matrix = _matrix_of(matrices, name, path)
        centre[name] = -np.linalg.solve(matrix[:, :3], matrix[:, 3])
    return float(centre[partner][0] - centre[camera][0])


def partner_camera(camera: str) -> str:
    """image_03 for image_02 and the reverse."""
    return "image_03" if camera == "image_02" else "image_02"


def read_poses(path: Path) -> np.ndarray | None:
    """(n, 4, 4) float64 camera -> first-frame transforms in metres, one a row; None without a file.

    Raises DataError if a row is not 12 numbers, or they are no rigid motion.
    """
    if not path.is_file():
        return None
    rows = [line for line in _lines(path) if line.strip()]
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    for number, row in enumerate(rows, start=1):
        where = f"{path}, line {number}"
        poses[number - 1, :3] = _rigid(_numbers(row, 12, where=where).reshape(3, 4), where=where)
    return poses


def read_extrinsics(path: Path) -> dict[tuple[int, int], np.ndarray]:
    """(4, 4) float64 world -> camera transforms in metres, by (frame number, camera number).

    The form of Virtual KITTI 2: a line of headings, then rows `frame cameraID` and 16 numbers.
    Raises DataError if the file is unreadable or empty, a row is not 18 numbers, no rigid motion,
    or repeats an earlier row's frame and camera.
    """
    extrinsics: dict[tuple[int, int], np.ndarray] = {}
    for number, row in enumerate(_lines(path), start=1):
        if not row.strip() or row.startswith("frame"):
            continue
        where = f"{path}, line {number}"
        values = _numbers(row, 18, where=where)
        key = (int(values[0]), int(values[1]))
        if key != tuple(values[:2]) or key in extrinsics:
            raise DataError(f"{where}: not a frame and a camera, or the same as in an earlier line")
        matrix = values[2:].reshape(4, 4)
        if matrix[3].tolist() != [0, 0, 0, 1]:
            raise DataError(f"{where}: the matrix ends with 0 0 0 1, not {matrix[3].tolist()}")
        _rigid(matrix[:3], where=where)
        extrinsics[key] = matrix
    if not extrinsics:
        raise DataError(f"{path}: no rows; restore the file or remove it (no poses then)")
    return extrinsics


def read_camera_matrix(path: Path) -> np.ndarray:
    """(3, 3) float64 intrinsics in pixels from a file of nine numbers; all NaN without a file.

    Raises DataError unless they are finite, focal lengths are positive and the last row is 0 0 1.
    """
    if not path.is_file():
        return UNKNOWN_INTRINSICS.copy()
    matrix = _numbers(" ".join(_lines(path)), 9, where=str(path)).reshape(3, 3)
    if not (matrix[0, 0] > 0 and matrix[1, 1] > 0 and matrix[2].tolist() == [0, 0, 1]):
        raise DataError(
            f"{path}: not a camera matrix 'fx 0 cx 0 fy cy 0 0 1' in pixels: {matrix.tolist()}; "
            "correct the file, or remove it if you have none (intrinsics unknown)"
        )
    return matrix


def _matrix_of(matrices: dict[str, np.ndarray], camera: str, path: Path) -> np.ndarray:
    if camera not in matrices:
        raise DataError(
            f"{path}: has no P_rect_{camera[-2:]}; restore the file from the KITTI raw page, "
            "'calibration' of that date, or remove it if you have none (intrinsics unknown)"
        )
    return matrices[camera]


def _rigid(matrix: np.ndarray, *, where: str) -> np.ndarray:
    """(3, 4) [R | t] as it is. Raises DataError unless R is a rotation."""
    rotation = matrix[:, :3]
    # clipped: the square of a huge number is infinite, and the difference of two no number
    clipped = np.clip(rotation, -2, 2)
    off = np.abs(clipped @ clipped.T - np.eye(3)).max()
    if off > ROTATION_TOLERANCE or np.linalg.det(clipped) < 0:
        raise DataError(f"{where}: not a pose [R | t]: R is no rotation: {rotation.tolist()}")
    return matrix


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from error


def _numbers(text: str, count: int, *, where: str) -> np.ndarray:
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if len(values) != count or not np.isfinite(values).all():
        got = text.strip() if len(text) < 300 else f"{text.strip()[:300]} ..."
        raise DataError(f"{where}: {count} finite numbers expected, got {got!r}")
    return values
