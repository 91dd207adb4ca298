"""Other pictures of a frame's scene, for self-supervision: the stereo partner, video neighbours.

Ours. A dataset that has them offers stereo_frame and has_stereo, or neighbour_frame, has_neighbour
and relative_pose; `Kitti` says what these give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .frame import DataError, Frame, SourceView
from .splits import some_of

UNKNOWN_POSE = np.full((4, 4), np.nan)


class WantedSources(NamedTuple):
    """Which sources a frame should come with, in this order.

    Attributes:
        stereo: the other camera's picture of the same instant.
        offsets: neighbours of the same camera, in frames.
        given_poses: whether neighbours need a pose that the dataset knows.
    """

    stereo: bool
    offsets: tuple[int, ...]
    given_poses: bool

    @property
    def number(self) -> int:
        """Sources of a frame that has all of them."""
        return self.stereo + len(self.offsets)


class FramesWithSources:
    """The frames of a dataset, each with `load_sources`. What else they are stays as it is."""

    def __init__(self, dataset: Any, wanted: WantedSources):
        self.dataset, self.wanted = dataset, wanted
        self.frame_ids = dataset.frame_ids

    def frame(self, index: int) -> Frame:
        """Frame `index` of the dataset; its sources are read when `load_sources` is called."""
        frame = self.dataset.frame(index)
        return replace(frame, load_sources=partial(read_sources, self.dataset, index, self.wanted))


def read_sources(dataset: Any, index: int, wanted: WantedSources) -> list[SourceView | None]:
    """The wanted sources of a frame, None where it has none (at the ends of a drive).

    Raises:
        DataError: a file is damaged, or a camera's intrinsics are unknown.
    """
    found: list[SourceView | None] = []
    if wanted.stereo:
        found.append(_stereo(dataset, index) if dataset.has_stereo(index) else None)
    for offset in wanted.offsets:
        has = _has_neighbour(dataset, index, offset, wanted)
        found.append(_neighbour(dataset, index, offset, wanted) if has else None)
    for source in found:
        if source is not None and not np.isfinite(source.intrinsics).all():
            raise DataError(
                f"frame {dataset.frame_ids[index]!r}: its camera's intrinsics are unknown, and "
                "self-supervision needs them (KITTI: calib_cam_to_cam.txt of the date; images: "
                "intrinsics.txt in the root; rgbd: the third column of the list)"
            )
    return found


def check_sources(dataset: Any, indices: Sequence[int], wanted: WantedSources) -> list[int]:
    """How many of the frames have each wanted source; of very many, as `some_of` them let expect.

    Opens no picture.

    Raises:
        DataError: the dataset knows nothing of such sources, or no frame has any.
    """
    needed = ["has_stereo"] * wanted.stereo + ["has_neighbour"] * bool(wanted.offsets)
    needed += ["relative_pose"] * (bool(wanted.offsets) and wanted.given_poses)
    words = {
        "has_stereo": "stereo partners",
        "has_neighbour": "video neighbours",
        "relative_pose": "poses",
    }
    kind = type(dataset).__name__
    for name in needed:
        if not hasattr(dataset, name):
            raise DataError(f"self_supervision: {kind} has no {words[name]}; choose other sources")
    counts = []
    asked = some_of(indices)
    if wanted.stereo:
        counts.append(sum(dataset.has_stereo(index) for index in asked))
    for offset in wanted.offsets:
        counts.append(sum(_has_neighbour(dataset, index, offset, wanted) for index in asked))
    if not any(counts):
        raise DataError(
            f"self_supervision: none of the {len(indices)} unlabelled frames of {kind} has what "
            f"is asked for ({', '.join(words[name] for name in needed)}); stereo needs the other "
            "camera's pictures (KITTI: image_03), video the frames before and after"
        )
    return [count * len(indices) // len(asked) for count in counts]


def _stereo(dataset: Any, index: int) -> SourceView:
    partner, baseline = dataset.stereo_frame(index)
    pose = np.eye(4)
    pose[0, 3] = -baseline  # what lies at the partner's centre is at its origin
    return SourceView(partner.image, partner.intrinsics, pose)


def _has_neighbour(dataset: Any, index: int, offset: int, wanted: WantedSources) -> bool:
    """Whether there is such a picture, and its pose where that shall be a given one."""
    if not dataset.has_neighbour(index, offset):
        return False
    return not wanted.given_poses or dataset.relative_pose(index, offset) is not None


def _neighbour(dataset: Any, index: int, offset: int, wanted: WantedSources) -> SourceView:
    pose = dataset.relative_pose(index, offset) if wanted.given_poses else UNKNOWN_POSE
    neighbour = dataset.neighbour_frame(index, offset)
    return SourceView(neighbour.image, neighbour.intrinsics, pose)
