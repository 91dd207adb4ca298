"""A table of the paper, written down from its finished cells: text, numbers, plot and figure. Ours.

The same cells give the same bytes, but for the seconds in table.json.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from datasets import DataError
from paper_tables.figure import Choice, choose_frames, draw_figure
from paper_tables.results import (
    Results,
    Summary,
    read_results,
    significance,
    summarize,
    verdict_sentence,
)
from paper_tables.rows import Cell, Table, budget_name
from paper_tables.text import Compared, markdown
from utils.plots import budget_plot
from utils.published import PublishedTable, published_table

Summaries = Mapping[tuple[str, int | None], Summary]


def write_report(table_name: str, table: Table, cells: Sequence[Cell], out: Path) -> str:
    """Write table.md, table.csv, table.json, budgets.png and figure.png into `out`.

    Cells that are not finished are shown as missing. figure.png is left out, and table.md says why,
    where no seed of both compared methods is finished or the frames are not there to be drawn. Of
    `table.also_compared` those pairs are compared whose methods were both asked for.

    Args:
        table_name: key of `rows.TABLES`.
        cells: all that were asked for; their run folders are out / cell.name.

    Returns:
        The text of table.md.

    Raises:
        TableError: a file of a cell is damaged or of another checkpoint, or cells were scored on
            different numbers of frames.
        ComparisonError: evaluations of the compared methods do not compare.
        NetworkError: a checkpoint of the figure is damaged.
        ConfigError: docs/published.yaml, or a cell's config.yaml, is.
    """
    cells = _in_order(table, cells)
    results = read_results(table, cells, out)
    summaries = summarize(table, cells, results)
    published = table.published and published_table(table.published)
    budgets = list(dict.fromkeys(cell.budget for cell in cells))
    compared = {budget: significance(table, results, budget) for budget in budgets}
    others = {}  # pair -> the same of it
    for pair in table.also_compared:
        if set(pair) <= {cell.method for cell in cells}:
            of_pair = table._replace(compared=pair)
            others[pair] = {b: significance(of_pair, results, b) for b in budgets}
    choice = choose_frames(table, results)
    figure, why_none = _figure(table, results, choice)
    text = markdown(
        table_name, table, cells, results=results, summaries=summaries, published=published,
        compared=compared, others=others, choice=choice, why_no_figure=why_none,
    )  # fmt: skip
    values = {
        "table": table_name,
        "split": table.split,
        "cells": [_cell_values(table, cell, results) for cell in cells],
        "rows": [
            {"method": method, "budget": budget_name(budget), **summary._asdict()}
            for (method, budget), summary in summaries.items()
        ],
        "compared": _compared_values(table, compared),
        "also_compared": {
            " -> ".join(pair): _compared_values(table._replace(compared=pair), found)
            for pair, found in others.items()
        },
        "figure": choice and _choice_values(choice),
        "environments": _distinct(result.environment for result in results.values()),
    }
    out.mkdir(parents=True, exist_ok=True)
    plot = draw_budgets(table, results, summaries, published)
    _write(out / "budgets.png", lambda file: plot.save(file, "PNG"))
    if figure is None:
        (out / "figure.png").unlink(missing_ok=True)  # of other cells than the text
    else:
        _write(out / "figure.png", lambda file: figure.save(file, "PNG"))
    _write_text(out / "table.csv", csv_text(table, cells, results))
    _write_text(out / "table.json", json.dumps(values, indent=2, allow_nan=False) + "\n")
    _write_text(out / "table.md", text)
    return text


def _compared_values(table: Table, compared: Compared) -> dict[str, dict[str, Any]]:
    return {
        budget_name(budget): {"says": verdict_sentence(table, found), **(found or {})}
        for budget, found in compared.items()
    }


def _in_order(table: Table, cells: Sequence[Cell]) -> list[Cell]:
    """By budget, all labels last, then by method as the table has them, then by seed."""
    methods = list(table.rows)
    return sorted(
        cells, key=lambda c: (c.budget is None, c.budget or 0, methods.index(c.method), c.seed)
    )


def _figure(
    table: Table, results: Results, choice: Choice | None
) -> tuple[Image.Image | None, str]:
    """The figure, or why there is none."""
    if choice is None:
        return None, "no two cells of the compared methods have their evaluations and checkpoints"
    try:
        return draw_figure(table, results, choice), ""
    except DataError as error:
        print(f"no figure: {error}", flush=True)
        return None, "its frames cannot be opened on this machine, or are others by now"


def draw_budgets(
    table: Table, results: Results, summaries: Summaries, published: PublishedTable | None
) -> Image.Image:
    """AbsRel over labels. All labels stand at their number, if a cell with them is finished."""
    numbers = [budget for _, budget in summaries if budget is not None]
    full = [r.record["num_labels"] for cell, r in results.items() if cell.budget is None]
    place_of_all = max(full, default=3 * max(numbers, default=1))
    places = {budget: place_of_all if budget is None else budget for _, budget in summaries}
    ours: dict[str, list] = {table.rows[method].title: [] for method, _ in summaries}
    theirs: dict[str, list] = {title: [] for title in ours} if published else {}
    for (method, budget), summary in summaries.items():
        title, place = table.rows[method].title, places[budget]
        if summary.num_seeds:
            ours[title].append((place, summary.mean["abs_rel"], summary.std["abs_rel"]))
        row = published and published.row(method, budget_name(budget))
        if row and (number := row.scores["abs_rel"]):
            theirs[title].append((place, number.mean, number.std))
    ticks = {place: "all" if budget is None else f"{budget:,}" for budget, place in places.items()}
    return budget_plot(ours, theirs, ticks=ticks)


def csv_text(table: Table, cells: Sequence[Cell], results: Results) -> str:
    """One line a cell, with numbers in full; a cell that is not finished has none. No times."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    scores = (*table.metrics, "num_images")
    writer.writerow(["method", "budget", "num_labels", "seed", *scores, "num_steps", "device"])
    for cell in cells:
        numbers = [""] * (len(scores) + 3)
        if cell in results:
            record, environment = results[cell].record, results[cell].environment
            numbers = [record["num_labels"], *(record["scores"][name] for name in scores),
                       record["num_steps"], environment.get("device", "")]  # fmt: skip
        writer.writerow(
            [cell.method, budget_name(cell.budget), numbers[0], cell.seed, *numbers[1:]]
        )
    return file.getvalue()


