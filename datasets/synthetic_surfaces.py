"""Painting: what colour a synthetic surface has at a point, before any light falls on it.

Each function takes n points of one kind of surface and returns albedo (3, n) float32. Patterns are
fixed to the surface, so both eyes and all frames see the same paint. Edges of painted patterns are
softened over the footprint of a pixel, which keeps far windows and lane markings from flickering.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .synthetic_look import Appearance
from .synthetic_street import Road
from .synthetic_texture import BRICKS, CLOUD, LEAVES, SLABS, SPECKLE, sample
from .synthetic_world import BACK, FRONT, TOP

_HASH = np.random.default_rng(7).random(1024).astype(np.float32)  # fixed: brightness of windows


class Patch(NamedTuple):
    """n visible points of one kind of surface; all arrays float32 (n,) unless noted."""

    along: np.ndarray  # metres from the object's centre along its heading (rounds: along z)
    across: np.ndarray  # metres to its right (rounds: along x)
    height: np.ndarray  # metres above the ground
    face: np.ndarray  # (n,) int, see synthetic_world
    detail: np.ndarray | None  # (4, n), buildings and cars only
    colour: np.ndarray  # (3, n) linear RGB of the object
    number: np.ndarray  # (n,) int, index of the object
    footprint: np.ndarray  # metres that a pixel covers on a plane facing the camera


def cover(distance: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Share of a pixel inside an edge: 1 where `distance` (metres inside) is large, 0 outside."""
    return np.clip(distance / footprint + np.float32(0.5), 0, 1)


def _f32(where: np.ndarray, yes: float, no: float) -> np.ndarray:
    return np.where(where, np.float32(yes), np.float32(no))


def _repeat(values: np.ndarray, period: float) -> np.ndarray:
    """Remainder in [0, period); many times faster than np.mod."""
    return values - np.float32(period) * np.floor(values * np.float32(1 / period))


def _layer(base: np.ndarray, colour, share: np.ndarray) -> None:
    """Paint `colour` over `base` (3, n) in place, covering `share` (n,)."""
    for channel in range(3):
        base[channel] += (colour[channel] - base[channel]) * share


def ground(look: Appearance, road: Road, x, z, footprint) -> np.ndarray:
    """Asphalt with markings, kerb, pavement and yards at world (x, z)."""
    side = x - np.float32(road.bend) * z * z
    away = np.abs(side)
    zone = (away > road.half_width).astype(np.int32)  # 0 asphalt, 1 slabs, 2 kerb, 3 grass
    zone[(away > road.half_width) & (away < road.half_width + 0.16)] = 2
    zone[away > road.edge] = 1 if road.paved_yards else 3
    if road.junction > -100:
        zone[np.abs(z - np.float32(road.junction)) < 4] = 0
    albedo = np.take(look.ground, zone, axis=1)
    is_slab = zone == 1
    layer = np.where(is_slab, np.int32(SLABS), np.int32(SPECKLE))
    speckle = sample(look.atlas, layer, side * 72, z * 72, footprint * 72)
    patches = sample(look.atlas, CLOUD, side * 12, z * 12, footprint * 12)
    fine = 0.11 * speckle + _f32(zone == 3, 0.22, 0.09) * patches
    albedo *= np.maximum(1 + fine, 0.1)
    paint = _markings(road, side, away, z, footprint)
    if road.junction > -100:
        paint[np.abs(z - np.float32(road.junction)) < 4.5] = 0
    _layer(albedo, look.ground[:, 4], paint * np.clip(0.85 - 0.12 * speckle, 0, 1))
    return albedo


