"""Coloured point clouds of predicted depth, in camera coordinates (pinhole camera, no distortion).

x to the right, y down, z forward, in metres. Pixel centres are at whole numbers, so a picture
reaches from -1/2 to W - 1/2.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

PLY_VERTEX = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
)
PLY_TYPES = {"f": "float", "u": "uchar"}


def camera_matrix(
    size: tuple[int, int],
    *,
    fx_px: float | None = None,
    fy_px: float | None = None,
    cx_px: float | None = None,
    cy_px: float | None = None,
    fov_degrees: float | None = None,
) -> np.ndarray:
    """Intrinsics of a picture of `size` (height, width): (3, 3) float64, in its pixels.

    Args:
        fx_px, fy_px: focal lengths; fy is fx (square pixels) unless given.
        cx_px, cy_px: principal point; the middle of the picture unless given.
        fov_degrees: horizontal field of view, in (0, 180), instead of `fx_px`.

    Raises:
        ValueError: not exactly one of `fx_px` and `fov_degrees`, or a value that no camera has.
    """
    if (fx_px is None) == (fov_degrees is None):
        raise ValueError("give the focal length or the field of view, one of the two")
    height, width = size
    if fov_degrees is not None:
        if not 0 < fov_degrees < 180:
            raise ValueError(f"a field of view of {fov_degrees:g} degrees is not between 0 and 180")
        fx_px = width / 2 / math.tan(math.radians(fov_degrees) / 2)
    fy_px = fx_px if fy_px is None else fy_px
    cx_px = (width - 1) / 2 if cx_px is None else cx_px
    cy_px = (height - 1) / 2 if cy_px is None else cy_px
    if not (0 < fx_px < math.inf and 0 < fy_px < math.inf):
        raise ValueError(f"focal lengths of {fx_px:g} and {fy_px:g} pixels; they must be positive")
    if not (math.isfinite(cx_px) and math.isfinite(cy_px)):
        raise ValueError(f"a principal point of {cx_px:g}, {cy_px:g} pixels")
    return np.array([[fx_px, 0, cx_px], [0, fy_px, cy_px], [0, 0, 1]], np.float64)


def back_project(depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(H, W) metres along the optical axis -> (H, W, 3) float32 metres: x right, y down, z.

    Args:
        intrinsics: (3, 3) in pixels of `depth`.
    """
    height, width = depth.shape
    x = (np.arange(width) - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (np.arange(height) - intrinsics[1, 2]) / intrinsics[1, 1]
    points = np.empty((height, width, 3), np.float32)
    points[..., 0] = depth * x
    points[..., 1] = depth * y[:, None]
    points[..., 2] = depth
    return points


def write_ply(path: Path, points: np.ndarray, colours: np.ndarray) -> None:
    """A point cloud as binary little-endian PLY (Stanford's format, version 1.0).

    Args:
        points: (N, 3) metres.
        colours: (N, 3) uint8 RGB.
    """
    vertices = np.empty(len(points), PLY_VERTEX)
    for column, name in enumerate("xyz"):
        vertices[name] = points[:, column]
    for column, name in enumerate(("red", "green", "blue")):
        vertices[name] = colours[:, column]
    fields = (f"property {PLY_TYPES[PLY_VERTEX[n].kind]} {n}" for n in PLY_VERTEX.names)
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment metres, camera coordinates: x right, y down, z forward",
        f"element vertex {len(vertices)}",
        *fields,
        "end_header",
    ]
    with path.open("wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii"))
        file.write(vertices.tobytes())
