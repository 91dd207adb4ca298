"""The three forms of NYU are read each in its own scale and layout, and borders teach nothing."""

import numpy as np
import pytest
from PIL import Image
from trees import (
    depth_units,
    nyu_bts_tree,
    nyu_densedepth_tree,
    nyu_labeled_tree,
    write_depth,
    write_list,
    write_picture,
)

from datasets.frame import DataError
from datasets.leakage import check_overlap
from datasets.nyu import Nyu
from datasets.nyu_variants import is_held_out
from datasets.splits import check_files

SIZE = (480, 640)
BEDROOM = tuple(f"bedroom_0001/rgb_{number:05d}.jpg" for number in range(3))


@pytest.fixture(scope="module")
def bts(tmp_path_factory):
    return nyu_bts_tree(tmp_path_factory.mktemp("bts"))


@pytest.fixture(scope="module")
def densedepth(tmp_path_factory):
    return nyu_densedepth_tree(tmp_path_factory.mktemp("densedepth"))


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    return nyu_labeled_tree(tmp_path_factory.mktemp("labeled"))


def boxed(depth):
    """Training ground truth: none outside rows 45:472, columns 43:608."""
    inside = np.zeros(SIZE, bool)
    inside[45:472, 43:608] = True
    return np.where(inside, depth, 0)


def test_bts_depth_is_millimetres(bts):
    dataset = Nyu(bts, "test")
    assert dataset.frame_ids == ("bathroom/rgb_00045.jpg", "bathroom/rgb_00046.jpg")
    np.testing.assert_array_equal(
        dataset.frame(1).depth(), depth_units(SIZE, 46) / np.float32(1000)
    )


def test_training_depth_has_no_border_and_test_depth_is_whole(bts):
    train = Nyu(bts, "train").frame(2).depth()
    np.testing.assert_array_equal(train, boxed(depth_units(SIZE, 2) / np.float32(1000)))
    test = Nyu(bts, "test").frame(0).depth()
    assert (test[:45] > 0).any()
    np.testing.assert_array_equal(test > 0, depth_units(SIZE) > 0)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_white_border_of_the_picture_is_black_for_train_and_test_alike(bts, split):
    image = np.asarray(Nyu(bts, split).frame(0).image)
    assert image.shape == (*SIZE, 3)
    border = np.ones(SIZE, bool)
    border[7:474, 7:632] = False
    assert (image[border] == 0).all()
    assert (image[~border].max(axis=-1) > 30).all()


def test_intrinsics_are_those_of_the_kinect(bts):
    matrix = Nyu(bts, "test").frame(0).intrinsics
    assert matrix.tolist() == [[518.8579, 0, 325.5824], [0, 519.4696, 253.7362], [0, 0, 1]]


def test_computed_splits_hold_out_whole_scenes(bts):
    assert is_held_out("bedroom_0026")
    assert not is_held_out("bedroom_0001")
    train, val = Nyu(bts, "train"), Nyu(bts, "val")
    assert train.frame_ids == BEDROOM
    assert {Nyu.scene_of(name) for name in val.frame_ids} == {"bedroom_0026"}
    assert set(Nyu(bts, "train_all").frame_ids) == {*train.frame_ids, *val.frame_ids}
    check_overlap(train.frame_ids, val.frame_ids, Nyu.scene_of, "nothing")
    for dataset in (train, val, Nyu(bts, "test")):
        check_files(dataset, roles=("image", "depth"))


def test_about_one_scene_in_twenty_is_held_out():
    held = sum(is_held_out(f"{kind}_{n:04d}") for kind in ("office", "kitchen") for n in range(500))
    assert 30 <= held <= 70


def test_recordings_of_one_room_are_one_scene():
    names = ["kitchen_0028a/rgb_00000.jpg", "nyu2_train/kitchen_0028b_out/7.jpg"]
    assert {Nyu.scene_of(name) for name in names} == {"kitchen_0028"}
    assert Nyu.scene_of("kitchen_0029/rgb_00000.jpg") == "kitchen_0029"


