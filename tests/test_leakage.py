"""Leaks are found: frames and scenes that two splits may not share, test scenes in training."""

import pytest
from trees import kitti_tree, rgbd_tree, write_list, write_picture

from datasets import leakage, names, splits
from datasets.frame import DataError
from datasets.images import ImageFolder
from datasets.kitti import Kitti
from datasets.rgbd import RgbdList

IDS = [f"drive_{drive:04d}_sync {frame:010d}" for drive in range(4) for frame in range(30)]


def drive_of(frame_id):
    return frame_id.split(" ")[0]


def test_a_shared_frame_is_an_overlap_unless_frames_may_be_shared():
    """(row 42)"""
    train, other = IDS[:31], IDS[30:60]
    for may_share in ("nothing", "scenes"):
        with pytest.raises(DataError, match=r"share 1 frames: drive_0001_sync 0000000000"):
            leakage.check_overlap(train, other, drive_of, may_share)
    leakage.check_overlap(train, other, drive_of, "frames")


def test_a_shared_drive_is_an_overlap_unless_scenes_may_be_shared():
    """(row 42)"""
    with pytest.raises(DataError, match=r"share 1 scenes \(drives\): drive_0000_sync"):
        leakage.check_overlap(IDS[:10], IDS[10:40], drive_of, "nothing")
    leakage.check_overlap(IDS[:10], IDS[10:40], drive_of, "scenes")
    leakage.check_overlap(IDS[:30], IDS[30:], drive_of, "nothing")


def test_an_unknown_rule_of_sharing_is_refused():
    with pytest.raises(DataError, match="choose 'nothing', 'scenes' or 'frames'"):
        leakage.check_overlap([], [], drive_of, "everything")


def test_frames_of_a_test_drive_are_refused_for_training(tmp_path):
    """(row 42)"""
    kitti_tree(tmp_path)
    dataset = Kitti(tmp_path, "all")
    with pytest.raises(DataError, match=r"frames of 1 test scenes: 2011_09_26_drive_0052_sync"):
        leakage.check_trainable(dataset.frame_ids, dataset)
    leakage.check_trainable(Kitti(tmp_path, "train_all").frame_ids, dataset)


def everything(dataset):
    return dataset, range(len(dataset))


def test_unlabelled_frames_may_not_be_validation_frames_unless_that_is_said(tmp_path):
    """(row 42)"""
    rgbd_tree(tmp_path, scenes={"desk": 8, "hall": 4})
    train = RgbdList(tmp_path, "train", depth_scale=1000)
    for may_share in ("nothing", "scenes"):
        with pytest.raises(
            DataError, match="unlabelled and the validation frames share 2"
        ) as error:
            leakage.check_apart((train, range(5)), (train, (3, 4, 6)), may_share)
        assert f"{train.frame_ids[3]}, {train.frame_ids[4]};" in str(error.value)
        assert "unlabeled.may_share=frames" in str(error.value)
    leakage.check_apart((train, range(5)), (train, range(3, 8)), "frames")


def test_unlabelled_scenes_may_not_be_validation_scenes_unless_that_is_said(tmp_path):
    rgbd_tree(tmp_path, scenes={"desk": 8, "hall": 4})
    train = RgbdList(tmp_path, "train", depth_scale=1000)
    (tmp_path / "link").symlink_to(tmp_path)
    again = RgbdList(tmp_path / "link", "train", depth_scale=1000)
    for validation in (train, again):
        with pytest.raises(DataError, match=r"share 1 scenes \(drives\): desk;") as error:
            leakage.check_apart((train, range(4)), (validation, range(4, 8)), "nothing")
        assert "unlabeled.may_share=scenes" in str(error.value)
        leakage.check_apart((train, range(4)), (validation, range(4, 8)), "scenes")


def test_only_the_frames_that_are_used_can_share_a_scene(tmp_path):
    rgbd_tree(tmp_path, scenes={"desk": 3, "den": 3, "hall": 1})
    train = RgbdList(tmp_path, "train", depth_scale=1000)
    leakage.check_apart((train, range(3)), (train, range(3, 6)), "nothing")
    other = RgbdList(tmp_path, "val", depth_scale=1000)
    leakage.check_apart(everything(train), everything(other), "nothing")


@pytest.fixture(params=[splits.MAX_LOOKED_AT, 2])
def short_and_long(request, monkeypatch):
    """The lists of a test as short ones, and as ones of which few frames are looked at."""
    monkeypatch.setattr(splits, "MAX_LOOKED_AT", request.param)


def test_frames_of_two_kinds_of_dataset_are_compared_by_their_files(tmp_path, short_and_long):
    kitti_tree(tmp_path / "kitti")
    validation = Kitti(tmp_path / "kitti", "val")
    pictures = ImageFolder(tmp_path / "kitti", "all")
    with pytest.raises(DataError, match=f"share {len(validation)} frames: raw/2011_09_26/"):
        leakage.check_apart(everything(pictures), everything(validation), "nothing")
    (tmp_path / "pool").symlink_to(tmp_path / "kitti/raw")
    linked = ImageFolder(tmp_path / "pool", "all")
    for unlabelled, other in ((linked, validation), (validation, linked)):
        with pytest.raises(DataError, match=f"share {len(validation)} frames"):
            leakage.check_apart(everything(unlabelled), everything(other), "nothing")
    files = {validation.paths(index)["image"] for index in range(len(validation))}
    rest = [i for i in range(len(pictures)) if pictures.paths(i)["image"] not in files]
    leakage.check_apart((pictures, rest), everything(validation), "nothing")


