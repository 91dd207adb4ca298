"""Which frames a section of the configuration names: opened, complete, and of the right kind.

Every script comes through here, so the rules hold for all: files are there before the first step,
the list is the one insisted on, and only evaluation opens a test list.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dotmap import DotMap

from datasets import DATASETS, DataError
from datasets.leakage import places_of_pictures, refuse_test_frames, test_frames_among
from datasets.sources import EXPECTED_LISTS, KNOWN_LISTS
from datasets.splits import (
    all_places,
    check_files,
    frame_ids_at,
    label_budget,
    list_sha256,
    name_some,
    without,
)

Stream = tuple[Any, Sequence[int]]  # a dataset and the indices that are used


def open_frames(
    stream: DotMap,
    *,
    seed: int,
    budget: str | None,
    roles: Sequence[str] = ("image", "depth"),
    exclude: Collection[Path] = (),
) -> Stream:
    """The dataset of a config section, checked to be all there, and the indices that are used.

    Writes the list's sha256 into the section, or insists on the one that stands there. Frames that
    never had ground truth (45 of KITTI's 697) are left out, and said to be, where it is needed.

    Args:
        stream: section with dataset, root, split, variant, depth_scale, num_frames, list_sha256.
        seed: of the budget.
        budget: which num_frames are taken: "frames", the first of the seeded shuffle; "scenes",
            the same with scenes in turns; None, the first of the list.
        roles: files that every frame must have.
        exclude: pictures, by resolved path, whose frames are left out.

    Raises:
        DataError: a file is missing, no frame is left, or the list is not the one insisted on.
    """
    dataset = DATASETS[stream.dataset](
        stream.root, stream.split, variant=stream.variant, depth_scale=stream.depth_scale
    )
    indices = _with_ground_truth(dataset) if "depth" in roles else all_places(dataset.frame_ids)
    check_files(dataset, roles, indices=indices)
    if budget is None:
        indices = indices[: stream.num_frames]
    else:
        scene_of = dataset.scene_of if budget == "scenes" else None
        names = frame_ids_at(dataset, indices)
        chosen = label_budget(names, stream.num_frames, seed, scene_of=scene_of)
        # all is all: a range of millions stays a range
        whole = isinstance(indices, range)
        indices = chosen if whole else [indices[place] for place in chosen]
    if exclude:
        indices = without(indices, places_of_pictures(dataset, indices, exclude))
        if len(indices) == 0:
            raise DataError(f"{stream.dataset} {stream.split}: every frame of it is left out")
    used = list_sha256(frame_ids_at(dataset, indices))
    if stream.list_sha256 not in (None, used):
        raise DataError(
            f"{stream.dataset} {stream.split} under {stream.root} has other frames than asked for: "
            f"list_sha256 is {used}, not {stream.list_sha256}"
        )
    stream.list_sha256 = used
    return dataset, indices


def _with_ground_truth(dataset: Any) -> list[int]:
    without = dataset.without_ground_truth
    if without:
        print(
            f"{len(without)} frames have no ground truth in the published data and are left out: "
            f"{name_some(sorted(without))}",
            file=sys.stderr,
        )
    return [index for index, name in enumerate(dataset.frame_ids) if name not in without]


def refuse_test(section: str, stream: DotMap, opened: Stream) -> None:
    """Raise DataError if the frames that a training script opened are test frames."""
    refuse_test_frames(test_frames(stream, opened), section)


def test_frames(stream: DotMap, opened: Stream) -> list[str]:
    """Ids of those opened frames that tests are for; see `datasets.leakage.test_frames_among`."""
    try:
        own = DATASETS[stream.dataset](
            stream.root, "test", variant=stream.variant, depth_scale=stream.depth_scale
        )
        test_ids = frozenset(own.frame_ids)
    except DataError:  # the data has no test list of its own
        test_ids = frozenset()
    return test_frames_among(*opened, split=stream.split, test_ids=test_ids)


def official_list(stream: DotMap, opened: Stream) -> str | None:
    """Name of the public list that the opened frames are, or None.

    Raises:
        DataError: all frames of a split called "test" were asked for, and they are not those that
            everyone else reports on.
    """
    dataset, indices = opened
    found = list_sha256(frame_ids_at(dataset, indices))
    variant = getattr(dataset, "variant", None)
    expected = EXPECTED_LISTS.get((stream.dataset, variant, stream.split))
    asked_for_all = stream.num_frames is None and stream.split == "test"
    if expected and asked_for_all and expected.sha256 not in ("", found):
        raise DataError(
            f"{stream.dataset} test: {expected.title} has {expected.n} frames, this one "
            f"{len(indices)} (sha256 {found}); numbers on it compare with nobody's. Complete the "
            "data, or name a list file of your own with --split LIST.txt"
        )
    if expected and asked_for_all and len(indices) != expected.n:
        raise DataError(
            f"{stream.dataset} test: {expected.title} has {expected.n} frames, found {len(indices)}"
        )
    return next((known.title for known in KNOWN_LISTS if known.sha256 == found), None)
