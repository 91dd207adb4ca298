"""KITTI: raw drives with annotated depth, in the folder layouts people really have.

Images are native: five sizes exist, by date. Ground truth is metres = value / 256, 0 = none
(Uhrig et al., 3DV 2017). The synthetic dataset is written in this layout and read by this class.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from datasets import kitti_calibration as calibration
from datasets import kitti_split, protocol, splits
from datasets.frame import DataError, Frame, read_depth_png, read_image
from datasets.kitti_tree import CAMERAS, KittiTree
from datasets.options import check_variant, refuse_depth_scale
from datasets.sizes import stored_size

UNITS_PER_METRE = 256.0
DEPTH_KINDS = {"annotated": "groundtruth", "velodyne_raw": "velodyne_raw"}  # variant -> folder
NATIVE_SIZES = ((375, 1242), (370, 1226), (374, 1238), (376, 1241), (370, 1224))


class Kitti:
    """Frames of KITTI raw, labelled where the tree holds ground truth for the drive and camera.

    Splits: a list file (see `splits.find_list`), whose lines may be ours (`<drive> <frame>
    [image_03]`), monodepth2's (`<date>/<drive> <frame> l|r`) or BTS's (`<date>/<drive>/image_02/
    data/<frame>.png <ground truth> [focal length]`; only the first column is used). Without a list
    file the tree and `kitti_split` decide, left camera only:

    - "train_all": frames with ground truth in the 33 Eigen training drives (23,158 on full KITTI);
    - "val": those of `kitti_split.VAL_DRIVES`, held out of them;  "train": the other ones;
    - "test": the 652 Eigen test frames with annotated ground truth, "test_697": all 697;
    - "all": every frame with ground truth, in any drive.

    Drives of which the tree holds no images do not count in train_all, train, val and all; a
    missing file of any other drive is found by `splits.check_files`.
    """

    held_out_scenes = kitti_split.TEST_DRIVES
    prediction_units = UNITS_PER_METRE

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        variant: str | None = None,
        depth_scale: float | None = None,
    ):
        """Find the frames of `split` under `root`; opens no picture.

        Args:
            root: folder that holds raw/ (or kitti_raw/, or the dates themselves) and
                data_depth_annotated/ (with or without train/ and val/; also accepted: train/ and
                val/ in the root, or ground truth merged into the drives).
            split: path of a list file, or a name.
            variant: "annotated" (None: the same) or "velodyne_raw", single lidar scans.
            depth_scale: must be None, KITTI's is known.

        Raises:
            DataError: bad argument, bad list, or no frame found.
        """
        check_variant("kitti", variant, DEPTH_KINDS)
        refuse_depth_scale("kitti", depth_scale, "1/256 m")
        self.root = Path(root)
        self.variant = variant or "annotated"
        self.tree = KittiTree(self.root, DEPTH_KINDS[self.variant])
        path = splits.find_list(root, split)
        keys = self._listed(path) if path else self._computed(split)
        self._keys = tuple(keys)  # (drive, frame number, camera)
        self._poses: dict[Path, dict[int, np.ndarray] | None] = {}
        self.frame_ids = tuple(kitti_split.frame_name(*key) for key in self._keys)
        splits.check_unique(self.frame_ids, path or self.root)

    def __len__(self) -> int:
        return len(self.frame_ids)

    @cached_property
    def depth_size(self) -> tuple[int, int]:
        """(H, W) to which training ground truth is brought so that it can be batched.

        The stored size of the frames if all drives of the split share one that is none of KITTI's
        five (a synthetic tree); else (375, 1242), the size of most of KITTI. Reads the header of
        one picture a drive. Raises DataError if one of them cannot be read.
        """
        first = {drive: (drive, number, camera) for drive, number, camera in reversed(self._keys)}
        sizes = {stored_size(self.tree.image_path(*key)) for key in first.values()}
        if len(sizes) == 1 and not sizes & set(NATIVE_SIZES):
            return sizes.pop()
        return NATIVE_SIZES[0]

    def frame(self, index: int) -> Frame:
        """Frame `index` in its stored size. Raises DataError on a missing or damaged file."""
        return self._frame(*self._keys[index])

    def paths(self, index: int) -> dict[str, Path]:
        """Files of frame `index`: "image", and "depth" where its drive and camera have some."""
        return self._paths(*self._keys[index])

    @staticmethod
    def scene_of(frame_id: str) -> str:
        """The drive: frames of one drive are near-duplicates."""
        return frame_id.partition(" ")[0]

    def protocols(self, max_depth: float) -> tuple[protocol.EvalProtocol, ...]:
        """The protocols under which KITTI is scored, the default first. Their caps are theirs,
        whatever the `max_depth` of the network."""
        return protocol.kitti()

    def ground_truths(self, index: int) -> dict[str, Callable[[], np.ndarray]]:
        """Readers of every kind of ground truth that a frame has: (H, W) float32 metres, 0 = none.

        The dataset's own variant comes first, where its drive has any.
        """
        drive, number, camera = self._keys[index]
        kinds = {self.variant: DEPTH_KINDS[self.variant], **DEPTH_KINDS}
        folders = {name: self.tree.depth_folder(drive, camera, kinds[name]) for name in kinds}
        files = {name: f / f"{number:010d}.png" for name, f in folders.items() if f is not None}
        return {
            name: partial(read_depth_png, file, units_per_metre=UNITS_PER_METRE)
            for name, file in files.items()
            if name == self.variant or file.is_file()
        }

    @cached_property
    def without_ground_truth(self) -> frozenset[str]:
        """Frames of the split that never had ground truth: 45 of the 697 Eigen test frames."""
        return kitti_split.without_ground_truth() & frozenset(self.frame_ids)

    def has_stereo(self, index: int) -> bool:
        """Whether the other camera's picture of the same instant is there. Opens no picture."""
        drive, number, camera = self._keys[index]
        return number in self.tree.images(drive, calibration.partner_camera(camera))

    def stereo_frame(self, index: int) -> tuple[Frame, float]:
        """The other camera's picture of the same instant, and the signed baseline in metres.

        The baseline is the x of the partner's centre in this camera's frame: positive for a left
        frame. Raises DataError without that picture or a calibration of the date.
        """
        drive, number, camera = self._keys[index]
        path, matrices = self.tree.calibration(drive)
        baseline = calibration.stereo_baseline(matrices, camera, path)
        return self._frame(drive, number, calibration.partner_camera(camera)), baseline

    def has_neighbour(self, index: int, offset: int) -> bool:
        """Whether the drive has this camera's picture `offset` frames on. Opens no picture."""
        drive, number, camera = self._keys[index]
        return number + offset in self.tree.images(drive, camera)

    def neighbour_frame(self, index: int, offset: int) -> Frame | None:
        """Same camera, frame number + offset; None where the drive has no such picture."""
        if not self.has_neighbour(index, offset):
            return None
        drive, number, camera = self._keys[index]
        return self._frame(drive, number + offset, camera)

    def relative_pose(self, index: int, offset: int) -> np.ndarray | None:
        """(4, 4) float64, metres: coordinates in this camera -> in the one `offset` frames on.

        Read from root/poses/<drive>/<camera>.txt, KITTI odometry form, row k = k-th picture of the
        drive. None where there is no such file or no such frame.
        Raises DataError if rows and pictures differ in number.
        """
        drive, number, camera = self._keys[index]
        poses = self._poses_of(drive, camera)
        if poses is None or number not in poses or number + offset not in poses:
            return None
        return np.linalg.inv(poses[number + offset]) @ poses[number]

    def _poses_of(self, drive: str, camera: str) -> dict[int, np.ndarray] | None:
        """(4, 4) camera -> first-frame transforms by frame number; None without a file."""
        path = self.root / "poses" / drive / f"{camera}.txt"
        if path not in self._poses:
            poses, numbers = calibration.read_poses(path), sorted(self.tree.images(drive, camera))
            if poses is not None and len(poses) != len(numbers):
                raise DataError(
                    f"{path}: {len(poses)} poses for {len(numbers)} pictures of the drive"
                )
            self._poses[path] = None if poses is None else dict(zip(numbers, poses, strict=True))
        return self._poses[path]

    def _paths(self, drive: str, number: int, camera: str) -> dict[str, Path]:
        paths = {"image": self.tree.image_path(drive, number, camera)}
        folder = self.tree.depth_folder(drive, camera)
        return paths if folder is None else {**paths, "depth": folder / f"{number:010d}.png"}

    def _frame(self, drive: str, number: int, camera: str) -> Frame:
        paths = self._paths(drive, number, camera)
        calibration_path, matrices = self.tree.calibration(drive)
        load_depth = None
        if "depth" in paths:
            load_depth = partial(read_depth_png, paths["depth"], units_per_metre=UNITS_PER_METRE)
        return Frame(
            frame_id=kitti_split.frame_name(drive, number, camera),
            image=read_image(paths["image"]),
            intrinsics=calibration.camera_matrix(matrices, camera, calibration_path),
            load_depth=load_depth,
        )

    def _listed(self, path: Path) -> list[tuple[str, int, str]]:
        keys = []
        for words in splits.read_list(path, columns=(1, 2, 3)):
            splits.inside(self.root, words[0], source=path)
            keys.append(kitti_split.parse_line(words, path))
        return keys

    def _computed(self, split: str) -> list[tuple[str, int, str]]:
        fixed = {"test": kitti_split.eigen_test_652, "test_697": kitti_split.eigen_test_697}
        if split in fixed:
            ids = fixed[split]()
            keys = [kitti_split.parse_line(name.split(), self.root) for name in ids]
            if not any(drive in self.tree.drives for drive, _, _ in keys):
                raise DataError(self._nothing_found(split, kitti_split.TEST_DRIVES))
            return keys
        allowed = {
            "all": None,
            "train_all": kitti_split.TRAIN_DRIVES,
            "train": kitti_split.TRAIN_DRIVES - kitti_split.VAL_DRIVES,
            "val": kitti_split.VAL_DRIVES,
        }
        if split not in allowed:
            raise DataError(
                f"no list {split}.txt in {self.root}/splits or {self.root}, and {split!r} is not "
                f"one of kitti's own splits: {', '.join([*allowed, *fixed])}"
            )
        drives = sorted(set(self.tree.drives) & (allowed[split] or set(self.tree.drives)))
        keys = [
            (drive, number, CAMERAS[0])
            for drive in drives
            for number in self.tree.depth_numbers(drive, CAMERAS[0])
        ]
        if not keys:
            raise DataError(self._nothing_found(split, allowed[split]))
        return keys

    def _nothing_found(self, split: str, allowed: frozenset[str] | None) -> str:
        wanted = "" if allowed is None else f" of the {len(allowed)} drives it is made of"
        return f"split {split!r} is empty: no frame{wanted}. {self.tree.description()}"
