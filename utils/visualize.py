"""Panels that let an eye check what the numbers say: image, ground truth, prediction, error,
uncertainty and groups side by side, each map with its colour bar; for consistency training the
weak and the strong view with what each was predicted (ours).

Depth is coloured on a logarithmic scale, because it is relative error that matters: from 1 m to
2 m takes as much of the bar as from 20 m to 40 m. Colours come from matplotlib's tables; its
figures and global settings are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from utils.page import PAPER, Scale, Tile, colorize, draw_page

__all__ = ["colorize", "consistency_panel", "contact_sheet", "panel", "warp_panel"]

MAX_ERROR = 0.5  # absolute relative error at the end of its bar
SPARSE = 0.35  # below this share of measured pixels (LiDAR: 0.04 to 0.2) points are drawn larger


def panel(
    *,
    image: Image.Image | np.ndarray,
    depth: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
    log_uncertainty: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    title: str = "",
) -> Image.Image:
    """One frame as labelled tiles; a tile whose map is None is left out.

    Maps may be arrays or CPU tensors with leading dimensions of one, and need not be of one size:
    every tile is drawn at the aspect of the image. Wide frames (KITTI) take two rows.

    Args:
        image: RGB, a picture or (3, H, W) in [0, 1].
        depth: (H, W) ground truth in metres, 0 = none (dark grey). Sparse points are enlarged.
        prediction: (H, W) metres, on the colour scale of the ground truth. With both there is an
            error tile: |prediction - depth| / depth from 0 to MAX_ERROR.
        log_uncertainty: (H, W), larger = less sure; the scale spans its 1st to 99th percentile.
        groups: (h, w) integers on the token grid, the group of each patch; -1 = dropped, black.
        title: a line above the tiles.

    Returns:
        An RGB picture at most 1600 pixels wide.
    """
    picture = _picture(image)
    depth, prediction, log_uncertainty, groups = _planes(depth, prediction, log_uncertainty, groups)
    tiles = [Tile("image", picture)]
    depth = _measured(depth)
    scale = depth_scale_of(depth, prediction)
    if depth is not None:
        tiles.append(_map_tile("ground truth", enlarged(depth), scale, "metres"))
    if prediction is not None:
        tiles.append(_map_tile("prediction", prediction, scale, "metres"))
    if depth is not None and prediction is not None:
        tiles.append(_error_tile("error", prediction, depth, "relative to depth"))
    if log_uncertainty is not None:
        scale = Scale(*_extent(log_uncertainty), "viridis")
        tiles.append(_map_tile("uncertainty", log_uncertainty, scale, "log, larger = less sure"))
    if groups is not None:
        tiles.append(_groups_tile(groups, picture))
    return draw_page(tiles, aspect=picture.width / picture.height, title=title)


def consistency_panel(
    *,
    weak_image: Image.Image | np.ndarray,
    strong_image: Image.Image | np.ndarray,
    groups: np.ndarray,
    pseudo_depth: np.ndarray,
    strong_depth: np.ndarray,
    log_uncertainty: np.ndarray | None = None,
    depth: np.ndarray | None = None,
    title: str = "",
) -> Image.Image:
    """What consistency training sees of one unlabelled frame, as labelled tiles.

    Maps may be arrays or CPU tensors with leading dimensions of one, and need not be of one size.
    All depths share one colour scale: that of the ground truth, without it that of the pseudo
    label. Confidence and disagreement have fixed scales, so panels of different steps compare.

    Args:
        weak_image, strong_image: RGB, pictures or (3, H, W) in [0, 1]; strong as it is fed.
        groups: (h, w) integers on the token grid, drawn over the strong view; -1 = dropped, black.
        pseudo_depth: (H, W) metres, predicted from the weak view.
        strong_depth: (H, W) metres, predicted from the strong view in groups. The disagreement is
            |strong - pseudo| / pseudo, from 0 to MAX_ERROR.
        log_uncertainty: (H, W) u of the weak view, >= 0, drawn as confidence exp(-u) in [0, 1].
        depth: (H, W) withheld ground truth in metres, 0 = none (dark grey).
        title: a line above the tiles.

    Returns:
        An RGB picture at most 1600 pixels wide; tiles of optional maps that are None are left out.
    """
    weak, strong = _picture(weak_image), _picture(strong_image)
    groups, pseudo_depth, strong_depth, log_uncertainty, depth = _planes(
        groups, pseudo_depth, strong_depth, log_uncertainty, depth
    )
    depth, pseudo_depth = _measured(depth), _measured(pseudo_depth)
    scale = depth_scale_of(depth, pseudo_depth, strong_depth)
    tiles = [
        Tile("weak view", weak),
        Tile("strong view", strong),
        _groups_tile(groups, strong),
        _map_tile("pseudo depth", pseudo_depth, scale, "metres"),
    ]
    if log_uncertainty is not None:
        confidence = np.exp(-np.maximum(log_uncertainty, 0))
        tiles.append(_map_tile("confidence", confidence, Scale(0.0, 1.0, "viridis"), "exp(-u)"))
    tiles.append(_map_tile("strong depth", strong_depth, scale, "metres"))
    tiles.append(_error_tile("disagreement", strong_depth, pseudo_depth, "relative to pseudo"))
    if depth is not None:
        tiles.append(_map_tile("ground truth", enlarged(depth), scale, "metres"))
    return draw_page(tiles, aspect=weak.width / weak.height, title=title)


def warp_panel(
    *,
    target: np.ndarray,
    source: np.ndarray,
    warped: np.ndarray,
    error: np.ndarray,
    depth: np.ndarray,
    title: str = "",
) -> Image.Image:
    """What self-supervision compares: a picture beside another one of its scene, before and after.

    Args:
        target, source, warped: (3, H, W) in [0, 1]; `warped` is the source in the target's view.
        error: (H, W) between warped and target, 0 to 1; NaN (dark grey) where the source sees
            nothing. Drawn from 0 to MAX_ERROR.
        depth: (H, W) metres by which it was warped.
        title: a line above the tiles.
    """
    error, depth = _planes(error, depth)
    tiles = [
        Tile("target", _picture(target)),
        Tile("source", _picture(source)),
        Tile("source, warped by the depth", _picture(warped)),
        _map_tile("what is left", error, Scale(0.0, MAX_ERROR, "magma"), "SSIM and L1 error"),
        _map_tile("depth", depth, depth_scale_of(depth), "metres"),
    ]
    return draw_page(tiles, aspect=tiles[0].picture.width / tiles[0].picture.height, title=title)


def contact_sheet(panels: Sequence[Image.Image]) -> Image.Image:
    """Panels of any size, one under another on one page. Raises ValueError if there are none."""
    if not panels:
        raise ValueError("a contact sheet needs at least one panel")
    size = (max(p.width for p in panels), sum(p.height for p in panels))
    sheet = Image.new("RGB", size, PAPER)
    top = 0
    for one in panels:
        sheet.paste(one, (0, top))
        top += one.height
    return sheet


def _picture(image: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    pixels = np.asarray(image, np.float64)
    pixels = pixels.reshape(pixels.shape[-3:]).transpose(1, 2, 0)  # (H, W, 3)
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def _planes(*maps: np.ndarray | None) -> tuple[np.ndarray | None, ...]:
    """Each map as an (H, W) array, without its leading dimensions of one."""
    return tuple(None if a is None else np.asarray(a).reshape(np.shape(a)[-2:]) for a in maps)


def _measured(depth: np.ndarray | None) -> np.ndarray | None:
    """Depth with NaN where there is none."""
    return None if depth is None else np.where(depth > 0, depth, np.nan)


def _map_tile(label: str, values: np.ndarray, scale: Scale, unit: str) -> Tile:
    return Tile(label, Image.fromarray(scale.colors(values)), unit, scale)


def _error_tile(label: str, values: np.ndarray, reference: np.ndarray, unit: str) -> Tile:
    error = np.abs(_resized(values, reference.shape) - reference) / reference
    return _map_tile(label, enlarged(error), Scale(0.0, MAX_ERROR, "magma"), unit)


def _groups_tile(groups: np.ndarray, picture: Image.Image) -> Tile:
    """The image in grey under one colour a group; golden-ratio steps keep neighbours apart.

    Dropped patches (-1) are black, as nothing of them is left in the network."""
    hues = colorize(groups * 0.618034 % 1, low=0.0, high=1.0, colormap="hsv")
    size, nearest = picture.size, Image.Resampling.NEAREST
    colors = Image.fromarray(hues).resize(size, nearest)
    blended = Image.blend(picture.convert("L").convert("RGB"), colors, 0.5)
    dropped = groups < 0
    blended.paste((0, 0, 0), mask=Image.fromarray(np.uint8(255) * dropped).resize(size, nearest))
    number = len(np.unique(groups[~dropped]))
    label = f"{number} group" if number == 1 else f"{number} groups"
    return Tile(label + f", {dropped.mean():.0%} dropped" * bool(dropped.any()), blended)


def depth_scale_of(*maps: np.ndarray | None) -> Scale:
    """Scale of the first map that has any depth; the others are drawn on it."""
    depths = [values[values > 0] for values in maps if values is not None]
    low, high = _extent(next((found for found in depths if found.size), np.ones(1)))
    return Scale(max(low, 1e-3), max(high, 2e-3), "Spectral", logarithmic=True)


def _extent(values: np.ndarray) -> tuple[float, float]:
    """1st and 99th percentile of the finite values, widened where they coincide."""
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(finite, (1, 99)))
    slack = max(0.05 * abs(high), 0.05) if high - low < 1e-6 * max(1.0, abs(high)) else 0.0
    return low - slack, high + slack


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resize of a dense (H, W) map to `size` (height, width)."""
    if values.shape == tuple(size):
        return values
    dense = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(dense.resize(size[::-1], Image.Resampling.BILINEAR))


def enlarged(values: np.ndarray) -> np.ndarray:
    """Sparse (H, W) values grown into the NaN around them, so that a small tile still shows them.

    Every hole copies one measured neighbour, so maps with the same holes grow alike."""
    if np.isfinite(values).mean() > SPARSE:
        return values
    height, width = values.shape
    for _ in range(max(1, round(width / 600))):
        padded = np.pad(values, 1, constant_values=np.nan)
        for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2), (0, 0), (0, 2), (2, 0), (2, 2)):
            shifted = padded[dy : dy + height, dx : dx + width]
            values = np.where(np.isnan(values), shifted, values)
    return values
