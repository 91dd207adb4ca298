"""The furniture of a synthetic street: buildings, cars, trees, poles, hedges, people.

Places along the street are `s` (metres, = world z) and `side` (metres to the right of the middle of
the road, along world x). Sizes vary moderately, as in real streets, so that they tell distance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .synthetic_world import (
    BUILDING,
    CRATE,
    CROWN,
    HEDGE,
    PERSON,
    POLE,
    ROOF,
    SIGN,
    TRUNK,
    Round,
    Solid,
)


@dataclass(frozen=True)
class Road:
    """What is painted on the ground; lengths in metres. The middle is x = bend * z**2."""

    bend: float
    half_width: float
    lanes: int  # per direction
    parking: float  # width of the parking strip inside half_width, each side
    pavement: float  # width of the pavement beyond the kerb
    paved_yards: bool  # beyond the pavement: slabs instead of grass
    crossing: float  # s of a zebra crossing, -1000 for none
    junction: float  # s of a side street, -1000 for none
    edge_lines: bool

    def middle(self, s):
        """World x of the middle of the road."""
        return self.bend * s * s

    def yaw(self, s):
        """Direction of the road, radians."""
        return np.arctan(2 * self.bend * s)

    @property
    def edge(self) -> float:
        """Outer edge of the pavement."""
        return self.half_width + self.pavement


class Style(NamedTuple):
    """A type of street; pairs are (low, high) in metres, single numbers are chances."""

    half_width: tuple[float, float]
    pavement: tuple[float, float]
    setback: tuple[float, float]  # edge of the pavement to the facades
    storeys: tuple[int, int]  # high is exclusive
    frontage: tuple[float, float]  # length of a building along the street
    gap: float  # that a plot is empty
    gable: float  # that a roof is pitched
    parked: float  # that a parking space is taken
    trees: float
    hedges: float
    people: int  # most people on a side


@dataclass
class Draft:
    """A street while it is being furnished, up to `end` metres."""

    rng: np.random.Generator
    road: Road
    end: float
    solids: list[Solid] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)

    def solid(self, kind, s, side, half_length, half_width, low, high, yaw=0.0, **rest) -> None:
        """Add a solid turned by `yaw` from the road. Its colour is drawn unless given."""
        rest = {"tint": self.rng.random(), "shade": self.rng.random(), **rest}
        place = (self.road.middle(s) + side, s, self.road.yaw(s) + yaw)
        self.solids.append(Solid(kind, *place, half_length, half_width, low, high, **rest))

    def round(self, kind, s, side, radius, low, high, **rest) -> None:
        """Add a cylinder or an ellipsoid. Its colour is drawn unless given."""
        rest = {"tint": self.rng.random(), "shade": self.rng.random(), **rest}
        self.rounds.append(Round(kind, self.road.middle(s) + side, s, radius, low, high, **rest))


def add_buildings(draft: Draft, style: Style, sign: int) -> None:
    """A row of buildings on the left (sign -1) or right side, open at the junction."""
    rng, road = draft.rng, draft.road
    s = rng.uniform(-25, -10)
    setback = road.edge + rng.uniform(*style.setback)
    while s < draft.end:
        length = rng.uniform(*style.frontage)
        at_junction = s < road.junction + 5 and s + length > road.junction - 5
        if at_junction or rng.random() < style.gap:
            s += 10 if at_junction else length
            continue
        depth, storey = rng.uniform(7, 13), rng.uniform(2.7, 3.4)
        side = sign * (setback + rng.uniform(0, 0.2) * style.setback[1] + depth / 2)
        high = storey * rng.integers(*style.storeys) + rng.uniform(0.3, 1.0)
        half = length / 2 - (0.0 if style.gap < 0.1 else rng.uniform(0.2, 1.5))
        middle = s + length / 2
        detail = (rng.uniform(1.9, 3.4), storey, rng.uniform(0.35, 0.62), rng.uniform(0.42, 0.62))
        draft.solid(BUILDING, middle, side, half, depth / 2, 0.0, high, detail=detail)
        if rng.random() < style.gable:
            _add_roof(draft, middle, side, half, depth / 2, high)
        s += length + (rng.uniform(0, 5) if rng.random() < 0.25 else 0.0)


def _add_roof(draft, s, side, half_length, half_width, high) -> None:
    """A pitched roof; its ridge runs along or across the street."""
    rng = draft.rng
    rise = rng.uniform(0.4, 0.7) * min(half_length, half_width)
    hip = rng.choice([0.02, rng.uniform(0.3, 0.8)])
    along, across = half_length + 0.35, half_width + 0.35  # eaves
    if rng.random() < 0.6:
        inset = {"inset_side": 0.98 * across, "inset_front": hip * along, "inset_back": hip * along}
    else:
        inset = {
            "inset_side": hip * across,
            "inset_front": 0.98 * along,
            "inset_back": 0.98 * along,
        }
    draft.solid(ROOF, s, side, along, across, high, high + rise, **inset)


def add_street_end(draft: Draft, travel: float) -> None:
    """Sometimes the street ends at a building across it."""
    rng = draft.rng
    if rng.random() < 0.25:
        s, high = travel + rng.uniform(35, 100), rng.uniform(5, 16)
        detail = (rng.uniform(1.9, 3.4), rng.uniform(2.7, 3.4), 0.5, 0.5)
        draft.solid(
            BUILDING, s, rng.uniform(-5, 5), 5, rng.uniform(12, 30), 0.0, high, detail=detail
        )


def add_verge(draft: Draft, style: Style, sign: int) -> None:
    """Trees, lamps and signs near the kerb; hedges and walls along the plots."""
    rng, road = draft.rng, draft.road
    if rng.random() < style.trees:
        near, spacing = rng.uniform(0.6, 1.2), rng.uniform(8, 16)
        far = road.pavement < 1.5 or rng.random() < 0.3
        side = (road.edge + 1.5 + near) if far else (road.half_width + near)
        for s in np.arange(rng.uniform(4, 16), draft.end - 55, spacing):
            if abs(s - road.junction) > 6 and rng.random() < 0.85:
                _add_tree(draft, s + rng.normal(0, 1), sign * (side + rng.normal(0, 0.2)))
    spacing = rng.uniform(22, 34)
    for s in np.arange(rng.uniform(3, 25), draft.end - 55, spacing):
        _add_lamp(draft, s, sign)
    for s in rng.uniform(8, draft.end - 70, rng.integers(0, 4)):
        side, low = sign * (road.half_width + 0.5), rng.uniform(1.9, 2.3)
        draft.round(POLE, s, side, 0.04, 0.0, low + 0.6, tint=0.1)
        draft.solid(SIGN, s - 0.06, side, 0.02, 0.33, low, low + 0.66)
    if rng.random() < style.hedges:
        s, side, high = rng.uniform(-8, 4), sign * (road.edge + 0.45), rng.uniform(0.8, 1.9)
        kind = HEDGE if rng.random() < 0.65 else CRATE
        while s < draft.end - 40:
            half = rng.uniform(3, 9)
            if abs(s + half - road.junction) > half + 4:
                width = 0.35 if kind == HEDGE else 0.12
                draft.solid(kind, s + half, side, half, width, 0.0, high * rng.uniform(0.9, 1.1))
            s += 2 * half + rng.uniform(1, 5)


def add_clutter(draft: Draft, style: Style, sign: int) -> None:
    """Bins, boxes and kiosks on the pavement, and people."""
    rng, road = draft.rng, draft.road
    for s in rng.uniform(5, draft.end - 70, rng.integers(0, 5)):
        size = rng.uniform(0.25, 0.6)
        side = sign * (road.edge - size - 0.1) if road.pavement > 1.5 else sign * (road.edge + 1)
        draft.solid(CRATE, s, side, size, size, 0.0, rng.uniform(0.8, 1.5), yaw=rng.normal(0, 0.15))
    if rng.random() < 0.2 and road.pavement > 1.5:
        s = rng.uniform(12, 60)
        draft.solid(CRATE, s, sign * (road.edge - 0.7), 1.6, 0.7, 0.0, rng.uniform(2.2, 2.6))
    for s in rng.uniform(6, 60, rng.integers(0, style.people + 1)):
        side = sign * rng.uniform(road.half_width + 0.4, road.edge - 0.2)
        high = rng.uniform(1.55, 1.88)
        walk = {"yaw": rng.choice([0.0, np.pi]), "speed": rng.uniform(0.0, 1.5)}
        draft.round(PERSON, s, side, 0.22, 0.0, high - 0.26, **walk)
        draft.round(PERSON, s, side, 0.12, high - 0.28, high, ellipsoid=True, tint=0.45, **walk)


def _add_tree(draft: Draft, s: float, side: float) -> None:
    rng = draft.rng
    trunk, size, tint = rng.uniform(1.9, 2.8), rng.uniform(1.2, 2.1), rng.random()
    draft.round(TRUNK, s, side, rng.uniform(0.1, 0.2), 0.0, trunk + 0.6)
    for _ in range(3 if s < draft.end - 80 else 1):  # far away one is enough
        radius = size * rng.uniform(0.6, 0.85)
        off_s, off_side = rng.normal(0, 0.45 * size, 2)
        low = trunk + rng.uniform(-0.2, 0.7) * size
        shape = {"ellipsoid": True, "tint": tint, "shade": rng.random()}
        draft.round(CROWN, s + off_s, side + off_side, radius, low, low + 1.9 * radius, **shape)


def _add_lamp(draft: Draft, s: float, sign: int) -> None:
    rng, road = draft.rng, draft.road
    high, tint = rng.uniform(5.5, 8.0), rng.random()
    side = sign * (road.half_width + 0.35)
    draft.round(POLE, s, side, 0.075, 0.0, high, tint=tint)
    draft.solid(CRATE, s, side - sign * 0.7, 0.1, 0.75, high - 0.1, high + 0.06, tint=0.0)
