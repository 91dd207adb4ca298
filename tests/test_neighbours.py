"""Stereo partners, video neighbours and poses, of every dataset that has them."""

import numpy as np
import pytest
from trees import (
    image_tree,
    kitti_tree,
    rgbd_tree,
    video_tree,
    virtual_kitti_extrinsics,
    virtual_kitti_tree,
    write_list,
    write_picture,
)

from datasets.frame import DataError
from datasets.images import ImageFolder
from datasets.kitti import Kitti
from datasets.neighbours import neighbour_path
from datasets.rgbd import RgbdList
from datasets.synthetic import Synthetic
from datasets.virtual_kitti import VirtualKitti

DRIVE = "2011_09_26_drive_0001_sync"
OFFSETS = (-2, -1, 0, 1, 2, 7)
POINT = np.array([1.0, 2.0, 10.0, 1.0])  # metres, homogeneous


def in_folder(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("name", "offset", "other"),
    [
        ("000100.jpg", 1, "000101.jpg"),
        ("000100.jpg", -1, "000099.jpg"),
        ("rgb_00007.jpg", 3, "rgb_00010.jpg"),
        ("frame9.png", 1, "frame10.png"),
        ("frame10.png", -1, "frame9.png"),
        ("aachen_000000_000019_leftImg8bit.png", 1, "aachen_000000_000020_leftImg8bit.png"),
        ("frame-000009.color.png", 1, "frame-000010.color.png"),
        ("take2_0003.png", -2, "take2_0001.png"),
        ("0009@2x.png", 1, "0010@2x.png"),
        ("99.png", 1, "100.png"),
        ("straße 04 (copy).JPG", 1, "straße 05 (copy).JPG"),
    ],
)
def test_the_neighbour_has_the_last_number_of_the_name_moved_on(tmp_path, name, offset, other):
    folder = in_folder(tmp_path, name, other)
    assert neighbour_path(folder / name, offset) == folder / other
    assert neighbour_path(folder / other, -offset) == folder / name
    assert neighbour_path(folder / name, 0) == folder / name


@pytest.mark.parametrize(
    ("name", "offset", "there"),
    [
        ("000100.jpg", 1, "000101.png"),  # another suffix
        ("000100.jpg", 1, "101.jpg"),  # fewer digits than a padded number has
        ("007.jpg", -1, "6.jpg"),
        ("000000.jpg", -1, "-00001.jpg"),
        ("sunset.jpg", 1, "sunset1.jpg"),  # no number
        ("leftImg8bit.png", 1, "leftImg9bit.png"),  # no number of its own
        ("a_000003_b.png", 1, "a_000004_c.png"),
        ("000100.jpg", 1, "next/000101.jpg"),  # across folders
    ],
)
def test_there_is_no_neighbour_under_another_name(tmp_path, name, offset, there):
    in_folder(tmp_path, name)
    in_folder((tmp_path / there).parent, (tmp_path / there).name)
    assert neighbour_path(tmp_path / name, offset) is None


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, streets):
    """name: a dataset with gaps in its videos and, where it can have any, without some partners."""
    root = tmp_path_factory.mktemp("neighbours")
    kitti_tree(root / "kitti", drives={DRIVE: [5, 6, 7, 9, 10]}, poses=True)
    (root / f"kitti/raw/2011_09_26/{DRIVE}/image_03/data/0000000006.jpg").unlink()
    right = write_list(root / "right.txt", [f"{DRIVE} {number} image_03" for number in (5, 7)])
    virtual_kitti_tree(root / "virtual", num_frames=5, text="")
    for name in ("Camera_0/rgb_00002.jpg", "Camera_1/rgb_00003.jpg", "Camera_1/rgb_00002.jpg"):
        (root / "virtual/Scene01/clone/frames/rgb" / name).unlink()
    virtual_right = write_list(root / "cameras.txt", ["Scene01/fog/rgb_00001 Camera_1"])
    video_tree(root / "video")
    rgbd_tree(root / "rgbd", scenes={"desk": 12, "hall": 2})
    image_tree(root / "images")
    return {
        "kitti": Kitti(root / "kitti", "train"),
        "kitti_right": Kitti(root / "kitti", str(right)),
        "synthetic": Synthetic(streets, "train"),
        "virtual_kitti": VirtualKitti(root / "virtual", "train"),
        "virtual_kitti_right": VirtualKitti(root / "virtual", str(virtual_right)),
        "video": ImageFolder(root / "video", "all"),
        "images": ImageFolder(root / "images", "all"),
        "rgbd": RgbdList(root / "rgbd", "train", depth_scale=1000),
    }


