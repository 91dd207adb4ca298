"""Cut a validation list out of a training list: by whole scenes, or by blocks of frames. Ours.

A random cut of single frames would put neighbours, which look alike, on both sides.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from datasets.frame import DataError
from datasets.verify import CAMERA


class HoldOut(NamedTuple):
    """Indices into the list that was cut, each in list order; the three are disjoint and complete.

    `dropped` are the frames next to a held-out block, which belong to neither list.
    """

    train: list[int]
    val: list[int]
    dropped: list[int]


def hold_out_scenes(
    frame_ids: Sequence[str], scene_of: Callable[[str], str], *, fraction: float, seed: int
) -> HoldOut:
    """Hold out whole scenes, drawn in seeded order until `fraction` of the frames is reached.

    At least one scene is held out and at least one stays. Raises DataError for a fraction outside
    (0, 1) or a list of one scene.
    """
    _check_fraction(fraction)
    scenes = _by_scene(frame_ids, scene_of)
    if len(scenes) < 2:
        raise DataError(
            f"all {len(frame_ids)} frames are of one scene ({', '.join(scenes)}), so no scene can "
            "be held out; hold out frames instead"
        )
    held: set[int] = set()
    names = sorted(scenes)
    for position in _shuffled(len(names), seed)[:-1]:
        if held and len(held) >= fraction * len(frame_ids):
            break
        held.update(scenes[names[position]])
    train = [index for index in range(len(frame_ids)) if index not in held]
    return HoldOut(train, sorted(held), [])


def hold_out_frames(
    frame_ids: Sequence[str],
    scene_of: Callable[[str], str],
    *,
    fraction: float,
    gap: int,
    seed: int,
) -> HoldOut:
    """Hold out one contiguous block of every scene and drop `gap` frames on each side of it.

    Contiguous means: in the order of the frames' names, numbers compared as numbers; pictures of
    one instant from two cameras stay together. A scene too short to leave a training frame beside
    block and gaps is not cut. Raises DataError for a fraction outside (0, 1), a gap below 1 (then
    held-out frames would have immediate neighbours in training), or if no scene is long enough.
    """
    _check_fraction(fraction)
    if gap < 1:
        raise DataError(f"gap is {gap}; at least 1 frame must be dropped beside a held-out block")
    val: set[int] = set()
    dropped: set[int] = set()
    scenes = sorted(_by_scene(frame_ids, scene_of).items())
    draws = np.random.PCG64(seed).random_raw(len(scenes))
    for (_, members), draw in zip(scenes, draws, strict=True):
        instants = _instants(frame_ids, members)
        length = max(1, round(fraction * len(instants)))
        if length + 2 * gap >= len(instants):
            continue
        start = int(draw) % (len(instants) - length + 1)
        for place, together in enumerate(instants):
            if start <= place < start + length:
                val.update(together)
            elif start - gap <= place < start + length + gap:
                dropped.update(together)
    if not val:
        raise DataError(
            f"no scene has more frames than a block of {fraction:.0%} and {gap} dropped frames on "
            "each side; lower --gap, or hold out scenes"
        )
    train = [index for index in range(len(frame_ids)) if index not in val | dropped]
    return HoldOut(train, sorted(val), sorted(dropped))


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise DataError(f"fraction is {fraction}; the share of frames to hold out is in (0, 1)")


def _by_scene(frame_ids, scene_of) -> dict[str, list[int]]:
    scenes = defaultdict(list)
    for index, frame_id in enumerate(frame_ids):
        scenes[scene_of(frame_id)].append(index)
    return dict(scenes)


def _instants(frame_ids: Sequence[str], members: Sequence[int]) -> list[list[int]]:
    """The members of one scene in the order of time; frames of one stereo pair share an entry."""
    together = defaultdict(list)
    for index in members:
        together[CAMERA.sub("", frame_ids[index])].append(index)
    return [together[name] for name in sorted(together, key=_natural)]


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key in which rgb_10 comes after rgb_9."""
    return [
        (0, int(word)) if word.isdecimal() else (1, word)
        for word in re.split(r"(\d+)", name)
        if word
    ]


def _shuffled(count: int, seed: int) -> list[int]:
    # raw draws and a stable sort: NumPy promises the bit stream of PCG64, not that of `permutation`
    draws = np.random.PCG64(seed).random_raw(count)
    return np.argsort(draws, kind="stable").tolist()
