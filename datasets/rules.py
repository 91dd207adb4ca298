"""By which rule, in words, `datasets.prepare` makes each split; how a list names a frame. Ours."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from datasets import kitti_split, virtual_kitti
from datasets.kitti import Kitti
from datasets.kitti_tree import CAMERAS

_VAL_DRIVES = ", ".join(sorted(kitti_split.VAL_DRIVES))
_VAL_SCENES = ", ".join(sorted(virtual_kitti.VAL_SCENES))
_LEFT = "frames with ground truth of the left camera"

KITTI = {
    "train": f"{_LEFT} on the 33 Eigen training drives but {_VAL_DRIVES}",
    "train_all": f"{_LEFT} on the 33 Eigen training drives",
    "val": f"{_LEFT} on the training drives {_VAL_DRIVES}",
    "test": "the 652 Eigen test frames that have annotated ground truth",
}
NYU = {
    "train": "training frames but those of every 20th scene, by a hash of the scene's name",
    "train_all": "all training frames",
    "val": "training frames of every 20th scene, by a hash of the scene's name",
    "test": "all test frames",
}
VIRTUAL_KITTI = {
    "train": f"left camera, all conditions, all scenes but {_VAL_SCENES}",
    "val": f"left camera, all conditions, {_VAL_SCENES}",
    "all": "left camera, all conditions and scenes",
}
IMAGES = {"all": "every picture under the root"}


def row_of_id(dataset, index: int) -> str:
    """List line of frame `index` where the frame id is all that a list needs."""
    return dataset.frame_ids[index]


def row_of_pair(dataset, index: int) -> str:
    """`picture depth` for NYU: both paths relative to where its pictures lie."""
    picture = PurePosixPath(dataset.frame_ids[index])
    depth = dataset.paths(index).get("depth")
    return str(picture) if depth is None else f"{picture} {picture.with_name(depth.name)}"


def row_of_labeled(dataset, index: int) -> str:
    """`index scene` for the labelled form of NYU."""
    scene, _, name = dataset.frame_ids[index].rpartition("/")
    return f"{int(name.removeprefix('rgb_'))} {scene}"


def kitti_layout(dataset: Kitti) -> str:
    """Which of the ways to merge KITTI's downloads the tree of a dataset is, in words."""
    tree = dataset.tree
    kinds, truth, labelled = set(), set(), 0
    for drive in tree.drives:
        for camera in CAMERAS:
            kinds |= {(camera, path.suffix) for path in tree.images(drive, camera).values()}
        folder = tree.depth_folder(drive, CAMERAS[0])
        if folder is not None:
            labelled += 1
            truth.add(place(folder.parents[2].parent, tree.root))
    cameras = " and ".join(sorted({camera for camera, _ in kinds}))
    suffixes = " and ".join(sorted({suffix for _, suffix in kinds}))
    words = f"KITTI, {len(tree.drives)} drives with {cameras} ({suffixes}) in "
    words += f"{place(tree.raw, tree.root)}; ground truth ({tree.depth_kind}) of {labelled} of them"
    return words + (f" in {' and '.join(sorted(truth))}" if truth else "")


def place(path: Path, root: str | Path) -> str:
    """`path` as seen from the root: the part of it that says which layout this is."""
    relative = path.relative_to(root) if path.is_relative_to(root) else path
    return "the root" if str(relative) == "." else f"{relative.as_posix()}/"