@pytest.mark.parametrize("prefix", ["nyu_depth_v2/", ""])
def test_both_bts_layouts_and_the_sync_folder_itself_are_read(tmp_path, prefix):
    nyu_bts_tree(tmp_path, scenes={"bedroom_0001": [0]}, prefix=prefix)
    assert len(Nyu(tmp_path, "test")) == 2
    root = tmp_path / prefix / "sync"
    lines = write_list(tmp_path / "list.txt", ["bedroom_0001/rgb_00000.jpg"])
    paths = {
        Nyu(tmp_path, "train").paths(0)["image"],
        Nyu(root, "train").paths(0)["image"],
        Nyu(root, str(lines)).paths(0)["image"],
    }
    assert paths == {root / "bedroom_0001/rgb_00000.jpg"}


@pytest.mark.parametrize("slash", ["/", ""])
def test_bts_list_lines_may_begin_with_one_slash(bts, tmp_path, slash):
    lines = [f"{slash}{BEDROOM[1]} {slash}bedroom_0001/sync_depth_00001.png 518.8579"]
    lines.append(f"{slash}bathroom/rgb_00045.jpg {slash}bathroom/sync_depth_00045.png 518.8579")
    dataset = Nyu(bts, str(write_list(tmp_path / "list.txt", lines)))
    assert dataset.frame_ids == (BEDROOM[1], "bathroom/rgb_00045.jpg")
    check_files(dataset, roles=("image", "depth"))
    assert "official_splits" in dataset.paths(1)["depth"].parts


@pytest.mark.parametrize("path", ["//etc/passwd", "../x.jpg", "/../x.jpg", "a/../../x.jpg"])
def test_a_list_path_out_of_the_root_is_refused(bts, tmp_path, path):
    for line in (f"{path} a/b.png 518.8", f"a/b.jpg {path} 518.8"):
        with pytest.raises(DataError, match=r"list\.txt: path .* never leave it"):
            Nyu(bts, str(write_list(tmp_path / "list.txt", [line])))


def test_a_picture_listed_twice_is_refused(bts, tmp_path):
    lines = [f"/{BEDROOM[0]} /bedroom_0001/sync_depth_00000.png", f"{BEDROOM[0]} a.png"]
    with pytest.raises(DataError, match=r"listed twice: bedroom_0001/rgb_00000\.jpg"):
        Nyu(bts, str(write_list(tmp_path / "list.txt", lines)))


def test_a_line_without_depth_is_an_unlabelled_frame(bts, tmp_path):
    dataset = Nyu(bts, str(write_list(tmp_path / "list.txt", [BEDROOM[0]])))
    assert set(dataset.paths(0)) == {"image"}
    assert dataset.frame(0).load_depth is None


