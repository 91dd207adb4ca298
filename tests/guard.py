"""What a row of the fault matrix is made of: plain data, for guards.py and the files beside it."""

from __future__ import annotations

from typing import NamedTuple


class Guard(NamedTuple):
    """A text whose replacement takes a guard out of the code, and a test that must then fail.

    `file` is relative to the repository and holds `old` exactly once; `test` is relative to tests/.
    """

    file: str
    old: str
    new: str
    test: str


class Row(NamedTuple):
    """A fault, what is to happen then, and what shows that it does.

    `tests` are "file::function", relative to tests/, all that inject this fault; those of `guards`,
    which may name a parameter as well, are among them.
    """

    number: int
    fault: str
    expected: str
    tests: list[str]
    guards: list[Guard]
