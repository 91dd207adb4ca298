"""Maps in the size of their picture: coloured, with a colour bar below, and frame by frame as an
H.264 video (ours).

Depth has the colours of `utils.visualize`: "Spectral" on a logarithmic scale.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.page import FAINT, INK, PAPER, Scale, colorize

MAX_VIDEO_WIDTH = 1920  # pixels; a phone's 4K, two pictures high, plays on few machines
CODEC = "libx264"


class VideoError(ValueError):
    """A video that cannot be written. The message says why."""


def depth_scale(depth: np.ndarray) -> Scale:
    """The depth colours of one picture: from the 1st to the 99th percentile of its metres."""
    low, high = (float(value) for value in np.percentile(depth, (1, 99)))
    low = max(low, 1e-3)
    return Scale(low, max(high, 1.01 * low), "Spectral", logarithmic=True)


def fixed_depth_scale(*, low: float, high: float) -> Scale:
    """The depth colours of a whole video, from `low` to `high` metres, so that it cannot flicker.

    Raises ValueError unless 0 < low < high.
    """
    if not 0 < low < high < np.inf:
        raise ValueError(f"a colour range from {low:g} to {high:g} m; need 0 < low < high")
    return Scale(low, high, "Spectral", logarithmic=True)


def uncertainty_scale(log_uncertainty: np.ndarray) -> Scale:
    """The uncertainty colours of one picture, from its 1st to its 99th percentile."""
    low, high = (float(value) for value in np.percentile(log_uncertainty, (1, 99)))
    return Scale(low, max(high, low + 0.01), "viridis")


def coloured(values: np.ndarray, scale: Scale, *, unit: str) -> np.ndarray:
    """A map in its colours with the colour bar below it.

    The colours are those of `Scale.colors`, read from a table of 256 in float32: many times faster,
    and this is the work of every pixel of every frame.

    Args:
        values: (H, W) float32 without NaN; what is off the scale gets the colour of its end.
        unit: what the numbers of the bar are.

    Returns:
        (H + bar, W, 3) uint8; the first H rows are the map.
    """
    table = colorize(np.linspace(0, 1, 256)[None], low=0.0, high=1.0, colormap=scale.colormap)[0]
    low, high = scale.low, scale.high
    if scale.logarithmic:
        values, low, high = np.log(np.maximum(values, 1e-9)), np.log(low), np.log(high)
    position = (values - np.float32(low)) * np.float32(256 / (high - low))
    colours = table.take(position.clip(0, 255).astype(np.uint8), axis=0)
    return np.concatenate([colours, colour_bar(colours.shape[1], scale, unit)])


@lru_cache(maxsize=8)
def colour_bar(width: int, scale: Scale, unit: str) -> np.ndarray:
    """Colour bar with the scale's ends, its round numbers and `unit`, as far as there is room.

    Returns (h, width, 3) uint8, read-only; h is even and grows with the width.
    """
    letter = max(11, round(width / 60))
    ramp_height, height = letter, 2 * round(1.5 * letter)
    ramp = scale.low + np.linspace(0, 1, width) * (scale.high - scale.low)
    if scale.logarithmic:
        ramp = np.geomspace(scale.low, scale.high, width)
    bar = Image.new("RGB", (width, height), PAPER)
    bar.paste(Image.fromarray(scale.colors(ramp[None].repeat(ramp_height, 0))), (0, 0))
    draw, font = ImageDraw.Draw(bar), ImageFont.load_default(letter)
    gap, taken = letter / 2, []
    labels = [(scale.high, f"  {unit}"), (scale.low, ""), *((tick, "") for tick in scale.ticks())]
    for value, ending in labels:
        text = (f"{value:.3g}" if abs(value) >= 1e-3 else "0") + ending
        length = draw.textlength(text, font)
        x = float(scale.position(value)) * (width - 1)
        start = min(max(x - length / 2, 0), width - length)
        fits = all(start > end + gap or start + length < begin - gap for begin, end in taken)
        if start >= 0 and fits:
            draw.line((x, ramp_height, x, ramp_height + letter // 4), FAINT)
            draw.text((start, ramp_height + letter // 4), text, INK, font)
            taken.append((start, start + length))
    pixels = np.array(bar)
    pixels.setflags(write=False)
    return pixels


class VideoWriter:
    """An MP4 file of H.264 with yuv420p, which every player plays; frames must be of one size.

    What is wider than MAX_VIDEO_WIDTH is made smaller; an odd last row or column is doubled,
    because the format has even sizes only. Nothing is on the disk before the first frame.
    """

    def __init__(self, path: Path, *, rate: Fraction):
        """`rate`: frames a second."""
        self.path = path
        self.rate = rate
        self._container = None
        self._size = (0, 0)

    def add(self, pixels: np.ndarray) -> None:
        """Append (H, W, 3) uint8 RGB. Raises VideoError if it cannot be encoded."""
        pixels = _even(pixels)
        try:
            if self._container is None:
                self._open(pixels.shape[:2])
            if pixels.shape[:2] != self._size:
                raise VideoError(
                    f"{self.path}: a frame of {pixels.shape[0]} x {pixels.shape[1]} pixels in a "
                    f"video of {self._size[0]} x {self._size[1]}; the source changes its size"
                )
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            self._container.mux(self._stream.encode(frame))
        except (av.error.FFmpegError, av.codec.codec.UnknownCodecError) as error:
            raise VideoError(f"{self.path}: {CODEC} cannot write it ({error})") from error

    def close(self) -> None:
        """Finish the file. Raises VideoError if that fails."""
        if self._container is None:
            return
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.path}: cannot be finished ({error})") from error

    def _open(self, size: tuple[int, int]) -> None:
        self._container = av.open(str(self.path), "w", format="mp4")
        self._stream = self._container.add_stream(CODEC, rate=self.rate)
        self._stream.height, self._stream.width = self._size = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "18", "preset": "veryfast"}


def _even(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    if width > MAX_VIDEO_WIDTH:
        height, width = round(height * MAX_VIDEO_WIDTH / width), MAX_VIDEO_WIDTH
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height)))
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
