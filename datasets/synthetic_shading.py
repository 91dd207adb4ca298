"""Light: from ray hits to the picture a camera would take of a synthetic street.

Lambert shading by one sun and an even sky, cast shadows and contact darkening on the ground, fog, sky with
clouds; then the camera itself: exposure, vignetting, tone curve, blur and noise.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from . import synthetic_surfaces as surfaces
from .synthetic_look import CLOUD, Appearance, sample
from .synthetic_render import SKY, Camera, Hits
from .synthetic_scene import Scene
from .synthetic_world import (
    BUILDING,
    CAR,
    CRATE,
    CROWN,
    HEDGE,
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
CELLS_PER_METRE = 5.0  # of the shade map
MAP_WIDTH, MAP_BEFORE, MAP_BEYOND = 80.0, 10.0, 120.0  # metres covered by the shade map
MAX_SHADOW_METRES = 25.0


class Shader:
    """Paints one scene in one look. Colours are linear RGB, (3, H, W) float32."""

    def __init__(self, scene: Scene, appearance: Appearance):
        """Prepare what the frames of the scene share."""
        self.scene, self.appearance = scene, appearance
        world = scene.world
        self.normals = world.normals.astype(np.float32)
        self.right = np.stack([world.heading[:, 2], -world.heading[:, 0]], axis=1).astype(np.float32)
        self.along = world.heading[:, [0, 2]].astype(np.float32)
        self.detail = np.zeros((len(world.kind), 4), np.float32)
        self.detail[: world.num_solids] = world.detail
        self._still = ~world.velocity.any(axis=1)
        self._map = None

    def radiance(self, camera: Camera, hits: Hits, time_s: float) -> np.ndarray:
        """Light arriving at the camera, (3, H, W), before anything the camera does to it."""
        out = np.empty((3, hits.surface.size), np.float32)
        surface = hits.surface.ravel()
        direction = hits.direction.reshape(3, -1)
        sky = np.flatnonzero(surface == SKY)
        out[:, sky] = self._sky(direction[:, sky])
        solid = np.flatnonzero(surface != SKY)
        surface, direction = surface[solid], direction[:, solid]
        depth = 1 / hits.inverse_depth.ravel()[solid]
        point = direction * depth + camera.centre.astype(np.float32)[:, None]
        footprint = depth * np.float32(1 / camera.intrinsics[0, 0])
        colour = self._lit(surface, point, footprint, time_s)
        clear = np.exp(-self.appearance.fog_per_metre * depth)
        for channel in range(3):
            haze = self.appearance.horizon[channel]
            out[channel, solid] = haze + (colour[channel] - haze) * clear
        return out.reshape(3, *hits.surface.shape)
