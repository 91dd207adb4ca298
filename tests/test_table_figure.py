"""The picture of a table: the frames that the rule names, drawn by the checkpoints scored.

Its cells are real ones: tiny networks, trained and evaluated by the scripts themselves.
"""

import contextlib
import csv
import json
import shutil

import numpy as np
import pytest
from conftest import TINY
from PIL import Image
from test_table_report import CELLS, ROWS, TABLE, write_json

from datasets.synthetic_tree import SyntheticSettings, write_tree
from evaluate import main as evaluate_main
from networks import load_network
from paper_tables.cells import TableError
from paper_tables.figure import choose_frames, draw_figure, reopen
from paper_tables.report import write_report
from paper_tables.results import read_results
from paper_tables.rows import Cell
from predictions import network_predictions
from train import main as train_main
from utils import page
from utils.checkpoint import file_sha256
from utils.method_panel import Shown, method_panel
from utils.visualize import contact_sheet


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """OUT with real cells, seed 0 of both methods at 2 and at 4 labels, on 3 streets of their own,
    and the root of the data."""
    place = tmp_path_factory.mktemp("table")
    settings = SyntheticSettings(
        num_train_scenes=3, num_val_scenes=1, num_test_scenes=3, frames_per_scene=2,
        image_size=(64, 208),
    )  # fmt: skip
    write_tree(place / "data" / "look_a", "look_a", settings, workers=1)
    out = place / "out"
    for cell in (Cell(method, budget, 0) for method in ROWS for budget in (2, 4)):
        train_main([
            *TINY, "train.num_steps=2", "samples.num_images=0", "validation.num_frames=1",
            f"labeled.root={place / 'data'}", f"validation.root={place / 'data'}",
            f"run.folder={out}", f"run.name={cell.name}", f"labeled.num_frames={cell.budget}",
            f"optimizer.lr={1e-3 if cell.method == 'ours' else 1e-4}",
        ])  # fmt: skip
        last = out / cell.name / "checkpoints" / "last.pt"
        evaluate_main(["--ckpt", str(last), "--split", "test", "validation.num_frames=null",
                       "evaluation.num_panels=0"])  # fmt: skip
        summary = json.loads((out / cell.name / "evaluation/test/metrics.json").read_text())
        write_json(out / cell.name / "cell.json", {
            "cell": cell.name, "num_labels": cell.budget, "num_steps": 2, "seconds": 1.0,
            "checkpoint_sha256": file_sha256(last), "words": [],
            "scores": summary["protocols"]["plain"],
        })  # fmt: skip
    return out, place / "data"


@pytest.fixture
def real(trained, tmp_path):
    """A copy of the real cells that a test may spoil."""
    return shutil.copytree(trained[0], tmp_path / "out")


def errors_written(out, cell):
    with (out / cell.name / "evaluation/test/per_image.csv").open(newline="") as file:
        return {row["frame_id"]: float(row["abs_rel"]) for row in csv.DictReader(file)}


def gains_written(out, budgets):
    """Frame id -> gain, from the files alone."""
    tables = {m: [errors_written(out, Cell(m, b, 0)) for b in budgets] for m in ROWS}
    return {
        frame: sum(base[frame] - ours[frame] for base, ours in zip(*tables.values(), strict=True))
        / len(budgets)
        for frame in tables["ours"][0]
    }


def test_the_figure_shows_the_frames_that_the_rule_names(real):
    text = write_report("streets", TABLE, CELLS, real)
    gains = gains_written(real, (2, 4))
    ranked = sorted(gains, key=lambda frame: (-gains[frame], frame))
    expected = {"best": ranked[0], "median": ranked[2], "worst": ranked[5]}
    figure = json.loads((real / "table.json").read_text())["figure"]
    assert {one["which"]: one["frame_id"] for one in figure["frames"]} == expected
    assert [figure["seed"], figure["budgets"], figure["num_frames"]] == [0, ["2", "4"], 6]
    for one in figure["frames"]:
        assert one["gain"] == pytest.approx(gains[one["frame_id"]], rel=1e-12)
        assert one["errors"] == {
            cell.name: errors_written(real, cell)[one["frame_id"]]
            for cell in (Cell(method, budget, 0) for method in ROWS for budget in (2, 4))
        }
        assert f"- {one['which']}: `{one['frame_id']}`, gain {one['gain']:+.4f}" in text
    assert "Chosen by rule from all 6 frames" in text


def test_one_budget_that_both_have_is_enough_for_a_figure(real):
    shutil.rmtree(real / "ours_4_s0")
    results = read_results(TABLE, CELLS, real)
    choice = choose_frames(TABLE, results)
    gains = gains_written(real, (2,))
    assert choice.budgets == (2,) and choice.frames[0].frame_id == max(gains, key=gains.get)
    wide = draw_figure(TABLE, results, choice)
    assert wide.width <= page.MAX_WIDTH


