"""The picture of a table: frames that a rule chooses, as the compared methods see them. Ours.

The frames are scored already; a few are predicted again to be drawn, and nothing is learned from
them, so no look is entered in the ledger of test frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from dotmap import DotMap
from PIL import Image

from frames import open_frames
from networks import load_network
from paper_tables.cells import TableError
from paper_tables.results import RESCORE, Result, Results, labels_text, shared_seeds
from paper_tables.rows import Cell, Table
from predictions import network_predictions
from utils.checkpoint import file_sha256
from utils.config import parse_yaml, saved_config
from utils.evaluations import check_alike, read_side
from utils.method_panel import Shown, method_panel
from utils.visualize import contact_sheet


class Chosen(NamedTuple):
    """A frame of the figure.

    Attributes:
        which: "best", "median" or "worst" of all frames by its gain.
        gain: AbsRel of the reference minus AbsRel of ours, mean of the budgets that are shown.
        errors: AbsRel by cell.
    """

    which: str
    frame_id: str
    gain: float
    errors: dict[Cell, float]


class Choice(NamedTuple):
    """What the figure shows: one seed, one or two budgets, some of `num_frames` frames."""

    seed: int
    budgets: tuple[int | None, ...]
    num_frames: int
    frames: tuple[Chosen, ...]


def choose_frames(table: Table, results: Results) -> Choice | None:
    """Best, median and worst frame by gain, of the first seed that both methods have finished.

    The gain is over the smallest and the largest budget that both have finished with that seed.
    Frames of equal gain stand in the order of their names. Of two frames there is no median.

    Returns:
        None if no two cells of one budget and seed have their evaluations and last.pt.

    Raises:
        ComparisonError: the evaluations do not compare.
    """
    there = {c: r for c, r in results.items() if _checkpoint(r).is_file()}
    pairs = [
        (seed, float("inf") if budget is None else budget, budget)
        for budget in dict.fromkeys(cell.budget for cell in there)
        for seed in shared_seeds(table, there, budget)
    ]
    if not pairs:
        return None
    seed = min(seed for seed, *_ in pairs)
    ordered = [budget for other, _, budget in sorted(pairs, key=lambda p: p[:2]) if other == seed]
    budgets = tuple(dict.fromkeys((ordered[0], ordered[-1])))
    cells = [Cell(method, budget, seed) for method in table.compared for budget in budgets]
    runs = read_side([results[cell].evaluation for cell in cells], table.split)
    frame_ids = check_alike(runs)
    errors = np.stack([run.values(frame_ids, ["abs_rel"])[:, 0] for run in runs])
    gains = errors[: len(budgets)].mean(axis=0) - errors[len(budgets) :].mean(axis=0)
    frames = tuple(
        Chosen(which, frame_ids[k], float(gains[k]),
               dict(zip(cells, errors[:, k].tolist(), strict=True)))
        for which, k in _places(gains).items()
    )  # fmt: skip
    return Choice(seed, budgets, len(frame_ids), frames)


def _places(gains: np.ndarray) -> dict[str, int]:
    order = np.argsort(-gains, kind="stable").tolist()
    median = {"median": order[(len(order) - 1) // 2]} if len(order) > 2 else {}
    worst = {"worst": order[-1]} if len(order) > 1 else {}
    return {"best": order[0], **median, **worst}


def draw_figure(table: Table, results: Results, choice: Choice) -> Image.Image:
    """A row a frame: image, ground truth, reference and ours at each budget, with their AbsRel.

    Only these frames are opened, as the configuration of their cells says, and on the CPU.

    Raises:
        DataError: the frames are not there any more, or others than were scored.
        TableError: last.pt is another one than was scored.
    """
    cells = list(choice.frames[0].errors)
    frame_ids = [frame.frame_id for frame in choice.frames]
    depths = {cell: predict_again(results[cell], table.split, frame_ids) for cell in cells}
    _, dataset, indices = reopen(results[cells[0]], table.split, frame_ids)
    truths = [next(iter(dataset.ground_truths(index).values()))() for index in indices]
    rows = []
    for k, frame in enumerate(choice.frames):
        shown = {
            cell: Shown(
                label=f"{table.rows[cell.method].title}, {labels_text(cell.budget)}",
                depth=depths[cell][k],
                note=f"AbsRel {frame.errors[cell]:.3f}",
            )
            for cell in cells
        }
        reference, ours = (
            [shown[cell] for cell in cells if cell.method == method] for method in table.compared
        )
        rows.append(
            method_panel(
                image=dataset.frame(indices[k]).image, depth=truths[k], reference=reference,
                ours=ours, title=row_title(table, frame),
            )
        )  # fmt: skip
    return contact_sheet(rows)


def row_title(table: Table, frame: Chosen) -> str:
    """ "best: AbsRel of Ours 0.0312 below that of Baseline  |  drive_0007 0000000003"."""
    reference, ours = (table.rows[method].title for method in table.compared)
    gain = f"{abs(frame.gain):.4f} {'below' if frame.gain >= 0 else 'above'}"
    return f"{frame.which}: AbsRel of {ours} {gain} that of {reference}  |  {frame.frame_id}"


def predict_again(result: Result, split: str, frame_ids: Sequence[str]) -> list[np.ndarray]:
    """The (H, W) depth in metres of these frames by the last checkpoint of a cell, in order."""
    file = _checkpoint(result)
    if file_sha256(file) != result.record["checkpoint_sha256"]:
        raise TableError(
            f"{file} is another checkpoint than was scored; where training went on, "
            f"{result.folder / 'cell.json'} is of its past: {RESCORE}"
        )
    cfg, dataset, indices = reopen(result, split, frame_ids)
    predictions = network_predictions(
        load_network(file), dataset, indices, device=torch.device("cpu"), batch_size=1,
        num_workers=0, flip=cfg.evaluation.flip, own_ground_truth_only=True,
    )  # fmt: skip
    return [one.depth[0].numpy() for one in predictions]


def reopen(result: Result, split: str, frame_ids: Sequence[str]) -> tuple[DotMap, Any, list[int]]:
    """Configuration of a cell, the dataset of the frames that it was scored on, and the places of
    `frame_ids` in it. DataError if they are other frames now."""
    path = result.folder / "config.yaml"
    words = [f"validation.split={split}", "validation.num_frames=null",
             f'validation.list_sha256="{result.summary["list_sha256"]}"']  # fmt: skip
    cfg = saved_config(parse_yaml(path.read_text(), place=str(path)), words, place=str(path))
    dataset, indices = open_frames(cfg.validation, seed=cfg.run.seed, budget=None)
    place_of = {dataset.frame_ids[index]: index for index in indices}
    return cfg, dataset, [place_of[name] for name in frame_ids]


def _checkpoint(result: Result) -> Path:
    return result.folder / "checkpoints" / "last.pt"
