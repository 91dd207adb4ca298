"""Any folder of pictures and 16-bit depth, told by a list.

Ours; the lines are those of the BTS lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import numpy as np

from datasets import protocol, splits
from datasets.frame import UNKNOWN_INTRINSICS, DataError, Frame, read_depth_png, read_image
from datasets.neighbours import neighbour_path
from datasets.options import check_variant
from datasets.sizes import stored_size


class RgbdList:
    """Frames named by a list of lines `rgb [depth [fx]]`.

    Paths are relative to `root`, also where the list lies elsewhere. Depth is a 16-bit PNG, metres
    = value / depth_scale, 0 = none; a line without depth is an unlabelled frame. fx is in pixels of
    the stored picture; without it intrinsics are unknown (NaN). With it pixels are taken as square
    and the principal point as the picture's centre.

    Ids are the first column. The folder of a picture is its scene. The names of splits are those of
    the list files there are: root/splits/<split>.txt or root/<split>.txt. The numbers in the names
    of a folder's pictures are their order in time (`neighbour_path`).
    """

    held_out_scenes: frozenset[str] = frozenset()
    without_ground_truth: frozenset[str] = frozenset()

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        variant: str | None = None,
        depth_scale: float | None = None,
    ):
        """Read the list of `split`; opens no picture.

        Args:
            root: folder to which the paths of the list are relative.
            split: path of a list file, or its name.
            variant: must be None.
            depth_scale: units of the depth files per metre: 1000 for millimetres. Required, since
                no file says it and a wrong guess trains without complaint.

        Raises:
            DataError: bad argument, no list, or a bad line in it.
        """
        check_variant("rgbd", variant, ())
        if depth_scale is None or not (math.isfinite(depth_scale) and depth_scale > 0):
            raise DataError(
                f"rgbd needs depth_scale, the units of its depth files per metre (1000 for "
                f"millimetres, 256 for KITTI's), got {depth_scale}"
            )
        self.root, self.depth_scale = Path(root), float(depth_scale)
        self.prediction_units = self.depth_scale
        path = splits.find_list(self.root, split)
        if path is None:
            there = sorted(
                file.name for file in [*self.root.glob("splits/*.txt"), *self.root.glob("*.txt")]
            )
            raise DataError(
                f"rgbd has no list {split}.txt in {self.root}/splits or {self.root}; lists there: "
                f"{', '.join(there) or 'none'}. Write one with lines 'rgb depth [fx]'"
            )
        self._rows = [self._parse(words, path) for words in splits.read_list(path, (1, 2, 3))]
        self.frame_ids = tuple(image for image, _, _ in self._rows)
        splits.check_unique(self.frame_ids, path)
        self._fx = {self.root / image: fx for image, _, fx in self._rows}

    def __len__(self) -> int:
        return len(self.frame_ids)

    @cached_property
    def depth_size(self) -> tuple[int, int]:
        """(H, W) of the first picture, to which all training ground truth is brought.

        Reads one header. Raises DataError if it cannot be read.
        """
        return stored_size(self.paths(0)["image"])

    def frame(self, index: int) -> Frame:
        """Frame `index` in its stored size. Raises DataError on a missing or damaged file."""
        frame_id, _, fx = self._rows[index]
        paths = self.paths(index)
        load_depth = None
        if "depth" in paths:
            load_depth = partial(read_depth_png, paths["depth"], units_per_metre=self.depth_scale)
        return _frame(frame_id, paths["image"], fx, load_depth)

    def has_neighbour(self, index: int, offset: int) -> bool:
        """Whether the folder has the picture `offset` frames on. Opens no picture."""
        return neighbour_path(self.paths(index)["image"], offset) is not None

    def neighbour_frame(self, index: int, offset: int) -> Frame | None:
        """The picture `offset` frames on in the same folder, listed or not; None without one.

        It comes without depth. Its fx is that of its own line, or, where it has none, of this
        frame's: a folder is taken by one camera.
        """
        path = neighbour_path(self.paths(index)["image"], offset)
        if path is None:
            return None
        fx = self._fx.get(path) or self._rows[index][2]
        return _frame(path.relative_to(self.root).as_posix(), path, fx)

    def paths(self, index: int) -> dict[str, Path]:
        """Files of frame `index`: "image", and "depth" if its line names one."""
        image, depth, _ = self._rows[index]
        paths = {"image": self.root / image}
        return paths if depth is None else {**paths, "depth": self.root / depth}

    @staticmethod
    def scene_of(frame_id: str) -> str:
        """The folder of the picture."""
        return str(PurePosixPath(frame_id).parent)

    def protocols(self, max_depth: float) -> tuple[protocol.EvalProtocol, ...]:
        """Whole frames, up to `max_depth` metres."""
        return (protocol.plain(max_depth),)

    def ground_truths(self, index: int) -> dict[str, Callable[[], np.ndarray]]:
        """Reader of the ground truth of a frame, if its line names one: (H, W) float32 metres."""
        path = self.paths(index).get("depth")
        if path is None:
            return {}
        return {"listed": partial(read_depth_png, path, units_per_metre=self.depth_scale)}

    def _parse(self, words: list[str], path: Path) -> tuple[str, str | None, float | None]:
        for relative in words[:2]:
            splits.inside(self.root, relative, source=path)
        # one spelling, or one picture could be in a list twice, or in two lists unnoticed
        files = [str(PurePosixPath(relative)) for relative in words[:2]]
        fx = None
        if len(words) == 3:
            try:
                fx = float(words[2])
            except ValueError:
                fx = math.nan
            if not (math.isfinite(fx) and fx > 0):
                raise DataError(
                    f"{path}: {' '.join(words)!r}: the third column is the focal length in pixels, "
                    "a positive number"
                )
        return files[0], files[1] if len(files) > 1 else None, fx


def _frame(
    frame_id: str, path: Path, fx: float | None, load_depth: Callable[[], np.ndarray] | None = None
) -> Frame:
    image = read_image(path)
    return Frame(frame_id, image, _centred_intrinsics(fx, image.height, image.width), load_depth)


def _centred_intrinsics(fx: float | None, height: int, width: int) -> np.ndarray:
    """(3, 3) camera matrix with square pixels and a central principal point; NaN without fx.

    Pixel centres are at whole numbers, as in KITTI's calibration, so the centre is (W - 1) / 2.
    """
    if fx is None:
        return UNKNOWN_INTRINSICS.copy()
    return np.array([[fx, 0.0, (width - 1) / 2], [0.0, fx, (height - 1) / 2], [0.0, 0.0, 1.0]])
