"""Virtual KITTI 2: five rendered scenes under ten conditions, stereo, dense depth.

Source: Cabon, Murray and Humenberger, 2020 (arXiv 2001.10773); the format is that of its site.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from datasets import kitti_calibration, protocol, splits
from datasets.frame import DataError, Frame, read_depth_png, read_image
from datasets.options import check_variant, refuse_depth_scale

UNITS_PER_METRE = 100.0
SKY = 655.35  # metres: the largest value a file can hold marks sky and all that is farther
INTRINSICS = np.array([[725.0087, 0.0, 620.5], [0.0, 725.0087, 187.0], [0.0, 0.0, 1.0]])
BASELINE = 0.532725  # metres; Camera_1 is right of Camera_0
CAMERAS = ("Camera_0", "Camera_1")

# Ours. The ten conditions of a scene (clone, fog, 15-deg-left, ...) show the same cars on the same
# street, so they stay on one side. Scene02 is a short one (233 frames a condition) with both
# moving traffic and buildings.
VAL_SCENES = frozenset({"Scene02"})

# (folder of the pictures, folder of the depth) under the root, as the archives unpack
LAYOUTS = ((".", "."), ("vkitti_2.0.3_rgb", "vkitti_2.0.3_depth"), ("rgb", "depth"))
TEXT_FOLDERS = (".", "vkitti_2.0.3_textgt", "textgt")  # where extrinsic.txt may lie, likewise

Key = tuple[str, str, int, str]  # scene, condition, frame number, camera


class VirtualKitti:
    """Frames of Virtual KITTI 2, 375 x 1242, all labelled.

    Layout: <root>/Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg, and .../frames/depth/Camera_0/
    depth_00000.png under the same root; or the two below vkitti_2.0.3_rgb/ and vkitti_2.0.3_depth/
    (or rgb/ and depth/). Depth is 16-bit, centimetres. It stays true beyond 80 m; sky (655.35 m) is
    no ground truth. Poses are those of <root>/Scene01/clone/extrinsic.txt, or of the same below
    vkitti_2.0.3_textgt/ or textgt/, where there is such a file.

    Ids are "<scene>/<condition>/rgb_<number, five digits>", with " Camera_1" for the right camera.
    Splits: a list file of ids (see `splits.find_list`); without one, by scene and left camera only:
    "val" (VAL_SCENES, all conditions), "train" (the other scenes), "all".
    """

    depth_size = (375, 1242)
    held_out_scenes: frozenset[str] = frozenset()
    without_ground_truth: frozenset[str] = frozenset()
    prediction_units = UNITS_PER_METRE

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        variant: str | None = None,
        depth_scale: float | None = None,
    ):
        """Find the frames of `split`; opens no picture.

        Raises DataError on an unknown split, a variant, a `depth_scale`, a bad list, no frames.
        """
        check_variant("virtual_kitti", variant, ())
        refuse_depth_scale("virtual_kitti", depth_scale, "1/100 m")
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"virtual_kitti root {self.root}: no such folder")
        self._rgb, self._depth = self._layout()
        path = splits.find_list(self.root, split)
        self._keys = self._listed(path) if path else self._computed(split)
        self.frame_ids = tuple(_frame_name(key) for key in self._keys)
        splits.check_unique(self.frame_ids, path or self.root)
        self._extrinsics: dict[Path, dict[tuple[int, int], np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.frame_ids)

    def frame(self, index: int) -> Frame:
        """Frame `index` in its stored size. Raises DataError on a missing or damaged file."""
        return self._frame(self._keys[index])

    def paths(self, index: int) -> dict[str, Path]:
        """Files of frame `index`: "image" and "depth"."""
        return self._paths(self._keys[index])

    @staticmethod
    def scene_of(frame_id: str) -> str:
        """The scene, whatever the condition."""
        return frame_id.partition("/")[0]

    def protocols(self, max_depth: float) -> tuple[protocol.EvalProtocol, ...]:
        """Whole frames up to `max_depth` metres; then KITTI's crop, to compare with KITTI."""
        return protocol.plain(max_depth), protocol.bts()

    def ground_truths(self, index: int) -> dict[str, Callable[[], np.ndarray]]:
        """Reader of the ground truth of a frame: (H, W) float32 metres, 0 = sky."""
        return {"rendered": partial(_read_depth, self.paths(index)["depth"])}

    def has_stereo(self, index: int) -> bool:
        """Whether the other camera's picture of the same instant is there. Opens no picture."""
        return self._paths(_partner(self._keys[index]))["image"].is_file()

    def stereo_frame(self, index: int) -> tuple[Frame, float]:
        """The other camera's frame, and the x of its centre in this camera's frame, in metres.

        Raises DataError without that picture.
        """
        key = self._keys[index]
        return self._frame(_partner(key)), BASELINE if key[-1] == CAMERAS[0] else -BASELINE

    def has_neighbour(self, index: int, offset: int) -> bool:
        """Whether this camera has a picture `offset` frames on. Opens no picture."""
        return self._paths(_neighbour(self._keys[index], offset))["image"].is_file()

    def neighbour_frame(self, index: int, offset: int) -> Frame | None:
        """Same camera and condition, frame number + offset; None at the ends of the scene."""
        if not self.has_neighbour(index, offset):
            return None
        return self._frame(_neighbour(self._keys[index], offset))

    def relative_pose(self, index: int, offset: int) -> np.ndarray | None:
        """(4, 4) float64, metres: coordinates in this camera -> in the one `offset` frames on.

        None where there is no extrinsic.txt or no such picture. Raises DataError if the file is
        damaged or lacks the row of one of the two.
        """
        scene, condition, number, camera = self._keys[index]
        files = (self.root / name / scene / condition / "extrinsic.txt" for name in TEXT_FOLDERS)
        path = next((file for file in files if file.is_file()), None)
        if path is None or not self.has_neighbour(index, offset):
            return None
        if path not in self._extrinsics:
            self._extrinsics[path] = _read_extrinsics(path)
        rows = [(frame, CAMERAS.index(camera)) for frame in (number, number + offset)]
        if missing := [row for row in rows if row not in self._extrinsics[path]]:
            raise DataError(f"{path}: no row of (frame, camera) {missing[0]}; restore the file")
        here, there = (self._extrinsics[path][row] for row in rows)  # world -> camera
        return there @ np.linalg.inv(here)

    def _paths(self, key: Key) -> dict[str, Path]:
        scene, condition, number, camera = key
        middle = Path(scene, condition, "frames")
        return {
            "image": self._rgb / middle / "rgb" / camera / f"rgb_{number:05d}.jpg",
            "depth": self._depth / middle / "depth" / camera / f"depth_{number:05d}.png",
        }

    def _frame(self, key: Key) -> Frame:
        paths = self._paths(key)
        load_depth = partial(_read_depth, paths["depth"])
        return Frame(_frame_name(key), read_image(paths["image"]), INTRINSICS.copy(), load_depth)

    def _layout(self) -> tuple[Path, Path]:
        for rgb, depth in LAYOUTS:
            if any((self.root / rgb).glob("Scene*/*/frames/rgb")):
                return self.root / rgb, self.root / depth
        raise DataError(
            f"virtual_kitti root {self.root}: no Scene*/<condition>/frames/rgb in it, nor in its "
            f"{' or '.join(rgb for rgb, _ in LAYOUTS[1:])}; version 2 is needed, 1.3.1 is laid out "
            "differently"
        )

    def _listed(self, path: Path) -> list[Key]:
        keys = []
        for words in splits.read_list(path, columns=(1, 2)):
            splits.inside(self._rgb, words[0], source=path)
            parts = words[0].split("/")
            number = parts[-1].removeprefix("rgb_")
            camera = words[1] if len(words) == 2 else CAMERAS[0]
            known = len(parts) == 3 and number.isascii() and number.isdigit() and camera in CAMERAS
            if not known:
                raise DataError(
                    f"{path}: line {' '.join(words)!r} is not '<scene>/<condition>/rgb_<number> "
                    "[Camera_1]'"
                )
            keys.append((parts[0], parts[1], int(number), camera))
        return keys

    def _computed(self, split: str) -> list[Key]:
        if split not in ("train", "val", "all"):
            raise DataError(
                f"no list {split}.txt in {self.root}/splits or {self.root}, and {split!r} is not "
                "one of virtual_kitti's own splits: train, val, all"
            )
        keys = [
            (folder.parts[-5], folder.parts[-4], number, CAMERAS[0])
            for folder in sorted(self._rgb.glob(f"Scene*/*/frames/rgb/{CAMERAS[0]}"))
            if split == "all" or (folder.parts[-5] in VAL_SCENES) == (split == "val")
            for number in _numbers(folder)
        ]
        if not keys:
            raise DataError(
                f"split {split!r} is empty: of the scenes under {self._rgb} none is for it; val is "
                f"{', '.join(sorted(VAL_SCENES))}, train is the others"
            )
        return keys


