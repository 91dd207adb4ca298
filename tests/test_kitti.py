"""KITTI is read whatever way it was merged, in metres, and its splits never share a drive."""

import numpy as np
import pytest
from trees import depth_units, kitti_tree, write_list, write_picture

from datasets import kitti_split
from datasets.frame import DataError
from datasets.kitti import Kitti
from datasets.leakage import check_overlap
from datasets.splits import check_files, list_sha256

DRIVE = "2011_09_26_drive_0001_sync"
ONE_DRIVE = {DRIVE: range(5, 9)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return kitti_tree(tmp_path_factory.mktemp("kitti"))


def test_the_eigen_lists_are_those_everyone_compares_on():
    lists = {"test_697": kitti_split.eigen_test_697(), "test": kitti_split.eigen_test_652()}
    for name, ids in lists.items():
        assert len(ids) == kitti_split.KNOWN_NUM_FRAMES[name]
        assert list_sha256(ids) == kitti_split.KNOWN_SHA256[name]
    assert set(lists["test"]) < set(lists["test_697"])


def test_the_eigen_split_shares_no_drive_and_validation_is_held_out_of_training():
    assert len(kitti_split.TRAIN_DRIVES) == 33
    assert len(kitti_split.TEST_DRIVES) == 28
    assert not kitti_split.TRAIN_DRIVES & kitti_split.TEST_DRIVES
    assert kitti_split.VAL_DRIVES < kitti_split.TRAIN_DRIVES
    assert Kitti.held_out_scenes == kitti_split.TEST_DRIVES
    check_overlap(
        [f"{drive} 0000000005" for drive in kitti_split.TRAIN_DRIVES],
        kitti_split.eigen_test_697(),
        Kitti.scene_of,
        "nothing",
    )


def test_computed_splits_follow_the_drives(tree):
    names = {split: Kitti(tree, split).frame_ids for split in ("all", "train_all", "train", "val")}
    assert names["train"] == tuple(f"{DRIVE} {number:010d}" for number in range(5, 11))
    assert {Kitti.scene_of(name) for name in names["val"]} == {"2011_09_26_drive_0005_sync"}
    assert sorted(names["train_all"]) == sorted(names["train"] + names["val"])
    assert len(names["all"]) == 13
    assert Kitti(tree, "test").frame_ids == kitti_split.eigen_test_652()


def test_only_frames_with_ground_truth_are_in_a_computed_split(tmp_path):
    kitti_tree(tmp_path, drives=ONE_DRIVE)
    folder = tmp_path / "data_depth_annotated" / DRIVE / "proj_depth/groundtruth/image_02"
    (folder / "0000000006.png").unlink()
    assert [name[-1] for name in Kitti(tmp_path, "train").frame_ids] == ["5", "7", "8"]
    assert len(Kitti(tmp_path, "train", variant="velodyne_raw")) == 4


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"raw": ""},
        {"raw": "kitti_raw"},
        {"annotated": "data_depth_annotated/train"},
        {"annotated": "data_depth_annotated/val", "suffix": ".png"},
        {"annotated": "train"},
        {"raw": "", "annotated": "val"},
        {"annotated": "merged"},
        {"raw": "", "annotated": "merged", "suffix": ".png"},
    ],
    ids=str,
)
def test_every_usual_merge_of_the_two_downloads_reads_the_same(tmp_path, layout):
    dataset = Kitti(kitti_tree(tmp_path, drives=ONE_DRIVE, **layout), "train")
    check_files(dataset, roles=("image", "depth"))
    frame = dataset.frame(3)
    assert frame.frame_id == f"{DRIVE} 0000000008"
    assert frame.image.size == (80, 24)
    np.testing.assert_array_equal(frame.depth(), depth_units((24, 80), 8) / np.float32(256))
    assert frame.depth().dtype == np.float32