# dataset: frames with a partner, with a following frame, with a pose to the following frame
COUNTS = {
    "kitti": (4, 3, 3),
    "kitti_right": (2, 0, 0),  # the partner of frame 6 is missing
    "synthetic": (6, 3, 3),
    "virtual_kitti": (8, 6, 6),  # of fog's five frames four; of clone's 0, 1, 3 and 4 two
    "virtual_kitti_right": (1, 1, 1),
    "video": (None, 4, 4),
    "images": (None, 0, 0),
    "rgbd": (None, 11, None),
}


@pytest.mark.parametrize("name", COUNTS)
def test_what_a_dataset_says_it_has_it_gives_for_every_frame(datasets, name):
    dataset, (with_partner, with_next, with_pose) = datasets[name], COUNTS[name]
    indices = range(len(dataset))
    for index, own in enumerate(dataset.frame_ids):
        for offset in OFFSETS:
            neighbour = dataset.neighbour_frame(index, offset)
            has = dataset.has_neighbour(index, offset)
            assert has == (neighbour is not None)
            if has:
                assert neighbour.image.size == dataset.frame(index).image.size
                folders = [dataset.scene_of(name) for name in (neighbour.frame_id, own)]
                assert folders[0] == folders[1]
                assert (neighbour.frame_id == own) == (offset == 0)
        if with_partner is None:
            assert not hasattr(dataset, "has_stereo") and not hasattr(dataset, "stereo_frame")
        elif dataset.has_stereo(index):
            assert dataset.stereo_frame(index)[0].frame_id != own
        else:
            with pytest.raises(DataError, match="no such file"):
                dataset.stereo_frame(index)
    if with_partner is not None:
        assert sum(map(dataset.has_stereo, indices)) == with_partner
    assert sum(dataset.has_neighbour(index, 1) for index in indices) == with_next
    if with_pose is None:
        assert not hasattr(dataset, "relative_pose")
    else:
        poses = [dataset.relative_pose(index, 1) for index in indices]
        assert sum(pose is not None for pose in poses) == with_pose


@pytest.mark.parametrize("name", [name for name, counts in COUNTS.items() if counts[2]])
def test_there_and_back_is_where_it_started(datasets, name):
    dataset = datasets[name]
    number = 0
    for index, frame_id in enumerate(dataset.frame_ids):
        for offset in OFFSETS:
            there = dataset.relative_pose(index, offset)
            assert (there is not None) == dataset.has_neighbour(index, offset)
            if there is None:
                continue
            assert there.shape == (4, 4) and there.dtype == np.float64
            neighbour = dataset.neighbour_frame(index, offset).frame_id
            if neighbour in dataset.frame_ids:
                back = dataset.relative_pose(dataset.frame_ids.index(neighbour), -offset)
                np.testing.assert_allclose(back @ there, np.eye(4), atol=1e-9, err_msg=frame_id)
                number += offset != 0
    assert number or name.endswith("right")


@pytest.mark.parametrize("name", ["kitti", "virtual_kitti", "video"])
def test_a_point_ahead_comes_nearer_as_the_camera_goes_forward(datasets, name):
    dataset = datasets[name]
    for index in range(len(dataset)):
        if (pose := dataset.relative_pose(index, 1)) is not None:
            np.testing.assert_allclose(pose @ POINT, [1, 2, 9, 1], atol=1e-6)


def test_what_there_is_is_known_without_a_look_into_a_picture(tmp_path):
    kitti_tree(tmp_path / "kitti", drives={DRIVE: range(5, 8)})
    virtual_kitti_tree(tmp_path / "virtual", num_frames=3, scenes=["Scene01"], conditions=["fog"])
    video_tree(tmp_path / "video", folders={"a": range(3)})
    rgbd_tree(tmp_path / "rgbd", scenes={"desk": 3, "hall": 1})
    for picture in tmp_path.glob("**/*.jpg"):
        picture.write_bytes(b"damaged")
    for dataset in (
        Kitti(tmp_path / "kitti", "train"),
        VirtualKitti(tmp_path / "virtual", "train"),
        ImageFolder(tmp_path / "video", "all"),
        RgbdList(tmp_path / "rgbd", "train", depth_scale=1000),
    ):
        assert [dataset.has_neighbour(index, 1) for index in range(3)] == [True, True, False]
        assert not hasattr(dataset, "has_stereo") or dataset.has_stereo(0)
        with pytest.raises(DataError, match="cannot be decoded"):
            dataset.neighbour_frame(0, 1)


