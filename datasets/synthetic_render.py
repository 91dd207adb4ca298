"""Ray casting of a synthetic street: which surface does the ray of a pixel meet, and how far away.

Along the ray (x, y, 1) of a pixel, the inverse depth at which it crosses a plane is linear in x and
y. So a convex solid costs a few broadcast additions: it is entered at the smallest inverse depth of
the planes that face the camera and left at the largest of the others. Rays are cast only inside the
rectangle that contains the projected object. Depth is camera z in metres, exact up to float32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .synthetic_world import BOTTOM, World

SKY, GROUND = -1, -2  # surface ids of pixels that meet no object
NEAR_METRES = 0.3
MIN_PIXELS = 3  # objects whose rectangle is smaller are left out
HORIZON_METRES = 1000.0  # the ground ends here, less than a pixel below its true horizon
EDGES = np.array(
    [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)]
)  # between the corners of World.vertices


class Camera(NamedTuple):
    """A pinhole in the world. Pixel (row v, column u) has its centre at the integer (v, u)."""

    rotation: np.ndarray  # (3, 3) camera to world
    centre: np.ndarray  # (3,) metres
    intrinsics: np.ndarray  # (3, 3) pixels
    size: tuple[int, int]  # height, width


class Hits(NamedTuple):
    """What the rays met. `direction` is the world direction of the ray whose camera z is 1."""

    inverse_depth: np.ndarray  # (H, W) float32, 1/metres, 0 = sky
    surface: np.ndarray  # (H, W) int32 surface id (see World), or SKY or GROUND
    direction: np.ndarray  # (3, H, W) float32


def rays(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Camera-frame ray coordinates: x of every column (W,) and y of every row (H,), float32."""
    height, width = camera.size
    matrix = camera.intrinsics
    x = (np.arange(width) - matrix[0, 2]) / matrix[0, 0]
    y = (np.arange(height) - matrix[1, 2]) / matrix[1, 1]
    return x.astype(np.float32), y.astype(np.float32)


def cast(world: World, camera: Camera, time_s: float) -> Hits:
    """Find the first surface along the ray of every pixel, `time_s` seconds after the start."""
    x, y = rays(camera)
    turn = camera.rotation.astype(np.float32)
    direction = (turn[:, 0, None] * x)[:, None, :] + (turn[:, 1, None] * y + turn[:, 2, None])[
        :, :, None
    ]
    inverse = direction[1] * np.float32(-1.0 / camera.centre[1])  # the ground, y = 0
    inverse[inverse < 1 / HORIZON_METRES] = 0
    surface = np.where(inverse > 0, np.int32(GROUND), np.int32(SKY))

    shift = world.velocity * time_s
    rects, nearest = _rectangles(world.vertices + shift[:, None], camera)
    tall, wide = rects[:, 1] - rects[:, 0], rects[:, 3] - rects[:, 2]
    seen = np.flatnonzero((tall > 0) & (wide > 0) & (tall * wide >= MIN_PIXELS))
    seen = seen[
        np.argsort(nearest[seen], kind="stable")
    ]  # near first: hidden objects then drop out early
    solids, rounds = seen[seen < world.num_solids], seen[seen >= world.num_solids]
    _cast_solids(world, camera, shift, solids, rects, nearest, inverse, surface)
    _cast_rounds(world, camera, shift, rounds, rects, nearest, inverse, surface, direction)
    return Hits(inverse, surface, direction)


def depth_of(hits: Hits, max_depth: float = 255.0) -> np.ndarray:
    """Camera z in metres, (H, W) float32; 0 for sky and for anything beyond `max_depth`."""
    known = hits.inverse_depth * np.float32(max_depth) >= 1
    return np.divide(1, hits.inverse_depth, out=np.zeros_like(hits.inverse_depth), where=known)