def test_the_figure_draws_what_the_checkpoints_predict(real):
    results = read_results(TABLE, CELLS, real)
    choice = choose_frames(TABLE, results)
    frame_ids = [frame.frame_id for frame in choice.frames]
    rows = []
    _, dataset, indices = reopen(results[Cell("ours", 2, 0)], "test", frame_ids)
    assert [dataset.frame_ids[index] for index in indices] == frame_ids
    for frame, index in zip(choice.frames, indices, strict=True):
        shown = {}
        for cell, error in frame.errors.items():
            network = load_network(real / cell.name / "checkpoints" / "last.pt")
            (one,) = network_predictions(network, dataset, [index], device="cpu", batch_size=1,
                                         num_workers=0)  # fmt: skip
            depth, truth = one.depth[0].numpy(), one.ground_truth[0].numpy()
            valid = (truth > 0) & (truth < 80)
            again = (np.abs(depth - truth)[valid] / truth[valid]).mean()
            assert again == pytest.approx(error, rel=1e-4)  # the number written on it is its own
            shown.setdefault(cell.method, []).append(
                Shown(f"{ROWS[cell.method].title}, {cell.budget} labels", depth,
                      f"AbsRel {error:.3f}")
            )  # fmt: skip
        gain = f"{abs(frame.gain):.4f} {'below' if frame.gain >= 0 else 'above'}"
        title = f"{frame.which}: AbsRel of Ours {gain} that of Baseline  |  {frame.frame_id}"
        rows.append(method_panel(image=dataset.frame(index).image, depth=truth, title=title,
                                 reference=shown["baseline"], ours=shown["ours"]))  # fmt: skip
    expected = np.asarray(contact_sheet(rows))
    assert np.array_equal(np.asarray(draw_figure(TABLE, results, choice)), expected)


def test_frames_that_are_not_shown_are_not_opened_and_no_look_is_entered(trained):
    out, _ = trained
    ledger = (out / "test_ledger.jsonl").read_text()
    assert len(ledger.splitlines()) == 4
    text = write_report("streets", TABLE, CELLS, out)
    figure = (out / "figure.png").read_bytes()
    results = read_results(TABLE, CELLS, out)
    chosen = [frame.frame_id for frame in choose_frames(TABLE, results).frames]
    _, dataset, indices = reopen(results[Cell("ours", 2, 0)], "test", chosen)
    others = sorted(set(range(6)) - set(indices))
    assert len(others) == 3
    with spoilt(dataset, others):
        assert write_report("streets", TABLE, CELLS, out) == text
        assert (out / "figure.png").read_bytes() == figure
    with spoilt(dataset, indices[:1]):  # without its data a table has no figure, and says so
        text = write_report("streets", TABLE, CELLS, out)
    assert "No figure: its frames cannot be opened" in text and not (out / "figure.png").exists()
    assert (out / "test_ledger.jsonl").read_text() == ledger


@contextlib.contextmanager
def spoilt(dataset, indices):
    """The files of these frames hold nothing that can be read."""
    kept = {file: file.read_bytes() for k in indices for file in dataset.paths(k).values()}
    for file in kept:
        file.write_bytes(b"not a picture")
    try:
        yield
    finally:
        for file, content in kept.items():
            file.write_bytes(content)


def test_a_checkpoint_that_was_not_scored_is_not_drawn(real):
    shutil.copy(real / "ours_2_s0/checkpoints/last.pt", real / "ours_4_s0/checkpoints/last.pt")
    with pytest.raises(TableError, match=r"ours_4_s0/checkpoints/last\.pt is another checkpoint"):
        write_report("streets", TABLE, CELLS, real)


def test_compared_depths_stand_together_on_the_scale_of_the_ground_truth():
    depth = np.tile(np.geomspace(2, 40, 160), (40, 1))
    labels = [Shown("a", depth, ""), Shown("b", 0 * depth + 2, ""), Shown("c", depth / 9, "")]
    for width, places in ((160, [[0, 1, 2], [3, 4, 5]]), (60, [[0, 3, 1, 4, 2, 5]])):
        image = Image.new("RGB", (width, 40), "white")
        picture = method_panel(image=image, depth=depth, title="", reference=labels[:2],
                               ours=[labels[2], labels[0]])  # fmt: skip
        columns, pixels = len(places[0]), np.asarray(picture)
        step = (picture.width - 2 * page.MARGIN + page.GAP) / columns
        stride = (picture.height - page.MARGIN) // len(places)
        tiles = {}
        for row, line in enumerate(places):
            for column, which in enumerate(line):
                top = page.MARGIN // 2 + page.LABEL_HEIGHT + row * stride
                left = page.MARGIN + round(column * step)
                tiles[which] = pixels[top + 5 : top + 15, left + 5 : left + 45].tolist()
        assert tiles[0] == np.full((10, 40, 3), 255).tolist()  # image above (or beside) the truth
        assert tiles[3] == tiles[1] == tiles[5]  # truth and the two that equal it
        assert tiles[2] == tiles[4]  # all at, or off, the near end of its scale


def test_a_note_is_written_on_its_picture_alone():
    depth = np.full((200, 200), 5.0)
    with_note, without = (
        np.asarray(method_panel(image=Image.new("RGB", (200, 200)), depth=depth, title="",
                                reference=[Shown("a", depth, note)], ours=[Shown("b", depth, "")]))
        for note in ("AbsRel 0.123", "")
    )  # fmt: skip
    rows, columns = np.nonzero((with_note != without).any(axis=-1))
    tile = (with_note.shape[1] - 2 * page.MARGIN - 3 * page.GAP) // 4
    left, top = page.MARGIN + 2 * (tile + page.GAP), page.MARGIN // 2 + page.LABEL_HEIGHT
    assert left <= columns.min() and columns.max() < left + tile
    assert top + tile // 2 < rows.min() and rows.max() < top + tile
