"""One synthetic scene -> its files in KITTI's layout: pictures, depth, lidar-like depth, poses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from .synthetic_look import LOOKS, draw_appearance
from .synthetic_render import Camera, cast, depth_of
from .synthetic_scene import BASELINE_METRES, FRAMES_PER_SECOND, Scene, draw_scene
from .synthetic_shading import Shader, develop

UNITS_PER_METRE = 256
JPEG_QUALITY = 92
CAMERAS = {"image_02": 0.0, "image_03": BASELINE_METRES}  # metres to the right of the left camera
LIDAR_ROWS_DEG = np.linspace(2.0, -24.8, 64)  # Velodyne HDL-64E, the scanner of KITTI
LIDAR_MAX_METRES = 80.0
LIDAR_SHARE = 0.052  # of the pixels are aimed at; some hit the sky, are dropped or lie too far
LIDAR_DROPOUT = 0.1


class TreeFiles:
    """Where the files of one split of a tree lie."""

    def __init__(self, folder: Path, split: int):
        """`split` counts from 0 and decides the date, so that no two splits share a drive."""
        self.folder = folder
        self.date = f"2026_01_{split + 1:02d}"
        self.split = split

    def drive(self, number: int) -> str:
        """Name of the drive of scene `number`."""
        return f"{self.date}_drive_{number:04d}_sync"

    def image(self, number: int, camera: str, frame: int) -> Path:
        """A picture."""
        drive = self.folder / "raw" / self.date / self.drive(number)
        return drive / camera / "data" / f"{frame:010d}.jpg"

    def depth(self, number: int, kind: str, camera: str, frame: int) -> Path:
        """Ground truth; `kind` is groundtruth (dense) or velodyne_raw (sparse)."""
        drive = self.folder / "data_depth_annotated" / self.drive(number)
        return drive / "proj_depth" / kind / camera / f"{frame:010d}.png"

    def poses(self, number: int, camera: str) -> Path:
        """Camera poses of a drive."""
        return self.folder / "poses" / self.drive(number) / f"{camera}.txt"

    def write_calibration(self, size: tuple[int, int]) -> None:
        """Write the date's calib_cam_to_cam.txt, both cameras rectified, camera 0 = left camera."""
        matrix = intrinsics(size)
        lines = ["calib_time: 01-Jan-2026 00:00:00", "corner_dist: 0.0"]
        for camera, right in CAMERAS.items():
            offset = np.array([[-matrix[0, 0] * right], [0.0], [0.0]])
            projection = np.hstack([matrix, offset])
            entries = {
                "S_rect": np.array(size[::-1], np.float64),
                "R_rect": np.eye(3),
                "P_rect": projection,
            }
            lines += [f"{key}_{camera[-2:]}: {_numbers(value)}" for key, value in entries.items()]
        path = self.folder / "raw" / self.date / "calib_cam_to_cam.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def intrinsics(size: tuple[int, int]) -> np.ndarray:
    """(3, 3) camera matrix, pixels of a picture of `size` (H, W): KITTI's field of view."""
    height, width = size
    focal = 0.58 * width
    return np.array(
        [[focal, 0, 0.491 * width - 0.5], [0, focal, 0.461 * height - 0.5], [0, 0, 1.0]]
    )


def scene_of(seed: int, split: int, number: int, num_frames: int) -> Scene:
    """Scene `number` of a split; the look has no say in it."""
    return draw_scene(np.random.default_rng([seed, split, number]), num_frames)


def shader_of(scene: Scene, look: str, seed: int, split: int, number: int) -> Shader:
    """The same scene, lit and painted in `look`."""
    rng = np.random.default_rng([seed, split, number, 1 + list(LOOKS).index(look)])
    return Shader(scene, draw_appearance(LOOKS[look], scene.world, rng))


