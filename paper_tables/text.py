"""table.md: what a table's cells say, in words that promise no more than its numbers. Ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paper_tables.figure import Choice
from paper_tables.results import NAMES, Results, Summary, labels_text, verdict_sentence
from paper_tables.rows import Cell, Table, budget_name
from utils.bootstrap import LARGER_IS_BETTER
from utils.published import PublishedTable

IN_METRES = ("sq_rel", "rmse")
NOTHING = "-"
PACKAGES = ("python", "torch", "torchvision", "timm", "numpy", "pillow", "cuda")
Summaries = Mapping[tuple[str, int | None], Summary]
Compared = Mapping[int | None, dict[str, Any] | None]


def markdown(
    table_name: str, table: Table, cells: Sequence[Cell], *, results: Results,
    summaries: Summaries, published: PublishedTable | None, compared: Compared,
    others: Mapping[tuple[str, str], Compared], choice: Choice | None, why_no_figure: str,
) -> str:  # fmt: skip
    """The page. Arguments are those of `report.write_report` and what it has found."""
    images = next((f"{r.record['scores']['num_images']:,} " for r in results.values()), "")
    protocol = next((r.summary["protocols"] for r in results.values() if r.evaluation), {})
    scored = f", protocol `{next(iter(protocol))}`" if protocol else ""
    paper = " Rows in italics are published numbers, not ours." if published else ""
    parts = [
        f"# {table.title}",
        f"{images}{table.split} frames{scored}. Mean ± sample standard deviation over seeds; the "
        "best mean among rows with all their seeds is bold, which says nothing of chance: see "
        f"below.{paper}",
    ]
    for budget in dict.fromkeys(cell.budget for cell in cells):
        rows = score_rows(table, budget, summaries, published)
        heads = [_head(name) for name in table.metrics]
        parts += [f"## {labels_text(budget).capitalize()}", _grid(["", *heads, "seeds"], rows)]
    if published:
        parts += ["## The published rows", published_notes(published)]
    for pair, found in {table.compared: compared, **others}.items():
        reference, ours = (table.rows[method].title for method in pair)
        section = compared_section(table._replace(compared=pair), found)
        parts += [f"## Is {ours} better than {reference}?", section]
    parts += ["## AbsRel by labels", "![AbsRel over the number of labels](budgets.png)"]
    parts += ["## Frames", figure_section(table, choice, why_no_figure)]
    parts += ["## What was run", run_section(table_name, table, cells, results)]
    return "\n\n".join(parts) + "\n"


def score_rows(
    table: Table, budget: int | None, summaries: Summaries, published: PublishedTable | None
) -> list[list[str]]:
    """Lines of one budget: each method, and below it what was published of it."""
    of_budget = {m: s for (m, other), s in summaries.items() if other == budget}
    best = _best(table, [s for s in of_budget.values() if s.num_seeds == s.num_asked])
    rows = []
    for method, summary in of_budget.items():
        title, seeds = table.rows[method].title, f"{summary.num_seeds} of {summary.num_asked}"
        numbers = [score_text(summary, name, best.get(name)) for name in table.metrics]
        rows.append([title, *numbers, seeds])
        if row := published and published.row(method, budget_name(budget)):
            found = [row.scores.get(name) for name in table.metrics]
            texts = [f"*{number.text}*" if number else NOTHING for number in found]
            rows.append([f"*{title}, paper*", *texts, ""])
    return rows


def score_text(summary: Summary, name: str, best: float | None) -> str:
    """ "0.1234 ± 0.0012", without ± of one seed, bold if its mean is `best`, "-" of none."""
    if not summary.num_seeds:
        return NOTHING
    mean, std = summary.mean[name], summary.std[name]
    text = _number(name, mean) + ("" if std is None else f" ± {_number(name, std)}")
    return f"**{text}**" if mean == best else text


def _best(table: Table, complete: Sequence[Summary]) -> dict[str, float]:
    """Best mean by metric; nothing where there are not two that differ."""
    best = {}
    for name in table.metrics if len(complete) > 1 else ():
        means = [summary.mean[name] for summary in complete]
        if min(means) < max(means):
            best[name] = max(means) if name in LARGER_IS_BETTER else min(means)
    return best


def published_notes(published: PublishedTable) -> str:
    """Where the numbers stand, how they were made, what is doubtful."""
    return "\n".join(
        [f"Source: {published.source}. Numbers as printed.", ""]
        + [f"- {sentence}" for sentence in published.protocol]
        + [f"- Caveat: {sentence}" for sentence in published.caveats]
    )


def compared_section(table: Table, compared: Compared) -> str:
    """A sentence a budget, then the intervals that it is made of."""
    reference, ours = (table.rows[method].title for method in table.compared)
    verdicts = {"A better": f"{reference} better", "B better": f"{ours} better"}
    sentences, rows, drawn = [], [], set()
    for budget, found in compared.items():
        sentences.append(f"- {labels_text(budget).capitalize()}: {verdict_sentence(table, found)}")
        for name, row in (found or {"metrics": {}})["metrics"].items():
            spans = [None if x is None else f"{x:+.4f}" for x in (row["low"], row["high"])]
            relative = row["relative"]
            rows.append([
                labels_text(budget), NAMES[name], _number(name, row["mean_a"]),
                _number(name, row["mean_b"]), f"{row['difference']:+.4f}",
                NOTHING if relative is None else f"{100 * relative:+.1f} %",
                NOTHING if None in spans else " to ".join(spans),
                verdicts.get(row["verdict"], row["verdict"]),
            ])  # fmt: skip
        if found:
            drawn.add(found["resample"])
    heads = ["labels", "", reference, ours, f"{ours} - {reference}", "relative",
             "95 % interval", "verdict"]  # fmt: skip
    notes = [
        "Means over the seeds that both have finished. Intervals: paired bootstrap over seeds, "
        f"where there are several, and {' or '.join(sorted(drawn))}; each for its row alone."
    ] * bool(drawn)
    if "images" in drawn:
        notes.append(
            "Too few scenes to draw them whole; frames of one scene are near-duplicates, so "
            "intervals over images are too narrow."
        )
    grids = [_grid(heads, rows, num_words=2)] if rows else []
    return "\n\n".join(["\n".join(sentences), *grids, *notes])


def figure_section(table: Table, choice: Choice | None, why_none: str) -> str:
    """The figure and its rule, or why there is none."""
    if why_none or choice is None:
        return f"No figure: {why_none}."
    reference, ours = (table.rows[method].title for method in table.compared)
    budgets = " and ".join(labels_text(budget) for budget in choice.budgets)
    mean = "mean of the two" if len(choice.budgets) > 1 else "at that budget"
    frames = [
        f"- {frame.which}: `{frame.frame_id}`, gain {frame.gain:+.4f}" for frame in choice.frames
    ]
    return "\n".join([
        "![Image, ground truth, and the depth that both methods predict](figure.png)", "",
        f"Chosen by rule from all {choice.num_frames:,} frames, not by eye: gain = AbsRel of "
        f"{reference} - AbsRel of {ours}, seed {choice.seed}, {budgets}, {mean}. Every row has one "
        "colour scale, that of its ground truth, in metres.", "", *frames,
    ])  # fmt: skip


def run_section(table_name: str, table: Table, cells: Sequence[Cell], results: Results) -> str:
    """Scripts, steps, labels; machines and versions."""
    rows = []
    for method in dict.fromkeys(cell.method for cell in cells):
        records = [r.record for cell, r in results.items() if cell.method == method]
        numbers = [
            ", ".join(f"{n:,}" for n in sorted({record[key] for record in records})) or NOTHING
            for key in ("num_labels", "num_steps")
        ]
        row = table.rows[method]
        rows.append([row.title, f"`{row.script}`", f"`{row.conf}`", *numbers])
    environments = [result.environment for result in results.values()]
    versions = (
        ", ".join(f"{key} {one[key]}" for key in PACKAGES if one.get(key)) for one in environments
    )
    words = (_shown_words(result.record.get("words", ())) for result in results.values())
    steps = {result.record["num_steps"] for result in results.values()}
    lines = [
        _grid(["", "script", "configuration", "labelled frames", "optimiser steps"], rows,
              num_words=3), "",
        f"- Table `{table_name}`: {len(results)} of {len(cells)} cells are finished.",
        "- Every cell is scored by its last checkpoint; nothing is chosen on validation frames.",
        *["- **Cells differ in optimiser steps, so they do not compare.**"] * (len(steps) > 1),
        f"- Words on top of the configurations: {_all(words)}.",
        f"- Device: {_all(one.get('device') for one in environments)}.",
        f"- Versions: {_all(versions)}.",
        f"- Commit: {_all(one.get('git_commit') for one in environments)}.",
    ]  # fmt: skip
    return "\n".join(lines)


def _shown_words(words: Sequence[str]) -> str:
    """Words that say what was trained; places of data and what makes a cell are left out."""
    own = ("run.seed", "run.name", "run.folder", "labeled.num_frames")
    keys = [(word, word.partition("=")[0]) for word in words]
    return " ".join(f"`{w}`" for w, key in keys if key not in own and not key.endswith(".root"))


def _all(values: Iterable[str | None]) -> str:
    """Every value once, in order of first appearance; "none" of nothing."""
    return "; ".join(dict.fromkeys(value for value in values if value)) or "none"


def _head(name: str) -> str:
    arrow = "↑" if name in LARGER_IS_BETTER else "↓"
    return f"{NAMES[name]}{' (m)' * (name in IN_METRES)} {arrow}"


def _number(name: str, value: float) -> str:
    return f"{value:.{3 if name in IN_METRES else 4}f}"


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]], *, num_words: int = 1) -> str:
    """A table whose first `num_words` columns are words and the others numbers, set right."""
    rules = ["---"] * num_words + ["---:"] * (len(heads) - num_words)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rules, *rows))
