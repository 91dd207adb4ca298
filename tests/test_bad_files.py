"""A damaged or wrong file is refused with its name and the reason, never read as something else.

Rows 36-38 of the fault matrix: what a reader meets. Faults of lists, missing files and overlaps
are in test_splits.py, which owns those checks.
"""

import io
import os
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from trees import depth_units, image_tree, kitti_tree, write_depth, write_picture

from datasets.frame import DataError, decode_picture, read_depth_png, read_image
from datasets.images import ImageFolder
from datasets.kitti import Kitti
from datasets.media import read_picture
from datasets.splits import check_files

SIZE = (48, 64)


def read_depth(path):
    return read_depth_png(path, units_per_metre=256)


@pytest.fixture
def good_depth(tmp_path):
    return write_depth(tmp_path / "depth.png", depth_units(SIZE))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_depth_is_read_exactly_with_its_holes(good_depth):
    depth = read_depth(good_depth)
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, depth_units(SIZE) / np.float32(256))
    assert (depth == 0).sum() == depth.size // 2


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_picture_is_refused_by_name(tmp_path, kept):
    """(row 36) What becomes of it in training is in test_loading.py and test_scripts.py."""
    path = write_picture(tmp_path / "image.jpg", SIZE)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError, match=r"image\.jpg: cannot be decoded"):
        read_image(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_depth_is_refused_by_name(good_depth, kept):
    """(row 37)"""
    good_depth.write_bytes(good_depth.read_bytes()[: int(kept * good_depth.stat().st_size)])
    with pytest.raises(DataError, match=r"depth\.png: cannot be decoded"):
        read_depth(good_depth)


def test_a_flipped_bit_never_becomes_another_depth(good_depth):
    """(row 37)"""
    data, expected = good_depth.read_bytes(), read_depth(good_depth)
    survived = 0
    for position in range(8, len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        good_depth.write_bytes(flipped)
        try:
            np.testing.assert_array_equal(read_depth(good_depth), expected)
            survived += 1
        except DataError as error:
            assert "depth.png" in str(error)
    # a flip in what follows the last pixel harms nothing
    assert survived <= 12


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html><html>Quota exceeded</html>", b"\x89PNG\r\n\x1a\n"]
)
def test_an_empty_or_html_file_is_refused_as_depth_and_as_picture(tmp_path, content):
    """(row 37)"""
    path = tmp_path / "download.png"
    path.write_bytes(content)
    for read in (read_depth, read_image):
        with pytest.raises(DataError, match=r"download\.png: cannot be decoded"):
            read(path)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "1", "LA"])
def test_a_picture_of_depth_is_not_depth(tmp_path, mode):
    """(row 37) 8-bit, palette and RGB files."""
    path = tmp_path / "coloured.png"
    Image.fromarray((depth_units(SIZE) // 8).astype(np.uint8)).convert(mode).save(path)
    with pytest.raises(DataError, match=rf"coloured\.png: .*16-bit single-channel.*{mode!r}"):
        read_depth(path)


def test_depth_in_another_format_is_not_depth(tmp_path):
    """A 16-bit TIFF has no checksum, so nothing would find damage in it."""
    Image.fromarray(depth_units(SIZE)).save(tmp_path / "depth.tif")
    (tmp_path / "depth.tif").rename(tmp_path / "depth.png")
    with pytest.raises(DataError, match=r"depth\.png: .*16-bit single-channel PNG.*TIFF"):
        read_depth(tmp_path / "depth.png")


def test_depth_is_not_a_picture(good_depth):
    """As RGB all beyond one metre would be white, and an unlabelled stream would learn from it."""
    for read in (read_image, read_picture):
        with pytest.raises(DataError, match=r"depth\.png: .*more than 8 bits"):
            read(good_depth)


@pytest.mark.parametrize("name", ["a.gif", "a.eps", "a.ico"])
def test_formats_that_nobody_asked_for_are_not_opened_under_any_name(tmp_path, name):
    """Of EPS, Pillow would start Ghostscript on the file's own program."""
    write_picture(tmp_path / name, SIZE)
    (tmp_path / name).rename(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        decode_picture(tmp_path / "a.png")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: no such file"):
        decode_picture(tmp_path / "a.png")


def test_a_palette_picture_without_its_palette_is_not_black(tmp_path):
    path = tmp_path / "palette.png"
    Image.new("P", (8, 8), 1).save(path)
    data = path.read_bytes()
    start = data.index(b"PLTE") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    path.write_bytes(data[:start] + data[end:])
    with pytest.raises(DataError, match=r"palette\.png: .*lost its palette"):
        read_image(path)


def test_a_missing_file_is_named(tmp_path):
    for read in (read_depth, read_image):
        with pytest.raises(DataError, match=r"nothing\.png: no such file"):
            read(tmp_path / "nothing.png")


@pytest.mark.parametrize("bits_and_colour", [(16, 0), (8, 2)])  # depth, RGB
@pytest.mark.parametrize("side", [60_000, 9_000])
def test_a_decompression_bomb_is_refused_before_it_unpacks(tmp_path, side, bits_and_colour):
    """(row 38) As depth, as a picture of a dataset and as a picture for predict.py."""
    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", side, side, *bits_and_colour, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_depth, read_image, read_picture):
        with pytest.raises(DataError, match=r"bomb\.png: .*(more than the limit|exceeds limit)"):
            read(path)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 20  # unpacked it is 154 MiB at least


def test_a_damaged_picture_in_a_folder_is_named_when_it_is_read(tmp_path):
    dataset = ImageFolder(image_tree(tmp_path), "all")
    path = tmp_path / "b.png"
    path.write_bytes(path.read_bytes()[:-40])
    dataset.frame(0)
    with pytest.raises(DataError, match=r"b\.png: cannot be decoded"):
        dataset.frame(3)


def test_a_damaged_depth_file_harms_only_who_reads_it(tmp_path):
    drive = "2011_09_26_drive_0001_sync"
    dataset = Kitti(kitti_tree(tmp_path, drives={drive: range(5, 7)}), "train")
    dataset.paths(0)["depth"].write_bytes(b"<html>")
    frame = dataset.frame(0)  # an unlabelled stream never opens the depth
    with pytest.raises(DataError, match=r"groundtruth/image_02/0000000005\.png"):
        frame.depth()


def test_a_missing_kitti_file_is_found_before_training(tmp_path):
    """(row 40)"""
    drive = "2011_09_26_drive_0001_sync"
    dataset = Kitti(kitti_tree(tmp_path, drives={drive: range(5, 12)}), "train")
    check_files(dataset)
    for index in range(6):
        dataset.paths(index)["image"].unlink()
    with pytest.raises(DataError, match=r"^6 files .* and 1 more\. Restore them"):
        check_files(dataset)


def test_a_picture_in_any_mode_comes_out_as_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "CMYK"):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 6), (200, 100, 50)).convert(mode).save(buffer, "TIFF")
        path = tmp_path / f"{mode}.tif"
        path.write_bytes(buffer.getvalue())
        assert (read_image(path).mode, read_image(path).size) == ("RGB", (8, 6))
