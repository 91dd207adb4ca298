"""The published protocols, number by number, through the command that a user types.

The pairs are made of integers, so anyone can build them again; the expected numbers were computed
with independent code (the bts rows agree with BTS's own evaluator run on the same arrays).
"""

import csv
import json

import numpy as np
import pytest
from trees import write_depth, write_list

from evaluate import USER_ERRORS, main

DRIVE = "2011_09_26_drive_0001_sync"
KITTI_COLUMNS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "silog", "log10", "d1")
# num_valid, then KITTI_COLUMNS; d2 = d3 = 1 in all of them
GOLDEN = {
    ((375, 1242), "bts"): (
        29990, 0.188183, 1.720717, 8.873974, 0.210713, 20.382599, 0.077391, 0.631577),
    ((375, 1242), "eigen_crop"): (
        29918, 0.186693, 1.765894, 9.120634, 0.209435, 20.282483, 0.076881, 0.636874),
    ((375, 1242), "kb_crop"): (
        27742, 0.188193, 1.696300, 8.768767, 0.210766, 20.376314, 0.077362, 0.630776),
    ((375, 1242), "monodepth2"): (
        66536, 0.178246, 1.791375, 9.511334, 0.203674, 20.125501, 0.074139, 0.660515),
    ((370, 1226), "bts"): (
        29065, 0.187231, 1.721696, 8.911092, 0.209934, 20.316766, 0.077041, 0.634234),
    ((370, 1226), "kb_crop"): (
        27634, 0.187252, 1.704661, 8.838957, 0.209986, 20.314880, 0.077029, 0.633567),
}  # fmt: skip
GOLDEN_MEDIAN_SCALED = (0.169844, 1.658482, 9.453672, 0.202036, 20.189444, 0.073699, 0.663881)
GOLDEN_DEVKIT = {"silog": 21.716839, "sq_rel": 6.345292, "abs_rel": 21.271743, "irmse": 16.179135}
GOLDEN_NYU = {
    "nyu_eigen": (0.195272, 0.303343, 1.359208, 0.214931, 20.681322, 0.080094, 0.615005),
    "nyu_densedepth": (0.197145, 0.297126, 1.329689, 0.216470, 20.798573, 0.080745, 0.609234),
}


def kitti_units(size):
    """Ground truth and prediction, (H, W) uint16, 256 units a metre."""
    y, x = np.mgrid[: size[0], : size[1]]
    depth = 512 + (57 * y + 31 * x) % 23040
    prediction = depth * (700 + (11 * x + 17 * y) % 801) // 1000
    return np.where((5 * x + 3 * y) % 7 == 0, depth, 0).astype(np.uint16), prediction.astype(
        np.uint16
    )


def score_kitti(folder, size, *, window=False):
    """metrics.json of one frame of `size`, whose prediction is whole or KITTI's window."""
    depth, prediction = kitti_units(size)
    if window:
        left = (size[1] - 1216) // 2
        prediction = prediction[size[0] - 352 :, left : left + 1216]
    truth = f"data_depth_annotated/train/{DRIVE}/proj_depth/groundtruth/image_02/0000000005.png"
    write_depth(folder / "kitti" / truth, depth)
    write_depth(folder / "predictions" / f"{DRIVE}_0000000005.png", prediction)
    listed = write_list(folder / "list.txt", [f"{DRIVE} 0000000005"])
    return score(folder, "conf/base_train_kitti.yaml", listed, f"validation.root={folder}/kitti")


def score(folder, conf, listed, *words):
    out = folder / "scores"
    main(["--predictions", str(folder / "predictions"), "--conf", conf, "--split", str(listed),
          "--out", str(out), f"run.folder={folder}/runs", *words])  # fmt: skip
    with (out / "per_image.csv").open() as file:
        return json.loads((out / "metrics.json").read_text()), list(csv.DictReader(file))


def assert_golden(row, expected):
    assert [row[name] for name in KITTI_COLUMNS] == pytest.approx(expected, rel=0, abs=1e-6)
    assert row["d2"] == row["d3"] == 1