def test_pictures_that_are_links_to_files_of_other_names_are_followed(tmp_path, short_and_long):
    kitti_tree(tmp_path / "kitti")
    validation = Kitti(tmp_path / "kitti", "val")
    (tmp_path / "pool").mkdir()
    for index in range(len(validation)):
        (tmp_path / f"pool/{index}.png").symlink_to(validation.paths(index)["image"])
    pool = ImageFolder(tmp_path / "pool", "all")
    assert len(pool) > 2
    with pytest.raises(DataError, match=f"share {len(pool)} frames: 0.png, 1.png"):
        leakage.check_apart(everything(pool), everything(validation), "nothing")


def test_pictures_that_are_known_are_found_by_their_places(tmp_path, short_and_long):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png", "b/11.png"):
        write_picture(tmp_path / name, (4, 4))
    pictures = ImageFolder(tmp_path, "all")
    known = {tmp_path / "b/1.png", tmp_path / "a/2.png", tmp_path / "elsewhere.png"}
    assert pictures.frame_ids == ("a/1.png", "a/2.png", "b/1.png", "b/11.png", "b/2.png")
    indices = [4, 3, 2, 1, 0]
    assert leakage.places_of_pictures(pictures, indices, known) == [2, 3]
    assert leakage.places_of_pictures(pictures, range(5), known) == [1, 2]
    assert leakage.places_of_pictures(pictures, range(5), ()) == []


def test_pictures_that_are_known_are_found_all_along_a_list(tmp_path, short_and_long, monkeypatch):
    monkeypatch.setattr(names, "NUM_AT_ONCE", names.STRIDE)
    for number in range(50):
        write_picture(tmp_path / f"{number:02d}.png", (4, 4))
    known = {tmp_path / f"{number:02d}.png" for number in (0, 15, 16, 40, 49)}
    pictures = ImageFolder(tmp_path, "all")
    assert leakage.places_of_pictures(pictures, range(50), known) == [0, 15, 16, 40, 49]


def test_scenes_of_two_kinds_of_dataset_are_not_compared(tmp_path):
    rgbd_tree(tmp_path, scenes={"desk": 4, "hall": 1})
    labelled = RgbdList(tmp_path, "train", depth_scale=1000)
    write_list(tmp_path / "rest.txt", ["desk/rgb_00003.jpg"])
    pictures = ImageFolder(tmp_path, "rest")
    assert pictures.scene_of(pictures.frame_ids[0]) == labelled.scene_of(labelled.frame_ids[0])
    leakage.check_apart(everything(pictures), (labelled, range(3)), "nothing")


def test_scenes_of_the_same_name_under_different_roots_are_different_scenes(tmp_path):
    for place in ("mine", "yours"):
        rgbd_tree(tmp_path / place, scenes={"desk": 3, "hall": 1})
    mine, yours = (RgbdList(tmp_path / p, "train", depth_scale=1000) for p in ("mine", "yours"))
    leakage.check_apart(everything(mine), everything(yours), "nothing")


def test_an_unknown_rule_of_sharing_unlabelled_frames_is_refused(tmp_path):
    rgbd_tree(tmp_path)
    train = RgbdList(tmp_path, "train", depth_scale=1000)
    with pytest.raises(DataError, match="choose 'nothing', 'scenes' or 'frames'"):
        leakage.check_apart(everything(train), everything(train), "everything")


def test_test_frames_are_found_by_list_scene_name_of_the_list_and_folder(tmp_path):
    kitti_tree(tmp_path)
    kitti = Kitti(tmp_path, "all")

    def found(dataset, split="train", test_ids=()):
        return leakage.test_frames_among(
            dataset, range(len(dataset)), split=split, test_ids=frozenset(test_ids)
        )

    of_test_drive = [name for name in kitti.frame_ids if "_0052_" in name]
    assert len(of_test_drive) == 4 and found(kitti) == of_test_drive
    assert found(kitti, split="lists/test_mine.txt") == list(kitti.frame_ids)
    train = Kitti(tmp_path, "train_all")
    assert found(train) == [] and found(train, test_ids=train.frame_ids[1:2]) == [
        train.frame_ids[1]
    ]
    # the raw drives as a plain folder of pictures
    pictures = ImageFolder(tmp_path / "raw", "all")
    assert found(pictures) == [name for name in pictures.frame_ids if "_0052_" in name] != []
    only = "2011_09_26/2011_09_26_drive_0052_sync/image_02"
    assert found(ImageFolder(tmp_path / "raw" / only, "all")) != []
    (tmp_path / "plain").symlink_to(tmp_path / "raw" / only)
    plain = ImageFolder(tmp_path / "plain", "all")
    assert found(plain) == [] and found(plain, split="test_a") == list(plain.frame_ids)
    assert found(plain, test_ids=[plain.frame_ids[1], "other"]) == [plain.frame_ids[1]]
    with pytest.raises(DataError, match=r"unlabeled: 4 frames are test frames: 2011_09_26_drive_0"):
        leakage.refuse_test_frames(of_test_drive, "unlabeled")
    leakage.refuse_test_frames([], "unlabeled")
