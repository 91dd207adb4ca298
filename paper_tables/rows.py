"""What the paper's tables consist of: rows (methods), label budgets, and what is compared. Ours.

A row is a configuration and the script that trains it. The rows of a table differ in their method
alone (tests/test_tables.py holds them to that), so they take as many optimiser steps, of as many
labelled images.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One method: how tables call it, the script that trains it, its configuration."""

    title: str
    script: str
    conf: str


class Table(NamedTuple):
    """One table.

    Attributes:
        title: heading.
        rows: by the name of the method, in the order of print.
        budgets: label budgets (frames) where none are asked for; None is all labels.
        split: frames that are scored.
        metrics: columns, names of utils.metrics.
        compared: two names of rows, reference and ours: what the significance is of.
        also_compared: further such pairs, for their significance only.
        published: key of docs/published.yaml whose numbers are of the same kind, or None.
    """

    title: str
    rows: dict[str, Row]
    budgets: tuple[int | None, ...]
    split: str
    metrics: tuple[str, ...]
    compared: tuple[str, str]
    published: str | None
    also_compared: tuple[tuple[str, str], ...] = ()


class Cell(NamedTuple):
    """One training of a table: a method at a label budget (None: all labels) from one seed."""

    method: str
    budget: int | None
    seed: int

    @property
    def name(self) -> str:
        """Name of its run folder below the table's."""
        return f"{self.method}_{budget_name(self.budget)}_s{self.seed}"


def budget_name(budget: int | None) -> str:
    """ "10", "100", ... or "full"."""
    return "full" if budget is None else str(budget)


TRAIN, CONSISTENCY = "train.py", "consistency_train.py"


def _four_rows(dataset: str) -> dict[str, Row]:
    return {
        "baseline": Row("Baseline", TRAIN, f"conf/{dataset}_baseline.yaml"),
        "baseline_self": Row("Baseline+Self", TRAIN, f"conf/{dataset}_baseline_self.yaml"),
        "ours_self": Row("Ours+Self", CONSISTENCY, f"conf/{dataset}_ours_self.yaml"),
        "ours": Row("Ours", CONSISTENCY, f"conf/{dataset}_ours.yaml"),
    }


def _two_rows(dataset: str) -> dict[str, Row]:
    rows = _four_rows(dataset)
    return {name: rows[name] for name in ("baseline", "ours")}


def _adaptation_rows(pair: str) -> dict[str, Row]:
    return {
        "source_only": Row("Source only", TRAIN, f"conf/{pair}_source_only.yaml"),
        "ours": Row("Ours", CONSISTENCY, f"conf/{pair}_ours.yaml"),
        "oracle": Row("Oracle (target labels)", TRAIN, f"conf/{pair}_oracle.yaml"),
    }


KITTI_METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "d1")
NYU_METRICS = ("abs_rel", "rmse", "log10", "d1")
SELF_PAIRS = (("baseline", "baseline_self"), ("baseline_self", "ours_self"))
BUDGETS = (10, 100, 1000, 10_000, None)

TABLES = {
    "synthetic": Table(
        "Synthetic streets", _four_rows("synthetic"), (10, 100), "test", KITTI_METRICS,
        ("baseline", "ours"), None, SELF_PAIRS,
    ),
    "kitti": Table(
        "KITTI, Eigen split, 652 frames", _four_rows("kitti"), BUDGETS, "test", KITTI_METRICS,
        ("baseline", "ours"), "kitti_sparse_labels", SELF_PAIRS,
    ),
    "nyu": Table(
        "NYU Depth v2, 654 frames", _two_rows("nyu"), BUDGETS, "test", NYU_METRICS,
        ("baseline", "ours"), "nyu_sparse_labels",
    ),
    "rgbd": Table(
        "Your RGB-D frames", _two_rows("rgbd"), (20, 100), "val", NYU_METRICS,
        ("baseline", "ours"), None,
    ),
    "look_b": Table(
        "Synthetic streets, look A to look B", _adaptation_rows("look_b"), (None,), "test",
        KITTI_METRICS, ("source_only", "ours"), None,
    ),
    "virtual_kitti_to_kitti": Table(
        "Virtual KITTI 2 to KITTI", _adaptation_rows("virtual_kitti_to_kitti"), (None,), "test",
        KITTI_METRICS, ("source_only", "ours"), None,
    ),
}  # fmt: skip
