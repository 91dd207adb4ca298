"""Datasets: index -> Frame (picture, metres, intrinsics, id). Views make batch entries of them."""

from __future__ import annotations

from .frame import DataError, Frame
from .images import ImageFolder
from .kitti import Kitti
from .nyu import Nyu
from .rgbd import RgbdList
from .synthetic import Synthetic
from .virtual_kitti import VirtualKitti

__all__ = ["DATASETS", "DataError", "Frame"]

DATASETS = {
    "synthetic": Synthetic,
    "kitti": Kitti,
    "nyu": Nyu,
    "virtual_kitti": VirtualKitti,
    "rgbd": RgbdList,
    "images": ImageFolder,
}
