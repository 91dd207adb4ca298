"""`python -m datasets.prepare`: what it finds wrong in files, units and lists."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from prepare_command import (
    LEARN,
    TEST,
    TRAIN,
    check,
    prepare,
    problems,
    street_metres,
    street_tree,
)
from trees import (
    rgbd_tree,
    write_depth,
    write_list,
    write_picture,
)

from datasets.images import ImageFolder
from datasets.kitti_split import KNOWN_SHA256
from datasets.measure import SMALL, measure


def test_the_eigen_test_list_is_known_by_its_hash_and_missing_files_by_drive(tmp_path, capsys):
    root = street_tree(tmp_path / "kitti", drives={**LEARN, TEST: [6, 8]})
    code, shown = prepare(capsys, "kitti", "--root", root)
    manifest = json.loads((root / "splits/manifest.json").read_text())
    assert code == 1
    assert manifest["test"]["known"] == "the Eigen 652 test list"
    assert manifest["test"]["sha256"] == KNOWN_SHA256["test"]
    assert "test: 650 of 652 image files are missing" in shown
    assert f"{TEST}: 20 of 22" in shown and "0000000009.png and 645 more" not in shown
    assert "expected 23,158 frames and sha256 " + KNOWN_SHA256["train_all"] in shown


def test_missing_files_are_counted_and_the_first_five_named(tmp_path, capsys):
    root = street_tree(tmp_path / "kitti")
    lines = [f"{TRAIN} {number:010d}" for number in range(5, 17)]
    path = write_list(tmp_path / "list.txt", lines)
    truth = root / "data_depth_annotated" / TRAIN / "proj_depth/groundtruth/image_02"
    for number in range(5, 12):
        (truth / f"{number:010d}.png").unlink()
    code, shown = check(capsys, "kitti", root, "--split", path)
    assert code == 1
    (line,) = problems(shown)
    assert "depth files are missing" in line and "and 2 more" in line
    assert f"{TRAIN}: 7 of 12" in shown


def test_depth_that_exists_nowhere_is_not_reported_as_missing(tmp_path, capsys):
    drive = "2011_09_26_drive_0048_sync"
    root = street_tree(tmp_path / "kitti", drives={drive: range(5, 22)})
    truth = root / "data_depth_annotated" / drive / "proj_depth/groundtruth/image_02"
    for number in range(17, 22):
        (truth / f"{number:010d}.png").unlink()
    path = write_list(tmp_path / "test.txt", [f"{drive} {n:010d}" for n in range(5, 22)])
    code, shown = check(capsys, "kitti", root, "--split", path)
    assert code == 0 and "5 depth files do not exist, as is known of this list" in shown, shown
    (truth / f"{16:010d}.png").unlink()
    code, shown = check(capsys, "kitti", root, "--split", path)
    assert code == 1 and "1 of 17 depth files are missing" in shown


def test_labelled_frames_in_an_unlabelled_list_are_counted_and_allowed(tmp_path, capsys):
    root = rgbd_tree(tmp_path / "rgbd", scenes={"desk": 6, "hall": 1})
    frames = [f"desk/rgb_{number:05d}.jpg" for number in range(6)]
    path = write_list(tmp_path / "unlabeled.txt", frames[2:])
    splits = ("--split", "train", "--split", path, "--depth-scale", 1000)
    code, shown = check(capsys, "rgbd", root, *splits)
    assert code == 0 and "both learnt from, share 4 frames" in shown
    assert "have no ground truth" not in shown  # nor need they
    assert "unlabeled.txt: median depth" not in shown


@pytest.mark.parametrize(
    ("units_per_metre", "words"),
    [(1000.0, "would fit as millimetres"), (25.5, "read as KITTI's value / 256")],
)
def test_depth_in_another_unit_is_flagged(tmp_path, capsys, units_per_metre, words):
    """(row 39)"""
    root = street_tree(tmp_path / "kitti", units_per_metre)
    code, shown = prepare(capsys, "kitti", "--root", root)
    assert code == 1
    assert "the median depth is" in problems(shown)[0] and words in problems(shown)[0]


def test_indoor_millimetres_read_as_kitti_are_flagged_and_millimetres_are_not(tmp_path, capsys):
    """(row 39)"""
    root = rgbd_tree(tmp_path / "rgbd")
    for path in root.glob("*/sync_depth_*.png"):
        write_depth(path, np.full((24, 32), 2600, np.uint16))
    assert check(capsys, "rgbd", root, "--split", "train", "--depth-scale", 1000)[0] == 0
    code, shown = check(capsys, "rgbd", root, "--split", "train", "--depth-scale", 256)
    assert code == 1 and "would fit as millimetres" in shown
    allowed = ("--median-range", 3, 40)
    assert check(capsys, "rgbd", root, "--split", "train", "--depth-scale", 256, *allowed)[0] == 0


@pytest.mark.parametrize("kind", ["8-bit file", "8-bit values", "stretched", "inverted", "empty"])
def test_depth_that_is_no_depth_is_flagged(tmp_path, capsys, kind):
    """(row 39)"""
    root = street_tree(tmp_path / "kitti", size=(96, 200), drives={TRAIN: range(3)})
    metres = street_metres((96, 200))
    grey = np.rint(metres / 80 * 255)
    units, words = {
        "8-bit file": (grey.astype(np.uint8), "must be a 16-bit single-channel PNG"),
        "8-bit values": (grey.astype(np.uint16), "8-bit depth in a 16-bit file"),
        "stretched": (np.rint(grey * 80 / 255 * 256).astype(np.uint16), "8-bit depth in a 16-bit"),
        "inverted": (np.where(metres > 0, 60_000 / (metres + 1e-9), 0).astype(np.uint16), "dispar"),
        "empty": (np.zeros((96, 200), np.uint16), "have no measured depth at all"),
    }[kind]
    for path in root.glob("**/groundtruth/image_02/*.png"):
        write_depth(path, units)
    code, shown = prepare(capsys, "kitti", "--root", root)
    assert code == 1 and words in shown, shown


def test_a_street_of_near_facades_is_not_taken_for_disparity(tmp_path, capsys):
    root = street_tree(tmp_path / "kitti", drives={TRAIN: range(3)})
    metres = np.repeat([7.0, 7.5, 30.0, 6.0], 6)[:, None] + np.linspace(0, 1, 80)
    for path in root.glob("**/groundtruth/image_02/*.png"):
        write_depth(path, np.where(street_metres((24, 80)) > 0, metres * 256, 0).astype(np.uint16))
    code, shown = prepare(capsys, "kitti", "--root", root)
    assert code == 0, shown


def test_kinect_depth_of_few_values_is_not_taken_for_8_bit(tmp_path, capsys):
    root = rgbd_tree(tmp_path / "rgbd", size=(60, 80))
    disparity = np.random.default_rng(0).integers(112, 280, (60, 80)) / 8
    for path in root.glob("*/sync_depth_*.png"):
        write_depth(path, np.rint(86_250 / disparity).astype(np.uint16))  # steps grow as z²
    code, shown = check(capsys, "rgbd", root, "--split", "train", "--depth-scale", 1000)
    assert code == 0, shown


@pytest.mark.parametrize("victim", ["picture", "depth", "size"])
def test_only_decoding_finds_damaged_files_and_names_them(tmp_path, capsys, victim):
    root = street_tree(tmp_path / "kitti")
    pattern = f"raw/**/{TRAIN}/image_02/data/*7.jpg"
    if victim != "picture":
        pattern = f"data_depth_annotated/{TRAIN}/proj_depth/groundtruth/image_02/*7.png"
    path = next(root.glob(pattern))
    if victim == "size":
        write_depth(path, np.rint(street_metres((20, 80)) * 256).astype(np.uint16))
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    code, shown = prepare(capsys, "kitti", "--root", root, "--decode", "none")
    assert code == 0, shown
    code, shown = prepare(capsys, "kitti", "--root", root, "--decode", "all")
    named = f"{TRAIN} 0000000007" if victim == "size" else str(path)
    assert code == 1 and named in shown and "0000000008" not in shown


def test_an_eigen_test_drive_in_a_training_or_unlabelled_list_is_found(tmp_path, capsys):
    root = street_tree(tmp_path / "kitti", drives={**LEARN, TEST: range(6, 10)})
    clean = [f"{TRAIN} {number:010d}" for number in range(5, 9)]
    for name in ("train", "unlabeled", "val"):
        path = write_list(tmp_path / f"{name}.txt", [*clean, f"{TEST} {7:010d}"])
        code, shown = check(capsys, "kitti", root, "--split", path)
        assert code == 1 and f"1 test drives or scenes ({TEST})" in shown
        code, shown = check(capsys, "kitti", root, "--split", write_list(path, clean))
        assert code == 0, shown


def test_a_validation_list_that_is_the_test_list_is_found(tmp_path, capsys):
    root = rgbd_tree(tmp_path / "rgbd")
    shutil.copy(root / "val.txt", root / "test.txt")
    splits = ("--split", "train", "--split", "val", "--split", "test", "--depth-scale", 1000)
    code, shown = check(capsys, "rgbd", root, *splits)
    assert code == 1
    assert any("val and test share 2 frames" in line for line in problems(shown))
    assert not any("train" in line for line in problems(shown))


@pytest.mark.parametrize("close", [f"{TRAIN} 0000000011", f"{TRAIN} 0000000012 image_03"])
def test_a_neighbour_or_the_twin_of_a_held_out_frame_is_found(tmp_path, capsys, close):
    root = street_tree(tmp_path / "kitti", cameras=("image_02", "image_03"))
    far = [f"{TRAIN} {number:010d}" for number in (5, 6, 16)]
    held = write_list(tmp_path / "val.txt", [f"{TRAIN} {12:010d}", f"{TRAIN} {13:010d}"])
    for lines, expected in ((far, 0), ([*far, close], 1)):
        train = write_list(tmp_path / "train.txt", lines)
        splits = ("--split", train, "--split", held, "--may-share", "scenes")
        code, shown = check(capsys, "kitti", root, *splits)
        assert code == expected, shown
    assert close in problems(shown)[0]
    code, shown = check(capsys, "kitti", root, "--split", train, "--split", held)
    assert f"share 1 scenes or drives: {TRAIN}" in "".join(problems(shown))


def test_bad_lists_are_problems_and_name_file_and_line(tmp_path, capsys):
    root = rgbd_tree(tmp_path / "rgbd")
    path = root / "train.txt"
    good = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + good.replace(b"\n", b"\r\n"))  # as Windows writes it
    assert check(capsys, "rgbd", root, "--split", "train", "--depth-scale", 1000)[0] == 0
    for bad, words in ((good + good[:60], "line"), (b"../a.jpg ../a.png\n", "never leave")):
        path.write_bytes(bad)
        code, shown = check(capsys, "rgbd", root, "--split", "train", "--depth-scale", 1000)
        assert code == 1 and str(path) in shown and words in shown, shown


def test_a_worker_process_measures_what_this_one_does(tmp_path):
    for number in range(SMALL):
        write_picture(tmp_path / f"{number:04d}.png", (8, 8), number)
    (tmp_path / "0007.png").write_bytes(b"not a picture")
    dataset = ImageFolder(tmp_path, "all")
    indices = range(len(dataset))
    alone = measure(dataset, indices, workers=0, label="alone")
    assert measure(dataset, indices, workers=1, label="elsewhere") == alone
    assert [index for index, one in enumerate(alone) if one.error] == [7]
