"""Which drives and frames of KITTI are for what: the Eigen split, and our held-out drives.

Source: Eigen, Puhrsch and Fergus (NIPS 2014) chose the 28 test drives and the 697 test frames;
652 of those have annotated ground truth (Uhrig et al., 3DV 2017). The frames of a drive are nearly
equally spaced, so they are written here as ranges and exceptions, and tests/test_kitti.py compares
the result with the SHA-256 of the public lists.
"""

from __future__ import annotations

from pathlib import Path

from datasets.frame import DataError
from datasets.kitti_tree import CAMERAS

TRAIN_DRIVES = frozenset(
    f"{date}_drive_{number}_sync"
    for date, numbers in {
        "2011_09_26": "0001 0005 0011 0014 0015 0017 0018 0019 0022 0028 0032 0035 0039 0051 0057 "
        "0060 0061 0070 0079 0087 0091 0095 0104 0113",
        "2011_09_28": "0001",
        "2011_09_29": "0004 0026",
        "2011_09_30": "0020 0028 0033 0034",
        "2011_10_03": "0034 0042",
    }.items()
    for number in numbers.split()
)

# Ours: held out of the 33 training drives for model selection, so that nobody selects on the test
# drives. Two city drives, a residential and a road one, two dates; about 5 % of the frames.
VAL_DRIVES = frozenset(
    {
        "2011_09_26_drive_0005_sync",
        "2011_09_26_drive_0039_sync",
        "2011_09_26_drive_0070_sync",
        "2011_09_29_drive_0026_sync",
    }
)

# drive: (ranges of frame numbers, last one included: first, last, step), frames left out of them
_TEST_FRAMES = {
    "2011_09_26_drive_0002_sync": ([(0, 75, 3)], [66]),
    "2011_09_26_drive_0009_sync": ([(0, 176, 16), (196, 388, 16)], []),
    "2011_09_26_drive_0013_sync": ([(0, 140, 5)], [15, 25, 55, 75]),
    "2011_09_26_drive_0020_sync": ([(0, 84, 3)], [24, 30, 39, 81]),
    "2011_09_26_drive_0023_sync": ([(18, 468, 18)], [234]),
    "2011_09_26_drive_0027_sync": ([(0, 182, 7)], [105, 154]),
    "2011_09_26_drive_0029_sync": ([(0, 196, 14), (268, 408, 14)], [282]),
    "2011_09_26_drive_0036_sync": ([(0, 800, 32)], [736]),
    "2011_09_26_drive_0046_sync": ([(0, 120, 5)], []),
    "2011_09_26_drive_0048_sync": ([(0, 21, 1)], []),
    "2011_09_26_drive_0052_sync": ([(0, 52, 2)], [24, 34]),
    "2011_09_26_drive_0056_sync": ([(11, 286, 11)], [132]),
    "2011_09_26_drive_0059_sync": ([(0, 238, 14), (274, 372, 14)], [168]),
    "2011_09_26_drive_0064_sync": ([(0, 550, 22)], [132]),
    "2011_09_26_drive_0084_sync": ([(49, 374, 13)], [166]),
    "2011_09_26_drive_0086_sync": ([(7, 682, 27)], [547]),
    "2011_09_26_drive_0093_sync": ([(0, 256, 16), (305, 417, 16)], []),
    "2011_09_26_drive_0096_sync": ([(0, 456, 19)], []),
    "2011_09_26_drive_0101_sync": ([(80, 930, 34)], [250]),
    "2011_09_26_drive_0106_sync": ([(15, 15, 1), (35, 219, 8)], []),
    "2011_09_26_drive_0117_sync": ([(0, 650, 26)], [520]),
    "2011_09_28_drive_0002_sync": ([(0, 90, 3)], [15, 27, 42, 66, 69, 75]),
    "2011_09_29_drive_0071_sync": ([(0, 612, 36), (735, 951, 36), (1054, 1054, 1)], [843]),
    "2011_09_30_drive_0016_sync": ([(0, 275, 11)], [99]),
    "2011_09_30_drive_0018_sync": ([(0, 2247, 107), (2419, 2740, 107)], [321]),
    "2011_09_30_drive_0027_sync": ([(0, 656, 41), (753, 1081, 41)], [999]),
    "2011_10_03_drive_0027_sync": ([(0, 543, 181), (734, 4535, 181)], [2182]),
    "2011_10_03_drive_0047_sync": ([(0, 800, 32)], [256]),
}
TEST_DRIVES = frozenset(_TEST_FRAMES)

