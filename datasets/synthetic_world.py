"""Solids and rounds: the only two things a synthetic street is built from, as arrays.

World axes follow the KITTI camera: x right, y down, z forward along the street; the ground is y = 0
and the height of a point is -y. A *solid* is a box standing on a rotated rectangle, whose top
rectangle may be inset (roofs, windscreens), hence six planes. A *round* is a vertical cylinder or
an upright ellipsoid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BUILDING, ROOF, CAR, CRATE, HEDGE, SIGN = range(6)  # kinds of solids
POLE, TRUNK, CROWN, PERSON = range(6, 10)  # kinds of rounds
NUM_KINDS = 10
RIGHT, LEFT, FRONT, BACK, TOP, BOTTOM = range(6)  # faces of a solid


class Solid(NamedTuple):
    """Metres and radians; yaw 0 looks along +z and turns towards +x. Heights are above the ground.

    `inset_*` is how far the top rectangle lies inside the bottom one. `tint` and `shade` in [0, 1)
    pick the colour from a look's palette. `detail` depends on the kind (see synthetic_surfaces).
    """

    kind: int
    x: float
    z: float
    yaw: float
    half_length: float
    half_width: float
    low: float
    high: float
    tint: float
    shade: float
    inset_front: float = 0.0
    inset_back: float = 0.0
    inset_side: float = 0.0
    speed: float = 0.0  # m/s along yaw
    detail: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


class Round(NamedTuple):
    """A cylinder, or an ellipsoid, with a vertical axis, from `low` to `high` metres."""

    kind: int
    x: float
    z: float
    radius: float
    low: float
    high: float
    tint: float
    shade: float
    ellipsoid: bool = False
    yaw: float = 0.0
    speed: float = 0.0


@dataclass(frozen=True)
class World:
    """All primitives of a scene at time 0: S solids, then R rounds (N = S + R).

    Surface ids used by the renderer: 6 * solid + face for solids, 6 * S + r for rounds.
    """

    kind: np.ndarray  # (N,) int
    tint: np.ndarray  # (N,) in [0, 1)
    shade: np.ndarray  # (N,) in [0, 1)
    velocity: np.ndarray  # (N, 3) m/s
    vertices: (
        np.ndarray
    )  # (N, 8, 3) corners (solids) or bounding corners (rounds), bottom four first
    centre: np.ndarray  # (N, 3)
    heading: np.ndarray  # (S, 3) unit
    detail: np.ndarray  # (S, 4)
    normals: np.ndarray  # (S, 6, 3) outward unit normals
    offsets: np.ndarray  # (S, 6): inside means normal . point <= offset
    standing: np.ndarray  # (S,) 1 where the bottom face lies on the ground, else 0
    radius: np.ndarray  # (R,) horizontal
    squash: np.ndarray  # (R,) radius / half height; 0 for cylinders
    span: np.ndarray  # (R, 2) lowest and highest height

    @property
    def num_solids(self) -> int:
        return len(self.normals)


def assemble(solids: list[Solid], rounds: list[Round]) -> World:
    """Turn primitives into the arrays of a World (either list may be empty)."""
    flat = np.array([(*s[:-1], *s.detail) for s in solids], dtype=np.float64).reshape(-1, 18)
    balls = np.array(rounds, dtype=np.float64).reshape(-1, 11)
    heading, right = _axes(flat[:, 3])
    normals, offsets = _planes(flat, heading, right)
    low, high = balls[:, 4], balls[:, 5]
    middle = np.where(balls[:, 8] > 0, -(low + high) / 2, 0.0)  # a cylinder's centre height is free
    centre = np.concatenate(
        [
            np.stack([flat[:, 1], np.zeros(len(flat)), flat[:, 2]], axis=1),
            np.stack([balls[:, 1], middle, balls[:, 2]], axis=1),
        ]
    )
    velocity = np.concatenate([heading * flat[:, 13:14], _axes(balls[:, 9])[0] * balls[:, 10:11]])
    return World(
        kind=np.concatenate([flat[:, 0], balls[:, 0]]).astype(np.int64),
        tint=np.concatenate([flat[:, 8], balls[:, 6]]),
        shade=np.concatenate([flat[:, 9], balls[:, 7]]),
        velocity=velocity,
        vertices=np.concatenate([_corners(flat, heading, right), _bounds(balls)]),
        centre=centre,
        heading=heading,
        detail=flat[:, 14:18],
        normals=normals,
        offsets=offsets,
        standing=(flat[:, 6] <= 0).astype(int),
        radius=balls[:, 3],
        squash=np.where(balls[:, 8] > 0, 2 * balls[:, 3] / np.maximum(high - low, 1e-6), 0.0),
        span=balls[:, 4:6],
    )


def _axes(yaw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along and to the right of `yaw`, each (n, 3)."""
    zero = np.zeros_like(yaw)
    heading = np.stack([np.sin(yaw), zero, np.cos(yaw)], axis=1)
    return heading, np.stack([np.cos(yaw), zero, -np.sin(yaw)], axis=1)


def _planes(
    flat: np.ndarray, heading: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Outward normals (S, 6, 3) and offsets (S, 6), in the order of the face constants."""
    up = np.array([0.0, -1.0, 0.0])
    tall = (flat[:, 7] - flat[:, 6])[:, None]
    base = np.stack([flat[:, 1], -flat[:, 6], flat[:, 2]], axis=1)  # centre of the bottom rectangle
    length, width = flat[:, 4:5], flat[:, 5:6]
    sides = [
        (right, width, flat[:, 12:13]),
        (-right, width, flat[:, 12:13]),
        (heading, length, flat[:, 10:11]),
        (-heading, length, flat[:, 11:12]),
    ]
    normals, points = [], []
    for outward, reach, inset in sides:
        normal = outward * tall + up * inset  # a face leans back by inset / tall
        normals.append(normal / np.linalg.norm(normal, axis=1, keepdims=True))
        points.append(base + outward * reach)
    normals += [np.broadcast_to(up, base.shape), np.broadcast_to(-up, base.shape)]
    points += [base + up * tall, base]
    stacked = np.stack(normals, axis=1)
    return stacked, (stacked * np.stack(points, axis=1)).sum(axis=2)


def _corners(flat: np.ndarray, heading: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(S, 8, 3): bottom rectangle, then top rectangle, both in the order +-, ++, -+, --."""
    corners = []
    for level, inset in ((6, 0.0), (7, 1.0)):
        for along, across in ((1, -1), (1, 1), (-1, 1), (-1, -1)):
            end = flat[:, 10] if along > 0 else flat[:, 11]
            point = heading * (along * (flat[:, 4] - inset * end))[:, None]
            point = point + right * (across * (flat[:, 5] - inset * flat[:, 12]))[:, None]
            point = point + np.stack([flat[:, 1], -flat[:, level], flat[:, 2]], axis=1)
            corners.append(point)
    return np.stack(corners, axis=1)


def _bounds(balls: np.ndarray) -> np.ndarray:
    """(R, 8, 3): corners of the box around each round, in the order of `_corners`."""
    corners = []
    for level in (4, 5):
        for along, across in ((1, -1), (1, 1), (-1, 1), (-1, -1)):
            x = balls[:, 1] + across * balls[:, 3]
            z = balls[:, 2] + along * balls[:, 3]
            corners.append(np.stack([x, -balls[:, level], z], axis=1))
    return np.stack(corners, axis=1)