def test_kitti_stereo_without_a_calibration_is_an_error_not_an_absence(tmp_path):
    kitti_tree(tmp_path, drives={DRIVE: [5]})
    (tmp_path / "raw/2011_09_26/calib_cam_to_cam.txt").unlink()
    dataset = Kitti(tmp_path, "train")
    assert dataset.has_stereo(0)
    with pytest.raises(DataError, match="stereo needs its P_rect_02"):
        dataset.stereo_frame(0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2 0 0 0 0 2 0 0 0 0 2 1", "R is no rotation"),
        ("1 0 0 0 0 1 0 0 0 0 -1 1", "R is no rotation"),
        ("0 0 0 0 0 0 0 0 0 0 0 0", "R is no rotation"),
        ("1.5 0.1 0.2 0.3 0 0 0 1", "12 finite numbers expected"),
    ],
)
def test_a_row_that_is_no_pose_is_refused_by_file_and_line(tmp_path, row, message):
    kitti_tree(tmp_path / "kitti", drives={DRIVE: [5, 6]})
    video_tree(tmp_path / "video", folders={"a": range(2)})
    for path in (tmp_path / f"kitti/poses/{DRIVE}/image_02.txt", tmp_path / "video/poses.txt"):
        write_list(path, ["1 0 0 0 0 1 0 0 0 0 1 0", row])
    for dataset in (Kitti(tmp_path / "kitti", "train"), ImageFolder(tmp_path / "video", "all")):
        with pytest.raises(DataError, match=rf"\.txt, line 2: .*{message}"):
            dataset.relative_pose(0, 1)


@pytest.mark.parametrize("text", ["", "vkitti_2.0.3_textgt", "textgt"])
def test_virtual_kitti_poses_are_found_beside_the_pictures_or_where_the_archive_unpacks(
    tmp_path, text
):
    virtual_kitti_tree(tmp_path, num_frames=3, text=text)
    write_list(tmp_path / "right.txt", ["Scene01/fog/rgb_00002 Camera_1"])
    assert VirtualKitti(tmp_path, "train").relative_pose(0, 2)[2, 3] == pytest.approx(-2)
    pose = VirtualKitti(tmp_path, str(tmp_path / "right.txt")).relative_pose(0, -1)
    np.testing.assert_allclose(pose @ POINT, [1, 2, 11, 1], atol=1e-6)


def test_virtual_kitti_without_extrinsics_has_no_poses_and_with_a_gap_in_them_says_so(tmp_path):
    virtual_kitti_tree(tmp_path, num_frames=3)
    assert VirtualKitti(tmp_path, "train").relative_pose(0, 1) is None
    rows = [row for row in virtual_kitti_extrinsics(3) if not row.startswith("2 ")]
    write_list(tmp_path / "Scene01/clone/extrinsic.txt", rows)
    dataset = VirtualKitti(tmp_path, "train")
    assert dataset.relative_pose(0, 1) is not None
    assert dataset.relative_pose(2, 1) is None  # no picture either
    with pytest.raises(DataError, match=r"extrinsic\.txt: no row of \(frame, camera\) \(2, 0\)"):
        dataset.relative_pose(1, 1)


