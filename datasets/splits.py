"""Split lists: reading them, walking from their lines to files, label budgets, missing files.

Ours. Lists are text, one frame a line; paths in them are relative and stay inside the data root.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath

import numpy as np

from datasets.frame import DataError
from datasets.names import Names
from datasets.sorting import sorted_places, sorted_sha256

NUM_NAMED = 5  # how many culprits a message names before it only counts
MAX_WORD = 4096  # characters: no path is longer
BAD_SIGNS = {"\0": "NUL byte", "\\": "backslash", "\ufeff": "byte-order mark"}  # in a line
MAX_LOOKED_AT = 100_000  # frames of a split whose files are asked for before the first step


def find_list(root: str | Path, split: str) -> Path | None:
    """List file of `split`: a path ending in .txt or .csv, or a name under `root`.

    A name is looked up as root/splits/<split>.txt, then root/<split>.txt; None if neither exists.
    Raises DataError if `split` is a path and no such file exists.
    """
    if split.endswith((".txt", ".csv")):
        path = Path(split)
        if not os.path.isfile(path):  # unlike Path.is_file, False for a name that is too long
            raise DataError(f"split list {path}: no such file (looked in {Path.cwd()})")
        return path
    # a name is joined to the root, so it may not walk out of it
    for folder in ("splits", "."):
        path = inside(root, f"{folder}/{split}.txt")
        if os.path.isfile(path):
            return path
    return None


def read_list(
    path: str | Path, columns: Collection[int] | None = None, *, separator: str | None = None
) -> list[list[str]]:
    """Columns of every line of a list file, in file order.

    Blank lines, lines that start with `#`, a byte-order mark and CRLF line ends are tolerated.
    `columns` are the allowed column counts (None: any); `separator` None splits at white space.
    Raises DataError, naming file and line, on what `split_line` refuses, a wrong column count, a
    repeated line, or a file that is empty or not UTF-8.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"split list {path}: no such file") from None
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"split list {path}: cannot be read as UTF-8 text ({error})") from error
    rows: list[list[str]] = []
    first_seen: dict[tuple[str, ...], int] = {}
    # not splitlines(): it would also break at form feeds and Unicode separators inside a name
    for number, line in enumerate(text.split("\n"), start=1):
        words = split_line(line, separator, where=f"{path}, line {number}")
        if not words:
            continue
        if columns is not None and len(words) not in columns:
            allowed = " or ".join(str(count) for count in sorted(columns))
            raise DataError(
                f"{path}, line {number}: {len(words)} columns where {allowed} are expected: "
                f"{shown(line)}"
            )
        if (earlier := first_seen.setdefault(tuple(words), number)) != number:
            raise DataError(
                f"{path}, line {number}: repeats line {earlier} ({shown(line)}); remove one"
            )
        rows.append(words)
    if not rows:
        raise DataError(f"split list {path} names no frames; remove it or fill it")
    return rows


def split_line(line: str, separator: str | None, *, where: str) -> list[str]:
    """Words of one line; none for a blank or comment line.

    Raises DataError on NUL, backslash, a byte-order mark (of a second list pasted behind the
    first), or a word that is longer than any path.
    """
    line = line.strip()
    if not line or line.startswith("#"):
        return []
    if bad := [name for sign, name in BAD_SIGNS.items() if sign in line]:
        raise DataError(f"{where}: {bad[0]} in {shown(line)}; paths in lists use forward slashes")
    words = [word.strip() for word in line.split(separator)]
    if max(map(len, words)) > MAX_WORD:
        raise DataError(f"{where}: more than {MAX_WORD} characters without a break: {shown(line)}")
    return words


def shown(line: str) -> str:
    """A line as messages quote it: without the blanks around it, and not all of a long one."""
    line = line.strip()
    return repr(line if len(line) <= 300 else f"{line[:300]}...")


def inside(root: str | Path, relative: str, *, source: Path | None = None) -> Path:
    """`root / relative`, refused unless it stays under `root`; `source` is the list that names it.

    The check is lexical. Symbolic links are followed, also out of the root: who has the disk full
    links drives, or single files, from another one, and a list can name links but not make them.
    Pictures are told apart by where their links lead, see `leakage`.
    Raises DataError on an empty or absolute path, a drive letter, `..`, NUL or backslash.
    """
    parts = PurePosixPath(relative).parts
    absolute = relative.startswith("/") or relative[1:2] == ":"
    if not parts or absolute or ".." in parts or "\0" in relative or "\\" in relative:
        where = f"{source}: " if source else ""
        raise DataError(
            f"{where}path {relative!r} is refused: paths in lists are relative to the data root "
            f"{root}, use forward slashes and never leave it"
        )
    return Path(root, *parts)


def list_sha256(frame_ids: Iterable[str]) -> str:
    """SHA-256 (hex) of the sorted frame ids joined by newlines, so list order does not matter."""
    if isinstance(frame_ids, Names):
        return sorted_sha256(frame_ids)
    return hashlib.sha256("\n".join(sorted(frame_ids)).encode()).hexdigest()


