"""The embedded default dataset: streets rendered here, with exact depth, read as a KITTI tree.

What stands where: synthetic_scene, _street, _cars, _world. Depth: synthetic_render. The picture:
synthetic_look, _texture, _surfaces, _shadow, _shading. The disk: synthetic_files, _tree.
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import protocol, splits
from .frame import DataError
from .kitti import Kitti
from .options import check_variant, refuse_depth_scale
from .synthetic_tree import SPLITS, SyntheticSettings, check_tree, default_workers, write_tree

VARIANTS = {  # variant -> look (= folder below the root), KITTI variant of the ground truth
    "look_a": ("look_a", "annotated"),
    "look_b": ("look_b", "annotated"),
    "look_a_sparse": ("look_a", "velodyne_raw"),
    "look_b_sparse": ("look_b", "velodyne_raw"),
}


class Synthetic(Kitti):
    """Synthetic streets below root/<look>/, rendered there once if that folder is missing.

    look_a is a clean day, look_b overcast or dusk; frame ids and depth of both are the same, for
    domain adaptation. Dense ground truth reaches 255 m and is exact; sky has none (0). The
    `_sparse` variants read lidar-like ground truth instead: about 4 % of the pixels, up to 80 m.
    """

    held_out_scenes = frozenset()

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        variant: str | None = None,
        depth_scale: float | None = None,
    ):
        """Open a split, rendering the tree with default settings first if there is none.

        Args:
            root: folder of the trees; the tree itself is root/<look>.
            split: "train", "val", "test", or path of a list file.
            variant: a key of VARIANTS; None is "look_a".
            depth_scale: must be None, it is known (1/256 m).

        Raises:
            DataError: bad argument, no such split, or a tree of another version of the renderer.
        """
        check_variant("synthetic", variant, VARIANTS)
        refuse_depth_scale("synthetic", depth_scale, "1/256 m")
        look, kind = VARIANTS[variant or "look_a"]
        tree = Path(root) / look
        if not tree.exists():
            settings, workers = SyntheticSettings(), default_workers()
            print(
                f"rendering {settings.num_frames:,} synthetic frames into {tree}, once; about "
                f"{settings.estimated_seconds(workers):.0f} s with {workers} processes",
                file=sys.stderr,
                flush=True,
            )
            write_tree(tree, look, settings, workers)
        check_tree(tree, look)
        if splits.find_list(tree, split) is None:
            raise DataError(f"{tree} has no split {split!r}; choose {', '.join(SPLITS)}")
        super().__init__(tree, split, variant=kind)

    def protocols(self, max_depth: float) -> tuple[protocol.EvalProtocol, ...]:
        """`plain`: no crop, ground truth up to `max_depth` metres."""
        return (protocol.plain(max_depth),)