def test_official_train_and_val_folders_are_both_searched(tmp_path):
    other = "2011_09_26_drive_0011_sync"
    kitti_tree(tmp_path, drives=ONE_DRIVE, annotated="data_depth_annotated/train")
    kitti_tree(tmp_path, drives={other: [5]}, annotated="data_depth_annotated/val")
    assert Kitti(tmp_path, "train").frame_ids[-1] == f"{other} 0000000005"


def test_png_and_jpg_may_be_mixed_frame_by_frame_and_png_wins(tmp_path):
    kitti_tree(tmp_path, drives=ONE_DRIVE)
    folder = tmp_path / "raw/2011_09_26" / DRIVE / "image_02/data"
    write_picture(folder / "0000000006.png", (24, 80))
    (folder / "0000000007.jpg").rename(folder / "0000000007.jpeg")
    dataset = Kitti(tmp_path, "train")
    assert [dataset.paths(index)["image"].suffix for index in range(2)] == [".jpg", ".png"]
    with pytest.raises(DataError, match=r"^1 files .* image .*image_02/data/0000000007\.png"):
        check_files(dataset)


def test_the_velodyne_variant_reads_single_scans(tree):
    depth = Kitti(tree, "train", variant="velodyne_raw").frame(0).depth()
    assert (depth[:10] == 0).all()
    assert depth[10:].max() > 2


@pytest.mark.parametrize(
    "lines",
    [
        [f"{DRIVE} 0000000005", f"{DRIVE} 0000000007 image_03"],
        [f"2011_09_26/{DRIVE} 5 l", f"2011_09_26/{DRIVE} 7 r"],
        [
            f"2011_09_26/{DRIVE}/image_02/data/0000000005.png {DRIVE}/proj_depth/x.png 721.5377",
            f"2011_09_26/{DRIVE}/image_03/data/0000000007.png None 721.5377",
        ],
    ],
    ids=["ours", "monodepth2", "bts"],
)
def test_the_three_list_forms_name_the_same_frames(tree, tmp_path, lines):
    dataset = Kitti(tree, str(write_list(tmp_path / "list.txt", lines)))
    assert dataset.frame_ids == (f"{DRIVE} 0000000005", f"{DRIVE} 0000000007 image_03")
    assert dataset.paths(1)["image"].parent.parent.name == "image_03"
    assert dataset.frame(1).depth().max() > 0
    assert dataset.scene_of(dataset.frame_ids[1]) == DRIVE


@pytest.mark.parametrize(
    "line",
    ["drive", "drive five", "drive -5", "drive 5 m", "a/b/c 5", "image_02/data/5.png x", "d 5 6 7"],
)
def test_a_line_in_no_known_form_is_refused_by_list_and_line(tree, tmp_path, line):
    path = write_list(tmp_path / "list.txt", [line])
    with pytest.raises(DataError, match=r"list\.txt") as error:
        Kitti(tree, str(path))
    assert line in str(error.value)


def test_one_frame_in_two_spellings_is_refused(tree, tmp_path):
    path = write_list(tmp_path / "list.txt", [f"{DRIVE} 5", f"2011_09_26/{DRIVE} 5 l"])
    with pytest.raises(DataError, match="listed twice"):
        Kitti(tree, str(path))


def test_an_empty_split_says_what_was_found_and_where(tmp_path):
    kitti_tree(tmp_path, drives=ONE_DRIVE, kinds=())
    with pytest.raises(DataError, match=r"'train' is empty.*Found 1 drives.*0 of them with ground"):
        Kitti(tmp_path, "train")
    with pytest.raises(DataError, match="'test' is empty: no frame of the 28 drives"):
        Kitti(tmp_path, "test")


def test_an_unknown_split_variant_scale_or_root_is_refused_with_the_choices(tree, tmp_path):
    with pytest.raises(DataError, match="all, train_all, train, val, test, test_697"):
        Kitti(tree, "trian")
    with pytest.raises(DataError, match="annotated, velodyne_raw"):
        Kitti(tree, "train", variant="lidar")
    with pytest.raises(DataError, match="leave it null"):
        Kitti(tree, "train", depth_scale=256)
    with pytest.raises(DataError, match="no such folder"):
        Kitti(tmp_path / "nowhere", "train")


