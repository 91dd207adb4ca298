"""What evaluate.py wrote of a run, or of several seeds, read back and checked to be alike. Ours."""

from __future__ import annotations

import csv
import glob
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .config import parse_yaml

REMEDY = "`python evaluate.py --ckpt {run} --split {split}` writes it"
EMPTY = ("", "0", "0.0")  # num_valid of a range that a frame has no pixel in
SHOWN = 16  # digits of a list's sha256 in a message


class ComparisonError(ValueError):
    """Evaluations that cannot be compared, or are not there. Names the file and the remedy."""


class Evaluation(NamedTuple):
    """One evaluation folder.

    Attributes:
        folder: where it lies.
        seed: run.seed of the run's config.yaml; None where there is none.
        summary: metrics.json.
        images: frame id -> column -> text, of per_image.csv.
        ranges: depth range, as "5-10" metres -> frame id -> column -> text, of per_range.csv; empty
            where there is no such file. Frames without a pixel in a range are not in it.
    """

    folder: Path
    seed: int | None
    summary: dict
    images: dict[str, dict[str, str]]
    ranges: dict[str, dict[str, dict[str, str]]]

    @property
    def protocol(self) -> str:
        """Name of the protocol that the tables are of."""
        return next(iter(self.summary["protocols"]))

    def values(
        self, frame_ids: Sequence[str], names: Sequence[str], *, depth_range: str | None = None
    ) -> np.ndarray:
        """(frames, names) float64 of the columns `names`, of all depths or of one range.

        Raises ComparisonError on a column that is not there or a value that is no number.
        """
        table = self.images if depth_range is None else self.ranges[depth_range]
        try:
            values = np.array([[float(table[i][name]) for name in names] for i in frame_ids])
        except (KeyError, TypeError, ValueError) as error:
            raise ComparisonError(
                f"{self.folder}: its tables have no number where one is expected ({error}); "
                "evaluate again"
            ) from None
        if not np.isfinite(values).all():
            raise ComparisonError(f"{self.folder}: NaN or infinity in its tables; evaluate again")
        return values


def read_side(what: str | Sequence[str | Path], split: str) -> list[Evaluation]:
    """The evaluations that one word of the command line means, or those of a list, one a seed.

    Args:
        what: an evaluation folder, a run folder, or a pattern (with * ? [) of several of them; or a
            list of folders, which are taken by their names alone.
        split: folder below <run>/evaluation where a run folder is given.

    Raises:
        ComparisonError: nothing is there, a file is missing or damaged, a run is named twice.
    """
    folders = [Path(what)] if isinstance(what, str) else [Path(folder) for folder in what]
    if isinstance(what, str) and not folders[0].exists() and any(sign in what for sign in "*?["):
        folders = sorted(path for name in glob.glob(what) if (path := Path(name)).is_dir())
    if not folders:
        raise ComparisonError(
            f"no folder matches the pattern {what!r}" if what else "no folder is named to compare"
        )
    found = [_evaluation_folder(folder, split) for folder in folders]
    if len({folder.resolve() for folder in found}) < len(found):
        raise ComparisonError(f"{what}: names one run twice; name each once")
    return [_read(folder) for folder in found]


def check_alike(evaluations: Sequence[Evaluation]) -> list[str]:
    """Frame ids, sorted, that all the evaluations scored.

    Raises ComparisonError, naming two folders, unless frames, protocol and the number of scored
    pixels of every frame are those of the first.
    """
    first = evaluations[0]
    frame_ids = sorted(first.images)
    for other in evaluations[1:]:
        pair = f"{first.folder} and {other.folder}"
        for key in ("dataset", "variant", "list_sha256"):
            one, two = (str(e.summary.get(key))[:SHOWN] for e in (first, other))
            if one != two:
                raise ComparisonError(
                    f"{pair} are of different frames: {key} is {one} and {two}; evaluate both "
                    "on one split"
                )
        if first.protocol != other.protocol:
            raise ComparisonError(
                f"{pair} were scored by different protocols, {first.protocol!r} and "
                f"{other.protocol!r}; evaluate both by one"
            )
        if odd := sorted(first.images.keys() ^ other.images.keys()):
            raise ComparisonError(
                f"{pair} differ in {len(odd)} frames, such as {odd[0]!r}; evaluate both on one list"
            )
        counts = [e.values(frame_ids, ["num_valid"])[:, 0] for e in (first, other)]
        if (uneven := np.flatnonzero(counts[0] != counts[1])).size:
            raise ComparisonError(
                f"{pair} scored other pixels of {uneven.size} frames, such as "
                f"{frame_ids[uneven[0]]!r}: another depth cap, crop or ground truth; evaluate "
                "both by one protocol and variant"
            )
    return frame_ids