def _rectangles(vertices: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Pixel rectangles around corners (N, 8, 3), and the nearest z of each (N,).

    Rectangles are (N, 4): top, bottom, left, right, half open, empty where out of sight. Objects
    that reach behind the camera are clipped at NEAR_METRES.
    """
    local = (vertices - camera.centre) @ camera.rotation  # (N, 8, 3) camera frame
    depth = local[:, :, 2]
    low = np.full((len(local), 2), np.inf)
    high = np.full((len(local), 2), -np.inf)
    focal = camera.intrinsics[[0, 1], [0, 1]]
    middle = camera.intrinsics[:2, 2]

    whole = depth.min(axis=1) >= NEAR_METRES
    flat = local[whole, :, :2] / local[whole, :, 2:] * focal + middle
    low[whole], high[whole] = flat.min(axis=1), flat.max(axis=1)
    for index in np.flatnonzero(~whole & (depth.max(axis=1) > NEAR_METRES)):
        points = local[index]
        start, end = points[EDGES[:, 0]], points[EDGES[:, 1]]
        crossing = (start[:, 2] < NEAR_METRES) != (end[:, 2] < NEAR_METRES)
        start, end = start[crossing], end[crossing]
        share = (NEAR_METRES - start[:, 2:]) / (end[:, 2:] - start[:, 2:])
        points = np.concatenate(
            [points[points[:, 2] >= NEAR_METRES], start + share * (end - start)]
        )
        flat = points[:, :2] / points[:, 2:] * focal + middle
        low[index], high[index] = flat.min(axis=0), flat.max(axis=0)

    limit = np.array([camera.size[1], camera.size[0]])
    first = np.clip(np.ceil(low), 0, limit).astype(int)
    last = np.clip(np.floor(high) + 1, 0, limit).astype(int)
    rects = np.stack([first[:, 1], last[:, 1], first[:, 0], last[:, 0]], axis=1)
    return rects, np.maximum(depth.min(axis=1), NEAR_METRES)


def _cast_solids(world, camera, shift, order, rects, nearest, inverse, surface) -> None:
    """Draw the solids named in `order` into `inverse` (H, W) and `surface` (H, W)."""
    x, y = rays(camera)
    normals = world.normals[order]
    offsets = world.offsets[order] + (normals * shift[order, None]).sum(axis=2)
    slack = offsets - normals @ camera.centre  # (n, 6) metres; negative: the camera is outside
    slack = np.where(np.abs(slack) < 1e-6, 1e-6, slack)
    plane = ((normals @ camera.rotation) / slack[:, :, None]).astype(np.float32)
    box = rects[order]
    # the largest value of each plane within the rectangle; if not positive, it is never crossed
    half = (box[:, [3, 1]] - box[:, [2, 0]]) / 2
    middle = (box[:, [3, 1]] + box[:, [2, 0]]) / 2 - camera.intrinsics[:2, 2]
    focal = camera.intrinsics[[0, 1], [0, 1]]
    slope = plane[:, :, :2] / focal
    peak = (slope * middle[:, None] + np.abs(slope) * half[:, None]).sum(axis=2) + plane[:, :, 2]
    enter = slack < 0
    leave = ~enter & (peak > 0)
    leave[:, BOTTOM] &= world.standing[order] == 0  # nothing is seen from below the ground
    reached = enter.any(axis=1) & (np.where(enter, peak, 1).min(axis=1) > 0)
    columns = (plane[:, :, 0, None] * x)[:, :, None]  # (n, 6, 1, W)
    rows = (plane[:, :, 1, None] * y + plane[:, :, 2, None])[:, :, :, None]  # (n, 6, H, 1)

    for k in np.flatnonzero(reached).tolist():
        top, bottom, left, right = box[k].tolist()
        closest = inverse[top:bottom, left:right]
        if closest.min() * nearest[order[k]] >= 1:
            continue
        wide, tall = columns[k, :, :, left:right], rows[k, :, top:bottom]
        first, *others = np.flatnonzero(enter[k]).tolist()
        name = 6 * int(order[k])
        entry, face = wide[first] + tall[first], np.int32(name + first)  # (h, w)
        for j in others:
            other = wide[j] + tall[j]
            face = face + (other < entry) * (np.int32(name + j) - face)
            np.minimum(entry, other, out=entry)
        hit = entry > closest
        for j in np.flatnonzero(leave[k]).tolist():
            hit &= entry > wide[j] + tall[j]
        _draw(hit, entry, face, closest, surface[top:bottom, left:right])


def _draw(hit, entry, face, closest, surface) -> None:
    """Where `hit`, put `entry` into `closest` and `face` into `surface`; all (h, w), in place.

    Arithmetic with the mask, because masked copies are several times slower.
    """
    entry *= hit
    np.maximum(closest, entry, out=closest)
    surface += hit * (face - surface)


def _cast_rounds(world, camera, shift, order, rects, nearest, inverse, surface, direction) -> None:
    """Draw the rounds named in `order`: the larger root of a quadratic in the inverse depth."""
    x, y = rays(camera)
    flat_square = direction[0] ** 2 + direction[2] ** 2
    rise = direction[1]
    rise_square = rise**2
    for index in order:
        top, bottom, left, right = rects[index]
        box = (slice(top, bottom), slice(left, right))
        closest = inverse[box]
        if closest.min() * nearest[index] >= 1:
            continue
        r = index - world.num_solids
        squash = float(world.squash[r]) ** 2
        away = camera.centre - world.centre[index] - shift[index]
        scaled = away * (1.0, squash, 1.0)
        a = float(away @ scaled) - float(world.radius[r]) ** 2
        if a <= 0:
            continue  # the camera is inside
        slope = (scaled @ camera.rotation).astype(np.float32)
        b = (slope[0] * x[left:right])[None] + (slope[1] * y[top:bottom] + slope[2])[:, None]
        square = (
            flat_square[box] + np.float32(squash) * rise_square[box] if squash else flat_square[box]
        )
        root = b * b - np.float32(a) * square
        hit = root > 0
        entry = (np.sqrt(np.maximum(root, 0)) - b) * np.float32(1 / a)
        hit &= entry > closest
        if (
            not squash
        ):  # height of the hit times inverse depth, compared with both ends of the cylinder
            height = np.float32(-camera.centre[1]) * entry - rise[box]
            low, high = world.span[r].astype(np.float32)
            hit &= (height >= low * entry) & (height <= high * entry)
        _draw(hit, entry, np.int32(6 * world.num_solids + r), closest, surface[box])