# Ground truth gathers +-5 scans, so the first and last five frames of a drive have none; these are
# the test frames without it that are not among the first five.
_TEST_WITHOUT_DEPTH = {
    "2011_09_26_drive_0002_sync": [72, 75],
    "2011_09_26_drive_0013_sync": [140],
    "2011_09_26_drive_0020_sync": [84],
    "2011_09_26_drive_0036_sync": [800],
    "2011_09_26_drive_0046_sync": [120],
    "2011_09_26_drive_0048_sync": [17, 18, 19, 20, 21],
    "2011_09_26_drive_0059_sync": [372],
    "2011_09_29_drive_0071_sync": [1054],
    "2011_09_30_drive_0016_sync": [275],
}

# SHA-256 of sorted ids (datasets.splits.list_sha256), of the lists everyone compares on
KNOWN_SHA256 = {
    "test_697": "20ee185d101cab31f5965aec446a9a725d8808f1a6ed9136fcd2a908ce1da88e",
    "test": "e886c5c31c6441181be861f648771ca2657933529c41dcdecfa083e2e8eec737",
    "train_all": "846600cb629a78dfc9a9cd4d66c65d13179c3a5af89f22e8a2a60b87926c728a",
}
KNOWN_NUM_FRAMES = {"test_697": 697, "test": 652, "train_all": 23_158}


def frame_name(drive: str, number: int, camera: str = "image_02") -> str:
    """Frame id: "<drive> <number, ten digits>", and " image_03" for the right camera."""
    return f"{drive} {number:010d}" + ("" if camera == "image_02" else f" {camera}")


def eigen_test_697() -> tuple[str, ...]:
    """Ids of the 697 Eigen test frames, sorted; 45 of them have no annotated ground truth."""
    return tuple(
        frame_name(drive, number)
        for drive, (ranges, left_out) in _TEST_FRAMES.items()
        for first, last, step in ranges
        for number in range(first, last + 1, step)
        if number not in left_out
    )


def without_ground_truth() -> frozenset[str]:
    """Ids of the 45 Eigen test frames that have no annotated ground truth in KITTI at all."""
    return frozenset(eigen_test_697()) - frozenset(eigen_test_652())


def eigen_test_652() -> tuple[str, ...]:
    """Ids of the 652 Eigen test frames that have annotated ground truth, sorted."""
    without = {
        frame_name(drive, number)
        for drive in _TEST_FRAMES
        for number in [0, 1, 2, 3, 4, *_TEST_WITHOUT_DEPTH.get(drive, [])]
    }
    return tuple(name for name in eigen_test_697() if name not in without)


def parse_line(words: list[str], source: Path) -> tuple[str, int, str]:
    """(drive, frame number, camera) of one list line in any of the three forms `Kitti` lists.

    Raises DataError, naming `source` and the line, on any other form.
    """
    if "/image_0" in words[0]:  # BTS: <date>/<drive>/image_02/data/0000000005.png ...
        parts = words[0].split("/")
        drive, camera, _, file_name = parts[-4:] if len(parts) > 3 else ("", "", "", "")
        number = Path(file_name).stem
    else:
        drive = words[0].split("/")[-1] if words[0].count("/") == 1 else words[0]
        number = words[1] if len(words) > 1 else ""
        camera = words[2] if len(words) > 2 else "l"
        camera = {"l": "image_02", "r": "image_03"}.get(camera, camera)
    numbered = number.isascii() and number.isdigit()
    if not numbered or camera not in CAMERAS or not drive or "/" in drive:
        raise DataError(
            f"{source}: line {' '.join(words)!r} is not '<drive> <frame> [image_03]', "
            "'<date>/<drive> <frame> l' nor '<date>/<drive>/image_02/data/<frame>.png ...'"
        )
    return drive, int(number), camera
