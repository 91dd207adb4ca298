"""Leakage: frames that may not be trained on, and splits that share more than they may. Ours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets.frame import DataError
from datasets.kitti_split import TEST_DRIVES
from datasets.names import Names, encoded
from datasets.splits import frame_ids_at, name_some, some_of


def check_overlap(
    train_ids: Iterable[str],
    other_ids: Iterable[str],
    scene_of: Callable[[str], str],
    may_share: str,
) -> None:
    """Raise DataError if two splits share more than allowed, with the count and the first names.

    `may_share` is "nothing" (no frame and no scene), "scenes" (scenes, but no frame: for a split
    by frame) or "frames" (anything: for an unlabelled pool that holds the labelled frames).
    """
    if _everything_is_shared(may_share):
        return
    train, other = set(train_ids), set(other_ids)
    scenes = {scene_of(name) for name in train} & {scene_of(name) for name in other}
    _refuse_shared("the two splits", train & other, scenes, may_share)


def check_apart(
    unlabeled: tuple[Any, Sequence[int]], validation: tuple[Any, Sequence[int]], may_share: str
) -> None:
    """Raise DataError if unlabelled frames share more than allowed with those of validation.

    Both are (dataset, indices), of one kind or of two: a frame is known by the file of its picture,
    links followed (not by its content: a copy is another frame). Scenes are compared only between
    datasets of one kind and root, as names of others mean nothing here. `may_share` as above.
    """
    if _everything_is_shared(may_share):
        return
    (dataset, indices), (other, other_indices) = unlabeled, validation
    pictures = {other.paths(i)["image"].resolve() for i in other_indices}
    shared = [indices[place] for place in places_of_pictures(dataset, indices, pictures)]
    frames, scenes = set(frame_ids_at(dataset, shared)), set()
    if type(dataset) is type(other) and dataset.root.resolve() == other.root.resolve():
        scenes, other_scenes = (
            {dataset.scene_of(name) for name in frame_ids_at(*stream)}
            for stream in (unlabeled, validation)
        )
        scenes &= other_scenes
    key = "unlabeled.may_share"
    _refuse_shared("the unlabelled and the validation frames", frames, scenes, may_share, key=key)


def places_of_pictures(
    dataset: Any, indices: Sequence[int], pictures: Collection[Path]
) -> list[int]:
    """Places in `indices` of the frames whose picture, links followed, is among resolved paths.

    To follow a link is to ask the disk. Of more `Names` than `some_of` takes, only those
    are followed whose file is called like one of `pictures`: all that can be one of them unless
    the file itself, not a folder above it, is a link to another name. If one of `some_of` them is
    such a link, all are followed, as in short lists, however long that takes.
    """
    places: Iterable[int] = range(len(indices))
    if isinstance(dataset.frame_ids, Names) and len(some := some_of(indices)) < len(indices):
        files = (dataset.paths(index)["image"] for index in some)
        if not any(file.is_symlink() and file.resolve().name != file.name for file in files):
            places = _called_like(frame_ids_at(dataset, indices), pictures)
    return [
        place for place in places if dataset.paths(indices[place])["image"].resolve() in pictures
    ]


def _called_like(names: Names, pictures: Collection[Path]) -> Iterator[int]:
    """Places of those names that end like the files `pictures`."""
    ends = {encoded(picture.name) for picture in pictures}
    begin = 0
    for lines in (text.split(b"\n") for text in names.texts()):
        for place, line in enumerate(lines, start=begin):
            if line.rpartition(b"/")[2] in ends:
                yield place
        begin += len(lines)


def _everything_is_shared(may_share: str) -> bool:
    if may_share not in ("nothing", "scenes", "frames"):
        raise DataError(f"may_share is {may_share!r}; choose 'nothing', 'scenes' or 'frames'")
    return may_share == "frames"


def _refuse_shared(
    who: str, frames: set[str], scenes: set[str], may_share: str, *, key: str = ""
) -> None:
    """Raise DataError on shared frames or scenes; `key` of the config, if any, is the remedy."""
    if frames:
        raise DataError(
            f"{who} share {len(frames)} frames: {name_some(sorted(frames))}; "
            "results on them would be results on training data"
            + (f". Take them out, or allow it with {key}=frames" if key else "")
        )
    if scenes and may_share == "nothing":
        raise DataError(
            f"{who} share {len(scenes)} scenes (drives): {name_some(sorted(scenes))}; "
            "neighbouring frames are near-duplicates, so split by scene"
            + (f", or allow it with {key}=scenes" if key else "")
        )


def test_frames_among(
    dataset: Any, indices: Iterable[int], *, split: str, test_ids: Collection[str]
) -> Sequence[str]:
    """Ids of those frames that tests are for.

    They are all frames of a split or list whose name begins with "test", and else frames of the
    data's own test list, of its held-out scenes, or of pictures below a folder that is called like
    one of the Eigen test drives.

    Args:
        split: name or path, as in the configuration.
        test_ids: frames of the split "test" of the same data.
    """
    names = frame_ids_at(dataset, indices)
    if Path(split).stem.startswith("test"):
        return names
    places = range(len(names))
    if isinstance(names, Names) and not dataset.held_out_scenes:
        places = _perhaps_of_tests(names, dataset.root, test_ids)
    scenes = dataset.held_out_scenes
    return [
        names[place]
        for place in places
        if names[place] in test_ids
        or dataset.scene_of(names[place]) in scenes
        or not TEST_DRIVES.isdisjoint(dataset.paths(indices[place])["image"].parts)
    ]


def _perhaps_of_tests(names: Names, root: Path, test_ids: Collection[str]) -> Iterator[int]:
    """Places of all names that stand near one by which `test_frames_among` goes; mostly none."""
    wanted = {encoded(name) for name in test_ids}
    dates = {encoded(drive.partition("_drive_")[0]) for drive in TEST_DRIVES}
    everywhere = not TEST_DRIVES.isdisjoint(root.parts)
    begin = 0
    for text in names.texts():
        lines = text.split(b"\n")
        if everywhere or any(date in text for date in dates) or not wanted.isdisjoint(lines):
            yield from range(begin, begin + len(lines))
        begin += len(lines)


def refuse_test_frames(names: Sequence[str], section: str) -> None:
    """Raise DataError if `names`, test frames that `section` of a training run opens, is not empty.

    Whoever chooses a checkpoint, a threshold or a pseudo label by the test set has no test set.
    """
    if names:
        raise DataError(
            f"{section}: {len(names)} frames are test frames: {name_some(names)}. Training never "
            "opens them, not even for validation; take a validation list, and score the finished "
            "run with `python evaluate.py --split test`"
        )


def check_trainable(frame_ids: Iterable[str], dataset) -> None:
    """Raise DataError if frames to train on come from scenes that `dataset` keeps for tests."""
    held_out = dataset.held_out_scenes
    if held_out and (scenes := sorted({dataset.scene_of(name) for name in frame_ids} & held_out)):
        raise DataError(
            f"the training list has frames of {len(scenes)} test scenes: {name_some(scenes)}; "
            "results on that test set would be worthless. Remove them from the list"
        )
