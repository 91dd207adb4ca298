"""A pool of frames to choose labels from: which of them can be, and how a list names them. Ours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets.nyu import Nyu
from datasets.rgbd import RgbdList
from datasets.rules import row_of_id, row_of_labeled, row_of_pair
from datasets.splits import find_list, frame_ids_at, read_list

Stream = tuple[Any, Sequence[int]]  # a dataset and the indices that are used


def candidates(
    pool: Stream, *, labeled: Stream, validation: Stream, may_share: str, tests: Collection[str]
) -> dict[str, list[int]]:
    """Indices of the pool's frames by what becomes of them, each in one list.

    A frame is known by the file of its picture, links followed.

    Args:
        pool, labeled, validation: (dataset, indices), of one kind or of several.
        may_share: what labels may share with validation, see `datasets.leakage.check_overlap`; with
            "nothing", frames of its scenes are left out too.
        tests: ids of the pool's frames that tests are for.

    Returns:
        "test", "validation", "labelled": left out; "ranked": the others.
    """
    dataset, indices = pool
    other = validation[0]
    scenes = set()
    if may_share == "nothing" and same_place(dataset, other):
        scenes = {other.scene_of(name) for name in frame_ids_at(*validation)}
    validated, known = _pictures(validation), _pictures(labeled)
    parts: dict[str, list[int]] = {"test": [], "validation": [], "labelled": [], "ranked": []}
    for index in indices:
        name, picture = dataset.frame_ids[index], dataset.paths(index)["image"].resolve()
        scene = dataset.scene_of(name)
        if name in tests:
            parts["test"].append(index)
        elif picture in validated or scene in scenes:
            parts["validation"].append(index)
        else:
            parts["labelled" if picture in known else "ranked"].append(index)
    return parts


def same_place(dataset: Any, other: Any) -> bool:
    """Whether two datasets are of one kind and root, so that their names mean the same frames."""
    return type(dataset) is type(other) and dataset.root.resolve() == other.root.resolve()


def lines_of(dataset: Any, split: str) -> Callable[[int], str]:
    """Index -> line by which a list of this dataset names the frame, all columns of it."""
    if isinstance(dataset, RgbdList):
        rows = read_list(find_list(dataset.root, split))
        return lambda index: " ".join(rows[index])
    if isinstance(dataset, Nyu):
        is_labeled = dataset.variant.startswith("labeled")
        return partial(row_of_labeled if is_labeled else row_of_pair, dataset)
    return partial(row_of_id, dataset)


def _pictures(stream: Stream) -> set[Path]:
    dataset, indices = stream
    return {dataset.paths(index)["image"].resolve() for index in indices}
