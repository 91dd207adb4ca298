"""Where the files of each dataset come from, and the lists that everyone compares on.

Nothing here is downloaded by us: licences, logins and dead links are the reader's to judge. Sizes
and counts are those reported by users of the files; hashes are of sorted frame ids
(`splits.list_sha256`).
"""

from __future__ import annotations

from typing import NamedTuple

from datasets import kitti_split

KITTI = (
    "raw synced and rectified drives with calibration, about 175 GB zipped (61 drives, 5 "
    "calibrations): www.cvlibs.net/datasets/kitti/raw_data.php (login)",
    "    -> ROOT/raw/<date>/<drive>/image_02/data, ROOT/raw/<date>/calib_cam_to_cam.txt",
    "annotated depth, data_depth_annotated.zip, about 14 GB (train/ and val/): www.cvlibs.net/"
    "datasets/kitti/eval_depth.php?benchmark=depth_prediction (login)",
    "    -> ROOT/data_depth_annotated/[train|val]/<drive>/proj_depth/groundtruth/image_02",
    "expected: train_all 23,158 frames on 33 drives, test 652 (697 without annotated depth)",
)
NYU = {
    "bts": (
        "BTS's synced frames, sync.zip, 4 to 5 GB: the README of github.com/cleinc/bts (Google "
        "Drive, quota and 0-byte files happen); its train_test_inputs/ has the lists",
        "expected: train 24,231 frames with ground truth (16-bit PNG, millimetres), test 654; "
        "the test frames are cut from the official nyu_depth_v2_labeled.mat",
    ),
    "densedepth": (
        "DenseDepth's nyu_data.zip, 4.1 GB: the README of github.com/ialhashim/DenseDepth",
        "    -> ROOT/nyu2_train/<scene>_out/N.jpg and N.png, ROOT/nyu2_test",
        "expected: train 50,688 frames (8-bit PNG, 255 = 10 m, holes filled), test 654 (16-bit, "
        "millimetres)",
    ),
    "labeled": (
        "official nyu_depth_v2_labeled.mat, 2.8 GB, and splits.mat: the NYU Depth V2 page, "
        "cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html (its file server horatio.cs.nyu.edu "
        "has refused connections since the end of 2023; copies circulate, so counts are checked)",
        "expected: 1,449 frames, 795 train and 654 test",
    ),
}
VIRTUAL_KITTI = (
    "Virtual KITTI 2 (version 2.0.3), rgb, depth and textgt archives: europe.naverlabs.com, "
    "Proxy Virtual Worlds",
    "    -> ROOT/Scene01/clone/frames/{rgb,depth}/Camera_0, for 5 scenes x 10 variations",
    "expected: 21,260 frames per camera",
)
RGBD = ("your own files: a list of 'rgb depth [fx]' lines, paths relative to ROOT",)
IMAGES = ("your own pictures, in any folders under ROOT",)
SYNTHETIC = ("rendered here by `python -m datasets.prepare synthetic --out DIR`",)


class KnownList(NamedTuple):
    """A public list: what it is called, its length and its hash (empty: only the length)."""

    title: str
    n: int
    sha256: str


_EIGEN = {name: kitti_split.KNOWN_SHA256[name] for name in ("test", "test_697", "train_all")}
_EIGEN_652 = KnownList("the Eigen 652 test list", 652, _EIGEN["test"])
_EIGEN_697 = KnownList("the Eigen 697 test list", 697, _EIGEN["test_697"])
_EIGEN_TRAIN = KnownList("the Eigen train list with depth", 23_158, _EIGEN["train_all"])
_NYU_654 = KnownList(
    "the NYU 654 test list",
    654,
    "6af186051c62a7050171aeed4901e02d9befbcacb6f9af6bc64af137a0e89a6d",
)
_BTS_TRAIN = KnownList(
    "the BTS train list of NYU",
    24_231,
    "6c02c06bd3789861be50dd1a98d4c4c9b739c47aecb1dd262e9424550d90b40f",
)
KNOWN_LISTS = (_EIGEN_652, _EIGEN_697, _EIGEN_TRAIN, _NYU_654, _BTS_TRAIN)

# (dataset, variant, split): the list that a split of this name ought to be
EXPECTED_LISTS = {
    ("kitti", "annotated", "train_all"): _EIGEN_TRAIN,
    ("kitti", "annotated", "test"): _EIGEN_652,
    ("kitti", "annotated", "test_697"): _EIGEN_697,
    ("nyu", "bts", "train_all"): _BTS_TRAIN,
    ("nyu", "bts", "test"): _NYU_654,
    ("nyu", "densedepth", "train_all"): KnownList("DenseDepth's train list", 50_688, ""),
    ("nyu", "densedepth", "test"): KnownList("DenseDepth's test list", 654, ""),
    ("nyu", "labeled", "train_all"): KnownList("the official train half", 795, ""),
    ("nyu", "labeled", "test"): KnownList("the official test half", 654, ""),
    ("virtual_kitti", None, "all"): KnownList("one camera of Virtual KITTI 2", 21_260, ""),
}
