"""Where the files of the NYU variants lie, and how each writes depth.

Sources: BTS (Lee et al., 2019), DenseDepth (Alhashim and Wonka, 2018) for what they distribute; the
`labeled` layout is ours.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from datasets import splits
from datasets.frame import DataError, decode_picture, read_depth_png

MILLIMETRES = 1000.0  # units per metre
EIGHT_BIT_UNITS = 25.5  # 255 = 10 m, so one step is 39 mm

# Kinect depth outside is unreliable: it is the part that BTS crops away for training. There it is
# no ground truth; the picture keeps its size. Test ground truth is never touched.
TRAIN_DEPTH_BOX = (45, 472, 43, 608)  # rows 45:472, columns 43:608

BTS_TRAIN = ("sync", "nyu_depth_v2/sync", ".")  # "." where the root is the sync folder itself
BTS_TEST = ("official_splits/test", "nyu_depth_v2/official_splits/test")
DENSEDEPTH_FOLDERS = ("data", ".")
LABELED_FOLDERS = ("labeled", ".")

Entry = tuple[str, Path, Path | None]  # frame id, picture, depth


@dataclass(frozen=True)
class Variant:
    """One form of NYU.

    Attributes:
        listed: (root, list file) -> entries, in file order.
        found: (root, "train_all" | "test" | "all") -> entries in the tree, None: no such split.
        read_depth: depth file -> (480, 640) float32 metres, 0 = none.
    """

    listed: Callable[[Path, Path], list[Entry]]
    found: Callable[[Path, str], list[Entry] | None]
    read_depth: Callable[[Path], np.ndarray]


def other_depths(variant: str, path: Path) -> dict[str, Path]:
    """Files of the other kind of ground truth, by variant: filled beside raw, raw beside filled."""
    kinds = {"labeled": "raw_depth", "labeled_filled": "filled_depth"}
    if variant not in kinds:
        return {}
    others = {
        name: path.with_name(path.name.replace(kinds[variant], kind))
        for name, kind in kinds.items()
        if name != variant
    }
    return {name: file for name, file in others.items() if file.is_file()}


def scene_of(frame_id: str) -> str:
    """The room: kitchen_0028 for kitchen_0028a/..., kitchen_0028b/... and .../kitchen_0028_out/...

    Recordings a, b, ... of one number show one place.
    """
    folder = frame_id.rpartition("/")[0].rpartition("/")[2]
    return re.sub(r"(\d)[a-z]$", r"\1", folder.removesuffix("_out"))


def is_held_out(scene: str) -> bool:
    """Ours: one scene in 20, by a hash of its name, is for validation, whatever the tree holds."""
    return int(hashlib.sha256(scene.encode()).hexdigest(), 16) % 20 == 0


def _bts_listed(root: Path, path: Path) -> list[Entry]:
    entries: list[Entry] = []
    for words in splits.read_list(path, columns=(1, 2, 3, 4)):
        # BTS writes "/scene/rgb_00045.jpg": one slash too many, dropped here and nowhere else
        image, *depth = (word.removeprefix("/") for word in words[:2])
        scene = splits.inside(root, image, source=path).relative_to(root).parts[0]
        folder = next(
            (base for name in (*BTS_TRAIN, *BTS_TEST) if (base := root / name / scene).is_dir()),
            root / BTS_TRAIN[0] / scene,
        ).parent
        entries.append(
            (image, folder / image, splits.inside(folder, depth[0], source=path) if depth else None)
        )
    return entries


def _bts_found(root: Path, split: str) -> list[Entry] | None:
    folders = {"train_all": BTS_TRAIN, "test": BTS_TEST}.get(split)
    if folders is None:
        return None
    entries: list[Entry] = []
    for base in (root / name for name in folders):
        for folder in sorted(base.glob("*/")):
            names = set(os.listdir(folder)) if folder.is_dir() else set()
            for name in sorted(names):
                depth = name.replace("rgb_", "sync_depth_").replace(".jpg", ".png")
                if name.startswith("rgb_") and name.endswith(".jpg") and depth in names:
                    entries.append((f"{folder.name}/{name}", folder / name, folder / depth))
        if entries:
            break
    return entries


def _bts_depth(path: Path) -> np.ndarray:
    depth = read_depth_png(path, units_per_metre=MILLIMETRES)
    return depth if "official_splits" in path.parts else _boxed(depth, path)


def _densedepth_listed(root: Path, path: Path) -> list[Entry]:
    base = _first_folder(root, DENSEDEPTH_FOLDERS, "nyu2_*")
    separator = "," if path.suffix == ".csv" else None
    entries: list[Entry] = []
    for words in splits.read_list(path, columns=(1, 2), separator=separator):
        image, *depth = (word.removeprefix("data/") for word in words)
        depth_path = splits.inside(base, depth[0], source=path) if depth else None
        entries.append((image, splits.inside(base, image, source=path), depth_path))
    return entries


def _densedepth_found(root: Path, split: str) -> list[Entry] | None:
    base = _first_folder(root, DENSEDEPTH_FOLDERS, "nyu2_*")
    if split == "train_all":
        # frames are numbered without leading zeros: sort 2 before 10
        pictures = sorted(
            base.glob("nyu2_train/*/*.jpg"),
            key=lambda path: (path.parent.name, len(path.name), path),
        )
        pairs = [(path, path.with_suffix(".png")) for path in pictures]
    elif split == "test":
        pictures = sorted(base.glob("nyu2_test/*_colors.png"))
        pairs = [
            (path, path.with_name(path.name.replace("_colors", "_depth"))) for path in pictures
        ]
    else:
        return None
    return [(path.relative_to(base).as_posix(), path, depth) for path, depth in pairs]


def _densedepth_depth(path: Path) -> np.ndarray:
    if "nyu2_test" in path.parts:
        return read_depth_png(path, units_per_metre=MILLIMETRES)
    # The one exception to "depth is 16-bit": these training files are 8-bit, and a 16-bit file
    # among them would be of another distribution with another scale.
    image = decode_picture(path)
    if image.mode != "L":
        raise DataError(
            f"{path}: DenseDepth's training depth is 8-bit grey (mode 'L'), this one has mode "
            f"{image.mode!r}; is this another variant of NYU?"
        )
    return _boxed(np.asarray(image, np.float32) / np.float32(EIGHT_BIT_UNITS), path)


def _labeled_listed(root: Path, path: Path, *, depth_name: str) -> list[Entry]:
    entries: list[Entry] = []
    for index, *scene in splits.read_list(path, columns=(1, 2)):
        if not (index.isascii() and index.isdigit()):
            raise DataError(f"{path}: line {index!r} is not '<official index 1..1449> [<scene>]'")
        splits.inside(root, scene[0] if scene else index, source=path)
        entries.append(
            _labeled_entry(root, int(index), scene[0] if scene else "labeled", depth_name)
        )
    return entries


def _labeled_found(root: Path, split: str, *, depth_name: str) -> list[Entry] | None:
    if split != "all":
        return (
            None  # the 795 / 654 split is in splits.mat, which `datasets.prepare` turns into lists
        )
    base = _first_folder(root, LABELED_FOLDERS, f"{depth_name}_*.png")
    numbers = sorted(
        int(path.stem.rpartition("_")[2]) for path in base.glob(f"{depth_name}_[0-9]*.png")
    )
    return [_labeled_entry(root, number, "labeled", depth_name) for number in numbers]


def _labeled_entry(root: Path, number: int, scene: str, depth_name: str) -> Entry:
    base = _first_folder(root, LABELED_FOLDERS, f"{depth_name}_*.png")
    image = base / f"rgb_{number:05d}.jpg"
    image = image if image.is_file() else image.with_suffix(".png")
    return f"{scene}/rgb_{number:05d}", image, base / f"{depth_name}_{number:05d}.png"


def _first_folder(root: Path, names: tuple[str, ...], pattern: str) -> Path:
    """The first of the folders that holds something of this name; the first one if none does."""
    folders = [root / name for name in names]
    return next((folder for folder in folders if any(folder.glob(pattern))), folders[0])


def _boxed(depth: np.ndarray, path: Path) -> np.ndarray:
    if depth.shape != (480, 640):
        raise DataError(f"{path}: {depth.shape} pixels, but NYU depth is 480 x 640")
    top, bottom, left, right = TRAIN_DEPTH_BOX
    boxed = np.zeros_like(depth)
    boxed[top:bottom, left:right] = depth[top:bottom, left:right]
    return boxed


def _labeled(depth_name: str) -> Variant:
    return Variant(
        partial(_labeled_listed, depth_name=depth_name),
        partial(_labeled_found, depth_name=depth_name),
        partial(read_depth_png, units_per_metre=MILLIMETRES),
    )


VARIANTS = {
    "bts": Variant(_bts_listed, _bts_found, _bts_depth),
    "densedepth": Variant(_densedepth_listed, _densedepth_found, _densedepth_depth),
    "labeled": _labeled("raw_depth"),
    "labeled_filled": _labeled("filled_depth"),
}
