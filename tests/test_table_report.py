"""A table written down: numbers are those of its cells, and words are those of its numbers."""

import csv
import json
import re

import numpy as np
import pytest

from paper_tables.cells import TableError
from paper_tables.report import write_report
from paper_tables.rows import KITTI_METRICS, TABLES, Cell, Row, Table
from utils import plots
from utils.compare import compare
from utils.evaluations import ComparisonError
from utils.metrics import METRIC_NAMES
from utils.plots import budget_plot
from utils.published import published_table

ROWS = {
    "baseline": Row("Baseline", "train.py", "conf/a.yaml"),
    "ours": Row("Ours", "train.py", "conf/b.yaml"),
}
TABLE = Table("Streets", ROWS, (2, 4), "test", KITTI_METRICS, ("baseline", "ours"), None)
CELLS = [Cell(method, budget, seed) for budget in (2, 4) for method in ROWS for seed in range(3)]
FRAMES = [f"street_{street} {number}" for street in range(6) for number in range(2)]
FILES = ("table.md", "table.csv", "table.json", "budgets.png", "figure.png")


def write_cell(out, table, cell, *, abs_rel, frames=FRAMES, num_steps=30, num_labels=None):
    """A finished cell without checkpoint. `abs_rel`, (frames,) or a number; d1 is 1 - abs_rel."""
    folder = out / cell.name
    evaluation = folder / "evaluation" / table.split
    evaluation.mkdir(parents=True)
    errors = np.broadcast_to(np.asarray(abs_rel, float), len(frames)).tolist()
    rows = [
        {"frame_id": name, "scene": name.split()[0], **dict.fromkeys(METRIC_NAMES, 0.5 + error),
         "abs_rel": error, "d1": 1 - error, "num_valid": 100}
        for name, error in zip(frames, errors, strict=True)
    ]  # fmt: skip
    with (evaluation / "per_image.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    scores = {name: float(np.mean([row[name] for row in rows])) for name in METRIC_NAMES}
    scores["num_images"] = len(frames)
    write_json(evaluation / "metrics.json", {
        "sha256": cell.name, "dataset": "synthetic", "variant": None, "list_sha256": "abc",
        "protocols": {"plain": scores},
    })  # fmt: skip
    (folder / "config.yaml").write_text(f"run: {{seed: {cell.seed}}}\n")
    environment = {"python": "3.12.1", "torch": "2.5.1", "device": "a processor",
                   "git_commit": "0123abcd", "command": f"train.py {cell.name}"}  # fmt: skip
    write_json(folder / "environment.json", environment)
    write_json(folder / "cell.json", {
        "cell": cell.name, "words": ["train.num_steps=30", "labeled.root=/somewhere"],
        "script": "train.py", "conf": "conf/a.yaml", "checkpoint_sha256": cell.name,
        "num_labels": num_labels or cell.budget or 6, "num_steps": num_steps, "seconds": 1.5,
        "scores": {name: scores[name] for name in (*table.metrics, "num_images")},
    })  # fmt: skip
    return folder


def write_json(path, values):
    path.write_text(json.dumps(values))


def change(path, **values):
    write_json(path, json.loads(path.read_text()) | values)


def errors_of(cell, gain=0.03, noise=0.01):
    """AbsRel of FRAMES by this cell; ours is `gain` better at 4 labels, and equal at 2."""
    rng = np.random.default_rng(cell.seed)
    errors = 0.4 - 0.02 * cell.budget + 0.05 * rng.random(len(FRAMES)) + 0.02 * cell.seed
    if cell.method == "ours" and cell.budget == 4:
        errors = errors - gain + noise * (rng.random(len(FRAMES)) - 0.5)
    return errors


@pytest.fixture
def out(tmp_path):
    """OUT with all CELLS but one: seed 2 of ours at 4 labels."""
    for cell in CELLS[:-1]:
        write_cell(tmp_path, TABLE, cell, abs_rel=errors_of(cell))
    return tmp_path


def grid(text, heading):
    """First cell -> the others, of the first table below a heading of the page."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows[2:]}


def test_means_and_spreads_are_those_of_the_cells(out):
    text = write_report("streets", TABLE, CELLS, out)
    assert text == (out / "table.md").read_text()
    rows = json.loads((out / "table.json").read_text())["rows"]
    assert len(rows) == 4
    for row in rows:
        found = [json.loads(path.read_text())["scores"]
                 for path in out.glob(f"{row['method']}_{row['budget']}_s*/cell.json")]  # fmt: skip
        assert (row["num_seeds"], row["num_asked"]) == (len(found), 3)
        for name in KITTI_METRICS:
            values = [scores[name] for scores in found]
            assert row["mean"][name] == pytest.approx(np.mean(values), rel=1e-12)
            assert row["std"][name] == pytest.approx(np.std(values, ddof=1), rel=1e-9)
        printed = grid(text, f"{row['budget']} labels")[row["method"].title()]
        for place, name, digits in ((0, "abs_rel", 4), (2, "rmse", 3), (4, "d1", 4)):
            mean, std = (f"{row[key][name]:.{digits}f}" for key in ("mean", "std"))
            assert printed[place].strip("*") == f"{mean} ± {std}"


def test_every_cell_is_a_line_with_its_numbers_in_full(out):
    write_report("streets", TABLE, CELLS, out)
    with (out / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(x["method"], x["budget"], x["seed"]) for x in lines] == [
        (cell.method, str(cell.budget), str(cell.seed)) for cell in CELLS
    ]
    for cell, line in zip(CELLS[:-1], lines, strict=False):
        record = json.loads((out / cell.name / "cell.json").read_text())
        assert {name: float(line[name]) for name in KITTI_METRICS} == {
            name: record["scores"][name] for name in KITTI_METRICS
        }
        assert line["num_images"] == "12" and line["device"] == "a processor"
        assert (line["num_labels"], line["num_steps"]) == (str(cell.budget), "30")
    assert all(lines[-1][name] == "" for name in (*KITTI_METRICS, "num_steps", "device"))


def test_a_missing_cell_is_shown_and_its_row_is_never_the_best(out):
    text = write_report("streets", TABLE, CELLS, out)
    full, short = grid(text, "2 labels"), grid(text, "4 labels")
    assert [row[-1] for row in full.values()] == ["3 of 3", "3 of 3"]
    assert [row[-1] for row in short.values()] == ["3 of 3", "2 of 3"]
    assert float(short["Ours"][0].split()[0]) < float(short["Baseline"][0].strip("*").split()[0])
    assert "**" not in "".join(short["Ours"] + short["Baseline"])  # one complete row is no contest
    assert "11 of 12 cells are finished" in text
    write_cell(out, TABLE, CELLS[-1], abs_rel=errors_of(CELLS[-1]))
    short = grid(write_report("streets", TABLE, CELLS, out), "4 labels")
    assert all(number.startswith("**") for number in short["Ours"][:-1])  # lower errors, higher d1
    assert "**" not in "".join(short["Baseline"])


def test_one_seed_has_no_spread_and_none_has_no_number(tmp_path):
    write_cell(tmp_path, TABLE, Cell("baseline", 2, 0), abs_rel=0.25)
    text = write_report("streets", TABLE, CELLS, tmp_path)
    assert grid(text, "2 labels")["Baseline"] == ["0.2500", "0.750", "0.750", "0.7500", "0.7500",
                                                  "1 of 3"]  # fmt: skip
    assert grid(text, "2 labels")["Ours"] == ["-"] * 5 + ["0 of 3"]
    assert "2 labels: not compared: no seed of both Baseline and Ours is finished." in text
    assert "No figure: no two cells" in text and not (tmp_path / "figure.png").exists()


def test_a_table_without_any_finished_cell_says_so(tmp_path):
    text = write_report("kitti", TABLES["kitti"], [Cell("ours", None, 0)], tmp_path)
    assert grid(text, "All labels")["Ours"] == ["-"] * 5 + ["0 of 1"]
    assert "0 of 1 cells are finished" in text and (tmp_path / "budgets.png").is_file()


@pytest.mark.parametrize("name", ["kitti", "nyu"])
def test_published_numbers_stand_beside_ours_and_never_as_ours(tmp_path, name):
    table, published = TABLES[name], published_table(TABLES[name].published)
    cells = [Cell(method, budget, s) for method in table.rows for budget in (10, None)
             for s in (0, 1)]  # fmt: skip
    for cell in cells[:-1]:
        write_cell(tmp_path, table, cell, abs_rel=0.3 + 0.01 * cell.seed)
    text = write_report(name, table, cells, tmp_path)
    mine = {"ours", *(row.title for row in table.rows.values())}
    for heading, budget in (("10 labels", "10"), ("All labels", "full")):
        found = grid(text, heading)
        for method, row in table.rows.items():
            printed = published.row(method, budget).scores
            theirs = found[f"*{row.title}, paper*"]
            assert theirs == [f"*{printed[key].text}*" for key in table.metrics] + [""]
            texts = {number.text for number in printed.values()}
            assert not texts & {number.strip("*") for number in found[row.title]}
            assert found[row.title][0].startswith("0.3050 ± 0.0071") or (method, budget) == (
                cells[-1].method, "full",
            )  # fmt: skip
        assert {key for key in found if "paper" not in key} <= mine
    assert all(f"- Caveat: {caveat}" in text for caveat in published.caveats)
    numbers = {x.text.split()[0] for row in published.rows for x in row.scores.values()}
    for file in ("table.csv", "table.json"):
        assert not numbers & set(re.findall(r"[\d.]+", (tmp_path / file).read_text()))


def test_the_same_cells_give_the_same_bytes_and_seconds_stand_in_the_json_alone(out):
    write_report("streets", TABLE, CELLS, out)
    before = {name: (out / name).read_bytes() for name in FILES if name != "figure.png"}
    write_report("streets", TABLE, CELLS[::-1], out)  # in whatever order they are named
    assert {name: (out / name).read_bytes() for name in before} == before
    for cell in CELLS[:-1]:
        change(out / cell.name / "cell.json", seconds=99.5)  # killed and resumed, say
        change(out / cell.name / "environment.json", command="again")
    write_report("streets", TABLE, CELLS, out)
    changed = [name for name in before if (out / name).read_bytes() != before[name]]
    assert changed == ["table.json"] and not list(out.glob("*.tmp*"))
    cells = json.loads((out / "table.json").read_text())["cells"]
    assert [cell.get("seconds") for cell in cells] == [99.5] * 11 + [None]
    (environment,) = json.loads((out / "table.json").read_text())["environments"]
    assert environment["git_commit"] == "0123abcd" and "command" not in environment


def test_two_equal_methods_show_no_difference(tmp_path):
    for cell in CELLS:
        write_cell(tmp_path, TABLE, cell, abs_rel=errors_of(cell._replace(method="baseline")))
    text = write_report("streets", TABLE, CELLS, tmp_path)
    sentence = "no difference is shown by AbsRel, RMSE and δ1 (3 seeds of each)."
    assert f"- 2 labels: {sentence}" in text and f"- 4 labels: {sentence}" in text
    assert " is better" not in text.split("## Is Ours")[1].split("\n", 1)[1]
    for budget in ("2 labels", "4 labels"):
        assert all("**" not in "".join(row) for row in grid(text, budget).values())


def test_the_sentence_follows_the_verdicts_and_knows_directions(out):
    text = write_report("streets", TABLE, CELLS, out)
    assert "- 2 labels: no difference is shown by AbsRel, RMSE and δ1 (3 seeds of each)." in text
    assert "- 4 labels: Ours is better than Baseline by AbsRel, RMSE and δ1 (2 seeds" in text
    found = json.loads((out / "table.json").read_text())["compared"]["4"]
    folders = [[out / f"{method}_4_s{seed}" for seed in (0, 1)] for method in ROWS]
    expected = compare(*folders, split="test", metrics=("abs_rel", "rmse", "d1"),
                       resample="scenes")  # fmt: skip
    assert found["metrics"] == expected["metrics"] and found["paired_runs"]
    assert found["seeds"] == [0, 1] and found["b"] == ["ours_4_s0", "ours_4_s1"]
    assert found["resample"] == "scenes" and "several, and scenes" in text
    turned = TABLE._replace(compared=("ours", "baseline"))
    assert "- 4 labels: Baseline is worse than Ours by" in write_report("x", turned, CELLS, out)


def test_further_pairs_are_compared_as_the_first_one_is(out):
    alone = write_report("streets", TABLE, CELLS, out)
    first = json.loads((out / "table.json").read_text())
    assert first["also_compared"] == {}
    both = TABLE._replace(
        compared=("ours", "baseline"),
        also_compared=(("baseline", "ours"), ("baseline", "not_asked_for")),
    )
    text = write_report("streets", both, CELLS, out)
    found = json.loads((out / "table.json").read_text())
    assert found["also_compared"] == {"baseline -> ours": first["compared"]}
    question = "## Is Ours better than Baseline?"
    section = alone[alone.index(question) : alone.index("## AbsRel by labels")]
    assert section in text and text.index("## Is Baseline better than Ours?") < text.index(section)


def test_few_scenes_are_not_drawn_and_one_seed_is_told_of(tmp_path):
    frames = [f"street_{k % 4} {k}" for k in range(12)]
    for cell in (Cell("baseline", 4, 1), Cell("ours", 4, 1)):
        write_cell(tmp_path, TABLE, cell, abs_rel=errors_of(cell), frames=frames)
    text = write_report("streets", TABLE, CELLS, tmp_path)
    assert "several, and images" in text and "near-duplicates" in text
    assert "(1 seed of each); how another seed would end is not known." in text


def test_an_adaptation_table_is_written_too(tmp_path):
    table = TABLES["look_b"]
    cells = [Cell(method, None, seed) for method in table.rows for seed in (0, 1)]
    for cell in cells:
        error = {"source_only": 0.4, "ours": 0.3, "oracle": 0.2}[cell.method] + 0.01 * cell.seed
        labels = 5 if cell.method == "oracle" else 7
        write_cell(tmp_path, table, cell, abs_rel=error, num_labels=labels)
    text = write_report("look_b", table, cells, tmp_path)
    assert "- All labels: Ours is better than Source only by AbsRel, RMSE and δ1" in text
    assert grid(text, "All labels")["Oracle (target labels)"][0].startswith("**0.2050")
    assert [row[2] for row in grid(text, "What was run").values()] == ["7", "7", "5"]
    assert "paper" not in text


def test_what_was_run_is_said(out):
    change(out / "ours_2_s1" / "cell.json", num_steps=60)
    text = write_report("streets", TABLE, CELLS, out)
    assert grid(text, "What was run")["Ours"] == ["`train.py`", "`conf/b.yaml`", "2, 4", "30, 60"]
    for words in ("nothing is chosen on validation frames", "Device: a processor.", "torch 2.5.1",
                  "Commit: 0123abcd.", "Cells differ in optimiser steps", "12 test frames",
                  "protocol `plain`", "`train.num_steps=30`"):  # fmt: skip
        assert words in text
    assert "/somewhere" not in text


REFUSALS = {
    "damaged": (lambda cell: (cell / "cell.json").write_text("{"), "cell.json: cannot be read"),
    "no scores": (lambda cell: change(cell / "cell.json", scores={}), "not what reproduce.py"),
    "NaN": (
        lambda cell: change(cell / "cell.json", num_steps=float("nan")), "not what reproduce.py",
    ),
    "other checkpoint": (
        lambda cell: change(cell / "cell.json", checkpoint_sha256="x"), "of another checkpoint",
    ),
    "other scores": (
        lambda cell: change(cell / "evaluation/test/metrics.json", protocols={"plain": {}}),
        "other scores than",
    ),
    "no environment": (lambda cell: (cell / "environment.json").unlink(), "environment.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_a_cell_that_cannot_be_trusted_is_refused_by_name(out, case):
    spoil, message = REFUSALS[case]
    spoil(out / "ours_2_s1")
    with pytest.raises(TableError) as error:
        write_report("streets", TABLE, CELLS, out)
    assert message in str(error.value) and "ours_2_s1" in str(error.value)
    assert not list(out.glob("table.*"))


def test_cells_of_other_frames_make_no_table(out):
    write_cell(out, TABLE, CELLS[-1], abs_rel=0.3, frames=FRAMES[1:])
    with pytest.raises(TableError, match=r"baseline_2_s0 was scored on 12 frames and ours_4_s2"):
        write_report("streets", TABLE, CELLS, out)


def test_a_list_of_folders_is_what_a_pattern_is(out):
    listed = [[out / f"{method}_2_s{seed}" for seed in range(3)] for method in ROWS]
    by_pattern = [str(out / f"{method}_2_s*") for method in ROWS]
    options = {"split": "test", "num_resamples": 200}
    assert compare(*listed, **options) == compare(*by_pattern, **options)
    with pytest.raises(ComparisonError, match="no folder is named to compare"):
        compare([], listed[1], **options)
    with pytest.raises(ComparisonError, match="names one run twice"):
        compare(listed[0][:1] * 2, listed[1], **options)
    with pytest.raises(ComparisonError, match=r"s\*: no such folder"):
        compare([out / "baseline_2_s*"], listed[1], **options)


def painted(picture, color, within=0):
    """Rows and columns of what is drawn in this colour, or near it, without the legend."""
    rgb = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    near = np.abs(np.asarray(picture, int) - rgb).max(axis=-1) <= within
    return np.nonzero(near[: picture.height * 3 // 4])


def test_the_plot_of_budgets_has_a_line_a_method_in_a_colour_of_its_own():
    ticks = {10: "10", 100: "100"}
    ours = {"A": [(10, 0.3, 0.01), (100, 0.2, 0.01)], "B": [(10, 0.2, None), (100, 0.1, None)]}
    picture = budget_plot(ours, {}, ticks=ticks)
    first, second, third = (painted(picture, color)[0] for color in plots.COLORS[:3])
    assert first.size and second.size and first.mean() + 50 < second.mean()  # rows count downwards
    assert not third.size

    def height_of_first_mark(color):
        rows, columns = painted(picture, color)
        return np.ptp(rows[columns < columns.min() + 10])

    assert height_of_first_mark(plots.COLORS[0]) > 1.5 * height_of_first_mark(plots.COLORS[1]) > 0
    alone = budget_plot({"A": [], "B": ours["B"]}, {}, ticks=ticks)
    assert not painted(alone, plots.COLORS[0])[0].size and painted(alone, plots.COLORS[1])[0].size
    for bad in (({}, {}, ticks), (ours, {"C": []}, ticks), (ours, {}, {})):
        with pytest.raises(ValueError, match="budget_plot"):
            budget_plot(bad[0], bad[1], ticks=bad[2])


def test_published_lines_of_the_plot_are_dashed_and_their_marks_hollow():
    points, ticks = [(10, 0.3, None), (100, 0.2, None)], {10: "10", 100: "100"}
    shares, centres = [], []
    for ours, paper in (({"A": points}, {}), ({"A": []}, {"A": points})):
        picture = budget_plot(ours, paper, ticks=ticks)
        rows, columns = painted(picture, plots.COLORS[0], within=60)
        width = columns.max() - columns.min()
        middle = np.abs(columns - columns.min() - width / 2) < width / 4
        shares.append(len(np.unique(columns[middle])) / (width / 2))
        mark = columns < columns.min() + 10
        centre = round((rows[mark].min() + rows[mark].max()) / 2), columns.min() + 7
        centres.append(np.asarray(picture)[centre].tolist())
    assert shares[0] > 0.99 and 0.3 < shares[1] < 0.8
    assert centres == [[0x00, 0x72, 0xB2], [255, 255, 255]]
