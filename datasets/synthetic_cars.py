"""Cars of a synthetic street, parked and moving. Places as in synthetic_street."""

from __future__ import annotations

import numpy as np

from .synthetic_street import Draft, Style
from .synthetic_world import CAR


def add_car(draft: Draft, s: float, side: float, yaw: float, speed: float = 0.0) -> None:
    """A saloon, a hatchback or a van: body with painted wheels, cabin with a band of windows."""
    rng = draft.rng
    paint = {"tint": rng.random(), "shade": rng.random(), "yaw": yaw, "speed": speed}
    sort = rng.random()
    if sort < 0.14:
        length, width, high = rng.uniform(2.4, 2.9), rng.uniform(0.95, 1.05), rng.uniform(1.9, 2.4)
        detail = (0.62 * length, 0.34, 0.56 * high, 0.86 * high)
        inset = {"inset_front": 0.7, "inset_back": 0.08, "inset_side": 0.12}
        draft.solid(CAR, s, side, length, width, 0.0, high, detail=detail, **inset, **paint)
        return
    length, width = rng.uniform(1.85, 2.35), rng.uniform(0.83, 0.94)
    waist, high = rng.uniform(0.82, 0.95), rng.uniform(1.40, 1.62)
    inset = {"inset_front": 0.14, "inset_back": 0.1, "inset_side": 0.06}
    detail = (0.62 * length, 0.33, 0.0, 0.0)
    draft.solid(CAR, s, side, length, width, 0.0, waist, detail=detail, **inset, **paint)
    short = sort < 0.5  # a hatchback: its cabin reaches the tail
    half, back = (0.66, 0.30) if short else (0.58, 0.12)
    half, back = half * length, back * length
    turn = draft.road.yaw(s) + yaw
    x, z = draft.road.middle(s) + side - np.sin(turn) * back, s - np.cos(turn) * back
    inset = {"inset_front": 0.34 * half, "inset_back": (0.14 if short else 0.3) * half}
    paint["yaw"] = turn - draft.road.yaw(z)
    draft.solid(
        CAR, z, x - draft.road.middle(z), half, width - 0.07, waist - 0.05, high,
        inset_side=0.18, detail=(0.0, 0.0, waist + 0.05, high - 0.08), **inset, **paint,
    )  # fmt: skip


def add_parked_cars(draft: Draft, style: Style, sign: int) -> None:
    """Cars at the kerb where the road has a parking strip; else a few half on the pavement."""
    rng, road = draft.rng, draft.road
    chance = style.parked if road.parking else 0.15 * style.parked
    s = rng.uniform(2, 9)
    while s < draft.end - 60:
        if rng.random() < chance and abs(s - road.junction) > 7 and abs(s - road.crossing) > 6:
            turned = np.pi if (sign < 0) == (rng.random() < 0.8) else 0.0
            side = sign * (road.half_width - 1.05 + rng.normal(0, 0.1))
            add_car(draft, s, side, turned + rng.normal(0, 0.02))
        s += rng.uniform(5.4, 8.5)


def add_traffic(draft: Draft, lane: float, speed: float, seconds: float) -> None:
    """Moving cars: sometimes one ahead of the camera, some coming towards it, none that hits it."""
    rng, road = draft.rng, draft.road
    if rng.random() < 0.55:
        gap = rng.uniform(7, 38)
        slower = min(2.0, (gap - 6) / seconds)
        add_car(draft, gap, lane, 0.0, speed + rng.uniform(-slower, 2.0))
    for side in [-lane] + [-3.0 * lane, 3.0 * lane] * (road.lanes - 1):
        s = rng.uniform(9, 30)
        while s < draft.end - 65:
            if rng.random() < 0.4:
                away = side > 0
                add_car(draft, s, side, 0.0 if away else np.pi, rng.uniform(0.6, 1.2) * speed)
            s += rng.uniform(14, 40)
