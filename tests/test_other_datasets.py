"""Virtual KITTI, listed RGB-D folders and unlabelled pictures."""

import inspect
import os

import numpy as np
import pytest
from trees import depth_units, image_tree, rgbd_tree, virtual_kitti_tree, write_list

from datasets.frame import DataError
from datasets.images import ImageFolder
from datasets.kitti import Kitti
from datasets.leakage import check_overlap
from datasets.nyu import Nyu
from datasets.rgbd import RgbdList
from datasets.splits import check_files
from datasets.virtual_kitti import VirtualKitti

CLASSES = (Kitti, Nyu, VirtualKitti, RgbdList, ImageFolder)


@pytest.mark.parametrize("dataset", CLASSES)
def test_every_dataset_is_asked_in_the_same_way(dataset):
    expected = ["self", "root", "split", "variant", "depth_scale"]
    assert list(inspect.signature(dataset.__init__).parameters) == expected
    for name in ("__len__", "frame", "paths", "scene_of", "protocols"):
        assert list(inspect.signature(getattr(dataset, name)).parameters) == list(
            inspect.signature(getattr(Kitti, name)).parameters
        )
    assert isinstance(dataset.held_out_scenes, frozenset)


@pytest.fixture(scope="module")
def virtual(tmp_path_factory):
    return virtual_kitti_tree(tmp_path_factory.mktemp("virtual_kitti"))


def test_virtual_kitti_depth_is_centimetres_and_sky_is_none(virtual):
    depth = VirtualKitti(virtual, "train").frame(1).depth()
    expected = depth_units((24, 80), 1) / np.float32(100)
    expected[0, 0] = 0
    np.testing.assert_array_equal(depth, expected)


def test_virtual_kitti_depth_beyond_80_metres_stays_true(tmp_path):
    virtual_kitti_tree(tmp_path, size=(4, 9000), num_frames=1)
    depth = VirtualKitti(tmp_path, "train").frame(0).depth()
    assert depth.max() == pytest.approx(95.02)


def test_virtual_kitti_splits_by_scene_whatever_the_condition(virtual):
    train, val = VirtualKitti(virtual, "train"), VirtualKitti(virtual, "val")
    assert train.frame_ids == (
        "Scene01/clone/rgb_00000",
        "Scene01/clone/rgb_00001",
        "Scene01/fog/rgb_00000",
        "Scene01/fog/rgb_00001",
    )
    assert {VirtualKitti.scene_of(name) for name in val.frame_ids} == {"Scene02"}
    assert set(VirtualKitti(virtual, "all").frame_ids) == {*train.frame_ids, *val.frame_ids}
    check_overlap(train.frame_ids, val.frame_ids, VirtualKitti.scene_of, "nothing")
    check_files(train, roles=("image", "depth"))


def test_virtual_kitti_stereo_partner_is_at_its_metric_baseline(virtual):
    write_list(virtual / "splits/right.txt", ["Scene01/fog/rgb_00001 Camera_1"])
    right, baseline = VirtualKitti(virtual, "train").stereo_frame(3)
    listed = VirtualKitti(virtual, "right")
    assert right.frame_id == "Scene01/fog/rgb_00001 Camera_1" == listed.frame_ids[0]
    assert baseline == 0.532725
    left, back = listed.stereo_frame(0)
    assert (left.frame_id, back) == ("Scene01/fog/rgb_00001", -0.532725)
    assert right.intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]].tolist() == [725.0087, 725.0087, 620.5, 187]


def test_virtual_kitti_neighbours_stay_in_scene_and_condition(virtual):
    dataset = VirtualKitti(virtual, "train")
    assert dataset.neighbour_frame(0, 1).frame_id == "Scene01/clone/rgb_00001"
    assert dataset.neighbour_frame(1, 1) is None
    assert dataset.neighbour_frame(2, -1) is None


@pytest.mark.parametrize("folders", [("vkitti_2.0.3_rgb", "vkitti_2.0.3_depth"), ("rgb", "depth")])
def test_virtual_kitti_archives_may_lie_side_by_side(tmp_path, folders):
    virtual_kitti_tree(tmp_path, num_frames=1, rgb=folders[0], depth=folders[1])
    dataset = VirtualKitti(tmp_path, "val")
    check_files(dataset)
    assert dataset.frame(0).depth().max() > 5


def test_virtual_kitti_refuses_what_it_cannot_mean(virtual, tmp_path):
    with pytest.raises(DataError, match="train, val, all"):
        VirtualKitti(virtual, "test")
    with pytest.raises(DataError, match="it has none"):
        VirtualKitti(virtual, "train", variant="clone")
    with pytest.raises(DataError, match="leave it null"):
        VirtualKitti(virtual, "train", depth_scale=100)
    with pytest.raises(DataError, match=r"no Scene\*"):
        VirtualKitti(tmp_path, "train")
    for line in ("Scene01/clone/5.jpg", "Scene01/rgb_00000", "Scene01/clone/rgb_00000 left"):
        with pytest.raises(DataError, match=r"list\.txt: line"):
            VirtualKitti(virtual, str(write_list(tmp_path / "list.txt", [line])))
    with pytest.raises(DataError, match="never leave it"):
        VirtualKitti(virtual, str(write_list(tmp_path / "list.txt", ["../clone/rgb_00000"])))


@pytest.fixture(scope="module")
def rgbd(tmp_path_factory):
    return rgbd_tree(tmp_path_factory.mktemp("rgbd"))


@pytest.mark.parametrize("depth_scale", [1000, 256.0])
def test_rgbd_depth_is_in_the_units_it_is_told(rgbd, depth_scale):
    depth = RgbdList(rgbd, "train", depth_scale=depth_scale).frame(2).depth()
    np.testing.assert_array_equal(depth, depth_units((24, 32), 2) / np.float32(depth_scale))


