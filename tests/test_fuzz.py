"""Files and words of any content: each is read as what it is, or refused by name. Nothing else.

Hypothesis makes them up, the same ones at every run. What damage a format cannot show, and so no
reader finds, is said where it is left out.
"""

import io
import os
import struct
import tempfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from authors_checkpoints import Authors
from hypothesis import configuration, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from trees import depth_units, picture

from datasets import kitti_calibration as calibration
from datasets.frame import DataError, decode_picture, read_depth_png, read_image
from datasets.images import ImageFolder
from datasets.kitti import Kitti
from datasets.prediction_files import DESCRIPTION, PredictionFolder
from datasets.rgbd import RgbdList
from datasets.splits import check_files
from networks import NetworkError
from utils import config
from utils.config import ConfigError, load_config, to_yaml
from utils.config_rules import RULES

SIZE = (8, 12)
# what Hypothesis keeps of its own would lie in the repository
configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")


def fuzz(examples):
    """The same examples at every run; nothing is kept between runs."""
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def soup(*words):
    """Bytes of some of these words, of each other and of anything, in any order."""
    return st.lists(st.sampled_from(words) | st.binary(max_size=4), max_size=12).map(b"".join)


@st.composite
def damaged(draw, good):
    """A good file with bytes flipped, put in, taken out, or all behind some place cut off."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "set", "insert", "remove", "cut"]))
        if kind == "cut":
            del data[place:]
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=9))
        elif kind == "remove":
            del data[place : place + draw(st.integers(1, 9))]
        elif data:
            bit = 1 << draw(st.integers(0, 7))
            data[place] = data[place] ^ bit if kind == "flip" else draw(st.integers(0, 255))
    return bytes(data)


# --- lists ---------------------------------------------------------------------------------------

DRIVE = b"2011_09_26_drive_0001_sync"
LIST_WORDS = soup(
    b"\n", b"\n", b"\r\n", b"\r", b" ", b"\t", b"#", b"\xef\xbb\xbf", b"\0", b"\\", b"\xff", b"/",
    b"//", b"..", b"../", b"/..", b"./", b".", b"~", b"C:", b"/etc/passwd", b"a.jpg", b"a/b.png",
    b"a/b.png", b"1000.5", b"nan", b"-1", b",", b"\x0b", b"\x1c", b"\xc2\xa0", b"\xe3\x80\x80",
    b"\xe2\x80\xa8", "ü".encode(), b"\x1b[2J", b"x" * 300, b"9" * 5000, b"l", b"image_03", DRIVE,
    DRIVE + b" 5\n", b"2011_09_26/" + DRIVE + b" 5 r\n",
    b"2011_09_26/" + DRIVE + b"/image_02/data/0000000005.png",
)  # fmt: skip
READERS = {
    "images": ImageFolder,
    "kitti": Kitti,
    "rgbd": lambda root, split: RgbdList(root, split, depth_scale=1000),
}


@pytest.mark.parametrize("kind", READERS)
@fuzz(150)
@given(text=LIST_WORDS)
@example(b"\x0b#a\n")
@example(b"./#a\n./ b\n")
@example(b"a /\n")
@example(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n")
@example(b"a" * 5000)
def test_a_list_is_read_to_paths_inside_the_root_or_refused_by_name(folder, kind, text):
    """(row 41) any bytes. What is read can be written, one name a line, and read again."""
    root = folder / "root"
    root.mkdir(exist_ok=True)
    path = folder / "list.txt"
    path.write_bytes(text)
    try:
        dataset = READERS[kind](root, str(path))
    except DataError as error:
        assert "list.txt" in str(error) and len(str(error)) < 2000
        return
    assert len(dataset) == len(dataset.frame_ids) > 0
    for index in range(len(dataset)):
        for file in dataset.paths(index).values():
            assert os.path.normpath(file).startswith(f"{root}{os.sep}") and "\0" not in str(file)
    with pytest.raises(DataError, match="are missing"):
        check_files(dataset)
    start = "./" if kind == "images" else ""  # as `read_names` says
    path.write_text("".join(f"{start}{name}\n" for name in dataset.frame_ids), encoding="utf-8")
    assert list(READERS[kind](root, str(path)).frame_ids) == list(dataset.frame_ids)


# --- configuration -------------------------------------------------------------------------------

KEYS = sorted(RULES)
YAML_WORDS = (
    "", " ", "\n", "\n  ", "\t", ":", ": ", "- ", "? ", "[", "]", "{", "}", ",", "#", "'", '"',
    "&a ", "*a", "<<", "!!int ", "!!python/name:os.system ", "!a ", "---\n", "%YAML 1.2\n", "|\n",
    ">\n", "~", "null", "true", "yes", "0", "1", "-1", "0.5", "1e-4", "1e999", ".nan", ".inf",
    "010", "0x_", "0b_", "1:30", "2026-13-45", "9" * 30, "9" * 5000, '"\\0"', '"\\ud800"', "=",
    "train:", "labeled", "num_steps: ", "[1, 2]", "\ufeff", "\x85", "ü", "adam", "rgbd",
)  # fmt: skip
YAML = st.lists(st.sampled_from(YAML_WORDS) | st.text(max_size=3), max_size=10).map("".join)


def check_config(read):
    """What `read` gives obeys every rule and reads back as itself, or is a short ConfigError."""
    try:
        cfg = read()
    except ConfigError as error:
        assert 0 < len(str(error)) < 20_000
        return
    values = cfg.toDict()
    for key, rule in RULES.items():
        section, name = key.split(".") if "." in key else (None, key)
        value = values[section][name] if section else values[name]
        assert rule(value) == "", key
        assert not isinstance(value, float) or np.isfinite(value)
    text = to_yaml(cfg)
    assert config._checked(config.parse_yaml(text, place="x")).toDict() == values


@fuzz(200)
@given(key=st.sampled_from(KEYS) | YAML, value=YAML)
@example(key="run.name", value="'1e-4'")
@example(key="optimizer.lr", value="1" + "0" * 400)
@example(key="train.num_steps" + ".x" * 3000, value="1")
def test_a_word_of_the_command_line_obeys_the_rules_or_is_refused(key, value):
    check_config(lambda: load_config(None, [f"{key}={value}"]))


@fuzz(100)
@given(text=st.binary(max_size=60) | YAML.map(str.encode))
def test_a_file_of_anything_obeys_the_rules_or_is_refused(folder, text):
    file = folder / "any.yaml"
    file.write_bytes(text)
    check_config(lambda: load_config(file))


@fuzz(60)
@given(text=damaged(config.DEFAULTS.read_bytes()))
def test_damaged_defaults_obey_the_rules_or_are_refused(folder, text):
    file = folder / "damaged.yaml"
    file.write_bytes(text)
    check_config(lambda: load_config(file))


# --- pictures ------------------------------------------------------------------------------------


def encoded(array, form, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    image = image.convert(options.pop("mode", image.mode))
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def chunks(png):
    """The chunks of a PNG, each with its length, name and checksum."""
    found, place = [], 8
    while place < len(png):
        size = 12 + int.from_bytes(png[place : place + 4], "big")
        found.append(png[place : place + size])
        place += size
    return found


def interlaced_depth(units):
    """A 16-bit grey PNG in the seven passes of Adam7, which Pillow reads but does not write."""
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)]  # fmt: skip
    passes = (units[top::down, left::right] for top, left, down, right in starts)
    lines = (b"\0" + row.astype(">u2").tobytes() for one in passes if one.size for row in one)
    body, (height, width) = zlib.compress(b"".join(lines)), units.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 1)
    parts = [chunk(b"IDAT", body[place : place + 64]) for place in range(0, len(body), 64)]
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *parts, chunk(b"IEND", b"")]
    )  # fmt: skip


UNITS, RGB = depth_units(SIZE), picture(SIZE)
PNGS = {
    "depth": encoded(UNITS, "PNG"),
    "interlaced depth": interlaced_depth(UNITS),
    "RGB": encoded(RGB, "PNG"),
    "palette": encoded(RGB, "PNG", mode="P"),
    "alpha": encoded(RGB, "PNG", mode="RGBA"),
}
OTHERS = {
    "jpg": encoded(RGB, "JPEG"),
    "progressive.jpg": encoded(RGB, "JPEG", progressive=True),
    "best.jpg": encoded(RGB, "JPEG", quality=100, subsampling=0),
    "bmp": encoded(RGB, "BMP"),
    "webp": encoded(RGB, "WEBP", lossless=True),
    "tif": encoded(RGB, "TIFF"),
    "lzw.tif": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "ppm": encoded(RGB, "PPM"),
}


def read(path, name):
    if "depth" in name:
        return read_depth_png(path, units_per_metre=256)
    return np.asarray(read_image(path))


@cache
def expected(path, name):
    """The picture of a good file."""
    path.write_bytes((PNGS | OTHERS)[name])
    return read(path, name)


def same_or_refused(path, name, data):
    """Whether `data` is refused by its name; else it must be the picture called `name`, exactly."""
    good = expected(path, name)
    path.write_bytes(data)
    try:
        found = read(path, name)
    except DataError as error:
        assert path.name in str(error)
        return True
    np.testing.assert_array_equal(found, good)
    return False


def test_the_good_files_are_read_as_they_were_written(folder):
    for name in ("depth", "interlaced depth"):
        (folder / "good.png").write_bytes(PNGS[name])
        np.testing.assert_array_equal(read(folder / "good.png", name), UNITS / np.float32(256))


@pytest.mark.parametrize("name", PNGS)
@fuzz(120)
@given(data=st.data())
def test_a_damaged_png_is_itself_or_refused(folder, name, data):
    """(row 37) Bytes of any place, or whole chunks taken out, doubled or moved."""
    good = PNGS[name]
    if data.draw(st.booleans()):
        parts = chunks(good)
        one, other = (data.draw(st.integers(0, len(parts) - 1)) for _ in "ab")
        taken = parts.pop(one)
        parts[other:other] = data.draw(st.sampled_from([[], [taken], [taken, taken]]))
        bad = good[:8] + b"".join(parts)
    else:
        bad = data.draw(damaged(good))
    same_or_refused(folder / "damaged.png", name, bad)


@pytest.mark.parametrize("name", OTHERS)
def test_a_picture_cut_off_anywhere_is_refused(folder, name):
    """(row 36) Cut at every byte: never a picture with a grey lower half."""
    good = OTHERS[name]
    path = folder / f"cut.{name}"
    refused = [same_or_refused(path, name, good[:size]) for size in range(len(good))]
    assert all(refused[: len(good) - 16])  # nothing of the picture is in the last bytes of some


@pytest.mark.parametrize("name", ["jpg", "progressive.jpg", "best.jpg"])
def test_a_jpeg_filled_up_with_zeros_is_refused(folder, name):
    """What is left of a download that was interrupted after its space had been taken."""
    good = OTHERS[name]
    for size in range(2, len(good) - 2, 4):
        data = good[:size] + bytes(len(good) - size)
        assert same_or_refused(folder / f"zeros.{name}", name, data)


@pytest.mark.parametrize("name", OTHERS)
@fuzz(80)
@given(data=st.data())
def test_a_damaged_picture_of_another_format_raises_nothing_else(folder, name, data):
    """These formats have no checksums: a changed byte may be another picture, and nobody can know.
    It is a whole one then, of the size that it says."""
    path = folder / f"damaged.{name}"
    path.write_bytes(data.draw(damaged(OTHERS[name])))
    try:
        image = decode_picture(path)
    except DataError as error:
        assert path.name in str(error)
    else:
        assert np.asarray(image).shape[:2] == (image.height, image.width)


# --- calibration, predictions, the authors' files ------------------------------------------------

NUMBERS = soup(
    b"\n", b"\n", b" ", b" ", b"0 ", b"1 ", b"-1 ", b"0.5 ", b"nan ", b"1e999 ", b"P_rect_02: ",
    b"1e200 ", b"-1e200 ", b"1e200 1e200 0 0 1e200 -1e200 0 0 0 0 1 0",
    b"P_rect_03:", b"1 0 0 0 0 1 0 0 0 0 1 0", b"721.5 0 609.5 0 721.5 172.8 0 0 1",
    b"P_rect_02: 721.5 0 609.5 44.8 0 721.5 172.8 0.2 0 0 1 0.003\n", b"frame cameraID\n",
    b"0 0 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n",
)  # fmt: skip


@fuzz(150)
@given(text=NUMBERS)
@example(b"1e200 1e200 0 0 1e200 -1e200 0 0 0 0 1 0")
def test_a_calibration_is_finite_numbers_or_refused(folder, text):
    path = folder / "calibration.txt"
    path.write_bytes(text)
    for reader in (calibration.projection_matrices, calibration.read_poses,
                   calibration.read_extrinsics, calibration.read_camera_matrix):  # fmt: skip
        try:
            found = reader(path)
        except DataError as error:
            assert "calibration.txt" in str(error)
            continue
        for matrix in found.values() if isinstance(found, dict) else [found]:
            assert np.isfinite(matrix).all()


@fuzz(100)
@given(data=damaged(PNGS["depth"]), said=soup(b"{", b"}", b'"units_per_metre":', b"256", b"NaN"))
@example(data=PNGS["depth"], said=b'{"units_per_metre": 256.0}')
def test_predictions_are_read_or_refused(folder, data, said):
    place = folder / "predictions"
    place.mkdir(exist_ok=True)
    (place / "frame.png").write_bytes(data)
    (place / DESCRIPTION).write_bytes(said)
    try:
        depth = PredictionFolder(place, units_per_metre=256).depth("frame.jpg", SIZE)
    except DataError as error:
        assert str(place) in str(error)
    else:
        np.testing.assert_array_equal(depth, UNITS / np.float32(256))


@pytest.fixture(scope="module")
def authors(folder):
    return Authors(folder)


@fuzz(25)
@given(data=st.data())
def test_a_damaged_file_of_the_authors_is_the_same_network_or_refused(folder, authors, data):
    bad = folder / "damaged.pth"
    bad.write_bytes(data.draw(damaged(authors.files["depth"].read_bytes())))
    try:
        network = authors.imported(depth=bad)
    except NetworkError as error:
        assert "damaged.pth" in str(error)
    else:
        good = authors.imported().state_dict()
        assert all(torch.equal(value, good[key]) for key, value in network.state_dict().items())


def archive():
    buffer = io.BytesIO()
    np.savez(buffer, log_uncertainty=np.ones(SIZE, np.float32))
    return buffer.getvalue()


@fuzz(100)
@given(data=damaged(archive()))
@example(archive()[:50])
def test_damaged_uncertainty_is_itself_or_none_or_refused(folder, data):
    place = folder / "uncertainty"
    place.mkdir(exist_ok=True)
    (place / "frame.png").write_bytes(PNGS["depth"])
    (place / "frame.npz").write_bytes(data)
    try:
        values = PredictionFolder(place, units_per_metre=256).log_uncertainty("frame.jpg", SIZE)
    except DataError as error:
        assert str(place) in str(error)
    else:
        assert values is None or (values == 1).all()


def test_one_picture_in_two_spellings_is_one_frame(tmp_path):
    (tmp_path / "train.txt").write_text("a//b.jpg\n./a/b.jpg\n")
    with pytest.raises(DataError, match="listed twice: a/b"):
        RgbdList(tmp_path, "train", depth_scale=1000)