def test_densedepth_training_depth_is_8_bit_of_ten_metres(densedepth):
    dataset = Nyu(densedepth, "train", variant="densedepth")
    assert [name.split("/")[-1] for name in dataset.frame_ids] == ["1.jpg", "2.jpg", "10.jpg"]
    units = (depth_units(SIZE, 10) // 8).astype(np.uint8)
    np.testing.assert_allclose(dataset.frame(2).depth(), boxed(units / 25.5), rtol=1e-6)


def test_densedepth_test_depth_is_16_bit_millimetres(densedepth):
    dataset = Nyu(densedepth, "test", variant="densedepth")
    expected = depth_units(SIZE, 1) / np.float32(1000)
    np.testing.assert_array_equal(dataset.frame(1).depth(), expected)


def test_densedepth_lists_and_tree_name_the_same_frames(densedepth):
    for split in ("train_all", "test"):
        path = densedepth / f"data/nyu2_{split.removesuffix('_all')}.csv"
        listed = Nyu(densedepth, str(path), variant="densedepth")
        assert listed.frame_ids == Nyu(densedepth, split, variant="densedepth").frame_ids
        assert (
            Nyu(densedepth / "data", str(path), variant="densedepth").frame_ids == listed.frame_ids
        )
        check_files(listed, roles=("image", "depth"))
    val = Nyu(densedepth, "val", variant="densedepth")
    assert val.frame_ids == ("nyu2_train/bedroom_0026_out/1.jpg",)


def test_8_bit_depth_is_refused_everywhere_but_in_densedepth_training(densedepth, tmp_path):
    nyu_bts_tree(tmp_path, scenes={"bedroom_0001": [0]}, test={})
    grey = (depth_units(SIZE) // 8).astype(np.uint8)
    write_depth(tmp_path / "nyu_depth_v2/sync/bedroom_0001/sync_depth_00000.png", grey)
    with pytest.raises(DataError, match="16-bit single-channel"):
        Nyu(tmp_path, "train").frame(0).depth()


@pytest.mark.parametrize("units", [depth_units(SIZE), np.zeros((*SIZE, 3), np.uint8)])
def test_other_than_8_bit_grey_is_refused_in_densedepth_training(tmp_path, units):
    write_picture(tmp_path / "nyu2_train/a_0001_out/1.jpg", SIZE)
    write_depth(tmp_path / "nyu2_train/a_0001_out/1.png", units)
    dataset = Nyu(tmp_path, "train", variant="densedepth")
    with pytest.raises(DataError, match=r"1\.png.*8-bit grey"):
        dataset.frame(0).depth()


def test_labelled_frames_have_raw_and_filled_depth_by_official_index(labeled):
    raw = Nyu(labeled, "all", variant="labeled")
    filled = Nyu(labeled, "all", variant="labeled_filled")
    assert raw.frame_ids == filled.frame_ids
    assert raw.frame_ids[-1] == "labeled/rgb_01449"
    expected = depth_units(SIZE, 49) / np.float32(1000)
    np.testing.assert_array_equal(raw.frame(2).depth(), expected)
    assert filled.frame(2).depth()[0, 1] == np.float32(0.777)


def test_labelled_lists_name_index_and_scene(labeled):
    write_list(labeled / "splits/train.txt", ["2 kitchen_0004", "1449 office_0001b"])
    dataset = Nyu(labeled, "train", variant="labeled")
    assert dataset.frame_ids == ("kitchen_0004/rgb_00002", "office_0001b/rgb_01449")
    assert dataset.scene_of(dataset.frame_ids[1]) == "office_0001"
    check_files(dataset, roles=("image", "depth"))


def test_a_labelled_split_without_a_list_is_refused(labeled):
    with pytest.raises(DataError, match=r"no list test\.txt.*datasets\.prepare nyu"):
        Nyu(labeled, "test", variant="labeled")


def test_the_wrong_variant_for_a_tree_finds_nothing_and_says_so(bts):
    with pytest.raises(DataError, match=r"'train' is empty: no frame of variant 'densedepth'"):
        Nyu(bts, "train", variant="densedepth")


def test_an_unknown_variant_or_a_scale_is_refused(bts):
    with pytest.raises(DataError, match="bts, densedepth, labeled, labeled_filled"):
        Nyu(bts, "train", variant="official")
    with pytest.raises(DataError, match="leave it null"):
        Nyu(bts, "train", depth_scale=1000)


def test_a_picture_of_another_size_is_refused(tmp_path):
    nyu_bts_tree(tmp_path, scenes={"bedroom_0001": [0]}, test={})
    path = tmp_path / "nyu_depth_v2/sync/bedroom_0001/rgb_00000.jpg"
    Image.open(path).resize((320, 240)).save(path)
    with pytest.raises(DataError, match="240 x 320 pixels, but NYU is 480 x 640"):
        Nyu(tmp_path, "train").frame(0)


def test_the_protocols_are_eigens_box_and_densedepths_to_ten_metres(bts):
    protocols = Nyu(bts, "test").protocols(80.0)
    assert [(p.name, p.max_depth) for p in protocols] == [
        ("nyu_eigen", 10.0), ("nyu_densedepth", 10.0)
    ]  # fmt: skip


def test_raw_and_filled_ground_truth_of_the_labelled_form_can_both_be_read(tmp_path):
    root = nyu_labeled_tree(tmp_path)
    for variant, other in (("labeled", "labeled_filled"), ("labeled_filled", "labeled")):
        dataset = Nyu(root, "all", variant=variant)
        readers = dataset.ground_truths(0)
        assert list(readers) == [variant, other]
        assert np.array_equal(readers[variant](), dataset.frame(0).depth())
        assert readers["labeled_filled"]().all() and not readers["labeled"]().all()