@pytest.mark.parametrize("depth_scale", [None, 0, -1000, float("nan"), float("inf")])
def test_rgbd_refuses_to_guess_the_unit_of_depth(rgbd, depth_scale):
    with pytest.raises(DataError, match="depth_scale"):
        RgbdList(rgbd, "train", depth_scale=depth_scale)


def test_rgbd_splits_are_its_lists_and_folders_are_scenes(rgbd):
    train, val = (RgbdList(rgbd, split, depth_scale=1000) for split in ("train", "val"))
    assert train.frame_ids == tuple(f"desk/rgb_{number:05d}.jpg" for number in range(3))
    assert {RgbdList.scene_of(name) for name in val.frame_ids} == {"hall"}
    assert train.depth_size == (24, 32)
    with pytest.raises(DataError, match=r"lists there: train\.txt, val\.txt"):
        RgbdList(rgbd, "test", depth_scale=1000)


def test_rgbd_focal_length_gives_a_centred_camera_and_none_gives_an_unknown_one(rgbd, tmp_path):
    lines = ["desk/rgb_00000.jpg desk/sync_depth_00000.png", "desk/rgb_00001.jpg"]
    bare = RgbdList(rgbd, str(write_list(tmp_path / "list.txt", lines)), depth_scale=1000)
    assert np.isnan(bare.frame(0).intrinsics).all()
    assert bare.frame(1).load_depth is None
    matrix = RgbdList(rgbd, "train", depth_scale=1000).frame(0).intrinsics
    assert matrix.tolist() == [[30.5, 0, 15.5], [0, 30.5, 11.5], [0, 0, 1]]


def test_rgbd_paths_are_relative_to_the_root_wherever_the_list_lies(rgbd, tmp_path):
    path = write_list(tmp_path / "mine.txt", ["hall/rgb_00001.jpg hall/sync_depth_00001.png 30"])
    dataset = RgbdList(rgbd, str(path), depth_scale=1000)
    assert dataset.paths(0)["image"] == rgbd / "hall/rgb_00001.jpg"


@pytest.mark.parametrize(
    "line",
    ["/a.jpg b.png 30", "a.jpg ../b.png 30", "a.jpg b.png f", "a.jpg b.png -3", "a.jpg b.png 3 4"],
)
def test_rgbd_refuses_a_bad_line_by_list_and_line(rgbd, tmp_path, line):
    path = write_list(tmp_path / "mine.txt", [line])
    with pytest.raises(DataError, match=r"mine\.txt"):
        RgbdList(rgbd, str(path), depth_scale=1000)


def test_a_folder_of_pictures_is_read_in_any_layout_in_sorted_order(tmp_path):
    dataset = ImageFolder(image_tree(tmp_path), "all")
    names = ("a b/with space.jpg", "a/2.JPG", "a/deep/er/1.jpeg", "b.png")
    assert dataset.frame_ids == names
    check_files(dataset)
    frame = dataset.frame(3)
    assert frame.image.size == (32, 24)
    assert frame.load_depth is None
    assert np.isnan(frame.intrinsics).all()
    assert dataset.scene_of(names[2]) == "a/deep/er"
    assert dataset.depth_size == (24, 32)


def test_a_folder_of_pictures_can_be_listed_and_names_keep_their_spaces(tmp_path):
    image_tree(tmp_path)
    write_list(tmp_path / "pool.txt", ["b.png", "a b/with space.jpg"])
    assert ImageFolder(tmp_path, "pool").frame_ids == ("b.png", "a b/with space.jpg")
    write_list(tmp_path / "bad.txt", ["../b.png"])
    with pytest.raises(DataError, match=r"bad\.txt: .*never leave it"):
        ImageFolder(tmp_path, "bad")


def test_a_link_to_a_folder_is_followed_and_a_loop_ends(tmp_path):
    image_tree(tmp_path / "disk")
    root = tmp_path / "root"
    root.mkdir()
    (root / "disk").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/a/back").symlink_to(root)
    assert len(ImageFolder(root, "all")) == 4


def test_a_picture_with_a_line_break_in_its_name_is_refused(tmp_path):
    (image_tree(tmp_path) / "a/2.JPG").rename(tmp_path / "a/2\n3.JPG")
    with pytest.raises(DataError, match=r"a line break in the name 'a/2\\n3\.JPG'"):
        ImageFolder(tmp_path, "all")


def test_a_picture_whose_name_is_no_utf8_keeps_it(tmp_path):
    strange = os.fsdecode(b"a/2\xff.JPG")
    (image_tree(tmp_path) / "a/2.JPG").rename(tmp_path / strange)
    dataset = ImageFolder(tmp_path, "all")
    assert strange in dataset.frame_ids
    check_files(dataset)


def test_a_folder_without_pictures_or_with_the_wrong_options_is_refused(tmp_path):
    (tmp_path / "notes.md").write_text("no picture")
    with pytest.raises(DataError, match="no pictures"):
        ImageFolder(tmp_path, "all")
    with pytest.raises(DataError, match="has the split 'all'"):
        ImageFolder(tmp_path, "train")
    with pytest.raises(DataError, match="see dataset 'rgbd'"):
        ImageFolder(tmp_path, "all", depth_scale=1000)
    with pytest.raises(DataError, match="no such folder"):
        ImageFolder(tmp_path / "nowhere", "all")


def test_protocols_are_whole_frames_at_the_given_cap(virtual, rgbd):
    datasets = (VirtualKitti(virtual, "train"), RgbdList(rgbd, "train", depth_scale=1000))
    for dataset in datasets:
        default = dataset.protocols(55.0)[0]
        assert (default.name, default.max_depth, default.crop) == ("plain", 55.0, None)
