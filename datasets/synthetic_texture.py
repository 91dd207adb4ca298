"""Procedural, tileable textures with mip levels, and looking them up.

All textures lie in one flat array, because one look-up for many surfaces is much faster than many.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

TILE = 256  # texels along the side of a texture; a power of two
SPECKLE, CLOUD, LEAVES, BRICKS, SLABS = range(5)  # layers of a texture atlas
LEVELS = 8  # mip levels: 256, 128, ..., 2 texels
LEVEL_START = np.cumsum([0, *[(TILE >> level) ** 2 for level in range(LEVELS)]]).astype(np.int32)


@lru_cache(maxsize=4)
def texture_atlas(seed: int, roughness: float, contrast: float) -> np.ndarray:
    """Tileable textures with mip levels, flat float32: layer, then level, then row, then column.

    Values have mean 0; `contrast` is the standard deviation of the finest level, in units that
    surfaces multiply by 0.1 to 0.3. Layers: SPECKLE, CLOUD, LEAVES, BRICKS, SLABS.
    """
    rng = np.random.default_rng(seed)
    speckle = _spectral_noise(rng, 0.75 - roughness)
    cloud = _spectral_noise(rng, 1.9 - roughness)
    leaves = np.tanh(1.5 * _spectral_noise(rng, 1.1 - roughness))
    grain = 0.35 * _spectral_noise(rng, 0.6)
    layers = [speckle, cloud, leaves, grain + _courses(rng, 16, 32), grain + _courses(rng, 64, 64)]
    return np.concatenate([level.ravel() for layer in layers for level in _mips(contrast * layer)])


def _spectral_noise(rng: np.random.Generator, slope: float) -> np.ndarray:
    """(TILE, TILE) Gaussian noise whose amplitude falls as frequency ** -slope; mean 0, std 1."""
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.fftfreq(TILE)[None]) * TILE
    spectrum = np.fft.fft2(rng.standard_normal((TILE, TILE))) / np.maximum(frequency, 1.0) ** slope
    noise = np.fft.ifft2(spectrum).real
    noise -= noise.mean()
    return np.clip(noise / noise.std(), -2.5, 2.5)


def _courses(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(TILE, TILE) rows of bricks or slabs with lighter joints, every other row shifted by half."""
    row, column = np.mgrid[:TILE, :TILE]
    course = row // height
    column = (column + (course % 2) * (width // 2)) % TILE
    tone = rng.standard_normal((TILE // height, TILE // width))[course, column // width]
    joint = (row % height < 2) | (column % width < 2)
    pattern = np.where(joint, -1.6, 0.6 * tone)
    return pattern - pattern.mean()


def _mips(texture: np.ndarray) -> list[np.ndarray]:
    levels = [texture.astype(np.float32)]
    while len(levels) < LEVELS:
        last = levels[-1]
        levels.append((last[::2, ::2] + last[1::2, ::2] + last[::2, 1::2] + last[1::2, 1::2]) / 4)
    return levels


def sample(
    atlas: np.ndarray,
    layer: int | np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    texels_per_pixel: np.ndarray,
) -> np.ndarray:
    """Texture values at `u`, `v` texels (above -65536), blurred to the pixel's footprint.

    Arrays are float32 of one shape (n,); so is the result.
    """
    # floor(log2) straight from the exponent bits of a float32
    level = np.clip((texels_per_pixel.view(np.int32) >> 23) - 127, 0, LEVELS - 1)
    column = (u + np.float32(65536)).astype(np.int32)
    column &= TILE - 1
    column >>= level
    row = (v + np.float32(65536)).astype(np.int32)
    row &= TILE - 1
    row >>= level
    row <<= 8 - level
    row += column
    row += LEVEL_START.take(level)
    row += layer * LEVEL_START[-1]
    return atlas.take(row)