@pytest.mark.parametrize("size", [(375, 1242), (370, 1226)])
def test_kitti_protocols_give_the_golden_numbers(tmp_path, size):
    metrics, per_image = score_kitti(tmp_path, size)
    for (golden_size, name), (num_valid, *expected) in GOLDEN.items():
        if golden_size == size:
            assert_golden(metrics["protocols"][name], expected)
            if name == "bts":
                assert float(per_image[0]["num_valid"]) == num_valid
    if size == (375, 1242):
        assert_golden(metrics["median_scaled"]["monodepth2"], GOLDEN_MEDIAN_SCALED)
        found = {name: metrics["kitti_server"][name] for name in GOLDEN_DEVKIT}
        assert found == pytest.approx(GOLDEN_DEVKIT, rel=0, abs=1e-6)


def test_the_window_that_bts_writes_scores_as_the_whole_frame_and_nothing_outside_is_scored(
    tmp_path, capsys
):
    metrics, _ = score_kitti(tmp_path, (375, 1242), window=True)
    assert set(metrics["protocols"]) == {"bts", "kb_crop", "eigen_crop", "bts_50m"}
    for name in ("bts", "kb_crop", "eigen_crop"):
        assert_golden(metrics["protocols"][name], GOLDEN[(375, 1242), name][1:])
    assert "left out (predictions are 352 x 1216 windows): monodepth2" in capsys.readouterr().out


def nyu_units():
    y, x = np.mgrid[:480, :640]
    depth = 500 + (13 * y + 7 * x) % 10500
    prediction = depth * (700 + (11 * x + 17 * y) % 801) // 1000
    return np.where((x + 2 * y) % 5 == 0, 0, depth).astype(np.uint16), prediction.astype(np.uint16)


def test_nyu_protocols_give_the_golden_numbers(tmp_path):
    depth, prediction = nyu_units()
    write_depth(tmp_path / "nyu/official_splits/test/bathroom/sync_depth_00045.png", depth)
    write_depth(tmp_path / "predictions/bathroom_rgb_00045.png", prediction)
    listed = write_list(
        tmp_path / "list.txt", ["bathroom/rgb_00045.jpg bathroom/sync_depth_00045.png"]
    )
    metrics, _ = score(
        tmp_path, "conf/base_train_nyu.yaml", listed, f"validation.root={tmp_path}/nyu"
    )
    assert set(metrics["protocols"]) == set(GOLDEN_NYU)
    for name, expected in GOLDEN_NYU.items():
        assert_golden(metrics["protocols"][name], expected)


GOLDEN_UNCERTAINTY = {
    "golden": {
        "ause_abs_rel": 0.21997174, "aurg_abs_rel": 0.02997826,
        "ause_rmse": 18.96184698, "aurg_rmse": 2.77304561,
        "ause_d1": 0.31876112, "aurg_d1": 0.02773754,
    },
    "oracle": {
        "ause_abs_rel": 0.0, "aurg_abs_rel": 0.24995,
        "ause_rmse": 5.04100585, "aurg_rmse": 16.69388673,
        "ause_d1": 0.0, "aurg_d1": 0.34649867,
    },
}  # fmt: skip


@pytest.mark.parametrize("which", GOLDEN_UNCERTAINTY)
def test_uncertainty_gives_the_golden_numbers(tmp_path, which):
    i = np.arange(100)
    percent = 37 * i % 100
    uncertainty = 53 * i % 100 if which == "golden" else percent / 100
    # 100 units a metre: depth i + 1 m, prediction (i + 1) (1 + percent / 100) m, both exact
    write_depth(tmp_path / "data/depth.png", (100 * (i + 1)).astype(np.uint16).reshape(10, 10))
    prediction = ((i + 1) * (100 + percent)).astype(np.uint16).reshape(10, 10)
    file = write_depth(tmp_path / "predictions/picture.png", prediction)
    np.savez(file.with_suffix(".npz"), log_uncertainty=np.float32(uncertainty).reshape(10, 10))
    listed = write_list(tmp_path / "list.txt", ["picture.jpg depth.png"])
    words = ("validation.depth_scale=100", "network.max_depth=1000")
    metrics, _ = score(
        tmp_path, "conf/base_train_rgbd.yaml", listed, f"validation.root={tmp_path}/data", *words
    )
    expected = GOLDEN_UNCERTAINTY[which]
    found = {name: metrics["uncertainty"][name] for name in expected}
    assert found == pytest.approx(expected, rel=0, abs=1e-6)
    report = (tmp_path / "scores" / "report.html").read_text()
    assert "Uncertainty" in report and "data:image/png;base64," in report


