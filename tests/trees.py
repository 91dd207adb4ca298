"""Tiny data sets in the exact folder layouts of the real ones, for tests.

Import as `from trees import kitti_tree`. Every function writes under `root` and returns it.
Pictures are smooth, depth has holes, and both are functions of the frame number, so a test can
compute what it should read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

KITTI_DRIVES = {  # a training drive, one of our validation drives and a test drive of KITTI
    "2011_09_26_drive_0001_sync": range(5, 11),
    "2011_09_26_drive_0005_sync": range(5, 8),
    "2011_09_26_drive_0052_sync": range(6, 10),
}
KITTI_CALIBRATION = {  # P_rect of 2011_09_26
    "P_rect_02": "721.5377 0 609.5593 44.85728 0 721.5377 172.854 0.2163791 0 0 1 0.002745884",
    "P_rect_03": "721.5377 0 609.5593 -339.5242 0 721.5377 172.854 2.199936 0 0 1 0.002729905",
}


def picture(size: tuple[int, int], number: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: a gradient whose blue is the frame number."""
    height, width = size
    rows = np.linspace(40, 215, height)[:, None].repeat(width, 1)
    columns = np.linspace(40, 215, width)[None].repeat(height, 0)
    blue = np.full(size, 10 * number % 256)
    return np.stack([rows, columns, blue], axis=-1).astype(np.uint8)


def depth_units(size: tuple[int, int], number: int = 0) -> np.ndarray:
    """(H, W) uint16 stored depth values, in 500..1611 + number; every other pixel a hole (0)."""
    height, width = size
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    values = 500 + rows + columns + number
    return np.where((rows + columns) % 2 == 0, values, 0).astype(np.uint16)


def write_picture(path: Path, size: tuple[int, int], number: int = 0) -> Path:
    """Save `picture` in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(size, number)).save(path)
    return path


def write_depth(path: Path, units: np.ndarray) -> Path:
    """Save an array as a PNG: 16-bit for uint16, 8-bit for uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(units).save(path)
    return path