def cameras_at(scene: Scene, frame: int, size: tuple[int, int]) -> dict[str, Camera]:
    """Both cameras at a frame of the drive, by name."""
    matrix = intrinsics(size)
    cameras = {}
    for name, right in CAMERAS.items():
        pose = scene.drive.poses(right)[frame]
        cameras[name] = Camera(pose[:3, :3], pose[:3, 3], matrix, size)
    return cameras


def write_scene(
    files: TreeFiles, look: str, *, number: int, num_frames: int, size: tuple[int, int], seed: int
) -> None:
    """Render all frames of one scene and write their files."""
    scene = scene_of(seed, files.split, number, num_frames)
    shader = shader_of(scene, look, seed, files.split, number)
    _make_folders(files, number)
    for camera, right in CAMERAS.items():
        poses = scene.drive.poses(right)
        poses = np.linalg.inv(poses[0]) @ poses  # KITTI odometry: relative to the first frame
        text = "".join(_numbers(pose[:3]) + "\n" for pose in poses)
        files.poses(number, camera).write_text(text, encoding="utf-8")
    for frame in range(num_frames):
        time_s = frame / FRAMES_PER_SECOND
        # the lidar does not depend on the look: both looks have the same ground truth
        lidar = np.random.default_rng([seed, files.split, number, 0, frame])
        sensor = np.random.default_rng([seed, files.split, number, 9, frame])
        for name, camera in cameras_at(scene, frame, size).items():
            hits = cast(scene.world, camera, time_s)
            picture = develop(shader.radiance(camera, hits, time_s), shader.appearance, sensor)
            image = Image.fromarray(picture)
            image.save(files.image(number, name, frame), quality=JPEG_QUALITY)
            units = np.rint(depth_of(hits) * UNITS_PER_METRE).astype(np.uint16)
            _save_depth(units, files.depth(number, "groundtruth", name, frame))
            sparse = np.where(lidar_mask(units, camera, lidar), units, np.uint16(0))
            _save_depth(sparse, files.depth(number, "velodyne_raw", name, frame))


def lidar_mask(units: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Which pixels a 64-row scanner at the camera would have measured, (H, W) bool.

    `units` is dense depth (H, W) in 1/256 m. The rows are those of the scanner; the azimuth step
    follows from LIDAR_SHARE, about 0.13 degrees at KITTI's own size. No returns beyond 80 m.
    """
    height, width = camera.size
    matrix = camera.intrinsics
    left, right = np.arctan((np.array([0, width - 1]) - matrix[0, 2]) / matrix[0, 0])
    falls = np.tan(-np.radians(LIDAR_ROWS_DEG))
    inside = (falls * matrix[1, 1] + matrix[1, 2] < height - 0.5).sum()
    count = max(int(LIDAR_SHARE * height * width / inside), 1)
    azimuth = left + (right - left) * (np.arange(count) + rng.random()) / count
    column = np.rint(np.tan(azimuth) * matrix[0, 0] + matrix[0, 2]).astype(int)
    row = np.rint(falls[:, None] / np.cos(azimuth) * matrix[1, 1] + matrix[1, 2]).astype(int)
    column = np.broadcast_to(column, row.shape)
    kept = (row >= 0) & (row < height) & (column < width) & (rng.random(row.shape) > LIDAR_DROPOUT)
    mask = np.zeros((height, width), bool)
    mask[row[kept], column[kept]] = True
    return mask & (units > 0) & (units <= LIDAR_MAX_METRES * UNITS_PER_METRE)


def _make_folders(files: TreeFiles, number: int) -> None:
    for camera in CAMERAS:
        paths = [
            files.image(number, camera, 0),
            files.depth(number, "groundtruth", camera, 0),
            files.depth(number, "velodyne_raw", camera, 0),
            files.poses(number, camera),
        ]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)


def _save_depth(units: np.ndarray, path: Path) -> None:
    Image.fromarray(units).save(path, compress_level=1)


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.12e}" for value in np.asarray(values).ravel())
