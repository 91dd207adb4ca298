"""Some frames of one or more datasets, seen as a dataset: a list not yet on disk. Ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets.frame import DataError, Frame


class Selection:
    """Frames of datasets of one class, in the order given.

    Attributes:
        frame_ids, scene_of, held_out_scenes: as those of the datasets.
    """

    def __init__(self, frames: Sequence[tuple[object, int]]):
        """`frames`: (dataset, index) pairs, at least one. Raises DataError on a repeated id."""
        self._frames = tuple(frames)
        first = self._frames[0][0]
        self.scene_of, self.held_out_scenes = first.scene_of, first.held_out_scenes
        self.frame_ids = tuple(dataset.frame_ids[index] for dataset, index in self._frames)
        if len(set(self.frame_ids)) < len(self.frame_ids):
            raise DataError("the lists given share frames; name each frame in one list only")

    @classmethod
    def union(cls, datasets: Sequence[object]) -> Selection:
        """All frames of several datasets, one after the other."""
        return cls([(dataset, index) for dataset in datasets for index in range(len(dataset))])

    def part(self, indices: Sequence[int]) -> Selection:
        """The frames `indices` of this one, at least one."""
        return Selection([self._frames[index] for index in indices])

    def __len__(self) -> int:
        return len(self.frame_ids)

    def frame(self, index: int) -> Frame:
        """Frame `index`, from its dataset."""
        dataset, position = self._frames[index]
        return dataset.frame(position)

    def paths(self, index: int) -> dict[str, Path]:
        """Files of frame `index`, from its dataset."""
        dataset, position = self._frames[index]
        return dataset.paths(position)
