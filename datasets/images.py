"""Unlabelled pictures: a folder of any layout, or a list. Ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path, PurePosixPath

from datasets import protocol, splits
from datasets.frame import UNKNOWN_INTRINSICS, DataError, Frame, read_image
from datasets.options import check_variant, refuse_depth_scale
from datasets.sizes import stored_size

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})


class ImageFolder:
    """Every picture under `root`, sorted by path; no ground truth, intrinsics unknown (NaN).

    Splits: "all", every picture in the folder and its subfolders, hidden ones left out; or a list
    file (see `splits.find_list`), one path a line relative to `root`, in which names may contain
    spaces. Ids are the relative paths, with forward slashes. The folder of a picture is its scene.
    """

    held_out_scenes: frozenset[str] = frozenset()
    without_ground_truth: frozenset[str] = frozenset()
    prediction_units = 256.0

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        variant: str | None = None,
        depth_scale: float | None = None,
    ):
        """Find the pictures; opens none.

        Raises DataError on a variant, a `depth_scale`, an unknown split, a bad list, no pictures.
        """
        check_variant("images", variant, ())
        refuse_depth_scale("images", depth_scale, "there is no depth; see dataset 'rgbd'")
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"images root {self.root}: no such folder")
        path = splits.find_list(self.root, split)
        if path is not None:
            # no separator occurs in a line, so a name keeps its spaces
            rows = splits.read_list(path, columns=(1,), separator="\n")
            names = [str(PurePosixPath(row[0])) for row in rows]
            for name in names:
                splits.inside(self.root, name, source=path)
        elif split == "all":
            names = pictures_below(self.root)
        else:
            raise DataError(
                f"no list {split}.txt in {self.root}/splits or {self.root}; a folder of pictures "
                "has the split 'all', and those of its list files"
            )
        self.frame_ids = tuple(names)
        splits.check_unique(self.frame_ids, path or self.root)

    def __len__(self) -> int:
        return len(self.frame_ids)

    @cached_property
    def depth_size(self) -> tuple[int, int]:
        """(H, W) of the first picture: there is no depth, but every dataset has a size."""
        return stored_size(self.paths(0)["image"])

    def frame(self, index: int) -> Frame:
        """Picture `index` in its stored size. Raises DataError on a missing or damaged file."""
        image = read_image(self.paths(index)["image"])
        return Frame(self.frame_ids[index], image, UNKNOWN_INTRINSICS.copy())

    def paths(self, index: int) -> dict[str, Path]:
        """The file of picture `index`: "image"."""
        return {"image": self.root / self.frame_ids[index]}

    @staticmethod
    def scene_of(frame_id: str) -> str:
        """The folder of the picture."""
        return str(PurePosixPath(frame_id).parent)

    def protocols(self, max_depth: float) -> tuple[protocol.EvalProtocol, ...]:
        """Whole frames, up to `max_depth` metres: what a prediction would be scored on."""
        return (protocol.plain(max_depth),)

    def ground_truths(self, index: int) -> dict[str, Callable]:
        """None: pictures have no depth."""
        return {}


def pictures_below(root: Path) -> list[str]:
    """Relative paths of all pictures under `root`, sorted; links are followed, each folder once.

    Hidden files and folders are left out. Raises DataError if there is none.
    """
    names: list[str] = []
    visited: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        # sorted: a folder reached by two links is always found under the same name
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = Path(folder).relative_to(root)
        names += [
            (relative / name).as_posix()
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    if not names:
        raise DataError(f"images root {root}: no pictures ({', '.join(sorted(SUFFIXES))}) in it")
    return sorted(names)
