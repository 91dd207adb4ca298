"""Which frames to label next: the most uncertain ones, but not the same street a hundred times.

The score is anybody's; the turns of scenes and the gap between chosen frames are ours. Plain greedy
choice by uncertainty takes runs of near-duplicates (Sener and Savarese, 2018, for one, show it).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

DEFAULT_MIN_GAP = 5  # positions


def select_frames(
    *,
    frame_ids: Sequence[str],
    scenes: Sequence[str],
    positions: Sequence[int],
    scores: Sequence[float],
    num_frames: int,
    min_gap: int = DEFAULT_MIN_GAP,
    taken: Iterable[tuple[str, int]] = (),
) -> list[int]:
    """Places of the chosen frames in the sequences given, first choice first.

    Scenes take turns: in each round every scene gives its most uncertain frame that is `min_gap` or
    more positions from all chosen ones of it, the scene with the most uncertain one first. Nearer
    frames wait until no scene has another kind; then scenes take turns with those. So the first k
    of a longer choice are the choice of k, and equal scores go by frame id.

    Args:
        frame_ids: (frames,) names, each once.
        scenes: (frames,) scene of each.
        positions: (frames,) place of each in its scene; see `scene_positions`.
        scores: (frames,) larger = less sure, any unit.
        num_frames: how many to choose, 0 to all.
        min_gap: positions; 0 and 1 let neighbours be chosen.
        taken: (scene, position) of frames that are chosen already, such as labelled ones.

    Raises:
        ValueError: sequences of different lengths, a name that occurs twice, a score that is NaN or
            infinite, or more frames asked for than there are.
    """
    if len({len(frame_ids), len(scenes), len(positions), len(scores), len(set(frame_ids))}) > 1:
        raise ValueError("need a scene, a position and a score for each frame, and each frame once")
    if not all(map(math.isfinite, scores)):
        raise ValueError("scores must be finite")
    if not 0 <= num_frames <= len(frame_ids):
        raise ValueError(f"{num_frames} frames asked for, but there are {len(frame_ids)}")
    by_score = sorted(range(len(frame_ids)), key=lambda place: (-scores[place], frame_ids[place]))
    rank = {place: number for number, place in enumerate(by_score)}
    waiting: dict[str, list[int]] = {}  # scene -> places left, most uncertain first
    for place in by_score:
        waiting.setdefault(scenes[place], []).append(place)
    near: dict[str, set[int]] = {scene: set() for scene in waiting}  # positions too near
    for scene, position in taken:
        near.setdefault(scene, set()).update(_around(position, min_gap))
    chosen: list[int] = []
    while len(chosen) < num_frames:
        firsts = [
            next((place for place in left if positions[place] not in near[scene]), None)
            for scene, left in waiting.items()
        ]
        turn = [place for place in firsts if place is not None]
        turn = turn or [left[0] for left in waiting.values() if left]
        for place in sorted(turn, key=rank.__getitem__)[: num_frames - len(chosen)]:
            scene = scenes[place]
            chosen.append(place)
            waiting[scene].remove(place)
            near[scene].update(_around(positions[place], min_gap))
    return chosen


def scene_positions(frame_ids: Sequence[str], scenes: Sequence[str]) -> list[int]:
    """Place of each frame among all of its scene, by name with numbers as numbers: 2 before 10."""
    counts: dict[str, int] = {}
    positions = [0] * len(frame_ids)
    for place in sorted(range(len(frame_ids)), key=lambda place: _natural(frame_ids[place])):
        positions[place] = counts.get(scenes[place], 0)
        counts[scenes[place]] = positions[place] + 1
    return positions


def _around(position: int, min_gap: int) -> range:
    return range(position - min_gap + 1, position + min_gap)


def _natural(name: str) -> tuple[list[str | int], str]:
    # words and numbers alternate, so a number is never compared with a word
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if k % 2 else part for k, part in enumerate(parts)], name
