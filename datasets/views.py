"""Views turn a frame into an entry of a batch: geometry first, then colour, then tensors.

Depth is only ever sampled (nearest), never interpolated: between two pixels of which one is a hole
there is no depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from .frame import Frame


@dataclass(frozen=True)
class Jitter:
    """Flip and colour jitter of the weak view. Probabilities 0 to 1; ranges as in the config."""

    flip: float
    jitter: float
    brightness: float
    contrast: float
    saturation: float
    hue: float


def labeled_view(
    frame: Frame,
    *,
    image_size: tuple[int, int],
    depth_size: tuple[int, int],
    max_depth: float,
    augmentation: Jitter,
    generator: torch.Generator,
) -> dict[str, Tensor | str]:
    """The training entry of a labelled frame.

    Returns:
        image (3, H, W) float32 in [0, 1] at `image_size`; depth (1, H', W') float32 metres at
        `depth_size`, 0 = none; valid_mask (1, H', W') bool, True = measured and nearer than
        `max_depth` metres, which is all that the network can say; intrinsics (3, 3) float32 in
        pixels of `image` (NaN when unknown); frame_id.
    """
    flip = _draw(generator) < augmentation.flip
    image, intrinsics = _resized(frame, image_size)
    depth = nearest_resize(frame.depth(), depth_size)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        depth = depth[:, ::-1]
        # the centre of pixel u lands on W - 1 - u
        intrinsics[0, 2] = image_size[1] - 1 - intrinsics[0, 2]
    image = jitter_colours(image, augmentation, generator)
    depth = torch.from_numpy(np.ascontiguousarray(depth))[None]
    return {
        "image": to_tensor(image),
        "depth": depth,
        "valid_mask": (depth > 0) & (depth < max_depth),
        "intrinsics": torch.from_numpy(intrinsics).float(),
        "frame_id": frame.frame_id,
    }


def evaluation_view(frame: Frame, *, image_size: tuple[int, int]) -> dict[str, Tensor | str]:
    """The evaluation entry: the image as the network wants it, ground truth in its stored size.

    Returns:
        image (3, H, W) float32 in [0, 1]; depth (1, H', W') float32 metres in its own size, 0 =
        none; frame_id. Nothing is drawn.
    """
    image, _ = _resized(frame, image_size)
    return {
        "image": to_tensor(image),
        "depth": torch.from_numpy(frame.depth())[None],
        "frame_id": frame.frame_id,
    }


def nearest_resize(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) -> `size` by taking the pixel whose centre is nearest. No value is invented."""
    if depth.shape == tuple(size):
        return depth
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(size, depth.shape, strict=True)
    )
    return depth[rows[:, None], columns]


def jitter_colours(image: Image.Image, ranges: Jitter, generator: torch.Generator) -> Image.Image:
    """Brightness, contrast, saturation, hue, with probability `ranges.jitter`; five draws."""
    chosen = _draw(generator) < ranges.jitter
    brightness, contrast, saturation, hue = (2 * _draw(generator) - 1 for _ in range(4))
    if not chosen:
        return image
    image = functional.adjust_brightness(image, 1 + ranges.brightness * brightness)
    image = functional.adjust_contrast(image, 1 + ranges.contrast * contrast)
    image = functional.adjust_saturation(image, 1 + ranges.saturation * saturation)
    return functional.adjust_hue(image, ranges.hue * hue) if ranges.hue else image


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) float32 in [0, 1]."""
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _resized(frame: Frame, image_size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    """Picture and intrinsics brought to `image_size`. Antialiased, as a camera would."""
    height, width = image_size
    image = frame.image
    scale_x, scale_y = width / image.width, height / image.height
    if (image.height, image.width) != tuple(image_size):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    intrinsics = frame.intrinsics.copy()
    intrinsics[0] *= scale_x
    intrinsics[1] *= scale_y
    # pixel centres are at whole numbers, so the corner of the picture is at -1/2
    intrinsics[0, 2] += (scale_x - 1) / 2
    intrinsics[1, 2] += (scale_y - 1) / 2
    return image, intrinsics


def _draw(generator: torch.Generator) -> float:
    return torch.rand((), generator=generator).item()
