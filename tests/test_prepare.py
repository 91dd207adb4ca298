"""`python -m datasets.prepare`: the layouts it recognises, the lists it writes, its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prepare_command import (
    TRAIN,
    VAL,
    check,
    prepare,
    street_metres,
    street_tree,
)
from trees import (
    image_tree,
    rgbd_tree,
    virtual_kitti_tree,
    write_depth,
    write_list,
)

from datasets.hold_out import hold_out_frames
from datasets.images import ImageFolder
from datasets.kitti import Kitti
from datasets.prepare import main
from datasets.rgbd import RgbdList
from datasets.splits import list_sha256


@pytest.mark.parametrize(
    ("raw", "annotated", "words"),
    [
        ("raw", "data_depth_annotated", ["in raw/", "in data_depth_annotated/"]),
        ("kitti_raw", "data_depth_annotated/train", ["kitti_raw/", "data_depth_annotated/train/"]),
        ("", "merged", ["in the root", "in 2011_09_26/"]),
    ],
)
def test_kitti_layouts_are_recognised_and_named(tmp_path, capsys, raw, annotated, words):
    root = street_tree(tmp_path / "kitti", raw=raw, annotated=annotated, drives={TRAIN: range(3)})
    code, shown = prepare(capsys, "kitti", "--root", root)
    layout = next(line for line in shown.splitlines() if line.startswith("layout"))
    assert code == 0, shown
    assert all(word in layout for word in words), layout
    assert "cvlibs.net" in shown and "23,158" in shown


def test_kitti_lists_and_manifest_say_what_the_class_reads(tmp_path, capsys):
    root, out = street_tree(tmp_path / "kitti"), tmp_path / "out"
    code, shown = prepare(capsys, "kitti", "--root", root, "--out", out, "--json", out / "r.json")
    assert code == 0, shown
    manifest = json.loads((out / "manifest.json").read_text())
    assert {name: entry["n"] for name, entry in manifest.items()} == {
        "train": 12,
        "train_all": 15,
        "val": 3,
    }
    for name, entry in manifest.items():
        ids = Kitti(root, name).frame_ids
        assert Kitti(root, str(out / f"{name}.txt")).frame_ids == ids
        assert entry["sha256"] == list_sha256(ids)
        assert entry["rule"] and entry["known"] is None
    assert not (root / "splits").exists()
    report = json.loads((out / "prepare_report.json").read_text())
    assert report == json.loads((out / "r.json").read_text())
    assert report["lists"] == manifest and report["num_problems"] == 0
    assert report["statistics"]["train"]["median_p5_p50_p95"][1] == pytest.approx(21.8, abs=0.5)


def test_a_second_run_keeps_lists_and_rules_and_never_replaces_a_foreign_list(tmp_path, capsys):
    root = street_tree(tmp_path / "kitti")
    assert prepare(capsys, "kitti", "--root", root)[0] == 0
    first = {path.name: path.read_bytes() for path in (root / "splits").iterdir()}
    assert prepare(capsys, "kitti", "--root", root)[0] == 0
    assert {path.name: path.read_bytes() for path in (root / "splits").iterdir()} == first

    own = write_list(root / "splits/val.txt", [f"2011_09_26/{VAL} 6 l"])  # in another's form
    code, shown = prepare(capsys, "kitti", "--root", root)
    assert code == 0 and own.read_text() == f"2011_09_26/{VAL} 6 l\n"
    assert json.loads((root / "splits/manifest.json").read_text())["val"]["n"] == 1

    foreign = write_list(tmp_path / "out/train.txt", ["somebody's"])
    code, shown = prepare(capsys, "kitti", "--root", root, "--out", tmp_path / "out")
    assert code == 2 and str(foreign) in shown and "--force" in shown
    assert foreign.read_text() == "somebody's\n" and len(list(foreign.parent.iterdir())) == 1
    assert prepare(capsys, "kitti", "--root", root, "--out", tmp_path / "out", "--force")[0] == 0
    assert foreign.read_bytes() == first["train.txt"]


def test_virtual_kitti_and_plain_pictures_are_listed(tmp_path, capsys):
    root = virtual_kitti_tree(tmp_path / "vkitti")
    for path in root.glob("**/depth_*.png"):
        write_depth(path, np.rint(street_metres((24, 80)) * 100).astype(np.uint16))
    code, shown = prepare(capsys, "virtual_kitti", "--root", root)
    assert code == 0 and "expected 21,260 frames" in shown, shown
    assert (root / "splits/val.txt").read_text().startswith("Scene02/clone/rgb_00000\n")
    pictures = image_tree(tmp_path / "pictures")
    code, shown = prepare(capsys, "images", "--root", pictures)
    assert code == 0 and "4 unlabelled pictures in 4 folders" in shown, shown
    assert ImageFolder(pictures, str(pictures / "splits/all.txt")).frame_ids == (
        ImageFolder(pictures, "all").frame_ids
    )


def test_the_synthetic_streets_pass_their_own_checks(tmp_path, capsys, streets):
    root = Path(shutil.copytree(streets, tmp_path / "synthetic"))
    counts = ("--train-scenes", 3, "--val-scenes", 2, "--test-scenes", 1, "--frames-per-scene", 2)
    words = ("--look", "both", *counts, "--image-size", 64, 208)
    code, shown = prepare(capsys, "synthetic", "--out", root, *words)
    assert code == 0, shown
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["look_b/train"]["n"] == 6
    sparse = ("--split", "train", "--split", "val", "--variant", "look_a_sparse")
    code, shown = check(capsys, "synthetic", root, *sparse)
    assert code == 0, shown
    code, shown = check(capsys, "synthetic", tmp_path, "--split", "train")
    assert code == 1 and not (tmp_path / "look_a").exists()  # looking never renders


def test_blocks_of_frames_have_no_neighbour_in_training(tmp_path, capsys):
    root = rgbd_tree(tmp_path / "rgbd", scenes={"desk": 40, "hall": 30, "x": 5})
    lines = (root / "val.txt").read_text() + (root / "train.txt").read_text()
    write_list(
        root / "all.txt", lines.splitlines()[::-1]
    )  # the order of a list is not that of time
    out = tmp_path / "out"
    words = ("rgbd", "--root", root, "--depth-scale", 1000, "--list", "all.txt", "--out", out)
    held = ("--hold-out", "frames", "--gap", 3, "--fraction", 0.2)
    code, shown = prepare(capsys, *words, *held)
    assert code == 0, shown
    train, val = (
        RgbdList(root, str(out / f"{name}.txt"), depth_scale=1000) for name in ("train", "val")
    )
    everything = RgbdList(root, "all", depth_scale=1000)
    for scene, length in (("desk", 8), ("hall", 6), ("x", 0)):
        order = sorted(name for name in everything.frame_ids if train.scene_of(name) == scene)
        places = [order.index(name) for name in val.frame_ids if name in order]
        assert sorted(places) == list(
            range(min(places, default=0), min(places, default=0) + length)
        )
        for name in train.frame_ids:
            assert name not in order or all(abs(order.index(name) - p) > 3 for p in places)
    assert any(train.scene_of(name) == "x" for name in train.frame_ids)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert prepare(capsys, *words, *held)[0] == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert prepare(capsys, *words, *held, "--force", "--seed", 1)[0] == 0
    assert (out / "val.txt").read_bytes() != before["val.txt"]
    assert json.loads((out / "manifest.json").read_text())["val"]["seed"] == 1


def test_blocks_follow_the_numbers_of_frames_and_keep_stereo_pairs_together():
    names = [f"drive {number}{camera}" for camera in ("", " image_03") for number in range(40)]
    cut = hold_out_frames(names, lambda _: "drive", fraction=0.25, gap=2, seed=3)
    numbers = [sorted(index % 40 for index in part) for part in (cut.val, cut.dropped, cut.train)]
    first = numbers[0][0]
    assert numbers[0] == sorted([*range(first, first + 10)] * 2)
    assert set(numbers[1]) == {first - 2, first - 1, first + 10, first + 11} & set(range(40))
    assert sorted(numbers[0] + numbers[1] + numbers[2]) == sorted([*range(40)] * 2)


def test_whole_scenes_are_held_out_and_lines_are_kept_as_they_were(tmp_path, capsys):
    scenes = dict.fromkeys("abcdef", 3)
    root, out = rgbd_tree(tmp_path / "rgbd", scenes=scenes), tmp_path / "out"
    words = ("rgbd", "--root", root, "--depth-scale", 1000, "--list", "train.txt", "val.txt")
    code, shown = prepare(capsys, *words, "--out", out, "--fraction", 0.3)
    assert code == 0, shown
    lines = {name: (out / f"{name}.txt").read_text().splitlines() for name in ("train", "val")}
    assert [len({line[0] for line in lines[name]}) for name in ("train", "val")] == [4, 2]
    source = (root / "train.txt").read_text() + (root / "val.txt").read_text()
    assert sorted(lines["train"] + lines["val"]) == sorted(source.splitlines())


def test_a_list_is_never_replaced_by_what_is_made_from_it(tmp_path, capsys):
    root = rgbd_tree(tmp_path / "rgbd")
    words = ("rgbd", "--root", root, "--depth-scale", 1000, "--list", "train.txt", "--out", root)
    code, shown = prepare(capsys, *words, "--hold-out", "none", "--force")
    assert code == 2 and "choose another --out" in shown


def test_bad_usage_is_one_message_and_code_2(tmp_path, capsys):
    blocked = write_list(tmp_path / "file", ["x"]) / "out"
    root = street_tree(tmp_path / "kitti", drives={TRAIN: range(3)})
    for words, named in (
        (("kitti", "--root", tmp_path / "nowhere"), "nowhere"),
        (("kitti", "--root", root, "--out", blocked), "--out"),
        (("check", "--dataset", "kitti", "--root", root, "--split", "a", "--variant", "b"), "'b'"),
        (("check", "--dataset", "rgbd", "--root", root, "--split", "a"), "depth_scale"),
        (("nyu", "--variant", "bts"), "--root"),
    ):
        code, shown = prepare(capsys, *words)
        assert code == 2 and named in shown and shown.count("\n") == 1, shown
    with pytest.raises(SystemExit, match="2"):
        main(["kitti"])


def test_the_command_runs_as_a_module_and_returns_its_code(tmp_path):
    root = street_tree(tmp_path / "kitti", 1000.0, drives={TRAIN: range(3)})
    words = [sys.executable, "-m", "datasets.prepare", "kitti", "--root", str(root)]
    result = subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent
    )
    assert result.returncode == 1, result.stderr
    assert "PROBLEM" in result.stdout and "Traceback" not in result.stderr
