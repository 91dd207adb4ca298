"""Maps of the ground that say where the sun is hidden and where objects darken their surroundings.

Shadows fall on the flat ground only, so the shadow of every primitive is a polygon or an ellipse
there; still objects are drawn once per scene into a picture of the ground, moving ones per frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .synthetic_world import BUILDING, CROWN, ROOF, World

CELLS_PER_METRE = 4.0
HALF_WIDTH_METRES = 34.0
BEFORE_METRES, BEYOND_METRES = 8.0, 120.0  # covered behind and ahead of the start of the drive
ORIGIN = np.array([-HALF_WIDTH_METRES, -BEFORE_METRES])  # world x, z of the map's corner
MAP_SIZE = (
    int((BEFORE_METRES + BEYOND_METRES) * CELLS_PER_METRE),
    int(2 * HALF_WIDTH_METRES * CELLS_PER_METRE),
)  # rows, columns
SUN_BLUR_CELLS, CONTACT_BLUR_CELLS = 1.0, 2.5
CROWN_CONTACT = 90  # of 255: leaves above darken the ground a little


@dataclass(frozen=True)
class GroundMaps:
    """Shade on the ground of one scene at one time. (rows, columns) float32 in [0, 1], 1 = dark."""

    sun: np.ndarray
    contact: np.ndarray

    @classmethod
    def drawn(cls, world: World, to_sun: np.ndarray, chosen: np.ndarray) -> GroundMaps:
        """Draw the primitives listed in `chosen` as they stand at time 0."""
        pictures = [Image.new("L", MAP_SIZE[::-1]) for _ in range(2)]
        for outlines in _outlines(world, to_sun, chosen, 0.0):
            for picture, outline in zip(pictures, outlines, strict=True):
                _fill(picture, outline, np.zeros(2))
        planes = (
            _soft(picture, blur)
            for picture, blur in zip(pictures, (SUN_BLUR_CELLS, CONTACT_BLUR_CELLS), strict=True)
        )
        sun, contact = planes
        for plane in (sun, contact):  # the border stands for everything beyond the map
            plane[[0, -1]] = 0
            plane[:, [0, -1]] = 0
        return cls(sun, contact)

    def with_objects(
        self, world: World, to_sun: np.ndarray, chosen: np.ndarray, time_s: float
    ) -> GroundMaps:
        """A copy with the primitives listed in `chosen` added as they stand at `time_s`."""
        maps = GroundMaps(self.sun.copy(), self.contact.copy())
        for sun, contact in _outlines(world, to_sun, chosen, time_s):
            _stamp(maps.sun, sun, SUN_BLUR_CELLS)
            _stamp(maps.contact, contact, CONTACT_BLUR_CELLS)
        return maps

    def at(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(sun, contact) shade at world x, z (n,) float32, bilinear; 0 beyond the map."""
        height, width = MAP_SIZE
        scale = np.float32(CELLS_PER_METRE)
        column = np.clip(x * scale - np.float32(ORIGIN[0] * scale + 0.5), 0, width - 2)
        row = np.clip(z * scale - np.float32(ORIGIN[1] * scale + 0.5), 0, height - 2)
        left, top = column.astype(np.int32), row.astype(np.int32)
        column -= left
        row -= top
        corner = top * width + left
        shades = []
        for plane in (self.sun.ravel(), self.contact.ravel()):
            upper = plane.take(corner)
            upper += (plane.take(corner + 1) - upper) * column
            lower = plane.take(corner + width)
            lower += (plane.take(corner + width + 1) - lower) * column
            shades.append(upper + (lower - upper) * row)
        return shades[0], shades[1]


def hidden_by_buildings(world: World, to_sun: np.ndarray) -> np.ndarray:
    """(N,) float32: 1 for primitives that stand in the shadow of a building, else 0."""
    tall = np.flatnonzero((world.kind == BUILDING) | (world.kind == ROOF))
    picture = Image.new("L", MAP_SIZE[::-1])
    for sun, _ in _outlines(world, to_sun, tall, 0.0):
        _fill(picture, sun, np.zeros(2))
    cells = ((world.centre[:, [0, 2]] - ORIGIN) * CELLS_PER_METRE).astype(int)
    inside = ((cells >= 0) & (cells < MAP_SIZE[::-1])).all(axis=1)
    hidden = np.zeros(len(world.kind), np.float32)
    hidden[inside] = np.asarray(picture)[cells[inside, 1], cells[inside, 0]] > 0
    hidden[tall] = 0
    return hidden


def _outlines(
    world: World, to_sun: np.ndarray, chosen: np.ndarray, time_s: float
) -> Iterator[tuple[tuple, tuple]]:
    """Shadow and contact of each primitive: (value, is_ellipse, (n, 2) column and row) each."""
    vertices = world.vertices[chosen] + world.velocity[chosen, None] * time_s
    cast = vertices + to_sun * (vertices[:, :, 1:2] / -to_sun[1])  # along the light to y = 0
    foot = (vertices[:, :, [0, 2]] - ORIGIN) * CELLS_PER_METRE
    cast = (cast[:, :, [0, 2]] - ORIGIN) * CELLS_PER_METRE
    standing = vertices[:, :, 1].max(axis=1) > -0.3
    for k, index in enumerate(chosen):
        if world.kind[index] == CROWN:
            yield (255, True, cast[k]), (CROWN_CONTACT, True, foot[k])
        else:
            yield (255, False, _hull(cast[k])), (255 * int(standing[k]), False, foot[k, :4])


def _fill(picture: Image.Image, outline: tuple[int, bool, np.ndarray], corner: np.ndarray) -> None:
    """Draw an outline into a picture whose first cell is `corner` (column, row)."""
    value, is_ellipse, points = outline
    draw, points = ImageDraw.Draw(picture), points - corner
    if is_ellipse:
        centre = points.mean(axis=0)
        radius = (points[:4].max(axis=0) - points[:4].min(axis=0)) / 2
        draw.ellipse([*(centre - radius), *(centre + radius)], fill=value)
    elif value:
        draw.polygon(points.ravel().tolist(), fill=value)


def _stamp(plane: np.ndarray, outline: tuple[int, bool, np.ndarray], blur: float) -> None:
    """Darken `plane` by one blurred outline, in place; only the cells around it are touched."""
    margin = int(blur) + 2
    low = np.clip(np.floor(outline[2].min(axis=0)).astype(int) - margin, 1, None)
    high = np.minimum(
        np.ceil(outline[2].max(axis=0)).astype(int) + margin, np.array(plane.shape)[::-1] - 1
    )
    if outline[0] and (low < high).all():
        picture = Image.new("L", tuple((high - low).tolist()))
        _fill(picture, outline, low)
        part = plane[low[1] : high[1], low[0] : high[0]]
        np.maximum(part, _soft(picture, blur), out=part)


def _soft(picture: Image.Image, blur: float) -> np.ndarray:
    return np.asarray(picture.filter(ImageFilter.BoxBlur(blur)), dtype=np.float32) / 255


def _hull(points: np.ndarray) -> np.ndarray:
    """Corners (m, 2) of the convex hull of points (n, 2), in order (monotone chain)."""
    ordered = sorted(points.tolist())
    corners: list[list[float]] = []
    for sequence in (ordered, ordered[::-1]):
        chain: list[list[float]] = []
        for c in sequence:
            while len(chain) > 1:
                a, b = chain[-2:]
                if (b[0] - a[0]) * (c[1] - a[1]) > (b[1] - a[1]) * (c[0] - a[0]):
                    break
                chain.pop()
            chain.append(c)
        corners += chain[:-1]
    return np.array(corners)
