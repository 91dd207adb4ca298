"""The submission of KITTI's depth prediction benchmark: 500 PNGs in the root of one zip.

Format: 0000000000.png to 0000000499.png, 16-bit single-channel, metres x 256, each as large as its
picture of test_depth_prediction_anonymous (352 x 1216), 0 = no estimate. The server answers a wrong
archive with "couldn't read" and counts the attempt, so it is checked here first.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.frame import DataError
from datasets.images import ImageFolder
from datasets.prediction_files import depth_units
from datasets.protocol import KB_SIZE
from datasets.sizes import stored_size
from datasets.splits import name_some

NUM_IMAGES = 500
NAMES = tuple(f"{number:010d}.png" for number in range(NUM_IMAGES))
UNITS_PER_METRE = 256.0


def server_images(folder: str | Path) -> ImageFolder:
    """The 500 pictures of test_depth_prediction_anonymous/image, in order.

    Raises DataError unless exactly those are in `folder`, each of 352 x 1216 pixels.
    """
    dataset = ImageFolder(folder, "all")
    if missing := sorted(set(NAMES) - set(dataset.frame_ids)):
        raise DataError(
            f"{folder}: {len(missing)} of the {NUM_IMAGES} pictures of "
            f"test_depth_prediction_anonymous/image are missing: {name_some(missing)}"
        )
    if foreign := sorted(set(dataset.frame_ids) - set(NAMES)):
        raise DataError(f"{folder}: {len(foreign)} pictures are not of them: {name_some(foreign)}")
    for index, name in enumerate(dataset.frame_ids):
        if (size := stored_size(dataset.paths(index)["image"])) != KB_SIZE:
            raise DataError(f"{folder}/{name}: {size[0]} x {size[1]} pixels, not 352 x 1216")
    return dataset


def write_server_zip(path: Path, depths: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write the archive and check it; it only appears under its name when it is right.

    Args:
        depths: (picture name, (352, 1216) metres).

    Raises:
        DataError: what `check_server_zip` finds, or depth that does not fit into 16 bits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        # PNGs are compressed already
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name, depth in depths:
                content = io.BytesIO()
                units = depth_units(depth, units_per_metre=UNITS_PER_METRE, where=name)
                Image.fromarray(units).save(content, format="PNG", compress_level=1)
                archive.writestr(name, content.getvalue())
        check_server_zip(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_server_zip(path: Path) -> None:
    """Raise DataError unless the archive is what the server reads.

    500 files by name, in its root, nothing else; each a 16-bit single-channel PNG of 352 x 1216
    with an estimate at every pixel.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if sorted(names) != list(NAMES):
                wrong = sorted(set(names) ^ set(NAMES)) or ["one of them twice"]
                raise DataError(
                    f"{path}: must hold {NAMES[0]} to {NAMES[-1]} and nothing else, in its root; "
                    f"{len(wrong)} are missing or foreign: {name_some(wrong)}"
                )
            for name in names:
                _check_picture(f"{path}, {name}", archive.read(name))
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: not a readable zip archive ({error})") from error


def _check_picture(where: str, content: bytes) -> None:
    with Image.open(io.BytesIO(content)) as image:
        units = np.asarray(image)
    if units.dtype != np.uint16 or units.shape != KB_SIZE:
        raise DataError(f"{where}: {units.dtype} of {units.shape}, not 16-bit of {KB_SIZE}")
    if not units.all():
        raise DataError(f"{where}: {np.count_nonzero(units == 0)} pixels have no estimate (0)")