def test_every_number_stands_beside_the_protocol_that_made_it(tmp_path):
    metrics, _ = score_kitti(tmp_path, (375, 1242))
    assert metrics["rounding"] == "16-bit PNG, 256 units a metre"
    assert len(metrics["list_sha256"]) == 64 and metrics["list"] is None
    definitions = metrics["protocol_definitions"]
    assert set(definitions) == {*metrics["protocols"], "kitti_server"}
    assert definitions["bts"]["crop"] == "Garg, on the full ground truth"
    assert definitions["bts_50m"]["max_depth"] == 50
    assert definitions["monodepth2"]["ground_truth_beyond_max_depth"] == "counts"


def damaged(tmp_path, change):
    """Score the golden KITTI pair after `change(folder of predictions, tree)`."""
    score_kitti(tmp_path, (375, 1242))
    change(tmp_path / "predictions", tmp_path / "kitti")
    words = [f"validation.root={tmp_path}/kitti", f"run.folder={tmp_path}/runs"]
    main(["--predictions", str(tmp_path / "predictions"), "--conf", "conf/base_train_kitti.yaml",
          "--split", str(tmp_path / "list.txt"), *words])  # fmt: skip


NAME = f"{DRIVE}_0000000005.png"
ONES = np.ones((375, 1242))


def _remove_all(predictions, _):
    (predictions / NAME).unlink()


def _rename(predictions, _):
    (predictions / NAME).rename(predictions / "0000000005.png")


def _no_ground_truth(_, tree):
    next(tree.rglob("0000000005.png")).unlink()


def _in_two_folders(predictions, _):
    write_depth(predictions / "again" / NAME, (256 * ONES).astype(np.uint16))


def _of_metres(predictions, _):
    (predictions / "predictions.json").write_text('{"units_per_metre": 1000}')


def _nan_uncertainty(predictions, _):
    np.savez((predictions / NAME).with_suffix(".npz"), log_uncertainty=np.float32(ONES * np.nan))


def _of_another_size(predictions, _):
    write_depth(predictions / NAME, np.ones((192, 640), np.uint16))


def _eight_bit(predictions, _):
    write_depth(predictions / NAME, ONES.astype(np.uint8))


def _coloured(predictions, _):
    write_depth(predictions / NAME, np.ones((375, 1242, 3), np.uint8))


def _cut_off(predictions, _):
    file = predictions / NAME
    file.write_bytes(file.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove_all, r"predictions: no PNG in it; predictions are 16-bit PNGs of depth"),
        (_rename, rf"1 of 1 predictions are missing.*{NAME}.*called 0000000005\.png"),
        (_of_another_size, r"192 x 640 pixels, but the ground truth has 375 x 1242; write"),
        (_eight_bit, r"16-bit single-channel PNG, this one is PNG of mode 'L'.*picture of depth"),
        (_coloured, r"16-bit single-channel PNG, this one is PNG of mode 'RGB'.*picture of depth"),
        (_cut_off, rf"{NAME}: cannot be decoded"),
        (_in_two_folders, r"two predictions of one name"),
        (_of_metres, r"1000 units a metre, the dataset's have 256"),
        (_nan_uncertainty, rf"image '{DRIVE} 0000000005': log_uncertainty is NaN"),
        (_no_ground_truth, r"1 files of this split \(1 frames\) are missing.*0000000005"),
    ],
)  # fmt: skip
def test_bad_predictions_are_one_clear_error(tmp_path, change, message):
    with pytest.raises(USER_ERRORS, match=message):
        damaged(tmp_path, change)


def test_the_45_frames_that_never_had_ground_truth_are_named_apart_from_those_that_are_missing(
    tmp_path, capsys
):
    known, missing = (
        "2011_09_26_drive_0002_sync 0000000072",
        "2011_09_26_drive_0002_sync 0000000069",
    )
    (tmp_path / "kitti").mkdir()
    write_depth(tmp_path / "predictions" / "any.png", np.ones((4, 4), np.uint16))
    listed = write_list(tmp_path / "frames.txt", [known, missing])
    with pytest.raises(USER_ERRORS, match="1 files of this split") as error:
        score(tmp_path, "conf/base_train_kitti.yaml", listed, f"validation.root={tmp_path}/kitti")
    assert missing.split()[1] in str(error.value) and known.split()[1] not in str(error.value)
    said = capsys.readouterr().err
    assert f"1 frames have no ground truth in the published data and are left out: {known}" in said