def test_each_camera_of_virtual_kitti_has_rows_of_its_own(tmp_path):
    virtual_kitti_tree(tmp_path)
    rows = [row for row in virtual_kitti_extrinsics(2) if row.split()[1] != "1"]
    write_list(tmp_path / "Scene01/clone/extrinsic.txt", rows)
    write_list(tmp_path / "right.txt", ["Scene01/clone/rgb_00000 Camera_1"])
    assert VirtualKitti(tmp_path, "train").relative_pose(0, 1) is not None
    with pytest.raises(DataError, match=r"no row of \(frame, camera\) \(0, 1\)"):
        VirtualKitti(tmp_path, "right").relative_pose(0, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0 0 1 0 0 5"], "line 2: 18 finite numbers expected"),
        (["0 0 " + "nan " * 16], "line 2: 18 finite numbers expected"),
        (["0.5 0 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"], "line 2: not a frame and a camera"),
        (2 * ["0 0 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"], "line 3: not a frame and a camera"),
        (["0 0 1 0 0 0 0 1 0 0 0 0 1 0 5 6 7 1"], "line 2: the matrix ends with 0 0 0 1"),
        (["0 0 1 0 0 0 0 1 0 0 0 0 2 0 0 0 0 1"], "line 2: .*R is no rotation"),
        ([], "no rows"),
    ],
)
def test_damaged_extrinsics_of_virtual_kitti_are_refused(tmp_path, rows, message):
    virtual_kitti_tree(tmp_path)
    path = tmp_path / "Scene01/clone/extrinsic.txt"
    write_list(path, [virtual_kitti_extrinsics(0)[0], *rows])
    with pytest.raises(DataError, match=rf"extrinsic\.txt.*{message}"):
        VirtualKitti(tmp_path, "train").relative_pose(0, 1)


def test_virtual_kitti_extrinsics_of_the_other_direction_are_refused(tmp_path):
    virtual_kitti_tree(tmp_path)
    header, *rows = virtual_kitti_extrinsics(2)
    inverse = []
    for row in rows:
        words = row.split()
        matrix = np.linalg.inv(np.array(words[2:], float).reshape(4, 4))
        inverse.append(" ".join([*words[:2], *map(str, matrix.ravel())]))
    write_list(tmp_path / "Scene01/clone/extrinsic.txt", [header, *inverse])
    with pytest.raises(DataError, match=r"Camera_1 is not 0\.532725 m to the right"):
        VirtualKitti(tmp_path, "train").relative_pose(0, 1)


def test_a_folder_of_pictures_with_two_files_is_the_video_that_kitti_reads(tmp_path, streets):
    street = Synthetic(streets, "train")
    drive = street.scene_of(street.frame_ids[0])
    folder = street.paths(0)["image"].parent
    (tmp_path / "pictures").symlink_to(folder)
    poses = (street.root / "poses" / drive / "image_02.txt").read_text()
    (tmp_path / "poses.txt").write_text(poses)
    matrix = street.frame(0).intrinsics
    write_list(tmp_path / "intrinsics.txt", [" ".join(map(str, matrix.ravel()))])  # one line, too
    video = ImageFolder(tmp_path, "all")
    assert len(video) == 2
    for frame in (video.frame(0), video.neighbour_frame(0, 1)):
        np.testing.assert_array_equal(frame.intrinsics, matrix)
    np.testing.assert_array_equal(video.relative_pose(0, 1), street.relative_pose(0, 1))
    assert video.neighbour_frame(0, 1).image.tobytes() == street.frame(1).image.tobytes()


def test_rows_of_poses_are_of_all_pictures_also_where_a_list_picks_some(tmp_path):
    video_tree(tmp_path, folders={"a": range(8, 12), "b": range(3)})
    rows = [f"1 0 0 0 0 1 0 0 0 0 1 {position**2}" for position in range(7)]
    write_list(tmp_path / "poses.txt", rows)
    write_list(tmp_path / "few.txt", ["b/000001.jpg", "a/000010.jpg"])
    few = ImageFolder(tmp_path, "few")
    # b/000001 is the sixth picture, a/000010 the third; their neighbours are in no list
    assert few.relative_pose(0, 1)[2, 3] == 5**2 - 6**2
    assert few.relative_pose(1, -1)[2, 3] == 2**2 - 1**2
    assert few.neighbour_frame(0, 1).frame_id == "b/000002.jpg"
    assert few.relative_pose(0, 2) is None


def test_poses_that_are_not_one_a_picture_are_refused_and_disturb_nothing_else(tmp_path):
    video_tree(tmp_path)
    with (tmp_path / "poses.txt").open("a") as file:
        file.write("1 0 0 0 0 1 0 0 0 0 1 9\n")
    dataset = ImageFolder(tmp_path, "all")
    assert len(dataset) == 6
    assert dataset.neighbour_frame(0, 1).frame_id == "a/000009.jpg"
    with pytest.raises(DataError, match=r"poses\.txt: 7 poses for 6 pictures under .*one row a pi"):
        dataset.relative_pose(0, 1)


