"""A page of labelled tiles: colours, colour bars, ticks and where everything goes (ours)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

INVALID = (60, 60, 60)  # dark grey, a colour of none of the maps
PAPER, INK, FAINT = (255, 255, 255), (24, 24, 27), (113, 113, 122)
MAX_WIDTH, MAX_TILE_HEIGHT = 1600, 360  # pixels
MAX_IN_ROW = 6  # tiles of frames that are not wide
MARGIN, GAP, TITLE_HEIGHT, LABEL_HEIGHT, BAR_HEIGHT, TICKS_HEIGHT = 16, 14, 34, 24, 9, 24
Pair = tuple[int, int]


@dataclass(frozen=True)
class Scale:
    """How numbers become colours: `colormap` from `low` to `high`, linear or logarithmic."""

    low: float
    high: float
    colormap: str
    logarithmic: bool = False

    def position(self, values: np.ndarray | float) -> np.ndarray:
        """Where on the colour bar the values lie: 0 = low end, 1 = high end; NaN stays NaN."""
        values, low, high = (np.asarray(v, np.float64) for v in (values, self.low, self.high))
        if self.logarithmic:
            # zero and less lie off the low end, not nowhere
            values, low, high = (np.log(np.maximum(v, 1e-9)) for v in (values, low, high))
        return (values - low) / (high - low)

    def colors(self, values: np.ndarray) -> np.ndarray:
        """(H, W) values -> (H, W, 3) uint8."""
        return colorize(self.position(values), low=0.0, high=1.0, colormap=self.colormap)

    def ticks(self) -> list[float]:
        """Round numbers on the bar: 1, 2, 5, 10, ... on a wide logarithmic one, else even steps."""
        if self.logarithmic and self.high / self.low > 6:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
            candidates = [step * 10.0**decade for decade in decades for step in (1, 2, 5, 10)]
            return sorted({tick for tick in candidates if self.low <= tick <= self.high})
        span = self.high - self.low
        decade = 10.0 ** math.floor(math.log10(span / 5))
        step = next(decade * factor for factor in (1, 2, 5, 10) if span / (decade * factor) <= 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


@dataclass(frozen=True)
class Tile:
    """A labelled picture; `scale` and `unit` explain its colours where it is a map.

    `note` is written on the picture, in its lower left corner.
    """

    label: str
    picture: Image.Image
    unit: str = ""
    scale: Scale | None = None
    note: str = ""


def colorize(
    values: np.ndarray,
    *,
    low: float,
    high: float,
    colormap: str,
    invalid_mask: np.ndarray | None = None,
) -> np.ndarray:
    """Colours of a map.

    Args:
        values: (H, W) numbers, clipped to [low, high].
        low, high: values at the two ends of the colormap, low < high.
        colormap: name of a matplotlib colormap.
        invalid_mask: (H, W) bool, True = drawn in dark grey, as NaN is.

    Returns:
        (H, W, 3) uint8.
    """
    position = (np.asarray(values, np.float64) - low) / (high - low)
    invalid = np.isnan(position)
    if invalid_mask is not None:
        invalid |= np.asarray(invalid_mask)
    colors = matplotlib.colormaps[colormap](np.where(invalid, 0, position).clip(0, 1), bytes=True)
    return np.where(invalid[..., None], np.uint8(INVALID), colors[..., :3])


def draw_page(tiles: Sequence[Tile], *, aspect: float, title: str) -> Image.Image:
    """The page with all tiles, an RGB picture at most MAX_WIDTH pixels wide.

    Tiles stand in one row, or in two where the frames are wide (KITTI) or the tiles are more than
    MAX_IN_ROW, and fill the width up to MAX_TILE_HEIGHT.

    Args:
        tiles: at least one.
        aspect: width / height at which every tile is drawn.
        title: a line above the tiles, or "".
    """
    in_one_row = len(tiles) <= (MAX_IN_ROW if aspect < 2 else 2)
    columns = len(tiles) if in_one_row else math.ceil(len(tiles) / 2)
    width = (MAX_WIDTH - 2 * MARGIN - (columns - 1) * GAP) // columns
    width = max(1, min(width, round(MAX_TILE_HEIGHT * aspect)))
    height = max(1, round(width / aspect))
    stride = LABEL_HEIGHT + height + BAR_HEIGHT + TICKS_HEIGHT
    top = MARGIN // 2 + (TITLE_HEIGHT if title else 0)
    rows = math.ceil(len(tiles) / columns)
    page_size = (2 * MARGIN + columns * (width + GAP) - GAP, top + rows * stride + MARGIN // 2)
    page = Image.new("RGB", page_size, PAPER)
    title_font = ImageFont.load_default(18)
    ImageDraw.Draw(page).text((MARGIN, MARGIN // 2 + 2), title, INK, title_font)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        left_top = (MARGIN + column * (width + GAP), top + row * stride)
        _draw_tile(page, tile, left_top, (width, height))
    return page


def _draw_tile(page: Image.Image, tile: Tile, left_top: Pair, size: Pair) -> None:
    (left, top), (width, height) = left_top, size
    draw = ImageDraw.Draw(page)
    label_font, small_font = ImageFont.load_default(15), ImageFont.load_default(12)
    draw.text((left, top + 2), tile.label, INK, label_font)
    if draw.textlength(tile.label, label_font) + draw.textlength(tile.unit, small_font) < width:
        draw.text((left + width, top + 5), tile.unit, FAINT, small_font, anchor="ra")
    top += LABEL_HEIGHT
    is_photo = tile.scale is None  # colours of a map are read off its bar, so they are not blended
    resample = Image.Resampling.LANCZOS if is_photo else Image.Resampling.NEAREST
    page.paste(tile.picture.resize(size, resample), (left, top))
    if tile.note:
        x0, y0, x1, y1 = draw.textbbox((left + 8, top + height - 7), tile.note, small_font, "ls")
        draw.rectangle((x0 - 5, y0 - 4, x1 + 5, y1 + 4), PAPER)
        draw.text((left + 8, top + height - 7), tile.note, INK, small_font, anchor="ls")
    if tile.scale is not None:
        _draw_bar(page, tile.scale, (left, top + height + 4), width)


def _draw_bar(page: Image.Image, scale: Scale, left_top: Pair, width: int) -> None:
    """Colour bar, labelled at both ends and at as many round numbers between as there is room."""
    (left, top), draw = left_top, ImageDraw.Draw(page)
    ramp = np.linspace(0, 1, width)[None].repeat(BAR_HEIGHT, 0)
    ramp = colorize(ramp, low=0.0, high=1.0, colormap=scale.colormap)
    page.paste(Image.fromarray(ramp), left_top)
    font, taken = ImageFont.load_default(12), []
    for tick in (scale.low, scale.high, *scale.ticks()):
        text = f"{tick:.3g}" if abs(tick) >= 1e-3 else "0"
        length = draw.textlength(text, font)
        x = left + float(scale.position(tick)) * (width - 1)
        start = min(max(x - length / 2, left), left + width - length)
        if all(start > end + 8 or start + length < begin - 8 for begin, end in taken):
            draw.line((x, top + BAR_HEIGHT, x, top + BAR_HEIGHT + 2), FAINT)
            draw.text((start, top + BAR_HEIGHT + 4), text, FAINT, font)
            taken.append((start, start + length))
