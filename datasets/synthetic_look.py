"""The two looks of the synthetic streets: palettes, light, weather, textures and camera noise.

A look changes how a street is painted and lit, never where anything stands: scenes of both looks
have the same depth, pixel for pixel. look_a is a clean day; look_b is overcast or dusk, with other
colours, rougher textures, more fog, noise and blur. All colours are linear RGB in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .synthetic_texture import TILE, texture_atlas
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
    World,
)


def _srgb(*codes: str) -> tuple[tuple[float, float, float], ...]:
    """Linear RGB of hexadecimal display colours."""
    return tuple(
        tuple(round((int(code[i : i + 2], 16) / 255) ** 2.2, 4) for i in (0, 2, 4))
        for code in codes
    )


@dataclass(frozen=True)
class Look:
    """One look. Ranges are (low, high) of a uniform draw per scene."""

    name: str
    texture_seed: int
    roughness: float  # how strongly the spectra of the textures favour fine detail
    texture_contrast: float
    palettes: dict[int, tuple[tuple[float, float, float], ...]]
    ground: tuple[tuple[float, float, float], ...]  # asphalt, slabs, kerb, grass, marking
    glass: tuple[float, float, float]
    sun_elevation_deg: tuple[float, float]
    sun_colour: tuple[float, float, float]
    sun_strength: tuple[float, float]
    ambient: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    cloudiness: tuple[float, float]
    fog_per_metre: tuple[float, float]
    exposure: tuple[float, float]
    noise: float  # standard deviation at mid grey, display units
    blur_weight: float  # of each of the four neighbours of a pixel
    vignette: float


LOOK_A = Look(
    name="look_a",
    texture_seed=11,
    roughness=0.0,
    texture_contrast=0.7,
    palettes={
        BUILDING: _srgb(
            "c98b5e", "d8c39a", "b5533c", "e3d9c6", "d9a86c", "a9b7bf", "cf7f6a", "e8cf8f"
        ),
        ROOF: _srgb("9c4a33", "7d3b2c", "5c5550", "8a5a45"),
        CAR: _srgb("c3272b", "1f4e9c", "e9e9e6", "2a2c30", "8f979e", "d9a520", "2e6b4a", "5b7fb0"),
        CRATE: _srgb("8a8d90", "4f7a4a", "a9793f", "c9c3b5", "5d6f86"),
        HEDGE: _srgb("3f6b2a", "56802f", "2f5a2c"),
        SIGN: _srgb("2158a8", "c7352c", "e8c11c", "e9e9e9"),
        POLE: _srgb("7e8488", "565b5e", "9aa0a3"),
        TRUNK: _srgb("5d4732", "6e5a44"),
        CROWN: _srgb("4f7f2b", "3d6e2d", "6c9433", "86a03c", "47803d"),
        PERSON: _srgb("b23a48", "2f4b7c", "d8d2c4", "3c3c3c", "d98b2b"),
    },
    ground=_srgb("77787b", "b3aca0", "c9c6bf", "6d9440", "f2f2ec"),
    glass=(0.045, 0.06, 0.075),
    sun_elevation_deg=(28.0, 60.0),
    sun_colour=(1.0, 0.93, 0.80),
    sun_strength=(0.95, 1.25),
    ambient=(0.36, 0.42, 0.50),
    zenith=(0.14, 0.32, 0.72),
    horizon=(0.66, 0.78, 0.90),
    cloudiness=(0.15, 0.65),
    fog_per_metre=(0.0012, 0.0030),
    exposure=(1.05, 1.3),
    noise=0.006,
    blur_weight=0.0,
    vignette=0.16,
)

LOOK_B = Look(
    name="look_b",
    texture_seed=23,
    roughness=0.5,
    texture_contrast=1.0,
    palettes={
        BUILDING: _srgb("6f6a66", "8a8078", "5a4a48", "9a968c", "70655a", "5c6670", "857268"),
        ROOF: _srgb("3e3a3a", "54403a", "4a4f55"),
        CAR: _srgb("5d1c20", "23324d", "a8a8a4", "1c1d20", "63686c", "6b6f58", "35424a"),
        CRATE: _srgb("5b5d60", "4b5648", "6b5a45", "7c7a74"),
        HEDGE: _srgb("3a4630", "4b5236", "2e3a2e"),
        SIGN: _srgb("3a5578", "7d3a35", "8f8140", "9c9c9c"),
        POLE: _srgb("4c4f52", "3b3e40", "646768"),
        TRUNK: _srgb("3c342c", "4a433b"),
        CROWN: _srgb("4a5230", "5f5a34", "6d5a33", "3f4a33"),
        PERSON: _srgb("4b3238", "2c3440", "77746c", "2b2b2b"),
    },
    ground=_srgb("4d4f55", "6d6a68", "7e7c7a", "525a3e", "b4b4ae"),
    glass=(0.06, 0.06, 0.065),
    sun_elevation_deg=(12.0, 35.0),
    sun_colour=(1.0, 0.80, 0.62),
    sun_strength=(0.08, 0.35),
    ambient=(0.62, 0.63, 0.68),
    zenith=(0.34, 0.37, 0.43),
    horizon=(0.62, 0.58, 0.55),
    cloudiness=(0.8, 1.0),
    fog_per_metre=(0.006, 0.013),
    exposure=(0.95, 1.25),
    noise=0.016,
    blur_weight=0.08,
    vignette=0.30,
)

LOOKS = {"look_a": LOOK_A, "look_b": LOOK_B}


@dataclass(frozen=True)
class Appearance:
    """A look as drawn for one scene: colours of all primitives, light and weather."""

    look: Look
    colours: np.ndarray  # (3, N) float32 linear RGB of the primitives of a World
    ground: np.ndarray  # (3, 5) float32: asphalt, slabs, kerb, grass, marking
    to_sun: np.ndarray  # (3,) float32 unit vector, world axes
    sun: np.ndarray  # (3,) float32
    ambient: np.ndarray  # (3,) float32
    zenith: np.ndarray  # (3,) float32
    horizon: np.ndarray  # (3,) float32; also the colour of fog
    cloudiness: float
    cloud_shift: np.ndarray  # (2,) texels
    fog_per_metre: float
    exposure: float
    atlas: np.ndarray  # flat float32, see `texture_atlas`


def draw_appearance(look: Look, world: World, rng: np.random.Generator) -> Appearance:
    """Draw light, weather and colours for one scene; the geometry of `world` is not touched."""
    elevation = np.radians(rng.uniform(*look.sun_elevation_deg))
    azimuth = rng.uniform(0, 2 * np.pi)
    flat = np.cos(elevation)
    to_sun = [flat * np.sin(azimuth), -np.sin(elevation), flat * np.cos(azimuth)]
    strength = rng.uniform(*look.sun_strength)
    warmth = rng.uniform(-0.06, 0.06) * np.array([1.0, 0.0, -1.0])
    return Appearance(
        look=look,
        colours=_colours(look, world),
        ground=(np.array(look.ground) * rng.uniform(0.85, 1.15, (5, 1))).T.astype(np.float32),
        to_sun=np.array(to_sun, np.float32),
        sun=(np.array(look.sun_colour) * strength + warmth).astype(np.float32),
        ambient=(np.array(look.ambient) * rng.uniform(0.9, 1.1)).astype(np.float32),
        zenith=(np.array(look.zenith) * rng.uniform(0.8, 1.15)).astype(np.float32),
        horizon=(np.array(look.horizon) * rng.uniform(0.88, 1.1) + warmth).astype(np.float32),
        cloudiness=rng.uniform(*look.cloudiness),
        cloud_shift=rng.uniform(0, TILE, 2),
        fog_per_metre=rng.uniform(*look.fog_per_metre),
        exposure=rng.uniform(*look.exposure),
        atlas=texture_atlas(look.texture_seed, look.roughness, look.texture_contrast),
    )


def _colours(look: Look, world: World) -> np.ndarray:
    """(3, N): palette entry by `tint`, brightness by `shade`."""
    colours = np.zeros((len(world.kind), 3))
    for kind in range(NUM_KINDS):
        chosen = world.kind == kind
        palette = np.array(look.palettes[kind])
        colours[chosen] = palette[(world.tint[chosen] * len(palette)).astype(int)]
    return (colours * (0.8 + 0.4 * world.shade[:, None])).T.astype(np.float32).copy()