def _markings(road: Road, side, away, z, footprint) -> np.ndarray:
    """Share of each pixel that is white paint (n,)."""
    long = (
        footprint * np.maximum(z, 1) / 1.65
    )  # the footprint along the ground, seen at a low angle
    dash = cover(1.5 - np.abs(_repeat(z, 9.0) - 1.5), np.minimum(long, 9.0))
    paint = cover(0.07 - np.abs(side), footprint) * (1 if road.lanes == 2 else dash)
    driven = road.half_width - road.parking
    if road.lanes == 2:
        paint = np.maximum(paint, cover(0.07 - np.abs(away - driven * 0.53), footprint) * dash)
    if road.edge_lines or road.parking:
        line = driven - 0.15 if road.edge_lines else driven
        paint = np.maximum(paint, cover(0.06 - np.abs(away - line), footprint))
    if road.crossing > -100:
        stripe = cover(0.25 - np.abs(_repeat(side, 1.0) - 0.5), footprint)
        inside = cover(1.6 - np.abs(z - road.crossing), long) * (away < road.half_width - 0.3)
        paint = np.maximum(paint * (1 - inside), stripe * inside)
    return np.minimum(paint, 1)


def building(look: Appearance, patch: Patch) -> np.ndarray:
    """Plaster or brick with rows of windows and a plinth.

    `detail`: width of a window's cell and height of a storey in metres, and the share of either
    that the window takes.
    """
    wall = np.where(patch.face < FRONT, patch.along, patch.across)
    albedo = patch.colour.copy()
    brick = _HASH.take(patch.number & 1023) < 0.4
    layer = np.where(brick, np.int32(BRICKS), np.int32(SPECKLE))
    grain = sample(look.atlas, layer, wall * 80, patch.height * 80, patch.footprint * 80)
    grain *= _f32(brick, 0.13, 0.05)
    grain += 0.08 * sample(look.atlas, CLOUD, wall * 20, patch.height * 20, patch.footprint * 20)
    albedo *= np.maximum(1 + grain, 0.1)
    _layer(albedo, albedo * np.float32(0.6), cover(0.5 - patch.height, patch.footprint))

    cell, storey, wide, tall = patch.detail
    column, floor = np.floor(wall / cell), np.floor(patch.height / storey)
    off_u = np.abs(wall - (column + 0.5) * cell)
    off_v = np.abs(patch.height - (floor + 0.52) * storey)
    inside_u, inside_v = 0.5 * wide * cell - off_u, 0.5 * tall * storey - off_v
    on_wall = patch.face != TOP
    key = (column * 73 + floor * 179).astype(np.int32) + patch.number * 31
    chance = _HASH.take(key & 1023)
    on_wall &= chance > 0.06  # some windows are missing
    frame = cover(np.minimum(inside_u, inside_v) + 0.09, patch.footprint) * on_wall
    _layer(albedo, np.float32([0.62, 0.6, 0.56]) * look.ambient.mean() * 1.6, frame)
    pane = cover(np.minimum(inside_u, inside_v), patch.footprint) * on_wall
    sky = 0.10 + 0.22 * chance * (0.4 + 0.6 * np.clip(inside_v / storey + 0.5, 0, 1))
    glass = [look.look.glass[c] + sky * look.horizon[c] for c in range(3)]
    _layer(albedo, glass, pane)
    return albedo


def roof(look: Appearance, patch: Patch) -> np.ndarray:
    """Tiles in courses."""
    across = np.where(patch.face < FRONT, patch.along, patch.across)
    tiles = sample(look.atlas, BRICKS, across * 64, patch.height * 96, patch.footprint * 96)
    return patch.colour * np.maximum(1 + 0.16 * tiles, 0.1)


