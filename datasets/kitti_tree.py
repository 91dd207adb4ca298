"""Where the files of a KITTI tree lie: drives, pictures, ground truth and calibration.

Ours. People merge the two downloads of KITTI in different ways; each is recognised by what is
there. Folders are listed once each, when first asked for.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from datasets import kitti_calibration as calibration
from datasets.frame import DataError

CAMERAS = ("image_02", "image_03")  # left and right colour camera
RAW_FOLDERS = ("raw", "kitti_raw", ".")  # the first one that holds drives is the raw root
DEPTH_FOLDERS = (  # under the data root; <drive>/proj_depth/... follows
    "data_depth_annotated/train",
    "data_depth_annotated/val",
    "data_depth_annotated",
    "data_depth_velodyne/train",
    "data_depth_velodyne/val",
    "data_depth_velodyne",
    "train",
    "val",
)
IMAGE_SUFFIXES = (".jpg", ".png")  # png where a frame has both


class KittiTree:
    """Index of one tree. `drives` maps the name of each drive to its folder of pictures."""

    def __init__(self, root: Path, depth_kind: str):
        """List the drives; `depth_kind` is the folder below proj_depth.

        Raises DataError if root is no folder or a drive lies under two dates.
        """
        if not root.is_dir():
            raise DataError(f"kitti root {root}: no such folder")
        self.root, self.depth_kind = root, depth_kind
        self.raw, self.drives = self._find_drives()
        self._images: dict[tuple[str, str], dict[int, Path]] = {}
        self._depth_folders: dict[tuple[str, str, str], Path | None] = {}
        self._calibrations: dict[Path, dict[str, np.ndarray] | None] = {}

    def images(self, drive: str, camera: str) -> dict[int, Path]:
        """Pictures of one camera, by frame number; empty if the folder is missing."""
        key = (drive, camera)
        if key not in self._images:
            found = _numbered(self._drive_folder(drive) / camera / "data", IMAGE_SUFFIXES)
            self._images[key] = found
        return self._images[key]

    def image_path(self, drive: str, number: int, camera: str) -> Path:
        """The picture, .png or .jpg; where it would be (.png) if it is missing."""
        missing = self._drive_folder(drive) / camera / "data" / f"{number:010d}.png"
        return self.images(drive, camera).get(number, missing)

    def depth_folder(self, drive: str, camera: str, kind: str | None = None) -> Path | None:
        """Folder of this drive's ground truth of a kind (None: the tree's own), if there is one."""
        key = (drive, camera, kind or self.depth_kind)
        if key not in self._depth_folders:
            parents = [self.root / folder / drive for folder in DEPTH_FOLDERS]
            tails = (
                parent / "proj_depth" / key[-1] / camera
                for parent in [*parents, self._drive_folder(drive)]
            )
            self._depth_folders[key] = next((tail for tail in tails if tail.is_dir()), None)
        return self._depth_folders[key]

    def depth_numbers(self, drive: str, camera: str) -> list[int]:
        """Sorted numbers of the frames that have ground truth."""
        folder = self.depth_folder(drive, camera)
        return [] if folder is None else sorted(_numbered(folder, (".png",)))

    def calibration(self, drive: str) -> tuple[Path, dict[str, np.ndarray] | None]:
        """Calibration file of the drive's date, and its projection matrices; None if no file.

        Without a file intrinsics are unknown (NaN), which depth alone does not need.
        """
        path = self._drive_folder(drive).parent / "calib_cam_to_cam.txt"
        if path not in self._calibrations:
            exists = path.is_file()
            self._calibrations[path] = calibration.projection_matrices(path) if exists else None
        return path, self._calibrations[path]

    def description(self) -> str:
        """What was found, and where it was looked for; for messages."""
        labelled = sum(self.depth_folder(drive, CAMERAS[0]) is not None for drive in self.drives)
        return (
            f"Found {len(self.drives)} drives with pictures (looked for <date>/<drive>/image_02 in "
            f"{', '.join(RAW_FOLDERS)} of {self.root}), {labelled} of them with ground truth "
            f"(looked for <drive>/proj_depth/{self.depth_kind}/image_02 in "
            f"{', '.join(DEPTH_FOLDERS)} and in the drives)"
        )

    def _find_drives(self) -> tuple[Path, dict[str, Path]]:
        for name in RAW_FOLDERS:
            drives: dict[str, Path] = {}
            for folder in sorted((self.root / name).glob("*/*")):
                if not any((folder / camera / "data").is_dir() for camera in CAMERAS):
                    continue
                if folder.name in drives:
                    raise DataError(f"{folder} and {drives[folder.name]}: one drive, two folders")
                drives[folder.name] = folder
            if drives:
                return self.root / name, drives
        return self.root / RAW_FOLDERS[0], {}

    def _drive_folder(self, drive: str) -> Path:
        # a drive that is not there still needs a place, so that a message can name it
        return self.drives.get(drive, self.raw / drive[:10] / drive)


def _numbered(folder: Path, suffixes: tuple[str, ...]) -> dict[int, Path]:
    """Files of `folder` called <ten digits><suffix>, by number."""
    found = {}
    # sorted, so that .png replaces a .jpg of the same frame: it is the lossless one
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        stem, suffix = os.path.splitext(name)
        if len(stem) == 10 and stem.isdigit() and suffix in suffixes:
            found[int(stem)] = folder / name
    return found