def test_a_listed_picture_that_has_no_row_is_named(tmp_path):
    video_tree(tmp_path)
    for number in range(2):
        write_picture(tmp_path / f".hidden/{number}.jpg", (24, 32))
    write_list(tmp_path / "list.txt", [".hidden/0.jpg"])
    with pytest.raises(DataError, match=r"poses\.txt: no row is for \.hidden/0\.jpg"):
        ImageFolder(tmp_path, "list").relative_pose(0, 1)


def test_without_the_two_files_intrinsics_and_poses_are_unknown(tmp_path):
    video_tree(tmp_path, poses=False)
    (tmp_path / "intrinsics.txt").unlink()
    dataset = ImageFolder(tmp_path, "all")
    assert np.isnan(dataset.neighbour_frame(0, 1).intrinsics).all()
    assert dataset.relative_pose(0, 1) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("30 0 15 0 30 11 0 0", "9 finite numbers expected"),
        ("30 0 15\n0 30 11\n0 0 1\n30", "9 finite numbers expected"),
        ("30 0 15 0 inf 11 0 0 1", "9 finite numbers expected"),
        ("fx 0 15 0 30 11 0 0 1", "could not convert"),
        ("30 0 15 0 -30 11 0 0 1", "not a camera matrix"),
        ("0 0 15 0 30 11 0 0 1", "not a camera matrix"),
        ("30 0 0 0 30 0 15 11 1", "not a camera matrix"),
    ],
)
def test_a_malformed_camera_file_is_refused_at_once(tmp_path, text, message):
    video_tree(tmp_path)
    (tmp_path / "intrinsics.txt").write_text(text)
    with pytest.raises(DataError, match=rf"intrinsics\.txt: .*{message}"):
        ImageFolder(tmp_path, "all")


def test_every_picture_of_the_root_is_taken_by_its_camera(tmp_path):
    dataset = ImageFolder(video_tree(tmp_path), "all")
    for frame in (dataset.frame(5), dataset.neighbour_frame(0, 2)):
        assert frame.intrinsics.tolist() == [[30.5, 0, 15.5], [0, 30, 11.5], [0, 0, 1]]
        assert frame.load_depth is None
        frame.intrinsics[:] = 0  # a view may change what it was given


@pytest.mark.parametrize("name", ["poses", "intrinsics"])
def test_the_two_files_are_no_lists(tmp_path, name):
    video_tree(tmp_path)
    for split in (name, str(tmp_path / f"{name}.txt")):
        with pytest.raises(DataError, match=rf"{name}\.txt is no list of pictures.*'all'"):
            ImageFolder(tmp_path, split)
    # in the folder of lists it is one
    write_list(tmp_path / f"splits/{name}.txt", ["b/000001.jpg"])
    assert ImageFolder(tmp_path, name).frame_ids == ("b/000001.jpg",)
    # and without the file there is no such split
    (tmp_path / f"{name}.txt").unlink()
    (tmp_path / f"splits/{name}.txt").unlink()
    with pytest.raises(DataError, match=f"no list {name}"):
        ImageFolder(tmp_path, name)


def test_an_rgbd_neighbour_has_the_focal_length_of_its_line_or_of_this_frame_and_no_depth(
    tmp_path,
):
    rgbd_tree(tmp_path, scenes={"desk": 4, "hall": 1})
    lines = [
        "desk/rgb_00000.jpg desk/sync_depth_00000.png 30",
        "desk/rgb_00001.jpg desk/sync_depth_00001.png 40",
        "desk//rgb_00002.jpg desk/sync_depth_00002.png",
    ]
    dataset = RgbdList(tmp_path, str(write_list(tmp_path / "few.txt", lines)), depth_scale=1000)
    listed, back = dataset.neighbour_frame(0, 1), dataset.neighbour_frame(1, -1)
    assert (listed.frame_id, listed.intrinsics[0, 0]) == ("desk/rgb_00001.jpg", 40)
    assert back.intrinsics[0, 0] == 30
    assert listed.intrinsics[:2, 2].tolist() == [15.5, 11.5]
    assert listed.load_depth is None
    assert dataset.neighbour_frame(1, 1).intrinsics[0, 0] == 40  # its line has none
    unlisted = dataset.neighbour_frame(0, 3)
    assert (unlisted.frame_id, unlisted.intrinsics[0, 0]) == ("desk/rgb_00003.jpg", 30)
    assert np.isnan(dataset.neighbour_frame(2, 1).intrinsics).all()
    assert dataset.neighbour_frame(2, -1).intrinsics[0, 0] == 40
