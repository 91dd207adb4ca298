"""Reading a list of pictures, however long: what `splits.read_list` refuses is refused here too.

Ours. Lines that are names as they stand are recognised many at a time; only others are parsed.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from datasets import splits
from datasets.frame import DataError
from datasets.names import ListedNames, Names, map_file
from datasets.sorting import in_order

IN_MEMORY = 1 << 26  # bytes: a shorter list is read, not mapped, and may then be edited freely
AT_ONCE = 1 << 24  # bytes
_BOM = b"\xef\xbb\xbf"


def read_names(
    root: Path, path: Path, *, in_memory: int = IN_MEMORY, at_once: int = AT_ONCE
) -> Names:
    """Names in a list of pictures below `root`, one a line, in file order; names may have spaces.

    A name that begins with `#` or a blank is written with `./` before it.
    A list of more than `in_memory` bytes stays on disk if its lines are names as they stand. Blank
    or comment lines behind the first name, CRLF line ends, or a path like `a//b` make a copy of all
    names in memory. `at_once`: bytes that are looked at together.
    Raises DataError as `splits.read_list`, `splits.inside` and `splits.check_unique` do.
    """
    if path.stat().st_size == 0:
        raise DataError(f"split list {path} names no frames; remove it or fill it")
    text = map_file(path)
    begin, number = _first_name(text)
    end = _last_name(text, begin)
    if begin == end:
        raise DataError(f"split list {path} names no frames; remove it or fill it")

    def parts() -> Iterator[tuple[bytes, bytes]]:
        return _parts(text, begin, end, number, root=root, path=path, at_once=at_once)

    as_they_stand = all(part is names for part, names in parts())
    if as_they_stand and len(text) > in_memory:
        names = ListedNames.mapped(path, begin, end)
    else:
        names = ListedNames.of(names for _, names in parts())
    if not names:  # comments alone, behind blanks that `_first_name` does not know
        raise DataError(f"split list {path} names no frames; remove it or fill it")
    _refuse_repeats(names, path)
    return names


def _first_name(text: mmap.mmap) -> tuple[int, int]:
    """Where the first line with a name begins, and its number."""
    begin, number = len(_BOM) * (text[: len(_BOM)] == _BOM), 1
    while begin < len(text):
        end = text.find(b"\n", begin)
        end = len(text) if end < 0 else end
        line = text[begin:end].strip(b" \t\r")
        if line and not line.startswith(b"#"):
            return begin, number
        begin, number = end + 1, number + 1
    return len(text), number


def _last_name(text: mmap.mmap, begin: int) -> int:
    """Where the last line that is not blank ends, its newline included."""
    end = len(text)
    while end > begin:
        tail = text[max(begin, end - 4096) : end]
        if kept := len(tail.rstrip(b"\n")):
            return min(end - len(tail) + kept + 1, len(text))
        end -= len(tail)
    return begin


def _parts(
    text: mmap.mmap, begin: int, end: int, number: int, *, root: Path, path: Path, at_once: int
) -> Iterator[tuple[bytes, bytes]]:
    """Whole lines, and the names in them each with its newline: the same object if they are equal.

    `number`: of the line that starts at `begin`.
    """
    while begin < end:
        stop = text.rfind(b"\n", begin, min(begin + at_once, end)) + 1
        if not stop:  # one line that is longer than what is looked at
            stop = text.find(b"\n", begin, end) + 1 or end
        part = text[begin:stop]
        try:
            part.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"split list {path}: cannot be read as UTF-8 text ({error})") from error
        names = part
        if not _are_names(part):
            names = _parsed(part.decode(), number, root=root, path=path)
            if names in (part, part + b"\n"):  # the last line may lack its newline
                names = part
        yield part, names
        number += part.count(b"\n")
        begin = stop


def _are_names(part: bytes) -> bool:
    """Whether every line is surely a name as it stands; False also where that needs a closer look.

    Sure are names that start and end with a visible ASCII sign, no `/`, `.` or `#`, which is most.
    """
    odd = (b"\0", b"\\", b"//", b"/.", _BOM)
    if any(word in part for word in odd) or not part.endswith(b"\n"):
        return False
    signs = np.frombuffer(part, np.uint8)
    ends = np.flatnonzero(signs == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (starts == ends).any() or (ends - starts).max() > splits.MAX_WORD:
        return False
    sure = (np.arange(256) > ord(" ")) & (np.arange(256) < 0x7F)
    sure[[ord(sign) for sign in "/.#"]] = False
    drives = signs[starts + 1] == ord(":")
    return bool(sure[signs[starts]].all() and sure[signs[ends - 1]].all() and not drives.any())


def _parsed(text: str, number: int, *, root: Path, path: Path) -> bytes:
    """The names in lines of which the first has `number`, each with its newline."""
    names = []
    for line_number, line in enumerate(text.split("\n"), start=number):
        where = f"{path}, line {line_number}"
        for word in splits.split_line(line, "\n", where=where):
            names.append(str(PurePosixPath(word)))
            splits.inside(root, names[-1], source=path)
            if names[-1] != names[-1].rstrip():
                raise DataError(f"{where}: {word!r} ends with a blank; rename the picture")
    return "".join(f"{name}\n" for name in names).encode()


def _refuse_repeats(names: Names, path: Path) -> None:
    """Raise DataError, naming both lines, if a name occurs twice in the list `path`."""
    pair = repeated(names)
    if pair is None:
        return
    first, second = ((place, *_line_of(path, place)) for place in pair)
    if first[2] == second[2]:
        raise DataError(
            f"{path}, line {second[1]}: repeats line {first[1]} ({second[2]!r}); remove one"
        )
    raise DataError(
        f"{path}: frames are listed twice: {names[pair[0]]} in line {first[1]} and, spelt "
        f"{second[2]!r}, in line {second[1]}; remove one"
    )


def repeated(names: Names) -> tuple[int, int] | None:
    """Places of a name that occurs twice, the first time and again; None if there is none."""
    if in_order(names):
        return None
    hashes = np.empty(len(names), np.int64)  # of Python: 64 bits, keyed anew in each process
    begin = 0
    for lines in (text.split(b"\n") for text in names.texts()):
        hashes[begin : begin + len(lines)] = np.fromiter(map(hash, lines), np.int64, len(lines))
        begin += len(lines)
    hashes.sort()
    alike = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    del hashes
    if not len(alike):
        return None
    first_seen: dict[bytes, int] = {}
    begin = 0
    for lines in (text.split(b"\n") for text in names.texts()):
        of_lines = np.fromiter(map(hash, lines), np.int64, len(lines))
        for place in np.flatnonzero(np.isin(of_lines, alike)).tolist():
            earlier = first_seen.setdefault(lines[place], begin + place)
            if earlier != begin + place:
                return earlier, begin + place
        begin += len(lines)
    return None


def _line_of(path: Path, place: int) -> tuple[int, str]:
    """Number and text of the line that has name `place` of a list."""
    seen = -1
    with open(path, encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            seen += bool(splits.split_line(line.rstrip("\n"), "\n", where=""))
            if seen == place:
                return number, line.strip()
    raise DataError(f"{path} was edited while in use; start again")