def _frame_name(key: Key) -> str:
    scene, condition, number, camera = key
    return f"{scene}/{condition}/rgb_{number:05d}" + ("" if camera == CAMERAS[0] else f" {camera}")


def _partner(key: Key) -> Key:
    *where, camera = key
    return (*where, CAMERAS[1 - CAMERAS.index(camera)])


def _neighbour(key: Key, offset: int) -> Key:
    scene, condition, number, camera = key
    return scene, condition, number + offset, camera


def _read_extrinsics(path: Path) -> dict[tuple[int, int], np.ndarray]:
    """The file's transforms, refused unless Camera_1 is where BASELINE says.

    That tells world -> camera from its inverse, which nothing else in the file does.
    """
    extrinsics = kitti_calibration.read_extrinsics(path)
    expected = np.eye(4)
    expected[0, 3] = -BASELINE
    for frame, camera in extrinsics:
        if camera != 0 or (frame, 1) not in extrinsics:
            continue
        across = extrinsics[frame, 1] @ np.linalg.inv(extrinsics[frame, 0])
        if not np.allclose(across, expected, rtol=0, atol=0.01):
            raise DataError(
                f"{path}: frame {frame}: Camera_1 is not {BASELINE} m to the right of Camera_0; "
                "the rows of Virtual KITTI 2 are world -> camera"
            )
    return extrinsics


def _numbers(folder: Path) -> list[int]:
    """Sorted frame numbers of the pictures rgb_<number>.jpg of a folder."""
    stems = (os.path.splitext(name) for name in os.listdir(folder))
    numbers = (stem.removeprefix("rgb_") for stem, suffix in stems if suffix == ".jpg")
    return sorted(int(number) for number in numbers if number.isdigit())


def _read_depth(path: Path) -> np.ndarray:
    depth = read_depth_png(path, units_per_metre=UNITS_PER_METRE)
    # half a unit of margin: float32 metres are not exact
    depth[depth > SKY - 0.5 / UNITS_PER_METRE] = 0
    return depth
