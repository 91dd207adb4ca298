"""NYU Depth v2, in the incompatible forms that share the name.

Source: Silberman et al., ECCV 2012; intrinsics of its toolbox; borders as BTS's preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import protocol, splits
from datasets.frame import DataError, Frame, read_image
from datasets.nyu_variants import (
    MILLIMETRES,
    VARIANTS,
    Entry,
    is_held_out,
    other_depths,
    scene_of,
)
from datasets.options import check_variant, refuse_depth_scale

SIZE = (480, 640)
INTRINSICS = np.array([[518.8579, 0.0, 325.5824], [0.0, 519.4696, 253.7362], [0.0, 0.0, 1.0]])

# Undistortion left a white border around every picture. BTS's extractor blackens it in the test
# pictures and leaves it white in the training ones; here train and test look alike.
PICTURE_BOX = (7, 474, 7, 632)  # rows 7:474, columns 7:632


class Nyu:
    """NYU Depth v2 frames of 480 x 640.

    Variants, each with its own scale, and their layout under `root`:

    - "bts" (default): depth 16-bit, millimetres, 0 = none. [nyu_depth_v2/]sync/<scene>/
      {rgb_00045.jpg, sync_depth_00045.png} and [nyu_depth_v2/]official_splits/test/<type>/ with the
      same names; `root` may be the sync folder itself. Ids "<scene>/rgb_00045.jpg".
    - "densedepth": [data/]nyu2_train/<scene>_out/{1.jpg, 1.png}, depth 8-bit, 255 = 10 m, filled;
      [data/]nyu2_test/{00000_colors.png, 00000_depth.png}, depth 16-bit, millimetres. Ids
      "nyu2_train/<scene>_out/1.jpg".
    - "labeled": [labeled/]{rgb_00001.jpg or .png, raw_depth_00001.png, filled_depth_00001.png} by
      official index 1..1449, extracted from nyu_depth_v2_labeled.mat by `datasets.prepare`; depth
      16-bit, millimetres; ground truth is the raw depth, or for "labeled_filled" the in-filled one.
      Ids "<scene>/rgb_00001", and "labeled/rgb_00001" where the list names no scene.

    In training frames of bts and densedepth the depth outside rows 45:472, columns 43:608 is no
    ground truth; test ground truth is whole. Pictures are black outside rows 7:474 and columns
    7:632.

    Lists (see `splits.find_list`): bts `[/]<scene>/rgb_x.jpg [[/]<scene>/sync_depth_x.png [fx]]`,
    where one leading slash, as BTS writes it, is dropped; densedepth `[data/]x.jpg,[data/]x.png` in
    a .csv file, or with a space in a .txt file; labeled `<index> [<scene>]`. Without a list file
    the tree decides. For bts and densedepth: "train_all", the pairs in the training folder; "val",
    those of the scenes held out by `nyu_variants.is_held_out`, about one in 20; "train", the
    others; "test", the test folder. For labeled: "all".
    """

    depth_size = SIZE
    held_out_scenes: frozenset[str] = frozenset()  # the test pictures' rooms are not named
    without_ground_truth: frozenset[str] = frozenset()
    prediction_units = MILLIMETRES
    scene_of = staticmethod(scene_of)

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        variant: str | None = None,
        depth_scale: float | None = None,
    ):
        """Find the frames of `split`; opens no picture.

        Raises DataError on an unknown variant or split, a `depth_scale`, a bad list, no frames.
        """
        check_variant("nyu", variant, VARIANTS)
        refuse_depth_scale("nyu", depth_scale, "it depends on the variant")
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"nyu root {self.root}: no such folder")
        self.variant = variant or "bts"
        path = splits.find_list(self.root, split)
        if path:
            self._entries = VARIANTS[self.variant].listed(self.root, path)
        else:
            self._entries = self._computed(split)
        self.frame_ids = tuple(frame_id for frame_id, _, _ in self._entries)
        splits.check_unique(self.frame_ids, path or self.root)

    def __len__(self) -> int:
        return len(self.frame_ids)

    def frame(self, index: int) -> Frame:
        """Frame `index`, its white border black. Raises DataError on a missing or damaged file."""
        frame_id, image_path, depth_path = self._entries[index]
        image = read_image(image_path)
        if (image.height, image.width) != SIZE:
            raise DataError(
                f"{image_path}: {image.height} x {image.width} pixels, but NYU is 480 x 640; use "
                "the original files, or dataset 'rgbd' for resized ones"
            )
        read_depth = VARIANTS[self.variant].read_depth
        load_depth = None if depth_path is None else partial(read_depth, depth_path)
        return Frame(frame_id, _without_border(image), INTRINSICS.copy(), load_depth)

    def paths(self, index: int) -> dict[str, Path]:
        """Files of frame `index`: "image", and "depth" unless its list line names none."""
        _, image, depth = self._entries[index]
        return {"image": image} if depth is None else {"image": image, "depth": depth}

    def protocols(self, max_depth: float) -> tuple[protocol.EvalProtocol, ...]:
        """Eigen's box, DenseDepth's box; cap 10 m, whatever the `max_depth` of the network."""
        return protocol.nyu()

    def ground_truths(self, index: int) -> dict[str, Callable[[], np.ndarray]]:
        """Readers of every kind of ground truth that a frame has: (H, W) float32 metres, 0 = none.

        The variant's own first; of the labelled form, where both were extracted, raw and filled.
        """
        own = self.paths(index).get("depth")
        if own is None:
            return {}
        files = {self.variant: own, **other_depths(self.variant, own)}
        read_depth = VARIANTS[self.variant].read_depth
        return {name: partial(read_depth, file) for name, file in files.items()}

    def _computed(self, split: str) -> list[Entry]:
        find = VARIANTS[self.variant].found
        pool = "train_all" if split in ("train", "val") else split
        entries = find(self.root, pool)
        if entries is None:
            raise DataError(
                f"no list {split}.txt in {self.root}/splits or {self.root}, and {split!r} is not a "
                f"split that nyu, variant {self.variant!r}, makes from its files; "
                "`python -m datasets.prepare nyu` writes lists"
            )
        if split in ("train", "val"):
            entries = [
                entry for entry in entries if is_held_out(scene_of(entry[0])) == (split == "val")
            ]
        if not entries:
            raise DataError(
                f"split {split!r} is empty: no frame of variant {self.variant!r} for it under "
                f"{self.root}; class Nyu in datasets/nyu.py shows the layout of each variant"
            )
        return entries


def _without_border(image: Image.Image) -> Image.Image:
    top, bottom, left, right = PICTURE_BOX
    inner = Image.new("RGB", image.size)
    inner.paste(image.crop((left, top, right, bottom)), (left, top))
    return inner
