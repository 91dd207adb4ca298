"""Comparing two methods: intervals that hold what they promise, verdicts that know directions."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils.bootstrap import difference_interval, student_t
from utils.compare import compare, report
from utils.evaluations import ComparisonError
from utils.metrics import METRIC_NAMES

HOUSE = Path(__file__).parent.parent
FRAMES = [f"drive_{drive} {number:04d}" for drive in range(8) for number in range(10)]
ROW = dict.fromkeys(METRIC_NAMES, 0.5)


def base(seed=0):
    """abs_rel of FRAMES, (80,), between 0.1 and 0.2."""
    return np.random.default_rng(seed).uniform(0.1, 0.2, len(FRAMES))


def write(run, abs_rel, *, split="val", seed=0, frames=FRAMES, scenes=True, ranges=True, **summary):
    """A run folder as evaluate.py leaves it; d1 is 1 - abs_rel, the other metrics are 0.5."""
    folder = run / "evaluation" / split
    folder.mkdir(parents=True)
    (run / "config.yaml").write_text(f"run:\n  seed: {seed}\n")
    summary = {"dataset": "synthetic", "list_sha256": "abc", "protocols": {"plain": {}}} | summary
    (folder / "metrics.json").write_text(json.dumps(summary))
    rows = [
        {"frame_id": name, "scene": name.split()[0], **ROW, "abs_rel": x, "d1": 1 - x,
         "num_valid": 100.0}
        for name, x in zip(frames, abs_rel, strict=True)
    ]  # fmt: skip
    if not scenes:
        rows = [{key: row[key] for key in row if key != "scene"} for row in rows]
    write_table(folder / "per_image.csv", rows)
    if ranges:
        near = [{"range": "5-10", "rmse": 2 * row["abs_rel"]} for row in rows]
        far = [{"range": "10-20", "rmse": 1.0} for _ in rows]
        kept = ("frame_id", "abs_rel", "d1", "num_valid")
        rows = [
            {k: row[k] for k in kept} | extra for row, extra in zip(rows, near, strict=True)
        ] + [
            {k: row[k] for k in kept} | extra
            for row, extra in zip(rows[:-3], far[:-3], strict=True)
        ]
        rows.append({**rows[-1], "frame_id": frames[-1], "num_valid": 0, "abs_rel": "", "rmse": ""})
        write_table(folder / "per_range.csv", rows)
    return run


def write_table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def coverage(*, runs, images, run_noise, image_noise, paired=True, scenes=0, scene_noise=0.0):
    """Share of 800 simulated comparisons whose 95 % interval holds the true difference, 0.3."""
    rng = np.random.default_rng(0)
    shape = (runs, images, 800)  # every score is a comparison of its own
    images_alike = rng.normal(size=(1, *shape[1:]))
    effect = 0.3 + image_noise * rng.normal(size=(1, *shape[1:]))
    of_runs = run_noise * rng.normal(size=(2, runs, 1, 800))
    # in pairs, what a seed does to A it does to B too, but for the effect's own noise
    a = np.broadcast_to(images_alike, shape) + (0 if paired else of_runs[1])
    b = images_alike + effect + of_runs[0]
    groups = None
    if scenes:
        groups = np.arange(images) % scenes
        b = b + scene_noise * rng.normal(size=(1, scenes, 800))[:, groups]
    low, high = difference_interval(
        a, b, paired_runs=paired, groups=groups, num_resamples=1500, seed=1
    )
    return float(((low < 0.3) & (high > 0.3)).mean())


@pytest.mark.parametrize("images", [20, 60])
def test_95_of_100_intervals_over_images_hold_the_truth(images):
    assert 0.93 <= coverage(runs=1, images=images, run_noise=0, image_noise=1) <= 0.97


@pytest.mark.parametrize(("runs", "least"), [(3, 0.92), (5, 0.93), (12, 0.93)])
def test_95_of_100_intervals_over_pairs_of_seeds_hold_the_truth(runs, least):
    assert least <= coverage(runs=runs, images=60, run_noise=0.2, image_noise=1) <= 0.98
    assert least <= coverage(runs=runs, images=60, run_noise=1, image_noise=0.1) <= 0.97


def test_95_of_100_intervals_over_scenes_hold_the_truth_and_over_images_do_not():
    noise = {"runs": 1, "images": 80, "run_noise": 0, "image_noise": 0.5}
    assert 0.93 <= coverage(**noise, scenes=10, scene_noise=1) <= 0.97
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 8)
    b = rng.normal(size=(1, 10, 500))[:, groups] + 0.5 * rng.normal(size=(1, 80, 500))
    options = {"paired_runs": True, "num_resamples": 1000, "seed": 0}
    low, high = difference_interval(np.zeros_like(b), b, **options)
    assert ((low < 0) & (high > 0)).mean() < 0.7
    low_s, high_s = difference_interval(np.zeros_like(b), b, groups=groups, **options)
    assert ((high_s - low_s) > (high - low)).mean() > 0.99


def test_runs_drawn_apart_count_the_noise_of_both():
    assert 0.93 <= coverage(runs=6, images=40, run_noise=1, image_noise=0.1, paired=False) <= 0.97


def test_scenes_of_unequal_size_count_by_their_images():
    groups = np.array([0] * 30 + [1] * 2 + [2] * 2 + [3] * 2 + [4] * 2)
    b = np.where(groups == 0, 0.0, 1.0)[None, :, None]
    low, high = difference_interval(
        np.zeros_like(b), b, paired_runs=True, groups=groups, num_resamples=2000, seed=0
    )
    # drawn without the big scene the mean is 1, with it four times 0
    assert low[0] < b.mean() < high[0] and high[0] > 0.9


@pytest.mark.parametrize("freedom", [1, 4, 5, 9, 30, 1000])
def test_student_t_is_the_known_one(freedom):
    known = {1: 12.706, 4: 2.7764, 5: 2.5706, 9: 2.2622, 30: 2.0423, 1000: 1.9623}
    assert student_t(freedom) == pytest.approx(known[freedom], rel=2e-3)


@pytest.mark.parametrize("resample", ["images", "scenes"])
def test_a_method_does_not_differ_from_itself(tmp_path, resample):
    for seed in range(3):
        write(tmp_path / f"a_s{seed}", base(seed), seed=7)  # their seeds alone would not pair them
    for name in ("a_s*", "a_s0"):
        result = compare(*[str(tmp_path / name)] * 2, resample=resample, num_resamples=200)
        parts = [result["metrics"], result["scenes"], *result["ranges"].values()]
        assert len(parts) == 4
        for row in (row for part in parts for row in part.values()):
            assert row["difference"] == row["low"] == row["high"] == row["b_better_share"] == 0
            assert row["verdict"] == "no difference shown"


def test_a_planted_difference_is_found_and_verdicts_know_directions(tmp_path):
    a = write(tmp_path / "a", base())
    noise = np.random.default_rng(1).normal(0, 0.01, len(FRAMES))
    b = write(tmp_path / "b", base() - 0.01 + noise)
    result = compare(str(a), str(b), num_resamples=500)
    error, share = result["metrics"]["abs_rel"], result["metrics"]["d1"]
    assert error["low"] < -0.01 + noise.mean() < error["high"] < 0
    assert error["mean_a"] == pytest.approx(base().mean(), rel=1e-12)
    assert error["relative"] == pytest.approx(error["difference"] / base().mean(), rel=1e-9)
    assert error["b_better_share"] == share["b_better_share"] == (noise < 0.01).mean()
    assert error["verdict"] == share["verdict"] == "B better" and share["low"] > 0
    assert result["metrics"]["rmse"]["verdict"] == "no difference shown"
    turned = compare(str(b), str(a), num_resamples=500)["metrics"]
    assert turned["abs_rel"]["verdict"] == turned["d1"]["verdict"] == "A better"
    assert turned["abs_rel"]["difference"] == -error["difference"]


def test_numbers_follow_from_the_seed_alone(tmp_path):
    words = [str(write(tmp_path / name, base(k))) for k, name in enumerate("ab")]
    few = compare(*words, metrics=["abs_rel"], num_resamples=300)
    many = compare(*words, num_resamples=300)
    assert compare(*words, num_resamples=300) == many
    # columns of a product are summed in another order when there are more of them
    row = {key: value for key, value in many["metrics"]["abs_rel"].items() if key != "verdict"}
    assert {key: few["metrics"]["abs_rel"][key] for key in row} == pytest.approx(row, rel=1e-9)
    other = compare(*words, num_resamples=300, seed=1)
    assert other["metrics"]["abs_rel"]["low"] != many["metrics"]["abs_rel"]["low"]


def test_ranges_and_scenes_have_rows_of_their_own(tmp_path):
    worse_scene = np.where([name.startswith("drive_3") for name in FRAMES], 0.05, -0.02)
    frames = [*FRAMES, "lane 0001", "lane 0002"]
    a, b = np.append(base(), [0.1, 0.1]), np.append(base() + worse_scene, [0.0, 0.0])
    words = [str(write(tmp_path / name, x, frames=frames)) for name, x in (("a", a), ("b", b))]
    result = compare(*words, num_resamples=300)
    assert list(result["ranges"]) == ["5-10", "10-20"]
    assert list(result["ranges"]["5-10"]) == ["abs_rel", "rmse", "d1"]
    near, far = (result["ranges"][name]["rmse"] for name in ("5-10", "10-20"))
    assert near["num_images"] == 82 and near["difference"] == pytest.approx(2 * (b - a).mean())
    assert far["num_images"] == 79 and far["verdict"] == "no difference shown"
    scenes = result["scenes"]
    assert next(iter(scenes)) == "lane" and list(scenes)[-1] == "drive_3"
    assert scenes["drive_3"]["verdict"] == "A better" and scenes["drive_0"]["verdict"] == "B better"
    assert scenes["lane"]["verdict"] == "too few to say" and scenes["lane"]["low"] is None
    text = report(result)
    assert "\nlane * " in text and "\ndrive_3 " in text and "\n10-20 m, rmse" in text


def test_seeds_are_paired_by_the_config_and_not_by_name(tmp_path):
    effects = {1: 0.05, 2: 0.0, 3: -0.05, 4: 0.02}
    for seed, effect in effects.items():
        write(tmp_path / f"a_{seed}", base() + effect, seed=seed)
        write(tmp_path / f"b_{9 - seed}", base() + effect - 0.01, seed=seed)
        write(tmp_path / f"c_{seed}", base() + effect - 0.01, seed=10 + seed)
    paired, apart = (
        compare(str(tmp_path / "a_*"), str(tmp_path / f"{b}_*"), num_resamples=500) for b in "bc"
    )
    assert paired["paired_runs"] and not apart["paired_runs"]
    row = paired["metrics"]["abs_rel"]
    assert row["low"] == pytest.approx(-0.01, abs=1e-9) == row["high"]
    assert row["verdict"] == "B better" and any("in pairs" in note for note in paired["notes"])
    row = apart["metrics"]["abs_rel"]
    assert row["high"] - row["low"] > 0.05 and row["verdict"] == "no difference shown"
    assert row["difference"] == pytest.approx(-0.01)


def test_scenes_are_drawn_whole(tmp_path):
    of_scene = np.repeat(np.random.default_rng(3).normal(0, 0.02, 8), 10)
    words = [str(write(tmp_path / "a", base())), str(write(tmp_path / "b", base() + of_scene))]
    widths = {}
    for resample in ("images", "scenes"):
        result = compare(*words, resample=resample, num_resamples=500)
        row = result["metrics"]["abs_rel"]
        widths[resample] = row["high"] - row["low"]
        warned = any("near-duplicates" in note for note in result["notes"])
        assert warned == (resample == "images")
    assert widths["scenes"] > 2 * widths["images"]


def change_first_line(name, column, value):
    """A change to the file `name` of an evaluation folder."""

    def change(folder):
        with (folder / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        rows[0][column] = value
        write_table(folder / name, rows)

    return change


BROKEN = {
    "other list": ({"list_sha256": "xyz"}, None, "list_sha256 is abc and xyz"),
    "other protocol": ({"protocols": {"bts": {}}}, None, "different protocols, 'plain' and 'bts'"),
    "no metrics": ({}, lambda folder: (folder / "metrics.json").unlink(), "b/evaluation/val/met"),
    "no images": ({}, lambda folder: (folder / "per_image.csv").unlink(), "python evaluate.py"),
    "no split": ({"split": "test"}, None, "no evaluation of split 'val' (there: test)"),
    "other frame": (
        {}, change_first_line("per_image.csv", "frame_id", "new"), "differ in 2 frames",
    ),
    "frame twice": (
        {}, change_first_line("per_image.csv", "frame_id", FRAMES[1]), "a frame is in it twice",
    ),
    "other pixels": (
        {}, change_first_line("per_image.csv", "num_valid", "99"), f"such as '{FRAMES[0]}'",
    ),
    "no number": ({}, change_first_line("per_image.csv", "abs_rel", "x"), "no number"),
    "NaN": ({}, change_first_line("per_image.csv", "abs_rel", "nan"), "NaN or infinity"),
    "other range": ({}, change_first_line("per_range.csv", "range", "5-9"), "other ranges"),
    "not JSON": ({}, lambda folder: (folder / "metrics.json").write_text("{"), "evaluate again"),
    "no seed": (
        {}, lambda folder: (folder / "../../config.yaml").write_text("run: 3"), "has no run.seed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_compared_is_refused_by_name(tmp_path, case):
    options, change, message = BROKEN[case]
    a, b = write(tmp_path / "a", base()), write(tmp_path / "b", base(), **options)
    if change:
        change(b / "evaluation" / options.get("split", "val"))
    with pytest.raises(ComparisonError) as error:
        compare(str(a), str(b), num_resamples=100)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_bad_arguments_are_refused(tmp_path):
    a = write(tmp_path / "a", base(), scenes=False)
    (tmp_path / "again").symlink_to(a)
    for words, options, message in [
        ((a, tmp_path / "nowhere"), {}, "nowhere: no such folder"),
        ((a, tmp_path / "none_*"), {}, "no folder matches the pattern"),
        ((a, tmp_path / "a*"), {}, "names one run twice"),
        ((a, a), {"metrics": ["abs"]}, "no metric 'abs'; choose of abs_rel"),
        ((a, a), {"resample": "scenes"}, "no column 'scene'"),
        ((a, a), {"resample": "drives"}, "choose 'images' or 'scenes'"),
        ((a, a), {"num_resamples": 10}, "at least 100"),
    ]:
        with pytest.raises(ComparisonError, match=message):
            compare(*map(str, words), **options)


def test_tables_that_are_not_there_are_told_of(tmp_path):
    a, b = (write(tmp_path / name, base(), scenes=False, ranges=name == "a") for name in "ab")
    result = compare(str(a), str(b), num_resamples=100)
    assert result["scenes"] == result["ranges"] == {} and result["num_scenes"] is None
    assert any(note.startswith("no table by depth range and by scene") for note in result["notes"])


def test_fewer_than_five_images_give_no_interval(tmp_path):
    words = [
        str(write(tmp_path / name, x, frames=FRAMES[:4]))
        for name, x in (("a", base()[:4]), ("b", base()[:4] / 2))
    ]
    row = compare(*words, num_resamples=100)["metrics"]["abs_rel"]
    assert row["low"] is None and row["verdict"] == "too few to say" and row["difference"] < 0


def run_compare(*words, code=0):
    result = subprocess.run(
        [sys.executable, "-m", "utils.compare", *map(str, words)], cwd=HOUSE, capture_output=True,
        text=True, check=False, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == code, result.stdout + result.stderr
    return result


def test_the_command_prints_and_writes_what_the_function_returns(tmp_path):
    a = write(tmp_path / "a", base(), split="test")
    b = write(tmp_path / "b", base() * 0.9, split="test")
    moved = shutil.copytree(b / "evaluation" / "test", tmp_path / "elsewhere")
    file = tmp_path / "out" / "result.json"
    shown = run_compare(
        a, moved, "--split", "test", "--metrics", "abs_rel", "d1", "--num-resamples", 300,
        "--resample", "scenes", "--json", file,
    ).stdout  # fmt: skip
    result = json.loads(file.read_text())
    expected = compare(
        str(a), str(moved), split="test", metrics=["abs_rel", "d1"], num_resamples=300,
        resample="scenes",
    )  # fmt: skip
    assert result == expected and shown.strip() == report(expected)
    assert "-10.0 %" in shown and "B better" in shown


def test_the_command_refuses_in_one_line_with_exit_code_2(tmp_path):
    a, b = write(tmp_path / "a", base()), write(tmp_path / "b", base()[1:], frames=FRAMES[1:])
    error = run_compare(a, b, code=2).stderr
    assert "differ in 1 frames" in error and len(error.strip().splitlines()) == 1
