"""Light: from ray hits to the picture a camera would take of a synthetic street.

Lambert shading by one sun and an even sky, cast shadows and contact darkening on the ground, fog, a
sky with clouds; then the camera itself: exposure, vignetting, tone curve, blur and noise.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from . import synthetic_surfaces as surfaces
from .synthetic_look import Appearance
from .synthetic_render import Camera, Hits
from .synthetic_scene import Scene
from .synthetic_shadow import GroundMaps, hidden_by_buildings
from .synthetic_texture import CLOUD, sample
from .synthetic_world import (
    BUILDING,
    CAR,
    CRATE,
    CROWN,
    HEDGE,
    NUM_KINDS,
    PERSON,
    POLE,
    ROOF,
    SIGN,
    TRUNK,
)

PAINT = {
    BUILDING: surfaces.building,
    ROOF: surfaces.roof,
    CAR: surfaces.car,
    CRATE: surfaces.crate,
    HEDGE: surfaces.foliage,
    SIGN: surfaces.sign,
    POLE: surfaces.bark,
    TRUNK: surfaces.bark,
    CROWN: surfaces.foliage,
    PERSON: surfaces.bark,
}
IN_SKY, ON_GROUND = -2, -1  # kinds of pixels, beside the kinds of primitives
MOVING_SHADOW_METRES = 60.0  # objects further ahead cast their shadow on a pixel or two
TONES = 4096  # entries of the tone curve
WHITE = 2.0  # linear light that saturates the camera


class Shader:
    """Paints one scene in one look. Colours are linear RGB, float32."""

    def __init__(self, scene: Scene, appearance: Appearance):
        """Prepare what the frames of the scene share."""
        self.scene, self.appearance = scene, appearance
        world = scene.world
        to_sun = appearance.to_sun
        self._along = world.heading.T[[0, 2]].astype(np.float32)
        self._detail = world.detail.T.astype(np.float32).copy()
        # tables by surface id + 2: kind; direct and ambient light of flat faces
        faces = world.kind[: world.num_solids].repeat(6)
        balls = world.kind[world.num_solids :]
        self._kind = np.concatenate([[ON_GROUND, IN_SKY], faces, balls]).astype(np.int8)
        self._reach = (1 - hidden_by_buildings(world, to_sun)).astype(np.float32)
        facing = np.maximum(world.normals @ to_sun, 0) * self._reach[: world.num_solids, None]
        self._direct = facing.ravel().astype(np.float32)
        self._open = (0.8 - 0.2 * world.normals[:, :, 1]).ravel().astype(np.float32)
        moving = world.velocity.any(axis=1)
        self._moving = np.flatnonzero(moving)
        self._still_maps = GroundMaps.drawn(world, to_sun, np.flatnonzero(~moving))
        self._maps, self._maps_time = self._still_maps, None

    def radiance(self, camera: Camera, hits: Hits, time_s: float) -> np.ndarray:
        """Light arriving at the camera, (3, H, W), before anything the camera does to it."""
        # Sorted by kind, the pixels of one kind are neighbours. np.take, because indexing the last
        # axis of a 2-D array with an array of integers is many times slower.
        kind = self._kind.take(hits.surface.ravel() + 2)
        order = np.argsort(kind, kind="stable")
        surface = hits.surface.ravel().take(order)
        direction = np.take(hits.direction.reshape(3, -1), order, axis=1)
        counts = np.bincount(kind + 2, minlength=2 + NUM_KINDS)
        ends = np.cumsum(counts)
        light = np.empty_like(direction)
        first = ends[0]
        light[:, :first] = self._sky(direction[:, :first])
        depth = 1 / hits.inverse_depth.ravel().take(order[first:])
        point = direction[:, first:] * depth + camera.centre.astype(np.float32)[:, None]
        footprint = depth * np.float32(1 / camera.intrinsics[0, 0])
        for row in np.flatnonzero(counts[1:]) + 1:
            part = slice(ends[row - 1], ends[row])
            near = slice(part.start - first, part.stop - first)
            paint = self._ground if row - 2 == ON_GROUND else self._object
            light[:, part] = paint(row - 2, surface[part], point[:, near], footprint[near], time_s)
        haze = self.appearance.horizon[:, None]
        light[:, first:] -= haze
        light[:, first:] *= np.exp(np.float32(-self.appearance.fog_per_metre) * depth)
        light[:, first:] += haze
        out = np.empty_like(light)
        for channel in range(3):
            out[channel, order] = light[channel]
        return out.reshape(3, *hits.surface.shape)

    def _ground(self, _kind, _surface, point, footprint, time_s) -> np.ndarray:
        look = self.appearance
        x, z = point[0], point[2]
        shadow, contact = self._maps_at(time_s).at(x, z)
        direct = (1 - shadow) * -look.to_sun[1]
        return self._light(
            surfaces.ground(look, self.scene.road, x, z, footprint), direct, 1 - 0.72 * contact
        )

    def _object(self, kind, surface, point, footprint, time_s) -> np.ndarray:
        world = self.scene.world
        flat = kind < POLE
        number = surface // 6 if flat else surface - 5 * world.num_solids
        origin = (world.centre + world.velocity * time_s).astype(np.float32)
        local = point - np.take(origin.T, number, axis=1)
        height = -point[1]
        colour = np.take(self.appearance.colours, number, axis=1)
        if flat:
            heading = np.take(self._along, number, axis=1)
            patch = surfaces.Patch(
                along=local[0] * heading[0] + local[2] * heading[1],
                across=local[0] * heading[1] - local[2] * heading[0],
                height=height,
                face=surface - 6 * number,
                detail=np.take(self._detail, number, axis=1) if kind in (BUILDING, CAR) else None,
                colour=colour,
                number=number,
                footprint=footprint,
            )
            direct, sky = self._direct[surface], self._open[surface]
        else:
            along = local[2] + number.astype(np.float32) * np.float32(
                3.7
            )  # not the same leaves on every tree
            patch = surfaces.Patch(
                along, local[0], height, surface, None, colour, number, footprint
            )
            direct, sky = self._round_light(number, local)
        grounded = 1 - 0.35 * np.clip(1 - height * np.float32(1.2), 0, 1)
        return self._light(PAINT[kind](self.appearance, patch), direct, sky * grounded)

    def _round_light(self, number, local) -> tuple[np.ndarray, np.ndarray]:
        """Direct and ambient light on cylinders and ellipsoids."""
        world = self.scene.world
        squash = (world.squash**2).astype(np.float32)[number - world.num_solids]
        normal = np.stack([local[0], local[1] * squash, local[2]])
        normal /= np.sqrt((normal * normal).sum(axis=0)) + np.float32(1e-6)
        facing = self.appearance.to_sun @ normal
        # leaves let some light through, so the dark side is not black and the edge is soft
        direct = np.clip(0.15 + 0.85 * facing, 0.0, 1) * self._reach[number]
        return direct, 0.72 - 0.28 * normal[1]

    def _light(self, albedo, direct, sky) -> np.ndarray:
        """Light leaving a matt surface, in place: albedo * (sun * direct + ambient * sky)."""
        for channel in range(3):
            albedo[channel] *= (
                self.appearance.sun[channel] * direct + self.appearance.ambient[channel] * sky
            )
        return albedo

    def _maps_at(self, time_s: float) -> GroundMaps:
        """Shade on the ground with the moving objects where they are at `time_s`."""
        if self._maps_time != time_s:
            world, to_sun = self.scene.world, self.appearance.to_sun
            ahead = world.centre[:, 2] + world.velocity[:, 2] * time_s
            near = self._moving[ahead[self._moving] < MOVING_SHADOW_METRES]
            self._maps = self._still_maps.with_objects(world, to_sun, near, time_s)
            self._maps_time = time_s
        return self._maps

    def _sky(self, direction) -> np.ndarray:
        """Gradient, clouds and far hills; all infinitely far away."""
        look = self.appearance
        length = np.sqrt((direction * direction).sum(axis=0))
        rise = -direction[1] / length
        blue = np.sqrt(np.clip(rise * 1.6, 0, 1))
        stretch = 26 / (np.maximum(rise, 0) + np.float32(0.10))
        u = direction[0] / length * stretch + np.float32(look.cloud_shift[0])
        v = direction[2] / length * stretch + np.float32(look.cloud_shift[1])
        noise = sample(look.atlas, CLOUD, u, v, stretch * np.float32(0.01))
        cloud = np.clip(0.45 * noise + 1.5 * np.float32(look.cloudiness) - 0.75, 0, 0.9)
        cloud *= np.clip(rise * 7, 0, 1)
        bearing = np.arctan2(direction[0], direction[2]) * np.float32(40) + np.float32(
            look.cloud_shift[0]
        )
        hill = sample(look.atlas, CLOUD, bearing, np.full_like(bearing, 9.0), np.ones_like(bearing))
        is_hill = np.clip((0.022 + 0.011 * hill - rise) * 250, 0, 1)
        white = look.horizon.max() * (1.05 + 0.08 * noise)
        out = np.empty_like(direction)
        for channel in range(3):
            horizon = look.horizon[channel]
            out[channel] = horizon + (look.zenith[channel] - horizon) * blue
            out[channel] += (white - out[channel]) * cloud
            far = 0.72 * horizon + 0.1 * look.ground[channel, 3]
            out[channel] += (far - out[channel]) * is_hill
        return out


def develop(radiance: np.ndarray, appearance: Appearance, rng: np.random.Generator) -> np.ndarray:
    """What the camera stores: (H, W, 3) uint8 of (3, H, W) light. Sensor noise comes from `rng`."""
    look = appearance.look
    _, height, width = radiance.shape
    light = radiance * (_vignette(height, width, look.vignette) * np.float32(appearance.exposure))
    if look.blur_weight:
        light = _blur(light, look.blur_weight)
    tone = (np.clip(light, 0, WHITE) * np.float32((TONES - 1) / WHITE)).astype(np.int32)
    display = _tone_curve()[tone]
    grain = _grain()
    start = rng.integers(0, grain.size - display.size)
    display += grain[start : start + display.size].reshape(display.shape) * np.float32(
        255 * look.noise
    )
    return np.clip(display, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def _blur(light: np.ndarray, weight: float) -> np.ndarray:
    """Mix each pixel with its four neighbours."""
    out = light * np.float32(1 - 4 * weight)
    padded = np.pad(light, ((0, 0), (1, 1), (1, 1)), mode="edge")
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        part = padded[:, rows : rows + light.shape[1], columns : columns + light.shape[2]]
        out += part * np.float32(weight)
    return out


@lru_cache(maxsize=4)
def _vignette(height: int, width: int, strength: float) -> np.ndarray:
    """(H, W) float32: 1 in the middle, 1 - strength in the corners."""
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    return (1 - strength * (x * x + y * y) / 2).astype(np.float32)


@lru_cache(maxsize=1)
def _tone_curve() -> np.ndarray:
    """(TONES,) float32 display values in [0.5, 255.5) of linear light in [0, WHITE]."""
    light = np.linspace(0, WHITE, TONES)
    shoulder = light * (1 + light / WHITE**2) / (1 + 0.6 * light)  # rolls highlights off
    return (255 * np.clip(shoulder, 0, 1) ** (1 / 2.2) + 0.5).astype(np.float32)


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """Standard normal numbers to cut sensor noise from; drawing afresh would be slow."""
    return np.random.default_rng(3).standard_normal(1 << 21).astype(np.float32)
