"""Checks of a dataset before anyone trains on it: files, decoding, leakage between lists. Ours.

Every check returns findings and never raises for what is wrong in the data, so that one run reports
everything. Whether depths are in the right unit is asked in `plausible`.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets.measure import FrameStats

NUM_NAMED = 5
CAMERA = re.compile(r" (image_0|Camera_)\d$")  # as frame ids of KITTI and Virtual KITTI end


@dataclass(frozen=True)
class Finding:
    """One thing a check has to say.

    Attributes:
        level: "problem" (the data are wrong or leak; exit code 1), "warning" or "note".
        check: what was checked: files, lists, decoding, units, leakage or known lists.
        message: one sentence with the count, the first names and the remedy.
        table: further lines, such as counts per drive.
    """

    level: str
    check: str
    message: str
    table: tuple[str, ...] = ()

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self)


def name_some(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    rest = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


def present(dataset) -> list[int]:
    """Indices of the frames all of whose files exist. Files are not opened."""
    return [
        index
        for index in range(len(dataset))
        if all(path.is_file() for path in dataset.paths(index).values())
    ]


def files(
    dataset, split: str, there: Collection[int], *, labelled: bool = True, excused=frozenset()
) -> list[Finding]:
    """Which files of a split do not exist, by role and by scene, and which frames have no depth.

    Args:
        dataset, split: the split and its name in messages.
        there: indices of the frames that need not be looked at, from `present`.
        labelled: the split ought to have ground truth.
        excused: ids of frames whose depth file is known not to exist anywhere.
    """
    missing = defaultdict(list)  # role -> (scene, path)
    num_excused = 0
    for index in sorted(set(range(len(dataset))) - set(there)):
        frame_id = dataset.frame_ids[index]
        for role, path in dataset.paths(index).items():
            if path.is_file():
                continue
            if role == "depth" and frame_id in excused:
                num_excused += 1
            else:
                missing[role].append((dataset.scene_of(frame_id), path))
    findings = [_missing(dataset, split, role, found) for role, found in missing.items()]
    if num_excused:
        message = f"{split}: {num_excused} depth files do not exist, as is known of this list"
        findings.append(Finding("note", "files", message))
    bare = [id_ for i, id_ in enumerate(dataset.frame_ids) if "depth" not in dataset.paths(i)]
    if bare and labelled:
        message = f"{split}: {len(bare):,} of {len(dataset):,} frames have no ground truth"
        findings.append(Finding("warning", "files", f"{message}: {name_some(bare)}"))
    if not missing:
        message = f"{split}: all files of {len(dataset) - num_excused:,} frames exist"
        findings.append(Finding("note", "files", message))
    return findings


def _missing(dataset, split: str, role: str, found: list[tuple[str, Path]]) -> Finding:
    folder = os.path.commonpath([path.parent for _, path in found])
    names = [path.relative_to(folder).as_posix() for _, path in found]
    message = (
        f"{split}: {len(found):,} of {len(dataset):,} {role} files are missing in {folder}: "
        f"{name_some(names)}"
    )
    table = ()
    if len(found) > NUM_NAMED:
        total = Counter(map(dataset.scene_of, dataset.frame_ids))
        counts = Counter(scene for scene, _ in found)
        table = tuple(f"{scene}: {n} of {total[scene]}" for scene, n in sorted(counts.items()))
    return Finding("problem", "files", message, table)


def decoding(stats: Sequence[FrameStats], split: str, num_frames: int) -> list[Finding]:
    """Files that do not decode, pictures that are not 8-bit RGB, depth of another size or empty."""
    findings = []
    broken = [one.error for one in stats if one.error]
    if broken:
        message = f"{split}: {len(broken):,} of {len(stats):,} decoded frames are unusable"
        findings.append(Finding("problem", "decoding", message, tuple(broken)))
    fine = [one for one in stats if not one.error]
    misfits = {
        "have a depth map of another size than the picture": [
            f"{one.frame_id} (picture {one.image_size[0]} x {one.image_size[1]}, depth "
            f"{one.depth_size[0]} x {one.depth_size[1]})"
            for one in fine
            if one.depth_size and one.depth_size != one.image_size
        ],
        "have no measured depth at all": [
            one.frame_id for one in fine if one.depth_size and one.valid_fraction == 0
        ],
        "have NaN or infinite depth": [one.frame_id for one in fine if one.num_not_finite],
    }
    for what, names in misfits.items():
        if names:
            message = f"{split}: {len(names):,} frames {what}: {name_some(names)}"
            findings.append(Finding("problem", "decoding", message))
    modes = Counter(one.image_mode for one in fine)
    for mode, count in sorted(modes.items()):
        if mode != "RGB":
            message = f"{split}: {count:,} pictures have mode {mode}, not 8-bit RGB; read as RGB"
            findings.append(Finding("warning", "decoding", message))
    if not broken:
        message = f"{split}: {len(stats):,} of {num_frames:,} frames decoded"
        findings.append(Finding("note", "decoding", message))
    return findings


def instant(frame_id: str, scene: str) -> tuple[str, str, int]:
    """(scene, name without its number, frame number) of a frame; number -1 if it has none.

    The frame number is the last run of digits of the name without extension; a trailing camera
    (" image_03", " Camera_1") is dropped, so both frames of a stereo pair are one instant.
    """
    stem = re.sub(r"\.[A-Za-z]{3,4}$", "", CAMERA.sub("", frame_id))
    match = re.search(r"^(.*?)(\d+)\D*$", stem[stem.rfind("/") + 1 :])
    return (scene, match[1], int(match[2])) if match else (scene, stem, -1)


def leakage(
    train: tuple[str, Iterable[str]],
    held: tuple[str, Iterable[str]],
    scene_of: Callable[[str], str],
    *,
    may_share: str = "nothing",
    reach: int = 1,
) -> list[Finding]:
    """What a training (or unlabelled) list shares with a list that must stay unseen.

    Args:
        train, held: (name of the split, its frame ids).
        scene_of: scene or drive of a frame id.
        may_share: "nothing", or "scenes" where both are cut from the same scenes.
        reach: frames whose numbers differ by at most this are neighbours; 0 finds only the other
            camera of a stereo pair.
    """
    (train_name, train_ids), (held_name, held_ids) = train, held
    train_ids, held_ids = set(train_ids), set(held_ids)
    where = f"{train_name} and {held_name}"
    findings = []
    if shared := sorted(train_ids & held_ids):
        message = f"{where} share {len(shared):,} frames: {name_some(shared)}"
        findings.append(Finding("problem", "leakage", message))
    near = sorted(_near(train_ids - held_ids, held_ids, scene_of, reach))
    if near:
        message = (
            f"{len(near):,} frames of {train_name} are the stereo twin or within {reach} frames of "
            f"a frame of {held_name}: {name_some(near)}"
        )
        findings.append(Finding("problem", "leakage", message))
    scenes = sorted(set(map(scene_of, train_ids)) & set(map(scene_of, held_ids)))
    if scenes:
        level = "problem" if may_share == "nothing" else "note"
        message = f"{where} share {len(scenes):,} scenes or drives: {name_some(scenes)}"
        findings.append(Finding(level, "leakage", message))
    if not findings:
        findings = [Finding("note", "leakage", f"{where} share no frame and no scene")]
    return findings


def _near(train_ids, held_ids, scene_of, reach: int) -> set[str]:
    unseen = {instant(frame_id, scene_of(frame_id)) for frame_id in held_ids}
    near = set()
    for frame_id in train_ids:
        scene, stream, number = instant(frame_id, scene_of(frame_id))
        if number >= 0 and any(
            (scene, stream, number + step) in unseen for step in range(-reach, reach + 1)
        ):
            near.add(frame_id)
    return near


def held_out(
    split: str, frame_ids: Iterable[str], scene_of: Callable[[str], str], never: Collection[str]
) -> list[Finding]:
    """Whether a split that may be learnt or selected from avoids the scenes kept for testing."""
    bad = [frame_id for frame_id in frame_ids if scene_of(frame_id) in never]
    if not bad:
        return []
    drives = sorted({scene_of(frame_id) for frame_id in bad})
    message = (
        f"{split}: {len(bad):,} frames lie on {len(drives)} test drives or scenes "
        f"({name_some(drives)}); remove them from this list"
    )
    return [Finding("problem", "leakage", message)]
