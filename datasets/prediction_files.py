"""Predictions as files that any evaluator of the field can read: 16-bit PNGs of metres.

Format of BTS's PNG evaluator (Lee et al., 2019): one file a frame, single channel, value = metres
times the units per metre of the dataset (KITTI 256, NYU 1000). Ours: values are rounded, where the
published writers truncate (a bias of half a unit); a value that does not fit is refused, where they
wrap around. What a PNG cannot hold (uncertainty, float32 depth) goes into an .npz beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from datasets.frame import DataError, read_depth_png
from datasets.protocol import KB_SIZE, kb_window
from datasets.sizes import stored_size
from datasets.splits import name_some

MAX_UNITS = 65535
DESCRIPTION = "predictions.json"


def png_name(frame_id: str) -> str:
    """File name of a frame's prediction: `<drive>_<frame>.png`, `<scene>_rgb_00045.png`.

    The id without the suffix of its picture, with `_` for blanks and slashes: what BTS's evaluator
    takes apart again to find the ground truth.
    """
    path = PurePosixPath(frame_id)
    stem = str(path.with_suffix("")) if path.suffix.isascii() and path.suffix else str(path)
    return stem.replace("/", "_").replace(" ", "_") + ".png"


def png_names(frame_ids: Iterable[str]) -> dict[str, str]:
    """File name by frame id. Raises DataError if two frames would share one."""
    taken: dict[str, str] = {}
    for frame_id in frame_ids:
        name = png_name(frame_id)
        if name in taken:
            raise DataError(f"frames {taken[name]!r} and {frame_id!r} would both be {name}")
        taken[name] = frame_id
    return {frame_id: name for name, frame_id in taken.items()}


def write_depth_png(path: Path, depth: np.ndarray, *, units_per_metre: float) -> None:
    """Write (H, W) metres as a 16-bit single-channel PNG, rounded to the nearest unit.

    Raises DataError, and writes nothing, if a value is NaN, negative, or beyond 65535 units.
    """
    units = depth_units(depth, units_per_metre=units_per_metre, where=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(units).save(path, compress_level=1)  # the default takes three times as long


def depth_units(depth: np.ndarray, *, units_per_metre: float, where: str | Path) -> np.ndarray:
    """(H, W) metres -> uint16 units, rounded; `where` leads the message.

    A depth above zero never becomes 0, which would say that there is none.
    Raises DataError if a value is NaN, negative, or beyond 65535 units.
    """
    # float64: in float32 a metre's thousandth would be rounded twice
    units = np.rint(np.multiply(depth, units_per_metre, dtype=np.float64))
    if not (units.min() >= 0 and units.max() <= MAX_UNITS):  # NaN is neither
        raise DataError(
            f"{where}: depth from {np.min(depth):g} to {np.max(depth):g} m does not fit into 16 "
            f"bits at {units_per_metre:g} units a metre, at most "
            f"{MAX_UNITS / units_per_metre:.3f} m; clip it, or use fewer units a metre"
        )
    units = units.astype(np.uint16)
    units[(units == 0) & (depth > 0)] = 1
    return units


def write_description(folder: Path, values: dict) -> None:
    """Write predictions.json: how the files of `folder` were made, `units_per_metre` above all."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).write_text(json.dumps(values, indent=2) + "\n")