def write_list(path: Path, lines: Iterable[str]) -> Path:
    """Save a split list, one line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def kitti_tree(
    root: Path,
    *,
    drives: Mapping[str, Iterable[int]] = KITTI_DRIVES,
    size: tuple[int, int] = (24, 80),
    raw: str = "raw",
    annotated: str = "data_depth_annotated",
    kinds: Sequence[str] = ("groundtruth", "velodyne_raw"),
    cameras: Sequence[str] = ("image_02", "image_03"),
    suffix: str = ".jpg",
    date: str | None = None,
    poses: bool = False,
) -> Path:
    """KITTI raw with annotated depth.

    Args:
        root: where to write.
        drives: drive -> numbers of its frames; each has a picture and depth of each camera.
        size: (H, W) of pictures and depth.
        raw: folder of the dates, below root ("" for root itself).
        annotated: folder of the ground truth, below root; "merged" puts it into the raw drives.
        kinds: folders below proj_depth; depth in "velodyne_raw" has the first ten rows empty.
        cameras: which cameras exist.
        suffix: ".jpg" or ".png".
        date: folder of the drives; None takes the first ten characters of their names.
        poses: also write root/poses: the camera moves 1 m forward a frame.
    """
    for drive, numbers in drives.items():
        folder = root / raw / (date or drive[:10])
        truth = folder / drive if annotated == "merged" else root / annotated / drive
        for number in numbers:
            for camera in cameras:
                name = f"{camera}/data/{number:010d}{suffix}"
                write_picture(folder / drive / name, size, number)
                for kind in kinds:
                    units = depth_units(size, number)
                    if kind == "velodyne_raw":
                        units[:10] = 0
                    write_depth(truth / f"proj_depth/{kind}/{camera}/{number:010d}.png", units)
        lines = [f"{key}: {value}" for key, value in KITTI_CALIBRATION.items()]
        write_list(folder / "calib_cam_to_cam.txt", ["calib_time: 09-Jan-2012 13:57:47", *lines])
        if poses:
            rows = [f"1 0 0 0 0 1 0 0 0 0 1 {position}" for position, _ in enumerate(numbers)]
            write_list(root / f"poses/{drive}/image_02.txt", rows)
    return root


def nyu_bts_tree(
    root: Path,
    *,
    scenes: Mapping[str, Iterable[int]] | None = None,
    test: Mapping[str, Iterable[int]] | None = None,
    prefix: str = "nyu_depth_v2/",
) -> Path:
    """NYU as BTS unpacks it: <prefix>sync/<scene>/ and <prefix>official_splits/test/<type>/.

    The default scenes include bedroom_0026, which is one of the held-out validation scenes.
    """
    scenes = {"bedroom_0001": range(3), "bedroom_0026": range(2)} if scenes is None else scenes
    test = {"bathroom": [45, 46]} if test is None else test
    for folder, content in ((f"{prefix}sync", scenes), (f"{prefix}official_splits/test", test)):
        for scene, numbers in content.items():
            for number in numbers:
                place = root / folder / scene
                write_picture(place / f"rgb_{number:05d}.jpg", (480, 640), number)
                write_depth(place / f"sync_depth_{number:05d}.png", depth_units((480, 640), number))
    return root


def nyu_densedepth_tree(root: Path, *, prefix: str = "data/") -> Path:
    """NYU as DenseDepth unpacks it: 8-bit training depth, 16-bit test depth, and the two lists."""
    rows: dict[str, list[str]] = {"train": [], "test": []}
    for scene, numbers in {"bedroom_0001_out": (1, 2, 10), "bedroom_0026_out": (1,)}.items():
        for number in numbers:
            stem = root / prefix / f"nyu2_train/{scene}/{number}"
            write_picture(stem.with_suffix(".jpg"), (480, 640), number)
            units = (depth_units((480, 640), number) // 8).astype(np.uint8)
            write_depth(stem.with_suffix(".png"), units)
            name = f"data/nyu2_train/{scene}/{number}"
            rows["train"].append(f"{name}.jpg,{name}.png")
    for number in range(2):
        stem = f"nyu2_test/{number:05d}"
        write_picture(root / prefix / f"{stem}_colors.png", (480, 640), number)
        write_depth(root / prefix / f"{stem}_depth.png", depth_units((480, 640), number))
        rows["test"].append(f"data/{stem}_colors.png,data/{stem}_depth.png")
    for split, lines in rows.items():
        write_list(root / prefix / f"nyu2_{split}.csv", lines)
    return root


def nyu_labeled_tree(root: Path, *, indices: Iterable[int] = (1, 2, 1449)) -> Path:
    """The official labelled frames, as `datasets.prepare` extracts them."""
    for index in indices:
        folder = root / "labeled"
        write_picture(folder / f"rgb_{index:05d}.jpg", (480, 640), index)
        units = depth_units((480, 640), index % 100)
        write_depth(folder / f"raw_depth_{index:05d}.png", units)
        write_depth(
            folder / f"filled_depth_{index:05d}.png",
            np.where(units > 0, units, 777).astype(np.uint16),
        )
    return root


def virtual_kitti_tree(
    root: Path,
    *,
    scenes: Sequence[str] = ("Scene01", "Scene02"),
    conditions: Sequence[str] = ("clone", "fog"),
    num_frames: int = 2,
    size: tuple[int, int] = (24, 80),
    rgb: str = "",
    depth: str = "",
    text: str | None = None,
) -> Path:
    """Virtual KITTI 2; pixel (0, 0) of all depth is sky. `rgb`, `depth`: separate folders.

    With `text`, a folder below root ("" for root itself), there are extrinsic.txt: see
    `virtual_kitti_extrinsics`.
    """
    for scene in scenes:
        for condition in conditions:
            if text is not None:
                rows = virtual_kitti_extrinsics(num_frames)
                write_list(root / text / scene / condition / "extrinsic.txt", rows)
            middle = Path(scene, condition, "frames")
            for number in range(num_frames):
                for camera in ("Camera_0", "Camera_1"):
                    place = root / rgb / middle / "rgb" / camera
                    write_picture(place / f"rgb_{number:05d}.jpg", size, number)
                    units = depth_units(size, number)
                    units[0, 0] = 65535
                    place = root / depth / middle / "depth" / camera
                    write_depth(place / f"depth_{number:05d}.png", units)
    return root


def virtual_kitti_extrinsics(num_frames: int) -> list[str]:
    """Lines of extrinsic.txt, world -> camera: the cameras look along the world's x, and go 1 m
    forward a frame."""
    rows = ["frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1"]
    rotation = np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]])
    for number in range(num_frames):
        for camera, across in enumerate((0, 0.532725)):
            centre = np.array([100.0 + number, 2, 30 - across])  # in the world; right is -z
            matrix = np.column_stack([rotation, -rotation @ centre]).ravel()
            numbers = " ".join(f"{value:g}" for value in matrix)
            rows.append(f"{number} {camera} {numbers} 0 0 0 1")
    return rows


def rgbd_tree(
    root: Path,
    *,
    scenes: Mapping[str, int] | None = None,
    size: tuple[int, int] = (24, 32),
) -> Path:
    """An RGB-D folder, millimetres, with train.txt and, holding the last scene, val.txt."""
    scenes = {"desk": 3, "hall": 2} if scenes is None else scenes
    lines: dict[str, list[str]] = {"train": [], "val": []}
    for scene, num_frames in scenes.items():
        split = "val" if scene == list(scenes)[-1] else "train"
        for number in range(num_frames):
            image, depth = f"{scene}/rgb_{number:05d}.jpg", f"{scene}/sync_depth_{number:05d}.png"
            write_picture(root / image, size, number)
            write_depth(root / depth, depth_units(size, number))
            lines[split].append(f"{image} {depth} 30.5")
    for split, rows in lines.items():
        write_list(root / f"{split}.txt", rows)
    return root


def image_tree(root: Path, *, size: tuple[int, int] = (24, 32)) -> Path:
    """Unlabelled pictures in several formats and depths of folders, with a file that is none."""
    for number, name in enumerate(["b.png", "a/2.JPG", "a/deep/er/1.jpeg", "a b/with space.jpg"]):
        write_picture(root / name, size, number)
    write_picture(root / ".hidden" / "cache.png", size)
    (root / "notes.md").write_text("no picture", encoding="utf-8")
    return root


def video_tree(
    root: Path,
    *,
    folders: Mapping[str, Iterable[int]] | None = None,
    size: tuple[int, int] = (24, 32),
    poses: bool = True,
) -> Path:
    """Unlabelled video frames <folder>/<six digits>.jpg of one camera, intrinsics.txt, poses.txt.

    The camera goes a metre forward from picture to picture, also from folder to folder.
    """
    folders = {"a": range(8, 12), "b": range(2)} if folders is None else folders
    for folder, numbers in folders.items():
        for number in numbers:
            write_picture(root / folder / f"{number:06d}.jpg", size, number)
    write_list(root / "intrinsics.txt", ["30.5 0 15.5", "0 30 11.5", "0 0 1"])
    if poses:
        count = sum(len(list(numbers)) for numbers in folders.values())
        write_list(root / "poses.txt", [f"1 0 0 0 0 1 0 0 0 0 1 {z}" for z in range(count)])
    return root