def shared_ranges(evaluations: Sequence[Evaluation]) -> dict[str, list[str]]:
    """Depth range, near ones first -> frame ids with a pixel in it; empty where one has no table.

    Raises ComparisonError if the ranges, or the frames in one, differ.
    """
    if not all(evaluation.ranges for evaluation in evaluations):
        return {}
    first = evaluations[0]
    shapes = {name: sorted(table) for name, table in first.ranges.items()}
    for other in evaluations[1:]:
        if {name: sorted(table) for name, table in other.ranges.items()} != shapes:
            raise ComparisonError(
                f"{first.folder} and {other.folder}: per_range.csv has other ranges or frames; "
                "evaluate both again with one version"
            )
    edges = {name: [float(edge) for edge in re.findall(r"\d+\.?\d*", name)] for name in shapes}
    return {name: shapes[name] for name in sorted(shapes, key=edges.__getitem__)}


def _evaluation_folder(folder: Path, split: str) -> Path:
    if (folder / "per_image.csv").is_file() or (folder / "metrics.json").is_file():
        return folder
    inner = folder / "evaluation" / split
    if inner.is_dir():
        return inner
    there = sorted(path.name for path in (folder / "evaluation").glob("*/"))
    if not folder.is_dir():
        raise ComparisonError(f"{folder}: no such folder")
    raise ComparisonError(
        f"{folder}: no evaluation of split {split!r} (there: {', '.join(there) or 'none'}); "
        + REMEDY.format(run=folder, split=split)
    )


def _read(folder: Path) -> Evaluation:
    run = folder.parent.parent
    for name in ("metrics.json", "per_image.csv"):
        if not (folder / name).is_file():
            remedy = REMEDY.format(run=run, split=folder.name)
            raise ComparisonError(f"{folder / name}: no such file; {remedy}")
    try:
        summary = json.loads((folder / "metrics.json").read_text())
        known = bool(summary["protocols"] and summary["list_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ComparisonError(
            f"{folder / 'metrics.json'}: not what evaluate.py writes; evaluate again"
        )
    images = {row["frame_id"]: row for row in _rows(folder / "per_image.csv")}
    ranges: dict[str, dict] = {}
    if (folder / "per_range.csv").is_file():
        for row in _rows(folder / "per_range.csv", "range"):
            if row["num_valid"] not in EMPTY:
                ranges.setdefault(row["range"], {})[row["frame_id"]] = row
    return Evaluation(folder, _seed(folder), summary, images, ranges)


def _seed(folder: Path) -> int | None:
    """run.seed of the run that an evaluation folder lies in, if it lies in one."""
    config = folder.parent.parent / "config.yaml"
    if folder.parent.name != "evaluation" or not config.is_file():
        return None
    try:
        return int(parse_yaml(config.read_text(), place=str(config))["run"]["seed"])
    except (KeyError, TypeError):
        raise ComparisonError(f"{config}: has no run.seed; restore it or remove the file") from None


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """Lines of a table that has the columns frame_id, num_valid and `columns`, each frame once."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    lacking = {"frame_id", "num_valid", *columns} - set(reader.fieldnames or ())
    if lacking or not rows:
        raise ComparisonError(
            f"{path}: empty, or without columns {sorted(lacking)}; evaluate again"
        )
    keys = [tuple(row[name] for name in ("frame_id", *columns)) for row in rows]
    if len(set(keys)) < len(keys):
        raise ComparisonError(f"{path}: a frame is in it twice; evaluate again")
    return rows