def test_unlabelled_drives_have_pictures_and_no_depth_to_open(tmp_path):
    kitti_tree(tmp_path, drives=ONE_DRIVE, kinds=())
    path = write_list(tmp_path / "pool.txt", [f"{DRIVE} 5"])
    dataset = Kitti(tmp_path, str(path))
    assert set(dataset.paths(0)) == {"image"}
    assert dataset.frame(0).load_depth is None
    with pytest.raises(DataError, match="no ground-truth depth"):
        dataset.frame(0).depth()


def test_intrinsics_are_those_of_the_date_and_unknown_without_its_file(tmp_path):
    kitti_tree(tmp_path, drives={**ONE_DRIVE, "2011_09_28_drive_0001_sync": [5]})
    path = tmp_path / "raw/2011_09_28/calib_cam_to_cam.txt"
    path.write_text(path.read_text().replace("721.5377", "707.0493"))
    dataset = Kitti(tmp_path, "train")
    assert dataset.frame(0).intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]].tolist() == [
        721.5377,
        721.5377,
        609.5593,
        172.854,
    ]
    assert dataset.frame(4).intrinsics[0, 0] == 707.0493
    path.unlink()
    without = Kitti(tmp_path, "train")
    assert np.isnan(without.frame(4).intrinsics).all()
    with pytest.raises(DataError, match=r"calib_cam_to_cam\.txt: no such file; stereo needs"):
        without.stereo_frame(4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("P_rect_03: 721.5 0 609.5 -339.5 0 721.5 172.8 2.2 0 0 1 0.003", "has no P_rect_02"),
        ("P_rect_02: 721.5 0 609.5", "P_rect_02: 12 finite numbers expected"),
        ("P_rect_02: " + "nan " * 12, "12 finite numbers expected"),
        ("P_rect_02: " + "0 " * 12, "not a projection matrix"),
        ("P_rect_02: 1 2 x", "could not convert"),
    ],
)
def test_a_damaged_calibration_is_refused_not_ignored(tmp_path, text, message):
    kitti_tree(tmp_path, drives=ONE_DRIVE)
    (tmp_path / "raw/2011_09_26/calib_cam_to_cam.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        Kitti(tmp_path, "train").frame(0)


def test_the_stereo_partner_is_the_other_camera_at_the_signed_metric_baseline(tree, tmp_path):
    right, baseline = Kitti(tree, "train").stereo_frame(0)
    assert right.frame_id == f"{DRIVE} 0000000005 image_03"
    # fx (t2 - t3), t = (p4 - cx * p4_z) / fx, by hand from the two matrices of this date
    by_hand = ((44.85728 + 339.5242) - 609.5593 * (0.002745884 - 0.002729905)) / 721.5377
    assert baseline == pytest.approx(by_hand, abs=1e-9)
    assert baseline == pytest.approx(0.5327, abs=1e-4)
    path = write_list(tmp_path / "right.txt", [f"{DRIVE} 5 image_03"])
    left, back = Kitti(tree, str(path)).stereo_frame(0)
    assert left.frame_id == f"{DRIVE} 0000000005"
    assert back == -baseline


def test_neighbours_are_of_the_same_drive_and_camera_and_end_with_it(tree):
    dataset = Kitti(tree, "train")
    assert dataset.neighbour_frame(0, 1).frame_id == f"{DRIVE} 0000000006"
    assert dataset.neighbour_frame(1, -1).frame_id == f"{DRIVE} 0000000005"
    assert dataset.neighbour_frame(0, -1) is None
    assert dataset.neighbour_frame(5, 1) is None


def test_relative_pose_takes_points_of_this_camera_to_the_neighbour(tmp_path):
    kitti_tree(tmp_path, drives=ONE_DRIVE, poses=True)
    dataset = Kitti(tmp_path, "train")
    # the camera moves one metre forward a frame, so a fixed point comes a metre nearer
    point = np.array([1.0, 2.0, 10.0, 1.0])
    np.testing.assert_allclose(dataset.relative_pose(1, 2) @ point, [1, 2, 8, 1])
    np.testing.assert_allclose(dataset.relative_pose(1, -1) @ point, [1, 2, 11, 1])
    assert dataset.relative_pose(0, -1) is None
    path = tmp_path / f"poses/{DRIVE}/image_02.txt"
    path.write_text(path.read_text() + "1 0 0 0 0 1 0 0 0 0 1 9\n")
    with pytest.raises(DataError, match="5 poses for 4 pictures"):
        Kitti(tmp_path, "train").relative_pose(1, 1)


def test_without_a_poses_file_there_is_no_relative_pose(tree):
    assert Kitti(tree, "train").relative_pose(0, 1) is None


def test_depth_size_is_the_trees_own_or_kittis(tmp_path):
    small = Kitti(kitti_tree(tmp_path / "small"), "train")
    assert small.depth_size == (24, 80)
    # a native size, and a mixture, go to the size of most of KITTI
    native = kitti_tree(tmp_path / "native", drives={DRIVE: [5]}, size=(370, 1226))
    assert Kitti(native, "train").depth_size == (375, 1242)
    kitti_tree(tmp_path / "small", drives={"2011_09_28_drive_0001_sync": [5]}, size=(30, 90))
    assert Kitti(tmp_path / "small", "train").depth_size == (375, 1242)


def test_any_date_and_drive_names_are_read(tmp_path):
    kitti_tree(tmp_path, drives={"street_a": range(3)}, date="rendered", poses=True)
    write_list(tmp_path / "splits/train.txt", ["street_a 0000000001"])
    dataset = Kitti(tmp_path, "train")
    assert dataset.frame_ids == ("street_a 0000000001",)
    assert dataset.scene_of(dataset.frame_ids[0]) == "street_a"
    assert dataset.frame(0).intrinsics[0, 0] == 721.5377
    assert dataset.relative_pose(0, 1)[2, 3] == -1


def test_one_drive_under_two_dates_is_refused(tmp_path):
    kitti_tree(tmp_path, drives=ONE_DRIVE)
    kitti_tree(tmp_path, drives=ONE_DRIVE, date="copy")
    with pytest.raises(DataError, match="one drive, two folders"):
        Kitti(tmp_path, "train")


def test_the_protocols_have_their_own_caps_whatever_the_network_reaches(tree):
    protocols = Kitti(tree, "train").protocols(70.0)
    caps = {p.name: p.max_depth for p in protocols}
    assert protocols[0].name == "bts"
    assert caps == {
        "bts": 80.0, "kb_crop": 80.0, "eigen_crop": 80.0, "monodepth2": 80.0, "bts_50m": 50.0,
        "kitti_server": float("inf"),
    }  # fmt: skip


def test_each_kind_of_ground_truth_there_is_can_be_read_the_own_one_first(tree):
    for variant, kinds in (
        ("annotated", ["annotated", "velodyne_raw"]),
        ("velodyne_raw", ["velodyne_raw", "annotated"]),
    ):
        dataset = Kitti(tree, "train", variant=variant)
        readers = dataset.ground_truths(0)
        assert list(readers) == kinds
        assert np.array_equal(readers[kinds[0]](), dataset.frame(0).depth())
        assert (readers["velodyne_raw"]()[:10] == 0).all()
        assert (readers["annotated"]()[:10] > 0).any()


def test_of_the_697_test_frames_45_are_known_to_have_no_ground_truth(tree):
    whole = Kitti(tree, "test_697")
    assert len(whole.without_ground_truth) == 45
    kept = [name for name in whole.frame_ids if name not in whole.without_ground_truth]
    assert kept == list(Kitti(tree, "test").frame_ids)
    assert not Kitti(tree, "train").without_ground_truth