def _cell_values(table: Table, cell: Cell, results: Results) -> dict[str, Any]:
    """A cell for table.json; "scores" is None where it is not finished."""
    what = {"method": cell.method, "budget": budget_name(cell.budget), "seed": cell.seed}
    if cell not in results:
        return what | {"scores": None}
    record = results[cell].record
    keys = ("scores", "num_labels", "num_steps", "checkpoint_sha256", "seconds")
    return what | {key: record.get(key) for key in keys}


def _choice_values(choice: Choice) -> dict[str, Any]:
    frames = [
        {**frame._asdict(), "errors": {cell.name: error for cell, error in frame.errors.items()}}
        for frame in choice.frames
    ]
    budgets = [budget_name(budget) for budget in choice.budgets]
    return {**choice._asdict(), "budgets": budgets, "frames": frames}


def _distinct(environments: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that differ, without the command, which differs in every cell."""
    found: list[dict[str, Any]] = []
    for one in environments:
        kept = {key: value for key, value in one.items() if key != "command"}
        if kept not in found:
            found.append(kept)
    return found


def _write_text(path: Path, text: str) -> None:
    _write(path, lambda file: file.write_text(text, encoding="utf-8", newline="\n"))


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Whole or not at all: `write` gets a file beside it, which takes its name when it is done."""
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
