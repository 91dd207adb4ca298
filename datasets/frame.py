"""One frame as it lies on disk, and the two readers every dataset goes through.

A reader never repairs: a truncated, oversized or wrongly typed file is a `DataError` that names it.
"""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

MAX_PIXELS = 50_000_000  # a KITTI frame has 0.5 million; beyond this a file is a mistake or a bomb
DEPTH_MODES = ("I;16", "I;16B", "I")  # how Pillow names single-channel 16-bit PNGs
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # single-channel, over 8 bits
# Pillow tells formats by content, whatever the name says, and some of its forty start programs
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


class DataError(ValueError):
    """Data, or a request for data, that cannot be used. The message names file and remedy."""


class SourceView(NamedTuple):
    """Another picture of a frame's scene: of the other camera, or of another instant.

    Attributes:
        image: RGB picture in its stored size.
        intrinsics: (3, 3) float64 camera matrix in pixels of `image`.
        pose: (4, 4) float64 metres, coordinates in the frame's camera -> in this one; all NaN when
            unknown.
    """

    image: Image.Image
    intrinsics: np.ndarray
    pose: np.ndarray


@dataclass(frozen=True)
class Frame:
    """One camera frame in its stored size.

    Attributes:
        frame_id: name of the frame in split lists, metrics and messages.
        image: RGB picture, H x W pixels.
        intrinsics: (3, 3) float64 camera matrix in pixels of `image`; all NaN when unknown.
        load_depth: reads the ground truth, (H, W) float32 metres, 0 = none; None when unlabelled.
            It is called only where depth is needed, so unlabelled streams never open a depth file.
        load_sources: reads other pictures of the same scene, for self-supervision; see
            `datasets.source_views`. None where nobody asked for them.
        is_placed: whether `image` and `intrinsics` are cropped and resized already, as a view would
            do it; see `datasets.cache`.
    """

    frame_id: str
    image: Image.Image
    intrinsics: np.ndarray
    load_depth: Callable[[], np.ndarray] | None = None
    load_sources: Callable[[], list[SourceView | None]] | None = None
    is_placed: bool = False

    def depth(self) -> np.ndarray:
        """Ground truth, (H, W) float32 metres, 0 = none. Raises DataError if unlabelled."""
        if self.load_depth is None:
            raise DataError(f"frame {self.frame_id!r} has no ground-truth depth")
        return self.load_depth()


UNKNOWN_INTRINSICS = np.full((3, 3), np.nan)


def read_image(path: Path) -> Image.Image:
    """Decode a picture as RGB.

    Raises DataError if it is missing, damaged, over MAX_PIXELS, or has one channel of over 8 bits:
    as RGB its values above 255 would all be white.
    """
    image = decode_picture(path)
    if image.mode in DEEP_MODES:
        raise DataError(
            f"{path}: has one channel of more than 8 bits (mode {image.mode!r}), so it is a "
            "depth map or a raw image, not a photograph; leave it out, or save it as 8-bit grey"
        )
    return image.convert("RGB")


def read_depth_png(path: Path, *, units_per_metre: float) -> np.ndarray:
    """Decode a 16-bit single-channel PNG into (H, W) float32 metres, 0 = no measurement.

    Raises DataError if the file is missing, damaged, over MAX_PIXELS, or not 16-bit single-channel
    (an 8-bit, palette or RGB file is a picture of depth, not depth).
    """
    image = decode_picture(path)
    if image.format != "PNG" or image.mode not in DEPTH_MODES:
        raise DataError(
            f"{path}: depth must be a 16-bit single-channel PNG, this one is {image.format} of "
            f"mode {image.mode!r}; it looks like a picture of depth, not depth"
        )
    return np.asarray(image, dtype=np.float32) / np.float32(units_per_metre)


def decode_picture(path: Path) -> Image.Image:
    """A picture in its stored mode, fully decoded: Pillow reads lazily, and so hides truncation.

    What a format lets one find is found: PNGs have checksums, JPEGs an end. A flipped bit within
    a JPEG, a WebP, a BMP, a TIFF or a PPM can go unnoticed.
    Raises DataError if it is missing, no plain file, of another format, damaged or over MAX_PIXELS.
    """
    try:
        if not Path(path).is_file():  # to open a pipe may take for ever
            raise DataError(f"{path}: no such file")
        with warnings.catch_warnings():
            # our own limit is the lower one, and it is an error, not a warning
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _decoded(path)
    except DataError:
        raise
    except Exception as error:  # each decoder fails in ways of its own on damaged bytes
        why = str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be decoded ({why})") from error


def _decoded(path: Path) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(
                f"{path}: {image.width} x {image.height} pixels, more than the limit of "
                f"{MAX_PIXELS:,}; the file is damaged or not a camera picture"
            )
        if image.format == "PNG":
            image.verify()  # checksums: decoding alone turns a flipped bit into wrong depth
        elif image.format in ("JPEG", "MPO") and not _jpeg_ends(path):
            raise DataError(f"{path}: cannot be decoded (it breaks off; what follows is no JPEG)")
    with Image.open(path, formats=FORMATS) as image:  # verify() spends the first opening
        image.load()
        if image.mode == "P" and image.palette is None:
            raise DataError(f"{path}: cannot be decoded (it has lost its palette)")
        return image


def _jpeg_ends(path: Path) -> bool:
    """Whether a JPEG's picture is followed by the mark of its end.

    Zeros in its place, as an interrupted download may leave them, decode to a grey lower half
    where the quality is high enough.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = 2
        # past the segments before the scan: the thumbnail in one of them has an end of its own
        while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != b"\xda":
            is_padding = data[place + 1 : place + 2] == b"\xff"
            size = int.from_bytes(data[place + 2 : place + 4], "big")
            place += 1 if is_padding else 2 + size
        return data.find(b"\xff\xd9", place) >= 0