def car(look: Appearance, patch: Patch) -> np.ndarray:
    """Paint, wheels, dark sills, lamps, number plates, and a band of windows.

    `detail`: distance of the axles from the middle, radius of the wheels (0: no wheels), lower and
    upper edge of the windows (0: none), metres.
    """
    albedo = patch.colour.copy()
    wheel, tyre, glass_low, glass_high = patch.detail
    on_side, soft = patch.face < FRONT, patch.footprint
    is_body = tyre > 0
    sill = cover(0.24 - patch.height, soft) * is_body
    _layer(albedo, (0.02, 0.02, 0.022), sill)
    off = np.abs(patch.along) - wheel
    rise = patch.height - tyre
    radius = np.sqrt(off * off + rise * rise)
    around = is_body & on_side
    _layer(albedo, (0.018, 0.018, 0.02), cover(tyre + 0.06 - radius, soft) * around)
    _layer(albedo, (0.30, 0.30, 0.31), cover(0.62 * tyre - radius, soft) * around)
    seam = cover(0.012 - np.abs(patch.along - 0.12), soft) * (around & (patch.height > 0.3))
    _layer(albedo, albedo * np.float32(0.5), seam)
    _paint_ends(albedo, patch, is_body)
    band = np.minimum(patch.height - glass_low, glass_high - patch.height)
    pillar = np.where(on_side, np.abs(np.abs(patch.along + 0.1) - 0.55) - 0.05, 1.0)
    upright = (patch.face < TOP) & (glass_high > 0)
    share = cover(np.minimum(band, pillar + 0.5 * (glass_high > 1.7)), soft) * upright
    shine = 0.06 + 0.25 * np.clip((patch.height - glass_low) / 0.5, 0, 1)
    _layer(albedo, [look.look.glass[c] + 0.5 * shine * look.horizon[c] for c in range(3)], share)
    return albedo


def _paint_ends(albedo: np.ndarray, patch: Patch, is_body: np.ndarray) -> None:
    """Head lamps and grille in front, tail lamps and number plate behind, in place."""
    soft, beside = patch.footprint, np.abs(patch.across)
    low = np.abs(patch.height - 0.62)
    lamp = cover(np.minimum(0.09 - low, 0.18 - np.abs(beside - 0.62)), soft) * is_body
    front, back = patch.face == FRONT, patch.face == BACK
    _layer(albedo, (0.85, 0.85, 0.80), lamp * front)
    _layer(albedo, (0.55, 0.02, 0.02), lamp * back)
    grille = cover(np.minimum(0.08 - np.abs(patch.height - 0.5), 0.4 - beside), soft) * is_body
    _layer(albedo, (0.03, 0.03, 0.03), grille * front)
    _layer(albedo, (0.7, 0.7, 0.66), grille * back * (beside < 0.26))


def crate(look: Appearance, patch: Patch) -> np.ndarray:
    """Walls, bins and other plain boxes."""
    wall = np.where(patch.face < FRONT, patch.along, patch.across)
    grain = 0.07 * sample(look.atlas, SPECKLE, wall * 96, patch.height * 96, patch.footprint * 96)
    dirt = 0.10 * sample(look.atlas, CLOUD, wall * 32, patch.height * 32, patch.footprint * 32)
    return patch.colour * np.maximum(1 + grain + dirt, 0.1)


def sign(look: Appearance, patch: Patch) -> np.ndarray:
    """A plate with a pale border and bar."""
    albedo = patch.colour.copy()
    bar = cover(0.05 - np.abs(patch.height - 2.45), patch.footprint)
    border = cover(np.abs(patch.across) - 0.27, patch.footprint)
    _layer(albedo, (0.8, 0.8, 0.78), np.maximum(bar, border))
    return albedo


def foliage(look: Appearance, patch: Patch) -> np.ndarray:
    """Hedges and crowns: leaves in clumps, lighter outside."""
    u = (patch.along + 0.7 * patch.across) * 70
    leaves = sample(look.atlas, LEAVES, u, patch.height * 70, patch.footprint * 70)
    clumps = sample(look.atlas, CLOUD, u * 0.4, patch.height * 28, patch.footprint * 28)
    return patch.colour * np.clip(1 + 0.42 * leaves + 0.2 * clumps, 0.15, 2.0)


def bark(look: Appearance, patch: Patch) -> np.ndarray:
    """Trunks, poles and clothes."""
    grain = sample(look.atlas, SPECKLE, patch.across * 90, patch.height * 30, patch.footprint * 90)
    return patch.colour * np.maximum(1 + 0.1 * grain, 0.1)
