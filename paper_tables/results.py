"""What the finished cells of a table say: means over seeds, and how sure a difference is. Ours."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paper_tables.cells import TableError
from paper_tables.rows import Cell, Table
from utils.bootstrap import MIN_DRAWN, TOO_FEW
from utils.compare import RANGE_METRICS, compare
from utils.evaluations import read_side

RESCORE = "delete it, and `python reproduce.py` with the words of the table scores the cell again"
VERDICTS = {  # of utils.bootstrap, B being ours
    "B better": "{ours} is better than {reference} by {metrics}",
    "A better": "{ours} is worse than {reference} by {metrics}",
    "no difference shown": "no difference is shown by {metrics}",
    TOO_FEW: "there are too few frames to say by {metrics}",
}
NAMES = {"abs_rel": "AbsRel", "sq_rel": "SqRel", "rmse": "RMSE", "rmse_log": "RMSElog",
         "silog": "SILog", "log10": "log10", "d1": "δ1", "d2": "δ2", "d3": "δ3"}  # fmt: skip


class Result(NamedTuple):
    """A finished cell.

    Attributes:
        folder: its run folder.
        record: cell.json.
        environment: environment.json.
        evaluation: folder that evaluate.py wrote of the table's frames; None if it is gone.
    """

    folder: Path
    record: dict[str, Any]
    environment: dict[str, Any]
    evaluation: Path | None

    @property
    def summary(self) -> dict[str, Any]:
        """metrics.json of the evaluation, which must be there."""
        return json.loads((self.evaluation / "metrics.json").read_text())


Results = Mapping[Cell, Result]


class Summary(NamedTuple):
    """A method at a budget: seeds that are finished, seeds asked for, mean and sample std (ddof 1)
    over seeds by metric; std is None with one seed, both are empty with none."""

    num_seeds: int
    num_asked: int
    mean: dict[str, float]
    std: dict[str, float | None]


def read_results(table: Table, cells: Iterable[Cell], out: Path) -> dict[Cell, Result]:
    """The finished cells among `cells`, in their order.

    Raises:
        TableError: a file of a cell is damaged, its evaluation is of another checkpoint or other
            scores than its cell.json, or two cells were scored on different numbers of frames.
    """
    results = {
        cell: _read(table, out / cell.name)
        for cell in cells if (out / cell.name / "cell.json").exists()
    }  # fmt: skip
    counts = {cell: result.record["scores"]["num_images"] for cell, result in results.items()}
    first = next(iter(counts), None)
    if odd := next((cell for cell in counts if counts[cell] != counts[first]), None):
        raise TableError(
            f"{out}: {first.name} was scored on {counts[first]} frames and {odd.name} on "
            f"{counts[odd]}, which is no table; complete the data, and delete the cell.json of one"
        )
    return results


def _read(table: Table, folder: Path) -> Result:
    path = folder / "cell.json"
    record, environment = _read_json(path), _read_json(folder / "environment.json")
    try:
        numbers = [record["scores"][name] for name in (*table.metrics, "num_images")]
        numbers += [record[key] for key in ("num_labels", "num_steps")]
        known = all(type(x) in (int, float) and math.isfinite(x) for x in numbers)
        sha256 = record["checkpoint_sha256"]
    except (KeyError, TypeError):
        known = False
    if not known:
        raise TableError(f"{path}: not what reproduce.py writes of a finished cell; {RESCORE}")
    evaluation = folder / "evaluation" / table.split
    files = [evaluation / name for name in ("metrics.json", "per_image.csv")]
    if not all(file.is_file() for file in files):
        return Result(folder, record, environment, None)
    summary = _read_json(files[0])
    scored = next(iter(summary.get("protocols", {}).values()), {})
    same = all(scored.get(name) == record["scores"][name] for name in table.metrics)
    if summary.get("sha256") != sha256 or not same:
        raise TableError(
            f"{path}: is of another checkpoint or other scores than {files[0]}; {RESCORE}"
        )
    return Result(folder, record, environment, evaluation)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: cannot be read ({error}); delete its folder") from None
    if not isinstance(content, dict):
        raise TableError(f"{path}: holds no keys and values; delete its folder")
    return content


def summarize(
    table: Table, cells: Sequence[Cell], results: Results
) -> dict[tuple[str, int | None], Summary]:
    """(method, budget) -> what its seeds say, for all that were asked for."""
    summaries = {}
    for method, budget in dict.fromkeys((cell.method, cell.budget) for cell in cells):
        asked = [cell for cell in cells if (cell.method, cell.budget) == (method, budget)]
        scores = [results[cell].record["scores"] for cell in asked if cell in results]
        columns = {name: [row[name] for row in scores] for name in table.metrics if scores}
        summaries[method, budget] = Summary(
            num_seeds=len(scores),
            num_asked=len(asked),
            mean={name: statistics.fmean(values) for name, values in columns.items()},
            std={
                name: statistics.stdev(values) if len(values) > 1 else None
                for name, values in columns.items()
            },
        )
    return summaries


def shared_seeds(table: Table, results: Results, budget: int | None) -> list[int]:
    """Seeds at which both compared methods have an evaluation, in order."""
    of_method = [
        {c.seed for c, r in results.items() if (c.method, c.budget) == (m, budget) and r.evaluation}
        for m in table.compared
    ]
    return sorted(set.intersection(*of_method))


def significance(table: Table, results: Results, budget: int | None) -> dict[str, Any] | None:
    """`utils.compare.compare` of the compared methods, in pairs of the seeds that both finished.

    Whole scenes are drawn where there are at least MIN_DRAWN of them, else images.

    Returns:
        Its dictionary (A is the reference, B is ours; folders by their cells' names) and "seeds";
        None if no seed has both.

    Raises:
        ComparisonError: their evaluations do not compare.
    """
    seeds = shared_seeds(table, results, budget)
    if not seeds:
        return None
    sides = [[results[Cell(m, budget, s)].evaluation for s in seeds] for m in table.compared]
    rows = read_side(sides[0][:1], table.split)[0].images.values()
    scenes = {row.get("scene") for row in rows}
    whole = len(scenes) >= MIN_DRAWN and all(scenes)
    found = compare(*sides, metrics=RANGE_METRICS, resample="scenes" if whole else "images")
    for key, method in zip("ab", table.compared, strict=True):
        found[key] = [Cell(method, budget, seed).name for seed in seeds]
    return {"seeds": seeds, **found}


def verdict_sentence(table: Table, found: Mapping[str, Any] | None) -> str:
    """What the intervals say, and no more: "Ours is better than Baseline by AbsRel; no ..."."""
    reference, ours = (table.rows[method].title for method in table.compared)
    if found is None:
        return f"not compared: no seed of both {reference} and {ours} is finished."
    by_verdict: dict[str, list[str]] = {}
    for name, row in found["metrics"].items():
        by_verdict.setdefault(row["verdict"], []).append(NAMES[name])
    parts = [
        VERDICTS[verdict].format(ours=ours, reference=reference, metrics=_listed(names))
        for verdict, names in by_verdict.items()
    ]
    seeds = len(found["seeds"])
    warning = "; how another seed would end is not known" if seeds == 1 else ""
    return f"{'; '.join(parts)} ({seeds} {'seed' if seeds == 1 else 'seeds'} of each){warning}."


def labels_text(budget: int | None) -> str:
    """ "10 labels", "10,000 labels" or "all labels"."""
    return "all labels" if budget is None else f"{budget:,} labels"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