class PredictionFolder:
    """Depth PNGs made by anyone, found by frame id in a folder and its subfolders.

    PNGs that are no frame's (the coloured depth that BTS writes, say) may lie beside them. An .npz
    of the same name may hold `log_uncertainty` (H, W), larger = less sure.

    Attributes:
        units_per_metre: of the PNGs.
        description: what predictions.json says, or {}.
    """

    def __init__(self, folder: str | Path, *, units_per_metre: float):
        """Index the files of `folder`; opens no picture.

        Args:
            units_per_metre: what the dataset's predictions are written in.

        Raises:
            DataError: no such folder, no PNG in it, or predictions.json says another unit.
        """
        self.folder = Path(folder)
        self.units_per_metre = units_per_metre
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: no such folder of predictions")
        self._files: dict[str, list[Path]] = {}
        for path in sorted(self.folder.rglob("*.png")):
            self._files.setdefault(path.name, []).append(path)
        if not self._files:
            raise DataError(f"{self.folder}: no PNG in it; predictions are 16-bit PNGs of depth")
        self.description = self._read_description()

    @property
    def has_uncertainty(self) -> bool:
        """Whether an .npz lies beside any PNG."""
        paths = (path for paths in self._files.values() for path in paths)
        return any(path.with_suffix(".npz").is_file() for path in paths)

    def has(self, frame_id: str) -> bool:
        """Whether there is a PNG of a frame."""
        return png_name(frame_id) in self._files

    def is_window(self, frame_id: str) -> bool:
        """Whether a frame's prediction is KITTI's 352 x 1216 window, whatever the frame's size."""
        return stored_size(self._path(frame_id)) == KB_SIZE

    def check_complete(self, frame_ids: Iterable[str]) -> list[str]:
        """Raise DataError unless each frame has one prediction. Returns the files of no frame."""
        names = png_names(frame_ids)
        if missing := sorted(set(names.values()) - self._files.keys()):
            there = sorted(self._files)
            raise DataError(
                f"{len(missing)} of {len(names)} predictions are missing in {self.folder}: "
                f"{name_some(missing)}. Files there are called {name_some(there)}"
            )
        for frame_id in names:
            self._path(frame_id)
        return sorted(self._files.keys() - set(names.values()))

    def depth(self, frame_id: str, size: tuple[int, int]) -> np.ndarray:
        """(H, W) float32 metres of a frame whose ground truth has `size`.

        A file of KITTI's 352 x 1216 is set into a frame of NaN where it was cut from, bottom
        centre: a protocol that looks outside it has nothing to score.
        Raises DataError on any other size, and on anything but a 16-bit single-channel PNG.
        """
        path = self._path(frame_id)
        depth = read_depth_png(path, units_per_metre=self.units_per_metre)
        return _at_size(depth, size, path)

    def log_uncertainty(self, frame_id: str, size: tuple[int, int]) -> np.ndarray | None:
        """(H, W) float32, larger = less sure, of the .npz beside the PNG; None if there is none."""
        path = self._path(frame_id).with_suffix(".npz")
        if not path.is_file():
            return None
        try:
            # opened here: of a damaged file NumPy leaves its own open
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                values = arrays.get("log_uncertainty")
        except Exception as error:  # a damaged archive fails in ways of its own
            raise DataError(f"{path}: cannot be read ({error})") from error
        if values is None:
            return None
        if values.ndim != 2 or values.dtype.kind != "f":
            raise DataError(
                f"{path}: log_uncertainty is {values.dtype} of shape {values.shape}; it must be "
                "floating point, (H, W)"
            )
        return _at_size(values.astype(np.float32), size, path)

    def _path(self, frame_id: str) -> Path:
        """The PNG of a frame. Raises DataError if two have its name."""
        first, *others = self._files[png_name(frame_id)]
        if others:
            raise DataError(f"{others[0]} and {first}: two predictions of one name; remove one")
        return first

    def _read_description(self) -> dict:
        path = self.folder / DESCRIPTION
        if not path.is_file():
            return {}
        try:
            values = json.loads(path.read_text())
            units = float(values["units_per_metre"])
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            raise DataError(f"{path}: does not say units_per_metre ({error})") from error
        if units != self.units_per_metre:
            raise DataError(
                f"{path}: these predictions have {units:g} units a metre, the dataset's have "
                f"{self.units_per_metre:g}; write them again in the dataset's unit"
            )
        return values


def _at_size(values: np.ndarray, size: tuple[int, int], path: Path) -> np.ndarray:
    if values.shape == tuple(size):
        return values
    height, width = size
    is_kitti = height >= KB_SIZE[0] and width >= KB_SIZE[1]
    if values.shape != KB_SIZE or not is_kitti:
        raise DataError(
            f"{path}: {values.shape[0]} x {values.shape[1]} pixels, but the ground truth has "
            f"{height} x {width}; write predictions at its stored size"
            + (" or as the 352 x 1216 window of KITTI" if is_kitti else "")
        )
    top, left = kb_window(height, width)
    full = np.full(size, np.nan, values.dtype)
    full[top : top + KB_SIZE[0], left : left + KB_SIZE[1]] = values
    return full
