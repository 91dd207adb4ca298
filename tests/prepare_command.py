"""The command `python -m datasets.prepare` for tests, and a KITTI tree that is all well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from trees import kitti_tree, write_depth

from datasets.prepare import main

TRAIN, VAL, TEST = (f"2011_09_26_drive_{number}_sync" for number in ("0001", "0005", "0052"))
LEARN = {TRAIN: range(5, 17), VAL: range(5, 8)}  # drives of a tree that lacks the test drives


def street_metres(size: tuple[int, int]) -> np.ndarray:
    """(H, W) metres as a street has them: far above, near below, a third of the pixels measured."""
    rows, columns = np.arange(size[0])[:, None], np.arange(size[1])[None]
    metres = 6 + 30 * (1 - rows / size[0]) + 0.013 * columns
    return np.where((rows + columns) % 3 == 0, metres, 0)


def street_tree(root: Path, units_per_metre: float = 256.0, **options) -> Path:
    """`kitti_tree` with depth that is plausible if read in `units_per_metre`."""
    kitti_tree(root, **{"drives": LEARN, "cameras": ("image_02",), **options})
    for path in root.glob("**/proj_depth/*/*/*.png"):
        with Image.open(path) as stored:
            metres = street_metres((stored.height, stored.width))
        write_depth(path, np.rint(metres * units_per_metre).astype(np.uint16))
    return root


def prepare(capsys, *words) -> tuple[int, str]:
    """Exit code and everything shown."""
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def check(capsys, dataset: str, root: Path, *words) -> tuple[int, str]:
    """`prepare check`, decoding everything in this process."""
    return prepare(capsys, "check", "--dataset", dataset, "--root", root, "--decode", "all", *words)


def problems(shown: str) -> list[str]:
    """The lines of problems."""
    return [line for line in shown.splitlines() if line.lstrip().startswith("PROBLEM")]
