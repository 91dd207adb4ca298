"""Drawing a synthetic street at random, and the drive of the camera through it.

Everything depends on the random generator only, never on the look. Places: see synthetic_street.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .synthetic_cars import add_parked_cars, add_traffic
from .synthetic_street import (
    Draft,
    Road,
    Style,
    add_buildings,
    add_clutter,
    add_street_end,
    add_verge,
)
from .synthetic_world import World, assemble

FRAMES_PER_SECOND = 10.0
BASELINE_METRES = 0.54  # the right camera's centre lies this far along +x of the left camera
CAMERA_HEIGHT_METRES = 1.65
VIEW_METRES = 150.0  # the street is furnished this far beyond the end of the drive

HOMES = Style((3.2, 4.2), (1.6, 2.6), (2.0, 7.0), (1, 4), (8, 14), 0.2, 0.85, 0.35, 0.5, 0.6, 2)
TOWN = Style((3.6, 5.2), (2.0, 3.6), (0.0, 0.6), (3, 7), (10, 22), 0.05, 0.25, 0.7, 0.25, 0.0, 6)
AVENUE = Style((6.5, 8.2), (3.0, 5.0), (1.0, 6.0), (3, 9), (14, 30), 0.12, 0.1, 0.5, 0.8, 0.2, 4)
COUNTRY = Style((3.4, 4.0), (0.2, 0.6), (6.0, 16.0), (1, 3), (9, 16), 0.75, 0.9, 0.08, 0.9, 0.35, 0)
STYLES = (HOMES, TOWN, AVENUE, COUNTRY)
STYLE_SHARES = (0.35, 0.33, 0.18, 0.14)


@dataclass(frozen=True)
class Drive:
    """The way of the left camera, one row per frame."""

    centres: np.ndarray  # (frames, 3) metres
    rotations: np.ndarray  # (frames, 3, 3) camera to world

    def poses(self, right: float) -> np.ndarray:
        """(frames, 4, 4) camera to world of a camera `right` metres along x of the left camera."""
        poses = np.tile(np.eye(4), (len(self.centres), 1, 1))
        poses[:, :3, :3] = self.rotations
        poses[:, :3, 3] = self.centres + right * self.rotations[:, :, 0]
        return poses


@dataclass(frozen=True)
class Scene:
    """One street and one drive through it."""

    road: Road
    world: World
    drive: Drive


def draw_scene(rng: np.random.Generator, num_frames: int) -> Scene:
    """Draw a street, and a drive of `num_frames` frames at 10 Hz through it."""
    style = STYLES[rng.choice(len(STYLES), p=STYLE_SHARES)]
    speed = rng.uniform(4.0, 12.0)
    travel = speed * num_frames / FRAMES_PER_SECOND
    road = _draw_road(rng, style, travel)
    draft = Draft(rng, road, travel + VIEW_METRES)
    for sign in (-1, 1):
        add_buildings(draft, style, sign)
        add_parked_cars(draft, style, sign)
        add_verge(draft, style, sign)
        add_clutter(draft, style, sign)
    add_street_end(draft, travel)
    # the camera drives on the right, in the inner lane
    lane = (road.half_width - road.parking) * (0.5 if road.lanes == 1 else 0.27)
    add_traffic(draft, lane, speed, num_frames / FRAMES_PER_SECOND)
    drive = _draw_drive(rng, road, lane, speed, num_frames)
    return Scene(road, assemble(draft.solids, draft.rounds), drive)


def _draw_road(rng: np.random.Generator, style: Style, travel: float) -> Road:
    wide = rng.uniform(*style.half_width)
    parking = 2.1 if rng.random() < style.parked + 0.2 else 0.0
    return Road(
        bend=float(np.clip(rng.normal(0, 0.0006), -0.0014, 0.0014)),
        half_width=wide + parking,
        lanes=2 if wide > 6 else 1,
        parking=parking,
        pavement=rng.uniform(*style.pavement),
        paved_yards=bool(style.setback[1] < 2 or rng.random() < 0.15),
        crossing=travel + rng.uniform(8, 40) if rng.random() < 0.3 else -1000.0,
        junction=travel + rng.uniform(12, 60) if rng.random() < 0.4 else -1000.0,
        edge_lines=bool(style.pavement[1] < 1),
    )


def _draw_drive(
    rng: np.random.Generator, road: Road, lane: float, speed: float, num_frames: int
) -> Drive:
    """Follow the lane with a slow drift, the suspension shaking height, pitch and roll a little."""
    s = speed / FRAMES_PER_SECOND * np.arange(num_frames)
    drift = np.clip(rng.normal(0, 0.012), -0.03, 0.03)  # metres sideways per metre
    side = lane + rng.uniform(-0.3, 0.3) + 0.6 * np.tanh(drift * s / 0.6)
    yaw = road.yaw(s) + drift + np.radians(np.clip(rng.normal(0, 0.8), -2, 2))
    yaw = yaw + np.radians(rng.normal(0, 0.04, num_frames))
    height = CAMERA_HEIGHT_METRES + np.clip(rng.normal(0, 0.03), -0.08, 0.08)
    height = height + rng.normal(0, 0.006, num_frames)
    pitch = np.clip(rng.normal(0, 0.6), -1.5, 1.5) + rng.normal(0, 0.12, num_frames)
    roll = np.clip(rng.normal(0, 0.4), -1, 1) + rng.normal(0, 0.08, num_frames)
    rotations = [
        _rotation(*angles) for angles in zip(yaw, np.radians(pitch), np.radians(roll), strict=True)
    ]
    return Drive(np.stack([road.middle(s) + side, -height, s], axis=1), np.stack(rotations))


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Camera to world: roll about z, then pitch (positive looks up), then yaw to the right."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    cr, sr = np.cos(roll), np.sin(roll)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return turn @ nod @ tilt
