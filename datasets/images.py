"""Unlabelled pictures: a folder of any layout, or a list. Ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from datasets import kitti_calibration, protocol, splits
from datasets.frame import DataError, Frame, read_image
from datasets.name_lists import read_names
from datasets.names import ListedNames, Names, encoded
from datasets.neighbours import neighbour_path
from datasets.options import check_variant, refuse_depth_scale
from datasets.sizes import stored_size
from datasets.sorting import sorted_names

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
CAMERA_FILE, POSES_FILE = "intrinsics.txt", "poses.txt"  # in the root, if at all


class ImageFolder:
    """Every picture under `root`, sorted by path; no ground truth.

    Splits: "all", every picture in the folder and its subfolders, hidden ones left out; or a list
    file (see `splits.find_list`), one path a line relative to `root`, in which names may contain
    spaces. Ids are the relative paths, with forward slashes, as `Names`: there may be tens of
    millions, best in a list file, as only a list need not be walked and kept. The folder of a
    picture is its scene, and the numbers in the names of its pictures are their order in time
    (`neighbour_path`).

    Two files may lie in `root`; neither is a list, so no split has their names:

    - intrinsics.txt: the 3 x 3 camera matrix, nine numbers, pixels of the stored pictures. All
      pictures of the root are then taken by that camera. Without it intrinsics are unknown (NaN).
    - poses.txt: KITTI odometry form, camera -> world in metres, 12 numbers a row; row k is the k-th
      picture under `root` in sorted order ("all"), also where a list picks some of them.
    """

    held_out_scenes: frozenset[str] = frozenset()
    without_ground_truth: frozenset[str] = frozenset()
    prediction_units = 256.0

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        variant: str | None = None,
        depth_scale: float | None = None,
    ):
        """Find the pictures; opens none.

        Raises DataError on a variant, a `depth_scale`, an unknown split, a bad list, no pictures,
        or a bad intrinsics.txt.
        """
        check_variant("images", variant, ())
        refuse_depth_scale("images", depth_scale, "there is no depth; see dataset 'rgbd'")
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"images root {self.root}: no such folder")
        path = splits.find_list(self.root, split)
        self._refuse_camera_files(path)
        if path is not None:
            self.frame_ids = read_names(self.root, path)
        elif split == "all":
            self.frame_ids = pictures_below(self.root)
        else:
            raise DataError(
                f"no list {split}.txt in {self.root}/splits or {self.root}; a folder of pictures "
                "has the split 'all', and those of its list files"
            )
        self._intrinsics = kitti_calibration.read_camera_matrix(self.root / CAMERA_FILE)

    def __len__(self) -> int:
        return len(self.frame_ids)

    @cached_property
    def depth_size(self) -> tuple[int, int]:
        """(H, W) of the first picture: there is no depth, but every dataset has a size."""
        return stored_size(self.paths(0)["image"])

    def frame(self, index: int) -> Frame:
        """Picture `index` in its stored size. Raises DataError on a missing or damaged file."""
        return self._frame(self.paths(index)["image"])

    def paths(self, index: int) -> dict[str, Path]:
        """The file of picture `index`: "image"."""
        return {"image": self.root / self.frame_ids[index]}

    @staticmethod
    def scene_of(frame_id: str) -> str:
        """The folder of the picture."""
        return str(PurePosixPath(frame_id).parent)

    def protocols(self, max_depth: float) -> tuple[protocol.EvalProtocol, ...]:
        """Whole frames, up to `max_depth` metres: what a prediction would be scored on."""
        return (protocol.plain(max_depth),)

    def ground_truths(self, index: int) -> dict[str, Callable]:
        """None: pictures have no depth."""
        return {}

    def has_neighbour(self, index: int, offset: int) -> bool:
        """Whether the folder has the picture `offset` frames on. Opens no picture."""
        return neighbour_path(self.paths(index)["image"], offset) is not None

    def neighbour_frame(self, index: int, offset: int) -> Frame | None:
        """The picture `offset` frames on in the same folder, listed or not; None without one."""
        path = neighbour_path(self.paths(index)["image"], offset)
        return None if path is None else self._frame(path)

    def relative_pose(self, index: int, offset: int) -> np.ndarray | None:
        """(4, 4) float64, metres: coordinates in this camera -> in the one `offset` frames on.

        None where there is no poses.txt or no such picture. Raises DataError if rows and pictures
        differ in number or a row is no pose.
        """
        path = neighbour_path(self.paths(index)["image"], offset)
        if path is None or self._poses is None:
            return None
        names = (self.frame_ids[index], self._name(path))
        for name in names:
            if name not in self._poses:
                raise DataError(
                    f"{self.root / POSES_FILE}: no row is for {name}, since the split 'all' does "
                    "not have it (it is hidden, of another suffix, or reached by a second link)"
                )
        here, there = (self._poses[name] for name in names)  # camera -> world
        return np.linalg.inv(there) @ here

    @cached_property
    def _poses(self) -> dict[str, np.ndarray] | None:
        """(4, 4) camera -> world by picture. Read when first asked for: few need poses."""
        path = self.root / POSES_FILE
        poses = kitti_calibration.read_poses(path)
        if poses is None:
            return None
        names = pictures_below(self.root)
        if len(poses) != len(names):
            raise DataError(
                f"{path}: {len(poses)} poses for {len(names)} pictures under {self.root}; it needs "
                "one row a picture, in sorted order. Correct the file, or remove it (no poses)"
            )
        return dict(zip(names, poses, strict=True))

    def _frame(self, path: Path) -> Frame:
        return Frame(self._name(path), read_image(path), self._intrinsics.copy())

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _refuse_camera_files(self, path: Path | None) -> None:
        for file in (self.root / CAMERA_FILE, self.root / POSES_FILE):
            if path is not None and file.is_file() and file.samefile(path):
                raise DataError(
                    f"{file} is no list of pictures: in an images root it holds "
                    f"{'poses' if file.name == POSES_FILE else 'the camera matrix'}. The split of "
                    "all pictures is 'all'; give a list another name"
                )


def pictures_below(root: Path) -> Names:
    """Relative paths of all pictures under `root`, sorted; links are followed, each folder once.

    Hidden files and folders are left out. Raises DataError if there is none, or if the name of one
    has a line break.
    """
    names = sorted_names(ListedNames.of(encoded(name) + b"\n" for name in _walk(root)))
    if not names:
        raise DataError(f"images root {root}: no pictures ({', '.join(sorted(SUFFIXES))}) in it")
    return names


def _walk(root: Path) -> Iterator[str]:
    visited: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        # sorted: a folder reached by two links is always found under the same name
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = Path(folder).relative_to(root)
        for file in sorted(files):
            if file.startswith(".") or os.path.splitext(file)[1].lower() not in SUFFIXES:
                continue
            name = (relative / file).as_posix()
            if "\n" in name:
                raise DataError(f"{root}: a line break in the name {name!r}; rename the picture")
            yield name
