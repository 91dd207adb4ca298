"""Numbers that others have published, read from docs/published.yaml and checked. None is ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .config import ConfigError, parse_yaml

PUBLISHED = Path(__file__).parent.parent / "docs" / "published.yaml"
KEYS = ("title", "source", "protocol", "about", "metrics", "rows", "caveats")
NUMBER = re.compile(r"(\d*\.\d+)(?: ± (\d*\.\d+))?")
NOT_PRINTED = "-"


class PublishedError(ConfigError):
    """docs/published.yaml does not hold what was asked for. Names table, row and remedy."""


class Printed(NamedTuple):
    """One number: its text, digit by digit, and what that means (std None: a single number)."""

    text: str
    mean: float
    std: float | None


class PublishedRow(NamedTuple):
    """One row.

    Attributes:
        method: name of a row of paper_tables/rows.py, or a method's title in a comparison.
        budget: labelled frames as text, "10" or "full"; "" where the table has no budgets.
        about: what else is said of it, by column.
        scores: by metric; None where nothing is printed.
    """

    method: str
    budget: str
    about: dict[str, str]
    scores: dict[str, Printed | None]


class PublishedTable(NamedTuple):
    """One published table: where it stands, how it was made, and what is doubtful in it."""

    title: str
    source: str
    protocol: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    caveats: tuple[str, ...]

    def row(self, method: str, budget: str) -> PublishedRow | None:
        """The row of a method at a budget ("10", "full"), or None."""
        found = (row for row in self.rows if (row.method, row.budget) == (method, budget))
        return next(found, None)


def published_table(name: str, path: Path = PUBLISHED) -> PublishedTable:
    """Read one table.

    Args:
        name: a key of the file, such as "kitti_sparse_labels".
        path: the file.

    Raises:
        PublishedError: no such file or table, a row that does not fit its columns, a row given
            twice, or a number whose digits YAML would lose.
        ConfigError: not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PublishedError(f"{path}: cannot be read ({error}); restore it from git") from None
    tables = parse_yaml(text, place=str(path))
    if not isinstance(tables, dict) or name not in tables:
        known = sorted(tables) if isinstance(tables, dict) else "none"
        raise PublishedError(f"{path}: no table {name!r}; there are {known}")
    place, data = f"{path}: {name}", tables[name]
    if not isinstance(data, dict) or set(data) != set(KEYS):
        raise PublishedError(f"{place} needs exactly the keys {', '.join(KEYS)}")
    for key in KEYS[2:]:
        if not isinstance(data[key], list) or not data[key]:
            raise PublishedError(f"{place}.{key} must be a list with something in it")
    rows = tuple(_row(line, data, place) for line in data["rows"])
    names = [(row.method, row.budget, *row.about.values()) for row in rows]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise PublishedError(f"{place} has the row {twice} twice; remove one")
    lists = {key: tuple(data[key]) for key in ("protocol", "metrics", "caveats")}
    return PublishedTable(title=data["title"], source=data["source"], rows=rows, **lists)


def _row(line: Any, data: Mapping[str, Any], place: str) -> PublishedRow:
    about, metrics = data["about"], data["metrics"]
    if not isinstance(line, list) or len(line) != len(about) + len(metrics):
        raise PublishedError(f"{place}: the row {line} does not have the columns {about + metrics}")
    words = {key: str(word) for key, word in zip(about, line, strict=False)}
    if "method" not in words:
        raise PublishedError(f"{place}.about has no column 'method'; rows are named by it")
    numbers = dict(zip(metrics, line[len(about) :], strict=True))
    return PublishedRow(
        method=words.pop("method"),
        budget=words.pop("budget", ""),
        about=words,
        scores={key: _printed(value, f"{place}: {line}: {key}") for key, value in numbers.items()},
    )


def _printed(value: Any, place: str) -> Printed | None:
    if value == NOT_PRINTED:
        return None
    match = NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise PublishedError(
            f"{place} is {value!r}; write 'mean ± std', a single number in quotes (YAML drops the "
            "last zeros of others), or '-'"
        )
    mean, std = match.groups()
    return Printed(value, float(mean), None if std is None else float(std))
