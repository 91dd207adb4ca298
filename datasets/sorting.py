"""Names in order, though there are more than fit into memory as strings. Ours."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from operator import lt
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from datasets.names import ListedNames, Names, encoded

AT_ONCE = 1 << 20  # names that are sorted in memory
_SAMPLES = 64  # names a part by which the parts are marked off


def in_order(names: Names) -> bool:
    """Whether each name comes after the one before it, which also says that none comes twice."""
    last = b""
    for lines in (text.split(b"\n") for text in names.texts()):
        if not (last < lines[0] and all(map(lt, lines, islice(lines, 1, None)))):
            return False
        last = lines[-1]
    return True


def sorted_names(names: ListedNames) -> ListedNames:
    """The same names in order; themselves if they are."""
    if in_order(names):
        return names
    parts = (lines for lines, _ in sorted_parts(names))
    return ListedNames.of(b"\n".join([*lines, b""]) for lines in parts)


def sorted_sha256(names: Names) -> str:
    """SHA-256 (hex) of the sorted names joined by newlines."""
    texts = names.texts()
    if not in_order(names):
        texts = (b"\n".join(lines) for lines, _ in sorted_parts(names))
    digest = hashlib.sha256(next(texts, b""))
    for text in texts:
        digest.update(b"\n")
        digest.update(text)
    return digest.hexdigest()


def sorted_places(names: Sequence[str]) -> np.ndarray:
    """(n,) int64: the place of the first name in sorted order, of the second, and so on."""
    if not isinstance(names, Names):
        return np.asarray(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
    if in_order(names):
        return np.arange(len(names))
    places = np.empty(len(names), np.int64)
    begin = 0
    for _, part in sorted_parts(names):
        places[begin : begin + len(part)] = part
        begin += len(part)
    return places


def sorted_parts(
    names: Names, *, at_once: int = AT_ONCE
) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """All names as UTF-8 in sorted order, and their places; about `at_once` at a time.

    More than `at_once` go through a temporary folder, as large as their list and a fifth. UTF-8
    sorts as the characters do.
    """
    if len(names) <= at_once:
        lines = [line for text in names.texts() for line in text.split(b"\n")]
        yield _sorted(lines, np.arange(len(names)))
        return
    edges = _edges(names, -(-len(names) // at_once))
    with TemporaryDirectory() as folder:
        parts = [
            (Path(folder, f"{i}.txt"), Path(folder, f"{i}.i64")) for i in range(len(edges) + 1)
        ]
        begin = 0
        for text in names.texts():
            lines = text.split(b"\n")
            lines, places = _sorted(lines, np.arange(begin, begin + len(lines)))
            begin += len(lines)
            cuts = [0, *(bisect_left(lines, edge) for edge in edges), len(lines)]
            for (first, last), (names_file, places_file) in zip(pairwise(cuts), parts, strict=True):
                with open(names_file, "ab") as file:
                    file.writelines(line + b"\n" for line in lines[first:last])
                with open(places_file, "ab") as file:
                    file.write(places[first:last].tobytes())
        for names_file, places_file in parts:
            if text := names_file.read_bytes():
                yield _sorted(text[:-1].split(b"\n"), np.fromfile(places_file, np.int64))


def _edges(names: Names, num_parts: int) -> list[bytes]:
    """Names at which to begin a new part, so that parts are about equally large."""
    drawn = np.random.PCG64(0).random_raw(_SAMPLES * num_parts) % np.uint64(len(names))
    sample = sorted(encoded(names[place]) for place in drawn.tolist())
    return sample[_SAMPLES::_SAMPLES]


def _sorted(lines: list[bytes], places: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    order = sorted(range(len(lines)), key=lines.__getitem__)  # runs in order are merged, not sorted
    return [lines[place] for place in order], places[order]
