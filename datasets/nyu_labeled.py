"""Extract the official labelled NYU Depth v2 file into pictures and 16-bit depth.

Source of the format: the MATLAB 7.3 file nyu_depth_v2_labeled.mat (Silberman et al., ECCV 2012),
which is HDF5 with axes reversed, and splits.mat of the same page, an older MATLAB file.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.frame import DataError
from datasets.measure import progress
from datasets.verify import Finding

NUM_FRAMES = {"all": 1449, "train": 795, "test": 654}
SIZE = (480, 640)
FARTHEST_MM = 65_535


def extract(
    mat: Path, folder: Path, *, workers: int, force: bool = False
) -> tuple[list[str], list[Finding]]:
    """Write rgb_00001.png, raw_depth_00001.png and filled_depth_00001.png of every frame.

    Depth is 16-bit, millimetres, 0 = none; raw has the sensor's holes, filled is in-painted.
    Pictures are lossless and whole, white border included. Numbers are the official ones, from 1.

    Args:
        mat: nyu_depth_v2_labeled.mat.
        folder: where to write; made if missing. Frames that are all there are kept unless `force`.
        workers: threads that compress.

    Returns:
        The scene of each frame, and findings about counts and sizes.

    Raises:
        DataError: h5py is missing, the file is not what it says, or nothing can be written.
    """
    h5py = _module("h5py", mat)
    try:
        with h5py.File(mat, "r") as file:
            _check_layout(file, mat)
            scenes = [_text(file, reference) for reference in np.ravel(file["scenes"][()])]
            _make(folder)
            write = partial(_write_frame, file, folder, force)
            with ThreadPoolExecutor(max(workers, 1)) as pool:
                done = pool.map(write, range(len(scenes)))
                clipped = sum(progress(done, len(scenes), "extracting"))
    except OSError as error:
        raise DataError(
            f"{mat} cannot be read as a MATLAB 7.3 (HDF5) file: {error}. A broken download (2.8 GB "
            "are expected; a web page saved under this name is common)"
        ) from error
    findings = [_count("all", len(scenes))]
    if clipped:
        message = f"{clipped:,} depths beyond {FARTHEST_MM / 1000} m or not finite are stored as 0"
        findings.append(Finding("warning", "units", message))
    return scenes, findings


def official_halves(mat: Path, num_frames: int) -> tuple[dict[str, list[int]], list[Finding]]:
    """Official frame numbers, from 1, of "train" (795) and "test" (654), from splits.mat.

    Raises DataError: scipy is missing, the file is not what it says, or its numbers overlap or are
    not among `num_frames` frames.
    """
    loadmat = _module("scipy.io", mat).loadmat
    try:
        content = loadmat(mat)
        halves = {
            name: sorted(int(number) for number in np.ravel(content[key]))
            for name, key in (("train", "trainNdxs"), ("test", "testNdxs"))
        }
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise DataError(f"{mat} is not NYU's splits.mat (trainNdxs, testNdxs): {error}") from error
    numbers = halves["train"] + halves["test"]
    if len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(1, num_frames + 1)):
        raise DataError(
            f"{mat}: its numbers repeat, or are not among the {num_frames} frames of the labelled "
            "file; the two files do not belong together"
        )
    return halves, [_count(name, len(half)) for name, half in halves.items()]


def _module(name: str, path: Path):
    """An optional dependency, imported where it is used: nobody else needs it."""
    try:
        return __import__(name, fromlist=["*"])
    except ImportError as error:
        package = name.partition(".")[0]
        raise DataError(f"reading {path} needs {package}: pip install {package}") from error


def _check_layout(file, mat: Path) -> None:
    absent = {"images", "depths", "rawDepths", "scenes"} - set(file)
    if absent:
        raise DataError(f"{mat} has no {', '.join(sorted(absent))}: not the labelled NYU file")
    num_frames = file["scenes"].size
    reversed_size = SIZE[::-1]  # MATLAB is column-major, so HDF5 shows W before H
    expected = {
        "images": (num_frames, 3, *reversed_size),
        "depths": (num_frames, *reversed_size),
        "rawDepths": (num_frames, *reversed_size),
    }
    for key, shape in expected.items():
        if file[key].shape != shape:
            raise DataError(f"{mat}: {key} has shape {file[key].shape}, expected {shape}")


def _text(file, reference) -> str:
    """A MATLAB string; as the name of a scene it becomes a column of a list."""
    name = "".join(chr(code) for code in np.ravel(file[reference][()]))
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise DataError(f"scene name {name!r} in the labelled file is not a name")
    return name


def _write_frame(file, folder: Path, force: bool, index: int) -> int:
    """Write the three files of a frame; returns how many depths could not be stored."""
    arrays = {"rgb": "images", "raw_depth": "rawDepths", "filled_depth": "depths"}
    paths = {key: folder / f"{name}_{index + 1:05d}.png" for name, key in arrays.items()}
    if not force and all(path.is_file() for path in paths.values()):
        return 0
    clipped = 0
    for key, path in paths.items():
        array = file[key][index].T  # (3, W, H) or (W, H) -> (H, W, 3) or (H, W)
        if key != "images":
            millimetres = np.rint(array.astype(np.float64) * 1000)
            fits = np.isfinite(millimetres) & (millimetres >= 0) & (millimetres <= FARTHEST_MM)
            clipped += int((~fits).sum())
            array = np.where(fits, millimetres, 0).astype(np.uint16)
        _save(path, np.ascontiguousarray(array))
    return clipped


def _save(path: Path, array: np.ndarray) -> None:
    """Write a PNG whole or not at all, so that a stopped extraction can be resumed."""
    part = path.with_suffix(".part")
    with _writing(path):
        Image.fromarray(array).save(part, format="PNG", compress_level=4)
        os.replace(part, path)


def _make(folder: Path) -> None:
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _writing(path: Path):
    # an OSError of writing must not read like one of the file we read from
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error}); choose another --out") from error


def _count(name: str, count: int) -> Finding:
    expected = NUM_FRAMES[name]
    level = "note" if count == expected else "problem"
    message = f"labelled NYU, {name}: {count:,} frames, expected {expected:,}"
    return Finding(level, "lists", message)