def label_budget(
    frame_ids: Sequence[str],
    num_frames: int | None,
    seed: int,
    *,
    scene_of: Callable[[str], str] | None = None,
) -> Sequence[int]:
    """Indices into `frame_ids` of the first `num_frames` of its seeded shuffle; None keeps all.

    The shuffle is of the sorted ids, so it does not depend on list order, and budgets of one seed
    are nested: 10 in 100 in 1,000. Indices come in shuffle order (None: in list order).
    With `scene_of`, scenes take turns, in an order of their own: their counts differ by one at
    most, until a scene has no frames left.
    A list; but of `Names` all are a range, and more than `MAX_LOOKED_AT` an array.
    Raises DataError if fewer than one or more than all frames are asked for.
    """
    if num_frames is None:
        return all_places(frame_ids)
    if not 1 <= num_frames <= len(frame_ids):
        raise DataError(
            f"label budget of {num_frames} frames, but the split has {len(frame_ids)}; "
            f"choose 1 to {len(frame_ids)}, or null for all"
        )
    generator = np.random.PCG64(seed)
    places = _shuffle(len(frame_ids), generator)  # of the sorted ids
    if scene_of is None:
        chosen = sorted_places(frame_ids)[places[:num_frames].copy()]
        return chosen if len(chosen) > MAX_LOOKED_AT else chosen.tolist()
    shuffled = sorted_places(frame_ids)[places].tolist()
    scenes = sorted({scene_of(frame_id) for frame_id in frame_ids})
    order = [scenes[place] for place in _shuffle(len(scenes), generator)]
    waiting: dict[str, list[int]] = {scene: [] for scene in order}
    for index in shuffled:
        waiting[scene_of(frame_ids[index])].append(index)
    turns = zip_longest(*waiting.values())
    return [index for turn in turns for index in turn if index is not None][:num_frames]


def all_places(frame_ids: Sequence[str]) -> Sequence[int]:
    """0 ... n - 1: a list, or a range where the ids are `Names`, of which there may be millions."""
    places = range(len(frame_ids))
    return places if isinstance(frame_ids, Names) else list(places)


def without(indices: Sequence[int], places: Sequence[int]) -> Sequence[int]:
    """`indices` less those at `places`: the same object, a list, or an array of an array's."""
    if not places:
        return indices
    kept = np.delete(np.asarray(indices), places)
    return kept if isinstance(indices, np.ndarray) else kept.tolist()


def _shuffle(count: int, generator: np.random.PCG64) -> np.ndarray:
    # raw draws + stable sort: NumPy promises the bit stream of PCG64, not that of `permutation`
    return np.argsort(generator.random_raw(count), kind="stable")


def evenly(items: Sequence[int], wanted: int) -> list[int]:
    """At most `wanted` of `items`, evenly spaced, the first among them."""
    wanted = min(len(items), wanted)
    return [int(items[place * len(items) // wanted]) for place in range(wanted)]


def some_of(indices: Sequence[int], *, seed: int = 0) -> Sequence[int]:
    """All `indices`; of more than `MAX_LOOKED_AT` so many, one drawn from each of equal parts.

    For what asks a disk about every frame: a question of a tenth of a millisecond, asked 50 million
    times, takes longer than an hour.
    """
    if len(indices) <= MAX_LOOKED_AT:
        return indices
    edges = np.linspace(0, len(indices), MAX_LOOKED_AT + 1).astype(np.int64)
    shares = np.random.PCG64(seed).random_raw(MAX_LOOKED_AT) / 2.0**64
    places = edges[:-1] + (shares * np.diff(edges)).astype(np.int64)
    return np.asarray([indices[place] for place in places.tolist()])


def frame_ids_at(dataset, indices: Iterable[int]) -> Sequence[str]:
    """Names of the frames of `dataset` at `indices`."""
    if isinstance(dataset.frame_ids, Names):
        return dataset.frame_ids.at(indices)
    return [dataset.frame_ids[index] for index in indices]


def check_unique(frame_ids: Sequence[str], source: Path) -> None:
    """Raise DataError, naming `source`, if a frame id occurs twice (say, in two spellings)."""
    counts = Counter(frame_ids)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise DataError(f"{source}: {len(twice)} frames are listed twice: {name_some(twice)}")


def check_files(
    dataset, roles: Sequence[str] | None = None, *, indices: Sequence[int] | None = None
) -> None:
    """Raise DataError, with the count and the first names, unless every file of `dataset` exists.

    `dataset` has `__len__`, `frame_ids`, `root` and `paths(index)`. `roles` are the files that each
    frame must have: ("image", "depth") where labels are needed, ("image",) where depth is never
    read; None checks what each frame claims to have. Files are not opened. `indices`: only of these
    frames; None: of all. Of more than `MAX_LOOKED_AT` frames only so many are checked, and a line
    on stderr says so: what else is missing is a bad sample when its turn comes.
    """
    indices = range(len(dataset)) if indices is None else indices
    checked = some_of(indices)
    if some := len(checked) < len(indices):
        print(
            f"{dataset.root}: checked the files of {len(checked):,} of {len(indices):,} frames",
            file=sys.stderr,
        )
    missing = []
    for index in checked:
        frame_id = dataset.frame_ids[index]
        paths = dataset.paths(index)
        for role in paths if roles is None else roles:
            if role not in paths:
                missing.append(f"{role} of {frame_id!r} (the data has none for it)")
            elif not os.path.isfile(paths[role]):
                missing.append(f"{role} {paths[role]}")
    if missing:
        of_them = f"{len(dataset)} frames" + some * f", {len(checked)} of them checked"
        raise DataError(
            f"{len(missing)} files of this split ({of_them}) are missing under "
            f"{dataset.root}: {name_some(missing)}. Restore them or remove their frames from the "
            "list; `python -m datasets.prepare` tells where each file comes from"
        )


def name_some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")
