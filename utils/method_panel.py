"""Two methods on one frame: their depth beside the ground truth, all on one colour scale (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from .page import Scale, Tile, draw_page
from .visualize import depth_scale_of, enlarged

WIDE = 2.0  # width / height from which a page breaks its tiles into two rows


class Shown(NamedTuple):
    """A predicted (H, W) depth in metres, what stands above it, and what is written on it."""

    label: str
    depth: np.ndarray
    note: str


def method_panel(
    *,
    image: Image.Image,
    depth: np.ndarray,
    reference: Sequence[Shown],
    ours: Sequence[Shown],
    title: str,
) -> Image.Image:
    """One frame as labelled tiles: image, ground truth, and each reference beside its counterpart.

    Wide frames take two rows, of image and references and of ground truth and ours, so that what is
    compared stands one above the other.

    Args:
        image: of any size; every tile is drawn at its aspect.
        depth: (H, W) ground truth in metres, 0 = none (dark grey); its range is the colour scale.
        reference, ours: as many of the one as of the other.
        title: a line above the tiles.

    Returns:
        An RGB picture at most 1600 pixels wide.
    """
    truth = np.where(depth > 0, depth, np.nan)
    scale = depth_scale_of(truth)
    columns = [(Tile("image", image), _tile(Shown("ground truth", enlarged(truth), ""), scale))]
    for pair in zip(reference, ours, strict=True):
        columns.append(tuple(_tile(one, scale) for one in pair))
    aspect = image.width / image.height
    groups = zip(*columns, strict=True) if aspect >= WIDE else columns
    return draw_page([tile for group in groups for tile in group], aspect=aspect, title=title)


def _tile(one: Shown, scale: Scale) -> Tile:
    return Tile(one.label, Image.fromarray(scale.colors(one.depth)), "metres", scale, one.note)
