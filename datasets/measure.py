"""Decode frames and measure their depth, over many processes. Ours.

Only decoding finds a truncated JPEG, and only the numbers find a wrong unit, so both happen in one
pass over the files.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from datasets.frame import DataError

NUM_SAMPLED = 200  # frames that "--decode sample" opens
SMALL = 300  # fewer frames than this are decoded before worker processes have started
CHUNK = 16
MIN_VALUES = 32  # fewer different depths than this say nothing about how they are stored


@dataclass(frozen=True)
class FrameStats:
    """What decoding one frame showed. Sizes are (H, W); depths are metres.

    Attributes:
        error: why the frame is unusable; everything else is then at its default.
        depth_size: None where the frame is unlabelled.
        valid_fraction: share of pixels with a measurement.
        even_step: metres between neighbouring values, if there are at most 256 different ones and
            they are evenly spaced, as 8-bit depth is; else 0. (Kinect depth has few values too,
            but its steps grow with the square of depth.)
        median_middle, median_bottom: of the middle half of the rows and of the lowest quarter; 0 if
            nothing is measured there.
    """

    frame_id: str
    error: str | None = None
    image_mode: str = "RGB"
    image_size: tuple[int, int] = (0, 0)
    depth_size: tuple[int, int] | None = None
    valid_fraction: float = 0.0
    num_not_finite: int = 0
    even_step: float = 0.0
    median: float = 0.0
    maximum: float = 0.0
    median_middle: float = 0.0
    median_bottom: float = 0.0


def measure_frame(dataset, index: int) -> FrameStats:
    """Decode picture and depth of one frame; a file that cannot be used becomes `error`."""
    frame_id = dataset.frame_ids[index]
    try:
        frame = dataset.frame(index)
        with Image.open(dataset.paths(index)["image"]) as stored:
            mode = stored.mode  # Frame.image is always RGB
        depth = None if frame.load_depth is None else frame.depth()
    except DataError as error:
        return FrameStats(frame_id, error=str(error))
    size = (frame.image.height, frame.image.width)
    if depth is None:
        return FrameStats(frame_id, image_mode=mode, image_size=size)
    finite = np.isfinite(depth)
    valid = finite & (depth > 0)
    values = depth[valid]
    middle, bottom = depth.shape[0] // 4, 3 * depth.shape[0] // 4
    return FrameStats(
        frame_id,
        image_mode=mode,
        image_size=size,
        depth_size=depth.shape,
        valid_fraction=float(valid.mean()),
        num_not_finite=int((~finite).sum()),
        even_step=_even_step(values),
        median=_median(values),
        maximum=float(values.max()) if values.size else 0.0,
        median_middle=_median(depth[middle:bottom][valid[middle:bottom]]),
        median_bottom=_median(depth[bottom:][valid[bottom:]]),
    )


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else 0.0


def _even_step(values: np.ndarray) -> float:
    different = np.unique(values)
    if not MIN_VALUES <= different.size <= 256:
        return 0.0
    steps = np.diff(different.astype(np.float64))
    step = np.percentile(steps, 10)  # some values do not occur, so some steps are multiples of it
    uneven = np.abs(steps / step - np.rint(steps / step)).mean()
    return float(step) if uneven < 0.1 else 0.0


def chosen(num_frames: int, decode: str) -> list[int]:
    """Indices that "none", "sample" (spread evenly over the list) or "all" open."""
    if decode == "none":
        return []
    if decode == "all" or num_frames <= NUM_SAMPLED:
        return list(range(num_frames))
    return np.linspace(0, num_frames - 1, NUM_SAMPLED).round().astype(int).tolist()


def measure(dataset, indices: Sequence[int], *, workers: int, label: str) -> list[FrameStats]:
    """Decode the frames `indices` of a dataset in `workers` processes (0: in this one)."""
    if workers == 0 or len(indices) < SMALL:
        results: Iterable[FrameStats] = (measure_frame(dataset, index) for index in indices)
        return list(progress(results, len(indices), label))
    # spawn: a fork of a process that has loaded threaded libraries may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _keep, (dataset,)) as pool:
        results = pool.map(_measure_kept, indices, chunksize=CHUNK)
        return list(progress(results, len(indices), label))


def _keep(dataset) -> None:
    """Give a new worker process the dataset, once: it names every frame and may be large."""
    global _kept  # noqa: PLW0603
    _kept = dataset


def _measure_kept(index: int) -> FrameStats:
    return measure_frame(_kept, index)


def default_workers() -> int:
    """Processors this process may use, at most 16: beyond that the disk is the limit."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(usable or 1, 16)


def progress(items: Iterable, total: int, label: str) -> Iterator:
    """Pass `items` through, with a line on stderr: count, rate and time left.

    On a terminal the line is redrawn; elsewhere one is written every 30 s, so logs stay short.
    """
    live = sys.stderr.isatty()
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        now = time.monotonic()
        if now - last >= (0.2 if live else 30.0) or (live and count == total):
            rate = count / max(now - start, 1e-9)
            line = (
                f"{label}: {count:,}/{total:,}, {rate:.0f}/s, {(total - count) / rate:.0f} s left"
            )
            print(f"\r{line:<78}" if live else line, end="" if live else "\n", file=sys.stderr)
            last = now
        yield item
    if live and total:
        print(file=sys.stderr)
