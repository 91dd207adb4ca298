"""Lists are read as written, or refused by file and line; budgets nest; leaks are found."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from trees import rgbd_tree, write_list, write_picture

from datasets import splits
from datasets.frame import DataError
from datasets.images import ImageFolder
from datasets.names import ListedNames
from datasets.rgbd import RgbdList

IDS = [f"drive_{drive:04d}_sync {frame:010d}" for drive in range(4) for frame in range(30)]


def drive_of(frame_id):
    return frame_id.split(" ")[0]


def test_a_split_name_is_found_in_splits_then_in_the_root_and_a_path_is_taken_as_it_is(tmp_path):
    in_root = write_list(tmp_path / "train.txt", ["a"])
    assert splits.find_list(tmp_path, "train") == in_root
    in_splits = write_list(tmp_path / "splits/train.txt", ["a"])
    assert splits.find_list(tmp_path, "train") == in_splits
    assert splits.find_list("/elsewhere", str(in_root)) == in_root
    assert splits.find_list(tmp_path, "val") is None


def test_a_list_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"missing\.txt: no such file"):
        splits.find_list(tmp_path, str(tmp_path / "missing.txt"))


def test_a_split_name_cannot_walk_out_of_the_root(tmp_path):
    """(row 41)"""
    write_list(tmp_path / "secret.txt", ["a"])
    root = tmp_path / "data"
    root.mkdir()
    with pytest.raises(DataError, match="never leave it"):
        splits.find_list(root, "../../secret")


def test_bom_crlf_blank_and_comment_lines_are_tolerated(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa/1.jpg a/1.png\r\n\r\n# a comment\r\n  b/2.jpg\tb/2.png  \n")
    assert splits.read_list(path, (2,)) == [["a/1.jpg", "a/1.png"], ["b/2.jpg", "b/2.png"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a b\nc d\na b\n", "line 3: repeats line 1"),
        (b"a b\n\nc\n", "line 3: 1 columns where 2 or 3"),
        (b"a b\nc\0 d\n", "line 2: NUL byte"),
        (b"a\\b c\n", "line 1: backslash"),
        (b"a b\n\xef\xbb\xbfc d\n", "line 2: byte-order mark"),
        (b"a b\rc d\r", "line 1: 4 columns where 2 or 3"),
        (b"a " + b"b" * 5000, "line 1: more than 4096 characters"),
        (b"\n# nothing\n", "names no frames"),
        (b"", "names no frames"),
        (b"\xff\xfe\xd8\x00", "cannot be read as UTF-8"),
    ],
)
def test_a_bad_list_is_refused_with_file_and_line(tmp_path, text, message):
    path = tmp_path / "list.txt"
    path.write_bytes(text)
    with pytest.raises(DataError, match=message) as error:
        splits.read_list(path, (2, 3))
    assert "list.txt" in str(error.value)


def test_a_comma_separated_list_keeps_spaces_in_names(tmp_path):
    path = write_list(tmp_path / "list.csv", ["a b/1.jpg, a b/1.png"])
    assert splits.read_list(path, (2,), separator=",") == [["a b/1.jpg", "a b/1.png"]]


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x.png", "a/../../x.png", "a/..", "", ".", "C:/x.png", "a\\b.png", "a\0b"],
)
def test_a_path_that_leaves_the_root_is_refused(tmp_path, path):
    """(row 41) Traversal, absolute, empty, a drive letter, backslash and NUL."""
    with pytest.raises(DataError, match="relative to the data root"):
        splits.inside(tmp_path, path)


def test_a_path_inside_the_root_is_joined_to_it_also_through_a_link(tmp_path):
    (tmp_path / "disk/scene").mkdir(parents=True)
    root = tmp_path / "root"
    root.symlink_to(tmp_path / "disk")
    assert splits.inside(root, "scene/./x..png") == root / "scene" / "x..png"


def test_links_of_the_user_are_followed_but_never_back_out_of_the_root(tmp_path):
    """(row 41) Drives and single files are linked from other disks, and a list makes no links.

    Beyond a link `..` is another folder than it looks, and is refused as everywhere.
    """
    picture = write_picture(tmp_path / "disk/scene/1.png", (4, 4))
    root = tmp_path / "root"
    root.mkdir()
    (root / "scene").symlink_to(picture.parent)
    (root / "one.png").symlink_to(picture)
    write_list(root / "train.txt", ["scene/1.png", "one.png"])
    dataset = RgbdList(root, "train", depth_scale=1000)
    splits.check_files(dataset)
    assert [dataset.frame(index).image.size for index in (0, 1)] == [(4, 4), (4, 4)]
    write_list(root / "train.txt", ["scene/../scene/1.png"])
    with pytest.raises(DataError, match=r"train\.txt: path .* never leave it"):
        RgbdList(root, "train", depth_scale=1000)


def test_names_that_no_disk_can_hold_are_missing_files(tmp_path):
    for name in ("x" * 300, "x/" * 3000 + "y"):
        with pytest.raises(DataError, match="no such file"):
            splits.find_list(tmp_path, f"{name}.txt")
        assert splits.find_list(tmp_path, name) is None
    dataset = RgbdList(tmp_path, str(write_list(tmp_path / "a.txt", ["x" * 300])), depth_scale=1)
    with pytest.raises(DataError, match=r"^1 files of this split"):
        splits.check_files(dataset)


def test_the_hash_of_a_list_is_that_of_its_sorted_ids():
    expected = hashlib.sha256(b"a 1\nb 0\nb 2").hexdigest()
    assert splits.list_sha256(["b 2", "a 1", "b 0"]) == expected


def test_budgets_of_one_seed_are_nested_and_have_the_size_asked_for():
    chosen = [splits.label_budget(IDS, num_frames, seed=7) for num_frames in (1, 10, 60, 120)]
    for small, large in pairwise(chosen):
        assert large[: len(small)] == small
    assert [len(set(indices)) for indices in chosen] == [1, 10, 60, 120]


def test_a_budget_names_the_same_frames_whatever_the_order_of_the_list():
    backwards = IDS[::-1]
    names = [IDS[index] for index in splits.label_budget(IDS, 10, seed=3)]
    assert [backwards[index] for index in splits.label_budget(backwards, 10, seed=3)] == names


def test_another_seed_gives_another_budget_and_the_draw_never_changes():
    assert splits.label_budget(IDS, 10, seed=0) != splits.label_budget(IDS, 10, seed=1)
    # a change here changes every published few-label run
    assert splits.label_budget(IDS, 5, seed=0) == [11, 92, 113, 3, 20]


def test_a_budget_spreads_over_all_scenes():
    drives = [drive_of(IDS[index]) for index in splits.label_budget(IDS, 60, seed=0)]
    assert min(drives.count(drive) for drive in set(drives)) >= 8
    assert len(set(drives)) == 4


def test_no_budget_keeps_the_list_and_its_order():
    assert splits.label_budget(IDS, None, seed=0) == list(range(120))


@pytest.mark.parametrize("num_frames", [0, -1, 121])
def test_a_budget_that_the_split_cannot_fill_is_refused(num_frames):
    with pytest.raises(DataError, match="the split has 120"):
        splits.label_budget(IDS, num_frames, seed=0)


UNEVEN = [
    f"drive_{drive:04d}_sync {frame:010d}"
    for drive, count in enumerate((2, 50, 5, 1, 30))
    for frame in range(count)
]


def counts_of(num_frames, seed):
    chosen = splits.label_budget(UNEVEN, num_frames, seed, scene_of=drive_of)
    assert len(set(chosen)) == num_frames
    drives = [drive_of(UNEVEN[index]) for index in chosen]
    return [drives.count(drive) for drive in sorted({drive_of(name) for name in UNEVEN})]


@pytest.mark.parametrize("seed", range(5))
def test_a_balanced_budget_takes_from_every_scene_alike_until_one_runs_out(seed):
    for num_frames in range(1, 89):
        counts = counts_of(num_frames, seed)
        for count, there_are in zip(counts, (2, 50, 5, 1, 30), strict=True):
            assert count >= min(max(counts) - 1, there_are)
    assert counts_of(10, seed) != counts_of(9, seed)


def test_balanced_budgets_of_one_seed_are_nested():
    chosen = [splits.label_budget(UNEVEN, n, seed=7, scene_of=drive_of) for n in (1, 10, 60, 88)]
    for small, large in pairwise(chosen):
        assert large[: len(small)] == small


def test_a_balanced_budget_names_the_same_frames_whatever_the_order_of_the_list():
    backwards = UNEVEN[::-1]
    chosen = splits.label_budget(UNEVEN, 20, seed=3, scene_of=drive_of)
    again = splits.label_budget(backwards, 20, seed=3, scene_of=drive_of)
    assert [UNEVEN[index] for index in chosen] == [backwards[index] for index in again]


def test_the_seed_of_a_balanced_budget_decides_scenes_and_frames_and_the_draw_never_changes():
    first = [splits.label_budget(IDS, 4, seed, scene_of=drive_of) for seed in range(20)]
    assert len({drive_of(IDS[chosen[0]]) for chosen in first}) == 4
    assert len({IDS[index].split(" ")[1] for chosen in first for index in chosen}) > 20
    # a change here changes every published few-label run
    assert splits.label_budget(IDS, 5, seed=0, scene_of=drive_of) == [11, 59, 92, 62, 3]


def test_a_balanced_budget_of_all_frames_keeps_the_list():
    assert splits.label_budget(IDS, None, seed=0, scene_of=drive_of) == list(range(120))


def test_missing_files_are_counted_and_the_first_five_named(tmp_path):
    """(row 40)"""
    rgbd_tree(tmp_path, scenes={"desk": 8, "hall": 1})
    dataset = RgbdList(tmp_path, "train", depth_scale=1000)
    splits.check_files(dataset)
    for number in range(6):
        (tmp_path / f"desk/sync_depth_{number:05d}.png").unlink()
    with pytest.raises(DataError, match=r"^6 files of this split \(8 frames\)") as error:
        splits.check_files(dataset)
    assert [f"sync_depth_{number:05d}" in str(error.value) for number in range(6)] == [True] * 5 + [
        False
    ]
    splits.check_files(dataset, roles=("image",))


def test_a_label_that_no_frame_claims_is_missing_only_where_labels_are_needed(tmp_path):
    rgbd_tree(tmp_path)
    write_list(tmp_path / "bare.txt", ["desk/rgb_00000.jpg"])
    dataset = RgbdList(tmp_path, "bare", depth_scale=1000)
    splits.check_files(dataset)
    with pytest.raises(DataError, match=r"depth of 'desk/rgb_00000\.jpg'"):
        splits.check_files(dataset, roles=("image", "depth"))


@pytest.fixture
def long_lists(monkeypatch):
    """Ten frames are as many as ever have their files looked at."""
    monkeypatch.setattr(splits, "MAX_LOOKED_AT", 10)


@pytest.mark.parametrize("arrange", [list, reversed])
@pytest.mark.parametrize("scene_of", [None, drive_of])
def test_a_budget_of_names_in_one_text_is_that_of_the_list(long_lists, arrange, scene_of):
    ids = list(arrange(IDS))
    names = ListedNames("".join(f"{name}\n" for name in ids).encode())
    for num_frames in (1, 10, 11, 60, 120):
        chosen = splits.label_budget(names, num_frames, seed=5, scene_of=scene_of)
        expected = splits.label_budget(ids, num_frames, seed=5, scene_of=scene_of)
        assert list(chosen) == list(expected)
    assert splits.label_budget(names, None, seed=5) == range(120)
    with pytest.raises(DataError, match="the split has 120"):
        splits.label_budget(names, 121, seed=5)


def test_of_a_long_list_one_frame_of_each_part_is_looked_at(long_lists):
    assert splits.some_of(few := [5, 3, 8]) is few
    for indices in (range(100, 203), np.arange(100, 203), list(range(100, 203))):
        parts = [place * 10 // 103 for place in splits.some_of(indices, seed=1) - 100]
        assert parts == sorted(parts) and set(range(10)) >= set(parts) and len(parts) == 10
        assert len(set(parts)) >= 9  # the edges of the parts are whole numbers
    draws = {tuple(splits.some_of(range(103), seed=seed).tolist()) for seed in range(5)}
    assert len(draws) == 5


def test_frames_that_are_evenly_spaced_are_so_in_a_list_a_range_and_an_array():
    for items in (list(range(7, 27)), range(7, 27), np.arange(7, 27)):
        chosen = splits.evenly(items, 4)
        assert chosen == [7, 12, 17, 22] and all(type(index) is int for index in chosen)


def test_frames_are_taken_out_of_a_list_a_range_and_an_array_alike():
    for indices in ([4, 8, 6, 1], np.array([4, 8, 6, 1])):
        assert list(splits.without(indices, [1, 3])) == [4, 6]
        assert splits.without(indices, []) is indices
    assert list(splits.without(range(4), [0])) == [1, 2, 3]


def test_of_a_long_list_some_files_are_checked_and_that_is_said(tmp_path, long_lists, capsys):
    for number in range(40):
        write_picture(tmp_path / f"{number:02d}.png", (4, 4))
    pictures = ImageFolder(tmp_path, "all")
    splits.check_files(pictures)
    assert "checked the files of 10 of 40 frames" in capsys.readouterr().err
    for number in range(8, 40):
        (tmp_path / f"{number:02d}.png").unlink()
    with pytest.raises(DataError, match=r"^8 files of .* \(40 frames, 10 of them checked\)"):
        splits.check_files(pictures)
    capsys.readouterr()
    splits.check_files(pictures, indices=range(8))
    assert not capsys.readouterr().err
