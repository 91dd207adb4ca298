"""The names of very many pictures: one text, and marks that say where in it to look. Ours.

A tuple of 50 million names takes 5 GB, once a process. Here they stay in their list file, which is
mapped into memory (its pages are shared, and dropped where memory is short), and cost a byte each.
"""

from __future__ import annotations

import mmap
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np

from datasets.frame import DataError

STRIDE = 16  # names between two marks: to read one name is to split this many
NUM_AT_ONCE = 1 << 18  # names, of a pass over all of them
_MARKING = 1 << 24  # bytes, of the pass that sets the marks


class Names(Sequence[str]):
    """Relative paths, with forward slashes, of pictures below the root of their dataset.

    A dataset whose `frame_ids` are such names has the picture root / name for each; `leakage` and
    `splits` rely on it. Equal to any sequence of the same strings.
    """

    @abstractmethod
    def texts(self) -> Iterator[bytes]:
        """All names in order as UTF-8, many at a time, joined by newlines. For passes over all."""

    @abstractmethod
    def at(self, indices: Sequence[int]) -> Names:
        """The names at `indices`, a range or an array, which is kept. Copies no name."""

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(_decoded(text).split("\n") for text in self.texts())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None

    def __repr__(self) -> str:
        return f"<{len(self)} names: {', '.join(map(repr, self[:3]))}{', ...' * (len(self) > 3)}>"


class ListedNames(Names):
    """Names in a text, one a line, each line a name as it is and ended by one newline."""

    def __init__(self, text: bytes):
        """`text`: UTF-8; the newline at its end may lack. No names: b""."""
        self._keep(text, 0, len(text), None)

    @classmethod
    def of(cls, texts: Iterable[bytes]) -> ListedNames:
        """In memory; every name in `texts` ends with a newline."""
        text = BytesIO()  # a join would hold all parts beside the whole
        text.writelines(texts)
        return cls(text.getvalue())

    @classmethod
    def mapped(cls, path: Path, begin: int, end: int) -> ListedNames:
        """Bytes `begin` ... `end` of a list file. It may be replaced meanwhile, not rewritten."""
        names = cls.__new__(cls)
        names._keep(map_file(path), begin, end, path)
        return names

    def _keep(self, text: bytes | mmap.mmap, begin: int, end: int, path: Path | None) -> None:
        if end > begin and text[end - 1 : end] == b"\n":
            end -= 1
        self._text, self._end, self._path = text, end, path
        self._marks, self._len = _marks(text, begin, end)

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, index):
        """A name; names in a row, or at steps, as `Names`."""
        if isinstance(index, slice):
            return self.at(range(self._len)[index])
        index = int(index)
        if not -self._len <= index < self._len:
            raise IndexError(f"name {index} of {self._len}")
        return _decoded(self.line(index % self._len))

    def line(self, index: int) -> bytes:
        """Name `index` >= 0 as it stands in the text."""
        block, place = divmod(index, STRIDE)
        return self._blocks(block, block + 1).split(b"\n", place + 1)[place]

    def lines(self, start: int, stop: int) -> list[bytes]:
        """Names `start` ... `stop` - 1, at least one."""
        first = start // STRIDE
        lines = self._blocks(first, -(-stop // STRIDE)).split(b"\n")
        return lines[start - first * STRIDE : stop - first * STRIDE]

    def texts(self) -> Iterator[bytes]:
        step = NUM_AT_ONCE // STRIDE
        for block in range(0, len(self._marks), step):
            yield self._blocks(block, block + step)

    def at(self, indices: Sequence[int]) -> Names:
        whole = isinstance(indices, range) and indices == range(self._len)
        return self if whole else ChosenNames(self, indices)

    def _blocks(self, first: int, last: int) -> bytes:
        """Blocks `first` ... `last` - 1 without the newline at their end."""
        end = int(self._marks[last]) - 1 if last < len(self._marks) else self._end
        return self._text[int(self._marks[first]) : end]

    def __getstate__(self) -> dict:
        """To another process goes the path of a mapped list, not what is in it."""
        state = self.__dict__.copy()
        if self._path is not None:
            state["_text"] = len(self._text)
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self._path is not None:
            size, self._text = self._text, map_file(self._path)
            if len(self._text) != size:
                raise DataError(f"{self._path} was edited while in use; start again")


class ChosenNames(Names):
    """Some names of a long list, by their places in it."""

    def __init__(self, names: ListedNames, indices: Sequence[int]):
        self._names, self._indices = names, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index):
        """A name; names in a row, or at steps, as `Names`."""
        chosen = self._indices[index]
        return self.at(range(len(self))[index]) if isinstance(index, slice) else self._names[chosen]

    def at(self, indices: Sequence[int]) -> Names:
        if isinstance(indices, range) and indices.step > 0:
            chosen = self._indices[indices.start : indices.stop : indices.step]
        else:
            chosen = np.asarray(self._indices)[np.asarray(indices, dtype=np.int64)]
        return ChosenNames(self._names, chosen)

    def texts(self) -> Iterator[bytes]:
        for start in range(0, len(self), NUM_AT_ONCE):
            places = np.asarray(self._indices[start : start + NUM_AT_ONCE])
            first, last = int(places.min()), int(places.max())
            if last - first < 4 * len(places):  # dense: split what lies between, and pick
                lines = self._names.lines(first, last + 1)
                yield b"\n".join([lines[place] for place in (places - first).tolist()])
            else:
                yield b"\n".join(map(self._names.line, places.tolist()))


def encoded(name: str) -> bytes:
    """UTF-8; bytes of a file's name that are none stay what they are."""
    return name.encode(errors="surrogateescape")


def _decoded(text: bytes) -> str:
    return text.decode(errors="surrogateescape")


def map_file(path: Path) -> mmap.mmap:
    """A file's bytes, read-only, where they are. Raises DataError if that fails."""
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DataError(f"split list {path}: cannot be read ({error})") from error


def _marks(text: bytes | mmap.mmap, begin: int, end: int) -> tuple[np.ndarray, int]:
    """Where every `STRIDE`-th name begins, (blocks,) int64, and how many names there are."""
    if begin == end:
        return np.zeros(0, np.int64), 0
    marks, seen = [np.array([begin])], 0  # newlines so far
    for start in range(begin, end, _MARKING):
        part = np.frombuffer(text[start : min(start + _MARKING, end)], np.uint8)
        newlines = np.flatnonzero(part == ord("\n"))
        marks.append(newlines[-(seen + 1) % STRIDE :: STRIDE] + (start + 1))
        seen += len(newlines)
    return np.concatenate(marks), seen + 1
